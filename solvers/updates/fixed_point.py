r"""Fixed-point iterations :math:`x \leftarrow T(x)` of one block, for what is not the minimum of an objective."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from genreg.operators.linear.conjugate_gradient import inner
from genreg.solvers.problem.capabilities import Capability
from genreg.solvers.problem.denoising import DenoisingProblem
from genreg.solvers.problem.objective import Objective
from genreg.solvers.problem.state import State, where
from genreg.solvers.updates.base import TrialStep, Update
from genreg.solvers.updates.line_search import Backtracking

__all__ = ["FixedPoint"]


class Image(NamedTuple):
    """What `FixedPoint` remembers.

    Attributes
    ----------
    point : Tensor
        T(x), ``(B, *shape)``.
    known : Tensor
        1 where it has been computed, ``(B,)``, in the type of the block.
    """

    point: Tensor
    known: Tensor


@dataclass(frozen=True)
class FixedPoint(Update):
    r"""The step :math:`x \leftarrow T(x)`, every one of which is taken.

    The residual is :math:`\|T(x) - x\| / \|x\|` at the new point. For an averaged T the length of the step never grows;
    a sample whose step is not finite stays where it is, and ends. Nothing says that the objective falls, which is there
    for its gradient only: the result is the last iterate.

    Parameters
    ----------
    iterate : callable
        ``iterate(problem, x, gradient)`` gives T(x), from x and ∇H(x) of the problem, ``(B, *shape)``.
    needs : tuple of str
        What the map needs of the problem.
    """

    iterate: Callable[[DenoisingProblem, Tensor, Tensor], Tensor]
    needs: tuple[Capability, ...] = ("denoiser",)  # type: ignore[misc]  # of an instance here

    monotone: ClassVar[bool] = False
    last: ClassVar[bool] = True

    @property
    def line_search(self) -> Backtracking:
        """A step fails once: the next one would be the same."""
        return Backtracking(max_trials=1, relative=False)

    def first_memory(self, gradient: Tensor, reach: Tensor) -> Image:
        """T has not been computed yet."""
        return Image(torch.zeros_like(gradient), torch.zeros_like(gradient.real.flatten(1)[:, 0]))

    def __call__(self, objective: Objective, state: State, block: str) -> State:
        """One step for every sample."""
        assert isinstance(objective, DenoisingProblem)  # by `needs`
        x, memory = state.blocks[block], state.memory[block]
        point = memory.point
        if not bool(memory.known.all()):
            point = where(memory.known > 0, point, self.iterate(objective, x, state.gradients[block]))
        trial = TrialStep.of(objective, state, block, point)
        following = self.iterate(objective, point, trial.gradients[block])
        d = following - point
        length, size = inner(d, d).sqrt(), inner(point, point).sqrt()
        finite = torch.isfinite(trial.smooth) & torch.isfinite(length)
        kept = Image(where(finite, following, memory.point), torch.where(finite, 1.0, memory.known))
        after = trial.result(finite, state.steps[block], kept, torch.zeros_like(length))
        residual = torch.where(length > 0, length / size, 0.0)  # a step away from zero is infinitely long
        return replace(after, residuals={**after.residuals, block: torch.where(finite, residual, torch.inf)})
