"""A growing β: the constraint on the distance from the range, and the hard constraint in the limit."""

import math

import pytest
import torch

from genreg.operators import NetworkOperator, to_torch
from genreg.operators.fidelity import GaussianFidelity
from genreg.solvers import (
    Status,
    debugging,
    gauss_newton,
    jpmap,
    jpmap_continuation,
    levenberg_marquardt,
    map_z_splitting,
)
from genreg.solvers.generative.joint_map import joint_problem

from ..latent_problems import (
    OPERATORS,
    SHAPE,
    K,
    N,
    closed_form,
    data,
    hard_closed_form,
    linear,
    network,
    space,
)

QUIET = {"progress": False}
STD = torch.tensor([0.05, 0.2, 0.5, 0.1], dtype=torch.float64)
START = 0.1  # the first β


def problem(name, G, batch=4, off=1.0, seed=1):
    """Data of images that lie off the range of G."""
    A = OPERATORS[name](space())
    y, z = data(A, G, batch, seed=seed)
    generator = torch.Generator().manual_seed(5)
    x = off * torch.randn(batch, *SHAPE, dtype=torch.float64, generator=generator)
    return A, y + to_torch(A)(x), z


# Linear generators: everything is known once β is


@pytest.mark.parametrize(
    ("name", "secant"),
    [
        *[(name, True) for name in ("identity", "mask", "gaussian", "rays")],
        ("identity", False),
        ("gaussian", False),
    ],
)
def test_stationary_points_of_the_constrained_problem(name, secant):
    """β/2 is the multiplier of ‖x - Gz‖² <= ε: the final blocks minimise J for the final β, just inside."""
    G, W = linear()
    A, y, _ = problem(name, G)
    at_first = (lambda x, z: (x.flatten(1) - z @ W.T).square().sum(1))(*closed_form(A, W, y, STD, START)[:2])
    epsilon = at_first * torch.tensor(
        [0.3, 0.03, 2.0, 0.01] if secant else [0.3, 0.1, 2.0, 0.05], dtype=torch.float64
    )  # the third holds at once
    with debugging():
        solution = jpmap_continuation(
            A,
            y,
            G,
            noise_std=STD,
            epsilon=epsilon,
            beta=START,
            secant=secant,
            rho=200.0 if secant else 100.0 * N,
            stages=100,
            tol=1e-7,
            **QUIET,
        )
    assert solution.converged.all()
    beta, gap = solution.history["beta"], solution.history["gap"]
    x, z, value = closed_form(A, W, y, STD, beta[-1])
    torch.testing.assert_close(solution.blocks["x"], x, rtol=0, atol=1e-4)
    torch.testing.assert_close(solution.blocks["z"], z, rtol=0, atol=1e-4)
    torch.testing.assert_close(solution.value, value, rtol=1e-7, atol=0)
    final = (solution.blocks["x"].flatten(1) - solution.blocks["z"] @ W.T).square().sum(1)
    torch.testing.assert_close(final, gap[-1], rtol=1e-5, atol=0)
    assert (final <= epsilon * (1 + 1e-9)).all()
    held_at_once = gap[0] <= epsilon
    assert held_at_once.tolist() == [False, False, True, False]
    if secant:
        assert (final[~held_at_once] >= 0.5 * epsilon[~held_at_once]).all()
    assert (beta[:, 2] == START).all() and (beta.diff(dim=0) >= 0).all()


def test_the_multiplier_formula():
    G, _ = linear()
    A, y, _ = problem("gaussian", G)
    epsilon, rho = torch.tensor([0.02, 0.5, 3.0, 0.1], dtype=torch.float64), 20.0
    solution = jpmap_continuation(
        A, y, G, noise_std=STD, epsilon=epsilon, rho=rho, beta=START, secant=False, stages=12, **QUIET
    )
    beta, gap = solution.history["beta"], solution.history["gap"]
    assert len(beta) <= 12 and torch.equal(beta[0], torch.full((4,), START, dtype=torch.float64))
    factor = (rho / N * (gap[:-1] - epsilon)).exp().clamp(max=10)
    expected = torch.where(gap[:-1] > epsilon, beta[:-1] * factor, beta[:-1])
    torch.testing.assert_close(beta[1:], expected)
    assert (beta[1:] > beta[:-1]).any()


