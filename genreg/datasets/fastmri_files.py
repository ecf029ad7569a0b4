"""Knee images of the fastMRI data set, complex, from its h5 files.

A file is a volume. It holds the data set ``kspace``, complex, ``(slices, rows, columns)`` (single-coil) or ``(slices,
coils, rows, columns)`` (multi-coil), and the attribute ``acquisition``, "CORPD_FBK" (proton density) or "CORPDFS_FBK"
(with fat suppression). The data are given by NYU Langone Health to those who register: https://fastmri.med.nyu.edu.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from genreg.operators import calibration_region, coil_maps
from genreg.operators.bridge.arguments import check_path, integer, integers
from genreg.operators.mri.fourier import centred_fft2
from genreg.operators.mri.kspace_masks import central

_CALIBRATION = 24  # rows and columns of the centre of k-space that coil maps are estimated from
_SOURCE = "the data are at https://fastmri.med.nyu.edu"


@dataclass(frozen=True)
class FastMRISlices:
    """Slices of several volumes.

    Attributes
    ----------
    images : Tensor
        complex64, ``(N, size, size)``; the largest magnitude among those of one volume is 1.
    volumes : tuple of str
        The name of the file of every slice, without its ending. Split training and test data by these.
    indices : Tensor
        int64, ``(N,)``, the number of every slice in its volume.
    """

    images: Tensor
    volumes: tuple[str, ...]
    indices: Tensor

    def parts(self) -> Tensor:
        """Return real and imaginary parts as two channels, float32, ``(N, 2, size, size)``."""
        return torch.stack([self.images.real, self.images.imag], 1)


def fastmri(
    folder: str | os.PathLike[str],
    *,
    acquisition: str | None = "CORPD_FBK",
    slices: Iterable[int] = range(12, 20),
    size: int = 128,
    crop: int = 320,
    limit: int | None = None,
    strict: bool = False,
    progress: bool = True,
) -> FastMRISlices:
    """Read central slices of fully sampled volumes as complex images of a lower resolution.

    K-space is transformed to an image, of which the central `crop` x `crop` pixels are kept, as in the reconstructions
    that come with the data; of the k-space of these, the central `size` x `size` entries: an acquisition of
    lower resolution, with the same intensities. The images of several coils are combined by sensitivity maps from
    the central 24 x 24 entries of k-space (`genreg.operators.coil_maps`), which removes their smooth phase.

    Parameters
    ----------
    folder : str or path
        Folder with the files ``*.h5`` of single-coil or multi-coil volumes.
    acquisition : str or None
        Only volumes of this kind; None for all.
    slices : iterable of int
        Which slices of every volume; arrays too.
    size : int
        Rows and columns of the images.
    crop : int
        Rows and columns, in pixels of the file, that are kept.
    limit : int, optional
        Read at most so many volumes, in the order of their names.
    strict : bool
        Whether a file that can't be used is an error. By default it is skipped: one that is damaged, lacks ``kspace``
        or ``acquisition``, has too few slices or too small ones, is not fully sampled or not finite.
    progress : bool
        Whether to show a progress bar.

    Returns
    -------
    FastMRISlices
        Images, and where they come from.

    Raises
    ------
    FileNotFoundError
        If there is no folder, or no h5 file in it.
    ValueError
        If an argument is out of range, no volume is of the kind that is asked for, no file can be used, or, with
        `strict`, one can't.
    ImportError
        If h5py is not installed; it comes with ``genreg[mri]``.

    Warns
    -----
    UserWarning
        Once, if files were skipped; the message names them and says why.

    References
    ----------
    J. Zbontar et al. (2018). fastMRI: an open dataset and benchmarks for accelerated MRI. arXiv:1811.08839
    """
    size, crop = integer(size, "`size`", minimum=1), integer(crop, "`crop`", minimum=1)
    if limit is not None:
        limit = integer(limit, "`limit`", minimum=1)
    if size > crop:
        raise ValueError(f"`size` must be at most `crop`, {crop}, got {size}")
    chosen = list(integers(slices, "`slices`", minimum=0))
    images: list[Tensor] = []
    volumes: list[str] = []
    found: set[str] = set()
    skipped: dict[str, str] = {}
    for file in tqdm(_files(folder), desc="fastMRI", disable=not progress, leave=False):
        if limit is not None and len(images) == limit:
            break
        try:
            kind, k = _read(file, chosen, acquisition)
            found.add(kind)
            if k is None:
                continue
            images.append(_volume(file, k, crop, size))
        except _UnusableError as error:
            if strict:
                raise
            skipped[file.name] = str(error)
            continue
        volumes += [file.stem] * len(chosen)
    if not images and skipped:
        raise ValueError(f"`folder` must hold volumes that can be used, got none: {_listed(skipped)}")
    if not images:
        raise ValueError(
            f"`acquisition` must be one of those in {folder}, {sorted(found)}, got {acquisition!r}"
        )
    if skipped:
        warnings.warn(
            f"{len(skipped)} of the files in {os.fspath(folder)} can't be used and were skipped: {_listed(skipped)}",
            UserWarning,
            stacklevel=2,
        )
    return FastMRISlices(torch.cat(images), tuple(volumes), torch.tensor(chosen * len(images)))


def fastmri_kspace(file: str | os.PathLike[str], index: int) -> Tensor:
    """Read the k-space of one slice, at full size.

    Parameters
    ----------
    file : str or path
        An h5 file, fully sampled or not.
    index : int
        Number of the slice.

    Returns
    -------
    Tensor
        complex64, ``(coils, rows, columns)`` or ``(rows, columns)``, zero where it was not measured, with the frequency
        zero at the index size // 2 of both axes: for `genreg.operators.coil_maps` and
        ``fourier_sampling(...).samples``.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is damaged or lacks ``kspace`` or the slice.
    ImportError
        If h5py is not installed.
    """
    check_path(file, "`file`")
    path = Path(file)
    if not path.is_file():
        raise FileNotFoundError(f"`file` must be an h5 file, got {os.fspath(file)!r}; {_SOURCE}")
    _, k = _read(path, [integer(index, "`index`", minimum=0)], None, sampled=False)
    return k[0]


class _UnusableError(ValueError):
    """A file that can't be used, whose name the message holds."""


