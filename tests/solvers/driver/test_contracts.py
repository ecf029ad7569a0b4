"""The debug mode: every solver passes, every kind of cheating is caught, and it costs nothing when off."""

from dataclasses import dataclass, field, replace

import odl
import pytest
import torch

from genreg.operators import NetworkOperator, to_torch
from genreg.operators.bridge.caller_data import to_batch
from genreg.solvers import (
    Adam,
    Objective,
    ProxGradient,
    QuasiNewton,
    alternating_gradient_descent,
    debugging,
    gradient_descent,
    ipalm,
    lbfgs,
    palm,
    projected_gradient,
    quasi_newton,
)
from genreg.solvers.driver.contracts import is_debugging
from genreg.solvers.driver.loop import run
from genreg.solvers.driver.position import Record
from genreg.solvers.updates.base import Update

B, M, N, K = 5, 8, 10, 3


def latent(dtype):
    """½‖A tanh(W z) - y‖² w + ‖z‖² for samples of very different weight w."""
    A, W = torch.randn(M, N, dtype=dtype), torch.randn(N, K, dtype=dtype)
    per_sample = {"y": torch.randn(B, M, dtype=dtype), "w": torch.logspace(-3, 2, B, dtype=dtype)}

    def smooth(blocks, y, w):
        z = blocks["z"]
        return 0.5 * w * ((z @ W.T).tanh() @ A.T - y).square().sum(1) + z.square().sum(1)

    space = odl.rn(K, dtype=str(dtype).removeprefix("torch."))
    return Objective(smooth, {"z": space}, per_sample=per_sample, lengths={"z": 1.0}), {
        "z": torch.randn(B, K, dtype=dtype)
    }


def deviation(dtype, rough):
    """½‖A (u + tanh(W z)) - y‖² w + ‖z‖² + ‖u‖₁, the last in place of ‖u‖² where it is rough."""
    A, W = torch.randn(M, N, dtype=dtype), torch.randn(N, K, dtype=dtype)
    per_sample = {"y": torch.randn(B, M, dtype=dtype), "w": torch.logspace(-3, 2, B, dtype=dtype)}

    def smooth(blocks, y, w):
        u, z = blocks["u"], blocks["z"]
        ridge = 0.0 if rough else u.square().sum(1)
        r = (u + (z @ W.T).tanh()) @ A.T - y
        return 0.5 * w * r.square().sum(1) + z.square().sum(1) + ridge

    name = str(dtype).removeprefix("torch.")
    U = odl.uniform_discr(0, N / 2, N, dtype=name)
    parts = {"u": to_torch(odl.functionals.L1Norm(U))} if rough else {}
    start = {"u": torch.zeros(B, N, dtype=dtype), "z": torch.randn(B, K, dtype=dtype)}
    spaces, units = {"u": U, "z": odl.rn(K, dtype=name)}, {"u": 1.0, "z": 1.0}
    return Objective(smooth, spaces, parts, per_sample, lengths=units), start


