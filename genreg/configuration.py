r"""Reconstruct a data file as a TOML configuration says: ``genreg reconstruct config.toml``.

A configuration has up to six tables; what is in brackets here may be left out::

    [data]
    file = "sinogram.npy"          # npy, npz, mat or h5, (angles, pixels); relative to the configuration
    key = "exchange/data"          # the array in an npz, mat (dots into structs) or h5 file
    noise_std = 0.05               # standard deviation of one sample of the sinogram that is reconstructed
    [white = "exchange/data_white"]  # raw projections: keys of the frames without the object,
    [dark = "exchange/data_dark"]    # and without the beam; the sinogram is -log((data - dark) / (white - dark))
    [slice = 0]                    # of arrays (angles, slices, pixels)
    [angles_every = 4]             # take every fourth angle
    [bin = 2]                      # average neighbouring pixels

    [image]
    shape = [56, 56]
    min = [-1.0, -1.0]             # corners, in any unit of length
    max = [1.0, 1.0]

    [geometry]
    kind = "parallel"              # or "fan", with a flat detector
    angles = {start = 0, stop = 180, count = 40}   # degrees, without stop; or a list; or {key = "exchange/theta"}
    [offset = 90.0]                # degrees added to the angles: turns the image
    detector = {pixels = 83, size = 2.83}          # number of pixels in the file, their total length
    [centre = 41.0]                # column, from 0, onto which the axis of rotation projects; the middle if left out
    source_distance = 410.66       # fan beam: source to axis,
    detector_distance = 143.08     # and axis to detector

    [prior]
    kind = "hard"                  # or "joint", "relaxed", "sparse", "sparse-tv"; "tikhonov", "tv"
    weights = "shapes-vae"         # of a generator: shipped name, or file, relative to the configuration
    mu = 0.1                       # relaxed, sparse, sparse-tv: weight of the latent term
    [lower = 0.0]                  # tv: bounds of the image,
    [upper = 1.0]                  # in the units of the data
    [scale = 1.0]                  # data are divided by it, so that images are in the range of the model

    [solve]                        # see genreg.reconstruct
    [lam = "morozov"]              # or "l-curve", or a number
    [restarts = 4]
    [init = "encoder"]
    [max_iter = 500]
    [tol = 1e-4]
    [seed = 0]

    [output]
    [file = "image.npy"]           # relative to the configuration; a picture, image.png, is put beside it

At 0 degrees the rays run along the second axis of the image, and the first axis of the image runs along the
detector; the angle grows from the first axis to the second.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import odl

from genreg._data_files import averaged, flat_field, load_array
from genreg._run import atomically
from genreg._settings import Settings, read, require
from genreg.generator import load_generator
from genreg.operators import ray_transform, to_tensor
from genreg.reconstruct import Reconstruction, reconstruct
from genreg.regularisers import (
    HardConstraint,
    JointPrior,
    Regulariser,
    RelaxedConstraint,
    SparseDeviation,
    Tikhonov,
    TotalVariation,
)

__all__ = ["load_array", "reconstruct_file"]


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
        The result, in the units of the model (data and images divided by ``scale``).
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
    settings = read(config)
    file = Path(data) if data is not None else config.parent / require(settings, "data", "file")
    target = (
        Path(output) if output is not None else config.parent / settings["output"].get("file", "image.npy")
    )
    if target.suffix != ".npy":
        raise ValueError(f"output.file must end in .npy, got {target.name!r}")
    prior, scale = settings["prior"], settings["prior"].get("scale", 1.0)
    noise_std = require(settings, "data", "noise_std")
    degrees, sinogram = _measurements(settings, file)
    A = ray_transform(_space(settings), _geometry(settings, degrees, sinogram.shape[1]))
    rec = reconstruct(
        A,
        A.range.element(np.ascontiguousarray(sinogram / scale, dtype="float32")),
        _prior(prior, A.domain, scale, config.parent),
        noise_std=noise_std / scale,
        progress=progress,
        **settings["solve"],
    )
    _write(to_tensor(rec.image).numpy() * scale, target)
    return rec, target


def _write(image: np.ndarray, target: Path) -> None:
    from matplotlib.figure import Figure

    def save(part: Path) -> None:
        with open(part, "wb") as stream:
            np.save(stream, image)

    figure = Figure(figsize=(5.5, 5), layout="constrained")
    ax = figure.subplots()
    figure.colorbar(ax.imshow(image, cmap="gray", interpolation="nearest"))
    ax.set(xticks=[], yticks=[])
    dpi = max(150, max(image.shape) / 4)  # the image is drawn four inches wide
    atomically(target, save)
    atomically(target.with_suffix(".png"), lambda part: figure.savefig(part, dpi=dpi, format="png"))


def _measurements(settings: Settings, file: Path) -> tuple[np.ndarray, np.ndarray]:
    """Angles in increasing order and the sinogram, of which a part may have been asked for."""
    data, detector = settings["data"], require(settings, "geometry", "detector")
    angles = require(settings, "geometry", "angles")
    if isinstance(angles, Mapping) and "key" in angles:
        angles = load_array(file, angles["key"], entry="geometry.angles.key").ravel()
    elif isinstance(angles, Mapping):
        angles = np.linspace(angles["start"], angles["stop"], angles["count"], endpoint=False)
    degrees = np.asarray(angles, dtype=float)

    sinogram = _slice(load_array(file, data.get("key")), data)
    expected = (len(degrees), detector["pixels"])
    if sinogram.shape != expected:
        hint = "; data.slice picks one of (angles, slices, pixels)" if sinogram.ndim == 3 else ""
        raise ValueError(
            f"data must have the shape {expected} (angles, detector pixels) that the configuration describes, "
            f"got {sinogram.shape} in {file}{hint}"
        )
    if bad := int((~np.isfinite(sinogram)).sum()):
        raise ValueError(f"data must be finite, got {bad} NaN or infinite values in {file}")
    if "white" in data:
        frames = {
            name: _slice(load_array(file, data[name], entry=f"data.{name}"), data)
            for name in ("white", "dark")
            if name in data
        }
        sinogram = flat_field(sinogram, **frames)

    order = np.argsort(degrees, kind="stable")[:: data.get("angles_every", 1)]
    degrees = degrees[order]
    if len(degrees) < 2 or not (np.diff(degrees) > 0).all():
        raise ValueError(f"geometry.angles must be at least two different angles, got {degrees}")
    return degrees, averaged(sinogram[order], data.get("bin", 1))


def _slice(array: np.ndarray, data: Mapping[str, Any]) -> np.ndarray:
    if "slice" not in data or array.ndim < 3:
        return array
    if array.ndim != 3 or data["slice"] >= array.shape[1]:
        raise ValueError(
            f"data.slice must be an index of the second axis of {array.shape}, got {data['slice']}"
        )
    return array[:, data["slice"]]


def _space(settings: Settings) -> odl.DiscretizedSpace:
    low, high, shape = (require(settings, "image", entry) for entry in ("min", "max", "shape"))
    sides = [(b - a) / n for a, b, n in zip(low, high, shape, strict=True)]
    if min(sides) <= 0 or not math.isclose(*sides, rel_tol=1e-5):
        raise ValueError(
            f"image.min, image.max and image.shape must describe square pixels, got sides of {sides}"
        )
    return odl.uniform_discr(low, high, shape, dtype="float32")


def _geometry(settings: Settings, degrees: np.ndarray, pixels: int) -> Any:
    """Geometry of the angles and of the detector, whose pixels may have been averaged."""
    from odl.applications import tomo

    entries = settings["geometry"]
    width, detector = settings["data"].get("bin", 1), entries["detector"]
    cell = detector["size"] / detector["pixels"]
    left = -(entries.get("centre", 0.5 * (detector["pixels"] - 1)) + 0.5) * cell
    detector_partition = odl.uniform_partition(left, left + pixels * width * cell, pixels)
    angle_partition = _angle_partition(np.deg2rad(degrees + entries.get("offset", 0.0)))
    if require(settings, "geometry", "kind") == "parallel":
        return tomo.Parallel2dGeometry(angle_partition, detector_partition)
    return tomo.FanBeamGeometry(
        angle_partition,
        detector_partition,
        src_radius=require(settings, "geometry", "source_distance"),
        det_radius=require(settings, "geometry", "detector_distance"),
    )


def _angle_partition(angles: np.ndarray) -> Any:
    """Partition with these grid points; uniform if they are, as filtered back-projection wants it."""
    step = (angles[-1] - angles[0]) / (len(angles) - 1)
    if np.abs(np.diff(angles) - step).max() < 1e-3 * step:
        return odl.uniform_partition(angles[0] - step / 2, angles[-1] + step / 2, len(angles))
    return odl.nonuniform_partition(angles)


def _prior(prior: Mapping[str, Any], X: Any, scale: float, folder: Path) -> Regulariser:
    kind = require({"prior": prior}, "prior", "kind")
    if kind in ("hard", "joint", "relaxed", "sparse", "sparse-tv"):
        weights = require({"prior": prior}, "prior", "weights")
        is_file = weights.endswith(".safetensors")
        G = load_generator(folder / weights if is_file else weights, range=X)
        if kind == "hard":
            return HardConstraint(G)
        if kind == "joint":
            return JointPrior(G)
        mu = require({"prior": prior}, "prior", "mu")
        if kind == "relaxed":
            return RelaxedConstraint(G, mu)
        return SparseDeviation(G, mu, sparsity="tv" if kind == "sparse-tv" else "l1")
    if kind == "tv":
        bounds = {name: prior[name] / scale for name in ("lower", "upper") if name in prior}
        return TotalVariation(X, **bounds)
    return Tikhonov(X)
