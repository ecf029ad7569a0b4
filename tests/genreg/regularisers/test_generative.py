"""Relaxed constraint, sparse deviations and their marginals: closed forms, brute force, batches, bad input."""

import numpy as np
import odl
import pytest
import torch
from scipy.optimize import minimize

from genreg import (
    FunctionalFidelity,
    GaussianFidelity,
    Generator,
    HardConstraint,
    RelaxedConstraint,
    SparseDeviation,
    load_generator,
    reconstruct,
    solvers,
    to_torch,
)
from genreg.datasets import shapes
from genreg.operators import derivative_test, weight
from genreg.regularisers import Marginal
from genreg.solvers import Status

from ...refusals import refuses
from ..conftest import LinearModel

SIGMA = 0.3
LAM = torch.tensor([0.5, 1.0, 4.0], dtype=torch.float64)
MU = torch.tensor([0.05, 0.3, 2.0], dtype=torch.float64)


@pytest.fixture(name="dense")
def dense_maps(A, G):
    """A (12, 20), W (20, 3), b (20,) as matrices, and the cell volume."""
    pixels, latents = torch.eye(20, dtype=torch.float64), torch.eye(3, dtype=torch.float64)
    b = G.module(torch.zeros(1, 3, dtype=torch.float64)).flatten(1)
    W = (G.module(latents).flatten(1) - b).T
    return to_torch(A)(pixels.unflatten(1, (4, 5))).T, W, b[0], float(weight(A.domain))


def elements(R):
    torch.manual_seed(1)
    return R.domain.element([torch.randn(s.shape, dtype=torch.float64).numpy() for s in R.domain.spaces])


def test_values_are_those_of_the_paper(A, G, X, y):
    R = RelaxedConstraint(G, 0.3)
    x, z = elements(R)
    assert R.domain.element([x, z]) in odl.ProductSpace(X, G.domain)
    assert R([x, z]) == pytest.approx((G(z) - x).norm() ** 2 + 0.3 * z.norm() ** 2, rel=1e-12)
    assert (R.image([x, z]) - x).norm() == 0
    derivative_test(R)

    S = SparseDeviation(G, 0.3)
    assert S([x, z]) == pytest.approx(odl.functionals.L1Norm(X)(x) + 0.3 * z.norm() ** 2, rel=1e-12)
    assert (S.image([x, z]) - x - G(z)).norm() < 1e-12
    D = odl.Gradient(X, method="forward", pad_mode="symmetric")
    tv = odl.functionals.GroupL1Norm(D.range)(D(x))
    V = SparseDeviation(G, 0.3, sparsity="tv")
    assert V([x, z]) == pytest.approx(tv + 0.3 * z.norm() ** 2, rel=1e-12)
    with pytest.raises(NotImplementedError, match="palm"):
        _ = S.gradient


def test_relaxed_constraint_has_the_closed_form(A, G, y, dense):
    M, W, b, w = dense
    R = RelaxedConstraint(G, MU)
    rec = reconstruct(A, y, R, noise_std=SIGMA, lam=LAM, tol=1e-9, max_iter=20_000, progress=False)
    eye = torch.eye(20, dtype=torch.float64)
    for i in range(3):
        lam, mu = LAM[i], MU[i]
        top = torch.cat([M.T @ M / SIGMA**2 + 2 * lam * w * eye, -2 * lam * w * W], 1)
        low = torch.cat([-2 * lam * w * W.T, 2 * lam * (w * W.T @ W + mu * torch.eye(3))], 1)
        right = torch.cat([M.T @ y[i] / SIGMA**2 + 2 * lam * w * b, -2 * lam * w * W.T @ b])
        exact = torch.linalg.solve(torch.cat([top, low]), right)
        assert torch.allclose(rec.blocks["x"][i].flatten(), exact[:20], atol=1e-5)
        assert torch.allclose(rec.blocks["z"][i], exact[20:], atol=1e-5)
    assert (rec.status == Status.CONVERGED).all()


def test_sparse_deviation_against_a_bounded_smooth_solver(A, G, y, dense):
    M, W, b, w = (t.numpy() if isinstance(t, torch.Tensor) else t for t in dense)
    rec = reconstruct(
        A, y, SparseDeviation(G, MU), noise_std=SIGMA, lam=LAM, tol=1e-6, max_iter=3000, progress=False
    )
    for i in range(3):
        lam, mu = LAM[i].item(), MU[i].item()

        def value(v, i=i, lam=lam, mu=mu):
            u, z = v[:20] - v[20:40], v[40:]
            r = M @ (u + W @ z + b) - y[i].numpy()
            g = M.T @ r / SIGMA**2
            total = r @ r / (2 * SIGMA**2) + lam * (w * v[:40].sum() + mu * z @ z)
            grad = [g + lam * w, -g + lam * w, W.T @ g + 2 * lam * mu * z]
            return total, np.concatenate(grad)

        bounds = [(0, None)] * 40 + [(None, None)] * 3
        options = {"maxiter": 20_000, "maxfun": 50_000, "ftol": 1e-15, "gtol": 1e-10}
        best = minimize(value, np.zeros(43), jac=True, bounds=bounds, method="L-BFGS-B", options=options)
        assert rec.value[i].item() == pytest.approx(best.fun, rel=1e-6)
        u = best.x[:20] - best.x[20:40]
        assert np.allclose(rec.blocks["u"][i].flatten(), u, atol=2e-3)
    zeros = (rec.blocks["u"] == 0).flatten(1).sum(1)
    assert zeros[2] > zeros[0] > 0  # sparser with larger λ