def test_secants_take_fewer_stages_to_the_same_end():
    G, _ = linear()
    A, y, _ = problem("mask", G)
    call = {
        "noise_std": STD,
        "epsilon": 1e-2,
        "rho": 100.0,
        "beta": START,
        "tol": 1e-7,
        "stages": 12,
    } | QUIET
    fast = jpmap_continuation(A, y, G, **call)
    slow = jpmap_continuation(A, y, G, secant=False, **call)
    assert fast.converged.all() and len(fast.history["beta"]) < 12
    assert len(slow.history["beta"]) == 12 and (slow.status == Status.MAX_ITER).any()
    assert (fast.history["gap"][-1] >= 0.5e-2).all()


def test_the_image_is_that_of_the_last_beta():
    G = network()
    A, y, _ = problem("gaussian", G, off=0.1)
    with debugging():
        solution = jpmap_continuation(A, y, G, noise_std=STD, epsilon=1e-2, tol=1e-8, **QUIET)
    assert solution.converged.all()
    joint = joint_problem(GaussianFidelity(A, y, STD), G, solution.history["beta"][-1])
    z = solution.blocks["z"]
    torch.testing.assert_close(solution.image, joint.image(z), rtol=1e-7, atol=1e-8)
    torch.testing.assert_close(solution.value, joint.profile()({"z": z}), rtol=1e-8, atol=1e-9)
    torch.testing.assert_close(solution.history["gap"][-1], joint.gap(z), rtol=1e-6, atol=0)
    gradient = joint.profile().value_and_gradient({"z": z})[1]["z"]
    assert (gradient.norm(dim=1) * (1 + z.norm(dim=1)) <= 1e-7 * solution.value).all()


@pytest.mark.parametrize("solver", [jpmap_continuation, map_z_splitting])
def test_batches_equal_one_sample_at_a_time(solver):
    G = network()
    A, y, _ = problem("mask", G, off=0.1)
    epsilon = torch.tensor([1e-1, 1e-1, 1e-2, 1e-3], dtype=torch.float64)
    together = solver(A, y, G, noise_std=STD, epsilon=epsilon, tol=1e-8, **QUIET)
    stages = []
    for k in (0, 3):
        alone = solver(A, y[k], G, noise_std=STD[k], epsilon=float(epsilon[k]), tol=1e-8, **QUIET)
        stages.append(len(alone.history["beta"]))
        torch.testing.assert_close(alone.blocks["z"], together.blocks["z"][k], rtol=0, atol=1e-6)
        torch.testing.assert_close(alone.blocks["x"], together.blocks["x"][k], rtol=0, atol=1e-6)
        torch.testing.assert_close(alone.value, together.value[k])
        assert alone.status == together.status[k] and alone.history["gap"].shape == (stages[-1],)
        for name in ("beta", "gap"):  # what has ended is left alone
            column = together.history[name][:, k]
            torch.testing.assert_close(column[: stages[-1]], alone.history[name], rtol=1e-4, atol=0)
            assert (column[stages[-1] :] == column[stages[-1] - 1]).all()
    assert len(set(stages)) > 1 and len(together.history["beta"]) >= max(stages)


# The hard constraint


@pytest.mark.parametrize("name", ["mask", "gaussian"])
def test_splitting_tends_to_the_hard_constraint(name):
    G, W = linear()
    A, y, _ = problem(name, G, off=0.3)
    z, value = hard_closed_form(A, W, y, STD, 1.0)
    errors = []
    for epsilon in (1e-3, 1e-5, 1e-7):
        solution = map_z_splitting(A, y, G, noise_std=STD, epsilon=epsilon, beta=START, tol=1e-7, **QUIET)
        assert solution.converged.all() and (solution.history["gap"][-1] <= epsilon).all()
        assert (solution.value <= value * (1 + 1e-9)).all()  # J is a relaxation
        errors.append(float((solution.blocks["z"] - z).norm(dim=1).max()))
    assert errors[0] > 3 * errors[1] > 9 * errors[2]
    torch.testing.assert_close(solution.value, value, rtol=1e-3, atol=0)


