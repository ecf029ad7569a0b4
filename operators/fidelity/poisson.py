"""The fidelity of counts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import odl
import torch
from torch import Tensor

from genreg.operators.bridge.lowered import TorchFunctional
from genreg.operators.bridge.weights import weight
from genreg.operators.fidelity.base import Fidelity, per_datum, trailing
from genreg.operators.fidelity.transmission import transmission_prox
from genreg.operators.linear.least_squares import rough_reconstruction
from genreg.operators.lowering.functionals import kullback_leibler_prox


class PoissonFidelity(Fidelity):
    r"""The fidelity of Poisson-distributed counts, :math:`\sum_i \bar y_i - y_i + y_i \log(y_i / \bar y_i)`.

    The expected counts :math:`\bar y` are

    * in emission (PET, SPECT, microscopy): :math:`\bar y = A(x) + b`,
    * in transmission (X-ray tomography): :math:`\bar y = I_0 e^{-A(x)} + b`, where `intensity` gives
      :math:`I_0`.

    This Kullback-Leibler divergence is the negative log-likelihood up to a constant, at least 0, and 0 where
    the counts are those expected (:math:`0 \log 0 = 0`); the sum carries no weight of the data space. Where
    counts are impossible, :math:`\bar y_i < 0`, or :math:`\bar y_i = 0 < y_i`, it is infinite. Emission is
    convex for linear A. Transmission is convex without background; with background it is not where the
    counts exceed what is expected by far, :math:`\bar y_i < \sqrt{b y_i}`.

    The discrepancy is twice the value, the deviance, and its level dim(Y): the expectation of the deviance of
    one datum tends to 1 as :math:`\bar y_i` grows (Zanella et al.). It is 1.003 for :math:`\bar y_i = 50`,
    1.05 for 5, 1.15 for 1 and 0.47 for 0.1, so that for data of very few counts the principle chooses λ too
    small or too large (Bevilacqua et al.).

    Parameters
    ----------
    A : odl.Operator
        Forward operator X -> Y, linear or not.
    y : ODL element of Y, Tensor or array
        Counts, >= 0, not necessarily integers; a tensor or an array may have a leading batch axis, ``(B, *Y.shape)``.
    background : float, Tensor, array or ODL element of Y
        b >= 0, the expected counts of scatter, randoms and the like: a number, one for every sample,
        ``(B,)``, one for every datum, ``Y.shape``, or ``(B, *Y.shape)``; axes of length 1 broadcast.
    intensity : float, Tensor, array or ODL element of Y, optional
        :math:`I_0 > 0`, the counts expected without an object, likewise. Without it the model is emission.

    Raises
    ------
    TypeError, ValueError
        If `y` does not fit the range of `A`, is negative or not finite, or if `background` or `intensity`
        does not fit `y`, has the wrong sign or is not finite.

    References
    ----------
    R. Zanella, P. Boccacci, L. Zanni, M. Bertero (2009), Efficient gradient projection methods for
    edge-preserving removal of Poisson noise, doi:10.1088/0266-5611/25/4/045010.
    F. Bevilacqua, A. Lanza, M. Pragliola, F. Sgallari (2021), Nearly exact discrepancy principle for low-count
    Poisson image restoration, doi:10.3390/jimaging8010001.
    """

    def __init__(
        self,
        A: odl.Operator,
        y: Any,
        *,
        background: Any = 0.0,
        intensity: Any = None,
    ) -> None:
        super().__init__(A, y)
        if self.data.is_complex():
            raise TypeError(f"A must have a real range for counts, got {A.range!r}")
        if not bool((self.data >= 0).all()):
            raise ValueError(f"y must be counts, >= 0, got {int((self.data < 0).sum())} negative values")
        self.background = per_datum(background, "background", self.data)
        if not bool((self.background >= 0).all()):
            raise ValueError(f"background must be >= 0, got {self.background.min().item():g}")
        self.intensity = None if intensity is None else per_datum(intensity, "intensity", self.data)
        if self.intensity is not None and not bool((self.intensity > 0).all()):
            raise ValueError(f"intensity must be positive, got {self.intensity.min().item():g}")

    @property
    def per_sample(self) -> Mapping[str, Tensor]:
        """The data y, the background b and, in transmission, the intensity."""
        values = {"y": self.data, "background": self.background}
        return values if self.intensity is None else {**values, "intensity": self.intensity}

    def misfit(self, Ax: Tensor, *, y: Tensor, background: Tensor, intensity: Tensor | None = None) -> Tensor:
        """Evaluate the divergence for every sample, ``(*batch, B)``."""
        expected = Ax + background if intensity is None else intensity * torch.exp(-Ax) + background
        return _divergence(expected, y).flatten(Ax.ndim - y.ndim + 1).sum(-1)

    @property
    def offers(self) -> frozenset[str]:
        """A gradient and a curvature."""
        return frozenset({"gradient", "curvature"})

    def curvature(
        self, Ax: Tensor, *, y: Tensor, background: Tensor, intensity: Tensor | None = None
    ) -> Tensor:
        r""":math:`y / \bar y^2` in emission, :math:`(\bar y - b) (1 - y b / \bar y^2)` in transmission.

        The latter is taken as 0 where it is negative.
        """
        if intensity is None:
            expected = Ax + background
            return torch.where((y > 0) & (expected > 0), y / expected.square(), 0.0)
        signal = intensity * torch.exp(-Ax)
        return (signal * (1 - y * background / (signal + background).square())).clamp_min(0)

    @property
    def level(self) -> Tensor:
        """The expected deviance dim(Y), ``(B,)``."""
        return torch.full_like(self.data.flatten(1)[:, 0], math.prod(self.data.shape[1:]))

    @property
    def log_normaliser(self) -> Tensor:
        r""":math:`\sum_i y_i - y_i \log y_i + \log\Gamma(y_i + 1)`, ``(B,)``."""
        y = self.data
        return (y - torch.xlogy(y, y) + torch.lgamma(y + 1)).flatten(1).sum(1)

    def discrepancy(self, x: Tensor) -> Tensor:
        """The deviance, twice the value, ``(B,)``."""
        return 2 * super().discrepancy(x)

    def take(self, index: Tensor) -> PoissonFidelity:
        """Return the fidelity for the data of the samples in `index`."""
        intensity = None if self.intensity is None else self.intensity[index]
        return PoissonFidelity(
            self.operator, self.data[index], background=self.background[index], intensity=intensity
        )

    def on_data(self) -> TorchFunctional:
        """Return the fidelity as a functional of A(x), with its prox.

        In emission the prox is the root of a quadratic equation; in transmission it is found by Newton's
        method, and is that of a functional that is not convex where there is background.
        """
        Y, y, b, intensity = self.operator.range, self.data, self.background, self.intensity
        w, per_sample = weight(Y), self.per_sample

        def prox(q: Tensor, step: float | Tensor) -> Tensor:
            step = trailing(step, y) / w
            if intensity is None:
                return kullback_leibler_prox(q + b, y, step) - b
            return transmission_prox(q, y, intensity, b, step)

        return TorchFunctional(
            lambda q: self.misfit(q, **per_sample),
            Y,
            prox=prox,
            name="PoissonFidelity",
            take=lambda index: self.take(index).on_data(),
        ).pickled_as(PoissonFidelity.on_data, self)

    def rough(self) -> Tensor:
        r"""Return a rough reconstruction to start from, ``(B, *X.shape)``: a few steps of least squares.

        In emission they fit A(x) to y - b, and a sample without a finite value there is raised to at least
        1 % of its maximum; in transmission they fit A(x) to :math:`-\log((y - b) / I_0)`, with at least half
        a count.
        """
        counts = self.data - self.background
        if self.intensity is not None:
            least = (0.5 * self.intensity).clamp_max(0.5)
            return rough_reconstruction(
                self.operator, torch.log(self.intensity / torch.maximum(counts, least))
            )
        x = rough_reconstruction(self.operator, counts)
        finite = torch.isfinite(super().discrepancy(x))
        floor = 0.01 * x.flatten(1).amax(1)
        return torch.where(trailing(finite, x), x, torch.maximum(x, trailing(floor, x)))

    def __repr__(self) -> str:
        def shown(value: Tensor) -> str:
            return f"{value.flatten()[0].item():g}" if value.numel() == 1 else f"<{tuple(value.shape)}>"

        intensity = "" if self.intensity is None else f", intensity={shown(self.intensity)}"
        return f"PoissonFidelity({self.operator!r}, background={shown(self.background)}{intensity})"


def _divergence(expected: Tensor, y: Tensor) -> Tensor:
    r"""Evaluate :math:`\bar y - y + y \log(y / \bar y)` for every datum.

    It is y (r - log(1 + r)) with :math:`r = (\bar y - y) / y`, which loses no digits where the counts are
    large and close to those expected. Impossible and undefined data have the gradient 0.
    """
    counted = y > 0
    possible = ((expected > 0) | (~counted & (expected == 0))) & (expected < math.inf)
    expected = torch.where(possible, expected, 1.0)
    positive = torch.where(counted, y, 1.0)
    r = (expected - positive) / positive
    near = r.abs() < 0.5
    ratio = torch.where(near | ~counted, 1.0, expected / positive)
    logarithm = torch.where(near, torch.log1p(torch.where(near, r, 0.0)), torch.log(ratio))
    value = torch.where(counted, positive * (r - logarithm), expected)
    return torch.where(possible, value, math.inf)
