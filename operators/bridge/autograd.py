"""One autograd function for every linear map that comes with its own transpose."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

# Whether a torch.func transform is active, as autograd.Function itself asks.
_transformed = torch._C._are_functorch_transforms_active


def recorded(*tensors: Tensor | None) -> bool:
    """Whether something may be differentiated or transformed; if not, an autograd.Function only costs its 50 µs."""
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors):
        return True
    return _transformed() or forward_ad._current_level >= 0


class _Linear(torch.autograd.Function):
    """x -> forward(x); its derivative is itself, its transpose is `adjoint`."""

    @staticmethod
    def forward(
        x: Tensor, forward: Callable[[Tensor], Tensor], adjoint: Callable[[Tensor], Tensor]
    ) -> Tensor:
        return forward(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.pair = inputs[1:]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        forward, adjoint = ctx.pair
        return _Linear.apply(grad, adjoint, forward), None, None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: None) -> Tensor:
        return _Linear.apply(tangent, *ctx.pair)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], x: Tensor, *pair: Any) -> tuple[Tensor, int]:
        return _Linear.apply(x.movedim(in_dims[0], 0), *pair), 0


def linear_map(
    forward: Callable[[Tensor], Tensor], adjoint: Callable[[Tensor], Tensor]
) -> Callable[[Tensor], Tensor]:
    """Return `forward` as a function that is differentiable to any order and works under `torch.func`.

    Both functions act on tensors with any leading batch axes and need not be differentiable themselves: they
    may write into preallocated memory. `adjoint` is the Euclidean one, the conjugate transpose.
    """

    def fn(x: Tensor) -> Tensor:
        return _Linear.apply(x, forward, adjoint) if recorded(x) else forward(x)

    return fn
