import sys

import numpy as np
import pytest
import torch

from genreg.datasets import fastmri, fastmri_kspace

h5py = pytest.importorskip("h5py")


def volume(slices=22, shape=(40, 36), coils=None, seed=0):
    """Smooth complex images and their k-space, as the scanner has them; with coils, their images."""
    rng = np.random.default_rng(seed)
    rows, columns = (np.indices(shape) - np.array(shape).reshape(2, 1, 1) // 2) / 4
    images = []
    for _ in range(slices):
        (a, b), size = rng.uniform(-0.5, 0.5, 2), rng.uniform(0.5, 2)
        images.append(size * np.exp(-0.5 * ((rows - a) ** 2 + (columns - b) ** 2) + 0.5j * rows))
    images = np.stack(images)
    seen = images
    if coils is not None:
        maps = np.exp(-0.02 * (rows - np.linspace(-3, 3, coils).reshape(-1, 1, 1)) ** 2 + 0.2j * columns)
        seen = images[:, None] * maps
    axes = (-2, -1)
    kspace = np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(seen, axes=axes), norm="ortho"), axes=axes)
    return images, kspace.astype(np.complex64)


def write(path, kspace, acquisition="CORPD_FBK", **datasets):
    """Write a file in fastMRI's layout."""
    with h5py.File(path, "w") as stream:
        stream["ismrmrd_header"] = "<ismrmrdHeader/>"
        if kspace is not None:
            stream["kspace"] = kspace
        for name, data in datasets.items():
            stream[name] = data
        if acquisition is not None:
            stream.attrs["acquisition"] = acquisition
        stream.attrs["patient_id"] = "0"


@pytest.fixture
def folder(tmp_path):
    for name, seed in (("file1000002", 1), ("file1000001", 0)):
        write(tmp_path / f"{name}.h5", volume(seed=seed)[1], reconstruction_esc=np.zeros((22, 32, 32)))
    write(tmp_path / "file1000003.h5", volume(3)[1], "CORPDFS_FBK")
    return tmp_path


def read(folder, **options):
    return fastmri(folder, **{"size": 16, "crop": 32, "progress": False} | options)


def test_slices_of_the_acquisition_are_read(folder):
    data = read(folder)
    assert data.images.shape == (16, 16, 16) and data.images.dtype == torch.complex64
    assert data.volumes == ("file1000001",) * 8 + ("file1000002",) * 8
    assert data.indices.tolist() == 2 * list(range(12, 20))
    for half in (slice(0, 8), slice(8, 16)):
        assert float(data.images[half].abs().max()) == pytest.approx(1)
    parts = data.parts()
    assert parts.shape == (16, 2, 16, 16) and parts.dtype == torch.float32
    torch.testing.assert_close(torch.complex(parts[:, 0], parts[:, 1]), data.images)
    assert len(read(folder, limit=1).images) == 8
    fat = read(folder, acquisition="CORPDFS_FBK", slices=[2])
    assert fat.volumes == ("file1000003",) and fat.indices.tolist() == [2]
    assert len(read(folder, acquisition=None, slices=(0, 1)).images) == 6


def test_lower_resolution_keeps_the_intensities(folder):
    """Images without high frequencies: every second pixel of the central ones."""
    data, (images, _) = read(folder, slices=range(12, 20)), volume()
    expected = images[12:20, 4:36:2, 2:34:2]
    got = data.images[:8].numpy() * np.abs(expected).max() / float(data.images[:8].abs().max())
    assert np.abs(got - expected).max() < 0.01 * np.abs(expected).max()
    same = read(folder, size=32).images[:8]
    cropped = images[12:20, 4:36, 2:34]
    np.testing.assert_allclose(same, cropped / np.abs(cropped).max(), atol=1e-5)


