"""Adaptive measurements: groups, policies by brute force, the loop against closed forms with a linear generator."""

import numpy as np
import odl
import pytest
import torch
from odl.applications import tomo

from genreg import Generator, to_torch
from genreg.adaptive import (
    AdaptiveResult,
    Candidates,
    EpsilonGreedy,
    InformationGain,
    Predictive,
    Random,
    Thompson,
    UpperConfidenceBound,
    Variance,
    adaptive_measurements,
    loop,
)
from genreg.adaptive.groups import Groups
from genreg.operators import fourier_sampling, gaussian_measurements, ray_transform
from genreg.sampling import HMC, ChainStatus, LatentPosterior, Samples, sample

from ...refusals import refuses
from ..conftest import LinearModel

LABELS = torch.tensor([[0, 1, 1, 2], [2, 2, 0, 3], [4, 4, 4, 4]])


# ---- groups


@pytest.mark.parametrize(
    ("groups", "shape", "members"),
    [
        (None, (2, 2), [[0], [1], [2], [3]]),
        (0, (2, 3), [[0, 1, 2], [3, 4, 5]]),
        (-1, (2, 3), [[0, 3], [1, 4], [2, 5]]),
        (1, (2, 2, 2), [[0, 1, 4, 5], [2, 3, 6, 7]]),
        (LABELS, (3, 4), [[0, 6], [1, 2], [3, 4, 5], [7], [8, 9, 10, 11]]),
    ],
)
def test_groups_are_a_partition(groups, shape, members):
    found = Groups.of(groups, shape, torch.device("cpu"))
    size = int(np.prod(shape))
    assert found.count == len(members)
    assert [row[row < size].tolist() for row in found.members] == members
    values = torch.randn(2, 3, size, dtype=torch.float64)
    sums = torch.stack([values[..., row].sum(-1) for row in members], -1)
    assert torch.allclose(found.sum(values), sums)
    means = torch.stack([values[..., row].mean(-1) for row in members], -1)
    assert torch.allclose(found.mean(values), means)
    assert torch.allclose(found.gather(values).sum(-1), sums)
    chosen = torch.tensor([[0, 1], [1, 0]])
    assert found.flags(chosen).tolist() == [[True, True, *[False] * (found.count - 2)]] * 2
    measured = sorted(members[0] + members[1])
    assert found.mask(chosen)[0].nonzero().squeeze(1).tolist() == measured
    pairs = values.repeat_interleave(2, dim=-1)
    assert torch.allclose(found.doubled().sum(pairs), 2 * sums)


@refuses(
    (2, ValueError, r"groups must be an axis of data of the shape \(3, 4\) or labels, got the axis 2"),
    (-3, ValueError, "got the axis -3"),
    ("rows", TypeError, "groups must be None, an axis or integer labels of the data, got str"),
    (True, TypeError, "groups must be an integer, got True"),
    (LABELS.double(), TypeError, "groups must be integer labels, got torch.float64"),
    (LABELS > 1, TypeError, "groups must be integer labels, got torch.bool"),
    (LABELS[:2], ValueError, r"labels of the shape \(3, 4\), got \(2, 4\)"),
    (LABELS + 1, ValueError, "start at 0 and leave no number out, got 5 labels from 1 to 5"),
    (2 * LABELS, ValueError, "got 5 labels from 0 to 8"),
)
def test_wrong_groups(groups):
    Groups.of(groups, (3, 4), torch.device("cpu"))


# ---- policies


def predictive(groups=None, *, draws=30, images=3, seed=0):
    """Predictions of correlated data, with noise that differs, where some groups have been measured."""
    random = torch.Generator().manual_seed(seed)
    mix = torch.randn(images, 5, 12, generator=random, dtype=torch.float64)
    latent = torch.randn(draws, images, 1, 5, generator=random, dtype=torch.float64)
    predictions = (latent @ mix).squeeze(2) + torch.rand(12, generator=random, dtype=torch.float64)
    groups = Groups.of(groups, (3, 4), torch.device("cpu"))
    sigma = 0.2 + torch.rand(images, 12, generator=random, dtype=torch.float64)
    measured = torch.zeros(images, groups.count, dtype=torch.bool)
    measured[0, 1] = measured[-1, groups.count - 1] = True
    return Predictive(predictions, sigma, measured, groups)


def members(groups):
    return [row[row < len(groups.labels)] for row in groups.members]