@pytest.mark.parametrize("make", [RelaxedConstraint, SparseDeviation])
def test_batched_is_one_at_a_time(A, G, y, make):
    options = {"noise_std": SIGMA, "progress": False, "tol": 1e-6, "max_iter": 60}
    batch = reconstruct(A, y, make(G, MU), lam=LAM, **options)
    for i in range(3):
        one = reconstruct(A, y[i], make(G, MU[i].item()), lam=LAM[i].item(), **options)
        assert one.value.item() == pytest.approx(batch.value[i].item(), rel=1e-6)
        assert torch.allclose(one.image, batch.image[i], atol=2e-3)


def test_the_algebra_of_odl_gives_the_same_problem(A, G, y):
    one = A.range.element(y[0].numpy())
    for R, solve in (
        (RelaxedConstraint(G, 1.0), [solvers.alternating_gradient_descent]),
        (SparseDeviation(G, 1.0), [solvers.palm, solvers.ipalm]),
    ):
        J, options = GaussianFidelity(A, one, SIGMA) * R.image + 4.0 * R, {"tol": 1e-5, "progress": False}
        rec = reconstruct(A, one, R, noise_std=SIGMA, lam=4.0, max_iter=1000, **options)
        for sol in (one_of(J, R.initial(one, A), max_iter=250, **options) for one_of in solve):
            assert float(sol.value) == pytest.approx(float(rec.value), rel=1e-5)
            assert sol.blocks["z"] in G.domain and rec.blocks["z"] in G.domain


@pytest.mark.parametrize("init", ["hard", "encoder", "random", "zero", None])
def test_starting_points(A, G, y, init):
    R = SparseDeviation(G, 0.1)
    starts = R.start(GaussianFidelity(A, y, SIGMA), init, 2, torch.Generator().manual_seed(0))
    assert starts["z"].shape == (6, 3) and starts["u"].shape == (6, 4, 5)
    assert (starts["u"] == 0).all()
    x = RelaxedConstraint(G, 0.1).start(
        GaussianFidelity(A, y, SIGMA), init, 2, torch.Generator().manual_seed(0)
    )
    assert torch.allclose(x["x"], G.module(starts["z"]))
    if init in ("hard", None):  # both restarts reach the only minimum of a convex problem
        assert torch.allclose(starts["z"][::2], starts["z"][1::2], atol=1e-4)


def test_marginal_of_the_relaxed_constraint(G, X, dense):
    _, W, b, w = dense
    m = RelaxedConstraint(G, 0.3).marginal
    x = X.element(np.random.default_rng(0).standard_normal((4, 5)))
    t = torch.tensor(x.asarray()).flatten() - b
    z = torch.linalg.solve(w * W.T @ W + 0.3 * torch.eye(3), w * W.T @ t)
    expected = w * (W @ z - t).square().sum() + 0.3 * z.square().sum()
    assert m(x) == pytest.approx(expected.item(), rel=1e-9)
    envelope = 2 * (t - W @ z)
    assert np.allclose(m.gradient(x).asarray().ravel(), envelope, atol=1e-5)
    derivative_test(m, x)
    batch = torch.stack([torch.tensor(x.asarray()), torch.zeros(4, 5, dtype=torch.float64)])
    assert to_torch(m)(batch)[0].item() == pytest.approx(expected.item(), rel=1e-9)