def test_coils_are_combined(tmp_path):
    _, kspace = volume(coils=3)
    write(tmp_path / "file1.h5", kspace, reconstruction_rss=np.zeros((22, 32, 32)))
    data = read(tmp_path)
    assert data.images.shape == (8, 16, 16)
    axes = (-2, -1)
    seen = np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(kspace, axes=axes), norm="ortho"), axes=axes)
    expected = np.sqrt((np.abs(seen[12:20, :, 4:36:2, 2:34:2]) ** 2).sum(1))
    got = data.images * expected.max()
    assert np.abs(got.abs().numpy() - expected).max() < 0.03 * expected.max()
    bright = torch.from_numpy(expected > 0.2 * expected.max())
    assert float(got.angle()[bright].abs().max()) < 0.1  # the smooth phase is gone


def test_kspace_of_a_slice(tmp_path):
    _, kspace = volume(coils=3)
    write(tmp_path / "file1.h5", kspace, mask=np.ones(36, bool))
    k = fastmri_kspace(tmp_path / "file1.h5", 4)
    assert k.dtype == torch.complex64
    np.testing.assert_array_equal(k, kspace[4])
    with pytest.raises(FileNotFoundError, match="`file` must be an h5 file"):
        fastmri_kspace(tmp_path / "file2.h5", 4)
    with pytest.raises(ValueError, match="must have slices up to 22, got 22 slices"):
        fastmri_kspace(tmp_path / "file1.h5", 22)
    with pytest.raises(ValueError, match="`index` must be a non-negative integer, got -1"):
        fastmri_kspace(tmp_path / "file1.h5", -1)


