r"""Candidates for a block, taken where they lower the objective of a sample.

A descent method ends in the minimum next to where it starts. A candidate from elsewhere, such as the code of the
present image by a trained encoder, can be far ahead of it; it costs one evaluation to see whether it is.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from genreg.operators.linear.conjugate_gradient import inner
from genreg.solvers.problem.capabilities import Capability
from genreg.solvers.problem.objective import Objective
from genreg.solvers.problem.state import State, relative, where
from genreg.solvers.problem.trees import map_tensors
from genreg.solvers.updates.base import Update
from genreg.solvers.updates.line_search import Backtracking


@dataclass(frozen=True)
class Proposal:
    """A candidate, and for how long it is tried.

    Parameters
    ----------
    candidate : callable
        ``candidate(objective, state) -> (B, *shape)``, new values of the block for every sample.
    turns : int, optional
        Attempts of a sample in which it is tried; by default all.
    """

    candidate: Callable[[Objective, State], Tensor]
    turns: int | None = None


class Attempts(NamedTuple):
    """What `Propose` remembers.

    Attributes
    ----------
    turns : Tensor
        Iterations of a sample so far, ``(B,)``.
    other : NamedTuple
        The memory of the other update, ``()`` without one.
    """

    turns: Tensor
    other: Any


@dataclass(frozen=True)
class Propose(Update):
    """Take candidates that lower the objective, and move by another update where none does.

    The memory of `otherwise` is made anew for a sample that has jumped.

    Parameters
    ----------
    proposals : sequence of Proposal
        The candidates, the preferred one first.
    otherwise : Update, optional
        How a sample moves that no candidate lowers; without it, such a sample stays and has stalled after one
        iteration.
    take : {"first", "best"}
        Take the first candidate that lowers the objective of a sample, or move by `otherwise` as well and take
        the best of all. All candidates are made where the iteration starts.
    """

    proposals: Sequence[Proposal]
    otherwise: Update | None = None
    take: Literal["first", "best"] = "first"

    @property
    def line_search(self) -> Backtracking:
        """That of the other update."""
        return self.otherwise.line_search if self.otherwise else Backtracking(max_trials=1)

    @property
    def monotone(self) -> bool:  # type: ignore[override]  # elsewhere a constant of the class
        """Whether the other update never increases the objective, as the candidates do not."""
        return self.otherwise is None or self.otherwise.monotone

    @property
    def needs(self) -> tuple[Capability, ...]:  # type: ignore[override]  # likewise
        """A block without a proximable part, and what the other update needs."""
        return ("smooth", *(self.otherwise.needs if self.otherwise else ()))

    def first_step(self, gradient: Tensor, reach: Tensor) -> Tensor:
        """First step sizes of the other update, ``(B,)``."""
        if self.otherwise is None:
            return gradient.new_ones(len(gradient))
        return self.otherwise.first_step(gradient, reach)

    def first_memory(self, gradient: Tensor, reach: Tensor) -> Attempts:
        """No iterations yet, and the first memory of the other update."""
        count = torch.zeros(len(gradient), dtype=torch.int64, device=gradient.device)
        return Attempts(count, () if self.otherwise is None else self.otherwise.first_memory(gradient, reach))

    def __call__(self, objective: Objective, state: State, block: str) -> State:
        """One trial of every candidate and of the other update, for the samples that want it."""
        gradient, count = state.gradients[block], state.memory[block].turns
        # The other update finds its own memory where it looks for it; it is wrapped again at the end.
        start = replace(state, memory={**state.memory, block: state.memory[block].other})
        stayed = replace(
            start,
            residuals={
                **start.residuals,
                block: relative(start, block, inner(gradient, gradient).sqrt()),
            },
            rejections={**start.rejections, block: start.rejections[block] + 1},
        )
        settled = torch.zeros_like(count, dtype=torch.bool)
        reached = stayed
        for proposal in self.proposals:
            tried = ~settled if proposal.turns is None else ~settled & (count < proposal.turns)
            # From `stayed`, not from what another candidate has reached: all compete from the same point.
            jumped = _on(tried, stayed, functools.partial(self._jump, proposal, block=block), objective)
            calls = reached.calls + jumped.calls - start.calls
            reached = replace(jumped.where(jumped.smooth < reached.smooth, reached), calls=calls)
            if self.take == "first":
                settled = reached.smooth < start.smooth
        if self.otherwise is not None:
            other, update = ~settled, self.otherwise
            moved = _on(other, start, lambda o, s: update(o, s, block), objective)
            # Where the update fails, its state still counts: it has the smaller step of the next trial.
            better = other & ~((reached.smooth < start.smooth) & (reached.smooth < moved.smooth))
            calls = reached.calls + torch.where(other, moved.calls - start.calls, 0)
            reached = replace(moved.where(better, reached), calls=calls)
        return replace(reached, memory={**reached.memory, block: Attempts(count + 1, reached.memory[block])})

    def _jump(self, proposal: Proposal, objective: Objective, state: State, block: str) -> State:
        """The state after a candidate, where it lowers the objective."""
        point = proposal.candidate(objective, state)
        smooth, gradients = objective.value_and_gradient({**state.blocks, block: point})
        lower = smooth < state.smooth
        steps, memory = state.steps[block], state.memory[block]
        if self.otherwise is not None:
            new = gradients[block], state.lengths[block]
            steps = torch.where(lower, self.otherwise.first_step(*new), steps)
            fresh = self.otherwise.first_memory(*new)
            memory = map_tensors(lambda made, old: where(lower, made, old), fresh, memory)
        return replace(
            state,
            blocks={**state.blocks, block: where(lower, point, state.blocks[block])},
            gradients={name: where(lower, g, state.gradients[name]) for name, g in gradients.items()},
            smooth=torch.where(lower, smooth, state.smooth),
            steps={**state.steps, block: steps},
            memory={**state.memory, block: memory},
            rejections={**state.rejections, block: torch.where(lower, 0, state.rejections[block])},
            calls=state.calls + 1,
        )


def _on(
    mask: Tensor, state: State, change: Callable[[Objective, State], State], objective: Objective
) -> State:
    """Change the samples in a mask only."""
    if bool(mask.all()):
        return change(objective, state)
    index = mask.nonzero().squeeze(1)
    return state.put(index, change(objective.take(index), state.take(index))) if len(index) else state