@pytest.mark.parametrize("sparsity", ["l1", "tv"])
def test_marginal_of_sparse_deviations(G, X, dense, sparsity):
    R = SparseDeviation(G, 0.3, sparsity=sparsity)
    m = Marginal(R, smoothing=0.05, tol=1e-9)
    x = X.element(np.random.default_rng(0).standard_normal((4, 5)))
    derivative_test(m, x)
    fine = Marginal(R, smoothing=1e-5, tol=1e-9, max_iter=2000)

    _, W, b, w = (t.numpy() if isinstance(t, torch.Tensor) else t for t in dense)
    parts = np.eye(20)[:, None]
    if sparsity == "tv":
        D = to_torch(odl.Gradient(X, method="forward", pad_mode="symmetric"))
        parts = D(torch.eye(20, dtype=torch.float64).unflatten(1, (4, 5))).flatten(2).numpy()  # (20, 2, 20)

    def value(z):
        deviation = x.asarray().ravel() - W @ z - b
        return w * np.linalg.norm(np.tensordot(deviation, parts, 1), axis=0).sum() + 0.3 * z @ z

    options = {"xatol": 1e-9, "fatol": 1e-11, "maxiter": 4000}
    best = min(
        (
            minimize(value, z0, method="Nelder-Mead", options=options)
            for z0 in np.random.default_rng(1).standard_normal((3, 3))
        ),
        key=lambda found: found.fun,
    )
    z = G.domain.element(best.x)
    assert R(R.domain.element([x - G(z), z])) == pytest.approx(best.fun, rel=1e-9)
    assert fine(x) == pytest.approx(best.fun, rel=2e-4)


def test_marginal_of_a_generator_that_is_not_linear_and_in_odls_solvers(A, X, y):
    class Bent(LinearModel):
        def decode(self, z):
            return super().decode(z + 0.3 * torch.tanh(z))

    G = Generator(Bent(), X)
    m = RelaxedConstraint(G, 0.2).marginal
    derivative_test(m, X.element(np.random.default_rng(2).standard_normal((4, 5))))
    J = GaussianFidelity(A, A.range.element(y[0].numpy()), SIGMA) + 2.0 * m
    x = X.zero()
    before = J(x)
    odl.solvers.steepest_descent(J, x, line_search=5e-3, maxiter=10)  # ODL's own solver
    assert J(x) < 0.9 * before
    sol = solvers.gradient_descent(J, X.zero(), max_iter=100, tol=1e-3, progress=False)
    assert sol.converged
    rec = reconstruct(A, y[:1], RelaxedConstraint(G, 0.2), noise_std=SIGMA, lam=2.0, tol=1e-6, progress=False)
    assert float(sol.value) == pytest.approx(rec.value.item(), rel=1e-4)


def test_marginal_of_the_hard_constraint_is_finite_on_the_range(G, X):
    R = HardConstraint(G)
    z = G.domain.element([1.0, -2.0, 0.5])
    assert R.marginal(G(z)) == pytest.approx(5.25, rel=1e-6)
    assert R.marginal(X.one()) == np.inf
    with pytest.raises(NotImplementedError):
        _ = R.marginal.gradient


def test_latent_terms_are_exchangeable(A, G, y):
    Z = G.domain
    box = odl.functionals.IndicatorBox(Z, -0.1, 0.1)
    rec = reconstruct(A, y, HardConstraint(G, box), noise_std=SIGMA, lam=1.0, progress=False)
    assert rec.blocks["z"].abs().max() <= 0.1 + 1e-9
    both = 0.5 * odl.functionals.L2NormSquared(Z) + box
    for R in (HardConstraint(G, both), RelaxedConstraint(G, 0.2, latent=both)):
        rec = reconstruct(A, y, R, noise_std=SIGMA, lam=1.0, progress=False)
        assert rec.blocks["z"].abs().max() <= 0.1 + 1e-9 and torch.isfinite(rec.value).all()
    lasso = SparseDeviation(G, 5.0, latent=odl.functionals.L1Norm(Z))
    rec = reconstruct(A, y, lasso, noise_std=SIGMA, lam=3.0, progress=False, max_iter=2000)
    assert (rec.blocks["z"] == 0).any()
    assert torch.allclose(rec.value, to_torch(GaussianFidelity(A, y, SIGMA))(rec.image) + 3.0 * (
        to_torch(odl.functionals.L1Norm(A.domain))(rec.blocks["u"]) + 5.0 * rec.blocks["z"].abs().sum(1)
    ))  # fmt: skip
    with pytest.raises(NotImplementedError, match="palm"):
        _ = HardConstraint(G, box).gradient


def without_encoder(X):
    return Generator(LinearModel().linear, odl.rn(20), latent_dim=3)


@refuses(
    (lambda G: RelaxedConstraint(G, -0.1), ValueError, "mu must be non-negative.* -0.1"),
    (lambda G: SparseDeviation(G, float("nan")), ValueError, "mu must be non-negative"),
    (lambda G: SparseDeviation(G, "0.1"), TypeError, "mu must be a number or a tensor"),
    (lambda G: SparseDeviation(G, torch.ones(2, 2)), ValueError, r"mu .*shape \(B,\).*\(2, 2\)"),
    (
        lambda G: SparseDeviation(G, 0.1, sparsity="l2"),
        ValueError,
        r"sparsity must be one of \['l1', 'tv'\], got 'l2'",
    ),
    (lambda G: RelaxedConstraint("G", 0.1), TypeError, "G must be a genreg.Generator, got str"),
    (lambda G: HardConstraint(G, odl.functionals.L1Norm(odl.rn(7))), ValueError, "latent must be"),
    (lambda G: HardConstraint(G, "normal"), ValueError, "latent must be"),
    (lambda G: Marginal(RelaxedConstraint(G, 0.1), smoothing=0.0), ValueError, "smoothing must be"),
    (lambda G: Marginal(RelaxedConstraint(G, 0.1), restarts=0), ValueError, "restarts must be"),
)
def test_bad_arguments(G, call):
    call(G)