def ordered(scores, measured, k):
    """The k best of the groups not measured, for every image."""
    chosen = []
    for score, gone in zip(scores, measured, strict=True):
        order = [g for g in score.argsort(descending=True).tolist() if not gone[g]]
        chosen.append(order[:k])
    return chosen


def random_numbers(seed=1):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("groups", [None, 0, LABELS])
@pytest.mark.parametrize("k", [1, 2])
def test_variance_and_confidence_bound_by_brute_force(groups, k):
    known = predictive(groups)
    parts = members(known.groups)
    variance = torch.stack([known.predictions[..., p].var(0).sum(-1) for p in parts], 1)
    expected = ordered(variance, known.measured, k)
    assert Variance().choose(known, k, random_numbers()).tolist() == expected
    assert EpsilonGreedy(0.0).choose(known, k, random_numbers()).tolist() == expected
    values = torch.stack([known.predictions[..., p].mean(-1) for p in parts], -1)
    for weight in (0.0, 0.3, 50.0):
        bound = values.mean(0) + weight * values.var(0)
        chosen = UpperConfidenceBound(weight).choose(known, k, random_numbers())
        assert chosen.tolist() == ordered(bound, known.measured, k)
    draws = [ordered(draw, known.measured, k) for draw in values]
    for seed in range(5):
        chosen = Thompson().choose(known, k, random_numbers(seed)).tolist()
        assert all(any(draw[i] == chosen[i] for draw in draws) for i in range(3))


def greedy(known, k):
    """Information gained, with the whole covariance matrix, conditioned on one group after another."""
    chosen = []
    for i in range(known.predictions.shape[1]):
        S = torch.cov(known.predictions[:, i].T)
        noise = known.noise_std[i].square().diag()
        done, gone = [], known.measured[i].tolist()
        for _ in range(k):
            gains = []
            for g, p in enumerate(members(known.groups)):
                own = torch.linalg.solve(noise[p][:, p], S[p][:, p]) + torch.eye(len(p), dtype=S.dtype)
                gains.append(-torch.inf if gone[g] else 0.5 * torch.logdet(own).item())
            g = int(np.argmax(gains))
            p = members(known.groups)[g]
            S = S - S[:, p] @ torch.linalg.solve(S[p][:, p] + noise[p][:, p], S[p])
            gone[g] = True
            done.append(g)
        chosen.append(done)
    return chosen


@pytest.mark.parametrize("groups", [None, 0, 1, LABELS])
@pytest.mark.parametrize("draws", [3, 30])
def test_information_gain_by_brute_force(groups, draws):
    for seed in range(5):
        known = predictive(groups, draws=draws, seed=seed)
        k = known.groups.count - 1
        assert InformationGain().choose(known, k, random_numbers()).tolist() == greedy(known, k)


def test_information_gain_does_not_ask_twice_for_the_same():
    """Of two equal data and a third that varies less, it takes one and the third; the variance takes both."""
    draws = torch.randn(40, 1, 2, dtype=torch.float64)
    twice = torch.stack((draws[..., 0], draws[..., 0], 0.5 * draws[..., 1]), -1)
    known = Predictive(
        twice, torch.full((1, 3), 0.1, dtype=torch.float64), torch.zeros(1, 3, dtype=torch.bool),
        Groups.of(None, (3,), torch.device("cpu")),
    )  # fmt: skip
    assert 2 in InformationGain().choose(known, 2, random_numbers())
    assert 2 not in Variance().choose(known, 2, random_numbers())


def frequencies(policy, k, images=4000):
    one = predictive(images=1)
    known = Predictive(
        one.predictions.expand(-1, images, -1),
        one.noise_std.expand(images, -1),
        one.measured.expand(images, -1),
        one.groups,
    )
    chosen = policy.choose(known, k, random_numbers())
    assert all(len(set(row)) == k for row in chosen.tolist())
    counts = known.groups.flags(chosen).double().mean(0)
    assert counts[one.measured[0]].sum() == 0
    return counts, Variance().choose(one, k, random_numbers())[0], ~one.measured[0]


def test_frequencies_of_random_choices():
    k, images = 3, 4000
    margin = 4 * 0.5 / images**0.5  # 4 standard deviations of a share
    for policy in (Random(), EpsilonGreedy(1.0)):
        counts, _, free = frequencies(policy, k, images)
        assert (counts[free] - k / 10).abs().max() < margin  # 10 of 12 are left
    counts, best, free = frequencies(EpsilonGreedy(0.5), 1, images)
    assert abs(counts[best[0]] - (0.5 + 0.5 / 10)) < margin
    others = free.index_fill(0, best, False)
    assert (counts[others] - 0.5 / 10).abs().max() < margin
    one = predictive(images=1)
    values = one.predictions[:, 0]
    wins = torch.tensor([ordered(v[None], one.measured, 1)[0][0] for v in values]).bincount(minlength=12)
    counts, *_ = frequencies(Thompson(), 1, images)
    assert (counts - wins / len(values)).abs().max() < margin


