r"""Data fidelities: how far A(x) is from the data y."""

from __future__ import annotations

import math
from typing import Any

import odl
import torch
from odl.functionals import Functional
from torch import Tensor

from genreg.operators import TorchFunctional, lower, riesz, to_element, to_tensor, to_torch, weight
from genreg.solvers.door import enter, is_element
from genreg.solvers.line_search import inner

__all__ = ["GaussianFidelity"]


class GaussianFidelity(Functional):
    r"""The fidelity :math:`\frac{1}{2 \sigma^2} \|A(x) - y\|_2^2` of white Gaussian noise.

    The norm is the plain Euclidean one of the samples of the data, :math:`\sum_i |A(x)_i - y_i|^2`, not the
    weighted norm of the data space: σ is the standard deviation of the noise of one sample, and the negative
    log-likelihood is this functional up to a constant. Morozov's level for ‖A(x) - y‖² is dim(Y) σ².

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
        if not isinstance(A, odl.Operator):
            raise TypeError(f"A must be an ODL operator, got {type(A).__name__}")
        super().__init__(space=A.domain, linear=False)
        self.operator = A
        door = enter(y, {"y": A.range}, "y")
        self.data = door.blocks["y"]  # (B, *Y.shape)
        self.batched = door.batched
        self.from_element = is_element(y)
        self.noise_std = _positive(noise_std, "noise_std", self.data)
        self.inverse_variance = self.noise_std**-2

    @property
    def level(self) -> Tensor:
        """Morozov's level dim(Y) σ², ``(B,)``."""
        return math.prod(self.data.shape[1:]) * self.noise_std**2

    @staticmethod
    def misfit(Ax: Tensor, y: Tensor, inverse_variance: Tensor) -> Tensor:
        r"""Evaluate :math:`\frac{1}{2 \sigma^2} \|Ax - y\|^2` for every sample, ``(*batch, B)``."""
        r = Ax - y
        square = r.abs().square() if r.is_complex() else r.square()
        return 0.5 * inverse_variance * square.flatten(r.ndim - y.ndim + 1).sum(-1)

    def residual(self, x: Tensor) -> Tensor:
        """Sum of squares ‖A(x) - y‖² for every sample, ``(B,)``."""
        with torch.no_grad():
            r = to_torch(self.operator)(x) - self.data
            return inner(r, r)

    def take(self, index: Tensor) -> GaussianFidelity:
        """The same fidelity for the data of the samples in `index`."""
        return GaussianFidelity(self.operator, self.data[index], self.noise_std[index])

    def on_data(self) -> TorchFunctional:
        r"""The fidelity as a functional of A(x), with its prox: for solvers that treat A as an operator of its own.

        In the inner product of Y with weight w, the prox of step s is :math:`(w q + s y / \sigma^2) / (w + s
        / \sigma^2)`.
        """
        Y, y, precision = self.operator.range, self.data, self.inverse_variance
        w = float(weight(Y))
        trailing = (1,) * (y.ndim - 1)

        def prox(q: Tensor, step: float | Tensor) -> Tensor:
            scaled = (step * precision / w).view(-1, *trailing)
            return torch.addcmul(q, scaled, y).div_(1 + scaled)

        def conj_prox(q: Tensor, step: float | Tensor, scale: float | Tensor) -> Tensor:
            strength = (scale * precision / w).view(-1, *trailing)
            step = step.view(-1, *trailing) if isinstance(step, Tensor) else step
            return (q - step * y) * (strength / (strength + step))

        return TorchFunctional(
            lambda q: self.misfit(q, y, precision),
            Y,
            prox=prox,
            conj_prox=conj_prox,
            name="GaussianFidelity",
            take=lambda index: self.take(index).on_data(),
        )

    def _single(self) -> Tensor:
        if len(self.data) > 1:
            raise ValueError(
                f"a fidelity with a batch of {len(self.data)} data has no single value; lower it with to_torch, "
                "or give it the data of one sample"
            )
        return self.data

    def _call(self, x: Any) -> float:
        self._single()
        with torch.no_grad():
            return float(to_torch(self)(to_tensor(x)[None]))

    @property
    def gradient(self) -> odl.Operator:
        r"""Riesz gradient :math:`A'(x)^* (A(x) - y) / (\sigma^2 w_Y)`."""
        return _FidelityGradient(self)

    def __repr__(self) -> str:
        sigma = self.noise_std[0].item() if len(self.noise_std) == 1 else self.noise_std.tolist()
        return f"GaussianFidelity({self.operator!r}, noise_std={sigma})"


class _FidelityGradient(odl.Operator):
    def __init__(self, fidelity: GaussianFidelity) -> None:
        super().__init__(fidelity.domain, fidelity.domain, linear=False)
        self.fidelity = fidelity

    def _call(self, x: Any) -> Any:
        fidelity, A = self.fidelity, self.fidelity.operator
        r = (to_tensor(A(x)) - fidelity._single()[0]) * fidelity.inverse_variance[0]
        return A.derivative(x).adjoint(to_element(A.range, riesz(A.range, r)))


@lower.register(GaussianFidelity)
def _(op: GaussianFidelity) -> TorchFunctional:
    A, y, precision = to_torch(op.operator).fn, op.data, op.inverse_variance
    axes = y.ndim - 1

    def value(x: Tensor) -> Tensor:
        Ax = A(x)
        if Ax.ndim == axes:  # a sample without batch axis
            return op.misfit(Ax[None], y, precision)[0]
        return op.misfit(Ax, y, precision)

    return TorchFunctional(value, op.domain, name="GaussianFidelity")


def _positive(value: float | Tensor, name: str, data: Tensor) -> Tensor:
    """A positive parameter as a tensor, one for every sample of `data`."""
    tensor = torch.as_tensor(value, dtype=data.real.dtype, device=data.device)
    if tensor.ndim > 1 or (tensor.ndim == 1 and len(tensor) != len(data)):
        raise ValueError(
            f"{name} must be a number or have the shape ({len(data)},), got {tuple(tensor.shape)}"
        )
    if not bool(((tensor > 0) & torch.isfinite(tensor)).all()):
        raise ValueError(f"{name} must be positive and finite, got {value}")
    return tensor.expand(len(data))
