r"""Finite differences along one axis, with every boundary treatment of ODL, as fast stencils.

The matrix of a difference along one axis has the same few entries in every row, except for a few rows at each
end. The entries are read off ODL's own `finite_diff`, applied to a small identity matrix, and those of the transpose in
the same way. Values and adjoints thus agree with ODL by construction.
"""

from __future__ import annotations

import functools
import warnings
from dataclasses import dataclass, replace

import numpy as np
import torch
from odl.core.discr.diff_ops import finite_diff
from torch import Tensor

# Length of the model from which stencils are read off. Boundary rows reach at most 4 entries from either end;
# an axis shorter than this, where the two ends could meet, is treated with its dense matrix.
_MODEL = 12

Row = tuple[tuple[int, float], ...]


@dataclass(frozen=True, eq=False)
class Stencil:
    """A matrix ``scale * D`` that acts along one axis, D having the same entries in almost every row.

    Attributes
    ----------
    scale : float
        Factor by which the first of the taps becomes 1. `apply` does not multiply by it: the caller may combine it
        with others.
    taps : tuple of (offset, coefficient)
        Interior rows: ``(D x)[i] = sum(c * x[i + o] for o, c in taps)``; the first coefficient is 1.
    edges : tuple of (row, ((column, coefficient), ...))
        The other rows; negative rows and columns count from the end.
    dense : ndarray or None
        D itself, instead of taps and edges, for short axes.
    lead, trail : int
        Number of rows at either end whose taps would reach outside.
    """

    scale: float
    taps: Row = ()
    edges: tuple[tuple[int, Row], ...] = ()
    dense: np.ndarray | None = None
    lead: int = 0
    trail: int = 0

    def apply(self, x: Tensor, axis: int, out: Tensor) -> None:
        """Write D x along `axis` (negative) into `out`, which must not overlap `x`."""
        if self.dense is not None:
            matrix = torch.as_tensor(self.dense, dtype=x.dtype, device=x.device)
            out.copy_((x.movedim(axis, -1) @ matrix.T).movedim(-1, axis))
            return
        first, count = self.lead, x.shape[axis] - self.lead - self.trail
        (o1, _), (o2, c2), *others = self.taps
        rows = out.narrow(axis, first, count)
        torch.add(x.narrow(axis, first + o1, count), x.narrow(axis, first + o2, count), alpha=c2, out=rows)
        for o, c in others:
            rows.add_(x.narrow(axis, first + o, count), alpha=c)
        for row, entries in self.edges:
            line = out.select(axis, row)
            if not entries:
                line.zero_()
                continue
            (column, c), *others = entries
            if c == 1.0:
                line.copy_(x.select(axis, column))
            else:
                torch.mul(x.select(axis, column), c, out=line)
            for column, c in others:
                line.add_(x.select(axis, column), alpha=c)

    def negated(self) -> Stencil:
        """Return the same matrix with the opposite sign in its scale; itself if the first tap could not be 1."""
        first = next((tap for tap in self.taps if tap[1] == -1.0), None)
        if first is None:
            return self
        taps = (first, *(tap for tap in self.taps if tap is not first))
        edges = tuple((row, tuple((j, -c) for j, c in entries)) for row, entries in self.edges)
        return replace(self, scale=-self.scale, taps=tuple((o, -c) for o, c in taps), edges=edges)


@functools.lru_cache(maxsize=256)
def stencil(length: int, kind: str, pad_mode: str, transposed: bool) -> Stencil:
    """Return the stencil of a difference of unit spacing.

    Parameters
    ----------
    length : int
        Number of points of the axis.
    kind : str
        "forward", "backward", "central", or "second" for forward minus backward.
    pad_mode : str
        Boundary treatment, one of those of ODL's `finite_diff`, with a constant of 0.
    transposed : bool
        Whether to return the transposed matrix.
    """
    model = min(length, _MODEL)
    if kind == "second":
        matrix = _matrix(model, "forward", pad_mode) - _matrix(model, "backward", pad_mode)
    else:
        matrix = _matrix(model, kind, pad_mode)
    if transposed:
        matrix = matrix.T
    if length < _MODEL:
        return Stencil(1.0, dense=np.ascontiguousarray(matrix))
    return _read_off(matrix)


def _matrix(length: int, method: str, pad_mode: str) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Very short array")
        return finite_diff(np.eye(length), axis=0, method=method, pad_mode=pad_mode)


def _read_off(matrix: np.ndarray) -> Stencil:
    n = len(matrix)
    middle = n // 2
    taps = [(int(j) - middle, float(matrix[middle, j])) for j in np.flatnonzero(matrix[middle])]
    taps.sort(key=lambda tap: -tap[1])  # a positive coefficient first: + 1 and - 1 become one subtraction
    scale = taps[0][1]
    lead, trail = max(0, -min(o for o, _ in taps)), max(0, *(o for o, _ in taps))
    edges = []
    for i, row in enumerate(matrix):
        regular = np.zeros(n)
        for o, c in taps:
            if 0 <= i + o < n:
                regular[i + o] = c
        if not (lead <= i < n - trail and np.array_equal(row, regular)):
            entries = tuple((_from_nearer_end(int(j), n), float(row[j]) / scale) for j in np.flatnonzero(row))
            edges.append((_from_nearer_end(i, n), entries))
    return Stencil(scale, tuple((o, c / scale) for o, c in taps), tuple(edges), lead=lead, trail=trail)


def _from_nearer_end(i: int, n: int) -> int:
    return i if i < n // 2 else i - n