def test_bad_arguments_of_reconstruct(A, G, y):
    options = {"noise_std": SIGMA, "progress": False}
    with pytest.raises(ValueError, match=r"mu must be a number or have the shape \(3,\), got \(2,\)"):
        reconstruct(A, y, RelaxedConstraint(G, torch.ones(2)), lam=1.0, **options)
    with pytest.raises(ValueError, match="init must be"):
        reconstruct(A, y, RelaxedConstraint(G, 0.1), lam=1.0, init="guess", **options)
    with pytest.raises(ValueError, match="lam must be non-negative"):
        reconstruct(A, y, SparseDeviation(G, 0.1), lam=-1.0, **options)
    H = without_encoder(A.domain)
    with pytest.raises(ValueError, match="no encoder"):
        reconstruct(
            odl.IdentityOperator(H.range), torch.zeros(20, dtype=torch.float64), HardConstraint(H),
            lam=1.0, init="encoder", **options,
        )  # fmt: skip
    for given in ({}, {"noise_std": SIGMA, "fidelity": GaussianFidelity(A, y, SIGMA)}):
        with pytest.raises(TypeError, match="noise_std"):
            reconstruct(A, y, RelaxedConstraint(G, 0.1), lam=1.0, **given)
    rough = FunctionalFidelity(A, odl.functionals.L1Norm(A.range), y)
    with pytest.raises(NotImplementedError, match="gradient"):
        reconstruct(A, y, HardConstraint(G), lam=1.0, fidelity=rough, progress=False)
    smooth = FunctionalFidelity(A, odl.functionals.L2NormSquared(A.range), y)
    with pytest.raises(ValueError, match="needs the level of the noise"):
        reconstruct(A, y, HardConstraint(G), fidelity=smooth, progress=False)
    other = odl.IdentityOperator(A.domain)
    with pytest.raises(ValueError, match="fidelity must have the operator A"):
        reconstruct(
            A, y, RelaxedConstraint(G, 0.1), lam=1.0, fidelity=GaussianFidelity(other, A.domain.zero(), 1.0)
        )


@pytest.mark.parametrize("kind", ["relaxed", "l1", "tv"])
def test_a_marginal_is_a_function(G, X, kind):
    """The same image has the same value whatever was evaluated before, with others or alone."""
    R = RelaxedConstraint(G, 0.3) if kind == "relaxed" else SparseDeviation(G, 0.3, sparsity=kind)
    m, x = Marginal(R, restarts=3), torch.randn(3, 4, 5, dtype=torch.float64)
    first = to_torch(m)(x[:1])
    to_torch(m)(x[1:2])
    assert torch.equal(to_torch(m)(x[:1]), first)
    batch = to_torch(m)(x.flip(0)).flip(0)
    assert torch.allclose(batch, torch.cat([first, to_torch(m)(x[1:2]), to_torch(m)(x[2:])]), rtol=1e-9)


def test_the_smoothing_of_a_marginal_follows_the_pixels(G):
    """In other units of length the total variation is another multiple of the same value."""
    found = []
    for scale in (1.0, 1e-3):
        space = odl.uniform_discr([0, 0], [8 * scale, 5 * scale], (4, 5))
        R = SparseDeviation(Generator(LinearModel(), space), 0.3 * scale, sparsity="tv")
        x = torch.randn(2, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        found.append(to_torch(R.marginal)(x) / scale)
    assert torch.allclose(found[0], found[1], rtol=1e-6)


def test_a_marginal_of_single_precision_ends():
    """Its inner problem meets the tolerance instead of searching for what single precision cannot give."""
    space = odl.uniform_discr([-1, -1], [1, 1], (56, 56), dtype="float32")
    shipped = load_generator("shapes-vae", range=space)
    x = shapes(2, seed=3)
    for R in (RelaxedConstraint(shipped, 0.1), SparseDeviation(shipped, 0.1)):
        m, calls = R.marginal, []
        evaluate = R.at_image
        R.at_image = lambda *args, of=evaluate, seen=calls, **kw: (seen.append(1), of(*args, **kw))[1]
        to_torch(m)(x)
        assert len(calls) < 120
