"""The primal-dual method against ODL's, against closed forms, and its steps."""

import numpy as np
import odl
import pytest
import torch

from genreg.operators import to_torch
from genreg.solvers import SaddlePoint, Status, pdhg


def denoising(X, lam=0.1):
    """TV denoising of a step image, on a space with its own cell volume."""
    rng = np.random.default_rng(0)
    clean = np.zeros(X.shape)
    clean[2:6, 3:7] = 1
    y = X.element(clean + 0.1 * rng.standard_normal(X.shape))
    D = odl.Gradient(X, method="forward", pad_mode="symmetric")
    f = 0.5 * odl.functionals.L2NormSquared(X).translated(y)
    return f, lam * odl.functionals.GroupL1Norm(D.range), D, y


@pytest.fixture(name="X")
def space():
    return odl.uniform_discr([0, 0], [2, 3], (10, 12))


def test_iterates_are_those_of_odl(X):
    f, g, D, _ = denoising(X)
    tau = sigma = 0.99 / 13.5
    x = X.zero()
    odl.solvers.pdhg(x, f, g, D, niter=57, tau=tau, sigma=sigma)
    ours = pdhg(SaddlePoint(f, g, D), tau=tau, sigma=sigma, max_iter=57, tol=0.0, progress=False)
    assert ours.blocks["x"] in X
    assert float(np.abs(ours.blocks["x"].asarray() - x.asarray()).max()) < 1e-10
    assert int(ours.iterations) == 57 and int(ours.status) == Status.MAX_ITER


def test_balanced_steps_reach_the_same_minimum(X):
    f, g, D, _ = denoising(X)
    long = pdhg(SaddlePoint(f, g, D), tau=0.07, sigma=0.07, max_iter=2000, tol=0.0, progress=False)
    ours = pdhg(SaddlePoint(f, g, D), tol=1e-9, max_iter=5000, progress=False)
    assert int(ours.status) == Status.CONVERGED
    assert float(ours.value) == pytest.approx(float(long.value), rel=1e-8)
    assert (ours.blocks["x"] - long.blocks["x"]).norm() < 1e-5


def test_every_sample_has_its_own_parameter(X):
    f, g, D, _ = denoising(X, lam=1.0)
    lams = torch.tensor([0.02, 0.1, 0.5], dtype=torch.float64)
    batched = SaddlePoint(f, [to_torch(g).scaled(lams)], [D])
    together = pdhg(
        batched, torch.zeros(3, *X.shape, dtype=torch.float64), tol=1e-6, max_iter=4000, progress=False
    )
    for k, lam in enumerate(lams.tolist()):
        alone = pdhg(SaddlePoint(f, lam * g, D), tol=1e-6, max_iter=4000, progress=False)
        difference = together.blocks["x"][k] - torch.tensor(alone.blocks["x"].asarray())
        assert difference.abs().max() < 1e-5
        assert float(together.value[k]) == pytest.approx(float(alone.value), rel=1e-7)


def test_two_operators_solve_a_ridge_problem():
    """min ½‖Mx - y‖² + λ/2‖Dx‖² with a prox for each term, against the normal equations."""
    X = odl.uniform_discr(0, 3, 6)
    M = odl.MatrixOperator(np.random.default_rng(1).standard_normal((8, 6)), domain=X, range=odl.rn(8))
    D = odl.MatrixOperator(np.eye(6) - np.eye(6, k=1), domain=X, range=odl.rn(6))
    y = M.range.element(np.arange(8.0))
    g = [
        0.5 * odl.functionals.L2NormSquared(M.range).translated(y),
        0.15 * odl.functionals.L2NormSquared(D.range),
    ]
    ours = pdhg(
        SaddlePoint(odl.functionals.ZeroFunctional(X), g, [M, D]), tol=1e-11, max_iter=20000, progress=False
    )
    normal = M.matrix.T @ M.matrix + 0.3 * D.matrix.T @ D.matrix
    assert np.allclose(
        ours.blocks["x"].asarray(), np.linalg.solve(normal, M.matrix.T @ y.asarray()), atol=1e-6
    )


def test_callback_stops_and_bad_sample_ends_alone(X):
    f, g, D, _ = denoising(X)
    stopped = pdhg(SaddlePoint(f, g, D), callback=lambda it: it.iteration >= 20, tol=0.0, progress=False)
    assert int(stopped.status) == Status.STOPPED and int(stopped.iterations) == 20

    scaled = to_torch(g).scaled(torch.tensor([1.0, torch.nan], dtype=torch.float64))
    pair = pdhg(
        SaddlePoint(f, [scaled], [D]), torch.zeros(2, *X.shape, dtype=torch.float64), tol=1e-6, progress=False
    )
    assert pair.status.tolist() == [Status.CONVERGED, Status.NON_FINITE]
    assert torch.isfinite(pair.blocks["x"][0]).all()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"tau": 0.1}, ValueError, "together"),
        ({"tau": -0.1, "sigma": 0.1}, ValueError, "positive"),
        ({"max_iter": -3}, ValueError, "max_iter"),
        ({"tol": float("nan")}, ValueError, "tol"),
        ({"init": torch.zeros(3, 3)}, ValueError, "shape"),
        ({"f": odl.functionals.L1Norm(odl.rn(5))}, ValueError, "f must be a functional on"),
        ({"operators": odl.PowerOperator(odl.rn(3), 2)}, ValueError, "linear"),
        ({"g": []}, ValueError, "same, positive length"),
        ({"g": None}, TypeError, "g must be given"),
    ],
)
def test_bad_arguments(X, change, error, message):
    f, g, D, _ = denoising(X)
    arguments = {"f": f, "g": g, "operators": D, **change}
    with pytest.raises(error, match=message):
        pdhg(progress=False, **arguments)


def test_functional_without_a_prox(X):
    f, _, _, _ = denoising(X)
    with pytest.raises(NotImplementedError, match=r"g\[0\] must have a prox"):
        SaddlePoint(f, odl.functionals.L1Norm(X) * odl.PowerOperator(X, 2), odl.IdentityOperator(X))


def test_takes_saddle_points_only(X):
    f, g, D, _ = denoising(X)
    with pytest.raises(TypeError, match="f must be a SaddlePoint for pdhg, got "):
        pdhg(f, X.zero(), progress=False)
    with pytest.raises(TypeError, match="f must be a functional, got SaddlePoint"):
        pdhg(SaddlePoint(f, g, D), g=g, operators=D, progress=False)
    together, apart = (
        pdhg(first, max_iter=30, progress=False, **rest)
        for first, rest in ((SaddlePoint(f, g, D), {}), (f, {"g": g, "operators": D}))
    )
    assert np.array_equal(together.blocks["x"].asarray(), apart.blocks["x"].asarray())
