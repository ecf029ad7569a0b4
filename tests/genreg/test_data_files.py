"""Data files in every format, raw projections, and every wrong file and key."""

import numpy as np
import pytest
import scipy.io

from genreg._data_files import averaged, flat_field, load_array


def save_mat73(path, names, array):
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "w", userblock_size=512) as stream:
        stream["/".join(names)] = array.T  # MATLAB's order of axes
    header = b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM"
    with open(path, "r+b") as stream:
        stream.write(header)


def save(path, array):
    if path.suffix == ".npz":
        np.savez(path, sinogram=array, other=np.zeros(3))
    elif path.name == "v73.mat":
        save_mat73(path, ("scan", "sinogram"), array)
    elif path.suffix == ".mat":
        scipy.io.savemat(path, {"scan": {"sinogram": array, "parameters": {"angles": np.arange(4.0)}}})
    elif path.suffix in (".h5", ".hdf5"):
        with pytest.importorskip("h5py").File(path, "w") as stream:
            stream["scan/sinogram"] = array
    else:
        np.save(path, array)


FILES = [
    ("a.npy", None),
    ("a.npz", "sinogram"),
    ("a.mat", "scan.sinogram"),
    ("v73.mat", "scan.sinogram"),
    ("a.h5", "scan/sinogram"),
    ("a.hdf5", "scan/sinogram"),
]


@pytest.mark.parametrize(("name", "key"), FILES)
@pytest.mark.parametrize("dtype", ["float32", "float64", "uint16"])
def test_formats(tmp_path, name, key, dtype):
    array = np.arange(15).reshape(3, 5).astype(dtype)
    save(tmp_path / name, array)
    loaded = load_array(tmp_path / name, key)
    assert loaded.dtype == dtype and np.array_equal(loaded, array)


@pytest.mark.parametrize(("name", "key"), FILES[1:])
def test_wrong_key(tmp_path, name, key):
    save(tmp_path / name, np.ones((2, 3)))
    with pytest.raises(ValueError, match=rf"data.key must name the array in {name}, got None"):
        load_array(tmp_path / name)
    with pytest.raises(
        ValueError, match=rf"data.key must name an array in {name}, got 'nothing'; it has \['"
    ):
        load_array(tmp_path / name, "nothing")


def test_key_that_is_not_an_array_of_numbers(tmp_path):
    save(tmp_path / "a.mat", np.ones((2, 3)))
    save(tmp_path / "a.h5", np.ones((2, 3)))
    np.savez(tmp_path / "c.npz", c=np.ones(3) * 1j)
    with pytest.raises(ValueError, match=r"data.key must name an array of real numbers, got dtype object"):
        load_array(tmp_path / "a.mat", "scan")
    with pytest.raises(ValueError, match=r"data.key must name an array .* it has \['scan/sinogram'\]"):
        load_array(tmp_path / "a.h5", "scan")
    with pytest.raises(ValueError, match=r"real numbers, got dtype complex128 for 'c' in c.npz"):
        load_array(tmp_path / "c.npz", "c")


@pytest.mark.parametrize(("name", "key"), FILES)
def test_damaged_file(tmp_path, name, key):
    (tmp_path / name).write_bytes(b"these are not the data")
    with pytest.raises(ValueError, match=f"data.file must be a readable .* file, got .*{name}"):
        load_array(tmp_path / name, key)


def test_flat_field_without_dark():
    p, white = np.array([[1.0, 2.0]]), np.array([2.0, 4.0])
    assert np.allclose(flat_field(p, white), np.log(2.0))
    with pytest.raises(ValueError, match=r"data.white and data.dark must have the 2 columns .*\(3,\)"):
        flat_field(p, np.ones(3))
    with pytest.raises(ValueError, match=r"transmission .* must be positive, got 1 sample"):
        flat_field(np.array([[0.0, 2.0]]), white)


def test_columns_left_over_are_dropped():
    assert averaged(np.arange(10.0).reshape(2, 5), 2).tolist() == [[0.5, 2.5], [5.5, 7.5]]