def _listed(skipped: dict[str, str], most: int = 10) -> str:
    more = (
        f"; and {len(skipped) - most} more: {', '.join(list(skipped)[most:])}" if len(skipped) > most else ""
    )
    return "; ".join(list(skipped.values())[:most]) + more


def _files(folder: str | os.PathLike[str]) -> list[Path]:
    check_path(folder, "`folder`")
    if not Path(folder).is_dir():
        raise FileNotFoundError(
            f"`folder` must be a folder of h5 files, got {os.fspath(folder)!r}; {_SOURCE}"
        )
    files = sorted(Path(folder).glob("*.h5"))
    if not files:
        raise FileNotFoundError(f"`folder` must hold h5 files, got none in {os.fspath(folder)!r}; {_SOURCE}")
    return files


def _read(file: Path, slices: list[int], acquisition: str | None, *, sampled: bool = True) -> tuple[str, Any]:
    """Return the kind of a volume and the k-space of some slices, None where it is of another kind."""
    try:
        import h5py
    except ImportError:
        raise ImportError("fastMRI's files need h5py: pip install 'genreg[mri]'") from None
    try:
        with h5py.File(file, "r") as stream:
            kind, kspace = _described(file, stream, slices, acquisition, sampled)
            # in the byte order of this machine, whatever that of the file
            with np.errstate(over="ignore"):  # is found not to be finite
                k = None if kspace is None else np.stack([kspace[i] for i in slices]).astype(np.complex64)
    except OSError as error:  # in the middle of a file that was cut off, too
        raise _UnusableError(f"{file} must be a readable h5 file: {error}") from error
    if k is not None and not np.isfinite(k).all():
        raise _UnusableError(f"kspace in {file} must be finite, got NaN or infinite samples")
    return kind, None if k is None else torch.from_numpy(k)


def _described(
    file: Path, stream: Any, slices: list[int], acquisition: str | None, sampled: bool
) -> tuple[str, Any]:
    """Return the kind of an open file and its k-space, None where it is of another kind."""
    kspace, kind = stream.get("kspace"), stream.attrs.get("acquisition")
    if not (hasattr(kspace, "dtype") and hasattr(kspace, "shape")):
        raise _UnusableError(f"{file} must hold the data set `kspace`, got {sorted(stream)}")
    if acquisition is not None and kind is None:
        raise _UnusableError(f"{file} must have the attribute `acquisition`, got {sorted(stream.attrs)}")
    kind = np.asarray(kind).item() if np.size(kind) == 1 else kind  # an array of one string is one
    kind = kind.decode(errors="replace") if isinstance(kind, bytes) else str(kind)
    if acquisition not in (None, kind):
        return kind, None
    if kspace.dtype.kind != "c" or kspace.ndim not in (3, 4):
        raise _UnusableError(
            f"kspace in {file} must be complex, (slices, rows, columns) or (slices, coils, rows, columns), got "
            f"{kspace.dtype} {kspace.shape}"
        )
    if sampled and "mask" in stream:
        raise _UnusableError(f"kspace in {file} must be fully sampled, got a test volume with a mask")
    if max(slices) >= len(kspace):
        raise _UnusableError(
            f"kspace in {file} must have slices up to {max(slices)}, got {len(kspace)} slices"
        )
    return kind, kspace


def _volume(file: Path, k: Tensor, crop: int, size: int) -> Tensor:
    """Return the images of a volume, of which the largest magnitude is 1."""
    if min(k.shape[-2:]) < crop:
        raise _UnusableError(
            f"kspace in {file} must have at least {crop} rows and columns, got {tuple(k.shape[-2:])}"
        )
    volume = _lower_resolution(k, crop, size)
    if volume.ndim == 4:
        try:
            volume = torch.stack([_combined(of_coils) for of_coils in volume])
        except ValueError as error:
            raise _UnusableError(f"kspace in {file} must tell sensitivities of the coils: {error}") from error
    return volume / volume.abs().max().clamp_min(torch.finfo(torch.float32).tiny)


def _lower_resolution(k: Tensor, crop: int, size: int) -> Tensor:
    images = centred_fft2(k, inverse=True)[..., *central(k.shape, (crop, crop))]
    # An orthonormal transform of fewer entries has larger values at the same intensities.
    lower = centred_fft2(images)[..., *central(images.shape, (size, size))]
    return centred_fft2(lower, inverse=True) * (size / crop)


def _combined(images: Tensor) -> Tensor:
    if not bool(images.any()):
        return images[0]
    k = centred_fft2(images)
    rows, columns = calibration_region((k != 0).any(0))
    maps = coil_maps(k, calibration=(min(rows, _CALIBRATION), min(columns, _CALIBRATION)), threshold=0)
    return (maps.conj() * images).sum(0)
