r"""Measured fan-beam data of the Helsinki Tomography Challenge 2022: acrylic discs with holes.

A sinogram y(θ, u) is the logarithm of the ratio of incoming to transmitted intensity. The X-rays are
polychromatic, so y is not proportional to the length l of acrylic on a ray but follows a curve that bends
(beam hardening),

    y = γ (f(l) - f(0)) + f(0),        f(l) = c_0 + c_1 l + c_2 l^2 + c_3 l^3 + c_4 l^4        (l in mm),

where f was fitted to the projections of the solid disc, whose chords are known, and γ is the gain of a
scan relative to that one (0.98 to 1.03). γ and the centre of a disc follow from the outermost millimetres
of its projections, where no disc has holes: `HTCData.fit_rim`. `HTCData.path_length` inverts the curve;
the ray transform of an image of the fraction of acrylic, values in [0, 1] on a space measured in mm, then
explains the data.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from genreg.datasets.discs import DISC_RADIUS, FIELD_OF_VIEW

if TYPE_CHECKING:
    from odl import DiscretizedSpace
    from odl.applications.tomo import FanBeamGeometry

__all__ = ["HTCData", "Rim", "htc2022"]

_SOURCE_ORIGIN, _SOURCE_DETECTOR = 410.66, 553.74  # mm
_DETECTORS, _DETECTOR_SIZE = 560, 0.2  # number, mm
_HARDENING = (0.0158977273, 0.0419770846, -8.68805954e-05, -2.02093324e-06, 1.47918074e-08)
_RECORD = "doi:10.5281/zenodo.8041800"


@dataclass(frozen=True)
class Rim:
    """Where the disc lies and how strong its scan is, fitted by `HTCData.fit_rim`.

    Attributes
    ----------
    centre : tuple of float
        Centre of the disc in mm, along the two axes of `HTCData.space`.
    gain : float
        Gain γ of the scan relative to that of the solid disc.
    residual : float
        Root mean square of the residual of the fit, in units of the sinogram.
    """

    centre: tuple[float, float]
    gain: float
    residual: float


@dataclass(frozen=True, eq=False)
class HTCData:
    """One disc of the challenge: a sinogram, how it was measured, and the reference segmentation.

    Attributes
    ----------
    name : str
        Name of the disc: "ta" to "td" and "solid_disc" (training), "01a" to "07a" (test; the number is the
        level).
    sinogram : Tensor
        Log-transformed projections, float32, shape ``(n_angles, n_detectors)``.
    angles : ndarray
        Angles of the views in degrees, equally spaced and increasing.
    reference : Tensor or None
        Reference segmentation, bool, shape (512, 512), True where there is acrylic; None if it is missing.
    size : int
        Pixels along each side of `space`.
    shift : tuple of float
        Centre of `space` in mm.
    turn : float
        Angle in degrees by which the object is turned in `space` with respect to the reference.
    """

    name: str
    sinogram: Tensor
    angles: np.ndarray
    reference: Tensor | None
    size: int = 512
    shift: tuple[float, float] = (0.0, 0.0)
    turn: float = 0.0

    @cached_property
    def space(self) -> DiscretizedSpace:
        """Space of images, `size` x `size` pixels (float32) over 75.9 mm x 75.9 mm; lengths are in mm."""
        import odl

        half = FIELD_OF_VIEW / 2
        low, high = [c - half for c in self.shift], [c + half for c in self.shift]
        return odl.uniform_discr(low, high, (self.size, self.size), dtype="float32")

    @cached_property
    def geometry(self) -> FanBeamGeometry:
        """Fan-beam geometry of the sinogram; with it neither the image nor the data need a flip."""
        import odl
        from odl.applications import tomo

        # ODL's first axis is the row of the image: its frame is turned by 90 degrees from the scanner's
        angles = np.deg2rad(self.angles + 90.0 + self.turn)
        half = (angles[-1] - angles[0]) / (len(angles) - 1) / 2
        width = _DETECTORS * _DETECTOR_SIZE / 2
        return tomo.FanBeamGeometry(
            odl.uniform_partition(angles[0] - half, angles[-1] + half, len(angles)),
            odl.uniform_partition(-width, width, self.sinogram.shape[1]),
            src_radius=_SOURCE_ORIGIN,
            det_radius=_SOURCE_DETECTOR - _SOURCE_ORIGIN,
        )

    def subset(self, start: float, span: float, *, step: float = 0.5) -> HTCData:
        """Limited-angle part of the data.

        Parameters
        ----------
        start : float
            First angle in degrees.
        span : float
            Difference of the last and the first angle in degrees.
        step : float, optional
            Difference of neighbouring angles in degrees.

        Returns
        -------
        HTCData
            The data of these views.

        Raises
        ------
        ValueError
            If fewer than two of these angles, or not all of them, were measured.
        """
        wanted = start + step * np.arange(int(np.floor(span / step + 1e-6)) + 1)
        index = np.abs(self.angles[None, :] - wanted[:, None]).argmin(axis=1)
        if len(wanted) < 2 or np.abs(self.angles[index] - wanted).max() > 1e-3:
            raise ValueError(
                f"start={start}, span={span}, step={step} must select at least two of the measured angles, "
                f"{self.angles[0]:g} to {self.angles[-1]:g} degrees in steps of "
                f"{self.angles[1] - self.angles[0]:g}"
            )
        return replace(self, sinogram=self.sinogram[torch.from_numpy(index)], angles=self.angles[index])

    def binned(self, factor: int) -> HTCData:
        """Average ``factor`` neighbouring detectors (a divisor of their number)."""
        n = self.sinogram.shape[1]
        if factor < 1 or n % factor:
            raise ValueError(f"factor must divide the number of detectors {n}, got {factor}")
        return replace(self, sinogram=self.sinogram.reshape(len(self.angles), n // factor, factor).mean(-1))

    def resized(self, size: int) -> HTCData:
        """Let `space` have ``size`` pixels along each side of the same field of view."""
        if size < 1:
            raise ValueError(f"size must be a positive number of pixels, got {size}")
        return replace(self, size=size)

    def aligned(self, rim: Rim | None = None) -> HTCData:
        """Centre `space` on the disc and turn it so that the middle view looks along its first axis.

        Every limited-angle problem then misses the same directions, which a network can rely on. `upright`
        brings an image back. ``rim`` is by default `fit_rim` of these data.
        """
        if self.turn or any(self.shift):
            raise ValueError(
                "aligned needs data in the frame of the reference, got data that are aligned already"
            )
        turn = -float(self.angles[0] + self.angles[-1]) / 2
        centre = _turned(np.array((rim or self.fit_rim()).centre), turn)
        return replace(self, turn=turn, shift=(float(centre[0]), float(centre[1])))

    def upright(self, image: Tensor, size: int = 512) -> Tensor:
        """Resample images from `space` to the frame of the reference by bicubic interpolation.

        Parameters
        ----------
        image : Tensor
            Images of `space`, shape ``(*batch, size of space, size of space)``.
        size : int, optional
            Pixels along each side of the result.

        Returns
        -------
        Tensor
            Shape ``(*batch, size, size)``; zero outside `space`.
        """
        if tuple(image.shape[-2:]) != (self.size, self.size):
            raise ValueError(
                f"image must have shape (*batch, {self.size}, {self.size}), got {tuple(image.shape)}"
            )
        line = (np.arange(size) + 0.5) * (FIELD_OF_VIEW / size) - FIELD_OF_VIEW / 2
        points = np.stack(np.meshgrid(line, line, indexing="ij"), axis=-1)  # (size, size, 2), mm
        points = (_turned(points, self.turn) - np.array(self.shift)) / (FIELD_OF_VIEW / 2)
        flat = image.reshape(-1, 1, self.size, self.size)
        grid = torch.from_numpy(points[..., ::-1].copy()).to(image).expand(len(flat), -1, -1, -1)
        out = torch.nn.functional.grid_sample(flat, grid, mode="bicubic", align_corners=False)
        return out.reshape(*image.shape[:-2], size, size)

    def fit_rim(self, depth: float = 3.0) -> Rim:
        """Fit centre and gain to the rays that cross no more than the outermost ``depth`` mm of the disc.

        Robust least squares (soft absolute value) for the two coordinates of the centre and γ; the radius is
        known.
        """
        from scipy.optimize import least_squares

        y = self.sinogram.double().numpy()
        u = (np.arange(y.shape[1]) + 0.5) * (
            _DETECTORS * _DETECTOR_SIZE / y.shape[1]
        ) - _DETECTORS * _DETECTOR_SIZE / 2
        found = np.array([0.0, 0.0, 1.0])
        for outside in (3.0, 1.5, 1.5, 1.5):
            distance = self._distance(found[:2], u)
            near = (distance > DISC_RADIUS - depth) & (distance < DISC_RADIUS + outside)

            def residual(p: np.ndarray, near: np.ndarray = near) -> np.ndarray:
                chord = 2 * np.sqrt(np.clip(DISC_RADIUS**2 - self._distance(p[:2], u)[near] ** 2, 0.0, None))
                return p[2] * (_hardening(chord) - _HARDENING[0]) + _HARDENING[0] - y[near]

            fit = least_squares(residual, found, loss="soft_l1", f_scale=0.02)
            found = fit.x
        return Rim(
            (float(found[0]), float(found[1])), float(found[2]), float(np.sqrt(np.mean(residual(found) ** 2)))
        )

    def _distance(self, centre: np.ndarray, u: np.ndarray) -> np.ndarray:
        """Distance in mm of a point (in the frame of the reference) to the rays, shape of the sinogram."""
        theta = np.deg2rad(self.angles)[:, None]
        across = centre[1] * np.cos(theta) - centre[0] * np.sin(theta)
        along = -centre[1] * np.sin(theta) - centre[0] * np.cos(theta)
        return np.abs(u * (along + _SOURCE_ORIGIN) - _SOURCE_DETECTOR * across) / np.hypot(
            u, _SOURCE_DETECTOR
        )

    def fit_gain(self, lengths: Tensor) -> float:
        """Fit the gain γ by least squares, given the lengths of acrylic in mm that a reconstruction predicts.

        More precise than the gain of `fit_rim`, which sees short rays only.
        """
        if lengths.shape != self.sinogram.shape:
            expected = tuple(self.sinogram.shape)
            raise ValueError(f"lengths must have the shape {expected}, got {tuple(lengths.shape)}")
        predicted = _hardening(lengths.double().numpy()) - _HARDENING[0]
        return float(predicted.ravel() @ (self.sinogram.double().numpy().ravel() - _HARDENING[0])) / float(
            (predicted**2).sum()
        )

    def path_length(self, gain: float = 1.0) -> Tensor:
        """Lengths of acrylic on the rays in mm, float32, with beam hardening and gain corrected.

        Parameters
        ----------
        gain : float, optional
            The gain γ of the scan, see `fit_rim`.

        Returns
        -------
        Tensor
            Shape of the sinogram. Lengths below zero are noise of rays that miss the disc.
        """
        if not gain > 0:
            raise ValueError(f"gain must be positive, got {gain}")
        lengths = np.linspace(-5.0, 75.0, 4001)
        y = (self.sinogram.double().numpy() - _HARDENING[0]) / gain + _HARDENING[0]
        return torch.from_numpy(np.interp(y, _hardening(lengths), lengths).astype(np.float32))


def htc2022(path: str | os.PathLike[str], *, size: int = 512) -> HTCData:
    """Load one disc of the Helsinki Tomography Challenge 2022.

    Parameters
    ----------
    path : str or path
        A file ``htc2022_*_full.mat`` or ``htc2022_*_limited.mat``, or the name of a disc ("ta", "07a",
        "solid_disc"), whose file is looked for in the folder ``htc2022`` of the one named by the environment
        variable ``GENREG_DATA``. The reference segmentation is read from the file ``*_seg.mat`` beside it.
    size : int, optional
        Pixels along each side of `HTCData.space`. The field of view is always that of the references, 512
        pixels of 0.2 mm / 1.3484.

    Returns
    -------
    HTCData
        Sinogram, geometry, space and reference.

    Raises
    ------
    FileNotFoundError
        If there is no such file; the message says where to get the data.
    ValueError
        If the file does not hold the challenge's structure, or its geometry is another one.

    References
    ----------
    Meaney, Silva de Moura, Siltanen (2022), Helsinki Tomography Challenge 2022 open tomographic dataset,
    doi:10.5281/zenodo.8041800 (CC BY 4.0).

    Examples
    --------
    >>> data = genreg.datasets.htc2022("ta", size=128).subset(0, 60)    # doctest: +SKIP
    >>> A = genreg.operators.ray_transform(data.space, data.geometry)   # doctest: +SKIP
    """
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise ValueError(f"size must be a positive number of pixels, got {size!r}")
    file = _find(path)
    name = (
        file.name.removeprefix("htc2022_").removesuffix(".mat").removesuffix("_full").removesuffix("_limited")
    )
    data = _read(file, ("CtDataFull", "CtDataLimited"))
    parameters = getattr(data, "parameters", None)
    sinogram = np.asarray(getattr(data, "sinogram", None))
    angles = np.asarray(getattr(parameters, "angles", None))
    if sinogram.dtype.kind != "f" or sinogram.ndim != 2 or angles.dtype.kind not in "fiu":
        raise ValueError(f"{file} must hold a 2-D floating-point sinogram and parameters.angles")
    angles = angles.astype(float).ravel()
    if sinogram.shape != (angles.size, _DETECTORS) or angles.size < 2:
        raise ValueError(
            f"sinogram in {file} must have the shape (number of angles >= 2, {_DETECTORS}), "
            f"got {sinogram.shape} with {angles.size} angles"
        )
    if not np.isfinite(sinogram).all():
        raise ValueError(f"sinogram in {file} must be finite, got NaN or infinite values")
    steps = np.diff(angles)
    if not (steps[0] > 0 and np.allclose(steps, steps[0], atol=1e-6)):
        raise ValueError(
            f"angles in {file} must increase in equal steps, got steps {steps.min()} to {steps.max()}"
        )
    for key, expected in (
        ("distanceSourceOrigin", _SOURCE_ORIGIN),
        ("distanceSourceDetector", _SOURCE_DETECTOR),
        ("pixelSizePost", _DETECTOR_SIZE),
        ("numDetectorsPost", _DETECTORS),
    ):
        found = getattr(parameters, key, None)
        if not isinstance(found, (int, float)) or abs(found - expected) > 1e-6:
            raise ValueError(f"parameters.{key} in {file} must be {expected}, got {found}")
    return HTCData(name, torch.from_numpy(sinogram.astype(np.float32)), angles, _reference(file), size)


def _find(path: str | os.PathLike[str]) -> Path:
    """File of a path or of the name of a disc."""
    file = Path(path)
    if file.suffix == ".mat":
        candidates = [file]
    else:
        folder = os.environ.get("GENREG_DATA")
        if folder is None:
            raise FileNotFoundError(
                "path must be a .mat file, or the name of a disc with GENREG_DATA set to the data folder, "
                f"got {str(path)!r} and no GENREG_DATA (the files: {_RECORD})"
            )
        candidates = [Path(folder) / "htc2022" / f"htc2022_{path}_{kind}.mat" for kind in ("full", "limited")]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise FileNotFoundError(f"no file {' or '.join(map(str, candidates))}; the data are on Zenodo, {_RECORD}")


def _read(file: Path, keys: tuple[str, ...]) -> Any:
    """Return the variable of a MATLAB file that has one of these names."""
    import scipy.io

    try:
        content = scipy.io.loadmat(file, squeeze_me=True, struct_as_record=False)
    except Exception as error:  # scipy raises many types on damaged files
        raise ValueError(f"{file} must be a readable MATLAB file (version 5), got: {error}") from error
    for key in keys:
        if key in content:
            return content[key]
    found = sorted(k for k in content if not k.startswith("__"))
    raise ValueError(f"{file} must hold the variable {' or '.join(keys)}, got {found}")


def _reference(file: Path) -> Tensor | None:
    stem = file.name.removesuffix(".mat")
    for name in (f"{stem}_recon_fbp_seg.mat", f"{stem.removesuffix('_limited')}_recon_fbp_seg.mat"):
        if (file.parent / name).is_file():
            image = np.asarray(_read(file.parent / name, ("reconFullFbpSeg",)))
            if image.shape != (512, 512):
                raise ValueError(
                    f"reference in {file.parent / name} must be 512 x 512, got shape {image.shape}"
                )
            return torch.from_numpy(image.astype(bool))
    return None


def _turned(points: np.ndarray, degrees: float) -> np.ndarray:
    """Rotate points (..., 2) by an angle in the orientation of the axes of the space."""
    c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    return np.stack(
        [c * points[..., 0] - s * points[..., 1], s * points[..., 0] + c * points[..., 1]], axis=-1
    )


def _hardening(length: np.ndarray) -> np.ndarray:
    """Return f(length), the expected logarithm behind ``length`` mm of acrylic."""
    return np.polynomial.polynomial.polyval(length, _HARDENING)
