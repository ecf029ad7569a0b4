r"""Products with a sparse lower triangular matrix whose entries lie in a neighbourhood of every pixel.

For images r and u ``(*batch, C, n, m)`` and weights w ``(*batch, K, n, m)`` everything here is a derivative of one
trilinear form,

.. math:: T(u, w, r) = \sum_k \sum_{i, j} u_{c_k}(i, j)\, w_k(i, j)\, r_{c'_k}(i + a_k, j + b_k) ,

where the offsets :math:`(a_k, b_k)` point to later pixels in raster order, and terms that leave the image are left
out. With :math:`S_{p + k,\, p} = w_k(p)`, stored at the column p, it is :math:`u^T S^T r`. So `gather` is
:math:`S^T r = \nabla_u T`, `scatter` is :math:`S u = \nabla_r T`, `outer` is :math:`\nabla_w T`, and each is the
derivative of the others: all can be differentiated as often as one likes, forwards, backwards and under `vmap`.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function

__all__ = ["Stencil", "gather", "neighbourhood", "outer", "scatter"]


def neighbourhood(distance: int, dilation: int | Sequence[int] = 1) -> list[tuple[int, int]]:
    r"""Offsets (rows, columns) to the later half of a square neighbourhood, in raster order.

    Parameters
    ----------
    distance : int
        d, so that the neighbourhood has :math:`(2 d + 1)^2` pixels, :math:`((2 d + 1)^2 - 1) / 2` of them later; 0
        for none.
    dilation : int or sequence of int
        Factor of the offsets; for several, the union of the neighbourhoods.

    Raises
    ------
    TypeError, ValueError
        If distance is no non-negative integer, or a dilation no positive one.
    """
    if isinstance(distance, bool) or not isinstance(distance, int):
        raise TypeError(f"distance must be an integer, got {distance!r}")
    if distance < 0:
        raise ValueError(f"distance must be at least 0, got {distance}")
    factors = (dilation,) if isinstance(dilation, int) else tuple(dilation)
    if not factors or any(isinstance(f, bool) or not isinstance(f, int) or f < 1 for f in factors):
        raise ValueError(f"dilation must be a positive integer or several, got {dilation!r}")
    near = [(a, b) for a in range(distance + 1) for b in range(-distance, distance + 1) if (a, b) > (0, 0)]
    return sorted({(f * a, f * b) for f in factors for a, b in near})


class Term(NamedTuple):
    """One k of the form: the channels c and c', and the offset."""

    column: int
    row: int
    down: int
    right: int


@functools.cache
def _within(size: int, shift: int) -> tuple[slice, slice]:
    """Where an index lies, and where it is shifted to, with both in range(size)."""
    first, last = max(0, -shift), min(size, size - shift)
    return slice(first, last), slice(first + shift, last + shift)


class Stencil(tuple[Term, ...]):
    """The terms of the form: the neighbourhood in every channel, then the pairs of channels of one pixel."""

    @classmethod
    def of(cls, channels: int, distance: int, dilation: int | Sequence[int]) -> Stencil:
        """The stencil of a neighbourhood, see `neighbourhood`."""
        near = neighbourhood(distance, dilation)
        own = [Term(c, c, *offset) for c in range(channels) for offset in near]
        cross = [Term(c, other, 0, 0) for c in range(channels) for other in range(c + 1, channels)]
        return cls([*own, *cross])

    @property
    def reach(self) -> tuple[int, int]:
        """Largest offsets in rows and columns."""
        return max((t.down for t in self), default=0), max((abs(t.right) for t in self), default=0)


def _views(term: Term, column: Tensor | None, row: Tensor | None) -> tuple[Any, Any]:
    """The parts of u and r that a term joins."""
    some = column if column is not None else row
    assert some is not None
    (i, i_later), (j, j_later) = _within(some.shape[-2], term.down), _within(some.shape[-1], term.right)
    return (
        None if column is None else column[..., term.column, i, j],
        None if row is None else row[..., term.row, i_later, j_later],
    )


def _inside(term: Term, k: int, w: Tensor) -> Tensor:
    """The part of the weights of a term that stays in the image."""
    return w[..., k, _within(w.shape[-2], term.down)[0], _within(w.shape[-1], term.right)[0]]


def _empty(image: Tensor, other: Tensor, entries: int) -> Tensor:
    """Zeros ``(*batch, entries, n, m)`` for two factors."""
    batch = torch.broadcast_shapes(image.shape[:-3], other.shape[:-3])
    dtype = torch.promote_types(image.dtype, other.dtype)
    return image.new_zeros((*batch, entries, *image.shape[-2:]), dtype=dtype)


def _gather(w: Tensor, r: Tensor, stencil: Stencil) -> Tensor:
    out = _empty(r, w, r.shape[-3])
    for k, term in enumerate(stencil):
        column, row = _views(term, out, r)
        column.addcmul_(_inside(term, k, w), row)
    return out


def _scatter(w: Tensor, u: Tensor, stencil: Stencil) -> Tensor:
    out = _empty(u, w, u.shape[-3])
    for k, term in enumerate(stencil):
        column, row = _views(term, u, out)
        row.addcmul_(_inside(term, k, w), column)
    return out


def _outer(u: Tensor, r: Tensor, stencil: Stencil, batch: torch.Size) -> Tensor:
    """The products, summed over the batch axes that the weights do not have."""
    out = u.new_zeros((*batch, len(stencil), *u.shape[-2:]), dtype=torch.promote_types(u.dtype, r.dtype))
    for k, term in enumerate(stencil):
        column, row = _views(term, u, r)
        part = _inside(term, k, out)
        part += (column * row).sum_to_size(part.shape)
    return out


