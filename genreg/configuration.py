r"""Reconstruct a data file as a TOML configuration says: ``genreg reconstruct config.toml``.

A configuration has up to six tables::

    [data]
    file = "sinogram.npy"          # npy, npz, mat or h5; relative to the configuration
    key = "exchange/data"          # the array in an npz, mat (dots into structs) or h5 file
    noise_std = 0.05               # standard deviation of one sample

    [image]
    shape = [56, 56]
    min = [-1.0, -1.0]
    max = [1.0, 1.0]

    [geometry]
    kind = "parallel"              # or "fan"
    angles = {start = 0, stop = 180, count = 40}   # degrees; or a list; stop is not included
    detector = {pixels = 83, size = 2.83}          # number of pixels, total length in the units of the image
    source_distance = 410.66       # fan beam: source to origin,
    detector_distance = 143.08     # and origin to detector

    [prior]
    kind = "hard"                  # or "tikhonov", "tv"
    weights = "shapes-vae"         # hard: shipped name or path
    lower = 0.0                    # tv: bounds
    scale = 1.0                    # hard: data are divided by it, so that images are in the model's range

    [solve]
    lam = "morozov"                # or a number
    restarts = 4
    max_iter = 500
    seed = 0

    [output]
    file = "image.npy"
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import odl

from genreg._run import atomically
from genreg.generator import load_generator
from genreg.operators import ray_transform, to_tensor
from genreg.reconstruct import Reconstruction, reconstruct
from genreg.regularisers import HardConstraint, Regulariser, Tikhonov, TotalVariation

__all__ = ["load_array", "reconstruct_file"]

_TABLES = {
    "data": {"file", "key", "noise_std"},
    "image": {"shape", "min", "max"},
    "geometry": {"kind", "angles", "detector", "source_distance", "detector_distance"},
    "prior": {"kind", "weights", "lower", "upper", "scale"},
    "solve": {"lam", "restarts", "max_iter", "tol", "seed", "init"},
    "output": {"file"},
}


def reconstruct_file(
    config: str | Path,
    *,
    data: str | Path | None = None,
    output: str | Path | None = None,
    progress: bool = True,
) -> tuple[Reconstruction, Path]:
    """Reconstruct the data file that a configuration describes, and write the image and a picture of it.

    Parameters
    ----------
    config : str or Path
        TOML file, see the module's docstring.
    data, output : str or Path, optional
        Files that override those of the configuration.
    progress : bool
        Show a progress bar.

    Returns
    -------
    Reconstruction
        The result, in the units of the model (images divided by ``scale``).
    Path
        The image file, in the units of the data.

    Raises
    ------
    FileNotFoundError
        If a file is missing.
    ValueError
        If the configuration has unknown, missing or contradictory entries, or the data do not fit it.
    """
    config = Path(config)
    settings = _read(config)
    file = Path(data) if data is not None else config.parent / _require(settings, "data", "file")
    array = load_array(file, settings["data"].get("key"))
    A = _operator(settings)
    if array.shape != tuple(A.range.shape):
        raise ValueError(
            f"data must have the shape {tuple(A.range.shape)} (angles, detector pixels) that the configuration "
            f"describes, got {array.shape} in {file}"
        )
    scale = float(settings["prior"].get("scale", 1.0))
    if not scale > 0:
        raise ValueError(f"prior.scale must be positive, got {scale}")
    solve = dict(settings["solve"])
    rec = reconstruct(
        A,
        A.range.element(np.ascontiguousarray(array / scale, dtype="float32")),
        _prior(settings, A.domain),
        noise_std=float(_require(settings, "data", "noise_std")) / scale,
        progress=progress,
        **{"lam": "morozov", **solve},
    )
    target = (
        Path(output) if output is not None else config.parent / settings["output"].get("file", "image.npy")
    )
    image = to_tensor(rec.image).numpy() * scale
    with atomically(target) as part, open(part, "wb") as stream:
        np.save(stream, image)
    figure = rec.show()
    with atomically(target.with_suffix(".png")) as part:
        figure.savefig(part, dpi=150, format="png")
    return rec, target


def load_array(file: str | Path, key: str | None = None) -> np.ndarray:
    """Read a real array from a npy, npz, mat or h5 file.

    Parameters
    ----------
    file : str or Path
        The file; its suffix names the format.
    key : str, optional
        Name of the array in an npz, mat or h5 file: a path for h5, dots into the structs of a mat file.

    Returns
    -------
    numpy.ndarray

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the suffix, the key or the kind of data is not supported.
    """
    file = Path(file)
    if not file.is_file():
        raise FileNotFoundError(f"data file must exist, got {file}")
    suffix = file.suffix.lower()
    if suffix != ".npy" and suffix in _READERS and not key:
        raise ValueError(f"data.key must name the array in {file.name}, got {key!r}")
    if suffix not in _READERS:
        raise ValueError(f"data file must end in {', '.join(_READERS)}, got {file.name!r}")
    try:
        array = np.asarray(_READERS[suffix](file, key))
    except KeyError:
        raise ValueError(f"data.key must name an array in {file.name}, got {key!r}") from None
    if array.dtype.kind not in "fiu":
        raise ValueError(f"data must be a real array, got dtype {array.dtype} in {file.name}")
    return array


def _from_mat(file: Path, key: str) -> Any:
    import scipy.io

    names = key.split(".")
    item = scipy.io.loadmat(file, squeeze_me=True, struct_as_record=False)[names[0]]
    for name in names[1:]:
        if name not in getattr(item, "_fieldnames", ()):
            raise KeyError(name)
        item = getattr(item, name)
    return item


def _from_h5(file: Path, key: str) -> Any:
    try:
        import h5py
    except ImportError:
        raise ImportError("h5 files need h5py: pip install 'genreg[data]'") from None
    with h5py.File(file, "r") as stream:
        return stream[key][()]


def _from_npz(file: Path, key: str) -> Any:
    with np.load(file, allow_pickle=False) as archive:
        return archive[key]


_READERS = {
    ".npy": lambda file, key: np.load(file, allow_pickle=False),
    ".npz": _from_npz,
    ".mat": _from_mat,
    ".h5": _from_h5,
    ".hdf5": _from_h5,
}


def _read(config: Path) -> dict[str, dict[str, Any]]:
    if not config.is_file():
        raise FileNotFoundError(f"configuration must exist, got {config}")
    try:
        settings = tomllib.loads(config.read_text())
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"configuration must be TOML, got {config}: {error}") from None
    for table, entries in settings.items():
        if table not in _TABLES or not isinstance(entries, dict):
            raise ValueError(f"configuration may have the tables {list(_TABLES)}, got {table!r}")
        if unknown := sorted(set(entries) - _TABLES[table]):
            raise ValueError(f"table [{table}] may have the entries {sorted(_TABLES[table])}, got {unknown}")
    return {table: settings.get(table, {}) for table in _TABLES}


def _require(settings: Mapping[str, Mapping[str, Any]], table: str, entry: str) -> Any:
    if entry not in settings[table]:
        raise ValueError(
            f"configuration must have the entry {entry!r} in [{table}], got {sorted(settings[table])}"
        )
    return settings[table][entry]


def _operator(settings: Mapping[str, Mapping[str, Any]]) -> odl.Operator:
    from odl.applications import tomo

    low, high, shape = (_require(settings, "image", entry) for entry in ("min", "max", "shape"))
    X = odl.uniform_discr(low, high, shape, dtype="float32")
    detector = _require(settings, "geometry", "detector")
    half = 0.5 * detector["size"]
    detector_partition = odl.uniform_partition(-half, half, detector["pixels"])
    angle_partition = _angles(_require(settings, "geometry", "angles"))
    kind = _require(settings, "geometry", "kind")
    if kind == "parallel":
        geometry = tomo.Parallel2dGeometry(angle_partition, detector_partition)
    elif kind == "fan":
        geometry = tomo.FanBeamGeometry(
            angle_partition,
            detector_partition,
            src_radius=_require(settings, "geometry", "source_distance"),
            det_radius=_require(settings, "geometry", "detector_distance"),
        )
    else:
        raise ValueError(f"geometry.kind must be 'parallel' or 'fan', got {kind!r}")
    return ray_transform(X, geometry)


def _angles(angles: Any) -> Any:
    """Partition whose midpoints are the angles (given in degrees)."""
    if isinstance(angles, Mapping):
        angles = np.linspace(angles["start"], angles["stop"], angles["count"], endpoint=False)
    degrees = np.asarray(angles, dtype=float)
    if degrees.ndim != 1 or len(degrees) < 2 or not (np.diff(degrees) > 0).all():
        raise ValueError(f"geometry.angles must be at least two increasing angles, got {angles!r}")
    return odl.nonuniform_partition(np.deg2rad(degrees))


def _prior(settings: Mapping[str, Mapping[str, Any]], X: Any) -> Regulariser:
    prior = settings["prior"]
    kind = _require(settings, "prior", "kind")
    if kind == "hard":
        return HardConstraint(load_generator(_require(settings, "prior", "weights"), range=X))
    if kind == "tv":
        return TotalVariation(X, lower=prior.get("lower"), upper=prior.get("upper"))
    if kind == "tikhonov":
        return Tikhonov(X)
    raise ValueError(f"prior.kind must be 'hard', 'tv' or 'tikhonov', got {kind!r}")
