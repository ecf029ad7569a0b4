r"""Isotropic total variation with its proximal operator, batched.

The prox of step τ at t is :math:`u = t - \tau \nabla^* q`, where the dual field q solves

.. math:: \min_{|q_i|_2 \le 1}\ \tfrac12 \|t - \tau \nabla^* q\|_X^2,

by accelerated projected gradients. With a memory, a call takes a small number of steps, from the dual field of the last
call: the closer the points at which a solver calls the prox, the more exact it becomes. Without a memory, as in
`genreg.TotalVariation`, a call starts from zero and takes as many steps as it needs.

References
----------
A. Beck, M. Teboulle (2009), Fast gradient-based algorithms for constrained total variation image denoising and
deblurring problems, doi:10.1109/TIP.2009.2028250.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import odl
import torch
from torch import Tensor

from genreg.operators.bridge.arguments import integer, number
from genreg.operators.bridge.lowered import Step, TorchFunctional, TorchOperator, append_axes
from genreg.operators.bridge.spaces import space_shape, to_element, to_tensor
from genreg.operators.bridge.translation import lower, to_torch
from genreg.operators.lowering.building_blocks import weighted_sum
from genreg.operators.lowering.fields import sum_of_squares


class _Dual:
    """The dual fields q of a batch, kept between calls of the prox."""

    def __init__(
        self, space: Any, iterations: int, rtol: float, memory: bool, fields: Tensor | None = None
    ) -> None:
        self.gradient = odl.Gradient(space, method="forward", pad_mode="symmetric")
        self.forward = to_torch(self.gradient).fn
        self.backward = to_torch(self.gradient).adjoint.fn
        self.total = weighted_sum(space)
        self.space, self.ndim = space, len(space_shape(space))
        self.norm_sq = 4 * sum(1 / float(h) ** 2 for h in space.cell_sides)
        self.iterations, self.rtol, self.memory, self.fields = iterations, rtol, memory, fields

    def prox(self, t: Tensor, step: Step) -> Tensor:
        s, axis = append_axes(step, self.ndim), -self.ndim - 1  # the axis of the components of q
        # multiplies q: (*batch, 1, 1, ...)
        outer = s.unsqueeze(axis) if isinstance(s, Tensor) and s.ndim else s
        shape = (*t.shape[: t.ndim - self.ndim], self.ndim, *t.shape[t.ndim - self.ndim :])
        q = self.fields
        if q is None or q.shape != shape or q.dtype != t.dtype or q.device != t.device:
            q = t.new_zeros(shape)
        ahead, age = q, 1.0
        with torch.no_grad():
            for k in range(1, self.iterations + 1):
                u = t - s * self.backward(ahead)
                moved = ahead + self.forward(u) / (outer * self.norm_sq)
                new = moved * sum_of_squares(moved, axis).unsqueeze(axis).clamp_min(1.0).rsqrt()
                older, age = age, (1 + math.sqrt(1 + 4 * age**2)) / 2
                ahead, q = new + (older - 1) / age * (new - q), new
                if k % 10 == 0 and self._exact(t, s, q):
                    break
            if self.memory:
                self.fields = q
            return t - s * self.backward(q)

    def _exact(self, t: Tensor, s: Any, q: Tensor) -> bool:
        """Whether the duality gap, TV(u) - Re <q, ∇u>, is at most `rtol` TV(u) in every sample."""
        axis = -self.ndim - 1
        difference = self.forward(t - s * self.backward(q))
        length = sum_of_squares(difference, axis).sqrt()
        gap = self.total(length - (q.conj() * difference).real.sum(axis))
        return bool((gap <= self.rtol * self.total(length)).all())


def total_variation(
    space: Any, *, iterations: int = 30, rtol: float = 1e-6, memory: bool = True
) -> TorchFunctional:
    r"""Return :math:`\| |\nabla x|_2 \|_1` on batches, with a prox.

    The gradient is by forward differences with no difference across the boundary, divided by the cell size;
    the sum carries the cell volume: the values are those of ``GroupL1Norm(D.range) * D`` with ``D =
    odl.Gradient(space, method="forward", pad_mode="symmetric")``. Every call of `total_variation` gives a
    functional with a memory of its own, see the module's docstring; `take` takes the memory along.

    Parameters
    ----------
    space : DiscretizedSpace
        The image space X, real or complex.
    iterations : int
        Largest number of dual steps of one prox.
    rtol : float
        Duality gap, relative to the value, below which a prox ends early.
    memory : bool
        Start every prox from the end of the last one. Without it the prox is a function of its arguments alone, and
        takes more iterations.

    Raises
    ------
    TypeError
        If `space` is not a discretised function space, or a setting not a number.
    ValueError
        If `iterations` is not positive, or `rtol` negative.
    """
    if not hasattr(space, "cell_sides"):
        raise TypeError(f"space must be a discretised function space (uniform_discr), got {space!r}")
    iterations, rtol = integer(iterations, "iterations", minimum=1), number(rtol, "rtol", minimum=0)
    again = functools.partial(total_variation, iterations=iterations, rtol=rtol, memory=memory)
    return _functional(_Dual(space, iterations, rtol, memory)).pickled_as(again, space)


def _functional(dual: _Dual) -> TorchFunctional:
    value = lower(odl.functionals.GroupL1Norm(dual.gradient.range) * dual.gradient).fn

    def take(index: Tensor) -> TorchFunctional:
        fields = None if dual.fields is None else dual.fields[index]
        return _functional(_Dual(dual.space, dual.iterations, dual.rtol, dual.memory, fields))

    return TorchFunctional(value, dual.space, prox=dual.prox, name="total variation", take=take)


class VariationProximal(odl.Operator):
    r"""The proximal operator of σ times total variation.

    Parameters
    ----------
    functional : TorchFunctional
        The total variation, without memory.
    sigma : float
        σ > 0.

    Raises
    ------
    ValueError
        If `sigma` is not a positive number.
    """

    def __init__(self, functional: TorchFunctional, sigma: float) -> None:
        if not 0 < sigma < math.inf:
            raise ValueError(f"sigma must be positive and finite, got {sigma!r}")
        super().__init__(functional.domain, functional.domain, linear=False)
        self.functional, self.sigma = functional, float(sigma)

    def _call(self, x: Any) -> Any:
        return to_element(self.range, self.functional.prox(to_tensor(x), self.sigma))


@lower.register(VariationProximal)
def _(op: VariationProximal) -> TorchOperator:
    return TorchOperator(lambda t: op.functional.prox(t, op.sigma), op.domain, op.range)
