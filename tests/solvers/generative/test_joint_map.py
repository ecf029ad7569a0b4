"""JPMAP: closed forms for linear generators, descent for all others, and errors at the entry."""

import math

import odl
import pytest
import torch
from torch import nn

from genreg.generator import Generator
from genreg.operators import NetworkOperator, blur, data_prox, mask, to_torch
from genreg.solvers import (
    JointProblem,
    Solution,
    Status,
    debugging,
    jpmap,
    jpmap_continuation,
    map_z_splitting,
)
from genreg.solvers.generative.joint_map import _DRAWS, _screened

from ..latent_problems import KEEP, OPERATORS, SHAPE, K, N, closed_form, data, linear, network, space

QUIET = {"progress": False}
RULES = ["fast", "candidates", "exact"]
STD = torch.tensor([0.05, 0.2, 0.5, 0.1], dtype=torch.float64)


@pytest.fixture(name="G", scope="module")
def generator():
    return network()


def problem(name, G, batch=4):
    A = OPERATORS[name](space())
    y, z = data(A, G, batch)
    return A, y, z


# Closed forms


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        *[(name, "fast") for name in OPERATORS],
        *[("gaussian", rule) for rule in RULES[1:]],
        ("mask", "exact"),
        ("rays", "candidates"),
    ],
)
def test_linear_generators(name, rule):
    """With the exact posterior mean as encoder every rule ends in the minimum, algorithm 2.1 on its own."""
    G, W = linear(beta=4.0)
    A, y, _ = problem(name, G)
    x, z, value = closed_form(A, W, y, STD, 4.0)
    with debugging():
        solution = jpmap(A, y, G, noise_std=STD, rule=rule, tol=1e-6, max_iter=3000, **QUIET)
    assert (solution.history["value"].diff(dim=0) <= 1e-12 * value).all()
    assert solution.converged.all()
    torch.testing.assert_close(solution.value, value, rtol=1e-6, atol=0)
    torch.testing.assert_close(solution.blocks["z"], z, rtol=0, atol=1e-3 if rule == "exact" else 1e-5)
    torch.testing.assert_close(solution.blocks["x"], x, rtol=0, atol=1e-3 if rule == "exact" else 1e-5)


@pytest.mark.parametrize(
    ("rule", "size"),
    [("fast", 0.0), ("fast", math.nan), ("candidates", 1e3), ("candidates", math.nan), ("exact", 1e3)],
)
def test_wrong_encoders_do_no_harm(rule, size):
    E = size * torch.ones(K, N, dtype=torch.float64)
    G, W = linear(beta=4.0, E=E)
    A, y, _ = problem("gaussian", G)
    _, z, value = closed_form(A, W, y, STD, 4.0)
    start = torch.ones(4, K, dtype=torch.float64)
    with debugging():
        solution = jpmap(A, y, G, noise_std=STD, rule=rule, init=start, tol=1e-8, **QUIET)
    if rule == "exact":
        first = solution.history["value"][0]
        assert (solution.status == Status.STALLED).all() and (solution.value <= first).all()
        return
    assert solution.converged.all()
    torch.testing.assert_close(solution.blocks["z"], z, rtol=0, atol=1e-6)
    torch.testing.assert_close(solution.value, value, rtol=1e-9, atol=1e-9)


