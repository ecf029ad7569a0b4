"""Arrays from npy, npz, mat and h5 files, and what turns raw projections into a sinogram."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["averaged", "flat_field", "load_array"]


def load_array(file: str | Path, key: str | None = None, *, entry: str = "data.key") -> np.ndarray:
    """Read a real array from a npy, npz, mat or h5 file.

    Parameters
    ----------
    file : str or Path
        The file; its suffix names the format. MATLAB's files of version 7.3 are read too (with h5py).
    key : str, optional
        Name of the array in an npz, mat or h5 file: a path for h5, dots into the structs of a mat file.
    entry : str
        What error messages call `key`.

    Returns
    -------
    numpy.ndarray

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file cannot be read, or its suffix, the key or the kind of data is not supported.
    ImportError
        If h5py is needed and not installed.
    """
    file = Path(file)
    suffix = file.suffix.lower()
    if suffix not in _READERS:
        raise ValueError(f"data.file must end in {', '.join(_READERS)}, got {file.name!r}")
    if not file.is_file():
        raise FileNotFoundError(f"data.file must exist, got {file}")
    if suffix != ".npy" and not key:
        raise ValueError(f"{entry} must name the array in {file.name}, got {key!r}")
    try:
        array = _READERS[suffix](file, key or "")
    except ImportError:
        raise
    except _NoArrayError as error:
        raise ValueError(f"{entry} must name an array in {file.name}, got {key!r}; it has {error}") from None
    except Exception as error:  # every format has its own exceptions for damaged files
        raise ValueError(f"data.file must be a readable {suffix} file, got {file}: {error}") from error
    array = np.asarray(array)
    if array.dtype.kind not in "fiu":
        raise ValueError(
            f"{entry} must name an array of real numbers, got dtype {array.dtype} for {key!r} in {file.name}"
        )
    return array


def flat_field(projections: np.ndarray, white: np.ndarray, dark: np.ndarray | None = None) -> np.ndarray:
    r"""Sinogram :math:`-\log((p - d) / (w - d))` of raw projections p.

    Parameters
    ----------
    projections : ndarray
        Intensities, ``(angles, columns)``.
    white, dark : ndarray
        Frames without the object and without the beam (zero by default), ``(columns,)`` or ``(frames,
        columns)``, of which the mean is taken.

    Returns
    -------
    ndarray
        Float64, the shape of `projections`.

    Raises
    ------
    ValueError
        If the shapes do not fit, or the transmission is not positive everywhere.
    """
    white = np.atleast_2d(white).astype(float).mean(0)
    dark = np.zeros_like(white) if dark is None else np.atleast_2d(dark).astype(float).mean(0)
    if not white.shape == dark.shape == projections.shape[-1:]:
        raise ValueError(
            f"data.white and data.dark must have the {projections.shape[-1]} columns of the data, "
            f"got {white.shape} and {dark.shape}"
        )
    with np.errstate(divide="ignore", invalid="ignore"):
        transmission = (projections - dark) / (white - dark)
    if bad := int((~(transmission > 0)).sum()):
        raise ValueError(
            "the transmission (data - dark) / (white - dark) must be positive, "
            f"got {bad} samples that are not (dead pixels have to be filled in before)"
        )
    return -np.log(transmission)


def averaged(array: np.ndarray, width: int) -> np.ndarray:
    """Means of `width` neighbouring columns; the columns left over at the end are dropped."""
    count = array.shape[1] // width
    return array[:, : count * width].reshape(len(array), count, width).mean(-1)


class _NoArrayError(KeyError):
    """There is no array of this name; carries the names that there are."""

    def __init__(self, names: Any) -> None:
        super().__init__(sorted(names))

    def __str__(self) -> str:
        return str(self.args[0])


def _from_npz(file: Path, key: str) -> Any:
    with np.load(file, allow_pickle=False) as archive:
        if key not in archive.files:
            raise _NoArrayError(archive.files)
        return archive[key]


def _from_mat(file: Path, key: str) -> Any:
    import scipy.io

    try:
        item: Any = scipy.io.loadmat(file, squeeze_me=True, struct_as_record=False)
    except NotImplementedError:  # version 7.3 is HDF5 with the axes in the order of Fortran
        return np.transpose(_from_h5(file, key.replace(".", "/")))
    names: Sequence[str] = [name for name in item if not name.startswith("__")]
    for name in key.split("."):
        if name not in names:
            raise _NoArrayError(names)
        item = item[name] if isinstance(item, dict) else getattr(item, name)
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
            raise _NoArrayError(names)
        return stream[key][()]


_READERS: dict[str, Callable[[Path, str], Any]] = {
    ".npy": lambda file, key: np.load(file, allow_pickle=False),
    ".npz": _from_npz,
    ".mat": _from_mat,
    ".h5": _from_h5,
    ".hdf5": _from_h5,
}
