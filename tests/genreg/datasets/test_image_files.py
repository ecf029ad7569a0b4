"""Image files of all formats: values, units and slices, and what can't be used."""

import io
import warnings

import numpy as np
import pytest
from PIL import Image

from genreg.datasets import read_images
from genreg.datasets.image_files import UnusableError, is_image_file, read_slices

GREY = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20
STACK = np.arange(24, dtype=np.float32).reshape(2, 3, 4) - 7


def read(file, **options):
    found = read_slices(file, **options)
    assert found.dtype == np.float32 and found.ndim == 3
    return found


def refused(file, match, **options):
    with pytest.raises(UnusableError, match=match):
        read_slices(file, **options)


def test_pictures_are_shares_of_white(tmp_path):
    for name in ("a.png", "a.bmp", "a.TIF"):
        Image.fromarray(GREY).save(tmp_path / name)
        np.testing.assert_allclose(read(tmp_path / name)[0], GREY / 255, rtol=1e-6)
    deep = (GREY.astype(np.uint16) + 1) * 200
    Image.fromarray(deep).save(tmp_path / "deep.png")
    np.testing.assert_allclose(read(tmp_path / "deep.png")[0], deep / 65535, rtol=1e-6)
    Image.fromarray(np.full((16, 16), 100, np.uint8)).save(tmp_path / "a.jpg")
    np.testing.assert_allclose(read(tmp_path / "a.jpg"), 100 / 255, atol=0.01)


def test_colours(tmp_path):
    equal = np.dstack([GREY, GREY, GREY, np.full_like(GREY, 7)])  # transparency is dropped
    for name, pixels in (("a.png", equal), ("b.png", equal[..., :3]), ("c.png", equal[..., 2:])):
        Image.fromarray(pixels).save(tmp_path / name)
        np.testing.assert_allclose(read(tmp_path / name)[0], GREY / 255, rtol=1e-6)
    Image.fromarray(equal[..., 0]).convert("P").save(tmp_path / "p.png")
    np.testing.assert_allclose(read(tmp_path / "p.png")[0], GREY / 255, rtol=1e-6)
    coloured = equal[..., :3].copy()
    coloured[0, 0, 0] = 99
    for name in ("d.png", "d.tif"):
        Image.fromarray(coloured).save(tmp_path / name)
        refused(tmp_path / name, "must be grey, got an image in colour")


@pytest.mark.parametrize("dtype", [np.uint16, np.int16, np.float32, np.float64])
def test_tiff_pages_are_as_stored(tmp_path, dtype):
    tifffile = pytest.importorskip("tifffile")
    stack = (STACK + (7 if dtype is np.uint16 else 0)).astype(dtype)
    tifffile.imwrite(tmp_path / "a.tiff", stack, photometric="minisblack")
    np.testing.assert_array_equal(read(tmp_path / "a.tiff"), stack)
    tifffile.imwrite(tmp_path / "one.tiff", stack[0])
    np.testing.assert_array_equal(read(tmp_path / "one.tiff"), stack[:1])


def test_compressed_tiff(tmp_path):
    pages = [Image.fromarray(GREY + np.uint8(k)) for k in range(2)]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:], compression="tiff_lzw")
    np.testing.assert_allclose(read(tmp_path / "a.tif"), [GREY / 255, (GREY + 1) / 255], rtol=1e-6)


def test_arrays(tmp_path):
    h5py = pytest.importorskip("h5py")
    import scipy.io

    np.save(tmp_path / "a.npy", STACK.astype(np.int16))
    np.savez(tmp_path / "a.npz", only=STACK)
    with h5py.File(tmp_path / "a.h5", "w") as stream:
        stream["some/images"] = STACK
    scipy.io.savemat(tmp_path / "a.mat", {"images": STACK})
    for name in ("a.npy", "a.npz", "a.h5", "a.mat"):
        np.testing.assert_array_equal(read(tmp_path / name), STACK)
    np.testing.assert_array_equal(read(tmp_path / "a.h5", key="some/images"), STACK)
    np.save(tmp_path / "flat.npy", STACK[0])
    np.testing.assert_array_equal(read(tmp_path / "flat.npy"), STACK[:1])


