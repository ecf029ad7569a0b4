"""Where a run of the driver stands: what still runs, what has ended, and all of it as a mapping for a file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from genreg.solvers.checkpoints.state_files import moved
from genreg.solvers.driver.solution import Status
from genreg.solvers.problem.objective import Blocks
from genreg.solvers.problem.state import State
from genreg.solvers.problem.trees import refilled
from genreg.solvers.updates.base import Update


class Record:
    """Results of a whole batch, filled in as samples end, and their history.

    Attributes
    ----------
    blocks : dict of str to Tensor
        ``(B, *shape)``.
    value, residual, status, iterations, calls : Tensor
        ``(B,)``.
    history : dict of str to list of Tensor
        Value and residual of every sample at the start and after every iteration, ``(B,)``; those of a sample that has
        ended stay.
    """

    def __init__(self, blocks: Blocks, value: Tensor) -> None:
        self.blocks = {name: v.clone() for name, v in blocks.items()}
        self.value = value.clone()
        self.residual = torch.full_like(self.value, torch.inf)
        self.status = torch.full_like(self.value, Status.RUNNING, dtype=torch.int64)
        self.iterations = torch.zeros_like(self.status)
        self.calls = torch.ones_like(self.status)
        self.history = {"value": [self.value.clone()], "residual": [self.residual.clone()]}

    def write(self, index: Tensor, state: State, status: Tensor, iterations: Tensor) -> None:
        """Write samples down that have ended."""
        for name, v in state.blocks.items():
            self.blocks[name][index] = v
        self.value[index], self.residual[index] = state.value, state.residual
        self.status[index], self.iterations[index], self.calls[index] = status, iterations, state.calls

    def remember(self, index: Tensor, **now: Tensor) -> None:
        """Add the value and residual of some samples to the history."""
        for name, given in now.items():
            rows = self.history[name]
            rows.append(rows[-1].index_copy(0, index, given))


@dataclass
class Position:
    """Where a run stands between two iterations: all that it needs to go on.

    Attributes
    ----------
    state : State
        The samples that have not been left out.
    record : Record
        The results of the whole batch so far.
    index, iterations, status : Tensor
        Number in the batch, iterations and status of every sample of the state.
    active : Tensor
        The samples that have not ended and been written down.
    best : State or None
        The iterates with the smallest objective, where it may increase.
    iteration : int
        Iterations of the loop, those without an accepted trial among them.
    """

    state: State
    record: Record
    index: Tensor
    iterations: Tensor
    status: Tensor
    active: Tensor
    best: State | None
    iteration: int = 0

    @classmethod
    def start(cls, state: State, max_iter: int, *, monotone: bool) -> Position:
        """Return where a run begins: no iterations yet, and no sample has been written down."""
        status = torch.where(torch.isfinite(state.value), Status.RUNNING, Status.NON_FINITE)
        if max_iter == 0:
            status = torch.where(status == Status.RUNNING, Status.MAX_ITER, status)
        index = torch.arange(len(status), device=status.device)
        active = torch.ones_like(status, dtype=torch.bool)
        record = Record(state.blocks, state.value)
        best = None if monotone else _result_of(state)
        return cls(state, record, index, torch.zeros_like(index), status, active, best)

    def write_ended(self) -> Tensor:
        """Write down the samples that have ended since the last iteration; return which still run."""
        running = self.status == Status.RUNNING
        if (ended := self.active & ~running).any():
            at = ended.nonzero().squeeze(1)
            result = self.state.take(at)
            if self.best is not None:
                kept = replace(self.best.take(at), calls=result.calls)
                result = _result_of(result).where(self.status[at] == Status.CONVERGED, kept)
            self.record.write(self.index[at], result, self.status[at], self.iterations[at])
        self.active = running
        return running

    def leave_out_ended(self) -> Tensor:
        """Keep only the samples that run; return where they were."""
        at = self.active.nonzero().squeeze(1)
        self.state, self.best = self.state.take(at), None if self.best is None else self.best.take(at)
        self.index, self.iterations, self.status = self.index[at], self.iterations[at], self.status[at]
        self.active = self.active[at]
        return at

    def advance(self, state: State) -> None:
        """Go on to the state after an iteration, in which samples that have ended stay where they are."""
        if not self.active.all():
            state = state.where(self.active, self.state)
        self.state = state
        if self.best is not None:
            self.best = _result_of(state).where(state.value <= self.best.value, self.best)
        self.iteration += 1
        self.iterations = self.iterations + (self.active & (state.idle == 0))
        self.record.remember(self.index, value=state.value, residual=state.residual)

    def snapshot(self) -> dict[str, Any]:
        """What a file keeps."""
        return {
            f.name: vars(value) if isinstance(value := getattr(self, f.name), State | Record) else value
            for f in fields(self)
        }

    @classmethod
    def restored(
        cls, saved: Mapping[str, Any], updates: Mapping[str, Update], device: torch.device
    ) -> Position:
        """Undo `snapshot`, for a run with these updates.

        Raises
        ------
        ValueError
            If their memories are of other types than what was saved.
        """
        found = moved(saved, device)
        record = Record.__new__(Record)
        vars(record).update(found["record"])
        state = State(**found["state"])
        memory = {  # the first memories of one sample: a file knows no types
            name: update.first_memory(state.gradients[name][:1], state.lengths[name][:1])
            for name, update in updates.items()
        }
        state = replace(state, memory=refilled(memory, state.memory))
        best = None if found["best"] is None else State(**found["best"])
        return cls(**{**found, "state": state, "record": record, "best": best})


def _result_of(state: State) -> State:
    """Return what a result needs of a state."""
    return replace(state, gradients={}, steps={}, memory={}, rejections={})
