"""Markov kernels: invariance of a density that is not Gaussian, the bias of the unadjusted ones, batches."""

import itertools
import math

import pytest
import torch

from genreg.sampling import HMC, MALA, PCN, SKROCK, ULA
from genreg.sampling.adaptation import Coordinates, Scatter, adapted, largest_curvature, window_ends
from genreg.sampling.kernels import ChainState
from genreg.sampling.moments import Moments
from genreg.sampling.random_numbers import RandomNumbers

from ...refusals import refuses

EXACT = [(MALA(), 0.8), (PCN(), 0.7), (HMC(), 0.4), (HMC(jitter=0.0, leapfrog=1), 1.5)]
IDS = ["MALA", "PCN", "HMC", "HMC of one step"]


def quartic(u, *, gradient=True):
    """Two modes of unequal mass: E = u^4/4 - u^2/2 - u/4 in the first component, u^2/2 + u_1 u / 2 in the second."""
    a, b = u[:, 0], u[:, 1]
    energy = a**4 / 4 - a**2 / 2 - a / 4 + b**2 / 2 + a * b / 2
    slope = torch.stack((a**3 - a - 0.25 + b / 2, b + a / 2), 1)
    return energy, slope if gradient else torch.zeros_like(slope)


def exact_draws(n, random):
    """The second component given the first is N(-a/2, 1); the first has the energy a^4/4 - 5 a^2/8 - a/4."""
    grid = torch.linspace(-5, 5, 20001, dtype=torch.float64)
    mass = torch.exp(-(grid**4) / 4 + 5 * grid**2 / 8 + grid / 4).cumsum(0)
    p = torch.rand(n, generator=random.generator, dtype=torch.float64) * mass[-1]
    a = grid[torch.searchsorted(mass, p)]
    return torch.stack((a, random.normal(a) - a / 2), 1)


@pytest.mark.parametrize(("kernel", "size"), EXACT, ids=IDS)
def test_an_exact_kernel_keeps_the_density(kernel, size):
    random = RandomNumbers(0, torch.device("cpu"))
    u = exact_draws(100_000, random)
    state = ChainState.at(quartic, u)
    before = torch.stack(
        (u[:, 0], u[:, 1], u[:, 0] ** 2, u[:, 1] ** 2, u[:, 0] * u[:, 1], (u[:, 0] > 0).double()), 1
    )
    for _ in range(2):
        state, info = kernel.step(quartic, state, torch.full((len(u),), size, dtype=u.dtype), random)
    assert 0.3 < info.accepted.double().mean() < 0.97  # the test has something to do
    assert torch.allclose(info.probability.mean(), info.accepted.double().mean(), atol=0.01)
    u = state.u
    after = torch.stack(
        (u[:, 0], u[:, 1], u[:, 0] ** 2, u[:, 1] ** 2, u[:, 0] * u[:, 1], (u[:, 0] > 0).double()), 1
    )
    change = after - before
    score = change.mean(0) / (change.std(0) / len(u) ** 0.5)
    assert bool((score.abs() < 4).all())
    energy, gradient = quartic(u)
    assert torch.allclose(state.energy, energy) and (
        kernel == PCN() or torch.allclose(state.gradient, gradient)
    )


def test_the_test_of_acceptance_is_needed():
    """The same check refuses the unadjusted step."""
    random = RandomNumbers(0, torch.device("cpu"))
    u = exact_draws(100_000, random)
    state, _ = ULA().step(
        quartic, ChainState.at(quartic, u), torch.full((len(u),), 0.8, dtype=u.dtype), random
    )
    change = state.u**2 - u**2
    assert float((change.mean(0) / (change.std(0) / len(u) ** 0.5)).abs().max()) > 10


STIFF = torch.tensor([1.0, 10.0, 100.0], dtype=torch.float64)


def gaussian(u, *, gradient=True):
    return 0.5 * (STIFF * u.square()).sum(1), STIFF * u


class NoNoise(RandomNumbers):
    """A random source without noise: shows what a step does to the point alone."""

    def normal(self, like):
        return torch.zeros_like(like)


class UnitNoise(RandomNumbers):
    def normal(self, like):
        return torch.ones_like(like)


