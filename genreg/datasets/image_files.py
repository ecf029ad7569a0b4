"""Grey images from files of the formats of microscopes, scanners and scripts: every file is a stack of slices.

=====================================  ====================================  ===========================
files                                  slices                                unit
=====================================  ====================================  ===========================
png, jpg, jpeg, bmp, webp              one                                   1 is white
tif, tiff                              pages                                 as stored; 8 bits: 1 is white
npy, npz, mat, h5, hdf5                first of three axes                   as stored
nii, nii.gz (nibabel)                  last of three axes, as it is stored   as the header scales it
dcm, dicom, ima, no suffix (pydicom)   frames                                rescaled: HU for CT
=====================================  ====================================  ===========================
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from genreg.datasets.array_files import ARRAY_READERS, NoArrayError

_PREAMBLE = 128  # bytes in front of the letters DICM


class UnusableError(ValueError):
    """A file or an image that can't be used; the message says why."""


def is_image_file(file: Path) -> bool:
    """Whether a file has a suffix of `IMAGE_SUFFIXES`, or none and the letters of DICOM."""
    if _suffix(file):
        return True
    if file.suffix and not file.suffix[1:].isdigit():  # exports are named IM0001, or by numbers with points
        return False
    with open(file, "rb") as stream:
        return stream.read(_PREAMBLE + 4)[_PREAMBLE:] == b"DICM"


def read_slices(file: Path, *, key: str | None = None) -> np.ndarray:
    """Read the slices of a file.

    Parameters
    ----------
    file : Path
        The file; its suffix names the format, see the module.
    key : str, optional
        Name of the array in an npz, mat or h5 file; not needed where there is one only.

    Returns
    -------
    numpy.ndarray
        float32, ``(slices, rows, columns)``.

    Raises
    ------
    UnusableError
        If the file can't be read, holds no real grey images, or has several arrays and no `key` says which.
    ImportError
        If the library for the format is not installed; the message names the extra.
    """
    reader = _READERS[_suffix(file) or ".dcm"]
    try:
        array = np.asarray(reader(file, key))
    except (ImportError, UnusableError):
        raise
    except Exception as error:  # every format has its own exceptions for damaged files
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UnusableError(f"it can't be read: {reason}") from error
    if array.dtype.kind not in "fiu":
        raise UnusableError(f"it must hold real numbers, got {array.dtype}")
    if array.ndim == 2:
        array = array[None]
    if array.ndim != 3:
        raise UnusableError(
            f"it must hold one grey image or a stack of them, of two or three axes, got the shape {array.shape}"
        )
    with np.errstate(over="ignore"):  # what is too large for single precision is found with what is infinite
        return np.ascontiguousarray(array, dtype=np.float32)


def patient_of(file: Path) -> str | None:
    """Return whose image a DICOM file is, or of which series where that is left out; None of other files."""
    if _READERS[_suffix(file) or ".dcm"] is not _dicom:
        return None
    dataset = _pydicom().dcmread(file, stop_before_pixels=True)
    return dataset.get("PatientID") or dataset.get("SeriesInstanceUID") or None


def _suffix(file: Path) -> str:
    """The suffix of a file among the known ones, in small letters, or nothing."""
    name = file.name.lower()
    return next((suffix for suffix in _READERS if name.endswith(suffix)), "")


def _grey(pixels: np.ndarray) -> np.ndarray:
    """A picture ``(rows, columns)`` of one with channels last, which have to be equal; transparency is dropped."""
    if pixels.ndim == 2:
        return pixels
    colours = pixels[..., : pixels.shape[-1] - (pixels.shape[-1] in (2, 4))]
    if (colours != colours[..., :1]).any():
        raise UnusableError("it must be grey, got an image in colour")
    return colours[..., 0]


def _scaled(pixels: np.ndarray) -> np.ndarray:
    """Unsigned integers as shares of the largest one."""
    if pixels.dtype == bool:
        return pixels.astype(np.float32)
    if pixels.dtype.kind != "u":
        return pixels
    return pixels.astype(np.float32) / np.iinfo(pixels.dtype).max


def _picture(file: Path, key: str | None) -> np.ndarray:
    from PIL import Image, ImageOps

    with Image.open(file) as opened:
        image = ImageOps.exif_transpose(opened)
        if image.mode in ("P", "CMYK", "YCbCr"):
            image = image.convert("RGBA" if image.mode == "P" else "RGB")
        return _scaled(_grey(np.asarray(image)))