def test_beta_and_noise_per_sample():
    G, W = linear()
    A, y, _ = problem("blur", G)
    beta = torch.tensor([0.1, 4.0, 50.0, 1e3], dtype=torch.float64)
    x, z, value = closed_form(A, W, y, STD, beta)
    solution = jpmap(A, y, G, noise_std=STD, beta=beta, tol=1e-8, **QUIET)
    torch.testing.assert_close(solution.value, value, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(solution.blocks["x"], x, rtol=0, atol=1e-5)
    torch.testing.assert_close(solution.blocks["z"], z, rtol=0, atol=1e-5)


def test_beta_is_that_of_the_model_by_default():
    G, _ = linear(beta=9.0)
    A, y, _ = problem("mask", G)
    learned = jpmap(A, y, G, noise_std=0.1, **QUIET)
    given = jpmap(A, y, G, noise_std=0.1, beta=9.0, **QUIET)
    torch.testing.assert_close(learned.value, given.value)


# Generators that are not linear


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        *[(name, "fast") for name in ("mask", "blur", "rays")],
        ("gaussian", "candidates"),
        ("identity", "exact"),
    ],
)
def test_descent_and_the_exact_step(name, rule, G):
    A, y, _ = problem(name, G)
    with debugging():
        solution = jpmap(A, y, G, noise_std=STD, rule=rule, tol=1e-6, **QUIET)
    value = solution.history["value"]
    assert (value.diff(dim=0) <= 1e-13 * value[:-1]).all()
    if rule != "exact":
        assert solution.converged.all() and (value[-1] < value[0]).all()
    x, z = solution.blocks["x"], solution.blocks["z"]
    assert solution.image is x or torch.equal(solution.image, x)
    mean = G.decode(z).mean
    beta = 1 / G.std**2
    torch.testing.assert_close(x, data_prox(A)(mean, y, STD**2 * beta), rtol=1e-7, atol=1e-8)
    r = (to_torch(A)(x) - y).flatten(1).square().sum(1)
    u = (x - mean).square().sum((1, 2))
    torch.testing.assert_close(solution.value, 0.5 * (r / STD**2 + beta * u + z.square().sum(1)))


@pytest.mark.parametrize(("name", "rule"), [("gaussian", "candidates"), ("rays", "fast")])
def test_batches_equal_one_sample_at_a_time(name, rule, G):
    A, y, _ = problem(name, G)
    beta = torch.tensor([10.0, 20.0, 40.0, 80.0], dtype=torch.float64)
    together = jpmap(A, y, G, noise_std=STD, beta=beta, rule=rule, tol=1e-8, **QUIET)
    for k in (3,):
        alone = jpmap(A, y[k], G, noise_std=float(STD[k]), beta=float(beta[k]), rule=rule, tol=1e-8, **QUIET)
        assert alone.value.shape == () and alone.history["value"].ndim == 1
        for block in ("x", "z"):
            torch.testing.assert_close(alone.blocks[block], together.blocks[block][k], rtol=0, atol=1e-6)
        assert alone.status == together.status[k]
        assert abs(int(alone.iterations - together.iterations[k])) <= 1  # rounding decides at the tolerance


def test_further_starts_are_the_best_draws(G):
    A, y, _ = problem("gaussian", G)
    count, tried = len(y), 1 + 2 * _DRAWS
    of_sample = {
        name: torch.full((count,), 4.0, dtype=torch.float64) for name in ("inverse_variance", "beta")
    }
    joint = JointProblem.of(A, G, y=y, weight=torch.ones(count, dtype=torch.float64), **of_sample)
    z = torch.randn(count * tried, *G.domain.shape, dtype=torch.float64)
    rows = torch.arange(count).repeat_interleave(tried)
    starts, samples = _screened(joint, z, rows, 3)
    values = joint.take(rows).profile()({"z": z}).view(count, tried)
    chosen = joint.take(samples).profile()({"z": starts}).view(count, 3)
    assert torch.equal(samples, torch.arange(count).repeat_interleave(3))
    assert torch.equal(starts.view(count, 3, -1)[:, 0], z.view(count, tried, -1)[:, 0])  # the given one
    torch.testing.assert_close(chosen[:, 1:], values[:, 1:].sort(1).values[:, :2])


