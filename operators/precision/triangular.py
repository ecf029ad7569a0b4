r"""Solves with the sparse triangular factor of a neighbourhood, :math:`L x = u` and :math:`L^T x = u`.

L is that of `genreg.operators.precision.factor_product`. Systems are solved by torch's sparse triangular solve (MKL,
cuSPARSE), with a block diagonal matrix in CSR format for several samples of a batch, or by SciPy if torch was built
without it. In the matrix the image has a margin at the right and at the bottom, of unknowns that are zero: weights that
leave the image multiply these, so that no entry has to be left out, and the indices are the same for all weights. As
offsets point to later pixels, one margin serves both sides: a pixel beyond the left end of a row is in the margin of
the row above.
"""

from __future__ import annotations

import functools
import math
import warnings
from typing import Any

import numpy as np
import scipy.sparse
import torch
from torch import Tensor
from torch.autograd import Function

from genreg.operators.bridge.autograd import recorded
from genreg.operators.precision.factor_product import common_batch, multiply_factor, outer, to_front
from genreg.operators.precision.stencil import Stencil

# unknowns of one system on the CPU, about: more do not fit into the cache, and need more indices
_CHUNK = 2**16


class Entries:
    """The entries of a factor in the order of the CSR matrix, kept from its first solve on."""

    def __init__(self) -> None:
        self.values: Tensor | None = None  # (B, nnz)

    def of(self, layout: _Layout, d: Tensor, w: Tensor) -> Tensor:
        """Make the entries, see `_Layout.values`, or return those of the first call."""
        if self.values is None:
            self.values = layout.values(d, w)
        return self.values


class _Layout:
    """Where the entries of L^T lie in a CSR matrix, for images ``(C, n, m)``.

    Parameters
    ----------
    stencil : Stencil
        The off-diagonal entries.
    shape : tuple of int
        ``(C, n, m)``.
    """

    def __init__(self, stencil: Stencil, shape: tuple[int, int, int]) -> None:
        channels, self.rows, self.columns = shape
        self.down, self.right = stencil.reach
        self.width = self.columns + self.right
        self.unknowns = (self.rows + self.down) * self.width * channels
        # the entries of a row of each channel, as (shift of the unknown, index into diagonal and weights)
        self.of_channel = [
            sorted(
                [(0, c)]
                + [
                    ((t.down * self.width + t.right) * channels + t.row - c, channels + k)
                    for k, t in enumerate(stencil)
                    if t.column == c
                ]
            )
            for c in range(channels)
        ]
        self.pixel = sum(map(len, self.of_channel))  # entries of a pixel
        self.row = self.columns * self.pixel + self.right * channels  # entries of a row of pixels
        self.entries = self.rows * self.row + self.down * self.width * channels

    def indices(self, blocks: int) -> tuple[Tensor, Tensor]:
        """The CSR indices (rows, columns) of a block diagonal matrix; fewer blocks have the first of them."""
        channels = len(self.of_channel)
        counts = np.ones((self.rows + self.down, self.width, channels), dtype=np.int64)
        counts[: self.rows, : self.columns] = [len(entries) for entries in self.of_channel]
        shifts = np.zeros(self.entries, dtype=np.int64)
        inner = shifts[: self.rows * self.row].reshape(self.rows, self.row)[:, : self.columns * self.pixel]
        inner.reshape(self.rows, self.columns, self.pixel)[...] = [
            shift for entries in self.of_channel for shift, _ in entries
        ]
        col = np.repeat(np.arange(self.unknowns), counts.ravel()) + shifts
        block = np.arange(blocks)[:, None]
        crow = np.append(
            (np.cumsum(counts) - counts.ravel() + block * self.entries).ravel(), blocks * self.entries
        )
        kind = np.int32 if blocks * self.entries < 2**31 else np.int64
        return torch.from_numpy(crow.astype(kind)), torch.from_numpy(
            (col + block * self.unknowns).ravel().astype(kind)
        )

    def values(self, d: Tensor, w: Tensor) -> Tensor:
        """The entries of L^T for ``(B, C, n, m)`` and ``(B, K, n, m)``, in the order of the matrix, ``(B, nnz)``."""
        batch, channels = d.shape[:2]
        # at a zero the library stops, which would make all samples NaN instead of one
        d = torch.where(d == 0, torch.nan, d)
        out = d.new_empty((batch, self.entries))
        image = out[:, : self.rows * self.row].view(batch, self.rows, self.row)
        inner = image[..., : self.columns * self.pixel].unflatten(-1, (self.columns, self.pixel))
        image[..., self.columns * self.pixel :] = 1
        out[:, self.rows * self.row :] = 1
        order = (place for entries in self.of_channel for _, place in entries)
        for target, place in zip(inner.unbind(-1), order, strict=True):
            target.copy_(d[:, place] if place < channels else w[:, place - channels])
        return out

    def pad(self, u: Tensor) -> Tensor:
        """Images ``(S, B, C, n, m)`` as right-hand sides ``(B N, S)``."""
        channels_last = u.movedim(2, -1)
        padded = torch.nn.functional.pad(channels_last, (0, 0, 0, self.right, 0, self.down))
        return padded.reshape(len(u), -1).mT.contiguous()

    def crop(self, x: Tensor, blocks: int) -> Tensor:
        """Solutions ``(B N, S)`` as images ``(S, B, C, n, m)``."""
        grid = x.mT.reshape(x.shape[1], blocks, self.rows + self.down, self.width, -1)
        return grid[:, :, : self.rows, : self.columns].movedim(-1, 2)