def test_bad_files(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"`folder` must be a folder of h5 files, got .*fastmri\.med"):
        read(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="`folder` must hold h5 files, got none"):
        read(tmp_path)
    file, kspace = tmp_path / "file1.h5", volume()[1]
    bad = [
        ({"kspace": None}, r"must hold the data set `kspace`, got \['ismrmrd_header'\]"),
        (
            {"kspace": kspace, "acquisition": None},
            r"must have the attribute `acquisition`, got \['patient_id'\]",
        ),
        (
            {"kspace": kspace.real},
            r"must be complex, \(slices, rows, columns\) .* got float32 \(22, 40, 36\)",
        ),
        ({"kspace": kspace[0]}, r"must be complex, \(slices, rows, columns\) .* got complex64 \(40, 36\)"),
        ({"kspace": kspace, "mask": np.ones(36)}, "must be fully sampled, got a test volume with a mask"),
        ({"kspace": kspace[:19]}, "must have slices up to 19, got 19 slices"),
        ({"kspace": kspace[:, :30]}, r"must have at least 32 rows and columns, got \(30, 36\)"),
        ({"kspace": kspace * np.nan}, "must be finite"),
        (
            {"kspace": kspace, "acquisition": "CORPDFS_FBK"},
            r"`acquisition` must be one of .*\['CORPDFS_FBK'\]",
        ),
    ]
    for options, message in bad:
        write(file, **options)
        for strict in (False, True):
            with pytest.raises(ValueError, match=message):
                read(tmp_path, strict=strict)
    write(file, kspace)
    whole = file.read_bytes()
    for content in (b"no archive", b"", whole[: len(whole) // 2]):
        file.write_bytes(content)
        with pytest.raises(ValueError, match=r"file1.h5 must be a readable h5 file"):
            read(tmp_path)


def spoil(folder, kspace):
    """Write files of every kind that can't be used."""
    write(folder / "file0.h5", None)
    write(folder / "narrow.h5", kspace[..., :30])
    write(folder / "short.h5", kspace[:19])
    write(folder / "nan.h5", kspace * np.nan)
    write(folder / "large.h5", kspace.astype("complex128") * 1e60)
    write(folder / "unnamed.h5", kspace, None)
    (folder / "text.h5").write_bytes(b"no archive")
    return ("file0", "large", "nan", "narrow", "short", "text", "unnamed")


def test_files_that_cannot_be_used_do_not_end_the_reading(folder):
    expected = read(folder)
    names = spoil(folder, volume()[1])
    with pytest.warns(
        UserWarning, match="7 of the files .* were skipped: .*file0.h5 must hold .*30"
    ) as caught:
        data = read(folder)
    assert len(caught) == 1 and all(f"{name}.h5" in str(caught[0].message) for name in names)
    assert caught[0].filename.endswith("test_fastmri.py")
    assert torch.equal(data.images, expected.images) and data.volumes == expected.volumes
    with pytest.raises(ValueError, match=r"file0.h5 must hold the data set `kspace`"):
        read(folder, strict=True)


def test_coils_that_cannot_be_told_apart_are_skipped(tmp_path):
    kspace = volume(coils=2)[1]
    write(tmp_path / "a.h5", kspace)
    with pytest.raises(
        ValueError, match=r"kspace in .*a.h5 must tell sensitivities of the coils: `calibration`"
    ):
        read(tmp_path, size=3)


def test_a_slice_without_signal_is_an_image_of_zeros(tmp_path):
    kspace = volume(coils=2)[1]
    write(tmp_path / "a.h5", kspace)
    expected = read(tmp_path).images
    kspace[13] = 0
    write(tmp_path / "a.h5", kspace)
    images = read(tmp_path).images
    assert not images[1].any() and images[0].any()
    # the largest of the volume may have been the empty one
    ratio = expected[3].abs().max() / images[3].abs().max()
    torch.testing.assert_close(ratio * images[2:], expected[2:])


@pytest.mark.parametrize(
    "kind",
    [
        ["CORPD_FBK"],
        np.array(["CORPD_FBK"], dtype="S"),
        np.array([["CORPD_FBK"]], dtype=object),
        b"CORPD_FBK",
    ],
)
def test_acquisition_as_an_array_of_one_string(tmp_path, kind):
    write(tmp_path / "a.h5", volume()[1], kind)
    assert read(tmp_path).volumes == ("a",) * 8


@pytest.mark.parametrize("dtype", [">c8", "<c8", ">c16", "complex128"])
def test_any_byte_order(folder, dtype):
    expected = read(folder).images
    write(folder / "file1000001.h5", volume()[1].astype(dtype))
    torch.testing.assert_close(read(folder).images, expected)
    np.testing.assert_allclose(
        fastmri_kspace(folder / "file1000001.h5", np.int64(4)), volume()[1][4], rtol=1e-6
    )


@pytest.mark.parametrize(
    "slices",
    [np.arange(12, 20), [np.int32(i) for i in range(12, 20)], torch.arange(12, 20), iter(range(12, 20))],
)
def test_numbers_of_any_type(folder, slices):
    data = read(folder, slices=slices, size=np.int64(16), crop=np.int32(32), limit=np.uint8(1))
    assert torch.equal(data.images, read(folder, limit=1).images) and data.indices.tolist() == list(
        range(12, 20)
    )


def test_arguments(folder, monkeypatch):
    for name in ("size", "crop", "limit"):
        for bad, error in ((0, ValueError), (1.5, TypeError), (True, TypeError)):
            with pytest.raises(error, match=f"`{name}` must be an? (positive )?integer, got {bad}"):
                read(folder, **{name: bad})
    with pytest.raises(ValueError, match="`size` must be at most `crop`, 32, got 33"):
        read(folder, size=33)
    wrong = (
        ((), ValueError),
        ((1.5,), TypeError),
        ((-1, 2), ValueError),
        (3, TypeError),
        (np.array(3), ValueError),
        (np.array([True]), TypeError),
        ("12", TypeError),
        ([1, "2"], TypeError),
    )
    for bad, error in wrong:
        with pytest.raises(error, match=r"`slices`(\[[01]\])? must be"):
            read(folder, slices=bad)
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ImportError, match=r"need h5py: pip install 'genreg\[mri\]'"):
        read(folder)
