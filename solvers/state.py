"""Where every sample of a batch stands."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from genreg.solvers.line_search import inner
from genreg.solvers.objective import Blocks

__all__ = ["State", "relative", "where"]


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
    memory : dict of str to Tensor
        What the update of a block remembers of every sample, ``(B, ...)``.
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
    memory: Mapping[str, Tensor]
    residuals: Mapping[str, Tensor]
    rejections: Mapping[str, Tensor]
    calls: Tensor

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

    def put(self, index: Tensor, other: State) -> State:
        """Replace the samples in `index` by those of `other`."""

        def place(old: Any, new: Any) -> Any:
            if isinstance(old, Tensor):
                return old.index_copy(0, index, new)
            return {name: place(old[name], new[name]) for name in old}

        return State(**{f.name: place(getattr(self, f.name), getattr(other, f.name)) for f in fields(self)})

    def where(self, mask: Tensor, other: State) -> State:
        """The samples of this state where `mask` is true, those of `other` elsewhere."""

        def pick(
            new: Tensor | Mapping[str, Tensor], old: Tensor | Mapping[str, Tensor]
        ) -> Tensor | Mapping[str, Tensor]:
            if isinstance(new, Tensor):
                return where(mask, new, old)
            return {name: where(mask, new[name], old[name]) for name in new}

        return State(**{f.name: pick(getattr(self, f.name), getattr(other, f.name)) for f in fields(self)})


def where(accepted: Tensor, new: Tensor, old: Tensor) -> Tensor:
    """Choose samples: ``new`` where accepted, ``old`` elsewhere."""
    return torch.where(accepted.view(-1, *(1,) * (new.ndim - 1)), new, old)


def relative(state: State, block: str, norm: Tensor) -> Tensor:
    """A residual of a block, ``(B,)``, in units of |F| / (1 + ‖v_i‖)."""
    size = 1 + inner(state.blocks[block], state.blocks[block]).sqrt()
    return norm * size / state.value.abs().clamp_min(torch.finfo(norm.dtype).tiny)
