"""Solvers that go on from a file: the result is bit by bit that of the run without the interruption."""

import contextlib
import functools
from unittest import mock

import pytest
import torch

from genreg.operators import to_torch
from genreg.operators.bridge.caller_data import Batch
from genreg.solvers import Adam, Status, jpmap, jpmap_continuation, map_z_splitting
from genreg.solvers.checkpoints import begin, resumable
from genreg.solvers.driver.loop import run
from genreg.solvers.generative.latent import latent_objective

from ..latent_problems import OPERATORS, data, network, space

STD = torch.tensor([0.05, 0.2, 0.5, 0.1], dtype=torch.float64)


class KilledError(Exception):
    """The end of a process."""


@contextlib.contextmanager
def killed_after():
    """A process that ends after it has written its file at every turn."""
    with mock.patch.object(resumable, "_SECONDS", 0.0), pytest.raises(KilledError):
        yield


def killed(turn):
    """A callback that ends the run at a turn, counted over all stages."""
    seen = []

    def callback(iterate):
        seen.append(iterate)
        if len(seen) == turn:
            raise KilledError

    return callback


@pytest.fixture(name="problem", scope="module")
def of_a_mask():
    G = network()
    A = OPERATORS["mask"](space())
    return A, data(A, G)[0], G


@pytest.fixture(scope="module")
def uninterrupted(problem):
    """The solver with its settings, what it finds, and in how many turns."""

    @functools.cache
    def of(name):
        solver, settings = SOLVERS[name]
        solve = functools.partial(solver, *problem, noise_std=STD, beta=4.0, progress=False, **settings)
        turns = []
        return solve, solve(callback=turns.append), len(turns)

    return of


def assert_same(found, right):
    for name in ("value", "status", "iterations", "operator_calls"):
        assert torch.equal(getattr(found, name), getattr(right, name)), name
    for name in ("blocks", "history"):
        pairs = getattr(found, name), getattr(right, name)
        assert all(torch.equal(pairs[0][key].nan_to_num(), pairs[1][key].nan_to_num()) for key in pairs[1])


SOLVERS = {
    "fast": (jpmap, {"n2": 6, "max_iter": 8}),
    "candidates": (jpmap, {"rule": "candidates", "restarts": 2, "max_iter": 5}),
    "unfinished": (jpmap, {"max_iter": 4, "tol": 1e-12}),
    "continuation": (jpmap_continuation, {"epsilon": 1e-4 * STD, "stages": 4}),
    "splitting": (map_z_splitting, {"growth": 3.0, "epsilon": 1e-4, "stages": 4}),
}


@pytest.mark.parametrize("name", SOLVERS)
def test_resumed_is_uninterrupted(uninterrupted, name, tmp_path):
    solve, right, turns = uninterrupted(name)
    assert turns > 3
    for turn in (2, turns - 1):
        file = tmp_path / f"{turn}"
        with killed_after():
            solve(callback=killed(turn), checkpoint=file)
        for again in (False, True):  # from the middle, and what has been finished
            assert_same(solve(checkpoint=file, resume=file.exists() or again), right)


@pytest.mark.parametrize("name", ["fast", "splitting"])
def test_a_stopped_run_goes_on(uninterrupted, name, tmp_path):
    (solve, right, _), turns = uninterrupted(name), []

    def callback(iterate):
        turns.append(iterate)
        return len(turns) == 6

    file = tmp_path / "run"
    stopped = solve(callback=callback, checkpoint=file)
    assert (stopped.status == Status.STOPPED).any()
    assert_same(solve(checkpoint=file, resume=True), right)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"y": 1.0}, "y differ"),
        ({"noise_std": 0.3}, "inverse_variance differ"),
        ({"beta": 2.0}, "beta differ"),
        ({"n1": 2}, "n1 was 5 and is 2"),
        ({"restarts": 2}, "restarts was 1 and is 2"),
        ({"init": torch.zeros(4, 3, dtype=torch.float64)}, "init differ"),
        ({"A": "identity"}, "y differ, operator differ"),
        ({"G": 3}, "weights of the generator differ, images of the generator differ"),
    ],
)
def test_a_file_of_another_problem_is_refused(problem, change, message, tmp_path):
    A, y, G = problem
    file = tmp_path / "run"
    given = {"noise_std": STD, "beta": 4.0, "max_iter": 1, "progress": False, "checkpoint": file}
    jpmap(A, y, G, **given)
    with pytest.raises(FileExistsError, match="go on with that run by resume=True"):
        jpmap(A, y, G, **given)
    change = dict(change)
    other = OPERATORS[change.pop("A")](space()) if "A" in change else A
    if other is not A:
        y = torch.ones(4, *other.range.shape, dtype=torch.float64)
    y, G = y + change.pop("y", 0.0), network(seed=change.pop("G")) if "G" in change else G
    with pytest.raises(ValueError, match=message):
        jpmap(other, y, G, **{**given, **change}, resume=True)


def test_an_objective_that_rises_keeps_its_best_iterate(problem, tmp_path):
    A, y, G = problem
    ones = torch.ones(4, dtype=torch.float64)
    objective = latent_objective(to_torch(A), to_torch(G), y=y, inverse_variance=STD**-2, weight=ones)
    start = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))

    def solve(**given):
        batch = Batch({"z": start}, dict, True)
        return run(objective, batch, {"z": Adam(lr=0.2)}, max_iter=30, tol=0.8, progress=False, **given)

    right = solve()
    assert len(right.status.unique()) > 1  # some samples have ended when the run is interrupted
    file, _ = begin(tmp_path / "run", False, "test", dict)
    with killed_after():
        solve(callback=killed(25), file=file)
    file, saved = begin(tmp_path / "run", True, "test", dict)
    assert_same(solve(file=file, saved=saved), right)
