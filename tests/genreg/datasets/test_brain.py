import numpy as np
import pytest
import torch

from genreg.datasets import brain_slices


def write(folder, images=(7, 128, 128), subject=(1, 1, 1, 2, 2, 2, 2), dtype="uint8"):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, images).astype(dtype)
    np.savez(folder / "brain_axial_128.npz", images=images, subject=np.array(subject, dtype="uint8"))
    return images


def test_slices_are_read(tmp_path, monkeypatch):
    (tmp_path / "mri").mkdir()
    written = write(tmp_path / "mri")
    images, subjects = brain_slices(tmp_path / "mri")
    assert images.dtype == torch.float32 and subjects.dtype == torch.int64
    torch.testing.assert_close(images, torch.from_numpy(written).float() / 255)
    assert subjects.tolist() == [1, 1, 1, 2, 2, 2, 2]
    monkeypatch.setenv("GENREG_DATA", str(tmp_path))
    torch.testing.assert_close(brain_slices()[0], images)


def test_the_two_brains(data_dir):
    images, subjects = brain_slices(data_dir / "mri")
    assert images.shape == (504, 128, 128) and float(images.min()) == 0 and float(images.max()) == 1
    assert subjects.bincount().tolist() == [0, 280, 224]


def test_missing_and_damaged_files(tmp_path, monkeypatch):
    monkeypatch.delenv("GENREG_DATA", raising=False)
    with pytest.raises(FileNotFoundError, match=r"unless GENREG_DATA is set, got neither; it is made from"):
        brain_slices()
    with pytest.raises(FileNotFoundError, match=r"root must be a folder with the file brain_axial_128\.npz"):
        brain_slices(tmp_path)
    for arguments in ({"dtype": "int64"}, {"images": (7, 64, 128)}, {"subject": (1, 2)}):
        write(tmp_path, **arguments)
        with pytest.raises(ValueError, match=r"must hold images \(slices, 128, 128\) of bytes"):
            brain_slices(tmp_path)
    np.savez(tmp_path / "brain_axial_128.npz", pictures=np.zeros(3))
    with pytest.raises(ValueError, match="must be an npz file with `images` and `subject`"):
        brain_slices(tmp_path)
    (tmp_path / "brain_axial_128.npz").write_bytes(b"PK\x03\x04 no archive")
    with pytest.raises(ValueError, match="must be an npz file with `images` and `subject`"):
        brain_slices(tmp_path)
