"""A run goes on from a file with the memory of every update as it was, to the last bit."""

import odl
import pytest
import torch

from genreg.operators import to_torch
from genreg.operators.bridge.caller_data import Batch
from genreg.solvers import (
    Adam,
    Inertial,
    LevenbergMarquardt,
    Objective,
    Proposal,
    Propose,
    ProxGradient,
    QuasiNewton,
    debugging,
)
from genreg.solvers.checkpoints import begin, resumable
from genreg.solvers.driver.loop import run
from genreg.solvers.problem.objective import Curvature
from genreg.solvers.problem.trees import map_tensors, refilled
from genreg.solvers.updates.limited_memory import LimitedMemory

B, N = 5, 3


def problem(rough):
    generator = torch.Generator().manual_seed(0)
    W = torch.randn(4, N, dtype=torch.float64, generator=generator)
    y = torch.randn(B, 4, dtype=torch.float64, generator=generator)
    w = torch.logspace(-2, 1, B, dtype=torch.float64)

    def smooth(blocks, y, w):
        v = blocks["v"]
        return w * ((v @ W.T).tanh() - y).square().sum(1) + 0.1 * v.square().sum(1)

    def curvature(blocks, y, w):
        N_ = w[:, None, None] * (W.T @ W) + 0.1 * torch.eye(N, dtype=torch.float64)
        return Curvature(lambda: N_, lambda p: (N_ @ p[..., None])[..., 0])

    parts = {"v": to_torch(0.01 * odl.functionals.L1Norm(odl.rn(N)))} if rough else {}
    start = torch.randn(B, N, dtype=torch.float64, generator=generator)
    return Objective(smooth, {"v": odl.rn(N)}, parts, {"y": y, "w": w}, {"v": curvature}), start


def shorter(objective, state):
    return 0.9 * state.blocks["v"]


UPDATES = {
    "gradient": (ProxGradient(), False),
    "prox": (ProxGradient(), True),
    "inertial": (Inertial(), True),
    "Adam": (Adam(lr=0.1), False),
    "quasi-Newton": (QuasiNewton(), False),
    "limited memory": (LimitedMemory((N,), 3), False),
    "Gauss-Newton": (LevenbergMarquardt(), False),
    "Gauss-Newton by products": (LevenbergMarquardt(dense=1), False),
    "proposals": (Propose([Proposal(shorter, 2)], QuasiNewton()), False),
    "proposals of proposals": (Propose([Proposal(shorter)], Propose([Proposal(shorter)], Adam())), False),
    "proposals alone": (Propose([Proposal(shorter)]), False),
}


class KilledError(Exception):
    """The end of a process."""


@pytest.mark.parametrize("name", UPDATES)
def test_a_run_goes_on_with_the_memory_of_its_update(name, tmp_path, monkeypatch):
    monkeypatch.setattr(resumable, "_SECONDS", 0.0)  # a file after every iteration
    update, rough = UPDATES[name]
    objective, start = problem(rough)

    def solve(**given):
        batch = Batch({"v": start}, dict, True)
        return run(objective, batch, {"v": update}, max_iter=30, tol=1e-7, progress=False, **given)

    def killed(iterate):
        if iterate.iteration == 4:
            raise KilledError

    right = solve()
    file, _ = begin(tmp_path / "run", False, "test", dict)
    if name != "proposals alone":  # which have all stalled by then
        with pytest.raises(KilledError):
            solve(callback=killed, file=file)
    else:
        solve(file=file)
    monkeypatch.undo()
    file, saved = begin(tmp_path / "run", True, "test", dict)
    with debugging():  # which compares with what has been left out of the batch
        found = solve(file=file, saved=saved)
    for part in ("value", "status", "iterations", "operator_calls"):
        assert torch.equal(getattr(found, part), getattr(right, part)), part
    assert torch.equal(found.blocks["v"], right.blocks["v"])
    assert torch.equal(found.history["residual"], right.history["residual"])


def test_a_memory_of_another_kind_is_refused():
    update, start = QuasiNewton(), torch.ones(B, N)
    memory = update.first_memory(start, torch.ones(B))
    assert isinstance(refilled(memory, [memory.matrix]), type(memory))
    for saved in (memory.matrix, [memory.matrix, memory.matrix], [0.5]):
        with pytest.raises(ValueError, match=r"must hold .*: it is that of another version of genreg"):
            refilled(memory, saved)


def test_tensors_are_mapped_in_their_places():
    first = Propose([], Adam()).first_memory(torch.ones(2, 3), torch.ones(2))
    tree = {"a": first, "b": (torch.ones(2), ())}
    doubled = map_tensors(lambda old, new: old + 2 * new + 1, tree, tree)
    assert type(doubled["a"].other) is type(first.other) and doubled["b"][1] == ()
    assert (doubled["a"].other.mean == 1).all() and (doubled["b"][0] == 4).all()
