"""Where a run of the driver stands: what still runs, what has ended, and all of it as a mapping for a file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from genreg.solvers.checkpoints.state_files import moved
from genreg.solvers.driver.solution import Status
from genreg.solvers.problem.state import State

__all__ = ["Position", "result_of"]


class _Record:
    """Results of the whole batch, filled in as samples end, and their history."""

    def __init__(self, state: State) -> None:
        self.blocks = {name: v.clone() for name, v in state.blocks.items()}
        self.value = state.value.clone()
        self.residual = torch.full_like(self.value, torch.inf)
        self.status = torch.full_like(self.value, Status.RUNNING, dtype=torch.int64)
        self.iterations = torch.zeros_like(self.status)
        self.calls = torch.ones_like(self.status)
        self.values = [self.value.clone()]
        self.residuals = [self.residual.clone()]

    def write(self, index: Tensor, state: State, status: Tensor, iterations: Tensor) -> None:
        for name, v in state.blocks.items():
            self.blocks[name][index] = v
        self.value[index], self.residual[index] = state.value, state.residual
        self.status[index], self.iterations[index], self.calls[index] = status, iterations, state.calls

    def remember(self, index: Tensor, state: State) -> None:
        value, residual = self.values[-1].clone(), self.residuals[-1].clone()
        value[index], residual[index] = state.value, state.residual
        self.values.append(value)
        self.residuals.append(residual)


@dataclass
class Position:
    """Where a run stands between two iterations: all that it needs to go on.

    Attributes
    ----------
    state : State
        The samples that have not been left out.
    record : _Record
        The results of the whole batch so far.
    index, iterations, status : Tensor
        Number in the batch, iterations and status of every sample of the state.
    active : Tensor
        The samples that have not ended and been written down.
    best : State or None
        The iterates with the smallest objective, where it may rise.
    trips : int
        Iterations of the loop.
    """

    state: State
    record: _Record
    index: Tensor
    iterations: Tensor
    status: Tensor
    active: Tensor
    best: State | None
    trips: int = 0

    @classmethod
    def start(cls, state: State, best: State | None, max_iter: int) -> Position:
        """Return where a run begins: no iterations yet, and no sample has been written down."""
        status = torch.where(torch.isfinite(state.value), Status.RUNNING, Status.NON_FINITE)
        if max_iter == 0:
            status = torch.where(status == Status.RUNNING, Status.MAX_ITER, status)
        index = torch.arange(len(status), device=status.device)
        active = torch.ones_like(status, dtype=torch.bool)
        return cls(state, _Record(state), index, torch.zeros_like(index), status, active, best)

    def write_ended(self) -> None:
        """Write down the samples that have ended since the last iteration."""
        if not (ended := self.active & (self.status != Status.RUNNING)).any():
            return
        at = ended.nonzero().squeeze(1)
        result = self.state.take(at)
        if self.best is not None:
            kept = replace(self.best.take(at), calls=result.calls)
            result = result_of(result).where(self.status[at] == Status.CONVERGED, kept)
        self.record.write(self.index[at], result, self.status[at], self.iterations[at])

    def keep(self, at: Tensor) -> None:
        """Leave all samples out but those at `at`."""
        self.state, self.best = self.state.take(at), None if self.best is None else self.best.take(at)
        self.index, self.iterations, self.status = self.index[at], self.iterations[at], self.status[at]

    def snapshot(self) -> dict[str, Any]:
        """What a file keeps."""
        return {
            f.name: vars(value) if isinstance(value := getattr(self, f.name), State | _Record) else value
            for f in fields(self)
        }

    @classmethod
    def restored(cls, saved: Mapping[str, Any], device: torch.device) -> Position:
        """Undo `snapshot`."""
        found = moved(saved, device)
        record = _Record.__new__(_Record)
        vars(record).update(found["record"])
        best = None if found["best"] is None else State(**found["best"])
        return cls(**{**found, "state": State(**found["state"]), "record": record, "best": best})


def result_of(state: State) -> State:
    """Return what a result needs of a state."""
    return replace(state, gradients={}, steps={}, memory={}, rejections={})
