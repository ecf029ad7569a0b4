"""The front door: closed forms, Morozov, restarts, kinds of data, and every wrong argument."""

import numpy as np
import odl
import pytest
import torch

from genreg import GaussianFidelity, HardConstraint, Tikhonov, TotalVariation, reconstruct, solvers, to_torch
from genreg.solvers import Status

from ...refusals import refuses

SIGMA = 0.3
QUIET = {"noise_std": SIGMA, "progress": False}


def test_linear_generator_has_a_closed_form(A, G, y, closed_form):
    lam = torch.tensor([0.1, 1.0, 10.0], dtype=torch.float64)
    rec = reconstruct(A, y, HardConstraint(G), lam=lam, tol=1e-10, **QUIET)
    for k in range(3):
        exact = closed_form(y[k : k + 1], SIGMA, float(lam[k]))
        assert torch.allclose(rec.blocks["z"][k], exact[0], atol=1e-7)
    assert torch.allclose(rec.image, G.module(rec.blocks["z"]))
    fidelity = GaussianFidelity(A, y, SIGMA)
    assert torch.allclose(rec.residual, fidelity.residual(rec.image))
    assert torch.allclose(rec.discrepancy, rec.residual / (12 * SIGMA**2))
    expected = rec.residual / (2 * SIGMA**2) + lam * rec.blocks["z"].square().sum(1)
    assert torch.allclose(rec.value, expected)
    assert "CONVERGED" in rec.advice()


def test_element_in_element_out_equals_the_batch(A, G, y):
    R = HardConstraint(G)
    batch = reconstruct(A, y, R, lam=0.5, **QUIET)
    single = reconstruct(A, A.range.element(y[1].numpy()), R, lam=0.5, **QUIET)
    assert single.image in A.domain and single.blocks["z"] in G.domain and single.lam.shape == ()
    assert np.allclose(single.image.asarray(), batch.image[1], atol=1e-6)
    unbatched = reconstruct(A, y[1], R, lam=0.5, **QUIET)
    assert unbatched.image.shape == (4, 5) and torch.allclose(unbatched.image, batch.image[1], atol=1e-6)


def test_tikhonov_has_a_closed_form_on_a_weighted_space(A, X, y):
    rec = reconstruct(A, y, Tikhonov(X), lam=2.0, tol=1e-10, max_iter=2000, **QUIET)
    basis = torch.eye(20, dtype=torch.float64).view(20, 4, 5)
    M = to_torch(A)(basis).T
    normal = M.T @ M / SIGMA**2 + 2 * 2.0 * X.cell_volume * torch.eye(20, dtype=torch.float64)
    exact = torch.linalg.solve(normal, M.T @ y.T / SIGMA**2).T
    assert torch.allclose(rec.image.flatten(1), exact, atol=1e-6)


def test_total_variation_with_bounds_is_a_minimum(A, X, y):
    R = TotalVariation(X, lower=0.0, upper=0.8)
    rec = reconstruct(A, y, R, lam=1.0, tol=1e-9, max_iter=20000, **QUIET)
    assert (rec.image >= 0).all() and (rec.image <= 0.8).all()
    assert (rec.status == Status.CONVERGED).all()
    fidelity = GaussianFidelity(A, y, SIGMA)
    for scale in (1e-1, 1e-2, 1e-3):  # nothing feasible nearby is better
        nearby = (rec.image + scale * torch.randn(50, *rec.image.shape, dtype=torch.float64)).clamp(0, 0.8)
        value = to_torch(fidelity)(nearby) + to_torch(R)(nearby)
        assert (value >= rec.value - 1e-6).all()


@pytest.mark.parametrize(
    "make", [lambda X, G: HardConstraint(G), lambda X, G: Tikhonov(X), lambda X, G: TotalVariation(X)]
)
def test_morozov_meets_the_level(A, X, G, make):
    truth = G.module(torch.randn(4, 3, dtype=torch.float64))
    clean = to_torch(A)(truth)
    y = clean + SIGMA * torch.randn_like(clean)
    rec = reconstruct(A, y, make(X, G), lam="morozov", factor=1.8, max_iter=1000, **QUIET)
    reached = rec.status != Status.LEVEL_NOT_EXCEEDED
    assert (rec.residual[reached] <= 1.8 * rec.level[reached]).all()
    assert (rec.residual[reached] >= 0.95 * 1.8 * rec.level[reached]).all()
    assert set(rec.history) == {"lam", "residual"}


def test_morozov_beyond_the_range_of_the_generator(A, G):
    y = torch.full((1, 12), 50.0, dtype=torch.float64)
    rec = reconstruct(A, y, HardConstraint(G), lam="morozov", **QUIET)
    assert rec.status.tolist() == [Status.LEVEL_NOT_REACHED]
    best = reconstruct(A, y, HardConstraint(G), lam=0.0, tol=1e-8, **QUIET)
    assert torch.allclose(rec.residual, best.residual, rtol=1e-3)
    assert rec.residual[0] == rec.history["residual"][0].min()


def test_restarts_keep_the_best(A, G, y):
    calls = []

    def solver(problem, init, **options):
        calls.append(init["z"].clone())
        return solvers.quasi_newton(problem, init, **{**options, "max_iter": 0})

    rec = reconstruct(A, y, HardConstraint(G), lam=0.5, restarts=5, seed=1, solver=solver, **QUIET)
    starts = calls[0].view(3, 5, 3)
    fidelity = GaussianFidelity(A, y, SIGMA)
    values = torch.stack([to_torch(fidelity)(G.module(starts[:, k])) for k in range(5)], 1)
    values = values + 0.5 * starts.square().sum(2)
    assert torch.allclose(rec.value, values.amin(1))
    assert torch.equal(rec.blocks["z"], starts[torch.arange(3), values.argmin(1)])