def test_a_trajectory_has_the_length_it_should():
    """Without a potential it is a straight line of length times momentum, or of as many steps as are allowed."""
    calls = []

    def flat(u, *, gradient=True):
        calls.append(u)
        return torch.zeros_like(u[:, 0]), torch.zeros_like(u)

    size = torch.tensor([4.0, 0.25, 0.01], dtype=torch.float64)
    state = ChainState(
        torch.zeros(3, 2, dtype=torch.float64), 0 * size, torch.zeros(3, 2, dtype=torch.float64)
    )
    kernel = HMC(length=1.8, jitter=0.0, leapfrog=5)
    moved, info = kernel.step(flat, state, size, UnitNoise(0, torch.device("cpu")))
    assert torch.allclose(moved.u[:, 0], torch.tensor([1.8, 1.8, 0.5], dtype=torch.float64))
    assert len(calls) == 5 and bool(info.accepted.all())


@pytest.mark.parametrize("kernel", [ULA(), SKROCK(stages=2), SKROCK(stages=7, damping=0.1)], ids=str)
def test_the_bias_of_an_unadjusted_kernel_is_the_one_it_must_have(kernel):
    """On a Gaussian a step is u = a u + b ξ, with the stationary variance b² / (1 - a²) in the place of 1 / λ."""
    device = torch.device("cpu")
    size = kernel.largest_size(STIFF.max()).reshape(1)
    one, zero = torch.ones(1, 3, dtype=torch.float64), torch.zeros(1, 3, dtype=torch.float64)
    a = kernel.step(gaussian, ChainState.at(gaussian, one), size, NoNoise(0, device))[0].u[0]
    b = kernel.step(gaussian, ChainState.at(gaussian, zero), size, UnitNoise(0, device))[0].u[0]
    assert bool((a.abs() < 1).all())  # stable
    variance = b**2 / (1 - a**2)
    if kernel == ULA():
        assert torch.allclose(variance, 1 / (STIFF * (1 - size * STIFF / 4)))
    random = RandomNumbers(1, device)
    state = ChainState.at(gaussian, variance.sqrt() * random.normal(one.expand(40_000, 3)))
    for _ in range(3):
        state, info = kernel.step(gaussian, state, size.expand(40_000), random)
    assert bool(info.accepted.all())
    spread = state.u.var(0) * STIFF
    assert torch.allclose(spread, variance * STIFF, rtol=4 * (2 / 40_000) ** 0.5)
    assert float((spread - 1).abs().max()) > 0.05  # the bias is seen
    small = size / 100
    a = kernel.step(gaussian, ChainState.at(gaussian, one), small, NoNoise(0, device))[0].u[0]
    b = kernel.step(gaussian, ChainState.at(gaussian, zero), small, UnitNoise(0, device))[0].u[0]
    # and falls with h
    assert torch.allclose(STIFF * b**2 / (1 - a**2), torch.ones(3, dtype=torch.float64), atol=0.02)


def test_stages_go_further_than_steps():
    """Stable up to the bound, which grows with the square of the stages."""
    device = torch.device("cpu")
    one = torch.ones(1, 3, dtype=torch.float64)
    for stages in (2, 5, 10):
        kernel = SKROCK(stages=stages)
        bound = 2 * kernel.largest_size(STIFF.max()).reshape(1)
        a = kernel.step(gaussian, ChainState.at(gaussian, one), bound, NoNoise(0, device))[0].u[0]
        assert bool((a.abs() <= 1).all())
        # no polynomial goes so far
        beyond = torch.tensor([4.0 * stages**2], dtype=torch.float64) / STIFF.max()
        a = kernel.step(gaussian, ChainState.at(gaussian, one), beyond, NoNoise(0, device))[0].u[0]
        assert float(a.abs().max()) > 1
    assert SKROCK(10).largest_size(torch.tensor(1.0)) > 150 * ULA().largest_size(torch.tensor(1.0))


class Replay(RandomNumbers):
    """Numbers drawn beforehand for some rows."""

    def __init__(self, numbers, rows):
        self.numbers, self.rows, self.next = numbers, rows, 0

    def normal(self, like):
        self.next += 1
        return self.numbers[self.next - 1][self.rows]

    uniform = normal