def test_choices_of_a_batch_are_those_of_its_images():
    for groups in (None, LABELS):
        known = predictive(groups)
        for policy in (Variance(), InformationGain(), UpperConfidenceBound()):
            batch = policy.choose(known, 2, random_numbers())
            for i in range(3):
                part = slice(i, i + 1)
                one = Predictive(
                    known.predictions[:, part], known.noise_std[part], known.measured[part], known.groups
                )
                assert torch.equal(policy.choose(one, 2, random_numbers()), batch[part])


@refuses(
    (lambda: EpsilonGreedy(1.5), r"epsilon must be in \[0, 1\], got 1.5"),
    (lambda: EpsilonGreedy(-0.1), "epsilon must be"),
    (lambda: UpperConfidenceBound(-1.0), "weight must be non-negative and finite, got -1"),
    (lambda: UpperConfidenceBound(np.inf), "weight must be non-negative and finite, got inf"),
    error=ValueError,
)
def test_wrong_policies(make):
    make()


# ---- the loop, with a linear generator


class Gaussian:
    """The posterior of a linear generator and operator, in closed form."""

    def __init__(self, A, G):
        Z = torch.eye(G.domain.size, dtype=torch.float64)
        zero = torch.zeros(1, G.domain.size, dtype=torch.float64)
        forward = to_torch(A)
        self.offset = forward(G.module(zero)).flatten(1)[0]
        self.J = (forward(G.module(Z)).flatten(1) - self.offset).T  # (m, d)
        self.W = (G.module(Z) - G.module(zero)).flatten(1).T
        self.b = G.module(zero)[0].flatten()

    def posterior(self, y, sigma):
        """Mean and covariance of z for data of one image, σ = ∞ where not measured."""
        J = self.J / sigma.flatten()[:, None]
        precision = (J.mH @ J).real + torch.eye(J.shape[1], dtype=torch.float64)
        covariance = torch.linalg.inv(precision)
        r = (y.flatten() - self.offset) / sigma.flatten()
        return covariance @ (J.mH @ r[:, None]).real.squeeze(1), covariance


def exact_sampler(posterior, kernel, *, chains, steps, init, seed, **rest):
    """Draws that have exactly the mean and the covariance of the posterior."""
    f = posterior.fidelity
    closed = Gaussian(f.operator, posterior.generator)
    sigma = f.inverse_variance.rsqrt().expand(f.data.shape)
    random = torch.Generator().manual_seed(0)
    n, d = steps * chains, posterior.generator.domain.size
    parts = []
    for y, s in zip(f.data, sigma, strict=True):
        mean, covariance = closed.posterior(y, s)
        white = torch.randn(n, d, generator=random, dtype=torch.float64)
        white = white - white.mean(0)
        white = torch.linalg.solve_triangular(torch.linalg.cholesky(torch.cov(white.T)), white.T, upper=False)
        parts.append(mean + (torch.linalg.cholesky(covariance) @ white).T)
    z = torch.stack(parts, 1).unflatten(0, (steps, chains))
    images = posterior.decode(z).flatten(0, 1)
    share = torch.ones(chains, posterior.batch, dtype=torch.float64)
    return Samples(
        posterior, z, z.sum(-1), share, share[0], share.long(), share.long(), 0.0, seed,
        (images.mean(0), images.std(0)), z[-1], {},
    )  # fmt: skip


@pytest.fixture
def exact(monkeypatch):
    monkeypatch.setattr(loop, "sample", exact_sampler)


SETTINGS = {"chains": 2, "steps": 12, "seed": 3, "progress": False}


def lines(X):
    """K-space of an image, line by line: the number of the line of every sample."""
    A = fourier_sampling(X, np.ones(X.shape, dtype=bool))
    n, m = X.shape
    return A, torch.arange(n).repeat_interleave(m)


def problem_of(kind, X):
    if kind == "pixels":
        return odl.IdentityOperator(X), None
    if kind == "rows":
        return gaussian_measurements(X, 12, seed=0), None
    if kind == "columns":
        return odl.IdentityOperator(X), 1
    if kind == "labels":
        return odl.IdentityOperator(X), torch.arange(20).view(4, 5) // 3
    return lines(X)


