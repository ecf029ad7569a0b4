"""The latent vector by its marginal density: quadrature, closed forms, draws of the posterior, units, bad input."""

import numpy as np
import odl
import pytest
import torch

from genreg import GaussianFidelity, Generator, JointPrior, PoissonFidelity, reconstruct, to_torch
from genreg.operators import gaussian_measurements
from genreg.operators.precision.information import InformationGain
from genreg.regularisers.identity import of_regulariser
from genreg.solvers.generative.structured import StructuredProblem

from ..conftest import LinearModel
from .test_structured_prior import SIGMA, StructuredModel, dense, structured


def problem(A, G, y, lam=1.0, **options):
    fidelity = GaussianFidelity(A, y, SIGMA)
    lam = torch.full((len(y),), lam, dtype=torch.float64)
    return JointPrior(G, estimate="marginal", **options).problem(fidelity, lam)


@pytest.fixture(name="G")
def generator(X):
    return structured(X, slope=0.4)


def test_the_objective_is_the_marginal_density(A, G, y):
    """-log N(y; Aμ, σ² I + A Λ⁻¹ Aᵀ) + ½‖z‖², up to a constant."""
    torch.manual_seed(0)
    z, M = torch.randn(8, 3, dtype=torch.float64), dense(A)
    phi = problem(A, G, y[:1].expand(8, -1)).profile()({"z": z})
    decoded = G.decode(z)
    covariance = (
        SIGMA**2 * torch.eye(len(M), dtype=M.dtype) + M @ torch.linalg.inv(decoded.precision.to_dense()) @ M.T
    )
    normal = torch.distributions.MultivariateNormal(decoded.mean.flatten(1) @ M.T, covariance)
    expected = 0.5 * z.square().sum(1) - normal.log_prob(y[:1])
    torch.testing.assert_close(phi - phi[0], expected - expected[0], rtol=1e-8, atol=1e-7)


def test_it_is_the_integral_over_the_image():
    """Two pixels, by quadrature over both; λ tempers the prior."""
    X = odl.uniform_discr([0, 0], [1, 2], (1, 2))
    G = structured(X, distance=0, slope=0.6)
    A, y = odl.IdentityOperator(X), torch.tensor([[[0.7, -0.2]]], dtype=torch.float64)
    grid = torch.linspace(-8, 8, 801, dtype=torch.float64)
    images = torch.cartesian_prod(grid, grid).unflatten(1, (1, 2))
    z = torch.tensor([[0.2, -0.3, 0.5], [1.0, 0.4, -0.7], [-1.2, 0.1, 0.3]], dtype=torch.float64)
    for lam in (1.0, 0.4):
        J = problem(A, G, y.expand(len(images), 1, 2), lam)
        integrals = [torch.logsumexp(-J({"x": images, "z": point.expand(len(images), 3)}), 0) for point in z]
        expected = -torch.stack(integrals)
        phi = problem(A, G, y.expand(3, 1, 2), lam).profile()({"z": z})
        torch.testing.assert_close(phi - phi[0], expected - expected[0], rtol=1e-8, atol=1e-8)


def test_its_gradient_is_the_mean_over_posterior_draws(A, G, y):
    """Fisher's identity: what the steps of the EM algorithm follow."""
    torch.manual_seed(2)
    z = torch.randn(3, 3, dtype=torch.float64)
    marginal = problem(A, G, y)
    _, gradient = marginal.profile().value_and_gradient({"z": z})
    draws = marginal.posterior(z).sample(4000, 1)
    leaf = z.expand(4000, 3, 3).flatten(0, 1).clone().requires_grad_()
    several = problem(A, G, y.repeat(4000, 1))
    value = several.smooth({"x": draws.flatten(0, 1), "z": leaf}, **several.per_sample)
    (of_draws,) = torch.autograd.grad(value.sum(), leaf)
    of_draws = of_draws.unflatten(0, (4000, 3))
    error = of_draws.std(0) / 4000**0.5
    assert ((of_draws.mean(0) - gradient["z"]).abs() < 4 * error).all() and (error < 0.1).all()


@pytest.mark.parametrize("exact", [True, False])
def test_taylor(A, G, y, exact):
    marginal = problem(A, G, y)
    information = InformationGain(A, exact=exact, probes=3, steps=6)
    phi = StructuredProblem.of(
        A, marginal.decode, G.domain, 1e-11, information, **marginal.per_sample
    ).profile()
    torch.manual_seed(0)
    z, h = torch.randn(2, 3, 3, dtype=torch.float64).unbind()
    value, gradient = phi.value_and_gradient({"z": z})
    rest = [
        (phi({"z": z + t * h}) - value - t * (gradient["z"] * h).sum(1)).abs().max() for t in (1e-2, 1e-3)
    ]
    assert 50 < rest[0] / rest[1] < 200


