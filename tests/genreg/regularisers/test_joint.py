"""The joint prior, and Gauss-Newton steps for the hard constraint: closed forms, other solvers, bad input."""

import numpy as np
import odl
import pytest
import torch

from genreg import (
    GaussianFidelity,
    Generator,
    HardConstraint,
    JointPrior,
    PoissonFidelity,
    RelaxedConstraint,
    reconstruct,
    solvers,
    to_torch,
)
from genreg.operators import blur, derivative_test, weight
from genreg.solvers import JointProblem, Status

from ..conftest import LinearModel

SIGMA = 0.3
BETA = torch.tensor([0.5, 4.0, 60.0], dtype=torch.float64)
LAM = torch.tensor([0.3, 1.0, 2.5], dtype=torch.float64)


@pytest.fixture(name="joint_form")
def joint_closed_form(A, G):
    """Minimiser of ‖Ax - y‖²/(2σ²) + λ (β/2 ‖x - Wz - b‖² + ½ ‖z‖²) from the dense normal equations."""
    pixels, latents = torch.eye(20, dtype=torch.float64), torch.eye(3, dtype=torch.float64)
    b = G.module(torch.zeros(1, 3, dtype=torch.float64)).flatten(1)[0]
    W = (G.module(latents).flatten(1) - b).T
    M = to_torch(A)(pixels.unflatten(1, (4, 5))).T

    def solve(y, lam, beta):
        top = torch.cat((M.T @ M / SIGMA**2 + lam * beta * pixels, -lam * beta * W), 1)
        bottom = torch.cat((-lam * beta * W.T, lam * (beta * W.T @ W + latents)), 1)
        right = torch.cat((M.T @ y / SIGMA**2 + lam * beta * b, -lam * beta * W.T @ b))
        v = torch.linalg.solve(torch.cat((top, bottom)), right)
        return v[:20].unflatten(0, (4, 5)), v[20:]

    return solve


def points(R):
    torch.manual_seed(1)
    return R.domain.element([torch.randn(s.shape, dtype=torch.float64).numpy() for s in R.domain.spaces])


def test_value_is_the_density_of_the_samples_whatever_the_weight_of_the_space(G, X):
    R = JointPrior(G)
    beta = float(torch.tensor(-2.0).exp()) ** -2
    assert R.beta == pytest.approx(beta)  # 1/γ² of the model
    x, z = points(R)
    residual = np.asarray((x - G(z)).data)
    expected = 0.5 * beta * (residual**2).sum() + 0.5 * np.asarray(z.data) @ np.asarray(z.data)
    assert R([x, z]) == pytest.approx(expected, rel=1e-12)
    assert (R.image([x, z]) - x).norm() == 0
    derivative_test(R)
    derivative_test(GaussianFidelity(odl.IdentityOperator(X), x, SIGMA) * R.image + 0.7 * R)


@pytest.mark.parametrize("init", ["encoder", "random", "zero"])
def test_reconstruction_has_the_closed_form(A, G, y, joint_form, init):
    R = JointPrior(G, BETA)
    rec = reconstruct(A, y, R, noise_std=SIGMA, lam=LAM, init=init, tol=1e-10, progress=False)
    assert (rec.status == Status.CONVERGED).all()
    for k in range(3):
        x, z = joint_form(y[k], LAM[k], BETA[k])
        assert torch.allclose(rec.image[k], x, atol=1e-7) and torch.allclose(rec.blocks["z"][k], z, atol=1e-7)
        alone = reconstruct(
            A,
            y[k],
            JointPrior(G, float(BETA[k])),
            noise_std=SIGMA,
            lam=float(LAM[k]),
            tol=1e-10,
            progress=False,
        )
        assert torch.allclose(alone.image, rec.image[k], atol=1e-7)
    assert torch.allclose(
        rec.value, rec.residual / (2 * SIGMA**2) + LAM * to_torch(R)((rec.image, rec.blocks["z"]))
    )


def test_both_blocks_of_large_images_move_together(A, G, X, y, joint_form, monkeypatch):
    monkeypatch.setattr("genreg.regularisers.joint._ELIMINATED", 19)
    assert X.size == 20
    R, each = JointPrior(G, BETA), torch.full(y.shape, SIGMA, dtype=torch.float64)
    blurred = blur(X, 1.0, boundary="symmetric")
    fidelity, exact = GaussianFidelity(A, y, each), [joint_form(y[k], LAM[k], BETA[k])[0] for k in range(3)]
    assert not isinstance(R.problem(fidelity, LAM), JointProblem)
    assert not isinstance(R.problem(GaussianFidelity(blurred, y.new_ones(3, 4, 5), 1.0), LAM), JointProblem)
    assert isinstance(R.problem(GaussianFidelity(A, y, SIGMA), LAM), JointProblem)  # in closed form
    rec = reconstruct(A, y, R, noise_std=each, lam=LAM, tol=1e-10, progress=False)
    assert (rec.status == Status.CONVERGED).all()
    assert torch.allclose(rec.image, torch.stack(exact), atol=1e-6)


def test_it_is_jpmap_and_the_relaxed_constraint_in_other_units(A, G, X, y):
    beta = 4.0
    joint = reconstruct(A, y, JointPrior(G, beta), noise_std=SIGMA, lam=1.0, tol=1e-10, progress=False)
    jpmap = solvers.jpmap(A, y, G, noise_std=SIGMA, beta=beta, tol=1e-10, progress=False)
    assert torch.allclose(joint.image, jpmap.image, atol=1e-9)
    w = float(weight(X))  # λ w ‖x - G(z)‖² = β/2 ‖x - G(z)‖² and λ μ = ½
    lam = beta / (2 * w)
    relaxed = reconstruct(
        A,
        y,
        RelaxedConstraint(G, 0.5 / lam),
        noise_std=SIGMA,
        lam=lam,
        tol=1e-9,
        max_iter=2000,
        progress=False,
    )
    assert torch.allclose(joint.image, relaxed.image, atol=1e-5)


