"""Arrays from npy, npz, mat and h5 files, and what turns raw projections into a sinogram."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np

from genreg.datasets.array_files import ARRAY_READERS, NoArrayError

_FEW = 8  # angles, of which any range in degrees is likely


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
    if suffix not in ARRAY_READERS:
        raise ValueError(f"data.file must end in {', '.join(ARRAY_READERS)}, got {file.name!r}")
    if not file.is_file():
        raise FileNotFoundError(f"data.file must exist, got {file}")
    if suffix != ".npy" and not key:
        raise ValueError(f"{entry} must name the array in {file.name}, got {key!r}")
    try:
        array = ARRAY_READERS[suffix](file, key or "")
    except ImportError:
        raise
    except NoArrayError as error:
        raise ValueError(f"{entry} must name an array in {file.name}, got {key!r}; it has {error}") from None
    except Exception as error:  # every format has its own exceptions for damaged files
        raise ValueError(f"data.file must be a readable {suffix} file, got {file}: {error}") from error
    array = np.asarray(array)
    if array.dtype.kind not in "fiu":
        raise ValueError(
            f"{entry} must name an array of real numbers, got dtype {array.dtype} for {key!r} in {file.name}"
        )
    return array


def load_angles(file: str | Path, key: str) -> np.ndarray:
    """Read angles in degrees, ``(angles,)``; those whose attribute "units" says radians (h5) are converted.

    Raises
    ------
    FileNotFoundError, ValueError, ImportError
        As of `load_array`, of which the key is ``geometry.angles.key``.

    Warns
    -----
    UserWarning
        Where nothing names the unit and the angles are those of half a turn or a turn in radians.
    """
    angles = load_array(file, key, entry="geometry.angles.key").astype(float).ravel()
    unit = _unit(Path(file), key).lower()
    if unit.startswith("rad"):
        return np.degrees(angles)
    span = float(np.ptp(angles)) if angles.size > _FEW else 0.0
    if not unit and 0.75 * np.pi < span <= 2 * np.pi * (1 + 1e-6):
        warnings.warn(
            f"the angles {key!r} in {Path(file).name} go over {span:.4g} degrees, as they are taken to be in degrees; "
            "if they are in radians, convert them",
            UserWarning,
            stacklevel=2,
        )
    return angles


def _unit(file: Path, key: str) -> str:
    """Return the attribute "units" of an array in an h5 file, empty where there is none."""
    if file.suffix.lower() not in (".h5", ".hdf5"):
        return ""
    import h5py

    with h5py.File(file, "r") as stream:
        unit = stream[key].attrs.get("units", "")
    return unit.decode() if isinstance(unit, bytes) else str(unit)


def sinogram(
    projections: np.ndarray,
    white: np.ndarray | None = None,
    dark: np.ndarray | None = None,
    *,
    row: int | None = None,
) -> np.ndarray:
    r"""Sinogram of one row of projections: as it is, or :math:`-\log((p - d) / (w - d))` of raw ones p.

    Parameters
    ----------
    projections : ndarray
        ``(angles, columns)``, or ``(angles, rows, columns)`` of which `row` picks one.
    white, dark : ndarray, optional
        Frames without the object and without the beam (zero by default), of which the mean is taken. The axes of the
        projections say what theirs are: a frame is ``(columns,)`` of ``(angles, columns)`` and ``(rows, columns)`` of
        ``(angles, rows, columns)``, several have one axis more in front.
    row : int, optional
        Index of the second of three axes.

    Returns
    -------
    ndarray
        ``(angles, columns)``; float64 of raw projections.

    Raises
    ------
    ValueError
        If the axes do not fit, or the transmission is not positive everywhere.
    """
    if row is None and projections.ndim != 2:
        raise ValueError(
            f"data must have the axes (angles, columns), got the shape {projections.shape}; data.slice picks one of "
            "(angles, slices, columns)"
        )
    if row is not None and (projections.ndim != 3 or row >= projections.shape[1]):
        raise ValueError(
            "data.slice must be an index of the second axis of data (angles, slices, columns), got "
            f"{row} of the shape {projections.shape}"
        )
    frame = projections.shape[1:]
    wanted = projections if row is None else projections[:, row]
    if white is None:
        return wanted
    flat = _mean_frame("white", white, frame, row)
    dim = np.zeros_like(flat) if dark is None else _mean_frame("dark", dark, frame, row)
    with np.errstate(divide="ignore", invalid="ignore"):
        transmission = (wanted - dim) / (flat - dim)
    if bad := int((~(transmission > 0) | np.isinf(transmission)).sum()):
        raise ValueError(
            "the transmission (data - dark) / (white - dark) must be positive and finite, "
            f"got {bad} samples that are not (dead pixels have to be filled in before)"
        )
    return -np.log(transmission)


def _mean_frame(name: str, frames: np.ndarray, shape: tuple[int, ...], row: int | None) -> np.ndarray:
    """Return the row of the mean of frames of the shape of one projection, float64 ``(columns,)``."""
    if frames.shape == (*shape, 1) and len(shape) == 1:  # a column, as MATLAB keeps a line
        frames = frames.ravel()
    if frames.shape[-len(shape) :] != shape or frames.ndim > len(shape) + 1 or not frames.size:
        axes = ("columns", "rows, columns")[len(shape) - 1]
        raise ValueError(
            f"data.{name} must have the shape {shape} of one projection, ({axes}), or several of them, (frames, "
            f"{axes}), got {frames.shape}"
        )
    mean = frames.astype(float).reshape(-1, *shape).mean(0)
    return mean if row is None else mean[row]


def averaged(array: np.ndarray, width: int) -> np.ndarray:
    """Means of `width` neighbouring columns; the columns left over at the end are dropped."""
    count = array.shape[1] // width
    return array[:, : count * width].reshape(len(array), count, width).mean(-1)
