"""Data files in every format, raw projections, and every wrong file and key."""

import numpy as np
import pytest
import scipy.io

from genreg.cli.data_files import averaged, load_angles, load_array, sinogram

from ...refusals import refuses


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


@pytest.mark.parametrize(("name", "key"), FILES)
@pytest.mark.parametrize("shape", [(1, 5), (4, 1, 5)])
def test_axes_of_length_one_are_kept(tmp_path, name, key, shape):
    save(tmp_path / name, np.ones(shape))
    assert load_array(tmp_path / name, key).shape == shape


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


# sinograms of raw projections

RNG = np.random.default_rng(0)
COUNTS = RNG.uniform(100, 900, (5, 3, 4))  # angles, rows, columns
WHITE, DARK = RNG.uniform(1000, 1100, (3, 4)), RNG.uniform(1, 5, (3, 4))  # rows, columns
EXACT = -np.log((COUNTS - DARK) / (WHITE - DARK))


@pytest.mark.parametrize("row", [0, 2])
@pytest.mark.parametrize("frames", [lambda f: f, lambda f: f[None], lambda f: np.stack([f - 1, f, f + 1])])
def test_frames_of_projections_with_rows(row, frames):
    """A frame may be (rows, columns), also where there are as many rows as frames elsewhere."""
    got = sinogram(COUNTS, frames(WHITE), frames(DARK), row=row)
    np.testing.assert_allclose(got, EXACT[:, row])
    assert np.array_equal(sinogram(COUNTS, row=row), COUNTS[:, row])


@pytest.mark.parametrize(
    "frames", [lambda f: f, lambda f: f[None], lambda f: f[:, None], lambda f: np.stack([f - 1, f + 1])]
)
def test_frames_of_projections_of_one_row(frames):
    got = sinogram(COUNTS[:, 1], frames(WHITE[1]), frames(DARK[1]))
    np.testing.assert_allclose(got, EXACT[:, 1])


def test_counts_of_small_integers_do_not_wrap():
    p, white, dark = (np.array(a, "uint8") for a in ([[3, 250]], [200, 255], [2, 5]))
    np.testing.assert_allclose(sinogram(p, white, dark), -np.log([[1 / 198, 245 / 250]]))


ONE, SEVERAL = r"\(3, 4\) of one projection, \(rows, columns\)", r"\(4,\) of one projection, \(columns\)"


@refuses(
    (COUNTS, WHITE[0], None, 0, rf"data.white must have the shape {ONE}, or several .* got \(4,\)"),
    (COUNTS, WHITE[:2], None, 0, rf"data.white must have the shape {ONE}.* got \(2, 4\)"),
    (COUNTS, WHITE, DARK.T, 0, rf"data.dark must have the shape {ONE}.* got \(4, 3\)"),
    (COUNTS, np.ones((1, 2, 3, 4)), None, 0, rf"data.white must have the shape {ONE}"),
    (COUNTS, np.ones((0, 3, 4)), None, 0, r"got \(0, 3, 4\)"),
    (COUNTS[:, 0], WHITE[None], None, None, rf"data.white must have the shape {SEVERAL}.* got \(1, 3, 4\)"),
    (COUNTS[:, 0], np.ones(5), None, None, rf"data.white must have the shape {SEVERAL}.* got \(5,\)"),
    (COUNTS[:, 0], WHITE, None, 0, r"data.slice must be an index .* got 0 of the shape \(5, 4\)"),
    (COUNTS, WHITE, None, 3, r"data.slice must be an index .* got 3 of the shape \(5, 3, 4\)"),
    (COUNTS, WHITE, None, None, r"data must have the axes \(angles, columns\), got the shape \(5, 3, 4\)"),
    (COUNTS, WHITE, WHITE, 0, r"transmission .* must be positive and finite, got 20 samples"),
    (
        COUNTS,
        WHITE,
        np.full((3, 4), 950.0),
        0,
        r"transmission .* must be positive and finite, got \d+ samples",
    ),
    error=ValueError,
)
def test_frames_that_do_not_fit(p, white, dark, row):
    sinogram(p, white, dark, row=row)


# angles


def test_unit_of_angles(tmp_path):
    h5py = pytest.importorskip("h5py")
    turn = np.linspace(0, np.pi, 20)
    with h5py.File(tmp_path / "a.h5", "w") as stream:
        for name, values, unit in (
            ("deg", np.degrees(turn), "degrees"), ("rad", turn, "radian"), ("bytes", turn, np.bytes_("rad")),
            ("narrow", turn, "deg"), ("none", np.degrees(turn), None), ("odd", turn, None),
        ):  # fmt: skip
            stream[name] = values
            if unit:
                stream[name].attrs["units"] = unit
    for name in ("deg", "rad", "bytes", "none"):
        np.testing.assert_allclose(load_angles(tmp_path / "a.h5", name), np.degrees(turn))
    np.testing.assert_array_equal(load_angles(tmp_path / "a.h5", "narrow"), turn)
    with pytest.warns(
        UserWarning, match=r"the angles 'odd' in a.h5 go over 3.142 degrees, .* if they are in radians"
    ):
        np.testing.assert_array_equal(load_angles(tmp_path / "a.h5", "odd"), turn)
    np.savez(tmp_path / "a.npz", few=turn[::4])
    np.testing.assert_array_equal(load_angles(tmp_path / "a.npz", "few"), turn[::4])


def test_columns_left_over_are_dropped():
    assert averaged(np.arange(10.0).reshape(2, 5), 2).tolist() == [[0.5, 2.5], [5.5, 7.5]]
