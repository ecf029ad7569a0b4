r"""Simulated limited-angle data of discs with holes, and rough reconstructions from them.

A rough reconstruction is the Tikhonov solution around the solid disc x_0,

    x = x_0 + (A^T A + α I)^{-1} A^T (y - A x_0),

a cheap linear map that says as much about the object as the data do, but with the streaks and the blur of the
missing directions. An encoder can learn to see through them: `genreg.training.fit_encoder`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from genreg.datasets.discs import DISC_RADIUS, FIELD_OF_VIEW
from genreg.datasets.fan_beam import HTCData
from genreg.operators.bridge.arguments import integer, integers, number, seeded_generator

_BINS = 140  # detector elements of 0.8 mm


def solid_disc(size: int) -> Tensor:
    """Return the image, ``(size, size)``, of a disc without holes in the middle of the field of view."""
    fine = 8
    line = (torch.arange(size * fine, dtype=torch.float32) + 0.5) * (
        FIELD_OF_VIEW / (size * fine)
    ) - FIELD_OF_VIEW / 2
    inside = line[:, None] ** 2 + line**2 < DISC_RADIUS**2
    return torch.nn.functional.avg_pool2d(inside.float()[None], fine)[0]


class LimitedAngleDiscs:
    """Pairs of images and of rough reconstructions from simulated limited-angle data.

    Fan-beam data of the challenge's geometry, views one degree apart and detectors binned by four, are
    computed on twice the resolution and disturbed like the measured ones: white noise that grows with the
    length of acrylic, and errors of the gain common to all views and of each view. The middle view looks
    along the first axis, as in `HTCData.aligned`. Images are turned by multiples of 90 degrees and
    mirrored at random.

    Parameters
    ----------
    images : Tensor
        Discs centred in the field of view, ``(N, 2 size, 2 size)``: float in [0, 1], or uint8 from 0 to 255.
    spans : sequence of int
        Even angular ranges in degrees; each batch has one of them.
    alpha : float
        The regularisation parameter α in mm².

    Raises
    ------
    ValueError
        If images, spans or alpha do not fit.
    """

    def __init__(
        self, images: Tensor, *, spans: Sequence[int] = (30, 40, 50, 60, 70, 80, 90), alpha: float = 3.0
    ) -> None:
        if images.ndim != 3 or images.shape[1] != images.shape[2] or images.shape[1] % 2 or not len(images):
            raise ValueError(f"images must have the shape (N, 2 size, 2 size), got {tuple(images.shape)}")
        spans, alpha = integers(spans, "spans"), number(alpha, "alpha", above=0)
        if any(s < 2 or s % 2 or s > 180 for s in spans):
            raise ValueError(f"spans must be even numbers of degrees, 2 to 180, got {spans}")
        from genreg.operators import ray_transform, to_torch

        self.images, self.spans, self.size = images, spans, images.shape[1] // 2
        widest = max(spans) / 2
        angles = np.arange(-widest, widest + 0.5)
        fine = HTCData(
            "simulated", torch.zeros(len(angles), _BINS, dtype=torch.float32), angles, None, 2 * self.size
        )
        coarse = dataclasses.replace(fine, size=self.size)
        self._views = len(angles)
        self._project = to_torch(ray_transform(fine.space, fine.geometry))
        A = ray_transform(coarse.space, coarse.geometry)
        # the Euclidean transpose is the adjoint times the ratio of the weights
        ratio = float(A.domain.weighting.const) / float(A.range.weighting.const)
        self._transpose, self._ratio = to_torch(A.adjoint), ratio
        self._solid = solid_disc(self.size)
        self._solid_data = to_torch(A)(self._solid)
        pixels = self.size**2
        # (pixels, views, bins)
        columns = to_torch(A)(torch.eye(pixels, dtype=torch.float32).view(pixels, self.size, self.size))
        self._inverse = {}
        for span in self.spans:
            J = columns[:, self._part(span)].flatten(1)
            normal = J @ J.T + alpha * torch.eye(pixels, dtype=torch.float32)
            self._inverse[span] = torch.cholesky_inverse(torch.linalg.cholesky(normal))

    def _part(self, span: int) -> slice:
        middle = self._views // 2
        return slice(middle - span // 2, middle + span // 2 + 1)

    def __call__(self, n: int, *, seed: int) -> tuple[Tensor, Tensor]:
        """Draw images and rough reconstructions, both ``(n, size, size)``."""
        n, random = integer(n, "n", minimum=1), seeded_generator(seed)

        def draw(high: int, shape: tuple[int, ...] = ()) -> Tensor:
            return torch.randint(high, shape, generator=random)

        span = self.spans[int(draw(len(self.spans)))]
        x = self.images[draw(len(self.images), (n,))]
        x = x.float() / 255 if x.dtype == torch.uint8 else x.float()
        x = torch.rot90(x, int(draw(4)), (1, 2))
        x = x.flip(2) if draw(2) else x
        with torch.autocast(x.device.type, enabled=False):  # there are no sparse products in bfloat16
            return self._pair(x, span, random)

    def _pair(self, x: Tensor, span: int, random: torch.Generator) -> tuple[Tensor, Tensor]:
        n = len(x)
        y = self._project(x.contiguous())
        y = y * (1 + 0.012 * torch.randn((n, 1, 1), generator=random, dtype=y.dtype))
        y = y * (1 + 0.004 * torch.randn((n, self._views, 1), generator=random, dtype=y.dtype))
        y = y + (0.06 + 0.3 * (y / 70).square()) * torch.randn(y.shape, generator=random, dtype=y.dtype)
        return torch.nn.functional.avg_pool2d(x, 2), self.rough(y, span)

    def rough(self, y: Tensor, span: int) -> Tensor:
        """Return rough reconstructions ``(B, size, size)`` from the middle views of ``(B, views, 140)``."""
        part = self._part(span)
        difference = torch.zeros_like(y)
        difference[:, part] = y[:, part] - self._solid_data[part]
        b = (self._ratio * self._transpose(difference)).flatten(1)
        return self._solid + (b @ self._inverse[span]).unflatten(1, (self.size, self.size))