KINDS = ["pixels", "rows", "columns", "labels", "lines"]


def simulated(A, G, sigma=0.3, images=2):
    z = torch.randn(images, 3, generator=random_numbers(7), dtype=torch.float64)
    x = G.module(z).detach()
    y = to_torch(A)(x)
    return x, y + sigma * torch.randn(y.shape, generator=random_numbers(8), dtype=y.dtype)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("policy", [Variance(), InformationGain()])
def test_choices_and_means_agree_with_the_closed_form(X, G, exact, kind, policy):
    A, groups = problem_of(kind, X)
    x, y = simulated(A, G)
    sigma = torch.linspace(0.2, 0.4, A.range.size, dtype=torch.float64).view(A.range.shape)
    problem = Candidates(A, y, sigma, groups)
    rounds, k = 2, 2
    found = adaptive_measurements(problem, policy, rounds, k, G=G, **SETTINGS)
    closed, parts = Gaussian(A, G), members(problem.groups)
    assert found.chosen.shape == (2, rounds, k) and found.mean.shape == (2, rounds + 1, 4, 5)
    for i in range(2):
        seen = torch.full(A.range.shape, torch.inf, dtype=torch.float64).flatten()
        done = []
        for turn in range(rounds + 1):
            mean, covariance = closed.posterior(y[i], seen)
            assert torch.allclose(found.mean[i, turn].flatten(), closed.W @ mean + closed.b, atol=1e-8)
            std = (closed.W @ covariance @ closed.W.T).diagonal().sqrt()
            assert torch.allclose(found.std[i, turn].flatten(), std, atol=1e-8)
            if turn == rounds:
                break
            for _ in range(k):
                S = closed.J @ covariance.to(closed.J.dtype) @ closed.J.mH
                scores = []
                for g, p in enumerate(parts):
                    if isinstance(policy, Variance):
                        score = S.diagonal()[p].real.sum().item()
                    else:  # J has real and imaginary parts of its own, which have noise of their own
                        J = closed.J[p] / sigma.flatten()[p][:, None]
                        J = torch.cat((J.real, J.imag)) if J.is_complex() else J
                        own = torch.eye(len(J), dtype=torch.float64) + J @ covariance @ J.T
                        score = 0.5 * torch.logdet(own).item()
                    scores.append(-torch.inf if g in done else score)
                choice = int(found.chosen[i].flatten()[len(done)])
                # lines of k-space at opposite frequencies tell the same of real images: rounding chooses one
                assert choice not in done and scores[choice] >= max(scores) - 1e-9 * abs(max(scores))
                done.append(choice)
                if isinstance(policy, InformationGain):
                    trial = seen.clone()
                    for g in done:
                        trial[parts[g]] = sigma.flatten()[parts[g]]
                    covariance = closed.posterior(y[i], trial)[1]
            for g in done:
                seen[parts[g]] = sigma.flatten()[parts[g]]
        assert len(done) == found.chosen[i].numel()
    assert torch.allclose(found.error(x), (found.mean - x[:, None]).square().flatten(2).mean(2))
    assert (found.error(x)[:, -1] < found.error(x)[:, 0]).all()


def test_angles_of_a_ray_transform_with_the_sampler():
    X = odl.uniform_discr([-1, -1], [1, 1], (8, 8), dtype="float32")
    G = Generator(LinearModel((8, 8)), X)
    A = ray_transform(X, tomo.parallel_beam_geometry(X, 6))
    x = G.module(torch.randn(3, 3, generator=random_numbers(7))).detach()
    y = to_torch(A)(x) + 0.05 * torch.randn(3, *A.range.shape, generator=random_numbers(8))
    problem = Candidates(A, y, 0.05, 0)
    assert problem.count == 6
    found = adaptive_measurements(
        problem,
        InformationGain(),
        2,
        2,
        G=G,
        kernel=HMC(),
        initial=[5],
        steps=20,
        chains=2,
        seed=0,
        progress=False,
    )
    assert found.chosen.shape == (3, 2, 2) and (found.chosen < 5).all()
    assert (found.error(x)[:, -1] < 0.05 * x.var()).all()
    measured = found.samples.posterior.fidelity.noise_std[0].isfinite().all(1)
    assert measured.sum() == 5 and measured[found.chosen[0].flatten()].all() and measured[5]