_layout = functools.lru_cache(maxsize=32)(_Layout)


@functools.lru_cache(maxsize=4)
def _indices(layout: _Layout, blocks: int, device: torch.device) -> tuple[Tensor, Tensor]:
    crow, col = layout.indices(blocks)
    return crow.to(device), col.to(device)


@functools.cache
def _native(kind: str) -> bool:
    """Whether torch can solve sparse triangular systems on a type of device (it warns once that they are in beta)."""
    one = torch.ones(1, device=kind)
    index = torch.arange(2, dtype=torch.int32, device=kind)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            _solve_native(index, index[:1], one, one[:, None], True)
        except (AttributeError, RuntimeError):
            return False
    return True


def _solve_native(crow: Tensor, col: Tensor, values: Tensor, right: Tensor, transpose: bool) -> Tensor:
    matrix = torch.sparse_csr_tensor(crow, col, values, (len(right), len(right)), check_invariants=False)
    return torch.triangular_solve(right, matrix, upper=True, transpose=not transpose)[0]


def _solve_scipy(crow: Tensor, col: Tensor, values: Tensor, right: Tensor, transpose: bool) -> Tensor:
    triple = (values.numpy(force=True), col.numpy(force=True), crow.numpy(force=True))
    upper = scipy.sparse.csr_array(triple, shape=(len(right), len(right)))
    matrix = upper if transpose else upper.T.tocsr()
    found = scipy.sparse.linalg.spsolve_triangular(matrix, right.numpy(force=True), lower=not transpose)
    return torch.from_numpy(found).to(right)