def test_a_precision_of_all_latent_vectors_has_the_closed_form_of_the_joint_estimate(A, X, y):
    G = structured(X)
    for R in (G, Generator(LinearModel(), X)):
        joint, marginal = (
            reconstruct(A, y, JointPrior(R, estimate=e), noise_std=SIGMA, lam=1.0, tol=1e-9, progress=False)
            for e in ("joint", "marginal")
        )
        torch.testing.assert_close(joint.image, marginal.image, rtol=0, atol=1e-6)
    given = JointPrior(G, G.decode(torch.zeros(1, 3, dtype=torch.float64)).precision.take(0))
    assert given.precision is not None and given.estimate == "joint"


def test_it_does_not_run_to_images_of_small_variance():
    """The image is white noise whose size depends on z: the joint density is largest where x vanishes, for any y."""
    X = odl.rn((6, 6))

    class Scale(torch.nn.Module):
        latent_dim = 1
        config = type("Config", (), {"distance": 0, "dilation": 1})()

        def decode(self, z):
            return 0 * z[:, :1, None].expand(-1, 6, 6)

        def decode_factor(self, z):
            return (1.5 * z[:, :1, None]).expand(-1, 6, 6), None

    A, sigma = odl.IdentityOperator(X), 0.5
    torch.manual_seed(0)
    x = 0.5 * torch.randn(40, 6, 6, dtype=torch.float64)  # z = log(2) / 1.5
    y = x + sigma * torch.randn_like(x)
    G = Generator(Scale(), X)
    settings = {"noise_std": sigma, "lam": 1.0, "init": "zero", "progress": False}
    joint = reconstruct(A, y, JointPrior(G), **settings)
    marginal = reconstruct(A, y, JointPrior(G, estimate="marginal"), **settings)
    truth = np.log(2) / 1.5
    assert (marginal.blocks["z"] - truth).abs().mean() < 0.2
    assert (joint.blocks["z"] - truth).abs().mean() > 1
    assert (marginal.image - x).square().mean() < (joint.image - x).square().mean()


def test_a_batch_equals_its_samples_and_units_do_not_matter(A, G, y):
    settings = {"lam": 1.0, "tol": 1e-9, "progress": False}
    R = JointPrior(G, estimate="marginal")
    found = reconstruct(A, y, R, noise_std=SIGMA, **settings)
    for k in range(3):
        alone = reconstruct(A, y[k], R, noise_std=SIGMA, **settings)
        torch.testing.assert_close(alone.image, found.image[k], rtol=0, atol=1e-6)
    other = reconstruct(1e4 * A, 1e4 * y, R, noise_std=1e4 * SIGMA, **settings)
    torch.testing.assert_close(other.image, found.image, rtol=0, atol=1e-6)


def test_the_estimated_gain_leads_to_the_same_place(X, G):
    A = gaussian_measurements(X, 12, seed=0)
    torch.manual_seed(0)
    y = torch.randn(2, 12, dtype=torch.float64)
    exact = problem(A, G, y)
    several = InformationGain(A, exact=False, probes=500, steps=6)
    estimated = StructuredProblem.of(A, exact.decode, G.domain, None, several, **exact.per_sample)
    start = {"z": torch.zeros(2, 3, dtype=torch.float64)}
    R, phi = JointPrior(G, estimate="marginal"), exact.profile()
    least, found = (
        phi({"z": R.solver(p, start, tol=1e-5, progress=False).blocks["z"]}) for p in (exact, estimated)
    )
    assert (found - least < 0.02).all() and (phi(start) - least > 0.5).all()


def test_bad_input_and_identity(A, X, G, y):
    with pytest.raises(ValueError, match="estimate must be one of"):
        JointPrior(G, estimate="mean")
    R = JointPrior(G, estimate="marginal")
    counts = torch.rand(1, 12, dtype=torch.float64).round() + 3
    with pytest.raises(NotImplementedError, match="estimate must be 'joint' unless the noise is Gaussian"):
        reconstruct(
            A, counts, R, fidelity=PoissonFidelity(A, counts, background=40.0), lam=1.0, progress=False
        )
    lam = torch.ones(1, dtype=torch.float64)
    settings = [of_regulariser(JointPrior(G, estimate=e), lam) for e in ("joint", "marginal")]
    assert settings[0]["settings of the regulariser"] != settings[1]["settings of the regulariser"]
    per_sample = JointPrior(Generator(StructuredModel((4, 5)), X), torch.ones(2), estimate="marginal")
    assert per_sample.take(torch.tensor([1])).estimate == "marginal"
    assert to_torch(R)  # it is a functional like the other