def test_posterior_by_sampling_is_that_of_all_that_was_measured(X, G):
    A = odl.IdentityOperator(X)
    _, y = simulated(A, G)
    settings = {"chains": 12, "steps": 60, "burn_in": 25, "seed": 1, "progress": False}
    found = adaptive_measurements(Candidates(A, y, 0.3), Variance(), 2, 3, G=G, **settings)
    assert (found.status == ChainStatus.COMPLETED).all()
    assert found.advice().startswith("72 x COMPLETED")  # 2 images, 3 rounds with the first, 12 chains
    closed, fidelity = Gaussian(A, G), found.samples.posterior.fidelity
    for i in range(2):
        assert fidelity.noise_std[i].isfinite().flatten().nonzero().squeeze(1).tolist() == sorted(
            found.chosen[i].flatten().tolist()
        )
        mean, covariance = closed.posterior(y[i], fidelity.noise_std[i])
        error = (found.samples.mean[i].flatten() - closed.W @ mean - closed.b) / (
            closed.W @ covariance @ closed.W.T
        ).diagonal().sqrt()
        assert error.abs().max() < 0.2  # Monte-Carlo error of some 420 draws


@pytest.mark.parametrize("restart", ["last", "map"])
def test_chains_start_where_they_were_or_anew(X, G, monkeypatch, restart):
    A = odl.IdentityOperator(X)
    _, y = simulated(A, G)
    starts = []

    def noted(posterior, *args, init, **settings):
        starts.append(init)
        return exact_sampler(posterior, *args, init=init, **settings)

    monkeypatch.setattr(loop, "sample", noted)
    first = torch.zeros(2, 3, dtype=torch.float64)
    found = adaptive_measurements(
        Candidates(A, y, 0.3), Random(), 2, 2, G=G, init=first, restart=restart, **SETTINGS
    )
    assert starts[0] is first and len(starts) == 3
    if restart == "map":
        assert starts[1:] == ["map", "map"]
    else:
        assert all(isinstance(start, Samples) for start in starts[1:])
        assert starts[2].posterior.fidelity.noise_std.isfinite().sum() == 4
        assert found.samples.posterior.fidelity.noise_std.isfinite().sum() == 8


class KilledError(Exception):
    """The process ends."""


@pytest.mark.parametrize(("measured", "turn"), [(True, 1), (False, 2)], ids=["experiment", "simulation"])
def test_resumed_is_uninterrupted(X, G, tmp_path, monkeypatch, measured, turn):
    """Killed in the sampling of a round, after its measurement, which is not made again."""
    A = odl.IdentityOperator(X)
    _, y = simulated(A, G)
    made, sampled, file = [], [], tmp_path / "run"

    def measure(groups):
        made.append(groups)
        return y

    problem = Candidates(A, measure, 0.3, batch=2) if measured else Candidates(A, y, 0.3)
    options = {"G": G, "chains": 2, "steps": 12, "seed": 5, "initial": [7], "progress": False}
    whole = adaptive_measurements(problem, EpsilonGreedy(0.5), 3, 2, **options)
    made.clear()

    def killed(*args, **settings):
        sampled.append(turn)
        if len(sampled) == turn + 1:
            raise KilledError
        return sample(*args, **settings)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "sample", killed)
        with pytest.raises(KilledError):
            adaptive_measurements(problem, EpsilonGreedy(0.5), 3, 2, checkpoint=file, **options)
    options |= {"checkpoint": file, "resume": True}
    found = adaptive_measurements(problem, EpsilonGreedy(0.5), 3, 2, **options)
    assert found.seed == 5 and len(made) == (4 if measured else 0)
    for name in ("chosen", "mean", "std", "best", "status"):
        assert torch.equal(getattr(found, name), getattr(whole, name)), name
    for name in ("z", "energy", "last", "step", "mean"):
        assert torch.equal(getattr(found.samples, name), getattr(whole.samples, name)), name
    del options["seed"]
    longer = adaptive_measurements(problem, EpsilonGreedy(0.5), 4, 2, **options)
    assert torch.equal(longer.chosen[:, :3], whole.chosen) and longer.seed == 5
    with pytest.raises(ValueError, match="rounds must be at least those of the run to resume, 4, got 3"):
        adaptive_measurements(problem, EpsilonGreedy(0.5), 3, 2, **options)
    with pytest.raises(ValueError, match="seed must be that of the run to resume, 5, got 6"):
        adaptive_measurements(problem, EpsilonGreedy(0.5), 4, 2, seed=6, **options)
    for words, changed, policy in (
        ("data differ", Candidates(A, y + 1e-9, 0.3), EpsilonGreedy(0.5)),
        ("noise differ", Candidates(A, y, 0.31), EpsilonGreedy(0.5)),
        ("policy was .*0.5.* and is .*0.4", problem, EpsilonGreedy(0.4)),
    ):
        with pytest.raises(ValueError, match=rf"checkpoint .*run belongs to another run: .*{words}"):
            adaptive_measurements(changed, policy, 4, 2, **options)


