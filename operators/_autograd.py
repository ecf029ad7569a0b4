"""One autograd function for every linear map that comes with its own transpose."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

__all__ = ["linear_map"]


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
    return lambda x: _Linear.apply(x, forward, adjoint)
