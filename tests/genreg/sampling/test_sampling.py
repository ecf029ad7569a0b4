"""Latent posteriors: the Gaussian closed form, starts, stopped chains, resumption, statistics, bad input."""

import dataclasses

import odl
import pytest
import torch

from genreg import GaussianFidelity, Generator, PoissonFidelity, latent, solvers, to_torch
from genreg.operators import gaussian_measurements
from genreg.sampling import (
    HMC,
    MALA,
    PCN,
    SKROCK,
    ULA,
    ChainStatus,
    LatentPosterior,
    langevin,
    resume,
    sample,
    starts,
)
from genreg.sampling.kernels import ChainState
from genreg.sampling.random_numbers import RandomNumbers

from ...refusals import refuses
from ..conftest import LinearModel

SIGMA = 0.3


@pytest.fixture(name="posterior")
def latent_posterior(A, G, y):
    return LatentPosterior(GaussianFidelity(A, y, SIGMA), G)


@pytest.fixture(name="exact")
def exact_moments(A, G, y, closed_form):
    """Means ``(B, 3)`` and the covariance of the latent vectors."""
    forward = to_torch(A)
    offset = forward(G.module(torch.zeros(1, 3, dtype=torch.float64)))
    J = (forward(G.module(torch.eye(3, dtype=torch.float64))) - offset).T
    covariance = torch.linalg.inv(J.T @ J / SIGMA**2 + torch.eye(3, dtype=torch.float64))
    return closed_form(y, SIGMA, 0.5), covariance


class Fixed(RandomNumbers):
    """Noise that is known."""

    value = 0.0

    def normal(self, like):
        return torch.full_like(like, self.value)


def scores(z, mean, covariance):
    """Errors of means and covariances in units of their scatter between chains, ``(B, 3)`` and ``(B, 3, 3)``."""
    n = z.shape[1] ** 0.5
    r = z - mean
    means = r.mean(0)
    squares = torch.einsum("dcbi,dcbj->cbij", r, r) / len(z) - covariance
    return (t.mean(0) / (t.std(0) / n) for t in (means, squares))


@pytest.mark.parametrize("metric", ["identity", "diagonal", "dense"])
@pytest.mark.parametrize("kernel", [MALA(), PCN(), HMC(leapfrog=3)], ids=["MALA", "PCN", "HMC"])
def test_the_gaussian_posterior(posterior, exact, kernel, metric):
    found = sample(
        posterior, kernel, chains=100, steps=120, burn_in=60, metric=metric, thin=3, seed=1, progress=False
    )
    assert found.z.shape == (20, 100, 3, 3) and found.energy.shape == (20, 100, 3)
    mean, covariance = exact
    for score in scores(found.z, mean, covariance):
        assert float(score.abs().max()) < 4.5
    assert bool((found.status == ChainStatus.COMPLETED).all())
    assert torch.allclose(found.energy[-1, 7], posterior.energy(found.z[-1, 7]))
    assert torch.allclose(found.last, found.z[-1])


@pytest.mark.parametrize("kernel", [ULA(), SKROCK(stages=3)], ids=["ULA", "SKROCK"])
def test_the_unadjusted_ones_sample_what_they_must(posterior, exact, kernel):
    """On a Gaussian with Hessian H a step is u = a(H) u + b(H) ξ; its variance is b² / (1 - a²), not 1 / H."""
    mean, covariance = exact
    H = torch.linalg.inv(covariance)
    eigenvalues, basis = torch.linalg.eigh(H)
    size = kernel.largest_size(eigenvalues.max())

    def gaussian(u, *, gradient=True):
        return 0.5 * (eigenvalues * u.square()).sum(1), eigenvalues * u

    still = Fixed(0, torch.device("cpu"))
    a = kernel.step(gaussian, ChainState.at(gaussian, torch.ones(1, 3).double()), size.reshape(1), still)[
        0
    ].u[0]
    still.value = 1.0
    b = kernel.step(gaussian, ChainState.at(gaussian, torch.zeros(1, 3).double()), size.reshape(1), still)[
        0
    ].u[0]
    biased = basis @ torch.diag(b**2 / (1 - a**2)) @ basis.T
    torch.manual_seed(0)
    start = mean + torch.randn(100, 3, 3, dtype=torch.float64) @ torch.linalg.cholesky(biased).T
    options = {"chains": 100, "steps": 90, "burn_in": 0, "init": start, "metric": "identity", "seed": 0}
    found = sample(posterior, kernel, step=float(size), progress=False, **options)
    for score in scores(found.z, mean, biased):
        assert float(score.abs().max()) < 4.5
    assert float(list(scores(found.z, mean, covariance))[1].abs().max()) > 10  # the bias shows