def test_other_fidelities_and_operators_go_through_lbfgs(A, G, X, y):
    R = JointPrior(G, 4.0)
    counts = 40 + 3 * torch.rand(2, *A.range.shape, dtype=torch.float64)
    fidelity = PoissonFidelity(A, counts, background=40.0)
    rec = reconstruct(A, counts, R, fidelity=fidelity, lam=1.0, init="zero", progress=False)
    assert (rec.status == Status.CONVERGED).all()
    square = odl.PowerOperator(X, 2)
    fidelity = GaussianFidelity(square, torch.rand(2, 4, 5, dtype=torch.float64), SIGMA)
    assert not isinstance(R.problem(fidelity, torch.ones(2, dtype=torch.float64)), JointProblem)
    quadratic = GaussianFidelity(A, y, SIGMA)
    problem = R.problem(quadratic, torch.ones(3, dtype=torch.float64))
    assert isinstance(problem, JointProblem)
    start = R.initial(y, A)
    general = solvers.lbfgs(problem, start, tol=1e-9, max_iter=2000, progress=False)
    exact = R.solver(problem, start, tol=1e-10, progress=False)
    assert torch.allclose(general.value, exact.value, rtol=1e-9)


def test_a_generator_without_encoder(A, X, y):
    model = LinearModel()
    decoder = torch.nn.Module()
    decoder.linear, decoder.latent_dim, decoder.decode = model.linear, 3, model.decode
    G = Generator(decoder, X)
    rec = reconstruct(A, y, JointPrior(G, 4.0), noise_std=SIGMA, lam=1.0, tol=1e-10, progress=False)
    other = reconstruct(
        A,
        y,
        JointPrior(Generator(LinearModel(), X), 4.0),
        noise_std=SIGMA,
        lam=1.0,
        tol=1e-10,
        progress=False,
    )
    assert torch.allclose(rec.image, other.image, atol=1e-8)
    with pytest.raises(
        ValueError, match="beta must be given: the model of G has learned no standard deviation"
    ):
        JointPrior(G)


def test_marginal_is_a_quadratic_with_the_envelope_gradient(G, X):
    beta = 4.0
    marginal = JointPrior(G, beta).marginal
    x = points(JointPrior(G))[0]
    b = G.module(torch.zeros(1, 3, dtype=torch.float64)).flatten(1)[0]
    W = (G.module(torch.eye(3, dtype=torch.float64)).flatten(1) - b).T
    r = torch.from_numpy(np.asarray(x.data)).flatten() - b
    covariance = torch.eye(20, dtype=torch.float64) / beta + W @ W.T  # of x, z integrated or minimised out
    precision = torch.linalg.inv(covariance)
    assert marginal(x) == pytest.approx(float(0.5 * r @ precision @ r), rel=1e-6)
    slope = np.asarray(marginal.gradient(x).data).ravel() * float(weight(X))
    assert np.allclose(slope, precision @ r, atol=1e-4)


def test_elements_in_elements_out_and_restarts(A, G, X, y):
    element = A.range.element(y[0].numpy())
    R = JointPrior(G, 4.0)
    rec = reconstruct(A, element, R, noise_std=SIGMA, lam=1.0, restarts=3, progress=False)
    assert rec.image in X and rec.blocks["z"] in G.domain
    assert rec.iterations.shape == ()
    start = R.initial(element, A)
    assert start["x"] in X and start["z"] in G.domain


@pytest.mark.parametrize("beta", [0.0, -1.0, float("nan"), torch.tensor([1.0, -1.0])])
def test_beta_must_be_positive(G, beta):
    with pytest.raises(ValueError, match="beta must be"):
        JointPrior(G, beta)


def test_beta_must_fit_the_batch(A, G, y):
    with pytest.raises(ValueError, match=r"beta must be a number or have the shape \(3,\)"):
        reconstruct(A, y, JointPrior(G, torch.ones(2, dtype=torch.float64)), noise_std=SIGMA, progress=False)
    with pytest.raises(TypeError, match=r"G must be a genreg\.Generator"):
        JointPrior(odl.IdentityOperator(A.domain))


def test_gauss_newton_solves_the_hard_constraint(A, G, y, closed_form):
    rec = reconstruct(
        A,
        y,
        HardConstraint(G),
        noise_std=SIGMA,
        lam=LAM,
        solver=solvers.gauss_newton,
        tol=1e-10,
        progress=False,
    )
    exact = torch.cat([closed_form(y[k : k + 1], SIGMA, LAM[k]) for k in range(3)])
    assert torch.allclose(rec.blocks["z"], exact, atol=1e-8)
    assert (rec.iterations <= 12).all()
    door = solvers.levenberg_marquardt(A, y, G, noise_std=SIGMA, lam=LAM, tol=1e-10, progress=False)
    assert torch.allclose(door.blocks["z"], exact, atol=1e-8)


def test_gauss_newton_needs_a_sum_of_squares(A, G, y):
    absolute = HardConstraint(G, latent=odl.functionals.L1Norm(G.domain))
    with pytest.raises(NotImplementedError, match="must be differentiable for gauss_newton, got Objective"):
        reconstruct(A, y, absolute, noise_std=SIGMA, lam=1.0, solver=solvers.gauss_newton, progress=False)