def _solve(
    d: Tensor, w: Tensor, u: Tensor, stencil: Stencil, transpose: bool, kept: Entries | None
) -> Tensor:
    """L^{-T} u where `transpose`, otherwise L^{-1} u."""
    shape = d.shape[-3:]
    batch, full = common_batch(d, w), common_batch(d, w, u)
    own = len(batch)
    while own and batch[len(batch) - own] == 1:  # leading axes along which the matrix is constant
        own -= 1
    samples, batch = math.prod(full[: len(full) - own]), full[len(full) - own :]
    blocks = math.prod(batch)
    out = torch.empty((samples, blocks, *shape), dtype=torch.promote_types(u.dtype, d.dtype), device=u.device)
    right = u.expand(*full, *shape).reshape(out.shape)
    layout = _layout(stencil, tuple(shape))
    d, w = _blocks(d, batch), _blocks(w, batch)
    entries = None if kept is None else kept.of(layout, d, w)
    solve = _solve_native if _native(u.device.type) else _solve_scipy
    most = max(1, _CHUNK // layout.unknowns) if u.device.type == "cpu" else blocks
    crow, col = _indices(layout, min(most, 2 ** max(blocks - 1, 0).bit_length()), u.device)
    for part in (slice(start, start + most) for start in range(0, blocks if samples else 0, most)):
        values = layout.values(d[part], w[part]) if entries is None else entries[part]
        count = len(values)
        found = solve(
            crow[: count * layout.unknowns + 1],
            col[: count * layout.entries],
            values.flatten(),
            layout.pad(right[:, part]).to(values.dtype),
            transpose,
        )
        out[:, part] = layout.crop(found, count)
    return out.reshape(*full, *shape)


def _blocks(t: Tensor, batch: torch.Size) -> Tensor:
    """A parameter ``(*axes, *, n, m)`` as ``(prod(batch), *, n, m)``."""
    if t.ndim - 3 > len(batch):
        t = t.reshape(t.shape[t.ndim - 3 - len(batch) :])  # other leading axes have one entry
    return t.expand(*batch, *t.shape[-3:]).reshape(math.prod(batch), *t.shape[-3:])


class _Solve(Function):
    @staticmethod
    def forward(d: Tensor, w: Tensor, u: Tensor, *how: Any) -> Tensor:
        return _solve(d, w, u, *how)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        d, w, u, ctx.stencil, ctx.transpose, ctx.kept = inputs
        ctx.save_for_backward(d, w, output)
        ctx.save_for_forward(d, w, output)
        ctx.shape = u.shape

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        d, w, x = ctx.saved_tensors
        needs = ctx.needs_input_grad
        back = solve_factor(d, w, g, ctx.stencil, not ctx.transpose, ctx.kept)
        column, row = (back, x) if ctx.transpose else (x, back)
        return (
            -(back * x).sum_to_size(d.shape) if needs[0] else None,
            -outer(column, row, ctx.stencil, w.shape[:-3]) if needs[1] else None,
            back.sum_to_size(ctx.shape) if needs[2] else None,
            *(None,) * 3,
        )

    @staticmethod
    def jvp(ctx: Any, dd: Tensor | None, dw: Tensor | None, du: Tensor | None, *_: None) -> Tensor:
        d, w, x = ctx.saved_tensors
        right = torch.zeros_like(x) if du is None else du
        if dw is not None:
            right = right - multiply_factor(dd, dw, x, ctx.stencil, ctx.transpose)
        elif dd is not None:
            right = right - dd * x
        return solve_factor(d, w, right, ctx.stencil, ctx.transpose, ctx.kept)

    @staticmethod
    def vmap(info: Any, in_dims: Any, *args: Any) -> tuple[Tensor, int]:
        *tensors, stencil, transpose, kept = args
        same = in_dims[0] is None and in_dims[1] is None
        diagonal, w, other = to_front(in_dims, *tensors)
        return solve_factor(diagonal, w, other, stencil, transpose, kept if same else None), 0


def solve_factor(
    d: Tensor, w: Tensor, u: Tensor, stencil: Stencil, transpose: bool, kept: Entries | None = None
) -> Tensor:
    """L^{-T} u where `transpose`, otherwise L^{-1} u, ``(*batch, C, n, m)``; differentiable in everything.

    Parameters
    ----------
    d : Tensor
        Diagonal of L, positive, ``(*batch, C, n, m)``.
    w : Tensor
        Weights, ``(*batch, K, n, m)``.
    u : Tensor
        Right-hand sides, ``(*batch, C, n, m)``, perhaps with more batch axes in front.
    stencil : Stencil
        Where the weights belong.
    transpose : bool
        Whether to solve with L^T.
    kept : Entries, optional
        Keeps the matrix for further solves with the same d and w.
    """
    if not recorded(d, w, u):
        return _solve(d, w, u, stencil, transpose, kept)
    return _Solve.apply(d, w, u, stencil, transpose, kept)
