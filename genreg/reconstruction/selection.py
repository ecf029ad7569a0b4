"""The parameters chosen in a sweep, and tables in Markdown."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from genreg.solvers import Status


@dataclass(frozen=True)
class Best:
    """The one pair of parameters that is best on average over the images.

    Attributes
    ----------
    lam : float or Tensor
        λ; where it was chosen for every image, those, ``(B,)``.
    mu : float or None
        μ, None for a regulariser without it.
    mean, std : float
        Mean and standard deviation over the images of what was compared.
    """

    lam: float | Tensor
    mu: float | None
    mean: float
    std: float


@dataclass(frozen=True)
class Selection:
    """The parameters chosen for every image, with its reconstruction.

    Attributes
    ----------
    lam : Tensor
        λ, ``(B,)``.
    mu : Tensor or None
        μ, ``(B,)``; None for a regulariser without it.
    residual, level : Tensor
        Discrepancy and level of the noise, ``(B,)``.
    status : Tensor
        Status of the solver; for Morozov's principle `Status.LEVEL_NOT_REACHED` where no pair meets the level
        (the smallest discrepancy is chosen) and `Status.LEVEL_NOT_EXCEEDED` where the largest λ meets it; for
        the L-curve `Status.NO_CORNER` where it has none.
    psnr : Tensor or None
        ``(B,)``, where there is a reference.
    images : Tensor or None
        ``(B, *X.shape)``, where they were kept.
    """

    lam: Tensor
    mu: Tensor | None
    residual: Tensor
    level: Tensor
    status: Tensor
    psnr: Tensor | None = None
    images: Tensor | None = field(default=None, repr=False)

    def __str__(self) -> str:
        return markdown(
            [
                {
                    "image": k,
                    **({} if self.mu is None else {"μ": float(self.mu[k])}),
                    "λ": float(self.lam[k]),
                    "discrepancy / level": float(self.residual[k] / self.level[k]),
                    **({} if self.psnr is None else {"PSNR [dB]": float(self.psnr[k])}),
                    "status": Status(int(self.status[k])).name,
                }
                for k in range(len(self.lam))
            ]
        )


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """A table in Markdown, its columns aligned."""
    lines = [[name for name in rows[0]]]
    lines += [
        [f"{v:.4g}" if isinstance(v, float) and math.isfinite(v) else str(v) for v in row.values()]
        for row in rows
    ]
    widths = [max(len(cell) for cell in column) for column in zip(*lines, strict=True)]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |"
        for line in lines
    )
