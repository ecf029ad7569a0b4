"""The cache folder: none, unwritable, damaged, altered, shared, full."""

import multiprocessing
import os
import time

import numpy as np
import pytest
import scipy.sparse

from genreg.operators.linear import cache as files
from genreg.operators.linear.cache import cache_bound, cache_directory, read_matrix, write_matrix

M = scipy.sparse.csr_array(np.diag(np.arange(1.0, 6.0, dtype="float32"))[:, :4])


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GENREG_CACHE", str(tmp_path))
    monkeypatch.delenv("GENREG_CACHE_SIZE", raising=False)
    return tmp_path


def same(matrix, expected=M):
    return matrix is not None and matrix.dtype == expected.dtype and (matrix != expected).nnz == 0


def test_round_trip(cache):
    assert read_matrix("ray-a", M.shape) is None
    write_matrix("ray-a", M)
    assert same(read_matrix("ray-a", M.shape))
    assert [path.name for path in cache.iterdir()] == ["ray-a.npz"]


CHANGES = [
    {"data": 2 * M.data},
    {"data": M.data.astype("float64")},
    {"data": np.array(["x"] * M.nnz, dtype=object)},
    {"indices": M.indices[::-1].copy()},
    {"indices": np.full_like(M.indices, 10**6)},
    {"indptr": M.indptr[:-1]},
    {"digest": "0" * 64},
    {"digest": np.arange(3)},
]


@pytest.mark.parametrize("change", CHANGES)
def test_altered_matrices_are_passed_over(cache, change):
    """Also those of which the archive is sound."""
    write_matrix("ray-a", M)
    with np.load(cache / "ray-a.npz") as contents:
        parts = dict(contents)
    np.savez(cache / "ray-a.npz", **(parts | change))
    assert read_matrix("ray-a", M.shape) is None
    write_matrix("ray-a", M)
    assert same(read_matrix("ray-a", M.shape))


def test_damaged_files_are_passed_over(cache):
    write_matrix("ray-a", M)
    file = cache / "ray-a.npz"
    whole = file.read_bytes()
    for content in (b"", b"no archive", whole[: len(whole) // 2], bytes(len(whole))):
        file.write_bytes(content)
        assert read_matrix("ray-a", M.shape) is None
    for place in range(
        0, len(whole), 29
    ):  # of every bit that is flipped the file is refused or not touched by it
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 0x10]) + whole[place + 1 :])
        found = read_matrix("ray-a", M.shape)
        assert found is None or same(found)
    file.unlink()
    file.mkdir()
    assert read_matrix("ray-a", M.shape) is None
    write_matrix("ray-a", M)  # can't replace a folder


def test_another_matrix_under_the_name_is_passed_over(cache):
    write_matrix("ray-a", M)
    os.replace(cache / "ray-a.npz", cache / "ray-b.npz")
    assert read_matrix("ray-b", M.shape) is None
    write_matrix("ray-a", M)
    assert read_matrix("ray-a", M.shape[::-1]) is None


def test_folder_that_cannot_be_written(cache, monkeypatch):
    (cache / "file").write_text("")
    for folder in (cache / "file" / "folder", cache / "file"):
        monkeypatch.setenv("GENREG_CACHE", str(folder))
        write_matrix("ray-a", M)
        assert read_matrix("ray-a", M.shape) is None


def test_full_disk_leaves_nothing(cache, monkeypatch):
    def full(file, **arrays):
        file.write(b"half of")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.np, "savez", full)
    write_matrix("ray-a", M)
    assert list(cache.iterdir()) == []


def _write_and_read(count):
    """In a process of its own: every matrix that is found is whole."""
    for _ in range(count):
        write_matrix("ray-a", M)
        found = read_matrix("ray-a", M.shape)
        assert found is None or same(found)


def test_processes_that_write_the_same(cache):
    processes = [
        multiprocessing.get_context("fork").Process(target=_write_and_read, args=(15,)) for _ in range(3)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert same(read_matrix("ray-a", M.shape)) and len(list(cache.iterdir())) == 1


# where it is, and how large


def test_directory(monkeypatch, tmp_path):
    assert cache_directory() == tmp_path
    monkeypatch.setenv("GENREG_CACHE", "~/matrices")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_directory() == tmp_path / "home" / "matrices"
    monkeypatch.delenv("GENREG_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setattr(files.sys, "platform", "linux")
    assert cache_directory() == tmp_path / "xdg" / "genreg"
    monkeypatch.setattr(files.sys, "platform", "darwin")
    assert cache_directory().parts[-3:] == ("Library", "Caches", "genreg")


def test_no_home(monkeypatch):
    monkeypatch.delenv("GENREG_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)

    def none(*_):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(files.Path, "home", none)
    for platform in ("linux", "darwin", "win32"):
        monkeypatch.setattr(files.sys, "platform", platform)
        monkeypatch.delenv("LOCALAPPDATA", raising=False)
        assert cache_directory() is None
        write_matrix("ray-a", M)
        assert read_matrix("ray-a", M.shape) is None
    monkeypatch.setenv("GENREG_CACHE", "~/matrices")
    monkeypatch.setattr(files.Path, "expanduser", none)
    assert cache_directory() is None


def test_what_was_used_last_goes_last(cache, monkeypatch):
    write_matrix("ray-a", M)
    size = (cache / "ray-a.npz").stat().st_size
    monkeypatch.setenv("GENREG_CACHE_SIZE", str(2.5 * size / 2**20))
    write_matrix("ray-b", M)
    for age, name in ((200, "ray-a"), (100, "ray-b")):
        os.utime(cache / f"{name}.npz", (time.time() - age,) * 2)
    assert same(read_matrix("ray-a", M.shape))
    (cache / "other.npz").write_bytes(bytes(4 * size))  # not ours
    write_matrix("ray-c", M)
    assert sorted(path.name for path in cache.iterdir()) == ["other.npz", "ray-a.npz", "ray-c.npz"]
    monkeypatch.setenv("GENREG_CACHE_SIZE", "0")
    write_matrix("ray-d", M)  # larger than all: not written
    assert sorted(path.name for path in cache.iterdir()) == ["other.npz", "ray-a.npz", "ray-c.npz"]


def test_files_of_killed_processes_go(cache):
    old, new = cache / "ray-xabc.tmp", cache / "ray-xdef.tmp"
    for path, age in ((old, 10_000), (new, 10)):
        path.write_bytes(b"half")
        os.utime(path, (time.time() - age,) * 2)
    write_matrix("ray-a", M)
    assert not old.exists() and new.exists()


def test_bound(monkeypatch):
    assert cache_bound() == 4 * 2**30
    monkeypatch.setenv("GENREG_CACHE_SIZE", "0.5")
    assert cache_bound() == 2**19
    for bad in ("much", "-1", "nan"):
        monkeypatch.setenv("GENREG_CACHE_SIZE", bad)
        with pytest.raises(ValueError, match=f"GENREG_CACHE_SIZE must be a number of MiB >= 0, got '{bad}'"):
            read_matrix("ray-a", M.shape)
