"""Lowered operators and functionals go through pickle, torch.save and copies: the same values come out."""

import copy
import io
import pickle

import numpy as np
import odl
import pytest
import torch
from odl import functionals as F
from odl.applications import tomo
from torch import nn

from genreg.operators import (
    IsotropicPrecision,
    NetworkOperator,
    TorchOperator,
    blur,
    data_prox,
    fourier_sampling,
    gaussian_measurements,
    golden_angle_trajectory,
    mask,
    normalised,
    nufft,
    ray_transform,
    to_torch,
)
from genreg.operators.bridge.spaces import tree_leaves
from genreg.operators.lowering.total_variation import total_variation

from ..samples import random

X = odl.uniform_discr([0, 0], [1, 3], (6, 5))  # weight 0.1
P = odl.uniform_discr([0, 0], [1, 3], (6, 5), impl="pytorch")
C = odl.uniform_discr([-1, -1], [1, 1], (6, 6), dtype="complex128")
S = odl.uniform_discr([-1, -1], [1, 1], (6, 6), dtype="float32")
W = odl.rn(4, weighting=np.array([1.0, 2.0, 3.0, 4.0]))
PARALLEL = tomo.parallel_beam_geometry(S, 3)
FAN = tomo.FanBeamGeometry(odl.uniform_partition(0, 3, 3), odl.uniform_partition(-3, 3, 7), 3, 3)


def saved(thing):
    file = io.BytesIO()
    torch.save(thing, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


WAYS = {"pickle": lambda thing: pickle.loads(pickle.dumps(thing)), "save": saved, "copy": copy.deepcopy}

OPERATORS = {
    "gradient": lambda: odl.Gradient(X),
    "twice the gradient": lambda: 2.0 * odl.Gradient(P),
    "sum": lambda: odl.Gradient(X).adjoint * odl.Gradient(X) + odl.IdentityOperator(X),
    "broadcast": lambda: odl.BroadcastOperator(odl.IdentityOperator(X), 2 * odl.IdentityOperator(X)),
    "product": lambda: odl.DiagonalOperator(odl.IdentityOperator(X), odl.Gradient(P)),
    "matrix": lambda: odl.MatrixOperator(np.arange(12.0).reshape(3, 4), domain=W),
    "multiplication": lambda: odl.MultiplyOperator(W.element([1.0, 2, 3, 4])),
    "affine": lambda: odl.IdentityOperator(X) + X.one(),
    "fallback": lambda: odl.trafos.DiscreteFourierTransform(C),
    "resizing": lambda: odl.ResizingOperator(X, ran_shp=(8, 8)),
    "ODL's rays": lambda: tomo.RayTransform(S, PARALLEL, impl="skimage"),
    "rays": lambda: ray_transform(S, PARALLEL),
    "fan": lambda: ray_transform(S, FAN),
    "blur": lambda: blur(X, 0.2, boundary="periodic"),
    "mask": lambda: mask(X, np.arange(30).reshape(6, 5) % 3 == 0),
    "measurements": lambda: normalised(gaussian_measurements(X, 7, seed=0)),
    "k-space": lambda: fourier_sampling(C, np.arange(36).reshape(6, 6) % 3 == 0),
    "trajectory": lambda: nufft(C, golden_angle_trajectory(3, 6)),
    "network": lambda: NetworkOperator(nn.Linear(4, 3, dtype=torch.float64), W, odl.rn(3)),
    "precision": lambda: IsotropicPrecision(X, 2.0),
    "factor": lambda: IsotropicPrecision(X, 2.0).factor,
}
SLOW_TO_LOWER = pytest.mark.filterwarnings("ignore:.*has no native lowering")


def points(space, n=2):
    return random(space, (n,), positive=True)


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(tree_leaves(one), tree_leaves(other), strict=True))


@SLOW_TO_LOWER
@pytest.mark.parametrize("name", OPERATORS)
def test_operators(name):
    op = OPERATORS[name]()
    lowered, x = to_torch(op), points(op.domain)
    things = [(lowered, x)]
    if op.is_linear:
        r = points(op.range)
        things += [(lowered.adjoint, r), (lowered.adjoint.adjoint, x), (to_torch(op.adjoint), r)]
        op.adjoint  # noqa: B018  # some keep it
        things.append((to_torch(op), x))
    for way in WAYS.values():
        for thing, point in things:
            assert same(way(thing)(point), thing(point))
        assert type(way(op)).__name__ == type(op).__name__ and way(op).domain == op.domain


FUNCTIONALS = {
    "L1": lambda: F.L1Norm(X),
    "L2 squared": lambda: F.L2NormSquared(P).translated(P.one()),
    "conjugate": lambda: F.L1Norm(W).convex_conj,
    "box": lambda: F.IndicatorBox(X, 0, 1),
    "separable": lambda: F.SeparableSum(F.L1Norm(X), F.L2Norm(W)),
    "counts": lambda: F.KullbackLeibler(X, X.one()),
    "composition": lambda: F.GroupL1Norm(odl.Gradient(X).range) * odl.Gradient(X),
    "sum": lambda: 0.3 * F.L2NormSquared(X) + F.Huber(X, 0.1),
}


@pytest.mark.parametrize("name", FUNCTIONALS)
def test_functionals(name):
    op = FUNCTIONALS[name]()
    t, lam, index = points(op.domain), torch.tensor([0.3, 0.7], dtype=torch.float64), torch.tensor([1, 0])
    f = to_torch(op)
    for way in WAYS.values():
        for thing in (f, f.scaled(0.5), f.scaled(lam), f.scaled(lam).take(index)):
            back = way(thing)
            assert same(back(t), thing(t))
            if thing.has_prox:
                assert same(back.prox(t, 0.2), thing.prox(t, 0.2))


def test_total_variation():
    f, t = total_variation(X, iterations=20), points(X)
    for way in WAYS.values():
        back = way(f)
        assert same(back(t), f(t)) and same(back.prox(t, 0.1), total_variation(X, iterations=20).prox(t, 0.1))


def test_a_module_that_holds_an_operator():
    class Step(nn.Module):
        def __init__(self):
            super().__init__()
            self.A, self.size = to_torch(gaussian_measurements(X, 7, seed=0)), nn.Parameter(torch.ones(()))

        def forward(self, x):
            return x - self.size * self.A.adjoint(self.A(x))

    step, x = Step(), points(X)
    other = copy.deepcopy(step)
    with torch.no_grad():
        other.size.mul_(2)
    assert torch.allclose(other(x) - x, 2 * (step(x) - x))


def test_an_operator_of_named_functions_is_pickled_by_its_attributes():
    A = TorchOperator.pair(torch.neg, torch.neg, X, X)
    back = pickle.loads(pickle.dumps(A.adjoint))
    assert same(back.adjoint(points(X)), -points(X)) and back.adjoint.adjoint is back
    with pytest.raises((AttributeError, pickle.PicklingError), match="lambda"):
        pickle.dumps(TorchOperator(lambda t: t, X, X))


def test_the_prox_of_data():
    A = gaussian_measurements(X, 7, seed=0)
    step, x, y = data_prox(A), points(X), points(A.range)
    for way in WAYS.values():
        assert same(way(step)(x, y, 0.1), step(x, y, 0.1))