def test_other_fidelities_and_priors(A, X, G, y):
    """The energy is that of the objects it is made of, with its gradient."""
    torch.manual_seed(0)
    z = torch.randn(3, 3, dtype=torch.float64)
    gaussian = GaussianFidelity(A, y, SIGMA)
    expected = to_torch(gaussian)(G.module(z)) + 0.5 * z.square().sum(1)
    assert torch.allclose(LatentPosterior(gaussian, G).energy(z), expected)
    counts = PoissonFidelity(
        odl.IdentityOperator(X), torch.ones(3, 4, 5, dtype=torch.float64), background=20.0
    )
    other = LatentPosterior(counts, G, latent=1.5 * odl.functionals.L2NormSquared(G.domain))
    assert torch.allclose(other.energy(z), to_torch(counts)(G.module(z)) + 1.5 * z.square().sum(1))
    assert torch.allclose(other.take(torch.tensor([2, 0])).energy(z[[2, 0]]), other.energy(z)[[2, 0]])
    found = sample(other, chains=2, steps=20, init=0 * z, seed=0, progress=False)
    assert bool(torch.isfinite(found.z).all())


def test_starts(posterior, exact, G):
    random = RandomNumbers(0, torch.device("cpu"))
    z, spent = starts(posterior, "prior", 4, random)
    assert z.shape == (4, 3, 3) and not bool(spent.any())
    z, spent = starts(posterior, "map", 4, random)
    assert torch.allclose(z, exact[0].expand_as(z), atol=1e-3) and bool((spent > 1).all())
    z, spent = starts(posterior, "screened", 4, random)
    assert torch.allclose(z, exact[0].expand_as(z), atol=1e-3) and bool((spent > 1).all())
    z, _ = starts(posterior, "posterior", 4, random)  # an encoder of points
    assert torch.allclose(z, G.encode(posterior.fidelity.rough()).expand_as(z))
    given = torch.randn(4, 3, 3, dtype=torch.float64)
    assert torch.equal(starts(posterior, given, 4, random)[0], given)
    assert torch.equal(starts(posterior, given[0], 4, random)[0], given[0].expand(4, 3, 3))


class TwoModes(torch.nn.Module):
    """Constant images z² + z / 50: of one intensity there are two modes, which differ in energy by a little."""

    latent_dim = 1

    def forward(self, z):
        return (z**2 + 0.02 * z)[:, :, None].expand(-1, 4, 5)


def test_chains_start_in_modes_by_their_mass(X):
    G = Generator(TwoModes(), X)
    identity = odl.IdentityOperator(X)
    y = torch.full((1, 4, 5), 1.0, dtype=torch.float64)
    posterior = LatentPosterior(GaussianFidelity(identity, y, 0.3), G)
    z, _ = starts(posterior, "map", 400, RandomNumbers(0, torch.device("cpu")))
    values = z.unique()
    assert bool((z.abs() > 0.5).all()) and len(values) >= 2
    energy = posterior.take(torch.zeros(2, dtype=torch.int64)).energy(
        torch.stack((z.amin(), z.amax()))[:, None]
    )
    share = float(torch.softmax(-energy, 0)[1])
    assert float((z > 0).double().mean()) == pytest.approx(share, abs=4 * 0.5 / 400**0.5)


