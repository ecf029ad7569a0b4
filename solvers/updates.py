r"""How one block of the unknowns moves.

An update takes the state of the batch and returns the next one. Every update evaluates the objective and its
gradient once, at the trial point of all samples; a sample whose trial is rejected stays where it is and tries
a smaller step at the next turn. So a batch runs at the pace of its samples' successes, no forward pass is
wasted on a sample that waits for another one's line search, and the gradient at an accepted point is there
already.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Protocol

import torch
from torch import Tensor

from genreg.solvers.line_search import Backtracking, inner
from genreg.solvers.objective import Blocks, Objective

__all__ = ["ProxGradient", "State", "Update"]


@dataclass(frozen=True)
class State:
    """Where every sample of the batch stands.

    Attributes
    ----------
    blocks, gradients : dict of str to Tensor
        v and ∇H(v), ``(B, *shape)`` for every block.
    smooth : Tensor
        H(v), ``(B,)``.
    proximable : dict of str to Tensor
        g_i(v_i), ``(B,)``, for the blocks that have a proximable part.
    steps, residuals : dict of str to Tensor
        Step size and residual of every block, ``(B,)``.
    rejections : dict of str to Tensor
        Trials rejected in a row for every block, ``(B,)``.
    """

    blocks: Blocks
    gradients: Blocks
    smooth: Tensor
    proximable: Mapping[str, Tensor]
    steps: Mapping[str, Tensor]
    residuals: Mapping[str, Tensor]
    rejections: Mapping[str, Tensor]

    @property
    def value(self) -> Tensor:
        """H(v) + Σ g_i(v_i), ``(B,)``."""
        return sum(self.proximable.values(), self.smooth)

    @property
    def residual(self) -> Tensor:
        """Largest residual over the blocks, ``(B,)``."""
        return torch.stack(tuple(self.residuals.values())).amax(0)

    @property
    def idle(self) -> Tensor:
        """Trials that every block has had rejected in a row, ``(B,)``; 0 if one of them has just moved."""
        return torch.stack(tuple(self.rejections.values())).amin(0)

    def take(self, index: Tensor) -> State:
        """The samples in `index`."""

        def pick(item: Tensor | Mapping[str, Tensor]) -> Tensor | Mapping[str, Tensor]:
            return item[index] if isinstance(item, Tensor) else {k: v[index] for k, v in item.items()}

        return State(**{f.name: pick(getattr(self, f.name)) for f in fields(self)})

    def where(self, mask: Tensor, other: State) -> State:
        """The samples of this state where `mask` is true, those of `other` elsewhere."""

        def pick(
            new: Tensor | Mapping[str, Tensor], old: Tensor | Mapping[str, Tensor]
        ) -> Tensor | Mapping[str, Tensor]:
            if isinstance(new, Tensor):
                return where(mask, new, old)
            return {name: where(mask, new[name], old[name]) for name in new}

        return State(**{f.name: pick(getattr(self, f.name), getattr(other, f.name)) for f in fields(self)})


class Update(Protocol):
    """Moves one block of the state."""

    line_search: Backtracking

    def __call__(self, objective: Objective, state: State, block: str) -> State:
        """Return the state after one trial in `block`."""


def where(accepted: Tensor, new: Tensor, old: Tensor) -> Tensor:
    """Choose samples: ``new`` where accepted, ``old`` elsewhere."""
    return torch.where(accepted.view(-1, *(1,) * (new.ndim - 1)), new, old)


@dataclass(frozen=True)
class ProxGradient:
    r"""The step :math:`v_i \leftarrow \mathrm{prox}_{\tau g_i}(v_i - \tau \nabla_i H(v))` with a line search.

    Without a prox this is a gradient step. The residual is :math:`\|d\| / \tau \cdot (1 + \|v_i\|) / |F|`:
    the relative change of the objective F, to first order, when the block changes by its own size. It does
    not depend on the units of the objective.
    """

    line_search: Backtracking = field(default_factory=Backtracking)

    def __call__(self, objective: Objective, state: State, block: str) -> State:
        """One trial for every sample."""
        search, tau = self.line_search, state.steps[block]
        v, gradient = state.blocks[block], state.gradients[block]
        trial = v - tau.view(-1, *(1,) * (v.ndim - 1)) * gradient
        if g := objective.proximable.get(block):
            trial = g.prox(trial, tau * objective.weight(block))
        blocks = {**state.blocks, block: trial}
        smooth, gradients = objective.value_and_gradient(blocks)
        parts = {block: g(trial)} if g else {}
        rise = parts[block] - state.proximable[block] if g else torch.zeros_like(smooth)

        d = trial - v
        slope, change, step_sq = inner(gradient, d), inner(gradients[block] - gradient, d), inner(d, d)
        accepted = search.accept(state.smooth, smooth, rise, slope, change, step_sq, tau)
        size = 1 + inner(v, v).sqrt()
        scale = state.value.abs().clamp_min(torch.finfo(smooth.dtype).tiny)
        return replace(
            state,
            blocks={**state.blocks, block: where(accepted, trial, v)},
            gradients={name: where(accepted, new, state.gradients[name]) for name, new in gradients.items()},
            smooth=torch.where(accepted, smooth, state.smooth),
            proximable={
                name: torch.where(accepted, parts.get(name, part), part)
                for name, part in state.proximable.items()
            },
            steps={**state.steps, block: search.next_step(accepted, change, step_sq, tau)},
            residuals={**state.residuals, block: step_sq.sqrt() / tau * size / scale},
            rejections={**state.rejections, block: torch.where(accepted, 0, state.rejections[block] + 1)},
        )
