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
        with pytest.raises(ValueError, match=message):
            read(tmp_path)
    file.write_bytes(b"no archive")
    with pytest.raises(ValueError, match="must be a readable h5 file"):
        read(tmp_path)


def test_arguments(folder, monkeypatch):
    for name in ("size", "crop", "limit"):
        for bad, error in ((0, ValueError), (1.5, TypeError), (True, TypeError)):
            with pytest.raises(error, match=f"`{name}` must be an? (positive )?integer, got {bad}"):
                read(folder, **{name: bad})
    with pytest.raises(ValueError, match="`size` must be at most `crop`, 32, got 33"):
        read(folder, size=33)
    for bad, error in (((), ValueError), ((1.5,), TypeError), ((-1, 2), ValueError), (3, TypeError)):
        with pytest.raises(error, match=r"`slices`(\[0\])? must be"):
            read(folder, slices=bad)
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ImportError, match=r"need h5py: pip install 'genreg\[mri\]'"):
        read(folder)