SOLVERS = {
    "gradient_descent": (gradient_descent, latent, {}),
    "Adam": (palm, lambda d: deviation(d, True), {"updates": {"z": Adam(lr=0.3)}}),
    "quasi_newton": (quasi_newton, latent, {}),
    "alternating": (alternating_gradient_descent, lambda d: deviation(d, False), {}),
    "lbfgs": (lbfgs, lambda d: deviation(d, False), {}),
    "palm": (palm, lambda d: deviation(d, True), {}),
    "ipalm and quasi-Newton": (ipalm, lambda d: deviation(d, True), {"updates": {"z": QuasiNewton()}}),
    "ipalm": (ipalm, lambda d: deviation(d, True), {}),
}


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_every_solver_passes_and_goes_the_same_way(name, dtype):
    solver, make, options = SOLVERS[name]
    objective, start = make(dtype)
    plain = solver(objective, start, max_iter=15, tol=0.1, progress=False, **options)
    with debugging():
        checked = solver(objective, start, max_iter=15, tol=0.1, progress=False, **options)
    assert len(set(plain.iterations.tolist())) > 1 or name == "Adam"  # samples ended at different times
    assert torch.equal(checked.value, plain.value) and torch.equal(checked.status, plain.status)
    assert torch.equal(checked.operator_calls, plain.operator_calls)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_projected_gradient_passes(dtype):
    net = torch.nn.Sequential(torch.nn.Linear(K, N), torch.nn.Tanh()).to(getattr(torch, dtype))
    G = NetworkOperator(net, odl.rn(K, dtype=dtype), odl.rn(N, dtype=dtype))
    A = odl.MatrixOperator(torch.randn(M, N, dtype=getattr(torch, dtype)).numpy(), G.range)
    y = torch.randn(3, M, dtype=getattr(torch, dtype))
    with debugging():
        solution = projected_gradient(A, y, G, max_iter=5, inner_iterations=5, progress=False)
    assert (solution.history["value"].diff(dim=0) <= 1e-5).all()


@dataclass(frozen=True)
class Cheat(Update):
    """A gradient step after which `spoil` changes the state; it remembers the samples' numbers and counts turns."""

    spoil: object
    sound: ProxGradient = field(default_factory=ProxGradient)

    @property
    def line_search(self):
        return self.sound.line_search

    def first_step(self, gradient, reach):
        return self.sound.first_step(gradient, reach)

    def first_memory(self, gradient, reach):
        numbers = torch.arange(len(gradient), dtype=gradient.dtype)
        return numbers, torch.zeros_like(numbers)

    def __call__(self, objective, state, block):
        number, turn = state.memory[block]
        after = self.spoil(objective, state, self.sound(objective, state, block), number, int(turn.max()) + 1)
        return replace(after, memory={block: (number, turn + 1)})


class Declared(Cheat):
    monotone = False


def climbs(objective, before, after, number, turn):
    """Sample 2 leaps off at the third turn."""
    z = after.blocks["z"] * (1 + 20 * (number == 2) * (turn == 3))[:, None]
    smooth, gradients = objective.value_and_gradient({"z": z})
    return replace(after, blocks={"z": z}, smooth=smooth, gradients=gradients)


def flatters(objective, before, after, number, turn):
    return replace(after, smooth=torch.where(number == 4, after.smooth * (1 - 1e-6), after.smooth))


def forgets_the_gradient(objective, before, after, number, turn):
    return replace(after, gradients=before.gradients)


def drifts(objective, before, after, number, turn):
    """Blocks are moved in place, where the state before has them too."""
    if turn == 12:
        before.blocks["z"][number == 0] += 0.5
    return after


def becomes_nan(objective, before, after, number, turn):
    return replace(after, smooth=torch.where(number == 1, torch.nan, after.smooth))


def solve(update, tol=0.0, max_iter=20):
    objective, start = latent(torch.float64)
    return run(
        objective,
        to_batch(start, objective.spaces),
        {"z": update},
        max_iter=max_iter,
        tol=tol,
        progress=False,
    )


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (climbs, r"sample 2, iteration 3, update of 'z' by Cheat: the objective rose from [\d.]+ to [\d.]+$"),
        (
            flatters,
            r"sample 4, iteration 1, update of 'z' by Cheat: H is [\d.]+ in the state but [\d.]+ at its blocks",
        ),
        (
            forgets_the_gradient,
            r"sample 0, iteration 1, update of 'z' by Cheat: the gradient in 'z', of norm [\d.]+ in the",
        ),
        (
            becomes_nan,
            r"sample 1, iteration 1, update of 'z' by Cheat: the objective rose from [\d.]+ to nan",
        ),
    ],
)
def test_cheating_is_caught(spoil, message):
    solve(Cheat(spoil))  # unnoticed
    with debugging(), pytest.raises(AssertionError, match=message) as caught:
        solve(Cheat(spoil))
    words = str(caught.value).split()
    if spoil is climbs:
        assert float(words[-3]) < float(words[-1])
    if spoil is flatters:
        assert (
            abs(float(words[words.index("H") + 2]) / float(words[words.index("but") + 1]) - (1 - 1e-6))
            < 1e-12
        )


