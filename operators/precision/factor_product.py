r"""Products with a sparse lower triangular matrix L whose entries lie in a neighbourhood of every pixel.

L is given by its diagonal, images d ``(*batch, C, n, m)``, and by weights w ``(*batch, K, n, m)`` of the offsets
:math:`(a_k, b_k)` to later pixels in raster order: :math:`L_{p + k,\, p} = w_k(p)`, stored at the column p, where
terms that leave the image are left out. For images u and r everything here is a derivative of one trilinear form,

.. math:: T(u, L, r) = u^T L^T r = \sum_p d(p)\, u(p)\, r(p) + \sum_k \sum_{i, j} w_k(i, j)\, u_{c_k}(i, j)\,
          r_{c'_k}(i + a_k, j + b_k) .

So `multiply_factor` is :math:`L^T r = \nabla_u T` or :math:`L u = \nabla_r T`, `outer` is :math:`\nabla_w T`, and each
is the derivative of the others: all can be differentiated as often as one likes, forwards, backwards and under `vmap`.

Inside, the images r have a margin at the right and at the bottom, so that a shifted image is a view of its memory. One
margin serves both sides: a pixel beyond the left end of a row is in the margin of the row above.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd import Function

from genreg.operators.bridge.autograd import recorded
from genreg.operators.precision.stencil import Stencil

_TILE = 2**16  # entries of an image that are processed at a time, so that they fit into the cache


class _Padded:
    """Images ``(*batch, C, n, m)`` with a margin of zeros.

    Parameters
    ----------
    tensor : Tensor
        ``(*batch, C, n + down, m + right)``, contiguous.
    stencil : Stencil
        Fixes the margin and the shifts.
    """

    def __init__(self, tensor: Tensor, stencil: Stencil) -> None:
        self.tensor, self._offsets = tensor, stencil.offsets
        down, right = stencil.reach
        self._rows, self._columns = tensor.shape[-2] - down, tensor.shape[-1] - right

    @classmethod
    def of(cls, t: Tensor, stencil: Stencil) -> _Padded:
        """The images with a margin."""
        down, right = stencil.reach
        return cls(torch.nn.functional.pad(t, (0, right, 0, down)).contiguous(), stencil)

    @property
    def image(self) -> Tensor:
        """The images without their margin."""
        return self._view(0, 0)

    @property
    def shifted(self) -> list[Tensor]:
        """For every offset the images shifted by it, as views."""
        return [self._view(a, b) for a, b in self._offsets]

    def _view(self, down: int, right: int) -> Tensor:
        t = self.tensor
        shape = (*t.shape[:-2], self._rows, self._columns)
        return t.as_strided(shape, t.stride(), t.storage_offset() + down * t.stride(-2) + right)


def _tiles(like: Tensor) -> Iterator[Callable[[Tensor], Tensor]]:
    """Yield functions that cut tensors along the rows into parts of `_TILE` entries."""
    rows = like.shape[-2]
    size = max(1, _TILE * rows // max(1, like.numel()))
    if size >= rows:
        yield lambda t: t
        return
    for start in range(0, rows, size):
        yield functools.partial(_rows, start, start + size)


def _rows(start: int, end: int, t: Tensor) -> Tensor:
    return t[..., start:end, :]


def _product(d: Tensor | None, w: Tensor, v: Tensor, stencil: Stencil, transpose: bool) -> Tensor:
    """L^T v where `transpose`, otherwise L v; with a diagonal of zeros where `d` is None."""
    batch = common_batch(w, v) if d is None else common_batch(d, w, v)
    *lead, n, m = (*batch, *v.shape[-3:])
    dtype = torch.promote_types(v.dtype, w.dtype)
    count = len(stencil.offsets)
    if transpose:
        out = v.new_zeros((*lead, n, m), dtype=dtype)
        results, arguments = [out] * count, _Padded.of(v, stencil).shifted
    else:
        down, right = stencil.reach
        padded = _Padded(v.new_zeros((*lead, n + down, m + right), dtype=dtype), stencil)
        out = padded.image
        results, arguments = padded.shifted, [v] * count
    terms = [*zip(results, stencil.by_offset(w), arguments, strict=True)]
    for (c, other, k), weight in zip(stencil.across, stencil.by_entry_across(w), strict=True):
        into, of = (c, other) if transpose else (other, c)
        terms.append((results[k][..., into, :, :], weight, arguments[k][..., of, :, :]))
    for (c, other), weight in zip(stencil.pairs, stencil.by_pair(w), strict=True):
        into, of = (c, other) if transpose else (other, c)
        terms.append((out[..., into, :, :], weight, v[..., of, :, :]))
    if d is not None:
        terms.append((out, d, v))
    for cut in _tiles(out):
        for result, weight, argument in terms:
            cut(result).addcmul_(cut(weight), cut(argument))
    return out.contiguous()


def _outer(u: Tensor, r: Tensor, stencil: Stencil, batch: torch.Size) -> Tensor:
    """The products, summed over the batch axes that the weights do not have."""
    out = u.new_empty((*batch, len(stencil), *u.shape[-2:]), dtype=torch.promote_types(u.dtype, r.dtype))
    columns, rows = [u] * len(stencil.offsets), _Padded.of(r, stencil).shifted
    terms = [*zip(stencil.by_offset(out), columns, rows, strict=True)]
    for (c, other, k), part in zip(stencil.across, stencil.by_entry_across(out), strict=True):
        terms.append((part, u[..., c, :, :], rows[k][..., other, :, :]))
    for (c, other), part in zip(stencil.pairs, stencil.by_pair(out), strict=True):
        terms.append((part, u[..., c, :, :], r[..., other, :, :]))
    summed = common_batch(u, r) != batch
    for cut in _tiles(u):
        for part, column, row in terms:
            if summed:
                cut(part).copy_((cut(column) * cut(row)).sum_to_size(cut(part).shape))
            else:
                torch.mul(cut(column), cut(row), out=cut(part))
    return out


def common_batch(*tensors: Tensor) -> torch.Size:
    """The batch axes, in front of three others, to which those of some tensors broadcast."""
    first, *others = [t.shape[:-3] for t in tensors]
    # the shapes are usually equal, which is quick to check
    if all(other == first for other in others):
        return first
    # that of torch imports SymPy, which takes half a second
    return torch.Size(np.broadcast_shapes(first, *others))


def to_front(in_dims: tuple[Any, ...], *tensors: Tensor | None) -> list[Any]:
    """Tensors with the axis of a vmap in front of all batch axes, broadcast by singletons; None stays None."""
    moved = [
        None if t is None else t[None] if dim is None else t.movedim(dim, 0)
        for t, dim in zip(tensors, in_dims, strict=False)
    ]
    most = max(t.ndim for t in moved if t is not None)
    return [None if t is None else t[(slice(None), *(None,) * (most - t.ndim))] for t in moved]


class _Product(Function):
    @staticmethod
    def forward(d: Tensor | None, w: Tensor, v: Tensor, stencil: Stencil, transpose: bool) -> Tensor:
        return _product(d, w, v, stencil, transpose)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        *tensors, ctx.stencil, ctx.transpose = inputs
        ctx.save_for_backward(*tensors)
        ctx.save_for_forward(*tensors)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        d, w, v = ctx.saved_tensors
        s, needs = ctx.stencil, ctx.needs_input_grad
        column, row = (g, v) if ctx.transpose else (v, g)
        return (
            (g * v).sum_to_size(d.shape) if needs[0] else None,
            outer(column, row, s, w.shape[:-3]) if needs[1] else None,
            multiply_factor(d, w, g, s, not ctx.transpose).sum_to_size(v.shape) if needs[2] else None,
            None,
            None,
        )

    @staticmethod
    def jvp(ctx: Any, dd: Tensor | None, dw: Tensor | None, dv: Tensor | None, *_: None) -> Tensor:
        d, w, v = ctx.saved_tensors
        parts = []
        if dw is not None:
            parts.append(multiply_factor(dd, dw, v, ctx.stencil, ctx.transpose))
        elif dd is not None:
            parts.append(dd * v)
        if dv is not None:
            parts.append(multiply_factor(d, w, dv, ctx.stencil, ctx.transpose))
        return sum(parts[1:], parts[0])

    @staticmethod
    def vmap(info: Any, in_dims: Any, *args: Any) -> tuple[Tensor, int]:
        *tensors, stencil, transpose = args
        diagonal, w, other = to_front(in_dims, *tensors)
        return multiply_factor(diagonal, w, other, stencil, transpose), 0


class _Outer(Function):
    @staticmethod
    def forward(u: Tensor, r: Tensor, stencil: Stencil, batch: torch.Size) -> Tensor:
        return _outer(u, r, stencil, batch)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        u, r, ctx.stencil, ctx.batch = inputs
        ctx.save_for_backward(u, r)
        ctx.save_for_forward(u, r)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        u, r = ctx.saved_tensors
        s, needs = ctx.stencil, ctx.needs_input_grad
        return (
            multiply_factor(None, g, r, s, True).sum_to_size(u.shape) if needs[0] else None,
            multiply_factor(None, g, u, s, False).sum_to_size(r.shape) if needs[1] else None,
            None,
            None,
        )

    @staticmethod
    def jvp(ctx: Any, du: Tensor | None, dr: Tensor | None, *_: None) -> Tensor:
        u, r = ctx.saved_tensors
        parts = [outer(du, r, ctx.stencil, ctx.batch)] if du is not None else []
        if dr is not None:
            parts.append(outer(u, dr, ctx.stencil, ctx.batch))
        return sum(parts[1:], parts[0])

    @staticmethod
    def vmap(info: Any, in_dims: Any, *args: Any) -> tuple[Tensor, int]:
        *tensors, stencil, batch = args
        u, r = to_front(in_dims, *tensors)
        fill = (1,) * (u.ndim - 4 - len(batch))
        out = outer(u, r, stencil, torch.Size((info.batch_size, *fill, *batch)))
        return out.reshape(info.batch_size, *batch, *out.shape[-3:]), 0


def multiply_factor(d: Tensor | None, w: Tensor, v: Tensor, stencil: Stencil, transpose: bool) -> Tensor:
    """L^T v where `transpose`, otherwise L v, ``(*batch, C, n, m)``; differentiable in everything.

    Parameters
    ----------
    d : Tensor or None
        Diagonal of L, ``(*batch, C, n, m)``; zeros where None.
    w : Tensor
        Weights, ``(*batch, K, n, m)``.
    v : Tensor
        Images, ``(*batch, C, n, m)``.
    stencil : Stencil
        Where the weights belong.
    transpose : bool
        Whether to multiply by L^T.
    """
    if not recorded(d, w, v):
        return _product(d, w, v, stencil, transpose)
    return _Product.apply(d, w, v, stencil, transpose)


def outer(u: Tensor, r: Tensor, stencil: Stencil, batch: torch.Size) -> Tensor:
    """The gradient of u^T L^T r in the weights, ``(*batch, K, n, m)``."""
    if not recorded(u, r):
        return _outer(u, r, stencil, batch)
    return _Outer.apply(u, r, stencil, batch)