def test_splitting_and_levenberg_marquardt_agree_on_a_network():
    G = network()
    A, y, _ = problem("gaussian", G, off=0.1)
    with debugging():
        split = map_z_splitting(A, y, G, noise_std=STD, epsilon=1e-10, tol=1e-9, **QUIET)
    hard = levenberg_marquardt(A, y, G, noise_std=STD, lam=0.5, init=split.blocks["z"], tol=1e-9, **QUIET)
    assert split.converged.all() and hard.converged.all()
    torch.testing.assert_close(split.blocks["z"], hard.blocks["z"], rtol=0, atol=1e-3)
    torch.testing.assert_close(split.value, hard.value, rtol=1e-4, atol=0)
    torch.testing.assert_close(split.image, G.decode(split.blocks["z"]).mean, rtol=0, atol=1e-5)


def test_beta_grows_by_the_given_factor_until_one_grey_level():
    G = network()
    A, y, _ = problem("gaussian", G, off=0.1)
    plain = NetworkOperator(G.module, G.domain, G.range)
    solution = map_z_splitting(A, y, plain, noise_std=0.1, beta=2.0, growth=3.0, **QUIET)
    beta, gap = solution.history["beta"], solution.history["gap"]
    running = gap[:-1] > N / 255**2
    torch.testing.assert_close(beta[1:], torch.where(running, 3 * beta[:-1], beta[:-1]))
    assert (gap[-1] <= N / 255**2).all() and (beta[0] == 2).all() and solution.converged.all()
    learned = map_z_splitting(A, y, G, noise_std=0.1, stages=1, **QUIET)
    torch.testing.assert_close(
        learned.history["beta"][0], torch.full((4,), 0.1 / G.std**2, dtype=torch.float64)
    )


def test_both_reach_the_constraint_they_share():
    G, W = linear()
    A, y, _ = problem("mask", G)
    call = {"noise_std": STD, "epsilon": 1e-4, "beta": START, "tol": 1e-8} | QUIET
    near, far = jpmap_continuation(A, y, G, **call), map_z_splitting(A, y, G, **call)
    for solution in (near, far):
        assert (solution.history["gap"][-1] <= 1e-4).all()
        _, z, _ = closed_form(A, W, y, STD, solution.history["beta"][-1])
        torch.testing.assert_close(solution.blocks["z"], z, rtol=0, atol=1e-5)


# How it ends


@pytest.mark.parametrize("solver", [jpmap_continuation, map_z_splitting])
def test_used_up_stages(solver):
    G, _ = linear()
    A, y, _ = problem("gaussian", G)
    first = jpmap(A, y, G, noise_std=STD, beta=START, tol=1e-7, **QUIET)
    epsilon = torch.tensor([1e3, 1e-12, 1e-12, 1e3], dtype=torch.float64)
    solution = solver(A, y, G, noise_std=STD, epsilon=epsilon, beta=START, stages=2, tol=1e-7, **QUIET)
    assert solution.status.tolist() == [
        Status.CONVERGED,
        Status.MAX_ITER,
        Status.MAX_ITER,
        Status.CONVERGED,
    ]
    assert solution.history["beta"].shape == (2, 4)
    torch.testing.assert_close(solution.value[[0, 3]], first.value[[0, 3]])
    _, z, _ = closed_form(A, linear()[1], y, STD, solution.history["beta"][-1])
    torch.testing.assert_close(solution.blocks["z"], z, rtol=0, atol=1e-5)