def test_restarts_keep_the_best_and_are_reproducible(G):
    A, y, _ = problem("gaussian", G)

    def solve(**rest):
        return jpmap(A, y, G, noise_std=0.05, tol=1e-7, **rest, **QUIET)

    one, four = solve(), solve(restarts=4, seed=3)
    assert four.value.shape == (4,) and four.blocks["x"].shape == (4, *SHAPE)
    assert (four.value <= one.value * (1 + 1e-9)).all()
    assert (four.operator_calls > one.operator_calls).all()
    again, other = solve(restarts=4, seed=3), solve(restarts=4, seed=4, max_iter=0)
    assert torch.equal(again.blocks["z"], four.blocks["z"]) and torch.equal(again.value, four.value)
    assert not torch.equal(other.blocks["z"], solve(restarts=4, seed=3, max_iter=0).blocks["z"])
    mean = G.decode(four.blocks["z"]).mean
    x = data_prox(A)(mean, y, 0.05**2 / torch.full((4,), G.std, dtype=torch.float64) ** 2)
    torch.testing.assert_close(four.blocks["x"], x)  # of the same sample as z


def test_the_best_of_neighbours():
    value = torch.tensor([3.0, 1.0, torch.nan, 5.0, 7.0, 5.0])
    history = {"value": torch.arange(12.0).view(2, 6)}
    count = torch.arange(6)
    solution = Solution({"z": torch.arange(6.0)[:, None]}, value, count, count, count, 0.0, history)
    assert solution.best(1) is solution
    best = solution.best(3)
    assert best.blocks["z"].flatten().tolist() == [1.0, 3.0] and best.value.tolist() == [1.0, 5.0]
    assert best.status.tolist() == [1, 3] and best.iterations.tolist() == [1, 3]
    assert best.operator_calls.tolist() == [3, 12]
    assert best.history["value"].tolist() == [[1.0, 3.0], [7.0, 9.0]]


def test_elements_in_elements_out(G):
    A, y, _ = problem("blur", G)
    element = jpmap(A, A.range.element(y[1].numpy()), G, noise_std=0.1, tol=1e-8, **QUIET)
    tensor = jpmap(A, y[1], G, noise_std=0.1, tol=1e-8, **QUIET)
    assert element.blocks["x"] in G.range and element.blocks["z"] in G.domain and element.image in G.range
    assert abs(element.image.asarray() - tensor.image.numpy()).max() < 1e-12
    assert element.converged.shape == () and tensor.blocks["z"].shape == (K,)
    at = element.blocks["z"]
    again = jpmap(A, A.range.element(y[1].numpy()), G, noise_std=0.1, tol=1e-8, init=at, **QUIET)
    torch.testing.assert_close(again.value, element.value)


def test_starts(G):
    A, y, z = problem("gaussian", G)

    def start(init):
        return jpmap(A, y, G, noise_std=0.05, init=init, max_iter=0, **QUIET)

    assert torch.equal(start(z).blocks["z"], z) and torch.equal(start({"z": z}).blocks["z"], z)
    x = torch.rand(4, *SHAPE, dtype=torch.float64)
    assert torch.equal(start({"x": x}).blocks["z"], G.encode(x))
    assert torch.equal(start({"x": x, "z": z}).blocks["z"], z)
    assert (start(z).status == Status.MAX_ITER).all()


def test_going_on_from_the_blocks(G):
    """Stopped after any turn, J goes on falling to where it would have come."""
    A, y, _ = problem("gaussian", G)
    options = {"noise_std": 0.1, "tol": 1e-6, **QUIET}
    whole = jpmap(A, y, G, **options)
    for turns in (1, 3):
        part = jpmap(A, y, G, **options, max_iter=turns)
        rest = jpmap(A, y, G, init=part.blocks, **options)
        assert bool((rest.value <= part.value * (1 + 1e-12)).all()) and rest.converged.all()
        torch.testing.assert_close(rest.value, whole.value, rtol=1e-4, atol=0)


