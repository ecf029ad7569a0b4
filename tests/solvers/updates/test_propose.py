"""Candidates for a block: taken where they lower the objective, counted, and harmless where they are wrong."""

import odl
import pytest
import torch

from genreg.operators import to_torch
from genreg.operators.bridge.caller_data import Batch
from genreg.solvers import (
    Adam,
    Backtracking,
    LevenbergMarquardt,
    Objective,
    Proposal,
    Propose,
    ProxGradient,
    QuasiNewton,
    Status,
    debugging,
)
from genreg.solvers.driver.loop import run

B, K = 5, 3
GRADIENT = ProxGradient(Backtracking(spectral=True))


@pytest.fixture(name="bowls")
def quadratics():
    """½ (v - c)ᵀ D (v - c) + 1 for a centre c of every sample, and the samples' numbers."""
    centre = torch.randn(B, K, dtype=torch.float64)
    D = torch.tensor([1.0, 2.0, 4.0], dtype=torch.float64)

    def smooth(blocks, centre, number):
        return 0.5 * ((blocks["v"] - centre).square() * D).sum(1) + 1

    number = torch.arange(B)
    per_sample = {"centre": centre, "number": number}
    return Objective(smooth, {"v": odl.rn(K)}, per_sample=per_sample, lengths={"v": 1.0}), centre


def solve(objective, update, start=None, **rest):
    start = (
        torch.zeros(len(objective.per_sample["number"]), K, dtype=torch.float64) if start is None else start
    )
    settings = {"max_iter": 100, "tol": 1e-7, "progress": False} | rest
    with debugging():
        return run(objective, Batch({"v": start}, dict, True), {"v": update}, **settings)


def centre_of(objective, state):
    return objective.per_sample["centre"]


def far(objective, state):
    return state.blocks["v"] + 100


def test_a_perfect_candidate_is_taken_at_once(bowls):
    objective, centre = bowls
    solution = solve(objective, Propose([Proposal(centre_of)]))
    assert torch.equal(solution.blocks["v"], centre) and (solution.value == 1).all()
    assert solution.converged.all() and (solution.iterations == 1).all()
    assert (solution.operator_calls == 3).all()  # at the start, and once a turn


def test_without_another_update_a_sample_that_is_not_lowered_has_stalled(bowls):
    objective, centre = bowls

    def some(objective, state):
        good = (objective.per_sample["number"] % 2 == 0)[:, None]
        return torch.where(good, objective.per_sample["centre"], state.blocks["v"] + 100)

    solution = solve(objective, Propose([Proposal(some)]))
    assert solution.status.tolist() == [Status.CONVERGED, Status.STALLED] * 2 + [Status.CONVERGED]
    assert torch.equal(solution.blocks["v"][::2], centre[::2]) and (solution.blocks["v"][1::2] == 0).all()


@pytest.mark.parametrize(
    ("take", "other"), [("first", QuasiNewton()), ("best", QuasiNewton()), ("best", GRADIENT)]
)
@pytest.mark.parametrize("value", ["far", "nan", "here"])
def test_wrong_candidates_do_no_harm(bowls, take, other, value):
    objective, _ = bowls

    def wrong(objective, state):
        v = state.blocks["v"]
        return {"far": v + 100, "nan": v * torch.nan, "here": v}[value]

    solution = solve(objective, Propose([Proposal(wrong)], other, take), max_iter=300)
    plain = solve(objective, other, max_iter=300)
    assert solution.converged.all()
    torch.testing.assert_close(solution.blocks["v"], plain.blocks["v"], rtol=0, atol=0)
    assert torch.equal(solution.iterations, plain.iterations)
    assert (solution.operator_calls == 2 * plain.operator_calls - 1).all()


def test_first_and_best(bowls):
    """Half-way comes first, the centre second, and a gradient step would also do."""
    objective, centre = bowls

    def half(objective, state):
        return 0.5 * (state.blocks["v"] + objective.per_sample["centre"])

    def once(take):
        proposals = [Proposal(half), Proposal(centre_of)]
        return solve(objective, Propose(proposals, ProxGradient(), take), max_iter=1)

    first, best = once("first"), once("best")
    torch.testing.assert_close(first.blocks["v"], centre / 2)
    assert (first.operator_calls == 2).all()  # the second is not tried
    torch.testing.assert_close(best.blocks["v"], centre)
    assert (best.operator_calls == 4).all()


def test_candidates_are_made_where_the_turn_starts(bowls):
    objective, _ = bowls
    seen = []

    def nearer(objective, state):
        seen.append(state.blocks["v"].clone())
        return 0.5 * (state.blocks["v"] + objective.per_sample["centre"])

    solve(objective, Propose([Proposal(nearer), Proposal(nearer)], take="best"), max_iter=1)
    assert len(seen) == 2 and torch.equal(seen[0], seen[1])


def test_turns_are_counted_for_every_sample(bowls):
    objective, _ = bowls
    tried = []

    def noted(objective, state):
        tried.append(objective.per_sample["number"].tolist())
        return state.blocks["v"] + 100

    solve(objective, Propose([Proposal(noted, 3)], ProxGradient()), max_iter=6)
    assert tried == [list(range(B))] * 3


def test_a_jump_starts_the_other_update_anew(bowls):
    """Sample 2 jumps at the second turn; its matrix is then the first one at its new point."""
    objective, _ = bowls
    update = Propose([Proposal(lambda o, s: jump(o, s))], QuasiNewton())
    turns = []

    def jump(objective, state):
        turns.append(1)
        leap = ((objective.per_sample["number"] == 2) & (len(turns) == 2))[:, None]
        return torch.where(leap, objective.per_sample["centre"] + 1e-3, state.blocks["v"] + 100)

    states = []

    class Spy(Propose):
        def __call__(self, objective, state, block):
            states.append(super().__call__(objective, state, block))
            return states[-1]

    solve(objective, Spy(update.proposals, update.otherwise), max_iter=4, tol=0.0)
    memory = states[1].memory["v"]
    fresh = QuasiNewton().first_memory(states[1].gradients["v"], states[1].lengths["v"])
    assert memory.turns.tolist() == [2] * B
    torch.testing.assert_close(memory.other.matrix[2], fresh.matrix[2])
    assert not torch.allclose(memory.other.matrix[1], fresh.matrix[1])


def test_batches_equal_one_sample_at_a_time(bowls):
    objective, _ = bowls

    def uneven(objective, state):
        number = objective.per_sample["number"]
        return state.blocks["v"] + (
            (objective.per_sample["centre"] - state.blocks["v"]) * number[:, None] / 3
        )

    for take in ("first", "best"):
        update = Propose([Proposal(uneven, 2)], GRADIENT, take)
        together = solve(objective, update, max_iter=300)
        for k in (0, 2, 4):
            alone = solve(objective.take(torch.tensor([k])), update, max_iter=300)
            torch.testing.assert_close(alone.blocks["v"][0], together.blocks["v"][k], rtol=0, atol=1e-10)
            assert alone.operator_calls[0] == together.operator_calls[k]


def test_declares_whether_it_falls():
    assert Propose([]).monotone and Propose([], LevenbergMarquardt()).monotone
    assert not Propose([], Adam()).monotone


def test_proximable_blocks_are_refused(bowls):
    objective, _ = bowls
    rough = Objective(
        objective.smooth,
        objective.spaces,
        {"v": to_torch(odl.functionals.L1Norm(odl.rn(K)))},
        objective.per_sample,
    )
    with pytest.raises(NotImplementedError, match="must be differentiable for Propose, got Objective"):
        solve(rough, Propose([Proposal(far)], ProxGradient()))
