r"""Tests of operators and functionals: adjoints by the dot test, derivatives by Taylor's theorem.

Both raise an AssertionError that states what was measured (ODL's own `OperatorTest` only prints), and work on any ODL
spaces: weighted, complex, product, numpy or pytorch.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import odl
import torch
from odl.core.set import Field

from genreg.operators.bridge.arguments import flag, number, seeded_generator
from genreg.operators.bridge.lowered import TorchOperator
from genreg.operators.bridge.protocols import Space
from genreg.operators.bridge.spaces import (
    Tensors,
    is_stacked,
    space_shape,
    to_element,
    to_tensor,
    torch_dtype,
)


def dot_test(A: Any, *, rtol: float | None = None, seed: int = 0, real: bool = False) -> float:
    r"""Test the adjoint of a linear operator: :math:`(A x, y)_Y = (x, A^* y)_X`.

    Between two complex spaces both parts are compared, else the real part (the adjoint of taking the real
    part is an adjoint in that sense).

    Parameters
    ----------
    A : odl.Operator or TorchOperator
        Linear operator with an `adjoint`.
    rtol : float, optional
        Largest error allowed, relative to :math:`\|A x\| \|y\|`. By default 1e-10 in double and 1e-5 in
        single precision.
    seed : int, optional
        Seed of the Gaussian x and y.
    real : bool
        Compare real parts only, for an operator between complex spaces that is linear over the real numbers alone.

    Returns
    -------
    float
        The relative error.

    Raises
    ------
    AssertionError
        If the error exceeds `rtol`, or if domain and range of the adjoint are not range and domain of `A`.
    """
    if not isinstance(A, odl.Operator | TorchOperator):
        raise TypeError(f"`A` must be an ODL operator, got {type(A).__name__}")
    if rtol is not None:
        rtol = number(rtol, "`rtol`", minimum=0)
    generator = seeded_generator(seed, name="`seed`")
    adjoint = A.adjoint
    if adjoint.domain != A.range or adjoint.range != A.domain:
        raise AssertionError(
            f"the adjoint must map {A.range!r} to {A.domain!r}, got {adjoint.domain!r} to {adjoint.range!r}"
        )
    x, y = gaussian(A.domain, generator), gaussian(A.range, generator)
    Ax, Aty = _image(A, x), _image(adjoint, y)
    lhs, rhs = inner(Ax, y), inner(x, Aty)
    both_complex = torch_dtype(A.domain).is_complex and torch_dtype(A.range).is_complex
    difference = abs(lhs - rhs) if both_complex and not flag(real, "real") else abs(lhs.real - rhs.real)
    error = _ratio(difference, max(_norm(Ax) * _norm(y), _norm(x) * _norm(Aty)))
    if rtol is None:
        rtol = 1e-10 if _precision(A) < 1e-10 else 1e-5
    if not error <= rtol:
        raise AssertionError(
            f"dot test of {A!r}: <Ax, y> = {lhs}, <x, A*y> = {rhs}, relative error {error:.2e}"
        )
    return error


def derivative_test(
    op: Any, x: Any = None, *, seed: int = 0, order: float = 1.7, rtol: float | None = None
) -> float:
    r"""Test the derivative of an operator, or the gradient of a functional, by Taylor's theorem.

    For steps h = 1, 1/2, 1/4, ... the remainder :math:`\|F(x + h d) - F(x) - h F'(x) d\|` has to fall like
    :math:`h^2` until rounding takes over; it falls like h if the derivative is wrong. For operators the
    derivative must also be linear and pass the dot test.

    Parameters
    ----------
    op : odl.Operator
        Operator with `derivative`, or functional with `gradient`.
    x : element of the domain, optional
        The point; Gaussian by default. Choose one where the operator is smooth.
    seed : int, optional
        Seed of the Gaussian point and direction.
    order : float, optional
        Smallest order of decay that is accepted, measured over the last steps before rounding.
    rtol : float, optional
        Passed on to `dot_test`.

    Returns
    -------
    float
        The smallest remainder relative to :math:`h \|F'(x) d\|`, an upper bound of the relative error of
        :math:`F'(x) d`.

    Raises
    ------
    AssertionError
        If one of the tests fails.
    """
    if not isinstance(op, odl.Operator):
        raise TypeError(f"`op` must be an ODL operator or functional, got {type(op).__name__}")
    order, generator = number(order, "`order`"), seeded_generator(seed, name="`seed`")
    x = gaussian(op.domain, generator) if x is None else op.domain.element(x)
    d = gaussian(op.domain, generator)
    d = (1 / _norm(d)) * max(_norm(x), 1e-3) * d
    if isinstance(op, odl.functionals.Functional):
        slope = inner(d, op.gradient(x)).real
    else:
        derivative = op.derivative(x)
        _check_linear(derivative, generator)
        dot_test(derivative, rtol=rtol, seed=seed)
        slope = derivative(d)
    value = op(x)
    steps = [0.5**k for k in range(24)]
    remainders = [_norm(_minus(op(x + h * d), value, h, slope)) for h in steps]
    rounding = 50 * _precision(op) * (_norm(value) + _norm(slope))
    error = min(_ratio(r, h * _norm(slope)) for r, h in zip(remainders, steps, strict=True))
    smooth = [r for r in remainders if r > rounding]
    measured = [math.log2(a / b) for a, b in itertools.pairwise(smooth)][-3:]
    if not all(math.isfinite(r) for r in remainders) or (measured and float(np.median(measured)) < order):
        shown = ", ".join(f"{r:.1e}" for r in remainders[:8])
        raise AssertionError(
            f"derivative of {op!r}: the remainders for h = 1, 1/2, 1/4, ... must fall like h^2, got {shown}: "
            f"order {float(np.median(measured)) if measured else math.nan:.2f}"
        )
    return error


def _check_linear(derivative: Any, generator: torch.Generator) -> None:
    a, b = gaussian(derivative.domain, generator), gaussian(derivative.domain, generator)
    expected = _minus(derivative(a), derivative(b), 2.0, derivative(a))  # D a - D b - 2 D a
    error = _norm(_minus(derivative(-1.0 * a - b), expected, 0.0, expected))
    scale = _norm(derivative(a)) + _norm(derivative(b))
    if not error <= 1e3 * _precision(derivative) * scale:
        raise AssertionError(f"{derivative!r} is not linear: relative error {_ratio(error, scale):.2e}")


def _image(A: Any, x: Any) -> Any:
    return to_element(A.range, A(to_tensor(x))) if isinstance(A, TorchOperator) else A(x)


def gaussian(space: Space, generator: torch.Generator) -> Any:
    """Return a Gaussian element of `space`, a number for a field."""

    def tensors(s: Space) -> Tensors:
        if not is_stacked(s):
            return tuple(tensors(part) for part in s.spaces)
        return torch.randn(space_shape(s), dtype=torch_dtype(s), generator=generator)

    return to_element(space, tensors(space))


def inner(x: Any, y: Any) -> complex:
    """Inner product of elements or numbers."""
    return complex(x.inner(y)) if hasattr(x, "inner") else complex(x) * complex(y).conjugate()


def _norm(x: Any) -> float:
    return math.sqrt(abs(inner(x, x))) if hasattr(x, "inner") else abs(x)


def _minus(a: Any, b: Any, h: float, c: Any) -> Any:
    """Return a - b - h c, for elements and numbers."""
    return a - b - h * c


def _ratio(a: float, b: float) -> float:
    return a / b if b else a


def _precision(op: Any) -> float:
    spaces = [s for s in (op.domain, op.range) if not isinstance(s, Field)]
    return max(torch.finfo(torch_dtype(s)).eps for s in spaces)
