"""Where every sample of a batch stands."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from genreg.operators.linear.conjugate_gradient import inner
from genreg.solvers.problem.objective import Blocks, Objective
from genreg.solvers.problem.trees import map_tensors


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
    lengths : dict of str to Tensor
        Unit of length of every block, ``(B,)``, see `Objective`.
    offset : Tensor
        Part of the value that depends on units only, ``(B,)``, see `Objective`.
    memory : dict of str to tree
        What the update of a block remembers of every sample: a NamedTuple of tensors ``(B, ...)``, or such tuples
        nested, see `Update`.
    rejections : dict of str to Tensor
        Trials rejected in a row for every block, ``(B,)``.
    calls : Tensor
        Evaluations of the objective with its gradient so far, ``(B,)``.
    """

    blocks: Blocks
    gradients: Blocks
    smooth: Tensor
    proximable: Mapping[str, Tensor]
    steps: Mapping[str, Tensor]
    memory: Mapping[str, Any]
    residuals: Mapping[str, Tensor]
    rejections: Mapping[str, Tensor]
    calls: Tensor
    lengths: Mapping[str, Tensor]
    offset: Tensor

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
        return map_tensors(lambda t: t[index], self)

    def put(self, index: Tensor, other: State) -> State:
        """Replace the samples in `index` by those of `other`."""
        return map_tensors(lambda old, new: old.index_copy(0, index, new), self, other)

    def where(self, mask: Tensor, other: State) -> State:
        """The samples of this state where `mask` is true, those of `other` elsewhere."""
        return map_tensors(lambda own, rest: where(mask, own, rest), self, other)


def where(accepted: Tensor, new: Tensor, old: Tensor) -> Tensor:
    """Choose samples: ``new`` where accepted, ``old`` elsewhere."""
    return torch.where(accepted.view(-1, *(1,) * (new.ndim - 1)), new, old)


def relative(state: State, block: str, norm: Tensor) -> Tensor:
    """A residual of a block, ``(B,)``, in units of |F| / (ℓ_i + ‖v_i‖), with the unit of length ℓ_i of the block.

    If F is convex and x* a minimiser, F(x) - F(x*) ≤ ‖∇F(x)‖ ‖x - x*‖: the residual bounds the relative error of the
    objective where ‖x - x*‖ is at most ℓ + ‖x‖. It does not depend on the units of v and F.
    """
    size = state.lengths[block] + inner(state.blocks[block], state.blocks[block]).sqrt()
    residual = norm * size / (state.value - state.offset).abs().clamp_min(torch.finfo(norm.dtype).tiny)
    # A block of zeros that had no gradient where the solver started has no length yet.
    return torch.where((size == 0) & (norm > 0), torch.inf, residual)


def evaluate(objective: Objective, blocks: Blocks) -> tuple[Tensor, Blocks, Tensor, Tensor]:
    """H and its gradient where a solver starts, and there |F - offset| and the offset, ``(B,)``."""
    smooth, gradients = objective.value_and_gradient(blocks)
    offset = torch.zeros_like(smooth)
    with torch.no_grad():
        if objective.offset is not None:
            offset = objective.offset(blocks, **objective.per_sample).nan_to_num(0.0)
        value = sum((g(blocks[name]) for name, g in objective.proximable.items()), smooth)
    return smooth, gradients, (value - offset).abs(), offset


def starting_lengths(
    objective: Objective, blocks: Blocks, gradients: Blocks, name: str, scale: Tensor
) -> tuple[Tensor, Tensor]:
    """How far a first step in a block may go, and the unit of length of the block, ``(B,)``, see `Objective`.

    Parameters
    ----------
    objective : Objective
        The problem.
    blocks, gradients : dict of str to Tensor
        Where a solver starts, and ∇H there.
    name : str
        The block.
    scale : Tensor
        |F| there, without what depends on units only, ``(B,)``.
    """
    if name in objective.lengths:
        known = torch.full_like(scale, objective.lengths[name])
        return known, known
    reach = _reach(objective, blocks, gradients, name, scale)
    return reach, torch.maximum(reach, inner(blocks[name], blocks[name]).sqrt())


def _reach(objective: Objective, blocks: Blocks, gradients: Blocks, name: str, scale: Tensor) -> Tensor:
    """Distance of the minimum of H along -∇H in one block, ``(B,)``, from the curvature over a short step.

    At most 2 |F| / ‖∇H‖: a convex function that is not negative has fallen to its minimum there. So it is in the units
    of the block, whatever these are.
    """
    v, g = blocks[name], gradients[name]
    tiny = torch.finfo(scale.dtype).tiny
    norm = inner(g, g).sqrt()
    farthest = 2 * scale / norm.clamp_min(tiny)
    step = 1e-3 * farthest / norm.clamp_min(tiny)  # (B,)
    near = v - step.view(-1, *(1,) * (v.ndim - 1)) * g
    decrease = inner(g - objective.value_and_gradient({**blocks, name: near})[1][name], g)  # of <∇H, g>
    curved = torch.isfinite(decrease) & (decrease > 0)
    distance = torch.where(curved, step * norm * inner(g, g) / torch.where(curved, decrease, 1.0), torch.inf)
    distance = torch.minimum(distance, farthest)
    return torch.where((norm > 0) & torch.isfinite(distance), distance, 0.0)
