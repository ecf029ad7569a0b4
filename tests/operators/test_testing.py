"""The tests of operators: they pass what is right, and state what is wrong."""

import math

import odl
import pytest
import torch
from odl import functionals as F

from genreg.operators import derivative_test, dot_test, to_torch

from ..refusals import refuses

X = odl.uniform_discr([0, 0], [20, 30], (4, 5))
X32 = X.astype("float32")
CX = X.astype("complex128")
P = odl.ProductSpace(X, odl.rn(3, weighting=0.3))


class Wrong(odl.Operator):
    """Cubes, with a derivative that is off by `factor` and an adjoint that is off by `adjoint_factor`."""

    def __init__(self, space, factor=1.0, adjoint_factor=1.0):
        super().__init__(space, space)
        self.factors = factor, adjoint_factor

    def _call(self, x):
        return x * x * x

    def derivative(self, x):
        return Scaled(3 * self.factors[0] * x * x, self.factors[1])


class Scaled(odl.Operator):
    def __init__(self, diagonal, adjoint_factor):
        super().__init__(diagonal.space, diagonal.space, linear=True)
        self.diagonal, self.adjoint_factor = diagonal, adjoint_factor

    def _call(self, h):
        return self.diagonal * h

    @property
    def adjoint(self):
        return Scaled(self.adjoint_factor * self.diagonal.conj(), self.adjoint_factor)


class WrongFunctional(F.Functional):
    def __init__(self, space, factor):
        super().__init__(space)
        self.factor = factor

    def _call(self, x):
        return x.inner(x * x)

    @property
    def gradient(self):
        return 3 * self.factor * odl.PowerOperator(self.domain, 2)


class Affine(Wrong):
    def derivative(self, x):
        return odl.IdentityOperator(self.domain) + self.domain.one()


class OtherSpaces(Scaled):
    @property
    def adjoint(self):
        return odl.ZeroOperator(odl.rn(2), self.domain)


@pytest.mark.parametrize(
    "op",
    [
        odl.Gradient(X, pad_mode="symmetric"),
        odl.Gradient(X32),
        odl.Gradient(CX),
        odl.Gradient(X.to_impl("pytorch")),
        odl.DiagonalOperator(odl.Laplacian(X), odl.MatrixOperator([[1.0, 2, 3]] * 3, P[1], P[1])),
        odl.InnerProductOperator(X.one()),
        to_torch(odl.Gradient(X)),
        to_torch(odl.RealPart(CX)),
    ],
    ids=repr,
)
def test_dot_test_passes(op):
    assert dot_test(op) < 1e-6


def test_dot_test_fails():
    with pytest.raises(AssertionError, match=r"dot test of .* relative error \d\.\d\de[-+]\d\d"):
        dot_test(Scaled(X.one(), 1.001))
    assert dot_test(Scaled(X.one(), 1.001), rtol=0.01) > 1e-5
    with pytest.raises(AssertionError, match="relative error nan"):
        dot_test(Scaled(math.nan * X.one(), 1.0))
    with pytest.raises(AssertionError, match="the adjoint must map"):
        dot_test(OtherSpaces(X.one(), 1.0))


def test_dot_test_is_seeded():
    op = Scaled(X.one(), 1.1)
    assert dot_test(op, rtol=1.0, seed=1) == dot_test(op, rtol=1.0, seed=1) != dot_test(op, rtol=1.0, seed=2)


@pytest.mark.parametrize(
    "op",
    [
        Wrong(X),
        Wrong(X32),
        Wrong(CX),
        odl.Gradient(X),
        odl.Laplacian(X) + X.one(),
        odl.DiagonalOperator(odl.PowerOperator(X, 3), odl.IdentityOperator(P[1])),
        WrongFunctional(X, 1.0),
        F.L2NormSquared(P),
        F.L2NormSquared(CX) * odl.Laplacian(CX),
        F.L2Norm(X32),
        F.ConstantFunctional(X, 1.0),
    ],
    ids=repr,
)
def test_derivative_test_passes(op):
    assert derivative_test(op) < 1e-2


@refuses(
    (Wrong(X, factor=1.01), "must fall like h"),
    (Wrong(X32, factor=1.01), "must fall like h"),
    (Wrong(X, adjoint_factor=1.01), "dot test"),
    (Affine(X), "is not linear"),
    (WrongFunctional(X, 0.99), "order 1.0"),
    (WrongFunctional(X, math.nan), "must fall like h"),
    error=AssertionError,
)
def test_derivative_test_fails(op):
    derivative_test(op)


def test_derivative_test_at_a_given_point():
    """|x| is smooth away from 0, and its gradient there is constant."""
    x = X.element(torch.arange(20.0).reshape(4, 5).double().numpy() + 50.0)
    assert derivative_test(F.L1Norm(X), x) < 1e-10