def _tiff(file: Path, key: str | None) -> np.ndarray:
    import tifffile

    try:
        with tifffile.TiffFile(file) as opened:
            pixels = opened.asarray()
            in_colour = opened.pages.first.samplesperpixel > 1
    except ValueError as error:
        if "imagecodecs" not in str(error):
            raise
        pixels, in_colour = _compressed_tiff(file)
    if pixels.ndim == 3 and in_colour:
        pixels = _grey(pixels)
    return _scaled(pixels) if pixels.dtype in (np.uint8, bool) else pixels


def _compressed_tiff(file: Path) -> tuple[np.ndarray, bool]:
    """The pages by Pillow, which knows more kinds of compression than tifffile alone."""
    from PIL import Image, ImageSequence

    with Image.open(file) as opened:
        pages = [np.asarray(page) for page in ImageSequence.Iterator(opened)]
    return (np.stack(pages) if len(pages) > 1 else pages[0]), pages[0].ndim > 2


def _array(file: Path, key: str | None) -> Any:
    reader = ARRAY_READERS[_suffix(file)]
    try:
        try:
            return reader(file, key or "/")
        except NoArrayError as error:
            if key or len(error.names) != 1:
                raise
            return reader(file, error.names[0])
    except NoArrayError as error:
        wanted = f"an array {key!r}" if key else "one array, or key must name it among several"
        raise UnusableError(f"it must have {wanted}, got {error.names}") from None


def _nifti(file: Path, key: str | None) -> np.ndarray:
    try:
        import nibabel
    except ImportError:
        raise ImportError("nii files need nibabel: pip install 'genreg[images]'") from None
    # get_fdata drops imaginary parts
    array = np.asarray(nibabel.load(file).dataobj)  # type: ignore[attr-defined]
    while array.ndim > 3 and array.shape[-1] == 1:
        array = array[..., 0]
    return np.moveaxis(array, -1, 0) if array.ndim == 3 else array


def _dicom(file: Path, key: str | None) -> np.ndarray:
    dataset = _pydicom().dcmread(file)
    if "PixelData" not in dataset and "FloatPixelData" not in dataset:
        raise UnusableError("it has no pixels")
    if dataset.get("SamplesPerPixel", 1) != 1:
        raise UnusableError(f"it must be grey, got {dataset.SamplesPerPixel} samples for a pixel")
    pixels = dataset.pixel_array
    if "ModalityLUTSequence" in dataset:
        return _pydicom().pixels.apply_modality_lut(pixels, dataset)
    frames = pixels if pixels.ndim == 3 else pixels[None]
    rescaled = [
        frame * slope + zero
        for frame, (slope, zero) in zip(frames, _rescale(dataset, len(frames)), strict=True)
    ]
    return np.stack(rescaled)


def _pydicom() -> Any:
    try:
        import pydicom
        import pydicom.pixels
    except ImportError:
        raise ImportError("DICOM files need pydicom: pip install 'genreg[images]'") from None
    return pydicom


def _rescale(dataset: Any, frames: int) -> list[tuple[float, float]]:
    """Slope and intercept of every frame: of the whole file, of all frames together, or of each."""

    def of(item: Any, default: tuple[float, float]) -> tuple[float, float]:
        # either may be there alone, and then pydicom applies neither
        return float(item.get("RescaleSlope", default[0])), float(item.get("RescaleIntercept", default[1]))

    def inside(groups: Any, default: tuple[float, float]) -> tuple[float, float]:
        found = groups.get("PixelValueTransformationSequence")
        return of(found[0], default) if found else default

    common = of(dataset, (1.0, 0.0))
    if shared := dataset.get("SharedFunctionalGroupsSequence"):
        common = inside(shared[0], common)
    each = dataset.get("PerFrameFunctionalGroupsSequence")
    return [inside(each[k], common) if each else common for k in range(frames)]


_READERS: dict[str, Callable[[Path, str | None], Any]] = {
    **dict.fromkeys((".png", ".jpg", ".jpeg", ".bmp", ".webp"), _picture),
    **dict.fromkeys((".tif", ".tiff"), _tiff),
    **dict.fromkeys(ARRAY_READERS, _array),
    **dict.fromkeys((".nii", ".nii.gz"), _nifti),
    **dict.fromkeys((".dcm", ".dicom", ".ima"), _dicom),
}

IMAGE_SUFFIXES = tuple(_READERS)
"""The suffixes by which the images of a folder are found."""