def test_an_encoder_of_distributions_gives_its_draws(posterior, monkeypatch):
    mean, std = torch.randn(3, 3, dtype=torch.float64), torch.rand(3, 3, dtype=torch.float64)
    model = posterior.generator.model
    monkeypatch.setattr(model, "variational", True, raising=False)
    monkeypatch.setattr(model, "image_shape", (4, 5), raising=False)
    monkeypatch.setattr(model, "encode_distribution", lambda x: (mean, std), raising=False)
    z, _ = starts(posterior, "posterior", 5000, RandomNumbers(0, torch.device("cpu")))
    assert torch.allclose(z.mean(0), mean, atol=0.06) and torch.allclose(z.std(0), std, atol=0.04)


def test_the_same_seed_gives_the_same_draws(posterior):
    options = {"chains": 2, "steps": 12, "progress": False}
    first, again = (sample(posterior, seed=5, **options) for _ in range(2))
    assert torch.equal(first.z, again.z) and first.seed == 5
    drawn = sample(posterior, **options)
    assert not torch.equal(drawn.z, first.z)
    assert torch.equal(sample(posterior, seed=drawn.seed, **options).z, drawn.z)


@pytest.mark.parametrize("kernel", [MALA(), SKROCK(stages=3), HMC(leapfrog=2)], ids=str)
def test_resumed_is_uninterrupted(posterior, kernel, tmp_path):
    options = {"chains": 3, "burn_in": 16, "thin": 2, "seed": 0, "progress": False}
    whole = sample(posterior, kernel, steps=24, **options)
    for turn, steps in (("warm-up", 1e-9), ("later", None)):
        if turn == "warm-up":
            part = sample(posterior, kernel, steps=24, max_seconds=steps, **options)
            assert part.z.shape[0] == 0 and bool((part.status == ChainStatus.INTERRUPTED).all())
            assert bool(part.mean.isnan().all())
        else:
            part = sample(posterior, kernel, steps=21, **options)
        part.save(tmp_path / "state.safetensors")
        for saved in (part, tmp_path / "state.safetensors"):
            found = resume(posterior, saved, steps=24, progress=False)
            for name in ("z", "energy", "acceptance", "step", "status", "last", "mean", "std", "evaluations"):
                assert torch.equal(getattr(found, name), getattr(whole, name)), name
    assert whole.z.shape[0] == 4


def test_a_checkpoint_is_written_and_a_longer_run_goes_on(posterior, tmp_path):
    options = {"chains": 2, "burn_in": 5, "thin": 1, "seed": 0, "progress": False}
    file = tmp_path / "deep" / "run.safetensors"
    short = sample(posterior, steps=15, checkpoint=file, **options)
    longer = resume(posterior, file, steps=20, checkpoint=file, progress=False)
    assert torch.equal(longer.z, sample(posterior, steps=20, **options).z)
    assert torch.equal(resume(posterior, file, progress=False).z, longer.z) and short.z.shape[0] == 10
    assert [path.name for path in file.parent.iterdir()] == ["run.safetensors"]