def test_arrays_that_are_no_images(tmp_path):
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "two.h5", "w") as stream:
        stream["kspace"] = STACK.astype(complex)
        stream["rss"] = STACK
    refused(tmp_path / "two.h5", r"key must name it among several, got \['kspace', 'rss'\]")
    np.testing.assert_array_equal(read(tmp_path / "two.h5", key="rss"), STACK)
    refused(tmp_path / "two.h5", "must hold real numbers, got complex128", key="kspace")
    refused(tmp_path / "two.h5", r"must have an array 'x', got \['kspace', 'rss'\]", key="x")
    np.save(tmp_path / "a.npy", STACK[None])
    refused(tmp_path / "a.npy", r"of two or three axes, got the shape \(1, 2, 3, 4\)")
    np.save(tmp_path / "o.npy", np.array([{}], dtype=object), allow_pickle=True)
    refused(tmp_path / "o.npy", "can't be read")


def test_nifti_is_scaled_and_sliced_along_its_last_axis(tmp_path):
    nibabel = pytest.importorskip("nibabel")
    stored = np.moveaxis(STACK, 0, -1).astype(np.int16)  # (rows, columns, slices)
    image = nibabel.Nifti1Image(stored, np.eye(4))
    image.header.set_slope_inter(2.0, -100.0)
    nibabel.save(image, tmp_path / "a.nii.gz")
    header = nibabel.load(tmp_path / "a.nii.gz").dataobj
    assert (header.slope, header.inter) == (2.0, -100.0)
    np.testing.assert_allclose(read(tmp_path / "a.nii.gz"), np.moveaxis(np.asarray(header), -1, 0))
    assert read(tmp_path / "a.nii.gz").shape == STACK.shape
    nibabel.save(nibabel.Nifti1Image(stored[..., None].astype(np.float32), np.eye(4)), tmp_path / "b.nii")
    np.testing.assert_array_equal(read(tmp_path / "b.nii"), STACK)
    nibabel.save(nibabel.Nifti1Image(stored.astype(np.complex64), np.eye(4)), tmp_path / "c.nii")
    refused(tmp_path / "c.nii", "must hold real numbers, got complex64")


def dicom(pixels, **elements):
    """The bytes of a DICOM file of unsigned or signed 16-bit pixels, ``(rows, columns)`` or with frames in front."""
    pydicom = pytest.importorskip("pydicom")
    from pydicom.dataset import Dataset, FileMetaDataset

    meta = FileMetaDataset()
    meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = pydicom.uid.CTImageStorage
    meta.MediaStorageSOPInstanceUID = "1.2.3"
    data = Dataset()
    data.file_meta = meta
    data.SOPClassUID, data.SOPInstanceUID = meta.MediaStorageSOPClassUID, "1.2.3"
    data.Rows, data.Columns = pixels.shape[-2:]
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated = data.BitsStored = 16
    data.HighBit, data.PixelRepresentation = 15, int(pixels.dtype.kind == "i")
    if pixels.ndim == 3:
        data.NumberOfFrames = len(pixels)
    data.PixelData = pixels.tobytes()
    for name, value in elements.items():
        setattr(data, name, value)
    buffer = io.BytesIO()
    data.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("elements", "slope", "zero"),
    [
        ({}, 1, 0),
        ({"RescaleSlope": 2, "RescaleIntercept": -1024}, 2, -1024),
        ({"RescaleIntercept": -1024}, 1, -1024),  # of which pydicom's own function applies nothing
    ],
)
def test_dicom_is_rescaled(tmp_path, elements, slope, zero):
    stored = GREY.astype(np.int16) - 5
    (tmp_path / "a.dcm").write_bytes(dicom(stored, **elements))
    np.testing.assert_allclose(read(tmp_path / "a.dcm")[0], slope * stored + zero)


