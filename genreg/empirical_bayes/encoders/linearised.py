r"""Observations seen from one latent vector: scores, and the curvature that they have in common.

At a centre :math:`z_0`, with the Jacobian J of A there and the fidelity :math:`\mathcal{D}`, the *score* of an
observation is

.. math:: s = -J^T \nabla \mathcal{D}(A(z_0); y) , \qquad\text{and}\qquad H = J^T \,\overline{\nabla^2 \mathcal{D}}\, J

the mean curvature (Gauss and Newton's) of a sum over data. For a linear A and Gaussian noise s is
:math:`A^T (y - A z_0) / \sigma^2` and H is :math:`A^T A / \sigma^2`: then s says all that y says about z, whatever the
number of data. Complex data count as pairs of real ones.

References
----------
J. Alsing, B. Wandelt (2018), Generalized massive optimal data compression, arXiv:1712.00012.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from genreg.operators import to_torch
from genreg.operators.bridge.jacobians import jacobian
from genreg.operators.fidelity import Fidelity, GaussianFidelity
from genreg.operators.fidelity.base import trailing

_CHUNK = 2**24  # numbers of the data that are differentiated at a time


def real_data(y: Tensor) -> Tensor:
    """Data ``(n, *Y.shape)`` as real vectors ``(n, m)``."""
    return (torch.view_as_real(y) if y.is_complex() else y).flatten(1)


def shared_noise(fidelity: Fidelity) -> bool:
    """Whether the noise is Gaussian and that of one observation as that of another."""
    if not isinstance(fidelity, GaussianFidelity):
        return False
    precision = fidelity.inverse_variance
    return bool((precision == precision[:1]).all())


def is_sufficient(fidelity: Fidelity) -> bool:
    """Whether the score of an observation says all that it says about z."""
    return fidelity.operator.is_linear and shared_noise(fidelity)


def real_precision(fidelity: GaussianFidelity) -> Tensor:
    """1/σ² of the real data, ``(n, m)``, or ``(1, m)`` where it is that of all observations."""
    data, precision = fidelity.data, fidelity.inverse_variance
    if shared_noise(fidelity):
        data, precision = data[:1], precision[:1]
    precision = torch.as_tensor(trailing(precision, data)).expand(data.shape)
    return real_data(torch.complex(precision, precision) if data.is_complex() else precision)


class Linearised:
    """Scores and curvature of observations at a centre.

    Parameters
    ----------
    operator : odl.Operator
        A.
    centre : Tensor
        z_0, ``(*Z.shape)``.

    Attributes
    ----------
    jacobian : Tensor
        J, ``(m, p)``.
    """

    def __init__(self, operator: Any, centre: Tensor) -> None:
        forward: Any = to_torch(operator)
        J = jacobian(forward, centre[None])[0]  # (m, p)
        self.jacobian = torch.view_as_real(J).movedim(2, 1).flatten(0, 1) if J.is_complex() else J
        with torch.no_grad():
            self.value = forward(centre[None])

    def derivatives(self, fidelity: Fidelity) -> tuple[Tensor, Tensor]:
        """First and second derivatives of the misfit in every datum, ``(n, m)`` each, zero where there is none."""
        if isinstance(fidelity, GaussianFidelity):  # torch gives |r|² no second derivative at a complex r = 0
            second = real_precision(fidelity)
            first = second * (real_data(self.value) - real_data(fidelity.data))
            return first, second.expand(first.shape)
        complex_data = self.value.is_complex()
        with torch.enable_grad():
            at = self.value.expand(len(fidelity.data), *self.value.shape[1:]).clone()
            leaf = (torch.view_as_real(at) if complex_data else at).requires_grad_()
            predicted = torch.view_as_complex(leaf) if complex_data else leaf
            misfit = fidelity.misfit(predicted, **fidelity.per_sample).sum()
            (first,) = torch.autograd.grad(misfit, leaf, create_graph=True)
            second = torch.zeros_like(leaf)
            if first.requires_grad:
                second = torch.autograd.grad(first.sum(), leaf, materialize_grads=True)[0]
        return first.detach().flatten(1), second.flatten(1)

    def scores(self, fidelity: Fidelity) -> Tensor:
        """Scores of all observations, ``(n, p)``."""
        return torch.cat([-self.derivatives(part)[0] @ self.jacobian for part in _parts(fidelity)])

    def curvature(self, fidelity: Fidelity) -> Tensor:
        """H, ``(p, p)``."""
        total = sum(self.derivatives(part)[1].double().sum(0) for part in _parts(fidelity))
        mean = (total / len(fidelity.data)).clamp_min(0)  # type: ignore[union-attr]
        J = self.jacobian.double()
        return J.T @ (mean[:, None] * J)


def _parts(fidelity: Fidelity) -> list[Fidelity]:
    n = len(fidelity.data)
    size = max(1, _CHUNK // max(1, math.prod(fidelity.data.shape[1:])))
    if size >= n:
        return [fidelity]
    return [fidelity.take(index) for index in torch.arange(n, device=fidelity.data.device).split(size)]
