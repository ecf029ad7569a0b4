"""Arrays in npy, npz, mat and h5 files, by their names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np


class NoArrayError(KeyError):
    """There is no array of this name; carries the names that there are."""

    def __init__(self, names: Any) -> None:
        self.names = sorted(names)
        super().__init__(self.names)

    def __str__(self) -> str:
        return str(self.names)


def _from_npz(file: Path, key: str) -> Any:
    with np.load(file, allow_pickle=False) as archive:
        if key not in archive.files:
            raise NoArrayError(archive.files)
        return archive[key]


def _from_mat(file: Path, key: str) -> Any:
    import scipy.io

    try:
        item: Any = scipy.io.loadmat(file, struct_as_record=False)
    except NotImplementedError:  # version 7.3 is HDF5 with the axes in the order of Fortran
        return np.transpose(_from_h5(file, key.replace(".", "/")))
    names: Sequence[str] = [name for name in item if not name.startswith("__")]
    for name in key.split("."):
        if name not in names:
            raise NoArrayError(names)
        item = item[name] if isinstance(item, dict) else getattr(item, name)
        if (
            item.dtype == object and item.size == 1
        ):  # a struct is an array of structs; others keep all their axes
            item = item.item()
        names = getattr(item, "_fieldnames", [])
    return item


def _from_h5(file: Path, key: str) -> Any:
    try:
        import h5py
    except ImportError:
        raise ImportError("h5 files need h5py: pip install 'genreg[data]'") from None
    with h5py.File(file, "r") as stream:
        if not isinstance(stream.get(key), h5py.Dataset):
            names: list[str] = []
            stream.visititems(lambda name, item: names.append(name) if hasattr(item, "dtype") else None)
            raise NoArrayError(names)
        return stream[key][()]


ARRAY_READERS: dict[str, Callable[[Path, str], Any]] = {
    ".npy": lambda file, key: np.load(file, allow_pickle=False),
    ".npz": _from_npz,
    ".mat": _from_mat,
    ".h5": _from_h5,
    ".hdf5": _from_h5,
}
"""How the array of a name is read, by the suffix of the file; an npy file has one array, without a name."""