def test_callbacks_and_single_precision(G):
    A, y, _ = problem("gaussian", G)
    seen = []
    solution = jpmap(
        A, y, G, noise_std=0.05, callback=lambda it: seen.append(it) or it.iteration == 2, **QUIET
    )
    assert len(seen) == 2 and (solution.status == Status.STOPPED).all()
    A32, G32 = OPERATORS["gaussian"](space("float32")), network("float32")
    exact = jpmap(A, y, G, noise_std=0.05, tol=1e-8, **QUIET)
    single = jpmap(A32, y.float(), G32, noise_std=0.05, **QUIET)
    assert single.converged.all() and single.image.dtype == torch.float32
    torch.testing.assert_close(single.value.double(), exact.value, rtol=1e-4, atol=0)
    torch.testing.assert_close(single.image.double(), exact.image, rtol=0, atol=1e-2)


class Explosive(nn.Module):
    """A decoder that is infinite for z1 > 5, with an encoder that has no idea."""

    latent_dim = K

    def __init__(self):
        super().__init__()
        self.W = nn.Parameter(
            torch.randn(N, K, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
        )

    def decode(self, z):
        x = (z @ self.W.T).sigmoid() + torch.where(z[:, :1] > 5, torch.inf, 0.0)
        return x.unflatten(1, SHAPE)

    def encode(self, x):
        return x.flatten(1) @ self.W


@pytest.mark.parametrize(("name", "rule"), [*[("mask", rule) for rule in RULES], ("blur", "fast")])
def test_samples_that_are_not_finite_leave_their_neighbours_alone(name, rule):
    G = Generator(Explosive(), space())
    A, y, z = problem(name, G)
    z = z.clamp(-1, 1)
    z[2, 0] = 10.0
    call = {"noise_std": 0.1, "beta": 20.0, "rule": rule, "tol": 1e-6} | QUIET
    together = jpmap(A, y, G, init=z, **call)
    assert together.status[2] == Status.NON_FINITE
    good = torch.tensor([0, 1, 3])
    assert (together.status[good] != Status.NON_FINITE).all()
    for k in (3,):
        alone = jpmap(A, y[k], G, init=z[k], **call)
        torch.testing.assert_close(alone.blocks["z"], together.blocks["z"][k], rtol=0, atol=1e-6)
        assert alone.status == together.status[k]
    if rule == "candidates":
        for solver, extra in ((map_z_splitting, {}), (jpmap_continuation, {"epsilon": 1e-3})):
            result = solver(A, y, G, noise_std=0.1, beta=20.0, init=z, stages=3, **extra, **QUIET)
            assert result.status[2] == Status.NON_FINITE
            assert (result.status[good] != Status.NON_FINITE).all() and torch.isfinite(
                result.value[good]
            ).all()


# What is refused

X = space()


class NoEncoder(nn.Module):
    latent_dim = K

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(K, N), nn.Unflatten(1, SHAPE)).double()

    def decode(self, z):
        return self.net(z)


class NoGamma(NoEncoder):
    def encode(self, x):
        return x.flatten(1)[:, :K]


PLAIN, NO_GAMMA = Generator(NoEncoder(), X), Generator(NoGamma(), X)


def refused(solver, match, error=ValueError, *, A=None, y=None, G=None, noise_std=0.1, **rest):
    A = mask(X, KEEP) if A is None else A
    y = torch.zeros(2, *A.range.shape, dtype=torch.float64) if y is None else y
    if solver is jpmap_continuation:
        rest = {"epsilon": 1e-2} | rest
    with pytest.raises(error, match=match):
        solver(A, y, network() if G is None else G, noise_std=noise_std, **rest, **QUIET)