def test_what_was_sampled_must_be_the_same(A, G, X, y, posterior, tmp_path):
    """A run goes on with nothing else than it began with, be it in memory or in a file."""
    found = sample(posterior, HMC(), chains=2, steps=8, seed=0, progress=False)
    file = tmp_path / "run"
    found.save(file)
    noisier, drifted = y.clone(), LinearModel()
    noisier[1, 3] += 1e-9
    with torch.no_grad():
        drifted.linear.weight[0, 0] += 1e-9
    other = gaussian_measurements(X, 12, seed=1)
    normal = 0.5 * odl.functionals.L2NormSquared(G.domain)
    for words, changed in (
        ("data differ. Give", LatentPosterior(GaussianFidelity(A, noisier, SIGMA), G)),
        ("noise differ. Give", LatentPosterior(GaussianFidelity(A, y, 0.31), G)),
        ("operator differ. Give", LatentPosterior(GaussianFidelity(other, y, SIGMA), G)),
        ("weights of the generator differ", LatentPosterior(posterior.fidelity, Generator(drifted, X))),
        ("prior of the latent vectors differ", LatentPosterior(posterior.fidelity, G, latent=2 * normal)),
    ):
        for saved in (found, file):
            with pytest.raises(ValueError, match=f"saved .* belongs to another run: .*{words}"):
                resume(changed, saved, steps=12, progress=False)
    with pytest.raises(ValueError, match=r"kernel must be that of the run, HMC\(.*\), got MALA\(\)"):
        resume(posterior, file, kernel=MALA(), progress=False)
    equal = LatentPosterior(GaussianFidelity(A, y.clone(), SIGMA), Generator(LinearModel(), X))
    assert torch.equal(
        resume(equal, file, steps=12, progress=False).z, resume(posterior, found, steps=12, progress=False).z
    )


def test_damaged_states_are_refused(posterior, tmp_path):
    found = sample(posterior, chains=2, steps=8, seed=0, progress=False)
    file = tmp_path / "run"
    found.save(file)
    content = file.read_bytes()
    for damaged in (content[:-1], content[:100], content.replace(b"sha256", b"sha257", 1), b""):
        file.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"saved .*run can't be read"):
            resume(posterior, file, progress=False)
    for name in ("u", "log_size", "state.gradient", "coordinates.factor", "moments.mean"):
        tensors = {key: t.clone() for key, t in found.state["tensors"].items()}
        tensors[name].view(-1)[0] = torch.nan
        with pytest.raises(
            ValueError, match=f"a saved run must hold finite points .*, got NaN or infinite values of {name}"
        ):
            resume(
                posterior,
                dataclasses.replace(found, state={**found.state, "tensors": tensors}),
                progress=False,
            )


def test_a_checkpoint_is_not_lost(posterior, tmp_path):
    options = {"chains": 2, "steps": 8, "seed": 0, "progress": False, "checkpoint": tmp_path / "run"}
    found = sample(posterior, **options)
    with pytest.raises(
        FileExistsError, match=r"checkpoint .*run is there already: .* genreg.sampling.resume"
    ):
        sample(posterior, **options)
    found.save(tmp_path / "other")
    with pytest.raises(FileExistsError, match=r"checkpoint .*run is there already"):
        resume(posterior, tmp_path / "other", checkpoint=tmp_path / "run", progress=False)


def test_warm_starts_take_over_what_was_learnt(posterior):
    first = sample(posterior, MALA(), chains=3, steps=80, seed=0, progress=False)
    again = sample(posterior, MALA(), chains=3, steps=2, burn_in=0, init=first, seed=1, progress=False)
    assert torch.equal(again.step, first.step)
    coordinates = (run.state["tensors"]["coordinates.factor"] for run in (first, again))
    assert torch.equal(*coordinates)
    assert bool(((again.z[0] - first.last).abs().amax(-1) < 2).all())
    other = sample(posterior, ULA(), chains=3, steps=2, burn_in=0, init=first, seed=1, progress=False)
    assert not torch.equal(other.step, first.step)


