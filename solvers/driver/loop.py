"""The one loop of the block solvers: it owns the stopping, the callbacks, the history and the shrinking batch."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from genreg.operators.bridge.arguments import check_callable, integer, number
from genreg.operators.bridge.door import Door
from genreg.solvers.checkpoints import StateFile, saving
from genreg.solvers.driver.contracts import Checks, is_debugging, is_monotone
from genreg.solvers.driver.position import Position, result_of
from genreg.solvers.driver.solution import Solution, Status
from genreg.solvers.problem.objective import Blocks, Objective
from genreg.solvers.problem.state import State, evaluate, starting_lengths
from genreg.solvers.updates.base import Update

__all__ = ["Callback", "Iterate", "check_stopping", "run"]

# A batch is compacted when fewer than this share of its samples still run: copying costs about as much as a step.
_COMPACT_BELOW = 0.75


@dataclass(frozen=True)
class Iterate:
    """What a callback sees after every iteration.

    Attributes
    ----------
    iteration : int
        Number of the iteration, from 1.
    blocks : dict of str to Tensor
        Current iterates of the samples in `samples`.
    value, residual : Tensor
        Objective and residual of those samples.
    samples : Tensor
        Their numbers in the batch; finished samples may have been left out.
    """

    iteration: int
    blocks: Blocks
    value: Tensor
    residual: Tensor
    samples: Tensor


Callback = Callable[[Iterate], Any]
"""Called after every iteration; a true return value ends the run."""


def check_stopping(max_iter: Any, tol: Any, callback: Any = None) -> tuple[int, float]:
    """Return when a run ends, ``max_iter`` and ``tol``.

    Raises
    ------
    TypeError, ValueError
        Unless ``max_iter`` is a non-negative integer, ``tol`` a non-negative, finite number and ``callback`` callable
        or None.
    """
    check_callable(callback, "callback", "of an Iterate")
    return integer(max_iter, "max_iter", minimum=0), number(tol, "tol", minimum=0)


def _start(objective: Objective, blocks: Blocks, updates: Mapping[str, Update]) -> State:
    for name, g in objective.proximable.items():
        outside = ~torch.isfinite(g(blocks[name]))
        if outside.any():  # an indicator: start from the projection
            blocks = {**blocks, name: blocks[name].clone()}
            blocks[name][outside] = g.take(outside).prox(blocks[name][outside], 1.0)
    smooth, gradients, scale, offset = evaluate(objective, blocks)
    found = {name: starting_lengths(objective, blocks, gradients, name, scale) for name in updates}
    reach, lengths = ({name: pair[k] for name, pair in found.items()} for k in (0, 1))
    return State(
        blocks=blocks,
        gradients=gradients,
        smooth=smooth,
        proximable={name: g(blocks[name]) for name, g in objective.proximable.items()},
        steps={name: update.first_step(gradients[name], reach[name]) for name, update in updates.items()},
        memory={name: update.first_memory(gradients[name], reach[name]) for name, update in updates.items()},
        residuals={name: torch.full_like(smooth, torch.inf) for name in updates},
        rejections={name: torch.zeros_like(smooth, dtype=torch.int64) for name in updates},
        calls=torch.full_like(smooth, 1 + len(updates.keys() - objective.lengths.keys()), dtype=torch.int64),
        lengths=lengths,
        offset=offset,
    )


def run(
    objective: Objective,
    door: Door,
    updates: Mapping[str, Update],
    *,
    max_iter: int,
    tol: float,
    callback: Callback | None = None,
    progress: bool = True,
    description: str = "",
    file: StateFile | None = None,
    saved: Mapping[str, Any] | None = None,
) -> Solution:
    """Apply the updates in turn until every sample has ended.

    The result of a sample is its last iterate. If one of the updates lets the objective rise (``monotone`` is
    false), it is the iterate with the smallest objective, unless the last one met the tolerance.

    Parameters
    ----------
    objective : Objective
        The problem.
    door : Door
        Initial blocks, and the way back to the caller's kind of data.
    updates : dict of str to Update
        The block each update moves, in the order of their turns.
    max_iter : int
        Accepted iterations of a sample after which it ends; it also ends when rejected trials have made its turns
        four times as many (and as many more as a step may fail), so that none creeps on while the batch waits.
    tol : float
        A sample has converged when its residual is at most this.
    callback : callable, optional
        See `Callback`.
    progress : bool
        Show a progress bar.
    description : str
        Label of the progress bar.
    file : StateFile, optional
        Where the run is kept, about every minute and at Ctrl-C, so that it can go on.
    saved : mapping, optional
        What was read from there, which the run goes on from, bit for bit.

    Returns
    -------
    Solution
        ``history`` has ``value`` and ``residual`` of the iterates.

    Raises
    ------
    AssertionError
        If an update breaks its contract, see `debugging`, inside which alone this is checked.
    """
    max_iter, tol = check_stopping(max_iter, tol, callback)
    began = time.perf_counter()
    if saved is None:
        state = _start(objective, door.blocks, updates)
        best = None if all(map(is_monotone, updates.values())) else result_of(state)
        now = Position.start(state, best, max_iter)
    else:
        now = Position.restored(saved, next(iter(door.blocks.values())).device)
        objective = objective.take(now.index)
    record = now.record
    checks = Checks(now.state, record.blocks) if is_debugging() else None
    limit = max(update.line_search.max_trials for update in updates.values())
    stopped = False
    bar = tqdm(total=max_iter, desc=description, disable=not progress, leave=False)
    with bar, saving(file, now.snapshot) as done:
        while True:
            now.write_ended()
            running = now.status == Status.RUNNING
            if checks and (ended := now.active & ~running).any():
                checks.end(now.index[ended], now.state.take(ended.nonzero().squeeze(1)))
            if not running.any():
                now.active = running
                if not stopped:  # what a callback has stopped goes on from before that
                    done(now=True)
                break
            if running.float().mean() < _COMPACT_BELOW:
                at = running.nonzero().squeeze(1)
                now.keep(at)
                objective, running = objective.take(at), torch.ones_like(at, dtype=torch.bool)
            now.active = running

            before = state = now.state
            now.trips += 1
            for block, update in updates.items():
                previous, state = state, update(objective, state, block)
                if checks:
                    checks.turn(
                        objective,
                        previous,
                        state,
                        block,
                        update,
                        start=before,
                        samples=now.index,
                        running=running,
                        iteration=now.trips,
                    )
            if not running.all():
                state = state.where(running, before)
            if checks:
                checks.iteration(state, updates, samples=now.index, running=running, iteration=now.trips)
            now.state = state
            if now.best is not None:
                now.best = result_of(state).where(state.value <= now.best.value, now.best)
            now.iterations = now.iterations + (running & (state.idle == 0))
            record.remember(now.index, state)
            judged = _judge(state, now.iterations, max_iter=max_iter, tol=tol, limit=limit)
            now.status = torch.where(running, judged, now.status)
            if now.trips >= 4 * max_iter + limit:
                now.status = torch.where(now.status == Status.RUNNING, Status.MAX_ITER, now.status)

            bar.update(max(int(now.iterations.max()) - bar.n, 0))
            seen = Iterate(now.trips, state.blocks, state.value, state.residual, now.index)
            stopped = bool(callback and callback(seen))
            done(now=stopped)
            if stopped:
                now.status = torch.where(now.status == Status.RUNNING, Status.STOPPED, now.status)

    return Solution(
        blocks=door.leave(record.blocks),
        value=door.per_sample(record.value),
        status=door.per_sample(record.status),
        iterations=door.per_sample(record.iterations),
        operator_calls=door.per_sample(record.calls),
        time=time.perf_counter() - began,
        history={
            "value": door.per_sample(torch.stack(record.values), axis=1),
            "residual": door.per_sample(torch.stack(record.residuals), axis=1),
        },
    )


def _judge(state: State, iterations: Tensor, *, max_iter: int, tol: float, limit: int) -> Tensor:
    """Status of every sample after an iteration."""
    finite = torch.isfinite(state.residual)
    verdict = torch.full_like(iterations, Status.RUNNING)
    verdict[iterations >= max_iter] = Status.MAX_ITER
    verdict[state.idle >= limit] = Status.STALLED
    verdict[(state.idle >= limit) & ~finite] = Status.NON_FINITE
    verdict[finite & (state.residual <= tol)] = Status.CONVERGED
    return verdict