def test_images_choose_for_themselves_and_as_if_alone(X, G, exact):
    A = odl.IdentityOperator(X)
    _, y = simulated(A, G, images=3)
    sigma = torch.tensor([0.1, 0.2, 0.4], dtype=torch.float64)
    for policy in (Variance(), InformationGain(), UpperConfidenceBound(0.5)):
        batch = adaptive_measurements(Candidates(A, y, sigma), policy, 2, 3, G=G, **SETTINGS)
        for i in range(3):
            one = adaptive_measurements(Candidates(A, y[i], sigma[i]), policy, 2, 3, G=G, **SETTINGS)
            assert one.chosen.shape == (2, 3) and one.mean.shape == (3, 4, 5) and one.best.shape == (2,)
            if i == 0:  # the draws of the first image do not depend on how many there are
                assert torch.equal(one.chosen, batch.chosen[0])
                assert torch.allclose(one.mean, batch.mean[0])
    different = adaptive_measurements(
        Candidates(A, y, sigma), UpperConfidenceBound(0.5), 3, 2, G=G, **SETTINGS
    )
    assert len({tuple(row.flatten().tolist()) for row in different.chosen}) > 1


@pytest.mark.parametrize("policy", [UpperConfidenceBound(1.0), Thompson(), Random()])
def test_search_for_the_largest_pixel(X, G, exact, policy):
    A = odl.IdentityOperator(X)
    _, y = simulated(A, G, sigma=0.01, images=4)
    found = adaptive_measurements(Candidates(A, y, 0.01), policy, 5, 2, G=G, **SETTINGS)
    seen = y.flatten(1).gather(1, found.chosen.flatten(1)).unflatten(1, (5, 2))
    assert torch.equal(found.best, seen.amax(2).cummax(1).values)
    if not isinstance(policy, Random):
        assert torch.equal(found.best[:, -1], y.flatten(1).amax(1))


def test_elements_in_elements_out(X, G, exact):
    A = odl.IdentityOperator(X)
    x, y = simulated(A, G, images=1)
    tensors = adaptive_measurements(Candidates(A, y[0], 0.3), Variance(), 2, 2, G=G, **SETTINGS)
    element = X.element(y[0].numpy())
    found = adaptive_measurements(Candidates(A, element, X.element(0.3)), Variance(), 2, 2, G=G, **SETTINGS)
    assert torch.equal(found.chosen, tensors.chosen)
    assert found.mean in odl.ProductSpace(X, 3) and found.std[2] in X and found.samples.mean in X
    assert np.allclose(found.mean[2].asarray(), tensors.mean[2].numpy())
    error = found.error(X.element(x[0].numpy()))
    assert error.shape == (3,) and torch.allclose(error, tensors.error(x[0]))
    assert found.status.shape == (3, 2) and isinstance(found, AdaptiveResult)


@pytest.mark.parametrize("kind", KINDS)
def test_a_function_that_measures_gives_what_simulated_data_give(X, G, exact, kind):
    A, groups = problem_of(kind, X)
    _, y = simulated(A, G)
    simulation = Candidates(A, y, 0.3, groups)
    asked = []

    def measure(chosen):
        asked.append(chosen)
        return torch.where(simulation.groups.mask(chosen).view(y.shape), y, torch.nan)

    settings = {"G": G, "initial": [1], **SETTINGS}
    expected = adaptive_measurements(simulation, Variance(), 2, 1, **settings)
    experiment = Candidates(A, measure, 0.3, groups, batch=2)
    found = adaptive_measurements(experiment, Variance(), 2, 1, **settings)
    assert torch.equal(found.chosen, expected.chosen) and torch.equal(found.mean, expected.mean)
    assert torch.equal(torch.stack(asked[1:], 1), found.chosen) and asked[0].tolist() == [[1], [1]]
    if y.is_complex():
        assert found.best is None
    else:
        assert torch.equal(found.best, expected.best)

    def single(chosen):
        assert chosen.shape == (1,)
        return A.range.element(y[0].numpy())

    one = adaptive_measurements(Candidates(A, single, 0.3, groups), Variance(), 2, 1, **settings)
    assert torch.equal(one.chosen, expected.chosen[0]) and one.mean[0] in X


