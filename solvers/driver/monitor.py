"""What the loops of all solvers share: when a run ends, who watches it, and the `Solution` that it makes."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self, TypedDict

import torch
from torch import Tensor
from tqdm import tqdm

from genreg.operators.bridge.arguments import check_callable, integer, number
from genreg.operators.bridge.caller_data import Batch
from genreg.solvers.driver.solution import Solution, Status
from genreg.solvers.problem.objective import Blocks


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


class Stopping(TypedDict, total=False):
    """When a run ends, and who watches it: what every solver takes.

    Parameters
    ----------
    max_iter : int
        Accepted steps.
    callback : callable, optional
        Called with an `Iterate` after every iteration; a true answer ends the run.
    progress : bool
        Show a progress bar.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type, shape, dtype, device or sign, or is not finite.
    """

    max_iter: int
    tol: float
    callback: Callback | None
    progress: bool


def stopping(keywords: Stopping) -> Stopping:
    """Those of the keywords of a solver that say when it ends and who watches it."""
    return Stopping(
        max_iter=keywords["max_iter"],
        tol=keywords["tol"],
        callback=keywords["callback"],
        progress=keywords["progress"],
    )


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


def ended_as(status: Tensor, reason: Status) -> Tensor:
    """Status of samples of which those that are running end for one reason."""
    return torch.where(status == Status.RUNNING, reason, status)


class Monitor:
    """Judges the samples, shows the progress, asks the callback, and makes the solution.

    As a context it shows the progress bar.

    Parameters
    ----------
    max_iter, tol, callback, progress
        See `Stopping`: a sample has converged when its residual is at most `tol`.
    description : str
        Label of the progress bar.

    Raises
    ------
    TypeError, ValueError
        As `check_stopping`.
    """

    def __init__(
        self, max_iter: int, tol: float, callback: Callback | None, progress: bool, description: str
    ) -> None:
        self.max_iter, self.tol = check_stopping(max_iter, tol, callback)
        self._callback, self._progress, self._description = callback, progress, description
        self._began = time.perf_counter()

    def __enter__(self) -> Self:
        """Show the bar."""
        self._bar = tqdm(total=self.max_iter, desc=self._description, disable=not self._progress, leave=False)
        return self

    def __exit__(self, *error: object) -> None:
        """Remove the bar."""
        self._bar.close()

    def judge(
        self, status: Tensor, residual: Tensor, iterations: Tensor | int, *, stuck: Tensor | None = None
    ) -> Tensor:
        """Status of every sample after an iteration, ``(B,)``; a sample that has ended keeps its own.

        Parameters
        ----------
        status, residual : Tensor
            Status before, and residual, ``(B,)``.
        iterations : Tensor or int
            Iterations taken.
        stuck : Tensor, optional
            Samples that no further step would help.
        """
        finite = torch.isfinite(residual)
        used_up = torch.as_tensor(iterations >= self.max_iter, device=status.device)
        new = torch.where(used_up, Status.MAX_ITER, Status.RUNNING)
        if stuck is not None:
            new = torch.where(stuck, torch.where(finite, Status.STALLED, Status.NON_FINITE), new)
        # The last word: a sample may meet the tolerance in its last iteration, or where no step helps any more.
        new = torch.where(finite & (residual <= self.tol), Status.CONVERGED, new)
        return torch.where(status == Status.RUNNING, new, status)

    def stops(self, iterations: int, iterate: Iterate | None) -> bool:
        """Show how far the run is, and return whether the callback ends it; without one there need be no iterate."""
        self._bar.update(max(iterations - self._bar.n, 0))
        return bool(self._callback and iterate is not None and self._callback(iterate))

    def solution(
        self,
        batch: Batch,
        blocks: Mapping[str, Tensor],
        value: Tensor,
        status: Tensor,
        iterations: Tensor,
        calls: Tensor,
        history: Mapping[str, Sequence[Tensor]],
    ) -> Solution:
        """The solution as the caller's kind of data; histories are lists of ``(B,)``, and empty ones are left out."""
        return Solution(
            blocks=batch.as_given(blocks),
            value=batch.per_sample(value),
            status=batch.per_sample(status),
            iterations=batch.per_sample(iterations),
            operator_calls=batch.per_sample(calls),
            time=time.perf_counter() - self._began,
            history={
                name: batch.per_sample(torch.stack(list(rows)), axis=1)
                for name, rows in history.items()
                if rows
            },
        )
