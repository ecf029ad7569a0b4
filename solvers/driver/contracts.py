"""The debug mode of the driver: assertions, for every sample, on what an update has done to the state.

The checks are wrapped around the updates of a run, so that the loop does not know of them. `debugging` switches them
on for the solvers called inside its ``with`` block::

    with genreg.solvers.debugging():
        genreg.reconstruct(A, y, regulariser, noise_std=0.05)

Every update then costs one more evaluation of the objective with its gradient. Outside it nothing is checked and
nothing is evaluated.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

from genreg.operators.linear.conjugate_gradient import inner
from genreg.solvers.driver.position import Position
from genreg.solvers.driver.solution import Status
from genreg.solvers.problem.objective import Objective
from genreg.solvers.problem.state import State
from genreg.solvers.updates.base import Update

Move = Callable[[Objective, State, str], State]
"""What the loop does with an update: a trial of all samples in one block."""

_DEBUGGING: ContextVar[bool] = ContextVar("debugging", default=False)


@contextmanager
def debugging() -> Iterator[None]:
    r"""Check every update of the block solvers inside a ``with`` block.

    After every update of a block, for every sample that runs:

    * the objective has not increased, up to rounding: (2 c + 10) ε (\|H\| + Σ \|g_i\|), with ε the unit of rounding
      and c the slack of the line search. Updates with ``monotone = False`` are exempt, such as `Adam`;
    * H, the g_i and the gradients of the state are those at its blocks, to half of the digits: evaluations in
      batches of different sizes differ by rounding;
    * the blocks of samples that have ended are, bit by bit, what they were, in the state and in the results.

    The switch is a context variable: it holds for this thread or task only. `pdhg` and `conjugate_gradient` have
    loops of their own and are not checked.

    Raises
    ------
    AssertionError
        At the first update that fails, with the sample, the iteration, the update and both values.
    """
    token = _DEBUGGING.set(True)
    try:
        yield
    finally:
        _DEBUGGING.reset(token)


def is_debugging() -> bool:
    """Whether this is inside a ``with debugging()``."""
    return _DEBUGGING.get()


def checked(updates: Mapping[str, Update], now: Position) -> dict[str, Move]:
    """The updates of a run: as they are, or inside `debugging` each with checks after it.

    Parameters
    ----------
    updates : dict of str to Update
        The updates of all blocks.
    now : Position
        Where the run stands, which changes as it goes on.
    """
    if not is_debugging():
        return dict(updates)
    checks = _Checks(now)
    return {block: functools.partial(checks.move, update) for block, update in updates.items()}


class _Checks:
    """What is checked when the updates of one run move their blocks, see `debugging`.

    Attributes
    ----------
    left, written : dict of str to Tensor
        Where the samples that have ended stood, and what was written to the results, both for the whole batch.
    ended : Tensor
        Which samples these are, ``(B,)``.
    magnitude, steepness
        Largest |H| + Σ |g_i| and ‖∇H‖ so far of every sample, ``(B,)``, which differences are compared with.
    """

    def __init__(self, now: Position) -> None:
        self.now = now
        self.left = {name: v.clone() for name, v in now.record.blocks.items()}
        self.written = {name: v.clone() for name, v in now.record.blocks.items()}
        self.ended = torch.zeros_like(now.record.status, dtype=torch.bool)
        self.magnitude = torch.zeros_like(now.record.value)
        self.magnitude[now.index] = _magnitude(now.state)
        self.steepness = {name: torch.zeros_like(now.record.value) for name in now.state.gradients}
        for name, g in now.state.gradients.items():
            self.steepness[name][now.index] = _norm(g)

    def move(self, update: Update, objective: Objective, before: State, block: str) -> State:
        """Return the state after the update, checked."""
        self._note_ended()
        after = update(objective, before, block)
        label = f"iteration {self.now.iteration + 1}, update of {block!r} by {type(update).__name__}"
        self._rests(label)
        units = torch.finfo(after.smooth.dtype).eps * (2 * update.line_search.slack + 10)
        if update.monotone:
            self._falls(update, before, after, block, units, label)
        self._fits(objective, after, label)
        return after

    def _note_ended(self) -> None:
        """Remember samples that have been written to the results since the last update, and where they stand."""
        now, samples = self.now, self.now.index
        fresh = (now.record.status != Status.RUNNING) & ~self.ended
        there = fresh[samples]
        for name, v in now.record.blocks.items():
            self.written[name][fresh] = v[fresh]
            self.left[name][samples[there]] = now.state.blocks[name][there]
        self.ended = self.ended | fresh

    def _rests(self, label: str) -> None:
        """Check that samples that have ended are as they were, in the state and in the results."""
        now, everything = self.now, torch.arange(len(self.ended), device=self.ended.device)
        for name, v in now.state.blocks.items():
            fault = f"block {name!r} of a sample that has ended changed from {{}} to {{}}"
            _same(v, self.left[name][now.index], ~now.active, now.index, label, fault)
        for name, written in self.written.items():
            fault = f"the result {name!r} of a sample that has ended changed from {{}} to {{}}"
            _same(now.record.blocks[name], written, self.ended, everything, label, fault)

    def _falls(
        self, update: Update, before: State, after: State, block: str, units: float, label: str
    ) -> None:
        """Check that the objective has not increased, but for rounding."""
        d = after.blocks[block] - before.blocks[block]
        slope, end = (inner(state.gradients[block], d) for state in (before, after))
        equal = update.line_search.equal(before.smooth, after.smooth, slope, end - slope)
        rounding = torch.where(equal, (after.smooth - before.smooth).abs(), 0)
        highest = before.value + units * _magnitude(before) + rounding
        self._require(
            after.value <= highest, label, "the objective rose from {} to {}", before.value, after.value
        )

    def _fits(self, objective: Objective, after: State, label: str) -> None:
        """Check that H, the g_i and the gradients of the state are those at its blocks."""
        samples, running = self.now.index, self.now.active
        half = torch.finfo(after.smooth.dtype).eps ** 0.5
        smooth, gradients = objective.value_and_gradient(after.blocks)
        largest = self.magnitude[samples].maximum(_magnitude(after))
        self.magnitude[samples] = torch.where(running, largest, self.magnitude[samples])
        pairs = {"H": (after.smooth, smooth)}
        for name, g in objective.proximable.items():
            pairs[f"the proximable part of {name!r}"] = (after.proximable[name], g(after.blocks[name]))
        for what, (stored, fresh) in pairs.items():
            fault = f"{what} is {{}} in the state but {{}} at its blocks"
            self._require((stored - fresh).abs() <= half * largest, label, fault, stored, fresh)
        for name, fresh in gradients.items():
            stored = after.gradients[name]
            steepest = self.steepness[name][samples].maximum(_norm(fresh))
            self.steepness[name][samples] = torch.where(running, steepest, self.steepness[name][samples])
            size = _norm(after.blocks[name]) + after.lengths.get(name, 0)
            scale = steepest + torch.where(size > 0, largest / size, 0)
            right = _norm(stored - fresh) <= half * scale
            fault = f"the gradient in {name!r}, of norm {{}} in the state, is not that at its blocks, of norm {{}}"
            self._require(right, label, fault, _norm(stored), _norm(fresh))

    def _require(self, right: Tensor, label: str, fault: str, first: Tensor, second: Tensor) -> None:
        """Fail for the first running sample that is not right."""
        _require(~self.now.active | right, self.now.index, label, fault, first, second)


def _magnitude(state: State) -> Tensor:
    """|H| + Σ |g_i|, ``(B,)``: what rounding is measured in."""
    return sum((g.abs() for g in state.proximable.values()), state.smooth.abs())


def _norm(v: Tensor) -> Tensor:
    return inner(v, v).sqrt()


def _same(now: Tensor, then: Tensor, where: Tensor, samples: Tensor, label: str, fault: str) -> None:
    """Fail if samples differ, with the first entry that does."""
    changed = ~((now == then) | (now.isnan() & then.isnan())).flatten(1)
    if not (changed.any(1) & where).any():
        return
    entry = changed.int().argmax(1, keepdim=True)
    was, is_now = (t.flatten(1).gather(1, entry)[:, 0] for t in (then, now))
    _require(~(changed.any(1) & where), samples, label, fault, was, is_now)


def _require(right: Tensor, samples: Tensor, label: str, fault: str, first: Tensor, second: Tensor) -> None:
    """Fail for the first sample that is not right; `fault` has places for both values."""
    if right.all():
        return
    k = int((~right).int().argmax())
    raise AssertionError(
        f"sample {int(samples[k])}, {label}: {fault.format(first[k].item(), second[k].item())}"
    )
