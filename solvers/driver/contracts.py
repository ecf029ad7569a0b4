"""The debug mode of the driver: assertions, for every sample, on what an update has done to the state.

`debugging` switches it on for the solvers called inside its ``with`` block::

    with genreg.solvers.debugging():
        genreg.reconstruct(A, y, regulariser, noise_std=0.05)

Every turn then costs one more evaluation of the objective with its gradient. Outside it nothing is checked and
nothing is evaluated.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

from genreg.operators.linear.conjugate_gradient import inner
from genreg.solvers.problem.objective import Blocks, Objective
from genreg.solvers.problem.state import State
from genreg.solvers.updates.base import Update, is_monotone

__all__ = ["Checks", "debugging", "is_debugging"]

_DEBUGGING: ContextVar[bool] = ContextVar("debugging", default=False)


@contextmanager
def debugging() -> Iterator[None]:
    r"""Check every turn of the block solvers inside a ``with`` block.

    After every turn of an update, for every sample that runs:

    * the objective has not risen, up to rounding: (2 c + 10) ε (\|H\| + Σ \|g_i\|), with ε the unit of rounding
      and c the slack of the line search. Updates with ``monotone = False`` are exempt, such as `Adam`;
    * H, the g_i and the gradients of the state are those at its blocks, to half of the digits: evaluations in
      batches of different sizes differ by rounding;
    * the blocks of samples that have ended are, bit by bit, what they were, in the state and in the results.

    The switch is a context variable: it holds for this thread or task only. `pdhg` and `conjugate_gradient` have
    loops of their own and are not checked.

    Raises
    ------
    AssertionError
        At the first turn that fails, with the sample, the iteration, the update and both values.
    """
    token = _DEBUGGING.set(True)
    try:
        yield
    finally:
        _DEBUGGING.reset(token)


def is_debugging() -> bool:
    """Whether this is inside a ``with debugging()``."""
    return _DEBUGGING.get()


class Checks:
    """What is checked during one run, see `debugging`.

    Parameters
    ----------
    state : State
        At the start.
    recorded : dict of str to Tensor
        The results of the whole batch, which are filled in as samples end.
    """

    def __init__(self, state: State, recorded: Blocks) -> None:
        self.recorded = recorded
        self.written = {name: v.clone() for name, v in recorded.items()}
        self.left = {name: v.clone() for name, v in state.blocks.items()}
        self.ended = torch.zeros_like(state.smooth, dtype=torch.bool)
        self.magnitude = _magnitude(state)
        self.steepness = {name: _norm(g) for name, g in state.gradients.items()}

    def end(self, samples: Tensor, state: State) -> None:
        """Remember samples that have just been written to the results, and where they stood."""
        self.ended[samples] = True
        for name, v in state.blocks.items():
            self.written[name][samples] = self.recorded[name][samples]
            self.left[name][samples] = v

    def turn(
        self,
        objective: Objective,
        before: State,
        after: State,
        block: str,
        update: Update,
        *,
        start: State,
        samples: Tensor,
        running: Tensor,
        iteration: int,
    ) -> None:
        """Check one turn.

        Parameters
        ----------
        objective : Objective
            For the samples of the states.
        before, after : State
            Before and after the turn.
        block, update
            The block and what moved it.
        start : State
            At the start of the iteration: samples that have ended return to it.
        samples, running : Tensor
            Numbers of the samples in the batch, and which of them have not ended, ``(b,)``.
        iteration : int
            Number of the iteration, from 1.
        """
        label = f"iteration {iteration}, update of {block!r} by {type(update).__name__}"
        self._rest(start.blocks, samples, running, label)

        units = torch.finfo(after.smooth.dtype).eps * (2 * update.line_search.slack + 10)
        if is_monotone(update):
            d = after.blocks[block] - before.blocks[block]
            slope, end = (inner(state.gradients[block], d) for state in (before, after))
            equal = update.line_search.equal(before.smooth, after.smooth, slope, end - slope)
            rounding = torch.where(equal, (after.smooth - before.smooth).abs(), 0)
            highest = before.value + units * _magnitude(before) + rounding
            _require(
                ~running | (after.value <= highest),
                samples,
                label,
                "the objective rose from {} to {}",
                before.value,
                after.value,
            )

        half = torch.finfo(after.smooth.dtype).eps ** 0.5
        smooth, gradients = objective.value_and_gradient(after.blocks)
        parts = {name: g(after.blocks[name]) for name, g in objective.proximable.items()}
        largest = self.magnitude[samples].maximum(_magnitude(after))
        self.magnitude[samples] = torch.where(running, largest, self.magnitude[samples])
        pairs = {"H": (after.smooth, smooth)}
        pairs |= {
            f"the proximable part of {name!r}": (after.proximable[name], g) for name, g in parts.items()
        }
        for what, (stored, fresh) in pairs.items():
            right = (stored - fresh).abs() <= half * largest
            fault = f"{what} is {{}} in the state but {{}} at its blocks"
            _require(~running | right, samples, label, fault, stored, fresh)
        for name, fresh in gradients.items():
            stored = after.gradients[name]
            steepest = self.steepness[name][samples].maximum(_norm(fresh))
            self.steepness[name][samples] = torch.where(running, steepest, self.steepness[name][samples])
            size = _norm(after.blocks[name]) + after.lengths.get(name, 0)
            scale = steepest + torch.where(size > 0, largest / size, 0)
            right = _norm(stored - fresh) <= half * scale
            fault = f"the gradient in {name!r}, of norm {{}} in the state, is not that at its blocks, of norm {{}}"
            _require(~running | right, samples, label, fault, _norm(stored), _norm(fresh))

    def iteration(
        self, state: State, updates: Mapping[str, Update], *, samples: Tensor, running: Tensor, iteration: int
    ) -> None:
        """Check after all turns of an iteration that samples that have ended are as they were."""
        names = ", ".join(f"{block!r} by {type(update).__name__}" for block, update in updates.items())
        label = f"iteration {iteration}, updates of {names}"
        self._rest(state.blocks, samples, running, label)
        everything = torch.arange(len(self.ended), device=self.ended.device)
        for name, written in self.written.items():
            fault = f"the result {name!r} of a sample that has ended changed from {{}} to {{}}"
            _same(self.recorded[name], written, self.ended, everything, label, fault)

    def _rest(self, blocks: Blocks, samples: Tensor, running: Tensor, label: str) -> None:
        for name, v in blocks.items():
            fault = f"block {name!r} of a sample that has ended changed from {{}} to {{}}"
            _same(v, self.left[name][samples], ~running, samples, label, fault)


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