def test_a_diverging_chain_stops_alone(posterior, exact):
    sound = sample(
        posterior, ULA(), chains=4, steps=60, burn_in=10, step=1e-3, metric="identity", seed=0, progress=False
    )
    steps = torch.tensor([1e-3, 50.0, 1e-3], dtype=torch.float64)
    found = sample(
        posterior,
        ULA(),
        chains=4,
        steps=60,
        burn_in=10,
        step=steps,
        metric="identity",
        seed=0,
        progress=False,
    )
    expected = torch.tensor([ChainStatus.COMPLETED, ChainStatus.DIVERGED, ChainStatus.COMPLETED])
    assert torch.equal(found.status, expected.expand(4, 3))
    assert bool(found.z[:, :, 1].isnan().all()) and bool(found.mean[1].isnan().all())
    for name in ("z", "energy"):
        assert torch.equal(getattr(found, name)[:, :, [0, 2]], getattr(sound, name)[:, :, [0, 2]])
    assert torch.equal(found.mean[[0, 2]], sound.mean[[0, 2]])
    assert bool(torch.isfinite(found.last).all())
    assert "4 x DIVERGED" in found.advice() and "8 x COMPLETED" in found.advice()
    lower, upper = found.interval(0.5)
    assert bool(lower[1].isnan().all()) and bool((lower[0] < upper[0]).all())


def test_many_latent_dimensions_have_diagonal_coordinates(posterior, monkeypatch):
    options = {"chains": 2, "steps": 100, "burn_in": 80, "seed": 0, "progress": False}
    for most, axes in ((3, 3), (2, 2)):
        monkeypatch.setattr("genreg.sampling.chains._DENSE", most)
        factor = sample(posterior, MALA(), **options).state["tensors"]["coordinates.factor"]
        assert factor.ndim == axes


def test_a_start_without_a_finite_energy_ends_that_sample_alone(posterior):
    start = torch.zeros(3, 3, dtype=torch.float64)
    start[2] = 1e200
    options = {"chains": 2, "steps": 20, "step": 0.1, "metric": "identity", "seed": 0, "progress": False}
    found = sample(posterior, MALA(), init=start, **options)
    assert bool((found.status[:, 2] == ChainStatus.NOT_STARTED).all())
    assert torch.equal(found.z[:, :, :2], sample(posterior, MALA(), init=0 * start, **options).z[:, :, :2])


class Encoding(LinearModel):
    """Images that are far from those of the training have codes that are not finite, as exp makes them."""

    variational = True
    image_shape = (4, 5)

    def encode_distribution(self, x):
        mean = self.encode(x)
        return mean, mean.abs().exp()


@pytest.mark.parametrize("init", ["map", "screened", "posterior", "prior"])
@pytest.mark.parametrize("factor", [1e4, 1e200])
def test_a_bad_image_leaves_the_others_as_they_are(A, X, y, init, factor):
    G = Generator(Encoding(), X)
    bad = y.clone()
    bad[1] *= factor
    options = {"chains": 3, "steps": 12, "init": init, "map_iterations": 30, "seed": 0, "progress": False}
    good, found = (
        sample(LatentPosterior(GaussianFidelity(A, data, SIGMA), G), MALA(), **options) for data in (y, bad)
    )
    # the same to the last digits: a solver that leaves out a sample adds up the others in another order
    torch.testing.assert_close(found.z[:, :, [0, 2]], good.z[:, :, [0, 2]], rtol=0, atol=1e-6)
    torch.testing.assert_close(found.mean[[0, 2]], good.mean[[0, 2]], rtol=0, atol=1e-6)
    assert bool((found.status[:, [0, 2]] == ChainStatus.COMPLETED).all())
    assert bool(torch.isfinite(found.last).all())
    if factor > 1e100:
        assert bool((found.status[:, 1] == ChainStatus.NOT_STARTED).all())
        assert "3 x NOT_STARTED: The energy is not finite where" in found.advice()
        assert bool(found.mean[1].isnan().all())


def test_a_search_that_ends_nowhere_begins_again_at_the_prior(posterior, monkeypatch):
    def lost(z, iterations):
        energy = torch.full(z.shape[:2], torch.inf, dtype=z.dtype)
        energy[:, 0] = torch.tensor([1e35, torch.inf])
        return (
            torch.where(torch.isfinite(energy)[..., None], z, torch.nan),
            energy,
            torch.ones_like(energy).long(),
        )

    monkeypatch.setattr(posterior, "minimise", lost)
    z, _ = starts(posterior, "map", 2, RandomNumbers(0, torch.device("cpu")))
    assert bool(torch.isfinite(z).all())
    assert torch.equal(z[0, 0], z[1, 0])  # the only one that was found, as high as it is