@pytest.mark.parametrize("solver", [jpmap, jpmap_continuation, map_z_splitting])
def test_bad_input_for_all(solver, G):
    m = int(KEEP.sum())
    refused(solver, "A must be an ODL operator, got int", TypeError, A=3, y=torch.zeros(1))
    refused(solver, "G must be an ODL operator, got Identity", TypeError, G=nn.Identity())
    refused(solver, "G must map to the domain of A", A=odl.IdentityOperator(odl.rn(SHAPE)))
    refused(solver, "beta must be given: the model of G has learned no standard deviation", G=NO_GAMMA)
    for beta in (0.0, -1.0, math.nan, torch.tensor([1.0, 0.0])):
        refused(solver, "beta must be positive and finite", beta=beta)
    refused(solver, r"beta must be a number or have the shape \(2,\), got \(3,\)", beta=torch.ones(3))
    refused(solver, "beta must be a number or a tensor", TypeError, beta="1")
    refused(solver, "noise_std must be positive and finite, got 0", noise_std=0)
    refused(solver, "`A` must be linear with an adjoint, got the nonlinear", A=odl.PowerOperator(X, 2))
    tiny = {"A": blur(X, 2.0, boundary="symmetric"), "beta": 1e-30}
    refused(solver, r"`shift` \(sigma\^2 beta\) must be at least .* singular", **tiny)
    refused(
        solver, rf"`y` must have shape \(\*batch, \*\({m},\)\), got \(2, 3\)", y=torch.zeros(2, 3).double()
    )
    bad = torch.zeros(2, m, dtype=torch.float64)
    bad[1, 0] = torch.nan
    refused(solver, "y must be finite, got 1 NaN or infinite values", y=bad)
    refused(solver, "init must have the batch size of y, 2, got 3", init=torch.zeros(3, K).double())
    refused(solver, r"init must be a latent vector, .* got the keys \['u'\]", init={"u": torch.zeros(2, K)})
    refused(solver, "max_iter must be a non-negative integer, got -1", max_iter=-1)
    refused(solver, "tol must be non-negative and finite, got -1", tol=-1)
    with pytest.raises(ValueError, match=r"`keep` must have the shape \(4, 3\) of the space, got \(2, 3\)"):
        mask(X, KEEP[:2])


@pytest.mark.parametrize("solver", [jpmap, jpmap_continuation])
def test_bad_input_for_those_with_an_encoder(solver):
    refused(solver, "G must have an encoder .* for JPMAP", G=PLAIN)
    refused(solver, "G must have an encoder", G=NetworkOperator(PLAIN.module, PLAIN.domain, PLAIN.range))
    refused(solver, "n2 must be an integer of at least 3, got 2", n1=3, n2=2)
    refused(solver, "n1 must be a non-negative integer, got -1", n1=-1, n2=2)
    refused(solver, "n1 must be an integer, got 1.0", TypeError, n1=1.0, n2=2)


def test_bad_input_for_each():
    refused(jpmap, r"rule must be one of \['exact', 'candidates', 'fast'\], got 'slow'", rule="slow")
    refused(jpmap, "restarts must be a positive integer, got 0", restarts=0)
    refused(jpmap, "restarts must be smaller, got 1000000000000: that takes at least", restarts=10**12)
    for restarts in (1.5, True):
        refused(jpmap, "restarts must be an integer", TypeError, restarts=restarts)
    for epsilon in (0.0, -1.0, math.inf, torch.tensor([1.0, 0.0])):
        refused(jpmap_continuation, "epsilon must be positive and finite", epsilon=epsilon)
        refused(map_z_splitting, "epsilon must be positive and finite", epsilon=epsilon)
    for rho in (0.0, -1.0, math.nan, math.inf):
        refused(jpmap_continuation, "rho must be positive and finite", rho=rho)
    refused(jpmap_continuation, "rho must be a number, got '1'", TypeError, rho="1")
    for growth in (1.0, 0.5, math.inf, math.nan):
        refused(map_z_splitting, "growth must be above 1 and finite", growth=growth)
    refused(map_z_splitting, "growth must be a number, got '2'", TypeError, growth="2")
    for solver in (jpmap_continuation, map_z_splitting):
        for stages in (0, -1):
            refused(solver, "stages must be a positive integer", stages=stages)
        for stages in (2.0, True):
            refused(solver, "stages must be an integer", TypeError, stages=stages)