def _to_front(info: Any, in_dims: tuple[Any, ...], *tensors: Tensor) -> list[Tensor]:
    """Tensors with the axis of a vmap in front of all batch axes, broadcast by singletons."""
    dims = [t.ndim - (d is not None) for t, d in zip(tensors, in_dims, strict=False)]
    most = max(dims)
    out = []
    for t, d, ndim in zip(tensors, in_dims, dims, strict=False):
        front = t[None] if d is None else t.movedim(d, 0)
        out.append(front.reshape(front.shape[0], *(1,) * (most - ndim), *front.shape[1:]))
    return out


class _Product(Function):
    """What `gather` and `scatter` share: w times an image."""

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        w, image, stencil = inputs
        ctx.save_for_backward(w, image)
        ctx.save_for_forward(w, image)
        ctx.stencil = stencil


class _Gather(_Product):
    @staticmethod
    def forward(w: Tensor, r: Tensor, stencil: Stencil) -> Tensor:  # type: ignore[override]
        return _gather(w, r, stencil)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:  # type: ignore[override]
        w, r = ctx.saved_tensors
        s = ctx.stencil
        return (
            outer(g, r, s, w.shape[:-3]) if ctx.needs_input_grad[0] else None,
            scatter(w, g, s).sum_to_size(r.shape) if ctx.needs_input_grad[1] else None,
            None,
        )

    @staticmethod
    def jvp(ctx: Any, dw: Tensor | None, dr: Tensor | None, _: None) -> Tensor:  # type: ignore[override]
        w, r = ctx.saved_tensors
        return _both(gather, (w, dw), (r, dr), ctx.stencil)

    @staticmethod
    def vmap(info: Any, in_dims: Any, w: Tensor, r: Tensor, stencil: Stencil) -> tuple[Tensor, int]:  # type: ignore[override]
        return gather(*_to_front(info, in_dims, w, r), stencil), 0


class _Scatter(_Product):
    @staticmethod
    def forward(w: Tensor, u: Tensor, stencil: Stencil) -> Tensor:  # type: ignore[override]
        return _scatter(w, u, stencil)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:  # type: ignore[override]
        w, u = ctx.saved_tensors
        s = ctx.stencil
        return (
            outer(u, g, s, w.shape[:-3]) if ctx.needs_input_grad[0] else None,
            gather(w, g, s).sum_to_size(u.shape) if ctx.needs_input_grad[1] else None,
            None,
        )

    @staticmethod
    def jvp(ctx: Any, dw: Tensor | None, du: Tensor | None, _: None) -> Tensor:  # type: ignore[override]
        w, u = ctx.saved_tensors
        return _both(scatter, (w, dw), (u, du), ctx.stencil)

    @staticmethod
    def vmap(info: Any, in_dims: Any, w: Tensor, u: Tensor, stencil: Stencil) -> tuple[Tensor, int]:  # type: ignore[override]
        return scatter(*_to_front(info, in_dims, w, u), stencil), 0


class _Outer(Function):
    @staticmethod
    def forward(u: Tensor, r: Tensor, stencil: Stencil, batch: torch.Size) -> Tensor:  # type: ignore[override]
        return _outer(u, r, stencil, batch)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        u, r, ctx.stencil, ctx.batch = inputs
        ctx.save_for_backward(u, r)
        ctx.save_for_forward(u, r)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:  # type: ignore[override]
        u, r = ctx.saved_tensors
        s = ctx.stencil
        return (
            gather(g, r, s).sum_to_size(u.shape) if ctx.needs_input_grad[0] else None,
            scatter(g, u, s).sum_to_size(r.shape) if ctx.needs_input_grad[1] else None,
            None,
            None,
        )

    @staticmethod
    def jvp(ctx: Any, du: Tensor | None, dr: Tensor | None, *_: None) -> Tensor:  # type: ignore[override]
        u, r = ctx.saved_tensors
        return _both(lambda x, y, s: outer(x, y, s, ctx.batch), (u, du), (r, dr), ctx.stencil)

    @staticmethod
    def vmap(
        info: Any, in_dims: Any, u: Tensor, r: Tensor, stencil: Stencil, batch: torch.Size
    ) -> tuple[Tensor, int]:  # type: ignore[override]
        u, r = _to_front(info, in_dims, u, r)
        fill = (1,) * (max(u.ndim, r.ndim) - 4 - len(batch))
        out = outer(u, r, stencil, torch.Size((info.batch_size, *fill, *batch)))
        return out.reshape(info.batch_size, *batch, *out.shape[-3:]), 0


def _both(product: Any, first: Any, second: Any, stencil: Stencil) -> Tensor:
    """The derivative of a bilinear map, where each argument may have a tangent."""
    (a, da), (b, db) = first, second
    parts = [product(da, b, stencil)] if da is not None else []
    if db is not None:
        parts.append(product(a, db, stencil))
    return sum(parts[1:], parts[0])


def gather(w: Tensor, r: Tensor, stencil: Stencil) -> Tensor:
    """S^T r, ``(*batch, C, n, m)``, for weights ``(*batch, K, n, m)`` and an image ``(*batch, C, n, m)``."""
    return _Gather.apply(w, r, stencil)  # type: ignore[no-untyped-call]


def scatter(w: Tensor, u: Tensor, stencil: Stencil) -> Tensor:
    """S u, ``(*batch, C, n, m)``."""
    return _Scatter.apply(w, u, stencil)  # type: ignore[no-untyped-call]


def outer(u: Tensor, r: Tensor, stencil: Stencil, batch: torch.Size) -> Tensor:
    """The gradient of u^T S^T r in the weights, ``(*batch, K, n, m)``."""
    return _Outer.apply(u, r, stencil, batch)  # type: ignore[no-untyped-call]