def test_a_given_start_that_is_not_finite_is_named(posterior):
    start = torch.zeros(4, 3, 3, dtype=torch.float64)
    start[1, 2, 0] = torch.nan
    with pytest.raises(
        ValueError, match="init must be finite, got 1 NaN or infinite values in sample 2 of 3"
    ):
        sample(posterior, init=start, steps=4)


def test_a_chain_without_an_accepted_step_is_stuck(posterior):
    found = sample(
        posterior, MALA(), chains=2, steps=20, burn_in=0, step=1e4, metric="identity", seed=0, progress=False
    )
    assert bool((found.status == ChainStatus.STUCK).all()) and not bool(found.acceptance.any())


def test_means_and_intervals_are_those_of_the_draws(A, G, y, X):
    single = LatentPosterior(GaussianFidelity(A, A.range.element(y[0].numpy()), SIGMA), G)
    found = sample(single, MALA(), chains=3, steps=60, seed=0, progress=False)
    images = G.module(found.z.flatten(0, 2))
    assert found.mean in X and found.std in X
    assert torch.allclose(torch.as_tensor(found.mean.asarray()), images.mean(0))
    assert torch.allclose(torch.as_tensor(found.std.asarray()), images.std(0))
    lower, upper = found.interval(0.8)
    expected = torch.quantile(images, torch.tensor([0.1, 0.9]).double(), 0)
    assert torch.allclose(torch.as_tensor(lower.asarray()), expected[0])
    assert torch.allclose(torch.as_tensor(upper.asarray()), expected[1])
    assert torch.equal(found.images(0), images)
    assert float(found.weighted_size) == 90


def test_importance_weights_move_to_another_posterior(A, G, y, exact, closed_form):
    """From the posterior with the prior N(0, I) to that with N(0, I / 1.5): both have closed forms."""
    posterior = LatentPosterior(GaussianFidelity(A, y, SIGMA), G)
    found = sample(posterior, chains=100, steps=120, burn_in=40, thin=1, seed=0, progress=False)
    moved = found.reweighted(lambda z: -0.25 * z.square().sum(1))
    expected = G.module(closed_form(y, SIGMA, 0.75))
    error, tolerance = (moved.mean - expected).abs(), 5 * moved.std / (8000 / 3) ** 0.5
    assert bool((error < tolerance).all())
    assert float((found.mean - expected).abs().max()) > float(tolerance.max())
    assert bool((moved.weighted_size < 8000).all()) and bool((moved.weighted_size > 1000).all())
    for run, mean in ((found, G.module(closed_form(y, SIGMA, 0.5))), (moved, expected)):
        normal = torch.distributions.Normal(mean, run.std)
        assert float((run.exceedance(0.1) - (1 - normal.cdf(torch.tensor(0.1)))).abs().max()) < 0.05
    equal = found.reweighted(lambda z: torch.zeros(len(z), dtype=z.dtype))
    assert torch.allclose(equal.mean, found.mean) and torch.allclose(equal.std, found.std)
    for a, b in zip(equal.interval(0.9), found.interval(0.9), strict=True):
        assert torch.allclose(a, b, atol=0.02 * float(found.std.max()))