def test_first_measurements_may_differ_between_images(X, G, exact):
    A = odl.IdentityOperator(X)
    _, y = simulated(A, G)
    initial = torch.tensor([[0, 3], [7, 19]])
    found = adaptive_measurements(Candidates(A, y, 0.3), Random(), 9, 2, G=G, initial=initial, **SETTINGS)
    every = torch.cat((initial, found.chosen.flatten(1)), 1)
    assert all(sorted(row) == list(range(20)) for row in every.tolist())  # each pixel once
    assert torch.equal(found.samples.posterior.fidelity.data, y)


def test_chains_that_were_stopped_do_not_count(X, G, monkeypatch):
    """Draws of a chain that diverged are replaced; an image without any is measured all the same."""
    A = odl.IdentityOperator(X)
    _, y = simulated(A, G, images=3)

    def broken(posterior, *args, **settings):
        samples = exact_sampler(posterior, *args, **settings)
        samples.z[:, 0, 1] = samples.z[3:, :, 2] = samples.z[:, :, 0] = torch.nan
        samples.status[0, 1] = samples.status[:, 0] = ChainStatus.DIVERGED
        return samples

    monkeypatch.setattr(loop, "sample", broken)
    found = adaptive_measurements(Candidates(A, y, 0.3), InformationGain(), 2, 3, G=G, draws=24, **SETTINGS)
    assert all(len(set(row.flatten().tolist())) == 6 for row in found.chosen)
    assert (found.status[:, 0] == torch.tensor([[2, 2], [2, 1], [1, 1]])).all()
    assert "9 x DIVERGED" in found.advice()
    samples = broken(
        LatentPosterior(found.samples.posterior.fidelity, G), None, chains=2, steps=12, init=None, seed=0
    )
    z = loop._finite_draws(samples, 24)
    assert torch.isfinite(z).all() and not z[:, 0].any()
    assert {tuple(row.tolist()) for row in z[:, 2]} == {
        tuple(row.tolist()) for row in samples.z[:3, :, 2].flatten(0, 1)
    }


def test_few_images_at_a_time(X, G, exact, monkeypatch):
    A = odl.IdentityOperator(X)
    _, y = simulated(A, G, images=3)
    whole = adaptive_measurements(Candidates(A, y, 0.3), InformationGain(), 2, 3, G=G, **SETTINGS)
    monkeypatch.setattr(loop, "_NUMBERS", 1)
    parts = adaptive_measurements(Candidates(A, y, 0.3), InformationGain(), 2, 3, G=G, **SETTINGS)
    assert torch.equal(whole.chosen, parts.chosen)


# ---- bad input


class Twice:
    """A policy that chooses the same pixel again and again."""

    maximises = False

    def choose(self, predictive, k, generator):
        return torch.zeros(len(predictive.measured), k, dtype=torch.int64)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            {"rounds": 11},
            ValueError,
            r"rounds \* k must be at most the number of groups left to measure, 20, got 11",
        ),
        ({"rounds": 10, "initial": [4]}, ValueError, "left to measure, 19, got 10"),
        ({"rounds": 0}, ValueError, "rounds must be a positive integer, got 0"),
        ({"k": 0}, ValueError, "k must be a positive integer, got 0"),
        ({"k": 1.5}, TypeError, "k must be an integer"),
        ({"draws": 1}, ValueError, "draws must be an integer of at least 2"),
        ({"chains": 0}, ValueError, "chains must be a positive integer"),
        ({"seed": -1}, ValueError, "seed must be a non-negative integer, got -1"),
        ({"seed": "a"}, TypeError, "seed must be an integer"),
        ({"policy": Variance}, TypeError, r"policy must be a policy such as Variance\(\)"),
        ({"policy": "variance"}, TypeError, "policy must be a policy"),
        ({"policy": Twice()}, ValueError, "policy must choose 2 different groups not yet measured"),
        ({"problem": "y"}, TypeError, "problem must be Candidates, got str"),
        ({"G": "mnist-vae"}, TypeError, "G must be a genreg.Generator, got str"),
        ({"initial": [0.5]}, TypeError, "initial must be numbers of groups, integers"),
        ({"initial": [20]}, ValueError, "initial must be different numbers of groups from 0 to 19"),
        ({"initial": [3, 3]}, ValueError, "initial must be different numbers"),
        (
            {"initial": [[1], [2], [3]]},
            ValueError,
            r"initial must have the shape \(n,\) or \(2, n\), got \(3, 1\)",
        ),
        ({"restart": "encoder"}, ValueError, "restart must be one of .*, got 'encoder'"),
        ({"steps": 0}, ValueError, "steps must be a positive integer"),
        ({"burn_in": 30}, ValueError, "burn_in must be smaller than steps"),
    ],
)
def test_errors_of_the_loop(X, G, change, error, message):
    A = odl.IdentityOperator(X)
    arguments = {
        "problem": Candidates(A, torch.zeros(2, 4, 5), 0.3),
        "policy": Variance(),
        "rounds": 2,
        "k": 2,
        "G": G,
    }
    with pytest.raises(error, match=message):
        adaptive_measurements(
            **{**arguments, "steps": 30, "chains": 1, "seed": 0, "progress": False, **change}
        )


