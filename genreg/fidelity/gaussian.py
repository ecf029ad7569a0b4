"""The fidelity of Gaussian noise."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import odl
import torch
from torch import Tensor

from genreg.fidelity.base import Fidelity, trailing
from genreg.operators import TorchFunctional, to_torch, weight
from genreg.solvers.door import per_sample_number
from genreg.solvers.line_search import inner

__all__ = ["GaussianFidelity"]


class GaussianFidelity(Fidelity):
    r"""The fidelity :math:`\frac{1}{2 \sigma^2} \|A(x) - y\|_2^2` of white Gaussian noise.

    The norm is the plain Euclidean one of the samples of the data, :math:`\sum_i |A(x)_i - y_i|^2`, not the
    weighted norm of the data space: σ is the standard deviation of the noise of one sample, and the negative
    log-likelihood is this functional up to a constant. The discrepancy is ‖A(x) - y‖², Morozov's level for it
    dim(Y) σ². Complex noise has the standard deviation σ in its real and in its imaginary part, and the level 2
    dim(Y) σ².

    Parameters
    ----------
    A : odl.Operator
        Forward operator X -> Y, linear or not.
    y : ODL element of Y, or Tensor
        Data; a tensor may have a leading batch axis, ``(B, *Y.shape)``. A functional with a batch of data has
        one value for every sample in torch, and cannot be called on a single ODL element.
    noise_std : float or Tensor
        σ > 0, or one for every sample, ``(B,)``.

    Raises
    ------
    TypeError, ValueError
        If `y` does not fit the range of `A` or is not finite, or `noise_std` is not positive.
    """

    def __init__(self, A: odl.Operator, y: Any, noise_std: float | Tensor) -> None:
        super().__init__(A, y)
        self.noise_std = per_sample_number(noise_std, "noise_std", self.data)
        self.inverse_variance = self.noise_std**-2

    @property
    def per_sample(self) -> Mapping[str, Tensor]:
        """The data y and 1 / σ²."""
        return {"y": self.data, "inverse_variance": self.inverse_variance}

    def misfit(self, Ax: Tensor, *, y: Tensor, inverse_variance: Tensor) -> Tensor:
        r"""Evaluate :math:`\frac{1}{2 \sigma^2} \|Ax - y\|^2` for every sample, ``(*batch, B)``."""
        r = Ax - y
        square = r.abs().square() if r.is_complex() else r.square()
        return 0.5 * inverse_variance * square.flatten(r.ndim - y.ndim + 1).sum(-1)

    @property
    def level(self) -> Tensor:
        """Morozov's level, the number of real numbers in the data times σ², ``(B,)``."""
        numbers = math.prod(self.data.shape[1:]) * (2 if self.data.is_complex() else 1)
        return numbers * self.noise_std**2

    def residual(self, x: Tensor) -> Tensor:
        """Sum of squares ‖A(x) - y‖² for every sample, ``(B,)``."""
        with torch.no_grad():
            r = to_torch(self.operator)(x) - self.data
            return inner(r, r)

    def discrepancy(self, x: Tensor) -> Tensor:
        """Sum of squares ‖A(x) - y‖² for every sample, ``(B,)``."""
        return self.residual(x)

    def take(self, index: Tensor) -> GaussianFidelity:
        """Return the fidelity for the data of the samples in `index`."""
        return GaussianFidelity(self.operator, self.data[index], self.noise_std[index])

    def on_data(self) -> TorchFunctional:
        r"""Return the fidelity as a functional of A(x), with its prox.

        In the inner product of Y with weight w, the prox of step s is :math:`(w q + s y / \sigma^2) / (w + s
        / \sigma^2)`.
        """
        Y, y, precision = self.operator.range, self.data, self.inverse_variance
        w = weight(Y)

        def prox(q: Tensor, step: float | Tensor) -> Tensor:
            scaled = trailing(step * precision, y) / w
            return torch.addcmul(q, scaled, y).div_(1 + scaled)

        def conj_prox(q: Tensor, step: float | Tensor, scale: float | Tensor) -> Tensor:
            strength = trailing(scale * precision, y) / w
            step = trailing(step, y)
            return (q - step * y) * (strength / (strength + step))

        return TorchFunctional(
            lambda q: self.misfit(q, y=y, inverse_variance=precision),
            Y,
            prox=prox,
            conj_prox=conj_prox,
            name="GaussianFidelity",
            take=lambda index: self.take(index).on_data(),
        )

    def __repr__(self) -> str:
        sigma = self.noise_std[0].item() if len(self.noise_std) == 1 else self.noise_std.tolist()
        return f"GaussianFidelity({self.operator!r}, noise_std={sigma})"
