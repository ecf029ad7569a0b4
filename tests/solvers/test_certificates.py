"""What CONVERGED says: the objective is within the tolerance of its minimum, in any unit, from any start."""

import functools

import odl
import pytest
import torch

from genreg import GaussianFidelity, Tikhonov, TotalVariation, to_torch
from genreg.operators import gaussian_measurements
from genreg.solvers import (
    Backtracking,
    Status,
    conjugate_gradient,
    gradient_descent,
    ipalm,
    lbfgs,
    palm,
    pdhg,
    quasi_newton,
)

SMOOTH = {
    "conjugate gradients": conjugate_gradient,
    "spectral steps": gradient_descent,
    "backtracking": lambda *given, **more: gradient_descent(*given, line_search=Backtracking(), **more),
    "quasi-Newton": quasi_newton,
    "L-BFGS": lbfgs,
    "PALM": palm,
    "iPALM": ipalm,
}


@functools.cache
def ridge(s, lam, dtype="float64"):
    """Tikhonov's problem for images times s, its minima and the objective at zero."""
    X = odl.uniform_discr([0, 0], [5, 4], (5, 4), dtype=dtype)
    A = gaussian_measurements(X, 12, seed=0)
    y = s * torch.randn(3, 12, generator=torch.Generator().manual_seed(0), dtype=getattr(torch, dtype))
    fidelity, sigma = GaussianFidelity(A, y, 0.1 * s), 0.1 * s
    problem = Tikhonov(X).problem(fidelity, torch.full((3,), lam / s**2, dtype=y.dtype))
    M = to_torch(A)(torch.eye(20, dtype=y.dtype).unflatten(1, (5, 4))).T.double()
    y = y.double()
    normal = M.T @ M / sigma**2 + 2 * lam / s**2 * torch.eye(20, dtype=torch.float64)
    x = torch.linalg.solve(normal, M.T @ y.T / sigma**2).T
    least = (y - x @ M.T).square().sum(1) / (2 * sigma**2) + lam / s**2 * x.square().sum(1)
    return problem, x.unflatten(1, (5, 4)), least


@pytest.mark.parametrize(
    ("s", "start"), [(1e-6, (0.0, 0.0, 0.0)), (1e6, (1e-7, 1e-7, 1e-7)), (1.0, (1e4, 1.001, 1e4))]
)
@pytest.mark.parametrize("name", SMOOTH)
def test_smooth_problems(name, s, start):
    """From a multiple of the minimum of every sample."""
    tol = 1e-4
    for lam in (1.0, 1e6):
        problem, exact, least = ridge(s, lam)
        init = torch.tensor(start, dtype=torch.float64)[:, None, None] * exact
        found = SMOOTH[name](problem, {"x": init}, tol=tol, max_iter=2000, progress=False)
        assert found.converged.all(), Status.summary(found.status)
        assert (found.value - least <= 2 * tol * found.value).all()
        assert (found.value >= least * (1 - 1e-9)).all()


@pytest.mark.parametrize("s", [1e-6, 1.0, 1e6])
def test_single_precision_says_stalled_rather_than_more_than_it_can(s):
    for lam in (1e-3, 1.0, 1e6):
        problem, exact, least = ridge(s, lam, "float32")
        for tol in (1e-3, 1e-12):
            found = conjugate_gradient(problem, {"x": 0 * exact.float()}, tol=tol, progress=False)
            assert set(found.status.tolist()) <= {Status.CONVERGED, Status.STALLED}
            assert found.converged.all() or tol < 1e-6 or lam < 1  # where the data are met, F is rounding
            assert ((found.value.double() - least).abs() <= 2e-3 * least).all()


@pytest.mark.parametrize("s", [1e-6, 1e6])
@pytest.mark.parametrize("kind", ["denoising", "measurements", "bounds"])
def test_total_variation(kind, s):
    X = odl.uniform_discr([0, 0], [6, 6], (6, 6))
    A = odl.IdentityOperator(X) if kind == "denoising" else gaussian_measurements(X, 20, seed=0)
    truth = torch.zeros(2, 6, 6, dtype=torch.float64)
    truth[0, 1:4, 2:5], truth[1, :, 3:] = 1.0, 0.5
    y = s * to_torch(A)(truth)
    y = y + 0.1 * s * torch.randn(y.shape, generator=torch.Generator().manual_seed(1), dtype=y.dtype)
    R = TotalVariation(X, lower=0, upper=s) if kind == "bounds" else TotalVariation(X)
    problem = R.problem(GaussianFidelity(A, y, 0.1 * s), torch.tensor([1.0, 30.0], dtype=y.dtype) / s)
    init = torch.zeros(2, 6, 6, dtype=torch.float64)
    exact = pdhg(problem, {"x": init}, tol=1e-5, max_iter=100_000, progress=False)
    found = pdhg(problem, {"x": init}, tol=1e-4, max_iter=20_000, progress=False)
    assert exact.converged.all() and found.converged.all()
    assert ((found.value - exact.value).abs() <= 2e-3 * exact.value).all()
    assert (found.iterations < exact.iterations).all()