def test_a_run_without_a_seed_says_which_it_took(X, G):
    A = odl.IdentityOperator(X)
    _, y = simulated(A, G)
    settings = {**SETTINGS, "seed": None}
    found = adaptive_measurements(Candidates(A, y, 0.3), Random(), 2, 2, G=G, **settings)
    again = adaptive_measurements(
        Candidates(A, y, 0.3), Random(), 2, 2, G=G, **{**SETTINGS, "seed": found.seed}
    )
    assert torch.equal(found.chosen, again.chosen) and torch.equal(found.mean, again.mean)


def test_complex_data_and_other_images_are_refused(X, G):
    A, groups = lines(X)
    y = torch.zeros(2, *A.range.shape, dtype=torch.complex128)
    for policy in (Thompson(), UpperConfidenceBound()):
        with pytest.raises(ValueError, match="policy must not look for the largest of complex data"):
            adaptive_measurements(Candidates(A, y, 0.3, groups), policy, 1, 1, G=G)
    other = odl.rn((4, 5))
    with pytest.raises(ValueError, match="G must make images of the domain of A"):
        adaptive_measurements(
            Candidates(odl.IdentityOperator(other), other.zero(), 0.3), Variance(), 1, 1, G=G
        )


@refuses(
    (lambda A: Candidates("A", torch.zeros(4, 5), 0.1), TypeError, "A must be an ODL operator, got str"),
    (lambda A: Candidates(A, torch.zeros(4, 4), 0.1), ValueError, "y"),
    (lambda A: Candidates(A, torch.zeros(4, 5), -0.1), ValueError, "noise_std must be positive"),
    (
        lambda A: Candidates(A, torch.zeros(4, 5), torch.full((4, 5), torch.inf)),
        ValueError,
        "noise_std must be finite: what can't be measured is no candidate",
    ),
    (lambda A: Candidates(A, torch.zeros(4, 5), 0.1, 2), ValueError, "groups must be an axis"),
    (lambda A: Candidates(A, torch.zeros(4, 5), 0.1, batch=2), ValueError, "batch belongs to a function"),
    (
        lambda A: Candidates(A, lambda c: c, 0.1, batch=0),
        ValueError,
        "batch must be a positive integer, got 0",
    ),
)
def test_errors_of_candidates(X, make):
    make(odl.IdentityOperator(X))


@pytest.mark.parametrize(
    ("answer", "error", "message"),
    [
        (
            lambda chosen: ["0"],
            TypeError,
            "what measure returns must be an ODL element, a tensor or an array",
        ),
        (lambda chosen: torch.zeros(4, 5), ValueError, r"data of the shape \(2, 4, 5\), got \(4, 5\)"),
        (lambda chosen: torch.zeros(2, 5, 4), ValueError, "what measure returns"),
        (lambda chosen: torch.full((2, 4, 5), torch.nan), ValueError, "measure must return finite data"),
    ],
)
def test_errors_of_measurements(X, G, exact, answer, error, message):
    problem = Candidates(odl.IdentityOperator(X), answer, 0.3, batch=2)
    with pytest.raises(error, match=message):
        adaptive_measurements(problem, Variance(), 1, 1, G=G, **SETTINGS)


def test_errors_of_a_comparison_with_the_truth(X, G, exact):
    A = odl.IdentityOperator(X)
    x, y = simulated(A, G)
    found = adaptive_measurements(Candidates(A, y, 0.3), Variance(), 1, 1, G=G, **SETTINGS)
    with pytest.raises(ValueError, match=r"truth must be images of the shape \(2, 4, 5\), got \(4, 5\)"):
        found.error(x[0])
    assert "20 groups" in repr(Candidates(A, y, 0.3))
