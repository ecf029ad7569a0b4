r"""Reconstruct a data file as a TOML configuration says: ``genreg reconstruct config.toml``.

A configuration has up to six tables; what is in brackets here may be left out::

    [data]
    file = "sinogram.npy"          # npy, npz, mat or h5, (angles, pixels); relative to the configuration
    key = "exchange/data"          # the array in an npz, mat (dots into structs) or h5 file
    noise_std = 0.05               # standard deviation of one sample of the sinogram that is reconstructed
    [white = "exchange/data_white"]  # raw projections: keys of the frames without the object,
    [dark = "exchange/data_dark"]    # and without the beam; the sinogram is -log((data - dark) / (white - dark))
    [slice = 0]                    # of arrays (angles, slices, pixels); frames are then (slices, pixels), or several
    [angles_every = 4]             # take every fourth of the different angles
    [bin = 2]                      # average neighbouring pixels

    [image]
    shape = [56, 56]
    min = [-1.0, -1.0]             # corners, in any unit of length
    max = [1.0, 1.0]

    [geometry]
    kind = "parallel"              # or "fan", with a flat detector
    angles = {start = 0, stop = 180, count = 40}   # degrees, without stop; or a list; or {key = "exchange/theta"};
                                   # one, and some several times, are allowed
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
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import odl

from genreg.cli.data_files import averaged, load_angles, load_array, sinogram
from genreg.cli.settings import Settings, read, require
from genreg.generator import load_generator
from genreg.operators import ray_transform, to_tensor
from genreg.reconstruction.variational import Reconstruction, reconstruct
from genreg.regularisers import (
    HardConstraint,
    JointPrior,
    Regulariser,
    RelaxedConstraint,
    SparseDeviation,
    Tikhonov,
    TotalVariation,
)
from genreg.solvers.checkpoints import atomically

__all__ = ["load_array", "reconstruct_file"]

_LARGEST = 2**31 - 1  # pixels that an index of four bytes counts, as those of sparse matrices do


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
    _check_writable(target)
    prior, scale = settings["prior"], settings["prior"].get("scale", 1.0)
    degrees, y, noise_std = _measurements(settings, file)
    A = ray_transform(_space(settings), _geometry(settings, degrees, y.shape[1]))
    rec = reconstruct(
        A,
        A.range.element(np.ascontiguousarray(y / scale, dtype="float32")),
        _prior(prior, A.domain, scale, config.parent),
        noise_std=noise_std / scale,
        progress=progress,
        **settings["solve"],
    )
    _write(to_tensor(rec.image).numpy(force=True) * scale, target)
    return rec, target


def _check_writable(target: Path) -> None:
    """Find out before the work whether there is a place for its result."""
    folder = next(parent for parent in target.absolute().parents if parent.exists())
    if target.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
        raise ValueError(f"output.file must be a file that can be written, got {target}")


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


def _measurements(settings: Settings, file: Path) -> tuple[np.ndarray, np.ndarray, float]:
    """Angles in ascending order, several times those measured so, the sinogram and its noise; of all or a part."""
    noise_std = require(settings, "data", "noise_std")
    data, detector = settings["data"], require(settings, "geometry", "detector")
    angles = require(settings, "geometry", "angles")
    if isinstance(angles, Mapping) and "key" in angles:
        angles = load_angles(file, angles["key"])
    elif isinstance(angles, Mapping):
        angles = np.linspace(angles["start"], angles["stop"], angles["count"], endpoint=False)
    degrees = np.asarray(angles, dtype=float)
    if not len(degrees) or not np.isfinite(degrees).all():
        raise ValueError(f"geometry.angles must be at least one finite angle in degrees, got {degrees}")

    projections, row = load_array(file, data.get("key")), data.get("slice")
    if len(degrees) == 1 and projections.ndim == (1 if row is None else 2):
        projections = projections[None]  # the only one
    expected, shape = (len(degrees), detector["pixels"]), projections.shape
    if projections.ndim in (2, 3) and shape[:: projections.ndim - 1] != expected:
        hint = "; its axes are the other way round" if shape == expected[::-1] else ""
        raise ValueError(
            f"data must have the shape {expected} (angles, detector pixels) that the configuration describes, or "
            f"slices of it between the two axes, got {shape} in {file}{hint}"
        )
    frames = {
        name: load_array(file, data[name], entry=f"data.{name}") for name in ("white", "dark") if name in data
    }
    if not frames and projections.dtype.kind != "f":
        warnings.warn(
            f"data in {file} are integers, {projections.dtype}, as raw projections are, and are taken for a sinogram; "
            "data.white names the frames that make one of raw projections",
            UserWarning,
            stacklevel=3,
        )
    y = sinogram(projections, row=row, **frames)
    if bad := int((~np.isfinite(y)).sum()):
        raise ValueError(f"data must be finite, got {bad} NaN or infinite values in {file}")

    order = np.argsort(degrees, kind="stable")
    order = order[np.isin(degrees[order], np.unique(degrees)[:: data.get("angles_every", 1)])]
    degrees, y = degrees[order], averaged(y[order], data.get("bin", 1))
    if (
        len(y) > 1 and degrees[0] == degrees[-1]
    ):  # one projection, measured better: no geometry repeats one angle
        return degrees[:1], y.mean(0, keepdims=True), noise_std / math.sqrt(len(y))
    return degrees, y, noise_std


def _space(settings: Settings) -> odl.DiscretizedSpace:
    low, high, shape = (require(settings, "image", entry) for entry in ("min", "max", "shape"))
    sides = [(b - a) / n for a, b, n in zip(low, high, shape, strict=True)]
    if math.prod(shape) > _LARGEST:
        raise ValueError(f"image.shape must have at most {_LARGEST} pixels, got {shape}")
    if min(sides) <= 0:
        raise ValueError(f"image.max must be larger than image.min, got pixels with sides of {sides}")
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
    if len(angles) == 1:  # stands for all directions
        return odl.uniform_partition(angles[0] - math.pi / 2, angles[0] + math.pi / 2, 1)
    step = (angles[-1] - angles[0]) / (len(angles) - 1)
    if np.abs(np.diff(angles) - step).max() < 1e-3 * step:
        return odl.uniform_partition(angles[0] - step / 2, angles[-1] + step / 2, len(angles))
    # Grid points must differ: angles measured several times do by far less than a ray could show.
    distinct, first = np.unique(angles, return_index=True)
    repeat = np.arange(len(angles)) - np.repeat(first, np.diff(first, append=len(angles)))
    return odl.nonuniform_partition(angles + repeat * min(1e-9, np.diff(distinct).min() / (2 * len(angles))))


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
