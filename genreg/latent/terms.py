"""Functionals of z itself: powers of norms, and indicators of a box and a sphere."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import odl
import torch
from odl.core.space.base_tensors import TensorSpace
from odl.functionals import Functional
from torch import Tensor

from genreg.latent.prox import power_prox, project_to_sphere
from genreg.operators import (
    TorchFunctional,
    lower,
    to_element,
    to_tensor,
    to_torch,
    torch_dtype,
    weight,
)
from genreg.operators.bridge.arguments import number
from genreg.operators.bridge.keywords import documented_like
from genreg.operators.bridge.lowered import Step
from genreg.operators.bridge.protocols import StackedSpace
from genreg.operators.bridge.spaces import space_shape
from genreg.operators.lowering.building_blocks import abs2, constant, zeros
from genreg.operators.lowering.norms import indicator, pointwise


def _checked(Z: StackedSpace) -> StackedSpace:
    if not isinstance(Z, TensorSpace) or not space_shape(Z):
        raise TypeError(f"Z must be an ODL tensor space such as odl.rn(dim), got {Z!r}")
    if not torch_dtype(Z).is_floating_point:
        raise TypeError(f"Z must be a real space, got {Z!r}")
    return Z


class _Proximal(odl.Operator):
    """The proximal operator of a functional with a step, through its lowering."""

    def __init__(self, functional: TorchFunctional, sigma: float) -> None:
        super().__init__(functional.domain, functional.domain, linear=False)
        self.functional = functional
        self.sigma = number(sigma, "sigma", above=0)

    def _call(self, z: Any) -> Any:
        return to_element(self.range, self.functional.prox(to_tensor(z), self.sigma))


class _Term(Functional):
    """A functional whose value and prox are those of its lowering."""

    def _call(self, z: Any) -> float:
        with torch.no_grad():
            return float(to_torch(self)(to_tensor(z)))

    @property
    def proximal(self) -> Callable[[float], odl.Operator]:
        """Factory of proximal operators: ``proximal(sigma)(z)`` in the norm of the space.

        Raises
        ------
        NotImplementedError
            If none is known.
        """
        lowered = to_torch(self)
        if not lowered.has_prox:
            raise NotImplementedError(f"no proximal operator is known for {self!r}")
        return functools.partial(_Proximal, lowered)


class Power(_Term):
    r"""Power of the q-norm, :math:`\sum_i |z_i|^q` with :math:`0 < q \le 2`.

    For q < 1 it is not convex, and its prox is the exact global minimiser component by component: zero up to
    a threshold, beyond it a jump (Marjanovic and Solo). Other q than 1 and 2 take Newton steps to rounding.

    Parameters
    ----------
    Z : ODL space
        The latent space, a real tensor space.
    q : float
        The exponent, in (0, 2].

    Raises
    ------
    TypeError
        If Z is no real tensor space or q no number.
    ValueError
        If q is not in (0, 2].

    References
    ----------
    G. Marjanovic, V. Solo (2012), On l_q optimization and matrix completion, doi:10.1109/TSP.2012.2212015.
    """

    def __init__(self, Z: StackedSpace, q: float) -> None:
        super().__init__(_checked(Z), linear=False)
        self.q = number(q, "q", above=0, maximum=2)

    @property
    def gradient(self) -> odl.Operator:
        """Riesz gradient 2 z / w, for q = 2.

        Raises
        ------
        NotImplementedError
            If q is not 2.
        """
        if self.q != 2:
            raise NotImplementedError(f"{self!r} has no Lipschitz continuous gradient; use its prox")
        w = weight(self.domain)
        if isinstance(w, float):
            return odl.ScalingOperator(self.domain, 2 / w)
        return odl.MultiplyOperator(to_element(self.domain, 2 / w))

    def __repr__(self) -> str:
        return f"Power({self.domain!r}, q={self.q:g})"


class StandardNormal(Power):
    r"""Squared norm :math:`\|z\|_2^2`, the plain sum of squares (Duff et al., eq. 18).

    Half of it is the negative logarithm of the density of N(0, I), up to a constant.

    Parameters
    ----------
    Z : ODL space
        The latent space, a real tensor space.

    Raises
    ------
    TypeError
        If Z is no real tensor space.

    References
    ----------
    M. Duff, N. D. F. Campbell, M. J. Ehrhardt (2021), Regularising inverse problems with generative machine
    learning models, arXiv:2107.11191.
    """

    def __init__(self, Z: StackedSpace) -> None:
        super().__init__(Z, 2.0)

    def __repr__(self) -> str:
        return f"StandardNormal({self.domain!r})"


class Box(odl.functionals.IndicatorBox):
    r"""Indicator of the box :math:`|z_i| \le r`: the prior of a generator that was trained on a cube.

    The prox clamps every component.

    Parameters
    ----------
    Z : ODL space
        The latent space, a real tensor space.
    radius : float
        The radius r > 0.

    Raises
    ------
    TypeError
        If Z is no real tensor space or the radius no number.
    ValueError
        If the radius is not positive and finite.

    References
    ----------
    Z. C. Lipton, S. Tripathi (2017), Precise recovery of latent vectors from generative adversarial networks,
    arXiv:1702.04782.
    """

    def __init__(self, Z: StackedSpace, radius: float) -> None:
        self.radius = number(radius, "radius", above=0)
        super().__init__(_checked(Z), -self.radius, self.radius)

    def __repr__(self) -> str:
        return f"Box({self.domain!r}, radius={self.radius:g})"


@documented_like(Box)
class Sphere(_Term):
    r"""Indicator of the sphere :math:`\|z\|_2 = r`, near which N(0, I) concentrates for r² = dim Z.

    The value is 0 where the norm is r up to some rounding, relative to r: 32 units in the last place of the
    data type. The prox is the projection :math:`r z / \|z\|_2`, which z = 0 leaves to choice: here it goes
    to :math:`r e_1`, the point on the first axis. It is known where the weight of Z is one number.

    Parameters
    ----------
    radius : float, optional
        The radius r > 0, by default the square root of dim Z.

    References
    ----------
    T. White (2016), Sampling generative networks, arXiv:1609.04468.
    S. Menon, A. Damian, S. Hu, N. Ravi, C. Rudin (2020), PULSE: self-supervised photo upsampling via latent
    space exploration of generative models, arXiv:2003.03808.
    """

    def __init__(self, Z: StackedSpace, radius: float | None = None) -> None:
        super().__init__(_checked(Z), linear=False)
        self.radius = math.sqrt(Z.size) if radius is None else number(radius, "radius", above=0)

    def __repr__(self) -> str:
        return f"Sphere({self.domain!r}, radius={self.radius:g})"


@lower.register(Power)
def _(op: Power) -> TorchFunctional:
    Z, q = op.domain, op.q
    axes, w = tuple(range(-len(space_shape(Z)), 0)), weight(Z)
    powers: dict[float, Callable[[Tensor], Tensor]] = {1.0: torch.abs, 2.0: abs2}
    number = powers.get(q, lambda t: t.abs().pow(q))
    divisor: Callable[[Tensor], Any] = constant(w) if isinstance(w, Tensor) else lambda t: w

    def prox(t: Tensor, step: Step) -> Tensor:
        return power_prox(t, torch.as_tensor(step, dtype=t.dtype, device=t.device) / divisor(t), q)

    return TorchFunctional(
        lambda t: number(t).sum(axes),
        Z,
        pointwise(Z, prox),
        None if q >= 1 else _no_conjugate(op),
        name=type(op).__name__,
    )


@lower.register(Sphere)
def _(op: Sphere) -> TorchFunctional:
    Z, radius = op.domain, op.radius
    axes = tuple(range(-len(space_shape(Z)), 0))

    def on_it(t: Tensor) -> Tensor:
        norm = torch.linalg.vector_norm(t, dim=axes)
        return (norm - radius).abs() <= 32 * torch.finfo(t.dtype).eps * radius

    prox = None if isinstance(weight(Z), Tensor) else lambda t, step: project_to_sphere(t, axes, radius)
    return TorchFunctional(
        indicator(on_it, zeros(Z)), Z, prox, None if prox is None else _no_conjugate(op), name="Sphere"
    )


def _no_conjugate(op: Functional) -> Callable[[Tensor, Step, Step], Tensor]:
    """What stands for the prox of the conjugate of a functional that is not convex."""

    def conj_prox(t: Tensor, step: Step, scale: Step) -> Tensor:
        raise NotImplementedError(
            f"{op!r} is not convex: its conjugate does not stand for it in a primal-dual method"
        )

    return conj_prox