def test_importance_weights_are_those_of_each_sample(A, G, y):
    """One sample without draws, and one whose draws have no weight, leave the third as it is."""
    bad = y.clone()
    bad[1] = 1e200
    options = {"chains": 2, "steps": 20, "seed": 0, "init": "prior", "progress": False}
    good, found = (sample(LatentPosterior(GaussianFidelity(A, d, SIGMA), G), **options) for d in (y, bad))

    def log_weight(z):
        weights = (-0.25 * z.square().sum(1)).view(10, 2, 3)
        weights[:, :, 2] = -torch.inf
        return weights.flatten()

    moved, expected = found.reweighted(log_weight), good.reweighted(lambda z: -0.25 * z.square().sum(1))
    assert torch.equal(moved.mean[0], expected.mean[0]) and torch.equal(moved.std[0], expected.std[0])
    assert bool(moved.mean[1:].isnan().all()) and bool(moved.std[1:].isnan().all())
    assert bool(moved.weighted_size[1:].isnan().all())
    lower, upper = moved.interval(0.5)
    assert torch.equal(lower[0], expected.interval(0.5)[0][0]) and bool(upper[1:].isnan().all())
    share = moved.exceedance(0.0)
    assert torch.allclose(share[0], expected.exceedance(0.0)[0]) and bool(share[1:].isnan().all())
    with pytest.raises(
        ValueError, match="log_weight must be below infinity, got infinity for samples 0, 2 of 3"
    ):
        found.reweighted(lambda z: torch.full((len(z),), torch.inf, dtype=z.dtype))
    with pytest.raises(ValueError, match=r"one number for every latent vector, \(60,\), got \(60, 3\)"):
        found.reweighted(lambda z: z)


def test_denoised_draws_take_a_step_without_noise(posterior):
    options = {
        "chains": 2,
        "steps": 12,
        "burn_in": 2,
        "step": 0.01,
        "seed": 0,
        "adjusted": False,
        "progress": False,
    }
    plain, clean = (langevin(posterior, denoise=denoise, **options) for denoise in (False, True))
    z = plain.z[4, 1].requires_grad_()
    (gradient,) = torch.autograd.grad(posterior.energy(z).sum(), z)
    assert torch.allclose(clean.z[4, 1], (z - 0.01 * gradient).detach())
    assert torch.equal(plain.last, clean.last)


def test_langevin_names_its_kernels(posterior):
    options = {"chains": 2, "steps": 10, "burn_in": 4, "seed": 0, "progress": False}
    adjusted, plain = (
        langevin(posterior, **options),
        langevin(posterior, adjusted=False, step=0.01, **options),
    )
    assert torch.equal(adjusted.z, sample(posterior, MALA(), **options).z)
    assert torch.equal(plain.z, sample(posterior, ULA(), step=0.01, metric="identity", **options).z)
    assert torch.allclose(plain.step, torch.tensor(0.01, dtype=torch.float64))


def test_no_more_draws_are_kept_than_wanted(posterior, monkeypatch):
    monkeypatch.setattr("genreg.sampling.chains._KEPT", 10)
    found = sample(posterior, PCN(), chains=1, steps=65, burn_in=20, init="prior", seed=0, progress=False)
    assert found.z.shape[0] == 9  # every fifth of 45


@refuses(
    ({"chains": 0}, "chains must be a positive integer, got 0"),
    ({"steps": 0}, "steps must be a positive integer, got 0"),
    ({"burn_in": 20}, "burn_in must be smaller than steps, 20, got 20"),
    ({"burn_in": -1}, "burn_in must be a non-negative integer, got -1"),
    ({"thin": 0}, "thin must be a positive integer, got 0"),
    ({"thin": 11}, "thin must be at most steps - burn_in, 10, got 11"),
    ({"step": 0.0}, "step must be positive and finite, got 0.0"),
    ({"step": torch.ones(2)}, r"step must be a number or have the shape \(3,\), got \(2,\)"),
    ({"metric": "full"}, "metric must be one of .*, got 'full'"),
    ({"init": "zero"}, r"init must be one of .*, got 'zero'"),
    ({"init": torch.zeros(2, 3).double()}, r"init must have the shape \(3, 3\) or \(4, 3, 3\)"),
    ({"seed": -1}, "seed must be a non-negative integer, got -1"),
    ({"max_seconds": 0.0}, "max_seconds must be positive, got 0.0"),
    ({"map_iterations": 0}, "map_iterations must be a positive integer, got 0"),
    error=ValueError,
)
def test_bad_arguments(posterior, options):
    sample(posterior, **{"steps": 20, "progress": False, **options})


