"""Regularisers of the image made of an encoder or a flow, and generated latent terms in a hard constraint."""

import numpy as np
import odl
import pytest
import torch
from torch import nn

from genreg import (
    AutoencoderResidual,
    EncoderNorm,
    FlowPrior,
    GaussianFidelity,
    Generator,
    HardConstraint,
    latent,
    reconstruct,
    to_torch,
)
from genreg.operators import derivative_test, weight

from ...refusals import refuses
from ..conftest import LinearModel

SIGMA = 0.3


class LinearFlow(nn.Module):
    """z = M vec(x) + c, a bijection."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(5)
        self.M = nn.Parameter(
            torch.eye(20, dtype=torch.float64) + 0.1 * torch.randn(20, 20, dtype=torch.float64)
        )
        self.c = nn.Parameter(torch.randn(20, dtype=torch.float64))

    def to_latent(self, x):
        log_det = torch.linalg.slogdet(self.M)[1]
        return x.flatten(1) @ self.M.T + self.c, log_det.expand(len(x))


class BentFlow(LinearFlow):
    """z = sinh(M vec(x) + c), whose determinant depends on x."""

    def to_latent(self, x):
        t, log_det = super().to_latent(x)
        return t.sinh(), log_det + t.cosh().log().sum(1)


def image(X, seed=0):
    return X.element(np.random.default_rng(seed).standard_normal((4, 5)))


def test_values_and_gradients(G, X):
    x = image(X)
    code = G.encode(torch.tensor(x.asarray())[None])[0]
    assert EncoderNorm(G)(x) == pytest.approx(code.square().sum().item(), rel=1e-12)
    distance = (G(G.domain.element(code.numpy())) - x).norm()
    assert AutoencoderResidual(G)(x) == pytest.approx(distance**2, rel=1e-12)
    flow = LinearFlow()
    z = flow.M.detach() @ torch.tensor(x.asarray()).flatten() + flow.c.detach()
    assert FlowPrior(flow, X)(x) == pytest.approx(z.square().sum().item(), rel=1e-12)
    log_det = torch.linalg.slogdet(flow.M.detach())[1].item()
    full = FlowPrior(flow, X, determinant=True)
    assert full(x) == pytest.approx(z.square().sum().item() - 2 * log_det, rel=1e-12)
    for R in (
        EncoderNorm(G),
        AutoencoderResidual(G),
        FlowPrior(flow, X),
        FlowPrior(BentFlow(), X, determinant=True),
    ):
        derivative_test(R, 0.3 * x)
        derivative_test(GaussianFidelity(odl.IdentityOperator(X), x, SIGMA) + 0.3 * R, 0.3 * x)
        assert R.marginal is R


@pytest.mark.parametrize("kind", ["residual", "norm", "flow"])
def test_reconstruction_has_the_closed_form(A, G, X, y, kind):
    w = float(weight(X))
    M = to_torch(A)(torch.eye(20, dtype=torch.float64).unflatten(1, (4, 5))).T
    encoder, decoder = torch.linalg.pinv(G.model.linear.weight.detach()), G.model.linear.weight.detach()
    bias = G.model.linear.bias.detach()
    flow = LinearFlow()
    R, B, c, scale = {
        "residual": (AutoencoderResidual(G), torch.eye(20) - decoder @ encoder, None, w),
        "norm": (EncoderNorm(G), encoder, -encoder @ bias, 1.0),
        "flow": (FlowPrior(flow, X), flow.M.detach(), flow.c.detach(), 1.0),
    }[kind]
    c = -(B @ bias) if c is None else c  # R(x) = scale ‖B x + c‖²
    lam = 7.0  # of a well-conditioned problem
    rec = reconstruct(A, y, R, noise_std=SIGMA, lam=lam, tol=1e-7, max_iter=5000, progress=False)
    normal = M.T @ M / SIGMA**2 + 2 * lam * scale * B.T @ B
    for i in range(3):
        right = M.T @ y[i] / SIGMA**2 - 2 * lam * scale * B.T @ c
        exact = torch.linalg.lstsq(normal, right[:, None], driver="gelsd").solution[:, 0]
        r, t = M @ exact - y[i], B @ exact + c
        best = r.square().sum() / (2 * SIGMA**2) + lam * scale * t.square().sum()
        assert rec.value[i].item() == pytest.approx(best.item(), rel=1e-6)
        if kind == "flow":  # the others leave directions undetermined
            assert torch.allclose(rec.image[i].flatten(), exact, atol=1e-4)


class Critic(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(2)
        self.layer = nn.Linear(20, 1, dtype=torch.float64)

    def forward(self, x):
        return self.layer(x.flatten(1))


def test_generated_latent_terms(A, G, y):
    terms = (
        0.2 * latent.ImageVariation(G, 0.1)
        + latent.Discriminator(G, Critic())
        + latent.StandardNormal(G.domain)
    )
    R = HardConstraint(G, terms)
    derivative_test(R)
    rec = reconstruct(A, y, R, noise_std=SIGMA, lam=0.5, progress=False, tol=1e-7)
    expected = to_torch(GaussianFidelity(A, y, SIGMA))(rec.image) + 0.5 * to_torch(terms)(rec.blocks["z"])
    assert torch.allclose(rec.value, expected)
    plain = reconstruct(A, y, HardConstraint(G), noise_std=SIGMA, lam=0.5, progress=False, tol=1e-7)
    there = to_torch(GaussianFidelity(A, y, SIGMA))(plain.image) + 0.5 * to_torch(terms)(plain.blocks["z"])
    assert (rec.value < there).all()
    sphere = HardConstraint(G, latent.Sphere(G.domain))
    z = reconstruct(A, y, sphere, noise_std=SIGMA, lam=0.5, progress=False).blocks["z"]
    assert torch.allclose(z.norm(dim=1), torch.tensor(3.0, dtype=torch.float64).sqrt().expand(3))
    sparse = HardConstraint(G, latent.Power(G.domain, 0.5))
    z = reconstruct(A, y, sparse, noise_std=SIGMA, lam=20.0, progress=False).blocks["z"]
    assert (z == 0).any()


class Blind(nn.Module):
    latent_dim = 3

    def decode(self, z):
        return z.new_zeros(len(z), 4, 5)


@refuses(
    (lambda X: AutoencoderResidual(Generator(Blind(), X)), ValueError, "G must have an encoder"),
    (lambda X: EncoderNorm(Generator(Blind(), X)), ValueError, "G must have an encoder"),
    (lambda X: EncoderNorm(LinearModel()), TypeError, "G must be a genreg.Generator, got LinearModel"),
    (lambda X: FlowPrior(LinearModel(), X), TypeError, "to_latent, got LinearModel"),
    (lambda X: FlowPrior(LinearFlow(), X**2), TypeError, "space must be"),
)
def test_bad_arguments(X, call):
    call(X)
