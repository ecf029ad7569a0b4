"""The one loop of the block solvers: updates in turn, until every sample of the batch has ended."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from genreg.operators.bridge.caller_data import Batch
from genreg.solvers.checkpoints import StateFile, saving
from genreg.solvers.driver.contracts import checked
from genreg.solvers.driver.monitor import Callback, Iterate, Monitor, ended_as
from genreg.solvers.driver.position import Position
from genreg.solvers.driver.solution import Solution, Status
from genreg.solvers.problem.capabilities import check_offers
from genreg.solvers.problem.objective import Blocks, Objective
from genreg.solvers.problem.state import State, evaluate, starting_lengths
from genreg.solvers.updates.base import Update

# A batch is compacted when fewer than this share of its samples still run: copying costs about as much as a step.
_COMPACT_BELOW = 0.75


def run(
    objective: Objective,
    batch: Batch,
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

    The result of a sample is its last iterate. If one of the updates may increase the objective (``monotone``
    is false), it is the iterate with the smallest objective, unless the last one met the tolerance or the objective is
    not what is minimised (``last`` is true).

    Parameters
    ----------
    objective : Objective
        The problem.
    batch : Batch
        Initial blocks, and the way back to the caller's kind of data.
    updates : dict of str to Update
        The block each update moves, in their order.
    max_iter : int
        Accepted iterations of a sample after which it ends; it also ends after four times as many iterations of
        the loop, rejected trials included (and as many more as a step may fail), so that none creeps on while the batch
        waits.
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
    NotImplementedError
        If the objective does not offer what an update needs in its block.
    AssertionError
        If an update breaks its contract, see `debugging`, inside which alone this is checked.
    """
    monitor = Monitor(max_iter, tol, callback, progress, description)
    for block, update in updates.items():
        check_offers(objective, type(update).__name__, *update.needs, blocks=(block,))
    if saved is None:
        state = initial_state(objective, batch.blocks, updates)
        monotone = all(update.monotone or update.last for update in updates.values())
        now = Position.start(state, monitor.max_iter, monotone=monotone)
    else:
        now = Position.restored(saved, updates, next(iter(batch.blocks.values())).device)
        objective = objective.take(now.index)
    patience = max(update.line_search.max_trials for update in updates.values())
    moves = checked(updates, now)
    stopped = False
    with monitor, saving(file, now.snapshot) as done:
        while (running := now.write_ended()).any():
            if running.float().mean() < _COMPACT_BELOW:
                objective = objective.take(now.leave_out_ended())

            # An update moves the whole batch, as leaving single samples out would cost a copy; `advance` puts those
            # that have ended back.
            state = now.state
            for block, move in moves.items():
                state = move(objective, state, block)
            now.advance(state)

            # No step helps a sample any more when each of its blocks has had so many trials rejected in a row.
            stuck = now.state.idle >= patience
            now.status = monitor.judge(now.status, now.state.residual, now.iterations, stuck=stuck)
            if now.iteration >= 4 * monitor.max_iter + patience:
                now.status = ended_as(now.status, Status.MAX_ITER)

            # What a callback stops goes on from a file: it is written while the samples still run, and not again.
            seen = Iterate(now.iteration, now.state.blocks, now.state.value, now.state.residual, now.index)
            stopped = monitor.stops(int(now.iterations.max()), seen)
            done(now=stopped)
            if stopped:
                now.status = ended_as(now.status, Status.STOPPED)
        if not stopped:
            done(now=True)

    end = now.record
    return monitor.solution(batch, end.blocks, end.value, end.status, end.iterations, end.calls, end.history)


def initial_state(objective: Objective, blocks: Blocks, updates: Mapping[str, Update]) -> State:
    """The state in which a run begins; where a proximable part is infinite, from its projection."""
    for name, g in objective.proximable.items():
        outside = ~torch.isfinite(g(blocks[name]))
        if outside.any():
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