@pytest.mark.parametrize(
    "kernel", [ULA(), MALA(), PCN(), HMC(length=1.0, leapfrog=2), SKROCK(stages=4)], ids=str
)
def test_batched_equals_one_at_a_time(kernel):
    torch.manual_seed(0)
    u, size = (
        torch.randn(5, 2, dtype=torch.float64),
        torch.tensor([0.1, 0.5, 0.2, 0.9, 0.3], dtype=torch.float64),
    )
    shapes = [(5, 2), (5,), (5,)]
    numbers = [
        torch.randn(5, 2, dtype=torch.float64),
        *(torch.rand(s, dtype=torch.float64) for s in shapes[1:]),
    ]
    together, info = kernel.step(quartic, ChainState.at(quartic, u), size, Replay(numbers, slice(None)))
    for k in range(5):
        rows = slice(k, k + 1)
        alone, single = kernel.step(
            quartic, ChainState.at(quartic, u[rows]), size[rows], Replay(numbers, rows)
        )
        assert torch.allclose(alone.u, together.u[rows], atol=1e-14)
        assert torch.allclose(alone.energy, together.energy[rows], atol=1e-14)
        assert torch.allclose(single.probability, info.probability[rows], atol=1e-14)


@pytest.mark.parametrize(("kernel", "size"), EXACT, ids=IDS)
def test_a_proposal_without_a_finite_energy_is_refused(kernel, size):
    def walled(u, *, gradient=True):
        energy, slope = quartic(u)
        return torch.where(u[:, 0] > 0, torch.nan, energy), slope

    u = torch.tensor([[-1.0, 0.5]], dtype=torch.float64).expand(200, 2)
    random = RandomNumbers(0, torch.device("cpu"))
    state, info = kernel.step(
        walled, ChainState.at(walled, u), torch.full((200,), 4 * size, dtype=u.dtype), random
    )
    assert bool((state.u[:, 0] <= 0).all()) and bool(state.finite.all())
    assert not bool(info.accepted.all()) and bool(torch.isfinite(info.probability).all())


def test_coordinates():
    torch.manual_seed(0)
    z = torch.randn(4, 3, 5, dtype=torch.float64)
    factor = torch.linalg.cholesky(
        torch.eye(5, dtype=torch.float64) + (m := torch.randn(3, 5, 5).double()) @ m.mT
    )
    for coordinates in (
        Coordinates(z[0], factor),
        Coordinates(z[0], factor.diagonal(dim1=1, dim2=2)),
        Coordinates.identity(z),
    ):
        u = coordinates.encode(z)
        assert torch.allclose(coordinates.decode(u), z)
        g = torch.randn_like(z)
        assert torch.allclose((coordinates.times(u) * g).sum(-1), (u * coordinates.transposed(g)).sum(-1))


@pytest.mark.parametrize("dense", [True, False])
def test_learnt_coordinates_whiten_the_draws_around_each_chain(dense):
    torch.manual_seed(0)
    mix = torch.randn(3, 3, dtype=torch.float64)
    draws = torch.randn(400, 4, 2, 3, dtype=torch.float64) @ mix + 50 * torch.randn(4, 1, 3).double()
    scatter = Scatter(draws[0], dense)
    for z in draws:
        scatter.add(z)
    within = (draws - draws.mean(0)).permute(2, 0, 1, 3).flatten(1, 2)  # (B, n, 3)
    covariance = within.mT @ within / (4 * 399)
    factor = scatter.coordinates().factor
    found = factor @ factor.mT if dense else torch.diag_embed(factor**2)
    expected = covariance if dense else torch.diag_embed(covariance.diagonal(dim1=1, dim2=2))
    assert torch.allclose(found, expected, rtol=0.005, atol=0.005 * float(covariance.abs().max()))
    again = Scatter(draws[0], dense)
    again.restore(scatter.tensors)
    assert torch.equal(again.coordinates().factor, factor)


def test_a_degenerate_scatter_still_gives_coordinates():
    scatter = Scatter(torch.zeros(1, 1, 3, dtype=torch.float64), dense=True)
    for z in torch.tensor([0.0, 1.0, 2.0], dtype=torch.float64):
        scatter.add(z.expand(1, 1, 3))
    factor = scatter.coordinates().factor
    assert bool(torch.isfinite(factor).all()) and bool((factor.diagonal(dim1=1, dim2=2) > 0).all())


