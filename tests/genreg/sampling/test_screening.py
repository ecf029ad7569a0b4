"""Starting points: draws of the posterior where the data say little, all modes that have mass, none that have not."""

import odl
import pytest
import torch

import genreg
from genreg.operators import to_torch
from genreg.sampling import LatentPosterior, screening
from genreg.sampling.importance import kish_ess
from genreg.sampling.screening import _log_likelihood, _tempered, screened_starts

X = odl.uniform_discr(0, 1, 3, dtype="float64")


class Square(torch.nn.Module):
    """G(z) = (z₁² + z₁ / 100, z₂, 0): two modes of nearly the same energy, or one, by what is measured."""

    latent_dim = 2

    def __init__(self, tilt=0.01):
        super().__init__()
        self.tilt = tilt

    def forward(self, z):
        a, b = z.T
        return torch.stack([a.square() + self.tilt * a, b, 0 * a], 1)


def problem(y, noise_std, tilt=0.01):
    G = genreg.Generator(Square(tilt), X)
    y = torch.as_tensor(y, dtype=torch.float64)
    return LatentPosterior(genreg.GaussianFidelity(odl.IdentityOperator(X), y, noise_std=noise_std), G)


def test_weak_data_give_draws_of_the_posterior():
    """The second component has a Gaussian posterior, N(y / (1 + σ²), σ² / (1 + σ²)); no weight is tempered."""
    posterior = problem([[0.0, 1.0, 0.0], [0.0, -2.0, 0.0]], 2.0)
    z, spent = screened_starts(posterior, 1000, draws=20000, iterations=0, seed=1)
    assert z.shape == (1000, 2, 2) and spent.shape == (1000, 2) and int(spent.sum()) == 0
    assert z[..., 1].mean(0).tolist() == pytest.approx([0.2, -0.4], abs=0.1)
    assert z[..., 1].var(0).tolist() == pytest.approx([0.8, 0.8], abs=0.1)
    assert len(torch.unique(z[:, 0, 0])) == 1000  # without replacement


def test_large_images_are_drawn_few_at_a_time(monkeypatch):
    """The same starts, from fewer images at once; and fewer draws by default where images are large."""
    posterior = problem([[0.0, 1.0, 0.0]], 1.0)
    several, _ = screened_starts(posterior, 7, draws=100, iterations=0)
    counts, decode = [], posterior.decode
    monkeypatch.setattr(posterior, "decode", lambda z: (counts.append(len(z)), decode(z))[1])
    monkeypatch.setattr(screening, "_PIXELS", 30)
    few, _ = screened_starts(posterior, 7, draws=100, iterations=0)
    assert torch.equal(few, several) and counts == [10] * 10
    monkeypatch.setattr(screening, "_DECODED", 3 * 25)
    counts.clear()
    screened_starts(posterior, 7, iterations=0)
    assert counts == [10, 10, 5]


def test_both_modes_are_found():
    posterior = problem([[2.25, 0.5, 0.0]] * 5, 0.05)
    z, spent = screened_starts(posterior, 20, seed=2)
    share = (z[..., 0] > 0).double().mean(0)
    assert bool(((share > 0.1) & (share < 0.9)).all())
    torch.testing.assert_close(
        z[..., 0].abs(), torch.full((20, 5), 1.5, dtype=torch.float64), atol=0.03, rtol=0
    )
    assert bool((spent > 0).all())
    slope = posterior.take(torch.arange(5).repeat(20)).objective.value_and_gradient({"z": z.flatten(0, 1)})[
        1
    ]["z"]
    assert float(slope.abs().max()) < 0.3  # a minimiser: curvatures are about 1e4


def test_modes_without_mass_are_left():
    """z₁² - 3 z₁ = 1 at -0.303 and 3.303, where ‖z‖²/2 is 5.4 nats more: beyond 2 for each dimension."""
    posterior = problem([[1.0, 0.0, 0.0]], 0.01, tilt=-3.0)
    near, _ = screened_starts(posterior, 200, draws=5000, iterations=0)
    assert bool((near[..., 0] > 2).any())
    z, _ = screened_starts(posterior, 200, draws=5000)
    torch.testing.assert_close(
        z[..., 0], torch.full((200, 1), -0.3028, dtype=torch.float64), atol=0.01, rtol=0
    )


def test_sound_chains_stay_where_they_are():
    posterior = problem([[2.25, 0.5, 0.0]], 0.05)
    rows = torch.zeros(20, dtype=torch.int64)
    start, _ = screened_starts(posterior, 20, seed=5, iterations=0)
    found = posterior.prior.solver(
        posterior.objective.take(rows), {"z": start.flatten(0, 1)}, max_iter=60, tol=1e-3, progress=False
    )
    z, spent = screened_starts(posterior, 20, seed=5)
    torch.testing.assert_close(z[:, 0], found.blocks["z"])
    assert torch.equal(spent[:, 0], found.operator_calls)


def test_log_likelihoods_are_those_of_the_data():
    posterior = problem([[1.0, 0.0, 0.5], [0.3, 2.0, 0.0]], 0.7)
    z = torch.randn(7, 2, dtype=torch.float64)
    found = _log_likelihood(posterior, z)
    image = posterior.decode(z)
    data = posterior.fidelity.data
    for b in range(2):
        energy = (image - data[b]).square().sum(1) / (2 * 0.7**2)
        torch.testing.assert_close(found[:, b], energy.min() - energy)
    assert to_torch(posterior.fidelity.take(torch.tensor([1])))(image[:1]).item() == pytest.approx(
        float(energy[0])
    )


def test_tempering_keeps_as_many_draws_as_asked_for():
    log_weight = -50 * torch.rand((500, 3), dtype=torch.float64) ** 2 * torch.tensor([0.001, 1.0, 1000.0])
    found = _tempered(log_weight, 20)
    torch.testing.assert_close(found[:, 0], log_weight[:, 0])  # enough of them as they are
    assert kish_ess(log_weight.softmax(0), 0)[2] < 20
    assert kish_ess(found.softmax(0), 0)[2].item() == pytest.approx(20, rel=1e-3)


def test_seeds_and_bad_input():
    posterior = problem([[1.0, 0.0, 0.5]], 0.1)
    first, again, other = (screened_starts(posterior, 3, draws=50, seed=s)[0] for s in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)
    with pytest.raises(ValueError, match="chains must be a positive integer, got 0"):
        screened_starts(posterior, 0)
    with pytest.raises(ValueError, match="draws must be an integer of at least 5, got 4"):
        screened_starts(posterior, 5, draws=4)
    with pytest.raises(ValueError, match="iterations must be a non-negative integer, got -1"):
        screened_starts(posterior, 5, iterations=-1)