def test_a_constraint_met_on_the_way_is_not_called_converged():
    G = network()
    A, y, z = problem("gaussian", G, off=0.1)
    solution = map_z_splitting(A, y, G, noise_std=STD, epsilon=1e3, init=z, max_iter=1, tol=1e-12, **QUIET)
    assert len(solution.history["beta"]) == 1 and (solution.status == Status.MAX_ITER).all()


def test_a_callback_ends_all_stages_and_sees_the_numbers_of_the_batch():
    G, _ = linear()
    A, y, _ = problem("gaussian", G)
    epsilon = torch.tensor([1e3, 1e-6, 1e3, 1e-6], dtype=torch.float64)
    call = {"noise_std": STD, "epsilon": epsilon, "beta": START, "tol": 1e-7} | QUIET
    seen = []
    map_z_splitting(A, y, G, callback=lambda it: seen.append(it), **call)
    starts = [i for i, it in enumerate(seen) if it.iteration == 1]
    assert seen[0].samples.tolist() == [0, 1, 2, 3] and len(starts) > 2
    assert all(set(it.samples.tolist()) <= {1, 3} for it in seen[starts[1] :])
    assert seen[starts[1]].samples.tolist() == [1, 3]

    turns = []

    def late(iterate):
        turns.append(iterate.iteration)
        return turns.count(1) == 2  # in the second stage

    stopped = map_z_splitting(A, y, G, callback=late, **call)
    assert stopped.status.tolist() == [Status.CONVERGED, Status.STOPPED, Status.CONVERGED, Status.STOPPED]
    assert len(stopped.history["beta"]) == 2 and turns.count(1) == 2


def test_iterations_and_calls_add_up():
    G = network()
    A, y, _ = problem("gaussian", G, off=0.1)
    one = map_z_splitting(A, y, G, noise_std=STD, epsilon=1e-9, stages=1, **QUIET)
    two = map_z_splitting(A, y, G, noise_std=STD, epsilon=1e-9, stages=2, **QUIET)
    beta = two.history["beta"][-1]
    joint = joint_problem(GaussianFidelity(A, y, STD), G, beta)
    second = gauss_newton(joint.profile(), {"z": one.blocks["z"]}, max_iter=100, progress=False)
    assert torch.equal(two.iterations, one.iterations + second.iterations)
    assert torch.equal(two.operator_calls, one.operator_calls + second.operator_calls)
    torch.testing.assert_close(two.blocks["z"], second.blocks["z"])


@pytest.mark.parametrize("solver", [jpmap_continuation, map_z_splitting])
def test_elements_in_elements_out(solver):
    G = network()
    A, y, _ = problem("blur", G, off=0.1)
    element = solver(A, A.range.element(y[0].numpy()), G, noise_std=0.1, epsilon=1e-2, **QUIET)
    assert element.blocks["x"] in G.range and element.blocks["z"] in G.domain and element.image in G.range
    assert element.value.shape == () and element.history["beta"].ndim == 1
    gap = (element.blocks["x"].asarray() - G(element.blocks["z"]).asarray()) ** 2
    assert gap.sum() == pytest.approx(float(element.history["gap"][-1]), rel=1e-5) and gap.sum() <= 1e-2
    assert element.blocks["z"].asarray().shape == (K,) and math.isfinite(element.time)


def test_single_precision():
    G = network("float32")
    A = OPERATORS["gaussian"](space("float32"))
    y = problem("gaussian", network(), off=0.1)[1].float()
    exact = jpmap_continuation(
        OPERATORS["gaussian"](space()), y.double(), network(), noise_std=0.1, epsilon=1e-3, **QUIET
    )
    solution = jpmap_continuation(A, y, G, noise_std=0.1, epsilon=1e-3, **QUIET)
    assert solution.converged.all() and (solution.history["gap"][-1] <= 1e-3).all()
    torch.testing.assert_close(solution.value.double(), exact.value, rtol=0.1, atol=0)
    limit = map_z_splitting(A, y, G, noise_std=0.1, epsilon=1e-9, **QUIET)
    assert (limit.history["gap"][-1] <= 1e-9).all()
