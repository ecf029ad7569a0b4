"""The folder of what can be computed or downloaded again, and the sparse matrices in it.

Nothing depends on the folder. Where there is none, or it can't be written, nothing is kept; a file that was damaged or
altered is passed over and written anew. Files are written beside their place and moved there, so that processes that
write the same one at once do not meet.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import scipy.sparse

_BOUND = 4096  # MiB
_ABANDONED = 3600.0  # seconds after which a temporary file belongs to a process that was killed
_PARTS = ("data", "indices", "indptr")


def cache_directory() -> Path | None:
    """Return the folder: ``$GENREG_CACHE``, or ``genreg`` in the user's cache folder; None if the user has none."""
    try:
        if folder := os.environ.get("GENREG_CACHE"):
            return Path(folder).expanduser()
        if sys.platform == "darwin":
            return Path.home() / "Library" / "Caches" / "genreg"
        if sys.platform == "win32":
            local = os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local"
            return Path(local) / "genreg" / "Cache"
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "genreg"
    except RuntimeError:  # a user without a home, as in many containers
        return None


def cache_bound() -> float:
    """Return how many bytes all matrices may take: ``$GENREG_CACHE_SIZE`` in MiB, 4096 by default.

    Raises
    ------
    ValueError
        If the variable is set to something else than a number >= 0.
    """
    text = os.environ.get("GENREG_CACHE_SIZE") or str(_BOUND)
    try:
        size = float(text)
    except ValueError:
        size = math.nan
    if not size >= 0:
        raise ValueError(
            f"the environment variable GENREG_CACHE_SIZE must be a number of MiB >= 0, got {text!r}"
        )
    return size * 2**20


def read_matrix(name: str, shape: tuple[int, int]) -> scipy.sparse.csr_array | None:
    """Return the matrix that was kept under a name, or None where there is none or it is not as it was written.

    Parameters
    ----------
    name : str
        The name that was given to `write_matrix`.
    shape : tuple of int
        Shape of the matrix.

    Raises
    ------
    ValueError
        If `cache_bound` raises it.
    """
    folder, _ = cache_directory(), cache_bound()  # a wrong bound is said before a matrix is computed in vain
    if folder is None:
        return None
    path = folder / f"{name}.npz"
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            parts = [file[part] for part in _PARTS]
            if str(file["digest"]) != _digest(name, shape, parts):
                return None
    except Exception:  # damaged archives raise whatever their bytes lead to
        return None
    with contextlib.suppress(OSError):
        os.utime(path)  # what was used last goes last
    return scipy.sparse.csr_array(tuple(parts), shape=shape)


def write_matrix(name: str, matrix: scipy.sparse.csr_array) -> None:
    """Keep a matrix in single precision under a name, and drop those used longest ago beyond the bound.

    Parameters
    ----------
    name : str
        Name of the file without its ending; what is before the first ``-`` is shared by all that the bound counts.
    matrix : csr_array
        The matrix.
    """
    folder, bound = cache_directory(), cache_bound()
    parts = [getattr(matrix, part) for part in _PARTS]
    if folder is None or sum(part.nbytes for part in parts) > bound:
        return
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=folder, prefix=name, suffix=".tmp")
        try:
            with os.fdopen(handle, "wb") as file:
                digest = _digest(name, matrix.shape, parts)
                np.savez(file, digest=digest, **dict(zip(_PARTS, parts, strict=True)))
            os.replace(temporary, folder / f"{name}.npz")
        finally:
            Path(temporary).unlink(missing_ok=True)
        _trim(folder, name.partition("-")[0], bound)


def _digest(name: str, shape: tuple[int, int], parts: list[np.ndarray]) -> str:
    """Return a hash of a matrix and of what it is."""
    state = hashlib.sha256(f"{name}{tuple(map(int, shape))}".encode())
    for part in parts:
        state.update(f"{part.dtype}{part.shape}".encode())
        state.update(np.ascontiguousarray(part).data)
    return state.hexdigest()


def _trim(folder: Path, kind: str, bound: float) -> None:
    """Remove the matrices used longest ago until all take at most `bound` bytes, and abandoned temporary files."""
    now, found = time.time(), []
    for path in folder.glob(f"{kind}-*"):
        with contextlib.suppress(OSError):  # another process may have removed it
            state = path.stat()
            if path.suffix == ".npz":
                found.append((state.st_mtime, state.st_size, path))
            elif path.suffix == ".tmp" and now - state.st_mtime > _ABANDONED:
                path.unlink()
    total = sum(size for _, size, _ in found)
    for _, size, path in sorted(found):
        if total <= bound:
            break
        with contextlib.suppress(OSError):
            path.unlink()
            total -= size