def test_same_seed_same_result_and_given_start(A, G, y):
    options = {"lam": 0.5, "restarts": 3, "init": "random", "max_iter": 2, **QUIET}
    first = reconstruct(A, y, HardConstraint(G), seed=4, **options)
    again = reconstruct(A, y, HardConstraint(G), seed=4, **options)
    other = reconstruct(A, y, HardConstraint(G), seed=5, **options)
    assert torch.equal(first.image, again.image) and not torch.equal(first.image, other.image)

    z = torch.randn(3, 3, dtype=torch.float64)
    given = reconstruct(A, y, HardConstraint(G), lam=0.5, init={"z": z}, max_iter=0, **QUIET)
    assert torch.equal(given.blocks["z"], z) and (given.status == Status.MAX_ITER).all()


def test_noise_level_for_every_sample_and_callback(A, G, y):
    sigma = torch.tensor([0.1, 0.3, 0.9])
    rec = reconstruct(A, y, HardConstraint(G), noise_std=sigma, lam=0.5, tol=1e-9, progress=False)
    for k in range(3):
        alone = reconstruct(
            A, y[k], HardConstraint(G), noise_std=float(sigma[k]), lam=0.5, tol=1e-9, progress=False
        )
        assert torch.allclose(rec.image[k], alone.image, atol=1e-6)
    stopped = reconstruct(A, y, HardConstraint(G), lam=0.5, tol=0.0, callback=lambda it: True, **QUIET)
    assert (stopped.status == Status.STOPPED).all()


def test_show_draws_images_and_errors(A, G, y):
    rec = reconstruct(A, y, HardConstraint(G), lam=0.5, **QUIET)
    assert len(rec.show().axes) == 3
    assert len(rec.show(rec.image + 0.1).axes) == 9
    single = reconstruct(A, A.range.element(y[0].numpy()), HardConstraint(G), lam=0.5, **QUIET)
    assert len(single.show().axes) == 1


@refuses(
    ({"noise_std": 0.0}, ValueError, "noise_std"),
    ({"noise_std": torch.ones(2)}, ValueError, r"noise_std .* \(3,\)"),
    ({"lam": -1.0}, ValueError, "lam must be non-negative"),
    ({"lam": float("nan")}, ValueError, "lam must be non-negative"),
    ({"lam": "lcurve"}, ValueError, "lam must be a number"),
    ({"lam": torch.ones(2)}, ValueError, r"lam .* \(3,\)"),
    ({"restarts": 0}, ValueError, "restarts"),
    ({"restarts": 2.0}, TypeError, "restarts"),
    ({"factor": 0.0}, ValueError, "factor"),
    ({"init": "best"}, ValueError, "init must be"),
    ({"init": 3}, ValueError, "init. must have shape"),
    ({"init": {"z": torch.zeros(2, 3, dtype=torch.float64)}}, ValueError, "batch of 1 or 3"),
    ({"init": {"x": torch.zeros(3)}}, ValueError, "blocks"),
    ({"max_iter": -1}, ValueError, "max_iter"),
    ({"tol": -1.0}, ValueError, "tol"),
    ({"y": torch.zeros(3, 11, dtype=torch.float64)}, ValueError, "y.*shape"),
    ({"y": torch.full((12,), torch.nan, dtype=torch.float64)}, ValueError, "finite"),
    ({"y": torch.zeros(12, dtype=torch.complex128)}, TypeError, "real"),
    ({"y": "data"}, TypeError, "y must be an ODL element, a tensor or an array of numbers, got 'data'"),
    ({"y": odl.rn(11).zero()}, ValueError, "element of"),
    ({"A": "A"}, TypeError, "A must be"),
    ({"A": odl.IdentityOperator(odl.rn(12))}, ValueError, "share the image space"),
    ({"regulariser": "tv"}, TypeError, "regulariser"),
)
def test_bad_arguments(A, G, y, change):
    arguments = {"A": A, "y": y, "regulariser": HardConstraint(G), "lam": 1.0, **QUIET, **change}
    reconstruct(arguments.pop("A"), arguments.pop("y"), arguments.pop("regulariser"), **arguments)


def test_wrong_backend_and_device(A, G, y):
    T = odl.uniform_discr([0, 0], [8, 5], (4, 5), impl="pytorch")
    B = odl.IdentityOperator(T)
    with pytest.raises(ValueError, match=r"y must be an element of .*pytorch"):
        reconstruct(B, A.domain.zero(), Tikhonov(T), lam=1.0, **QUIET)
    with pytest.raises(TypeError, match="y must hold values, got a tensor on the meta device"):
        reconstruct(B, torch.zeros(4, 5, dtype=torch.float64, device="meta"), Tikhonov(T), lam=1.0, **QUIET)
    with pytest.raises(ValueError, match=r"share the image space, got .*pytorch"):
        reconstruct(B, T.zero(), HardConstraint(G), lam=1.0, **QUIET)


def test_solver_that_cannot_use_the_problem(A, X, y):
    with pytest.raises(TypeError, match=r"objective must be .* got SaddlePoint"):
        reconstruct(A, y, TotalVariation(X), lam=1.0, solver=solvers.gradient_descent, **QUIET)
    with pytest.raises(TypeError, match=r"f must be .* got Objective"):
        reconstruct(A, y, Tikhonov(X), lam=1.0, solver=solvers.pdhg, **QUIET)
