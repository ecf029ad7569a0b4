"""The pixels that a sparse triangular factor connects: later ones of a neighbourhood, within and across channels."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from genreg.operators.bridge.arguments import integer, integers
from genreg.operators.bridge.arrays import check_memory


def neighbourhood(distance: int, dilation: int | Sequence[int] = 1) -> list[tuple[int, int]]:
    r"""Offsets (rows, columns) to the later half of a square neighbourhood, in raster order.

    Parameters
    ----------
    distance : int
        d, so that the neighbourhood has :math:`(2 d + 1)^2` pixels, :math:`((2 d + 1)^2 - 1) / 2` of them later; 0
        for none.
    dilation : int or sequence of int
        Factor of the offsets; for several, the union of the neighbourhoods.

    Returns
    -------
    list of tuple of int
        The offsets, of which K is the number.

    Raises
    ------
    TypeError, ValueError
        If distance is not a non-negative integer, or a dilation not a positive one.
    """
    distance = integer(distance, "distance", minimum=0)
    if np.ndim(dilation):
        factors = integers(dilation, "dilation", minimum=1)
    else:
        factors = (integer(dilation, "dilation", minimum=1),)
    check_memory((2 * distance + 1, distance + 1, 16), torch.int64, "distance", distance)
    near = [(a, b) for a in range(distance + 1) for b in range(-distance, distance + 1) if (a, b) > (0, 0)]
    return sorted({(f * a, f * b) for f in factors for a, b in near})


class Term(NamedTuple):
    """An off-diagonal entry of L: channels c (its column) and c' (its row), and the offset of the pixel."""

    column: int
    row: int
    down: int
    right: int


class Stencil(tuple[Term, ...]):
    """The off-diagonal entries of L.

    First those of the neighbourhood in every channel; then, of a coupled stencil, those of the neighbourhood in the
    other channels; last the pairs of channels of a pixel.
    """

    @classmethod
    def of(
        cls, channels: int, distance: int, dilation: int | Sequence[int], coupled: bool = False
    ) -> Stencil:
        """The stencil of a neighbourhood, see `neighbourhood`; `coupled` if it joins different channels, too."""
        near = neighbourhood(distance, dilation)
        every = range(channels)
        own = [Term(c, c, *offset) for c in every for offset in near]
        across = [Term(c, o, *offset) for c in every for o in every if o != c for offset in near]
        pairs = [Term(c, other, 0, 0) for c in every for other in range(c + 1, channels)]
        return cls([*own, *(across if coupled else []), *pairs])

    @functools.cached_property
    def offsets(self) -> list[tuple[int, int]]:
        """The neighbourhood, which is that of every channel."""
        return [(t.down, t.right) for t in self if t.column == t.row == 0]

    @functools.cached_property
    def pairs(self) -> list[tuple[int, int]]:
        """The pairs of channels of a pixel."""
        return [(t.column, t.row) for t in self if (t.down, t.right) == (0, 0)]

    @functools.cached_property
    def across(self) -> list[tuple[int, int, int]]:
        """The entries between different channels of different pixels: column, row, and the number of the offset."""
        number = {offset: k for k, offset in enumerate(self.offsets)}
        far = (t for t in self if t.column != t.row and (t.down, t.right) != (0, 0))
        return [(t.column, t.row, number[t.down, t.right]) for t in far]

    @functools.cached_property
    def reach(self) -> tuple[int, int]:
        """Largest offsets in rows and columns."""
        return max((a for a, _ in self.offsets), default=0), max((abs(b) for _, b in self.offsets), default=0)

    def by_offset(self, w: Tensor) -> tuple[Tensor, ...]:
        """The weights of every offset within a channel, ``(*batch, C, n, m)``."""
        if not self.offsets:
            return ()
        own = w.narrow(-3, 0, len(self) - len(self.across) - len(self.pairs))
        return own.unflatten(-3, (-1, len(self.offsets))).unbind(-3)

    def by_entry_across(self, w: Tensor) -> tuple[Tensor, ...]:
        """The weights of every entry of `across`, ``(*batch, n, m)``."""
        count = len(self.across)
        return w.narrow(-3, len(self) - count - len(self.pairs), count).unbind(-3) if count else ()

    def by_pair(self, w: Tensor) -> tuple[Tensor, ...]:
        """The weights of every pair of channels, ``(*batch, n, m)``."""
        return w.narrow(-3, len(self) - len(self.pairs), len(self.pairs)).unbind(-3) if self.pairs else ()