def test_moments_of_a_stream():
    torch.manual_seed(0)
    images = torch.randn(7, 3, 2, 4, 5, dtype=torch.float64) + 100
    counts = torch.rand(7, 3, 2) < 0.6
    counts[:, :, 1] = False
    counts[3, 1, 1] = True
    images[~counts] = torch.nan
    moments = Moments(images[0, 0])
    for x, mask in zip(images, counts, strict=True):
        moments.add(x, mask)
    mean, std = moments.result
    chosen = images[:, :, 0][counts[:, :, 0]]
    assert torch.allclose(mean[0], chosen.mean(0)) and torch.allclose(std[0], chosen.std(0))
    assert torch.allclose(mean[1], images[3, 1, 1]) and bool(std[1].isnan().all())  # one draw has no scatter
    assert bool(Moments(images[0, 0]).result[0].isnan().all())


def test_the_largest_curvature():
    u = torch.randn(6, 2, dtype=torch.float64)
    found = largest_curvature(quartic, u, quartic(u)[1], RandomNumbers(0, torch.device("cpu")))
    for point, value in zip(u, found, strict=True):
        hessian = torch.autograd.functional.hessian(lambda v: quartic(v[None])[0].sum(), point)
        assert float(value) == pytest.approx(float(torch.linalg.eigvalsh(hessian).abs().max()), rel=0.15)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("s", [1e-6, 1e-3, 1.0, 1e3, 1e6])
def test_the_largest_curvature_and_the_steps_have_the_scale_of_the_density(s, dtype):
    """For E(u / s) the curvature is over s², and steps of sizes times s² lead to points times s."""
    u = torch.tensor([[0.4, -1.0], [0.0, 0.0], [2.0, 1.0]], dtype=dtype)

    def target(v, *, gradient=True):
        energy, slope = quartic(v / s, gradient=gradient)
        return energy, slope / s

    def random():
        return RandomNumbers(0, torch.device("cpu"))

    plain = largest_curvature(quartic, u, quartic(u)[1], random())
    found = largest_curvature(target, s * u, target(s * u)[1], random())
    torch.testing.assert_close(found * s**2, plain, rtol=0.05, atol=0)
    size = torch.tensor([0.1, 0.2, 0.3], dtype=dtype)
    for kernel in (ULA(), MALA(), HMC(length=0.5 * s), SKROCK(stages=3)):
        own = HMC(length=0.5) if isinstance(kernel, HMC) else kernel
        expected, info = own.step(quartic, ChainState.at(quartic, u), size, random())
        moved, scaled = kernel.step(target, ChainState.at(target, s * u), s**2 * size, random())
        torch.testing.assert_close(moved.u / s, expected.u, rtol=1e-3, atol=1e-3)
        assert torch.equal(info.accepted, scaled.accepted)


def test_no_curvature_is_found_where_there_is_none():
    u = torch.randn(3, 2, dtype=torch.float64)

    def linear(v, *, gradient=True):
        return v.sum(1), torch.ones_like(v)

    def nowhere(v, *, gradient=True):
        return v.sum(1), torch.full_like(v, torch.nan)

    for target in (linear, nowhere):
        assert (
            largest_curvature(target, u, linear(u)[1], RandomNumbers(0, torch.device("cpu"))).tolist()
            == [1.0] * 3
        )


def test_the_schedule_of_the_warm_up():
    assert window_ends(20) == []
    assert window_ends(60) == [9, 54]
    ends = window_ends(1000)
    assert ends[0] == 150 and ends[-1] == 900
    lengths = [b - a for a, b in itertools.pairwise(ends)]
    assert lengths[0] == 25 and all(b >= 2 * a for a, b in itertools.pairwise(lengths))
    log_size = torch.zeros(2)
    assert torch.allclose(adapted(log_size, torch.tensor([1.0, 0.0]), 0, 0.6), torch.tensor([0.4, -0.6]))


@refuses(
    (lambda: HMC(leapfrog=0), "leapfrog must be a positive integer, got 0"),
    (lambda: HMC(length=0.0), "length must be positive and finite, got 0.0"),
    (lambda: HMC(length=math.inf), "length must be positive and finite, got inf"),
    (lambda: SKROCK(damping=math.nan), "damping must be positive and finite, got nan"),
    (lambda: HMC(jitter=1.0), r"jitter must be a number between 0 and 1, got 1.0"),
    (lambda: SKROCK(stages=1), "stages must be an integer of at least 2, got 1"),
    (lambda: SKROCK(damping=0.0), "damping must be positive and finite, got 0.0"),
    error=ValueError,
)
def test_bad_settings(make):
    make()
