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

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from genreg.datasets.discs import DISC_RADIUS, FIELD_OF_VIEW
from genreg.operators.bridge.arguments import number

if TYPE_CHECKING:
    from odl import DiscretizedSpace
    from odl.applications.tomo import FanBeamGeometry

__all__ = ["DETECTORS", "DETECTOR_SIZE", "SOURCE_DETECTOR", "SOURCE_ORIGIN", "HTCData", "Rim"]

SOURCE_ORIGIN, SOURCE_DETECTOR = 410.66, 553.74  # mm
DETECTORS, DETECTOR_SIZE = 560, 0.2  # number, mm
_HARDENING = (0.0158977273, 0.0419770846, -8.68805954e-05, -2.02093324e-06, 1.47918074e-08)


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
        width = DETECTORS * DETECTOR_SIZE / 2
        return tomo.FanBeamGeometry(
            odl.uniform_partition(angles[0] - half, angles[-1] + half, len(angles)),
            odl.uniform_partition(-width, width, self.sinogram.shape[1]),
            src_radius=SOURCE_ORIGIN,
            det_radius=SOURCE_DETECTOR - SOURCE_ORIGIN,
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

        y = self.sinogram.double().numpy(force=True)
        u = (np.arange(y.shape[1]) + 0.5) * (
            DETECTORS * DETECTOR_SIZE / y.shape[1]
        ) - DETECTORS * DETECTOR_SIZE / 2
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
        return np.abs(u * (along + SOURCE_ORIGIN) - SOURCE_DETECTOR * across) / np.hypot(u, SOURCE_DETECTOR)

    def fit_gain(self, lengths: Tensor) -> float:
        """Fit the gain γ by least squares, given the lengths of acrylic in mm that a reconstruction predicts.

        More precise than the gain of `fit_rim`, which sees short rays only.
        """
        if lengths.shape != self.sinogram.shape:
            expected = tuple(self.sinogram.shape)
            raise ValueError(f"lengths must have the shape {expected}, got {tuple(lengths.shape)}")
        predicted = _hardening(lengths.double().numpy(force=True)) - _HARDENING[0]
        return float(
            predicted.ravel() @ (self.sinogram.double().numpy(force=True).ravel() - _HARDENING[0])
        ) / float((predicted**2).sum())

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
        gain = number(gain, "gain", above=0)
        lengths = np.linspace(-5.0, 75.0, 4001)
        y = (self.sinogram.double().numpy(force=True) - _HARDENING[0]) / gain + _HARDENING[0]
        return torch.from_numpy(np.interp(y, _hardening(lengths), lengths).astype(np.float32))


def _turned(points: np.ndarray, degrees: float) -> np.ndarray:
    """Rotate points (..., 2) by an angle in the orientation of the axes of the space."""
    c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    return np.stack(
        [c * points[..., 0] - s * points[..., 1], s * points[..., 0] + c * points[..., 1]], axis=-1
    )


def _hardening(length: np.ndarray) -> np.ndarray:
    """Return f(length), the expected logarithm behind ``length`` mm of acrylic."""
    return np.polynomial.polynomial.polyval(length, _HARDENING)