def test_what_has_ended_must_not_change():
    """Sample 0 starts at its minimum and ends at once; the others run on, so that it stays in the batch."""

    def smooth(blocks, target):
        return 1 + ((blocks["z"] - target).square() * torch.tensor([1.0, 30.0, 900.0])).sum(1)

    target = torch.randn(B, K, dtype=torch.float64)
    objective = Objective(smooth, {"z": odl.rn(K)}, per_sample={"target": target}, lengths={"z": 1.0})
    start = torch.zeros(B, K, dtype=torch.float64)
    start[0] = target[0]

    def solve():
        batch = to_batch(start, objective.spaces)
        return run(objective, batch, {"z": Cheat(drifts)}, max_iter=30, tol=1e-9, progress=False)

    plain = solve()
    assert plain.iterations[0] < 12 < plain.iterations[1:].min()
    message = (
        r"sample 0, iteration 12, update of 'z' by Cheat: block 'z' of a sample that has ended changed from "
    )
    with debugging(), pytest.raises(AssertionError, match=message):
        solve()


def test_results_of_ended_samples_must_not_change(monkeypatch):
    """An update with a hand on the results of the run: sample 0 ends at once, sample 4 runs on."""
    results = []

    class Seen(Record):
        def __init__(self, *given):
            super().__init__(*given)
            results.append(self.blocks["z"])

    monkeypatch.setattr("genreg.solvers.driver.position.Record", Seen)
    objective, start = latent(torch.float64)
    exact = gradient_descent(objective, start, max_iter=2000, tol=1e-8, progress=False).blocks["z"]
    start["z"][0] = exact[0]

    def meddles(sample):
        def spoil(objective, before, after, number, turn):
            if turn == 5:
                results[-1][sample, 1] = 7.0
            return after

        return spoil

    def solve(sample):
        batch = to_batch(start, objective.spaces)
        return run(objective, batch, {"z": Cheat(meddles(sample))}, max_iter=8, tol=1e-6, progress=False)

    assert solve(0).iterations[0] < 5
    message = r"sample 0, iteration 5, update of 'z' by Cheat: the result 'z' .* changed from .* to 7.0"
    with debugging():
        solve(4)
        with pytest.raises(AssertionError, match=message):
            solve(0)


def test_declared_updates_may_climb_but_not_cheat():
    with debugging():
        solution = solve(Declared(climbs))
        assert (solution.history["value"].diff(dim=0)[:, 2] > 0).any()
        assert torch.equal(solution.value, solution.history["value"].amin(0))
        with pytest.raises(AssertionError, match=r"sample 4, .* H is .* at its blocks"):
            solve(Declared(flatters))


def test_costs_nothing_when_off_and_ends_with_the_block():
    objective, start = latent(torch.float64)
    calls = []

    def counted(blocks, **per_sample):
        calls.append(1)
        return objective.smooth(blocks, **per_sample)

    def evaluations():
        calls.clear()
        solution = gradient_descent(
            replace(objective, smooth=counted), start, max_iter=20, tol=0.0, progress=False
        )
        return len(calls), len(solution.history["value"])

    calls_off, turns = evaluations()
    assert calls_off == turns
    with pytest.raises(RuntimeError, match="inside"), debugging():
        assert is_debugging()
        with debugging():
            pass
        assert is_debugging()
        assert evaluations() == (2 * turns - 1, turns)
        raise RuntimeError("inside")
    assert not is_debugging() and evaluations() == (calls_off, turns)
