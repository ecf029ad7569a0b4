r"""Solves with the sparse triangular factor of a neighbourhood, :math:`L x = u` and :math:`L^T x = u`.

L has a positive diagonal and the strictly lower part of `operators._stencil`. The system is handed to torch's sparse
triangular solve (MKL, cuSPARSE), as one block diagonal matrix in CSR format for a whole batch, or, where torch comes
without it, to SciPy. In the matrix the image has a margin at the right and at the bottom, of unknowns that are zero:
the weights that leave the image meet these, so that no entry has to be left out, the indices are the same for all
weights, and to fill in the values is one copy. Because the offsets point to later pixels, a margin at the right
serves both sides: what leaves a row on the left is at the end of the row above.
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

from genreg.operators._stencil import Stencil, _both, _to_front, gather, outer, scatter

__all__ = ["solve_factor"]


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
        channels, rows, columns = shape
        self.down, self.right = stencil.reach
        width = columns + self.right
        self.unknowns = (rows + self.down) * width * channels
        # for each channel what its rows hold: (offset of the unknown, which of diagonal and weights)
        entries = [
            sorted(
                [
                    (0, c),
                    *(
                        ((t.down * width + t.right) * channels + t.row - c, channels + k)
                        for k, t in enumerate(stencil)
                        if t.column == c
                    ),
                ]
            )
            for c in range(channels)
        ]
        self.order = [which for of_channel in entries for _, which in of_channel]
        counts = np.ones((rows + self.down, width, channels), dtype=np.int64)
        counts[:rows, :columns] = [len(of_channel) for of_channel in entries]
        self.crow = np.concatenate([[0], np.cumsum(counts)])
        self.col = np.repeat(np.arange(self.unknowns), counts.ravel())
        shifts = np.zeros(len(self.col), dtype=np.int64)
        row = counts[0].sum()
        pixel = np.array([shift for of_channel in entries for shift, _ in of_channel])
        for start in range(0, rows * row, row):
            shifts[start : start + columns * len(pixel)] = np.tile(pixel, columns)
        self.col += shifts
        self.rows, self.columns, self.row = rows, columns, int(row)

    def values(self, diagonal: Tensor, w: Tensor) -> Tensor:
        """The entries of L^T for ``(B, C, n, m)`` and ``(B, K, n, m)``, in the order of the matrix, ``(B, nnz)``."""
        batch, channels = diagonal.shape[:2]
        out = diagonal.new_ones((batch, len(self.col)))
        inner = out[:, : self.rows * self.row].view(batch, self.rows, self.row)
        inner = inner[..., : self.columns * len(self.order)].unflatten(-1, (self.columns, -1))
        place = 0
        while place < len(self.order):  # runs of neighbouring weights in one copy
            first = self.order[place]
            size = 1
            while first >= channels and self.order[place + size : place + size + 1] == [first + size]:
                size += 1
            source = (
                diagonal[:, first : first + 1] if first < channels else w[:, first - channels :][:, :size]
            )
            inner[..., place : place + size] = source.movedim(1, -1)
            place += size
        return out.flatten()

    def pad(self, u: Tensor) -> Tensor:
        """Images ``(S, B, C, n, m)`` as right-hand sides ``(B N, S)``."""
        channels_last = u.movedim(2, -1)
        padded = torch.nn.functional.pad(channels_last, (0, 0, 0, self.right, 0, self.down))
        return padded.reshape(len(u), -1).mT.contiguous()

    def crop(self, x: Tensor, shape: torch.Size) -> Tensor:
        """Solutions ``(B N, S)`` as images ``(S, B, C, n, m)``."""
        samples, batch, channels, rows, columns = shape
        grid = x.mT.reshape(samples, batch, rows + self.down, columns + self.right, channels)
        return grid[:, :, :rows, :columns].movedim(-1, 2).contiguous()


@functools.lru_cache(maxsize=16)
def _layout(stencil: Stencil, shape: tuple[int, int, int]) -> _Layout:
    return _Layout(stencil, shape)


@functools.lru_cache(maxsize=8)
def _indices(
    stencil: Stencil, shape: tuple[int, int, int], batch: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """The indices of the block diagonal matrix of a batch."""
    layout = _layout(stencil, shape)
    blocks = np.arange(batch)[:, None]
    crow = np.append((layout.crow[:-1] + blocks * len(layout.col)).ravel(), batch * len(layout.col))
    col = (layout.col + blocks * layout.unknowns).ravel()
    kind = np.int32 if max(crow[-1], batch * layout.unknowns) < 2**31 else np.int64
    return torch.from_numpy(crow.astype(kind)).to(device), torch.from_numpy(col.astype(kind)).to(device)


def _native(device: torch.device) -> bool:
    """Whether torch can solve sparse triangular systems there."""
    return device.type != "cpu" or torch.backends.mkl.is_available()


def _solve(diagonal: Tensor, w: Tensor, u: Tensor, stencil: Stencil, transpose: bool) -> Tensor:
    """L^{-T} u where `transpose`, otherwise L^{-1} u."""
    batch = torch.broadcast_shapes(diagonal.shape[:-3], w.shape[:-3])
    shape = diagonal.shape[-3:]
    full = torch.broadcast_shapes(batch, u.shape[:-3])
    own = len(batch)
    while own and batch[len(batch) - own] == 1:  # axes in front in which the matrix is the same
        own -= 1
    batch = full[len(full) - own :]
    samples, blocks = math.prod(full[: len(full) - len(batch)]), math.prod(batch)
    if 0 in (samples, blocks):
        return u.expand(*full, *shape).clone()
    layout = _layout(stencil, tuple(shape))  # type: ignore[arg-type]
    values = layout.values(
        _blocks(diagonal, batch),
        _blocks(w, batch),
    )
    rhs = u.expand(*full, *shape).reshape(samples, blocks, *shape)
    crow, col = _indices(stencil, tuple(shape), blocks, u.device)  # type: ignore[arg-type]
    size = blocks * layout.unknowns
    right = layout.pad(rhs)
    if _native(u.device):
        with warnings.catch_warnings():
            warnings.filterwarnings(
                "ignore", ".*(triangular_solve is deprecated|Sparse CSR tensor support).*"
            )
            matrix = torch.sparse_csr_tensor(crow, col, values, (size, size), check_invariants=False)
            found = torch.triangular_solve(right, matrix, upper=True, transpose=not transpose)[0]
    else:
        csr = scipy.sparse.csr_array((values.numpy(), col.numpy(), crow.numpy()), shape=(size, size))
        upper = csr if transpose else csr.T.tocsr()
        solved = scipy.sparse.linalg.spsolve_triangular(upper, right.numpy(), lower=not transpose)
        found = torch.from_numpy(solved).to(right.dtype)
    return layout.crop(found, rhs.shape).reshape(*full, *shape)


def _blocks(t: Tensor, batch: torch.Size) -> Tensor:
    """A parameter ``(*axes, *, n, m)`` as ``(prod(batch), *, n, m)``."""
    if t.ndim - 3 > len(batch):
        t = t.reshape(t.shape[t.ndim - 3 - len(batch) :])  # the axes in front have one entry
    return t.expand(*batch, *t.shape[-3:]).reshape(-1, *t.shape[-3:])


class _Solve(Function):
    @staticmethod
    def forward(diagonal: Tensor, w: Tensor, u: Tensor, stencil: Stencil, transpose: bool) -> Tensor:  # type: ignore[override]
        return _solve(diagonal, w, u, stencil, transpose)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        diagonal, w, _, ctx.stencil, ctx.transpose = inputs
        ctx.save_for_backward(diagonal, w, output)
        ctx.save_for_forward(diagonal, w, output)
        ctx.shape = inputs[2].shape

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:  # type: ignore[override]
        diagonal, w, x = ctx.saved_tensors
        s = ctx.stencil
        back = solve_factor(diagonal, w, g, s, not ctx.transpose)
        column, row = (back, x) if ctx.transpose else (x, back)
        return (
            -(back * x).sum_to_size(diagonal.shape) if ctx.needs_input_grad[0] else None,
            -outer(column, row, s, w.shape[:-3]) if ctx.needs_input_grad[1] else None,
            back.sum_to_size(ctx.shape) if ctx.needs_input_grad[2] else None,
            None,
            None,
        )

    @staticmethod
    def jvp(ctx: Any, dd: Tensor | None, dw: Tensor | None, du: Tensor | None, *_: None) -> Tensor:  # type: ignore[override]
        diagonal, w, x = ctx.saved_tensors
        right = torch.zeros_like(x) if du is None else du
        if dd is not None:
            right = right - dd * x
        if dw is not None:
            right = right - _both(gather if ctx.transpose else scatter, (w, dw), (x, None), ctx.stencil)
        return solve_factor(diagonal, w, right, ctx.stencil, ctx.transpose)

    @staticmethod
    def vmap(
        info: Any, in_dims: Any, diagonal: Tensor, w: Tensor, u: Tensor, stencil: Stencil, transpose: bool
    ) -> tuple[Tensor, int]:  # type: ignore[override]
        return solve_factor(*_to_front(info, in_dims, diagonal, w, u), stencil, transpose), 0


def solve_factor(diagonal: Tensor, w: Tensor, u: Tensor, stencil: Stencil, transpose: bool) -> Tensor:
    """L^{-T} u where `transpose`, otherwise L^{-1} u, ``(*batch, C, n, m)``; differentiable in everything.

    Parameters
    ----------
    diagonal : Tensor
        Diagonal of L, positive, ``(*batch, C, n, m)``.
    w : Tensor
        Weights, ``(*batch, K, n, m)``.
    u : Tensor
        Right-hand sides, ``(*batch, C, n, m)``, perhaps with more batch axes in front.
    stencil : Stencil
        Where the weights belong.
    transpose : bool
        Whether to solve with L^T.
    """
    return _Solve.apply(diagonal, w, u, stencil, transpose)  # type: ignore[no-untyped-call]