class Plain(torch.nn.Module):
    """A decoder alone."""

    latent_dim = 3

    def __init__(self, decode):
        super().__init__()
        self.decode = decode


def test_bad_posteriors(A, G, X, y, posterior, tmp_path):
    with pytest.raises(TypeError, match="posterior must be a LatentPosterior, got str"):
        sample("posterior")
    with pytest.raises(TypeError, match="fidelity must be a genreg Fidelity, got int"):
        LatentPosterior(3, G)
    with pytest.raises(TypeError, match=r"G must be a genreg\.Generator, got NoneType"):
        LatentPosterior(GaussianFidelity(A, y, 1.0), None)
    elsewhere = odl.uniform_discr([0, 0], [1, 1], (4, 5))
    with pytest.raises(ValueError, match="fidelity must be a functional of the images of G"):
        LatentPosterior(GaussianFidelity(odl.IdentityOperator(elsewhere), torch.zeros(4, 5).double(), 1.0), G)
    with pytest.raises(NotImplementedError, match="latent must be differentiable"):
        LatentPosterior(GaussianFidelity(A, y, 1.0), G, latent=latent.Box(G.domain, 1.0))
    with pytest.raises(ValueError, match="has no encoder"):
        sample(LatentPosterior(posterior.fidelity, Generator(Plain(G.module), X)), init="posterior")
    found = sample(posterior, chains=2, steps=4, seed=0, progress=False)
    with pytest.raises(ValueError, match="init must have 4 chains of 3 samples"):
        sample(posterior, chains=4, init=found, steps=4)
    with pytest.raises(ValueError, match="saved must be a run of chains"):
        resume(posterior.take(torch.tensor([0])), found)
    with pytest.raises(ValueError, match="steps must be an integer of at least 4, got 3"):
        resume(posterior, found, steps=3)
    with pytest.raises(FileNotFoundError, match="saved must be a file that exists"):
        resume(posterior, tmp_path / "none.safetensors")
    (tmp_path / "torn.safetensors").write_bytes(b"123")
    with pytest.raises(ValueError, match=r"saved .*torn.safetensors can't be read"):
        resume(posterior, tmp_path / "torn.safetensors")
    with pytest.raises(ValueError, match=r"level must be a number between 0 and 1, got 1.0"):
        found.interval(1.0)
    with pytest.raises(ValueError, match="threshold must be finite"):
        found.exceedance(torch.inf)
    with pytest.raises(ValueError, match="init must have a finite energy"):
        sample(posterior, init=torch.full((3, 3), 1e200, dtype=torch.float64), steps=4, progress=False)


def test_a_kernel_of_ones_own(posterior, tmp_path):
    @dataclasses.dataclass(frozen=True)
    class Lazy:
        """MALA under another name."""

        acceptance = 0.5
        evaluations = 1
        largest_size = MALA().largest_size
        step = MALA().step

    found = sample(posterior, Lazy(), chains=2, steps=10, seed=0, progress=False)
    found.save(tmp_path / "own.safetensors")
    with pytest.raises(ValueError, match="kernel must be given"):
        resume(posterior, tmp_path / "own.safetensors", steps=12)
    whole = resume(posterior, found, steps=12, progress=False)
    assert torch.equal(
        resume(posterior, tmp_path / "own.safetensors", kernel=Lazy(), steps=12, progress=False).z, whole.z
    )


def test_the_posterior_is_an_objective(posterior, exact):
    """The solvers take it as it is."""
    start = {"z": torch.zeros(3, 3, dtype=torch.float64)}
    found = solvers.quasi_newton(posterior.objective, start, progress=False)
    assert torch.allclose(found.blocks["z"], exact[0], atol=1e-6)
