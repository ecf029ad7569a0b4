r"""How one block of the unknowns moves.

An update takes the state of the batch and returns the next one. Every update evaluates the objective and its
gradient once, at the trial point of all samples; a sample whose trial is rejected stays where it is and tries
a smaller step in the next iteration. So a batch runs at the pace of its samples' successes, no forward pass is
wasted on a sample that waits for another one's line search, and the gradient at an accepted point is there
already.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor

from genreg.operators.linear.conjugate_gradient import inner
from genreg.solvers.problem.capabilities import Capability
from genreg.solvers.problem.objective import Blocks, Objective
from genreg.solvers.problem.state import State, relative, where
from genreg.solvers.updates.line_search import Backtracking

DENSE = 256
"""Number of unknowns up to which an n × n matrix for every sample is cheap."""


@runtime_checkable
class Update(Protocol):
    """Moves one block of the state.

    Attributes
    ----------
    monotone : bool
        Whether the objective never increases; true unless a class says otherwise.
    last : bool
        Whether a result is the last iterate even where the objective may increase, as where it is not what is
        minimised; false unless a class says otherwise.
    needs : tuple of str
        What the objective must offer in the block, see `genreg.solvers.problem.capabilities`.
    line_search : Backtracking
        Its settings: how often a step may fail, and what rounding is.
    """

    monotone: ClassVar[bool] = True
    last: ClassVar[bool] = False
    needs: ClassVar[tuple[Capability, ...]] = ("proximable",)
    if TYPE_CHECKING:  # read only: a frozen field or a property

        @property
        def line_search(self) -> Backtracking:
            """How often a step may fail, and what rounding is."""
    else:
        line_search: Backtracking

    def first_step(self, gradient: Tensor, reach: Tensor) -> Tensor:
        """First step sizes, ``(B,)``; by default those of the line search.

        Parameters
        ----------
        gradient : Tensor
            ∇H of the block where the update starts, ``(B, *shape)``.
        reach : Tensor
            The length that a first step may have, ``(B,)``.
        """
        return self.line_search.first_step(gradient, reach)

    def first_memory(self, gradient: Tensor, reach: Tensor) -> Any:
        """What the update remembers of every sample, at the start; by default nothing.

        A NamedTuple of tensors ``(B, ...)``, which may hold other tuples. Parameters are those of `first_step`.
        """
        return ()

    def __call__(self, objective: Objective, state: State, block: str) -> State:
        """Return the state after one trial in `block`."""


@dataclass(frozen=True)
class TrialStep:
    """A step d in one block, and the objective at its end; what updates are written with."""

    state: State
    block: str
    point: Tensor
    step: Tensor
    smooth: Tensor
    gradients: Blocks
    part: Tensor | None  # g_i there
    known: bool  # whether the objective knows the unit of length of the block

    @classmethod
    def of(cls, objective: Objective, state: State, block: str, point: Tensor) -> TrialStep:
        """Evaluate the objective with the block at `point`."""
        smooth, gradients = objective.value_and_gradient({**state.blocks, block: point})
        g = objective.proximable.get(block)
        part = g(point) if g else None
        step, known = point - state.blocks[block], block in objective.lengths
        return cls(state, block, point, step, smooth, gradients, part, known)

    @property
    def gradient_change(self) -> Tensor:
        """Change of the gradient of the block, ∇H(v⁺) - ∇H(v)."""
        return self.gradients[self.block] - self.state.gradients[self.block]

    @property
    def proximable_change(self) -> Tensor:
        """Change of the proximable part, g(v⁺) - g(v), ``(B,)``."""
        return (
            torch.zeros_like(self.smooth)
            if self.part is None
            else self.part - self.state.proximable[self.block]
        )

    @property
    def length(self) -> Tensor:
        """The unit of length of the block, which a start far off must not enlarge, ``(B,)``."""
        length = self.state.lengths[self.block]
        if self.known:
            return length
        return torch.minimum(
            length, 2 * inner(self.point, self.point).sqrt() + inner(self.step, self.step).sqrt()
        )

    def result(self, accepted: Tensor, steps: Tensor, memory: Any, residual: Tensor) -> State:
        """The state in which the accepted samples have moved."""
        state, block = self.state, self.block
        parts = dict(state.proximable)
        if self.part is not None:
            parts[block] = torch.where(accepted, self.part, parts[block])
        return replace(
            state,
            blocks={**state.blocks, block: where(accepted, self.point, state.blocks[block])},
            gradients={
                name: where(accepted, new, state.gradients[name]) for name, new in self.gradients.items()
            },
            smooth=torch.where(accepted, self.smooth, state.smooth),
            proximable=parts,
            steps={**state.steps, block: steps},
            lengths={**state.lengths, block: torch.where(accepted, self.length, state.lengths[block])},
            memory={**state.memory, block: memory},
            residuals={**state.residuals, block: relative(state, block, residual)},
            rejections={**state.rejections, block: torch.where(accepted, 0, state.rejections[block] + 1)},
            calls=state.calls + 1,
        )


@dataclass(frozen=True)
class ProxGradient(Update):
    r"""The step :math:`v_i \leftarrow \mathrm{prox}_{\tau g_i}(v_i - \tau \nabla_i H(v))` with a line search.

    Without a prox this is a gradient step. The residual is :math:`\|d\| / \tau \cdot (\ell_i + \|v_i\|) / |F|`:
    the relative change of the objective F, to first order, when the block changes by its own size, with the unit of
    length of the block, see `Objective`. It does not depend on the units of the block and of the objective.

    Parameters
    ----------
    line_search : Backtracking
        Settings of the step size.
    """

    line_search: Backtracking = field(default_factory=Backtracking)

    def __call__(self, objective: Objective, state: State, block: str) -> State:
        """One trial for every sample."""
        search, tau = self.line_search, state.steps[block]
        v, gradient = state.blocks[block], state.gradients[block]
        point = v - tau.view(-1, *(1,) * (v.ndim - 1)) * gradient
        if g := objective.proximable.get(block):
            point = g.prox(point, tau * objective.weight(block))
        trial = TrialStep.of(objective, state, block, point)
        d = trial.step
        slope, change, step_sq = inner(gradient, d), inner(trial.gradient_change, d), inner(d, d)  # (B,)
        highest, steepest = search.bound(state.smooth, trial.proximable_change, slope, step_sq, tau)
        accepted = search.accept(state.smooth, trial.smooth, highest, slope, change, steepest)
        if g:  # with a prox that is not exact the objective could increase
            part = trial.proximable_change
            accepted = accepted & search.accept(
                state.smooth, trial.smooth, state.smooth - part, slope, change, -2 * (slope + part)
            )
        steps = search.next_step(accepted, change, step_sq, tau)
        return trial.result(accepted, steps, state.memory[block], step_sq.sqrt() / tau)


class FullSteps(Update):
    """Updates of differentiable objectives whose step is at first one times their direction."""

    needs: ClassVar[tuple[Capability, ...]] = ("smooth",)

    def first_step(self, gradient: Tensor, reach: Tensor) -> Tensor:
        """First step sizes, ``(B,)``."""
        return gradient.new_ones(len(gradient))


def descent_step(
    objective: Objective, state: State, block: str, direction: Tensor, search: Backtracking
) -> tuple[TrialStep, Tensor, Tensor]:
    """Try the step τ times `direction` of a quasi-Newton method; τ is 1 again after a success.

    Returns
    -------
    trial : TrialStep
        The step.
    accepted : Tensor
        Whether the objective falls enough, by 10⁻⁴ times what the slope promises, ``(B,)``.
    steps : Tensor
        The next τ, ``(B,)``: after a failure by quadratic interpolation of the values and the slope.
    """
    tau, v = state.steps[block], state.blocks[block]
    trial = TrialStep.of(objective, state, block, v + tau.view(-1, *(1,) * (v.ndim - 1)) * direction)
    slope, change = inner(state.gradients[block], trial.step), inner(trial.gradient_change, trial.step)
    highest, steepest = state.smooth + 1e-4 * slope, -1.9998 * slope
    accepted = search.accept(state.smooth, trial.smooth, highest, slope, change, steepest) & (slope <= 0)
    fraction = -slope / (2 * (trial.smooth - state.smooth - slope))
    shrunk = tau * torch.where(torch.isfinite(fraction), fraction, 0.1).clamp(0.1, search.shrink)
    return trial, accepted, torch.where(accepted, 1.0, shrunk)