def test_dicom_frames_may_have_a_scale_each(tmp_path):
    stored = np.stack([GREY, GREY + 1]).astype(np.uint16)
    file = tmp_path / "IM0001"
    file.write_bytes(dicom(stored, RescaleSlope=3))
    assert is_image_file(file)
    np.testing.assert_allclose(read(file), 3 * stored)

    from pydicom.dataset import Dataset

    def group(slope):
        values, item = Dataset(), Dataset()
        values.RescaleSlope, values.RescaleIntercept = slope, 1
        item.PixelValueTransformationSequence = [values]
        return item

    file.write_bytes(dicom(stored, SharedFunctionalGroupsSequence=[group(2)]))
    np.testing.assert_allclose(read(file), 2 * stored + 1)
    file.write_bytes(dicom(stored, PerFrameFunctionalGroupsSequence=[group(2), group(5)]))
    np.testing.assert_allclose(read(file), [2 * stored[0] + 1, 5 * stored[1] + 1])


def test_dicom_slices_of_a_patient_stay_together(tmp_path):
    for k, elements in enumerate([{"PatientID": "A"}, {"PatientID": "B"}, {"SeriesInstanceUID": "1.5"}, {}]):
        for part in "xy":
            (tmp_path / f"{k}{part}.dcm").write_bytes(dicom(GREY.astype(np.uint16), **elements))
    groups = read_images(tmp_path, progress=False).groups
    assert groups == ("A", "A", "B", "B", "1.5", "1.5", "3x.dcm", "3y.dcm")
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "a.dcm").write_bytes(dicom(GREY.astype(np.uint16), PatientID="A"))
    assert read_images(tmp_path, progress=False).groups[-1] == "one/"


def test_dicom_that_is_no_image(tmp_path):
    whole = dicom(GREY.astype(np.uint16))
    (tmp_path / "cut.dcm").write_bytes(whole[:-10])
    (tmp_path / "text.dcm").write_bytes(b"no image")
    (tmp_path / "colour.dcm").write_bytes(dicom(GREY.astype(np.uint16), SamplesPerPixel=3))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        refused(tmp_path / "cut.dcm", "can't be read")
        refused(tmp_path / "text.dcm", "can't be read")
        refused(tmp_path / "colour.dcm", "must be grey, got 3 samples for a pixel")


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.npy", "a.npz", "a.h5", "a.mat", "a.nii", "a.nii.gz"])
def test_damaged_files(tmp_path, name):
    if ".nii" in name:
        pytest.importorskip("nibabel")
    (tmp_path / name).write_bytes(b"\x89damaged")
    refused(tmp_path / name, "can't be read")


def test_truncated_files(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (64, 64), dtype=np.uint8)
    for name in ("a.png", "a.tif", "a.jpg"):
        Image.fromarray(pixels).save(tmp_path / name)
        content = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(content[: len(content) // 2])
        refused(tmp_path / name, "can't be read")


def test_which_files_are_images(tmp_path):
    for name, content in {"a.PNG": b"", "b.nii.gz": b"", "c.txt": b"", "d": b"text", "e.gz": b""}.items():
        (tmp_path / name).write_bytes(content)
    for name in ("f", "1.2.840.10008"):
        (tmp_path / name).write_bytes(bytes(128) + b"DICM")
    found = sorted(path.name for path in tmp_path.iterdir() if is_image_file(path))
    assert found == ["1.2.840.10008", "a.PNG", "b.nii.gz", "f"]


@pytest.mark.parametrize(("name", "library"), [("a.nii", "nibabel"), ("a.dcm", "pydicom")])
def test_a_missing_library_is_named_with_its_extra(tmp_path, monkeypatch, name, library):
    monkeypatch.setitem(__import__("sys").modules, library, None)
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(ImportError, match=rf"{library}: pip install 'genreg\[images\]'"):
        read_slices(tmp_path / name)
