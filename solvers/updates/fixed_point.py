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

_LEAST_SHARE = 1 / 64


class Image(NamedTuple):
    """What `FixedPoint` remembers.

    Attributes
    ----------
    point : Tensor
        T(x), ``(B, *shape)``.
    least : Tensor
        The smallest ‖T(x) - x‖ since the share was last halved, ``(B,)``; infinite before T has been computed.
    """

    point: Tensor
    least: Tensor


@dataclass(frozen=True)
class FixedPoint(Update):
    r"""The step :math:`x \leftarrow x + \theta (T(x) - x)`, every one of which is taken.

    The share θ is 1 at first, and halved, down to 1/64, when :math:`\|T(x) - x\|` has doubled: for a nonexpansive T it
    does not grow in a suitable norm, and otherwise smaller shares (Krasnoselskii and Mann) stop oscillations that grow.
    The fixed points are those of T for any θ. The residual is :math:`\|T(x) - x\| / \|x\|` at the new point. A sample
    whose step is not finite stays where it is, and ends. Nothing says that the objective falls, which is there for its
    gradient only: the result is the last iterate.

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

    def first_step(self, gradient: Tensor, reach: Tensor) -> Tensor:
        """The share θ of the first steps, 1."""
        return torch.ones_like(reach)

    def first_memory(self, gradient: Tensor, reach: Tensor) -> Image:
        """T has not been computed yet."""
        return Image(torch.zeros_like(gradient), torch.full_like(reach, torch.inf))

    def __call__(self, objective: Objective, state: State, block: str) -> State:
        """One step for every sample."""
        assert isinstance(objective, DenoisingProblem)  # by `needs`
        x, share, memory = state.blocks[block], state.steps[block], state.memory[block]
        target, known = memory.point, torch.isfinite(memory.least)
        if not bool(known.all()):
            target = where(known, target, self.iterate(objective, x, state.gradients[block]))
        point = where(share < 1, x + share.view(-1, *(1,) * (x.ndim - 1)) * (target - x), target)
        trial = TrialStep.of(objective, state, block, point)
        following = self.iterate(objective, point, trial.gradients[block])
        d = following - point
        length, size = inner(d, d).sqrt(), inner(point, point).sqrt()
        finite = torch.isfinite(trial.smooth) & torch.isfinite(length)
        grown = length > 2 * memory.least
        share = torch.where(finite & grown, (0.5 * share).clamp_min(_LEAST_SHARE), share)
        least = torch.where(grown, length, torch.minimum(length, memory.least))
        kept = Image(where(finite, following, memory.point), torch.where(finite, least, memory.least))
        after = trial.result(finite, share, kept, torch.zeros_like(length))
        residual = torch.where(length > 0, length / size, 0.0)  # a step away from zero is infinitely long
        return replace(after, residuals={**after.residuals, block: torch.where(finite, residual, torch.inf)})
