"""ODL functionals as regularisers: the solver that fits them, against the regularisers they are."""

import odl
import pytest
import torch
from odl import functionals as F

from genreg import GaussianFidelity, Tikhonov, TotalVariation, reconstruct, solvers, sweep
from genreg.operators import blur
from genreg.regularisers.functional import as_regulariser
from genreg.solvers import SaddlePoint, Status

SETTINGS = {"noise_std": 0.3, "lam": 2.0, "progress": False, "tol": 1e-5, "max_iter": 3000}


@pytest.fixture(name="D")
def gradient(X):
    return odl.Gradient(X, method="forward", pad_mode="symmetric")


def solved(A, y, R, **options):
    rec = reconstruct(A, y, R, **SETTINGS | options)
    assert (rec.status == Status.CONVERGED).all()
    return rec.image


def test_functionals_with_a_gradient(A, X, D, y):
    square = F.L2NormSquared(X)
    assert torch.allclose(solved(A, y, square), solved(A, y, Tikhonov(X)), rtol=1e-5, atol=1e-6)
    of_gradient = F.L2NormSquared(D.range) * D
    assert torch.allclose(solved(A, y, of_gradient), solved(A, y, Tikhonov(X, D)), rtol=1e-5, atol=1e-6)
    assert as_regulariser(square + F.Huber(X, 0.1)).solver is solvers.lbfgs
    squared = odl.PowerOperator(X, 2)
    rec = reconstruct(squared, y.new_ones(4, 5), square, **SETTINGS)
    assert rec.status == Status.CONVERGED


def test_functionals_with_a_prox_and_compositions(A, X, D, y):
    variation = F.GroupL1Norm(D.range) * D
    expected = solved(A, y, TotalVariation(X))
    half = 0.5 * TotalVariation(X)
    for R in (0.5 * (variation + variation), half + half):
        assert torch.allclose(solved(A, y, R), expected, atol=1e-3)
    expected = solved(A, y, TotalVariation(X, lower=0.0, upper=0.5))
    for R in (variation + F.IndicatorBox(X, 0.0, 0.5), 1.0 * TotalVariation(X, lower=0.0, upper=0.5)):
        image = solved(A, y, R)
        assert torch.allclose(image, expected, atol=1e-3) and image.min() >= 0 and image.max() <= 0.5
    one = A.range.element(y[0].numpy())
    x = solved(A, one, F.L1Norm(X) + 0.1 * F.L2NormSquared(X))
    J = GaussianFidelity(A, one, 0.3) + 0.2 * F.L2NormSquared(X) + 2.0 * F.L1Norm(X)
    found = solvers.ipalm(J, X.zero(), tol=1e-6, progress=False).blocks["v"]
    assert (found - x).norm() < 1e-3 * x.norm()


def test_kinds_of_data_and_parameters(A, X, y):
    R = F.L1Norm(X)
    assert solved(A, A.range.element(y[0].numpy()), R) in X
    lam = torch.tensor([0.5, 2.0, 2.0], dtype=torch.float64)
    image = solved(A, y, R, lam=lam)
    assert torch.allclose(image[1:], solved(A, y[1:], R), atol=1e-3)
    assert reconstruct(A, y, R, noise_std=0.3, progress=False).image.shape == (3, 4, 5)
    assert sweep(A, y, R, noise_std=0.3, lam=[0.5, 2.0], progress=False).lam.shape[-1] == 2
    J = GaussianFidelity(A, A.range.element(y[0].numpy()), 0.3) + 2.0 * TotalVariation(X)
    by_prox = solvers.ipalm(J, X.zero(), tol=1e-3, progress=False).blocks["v"]
    by_saddle = solved(A, A.range.element(y[0].numpy()), TotalVariation(X))
    assert (by_prox - by_saddle).norm() < 1e-3 * by_saddle.norm()


def test_what_is_no_regulariser(A, X, D, y):
    for wrong in (5, "tv", X.one()):
        with pytest.raises(
            TypeError, match="regulariser must be a genreg regulariser or an ODL functional, got"
        ):
            reconstruct(A, y, wrong, **SETTINGS)
    for wrong in (-1 * F.L1Norm(X), F.L1Norm(X) * odl.PowerOperator(X, 2)):
        with pytest.raises(NotImplementedError, match=r"terms f\(K x\) with positive factors, a prox of f"):
            reconstruct(A, y, wrong, **SETTINGS)
    with pytest.raises(ValueError, match="A must be linear for OfFunctional"):
        reconstruct(odl.PowerOperator(X, 2), y.new_ones(4, 5), F.L1Norm(X), **SETTINGS)
    other = odl.uniform_discr([0, 0], [1, 1], (4, 5))
    with pytest.raises(ValueError, match="A and regulariser must share the image space"):
        reconstruct(A, y, F.L1Norm(other), **SETTINGS)
    R = as_regulariser(F.L1Norm(X))
    with pytest.raises(NotImplementedError, match="is not differentiable: solve with pdhg"):
        R.gradient  # noqa: B018
    assert as_regulariser(R) is R
    fidelity = GaussianFidelity(blur(X, 0.5, boundary="periodic"), X.one(), 0.3)
    assert isinstance(R.problem(fidelity, torch.ones(1, dtype=torch.float64)), SaddlePoint)
