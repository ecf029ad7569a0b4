"""What `sweep` returns: all problems of a parameter study, and ways to choose among them."""

from __future__ import annotations

import csv
import math
from collections import Counter
from dataclasses import dataclass
from os import PathLike
from typing import Any

import torch
from torch import Tensor

from genreg.reconstruction.selection import Best, Selection, markdown
from genreg.reconstruction.sweep_figures import sweep_figure
from genreg.solvers import Status
from genreg.solvers.parameter_choice.l_curve_corner import corner


@dataclass(frozen=True, repr=False)
class Sweep:
    r"""All reconstructions of B images with M values of μ and L values of λ.

    Attributes
    ----------
    lam : Tensor
        λ of every problem, ``(B, M, L)``: the grid, or with L = 1 what `principle` has chosen.
    mu : Tensor or None
        μ, ``(M,)``; None for a regulariser without it, or with one of its own for every image.
    tied : bool
        Whether μ is that of the regulariser, so that its term has the weight λ μ, or the weight of the term itself.
    principle : str or None
        How λ was chosen for every image and μ, None for a grid.
    residual : Tensor
        What the discrepancy principle compares with `level`, ``(B, M, L)``: for Gaussian noise
        :math:`\|A x - y\|_2^2`.
    level : Tensor
        Level of the noise, ``(B,)``: for Gaussian noise dim(Y) σ²; NaN where the fidelity does not know it.
    factor : float
        Factor on the level in Morozov's principle.
    value, penalty : Tensor
        Objective D + λ R, and R (its term with μ left out where that is not tied to λ), ``(B, M, L)``.
    status, iterations : Tensor
        `solvers.Status` and iterations of every problem, ``(B, M, L)``.
    time : float
        Wall-clock seconds.
    psnr : Tensor or None
        ``(B, M, L)`` in dB, where there is a reference.
    images : Tensor or None
        ``(B, M, L, *X.shape)``, where they are kept.
    reference : Tensor or None
        True images, ``(B, *X.shape)``.
    """

    lam: Tensor
    mu: Tensor | None
    tied: bool
    principle: str | None
    residual: Tensor
    level: Tensor
    factor: float
    value: Tensor
    penalty: Tensor
    status: Tensor
    iterations: Tensor
    time: float
    psnr: Tensor | None = None
    images: Tensor | None = None
    reference: Tensor | None = None

    @property
    def discrepancy(self) -> Tensor:
        """Residual over level, ``(B, M, L)``."""
        return self.residual / self.level[:, None, None]

    def best(self, by: str = "psnr") -> Best:
        """Find the pair (λ, μ) that is best on average over the images.

        Parameters
        ----------
        by : {"psnr", "discrepancy"}
            The largest mean PSNR, or the mean discrepancy over level nearest to `factor`.

        Returns
        -------
        Best

        Raises
        ------
        ValueError
            If `by` is neither, or the sweep has no reference, or the fidelity no level.
        """
        if by == "psnr":
            measure = self._psnr()
            mean = measure.mean(0)
            at = mean.nan_to_num(-torch.inf).argmax()
        elif by == "discrepancy":
            self._check_level()
            measure = self.discrepancy
            mean = measure.mean(0)
            at = (mean / self.factor).log().abs().nan_to_num(torch.inf).argmin()
        else:
            raise ValueError(f"by must be 'psnr' or 'discrepancy', got {by!r}")
        m, k = divmod(int(at), mean.shape[1])
        lam = self.lam[:, m, k]
        return Best(
            lam=float(lam[0]) if self.principle is None else lam,
            mu=None if self.mu is None else float(self.mu[m]),
            mean=float(mean[m, k]),
            std=float(measure[:, m, k].std(correction=0)),
        )

    def choose(self, kind: str, *, mu: float | None = None) -> Selection:
        """Choose λ and μ for every image.

        Parameters
        ----------
        kind : {"morozov", "l-curve", "psnr"}
            ``"morozov"``: the largest λ whose discrepancy meets the level, for the largest μ that has one; μ is
            decreased only where no λ meets the level, as in the code of Duff et al. ``"l-curve"``: the corner
            of the L-curve over λ, for one μ. ``"psnr"``: the best against the reference, to know what is
            attainable.
        mu : float, optional
            Only this μ of the sweep.

        Returns
        -------
        Selection

        Raises
        ------
        ValueError
            If `kind` or `mu` is unknown, there is no reference or no level, or not what the L-curve needs: a
            grid of at least 3 λ and one μ.
        """
        columns = slice(None) if mu is None else self._column(mu)
        status = self.status[:, columns]
        if kind == "morozov":
            at, status = self._by_morozov(columns)
        elif kind == "l-curve":
            at, status = self._by_l_curve(columns)
        elif kind == "psnr":
            at = self._psnr()[:, columns].nan_to_num(-torch.inf).flatten(1).argmax(1).to(status.device)
            status = status.flatten(1).gather(1, at[:, None])[:, 0]
        else:
            raise ValueError(f"kind must be 'morozov', 'l-curve' or 'psnr', got {kind!r}")

        def pick(values: Tensor) -> Tensor:
            return values[:, columns].flatten(1, 2)[
                torch.arange(len(at), device=values.device), at.to(values.device)
            ]

        return Selection(
            lam=pick(self.lam),
            mu=None if self.mu is None else pick(self.mu[None, :, None].expand_as(self.lam)),
            residual=pick(self.residual),
            level=self.level,
            status=status,
            psnr=None if self.psnr is None else pick(self.psnr),
            images=None if self.images is None else pick(self.images),
        )

    def _column(self, mu: float) -> slice:
        index = (
            [] if self.mu is None else [m for m, own in enumerate(self.mu.tolist()) if math.isclose(own, mu)]
        )
        if len(index) != 1:
            has = "none" if self.mu is None else self.mu.tolist()
            raise ValueError(f"mu must be one of the sweep, {has}, got {mu!r}")
        return slice(index[0], index[0] + 1)

    def _psnr(self) -> Tensor:
        if self.psnr is None:
            raise ValueError("psnr needs a reference: give sweep the arguments reference and data_range")
        return self.psnr

    def _check_level(self) -> None:
        if self.level.isnan().any():
            raise ValueError(
                "discrepancies need a level of the noise, which the fidelity of this sweep does not know"
            )

    def _by_morozov(self, columns: slice) -> tuple[Tensor, Tensor]:
        self._check_level()
        residual = self.residual[:, columns].nan_to_num(torch.inf)
        count = residual.shape[1] * residual.shape[2]
        meets = (residual <= self.factor * self.level[:, None, None]).flatten(1)
        at = count - 1 - meets.flip(1).to(torch.uint8).argmax(1)  # the last, μ being the slower index
        at = torch.where(meets.any(1), at, residual.flatten(1).argmin(1))
        status = self.status[:, columns].flatten(1).gather(1, at[:, None])[:, 0]
        if self.principle is None:
            largest = at % residual.shape[2] == residual.shape[2] - 1
            status = torch.where(largest, Status.LEVEL_NOT_EXCEEDED, status)
        return at, torch.where(meets.any(1), status, Status.LEVEL_NOT_REACHED)

    def _by_l_curve(self, columns: slice) -> tuple[Tensor, Tensor]:
        lam, status = self.lam[:, columns], self.status[:, columns]
        if self.mu is not None and lam.shape[1] > 1:
            raise ValueError(f"the L-curve chooses λ for one mu: give one of {self.mu.tolist()}")
        if self.principle == "l-curve":
            return torch.zeros_like(status[:, 0, 0]), status[:, 0, 0]
        if lam.shape[2] < 3:
            raise ValueError(f"the L-curve needs a grid of at least 3 λ, got {lam.shape[2]}")
        misfit = self.value - self.lam * self.penalty
        corners = corner(lam[:, 0], misfit[:, columns][:, 0], self.penalty[:, columns][:, 0])
        at = torch.tensor([c.index for c in corners], device=status.device)
        found = torch.tensor([c.found for c in corners], device=status.device)
        own = status[:, 0].gather(1, at[:, None])[:, 0]
        return at, torch.where(found, own, Status.NO_CORNER)

    def table(self) -> list[dict[str, Any]]:
        """All problems as rows, ``B * M * L`` of them: image, mu, lam, residual, discrepancy, ..., status."""
        numbers = {"lam": self.lam, "residual": self.residual, "discrepancy": self.discrepancy}
        numbers |= {"value": self.value, "penalty": self.penalty, "iterations": self.iterations}
        if self.psnr is not None:
            numbers["psnr"] = self.psnr
        columns = {name: t.flatten().tolist() for name, t in numbers.items()}
        columns["status"] = [Status(s).name for s in self.status.flatten().tolist()]
        B, M, L = self.lam.shape
        mus = [None] * M if self.mu is None else self.mu.tolist()
        places = [{"image": b, "mu": mus[m]} for b in range(B) for m in range(M) for _ in range(L)]
        return [place | {name: c[k] for name, c in columns.items()} for k, place in enumerate(places)]

    def to_csv(self, path: str | PathLike[str]) -> None:
        """Write the rows of `table` to a file.

        Parameters
        ----------
        path : str or path
            The file.
        """
        rows = self.table()
        with open(path, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)

    def show(self, *, image: int = 0, columns: int = 8) -> Any:
        """Draw discrepancy and PSNR against λ, a line for every μ, and images along λ.

        Where λ was chosen, they are drawn against μ.

        Parameters
        ----------
        image : int
            The image of the strip.
        columns : int
            Images of the strip at most.

        Returns
        -------
        matplotlib.figure.Figure
        """
        return sweep_figure(self, image, columns)

    def __repr__(self) -> str:
        B, M, L = self.lam.shape
        return f"Sweep({B} images, {M} mu, {self.principle or L} lam)"

    def __str__(self) -> str:
        """Means over the images of every pair of parameters, as a table in Markdown."""
        B, M, L = self.lam.shape
        rows = []
        for m in range(M):
            for k in range(L):
                at = (slice(None), m, k)
                lam = self.lam[at]
                low, high = f"{float(lam.min()):.3g}", f"{float(lam.max()):.3g}"
                row: dict[str, Any] = {} if self.mu is None else {"μ": float(self.mu[m])}
                row["λ"] = low if low == high else f"{low} to {high}"
                row["discrepancy / level"] = float(self.discrepancy[at].mean())
                row["meet the level"] = f"{int((self.residual[at] <= self.factor * self.level).sum())} of {B}"
                if self.psnr is not None:
                    mean, std = self.psnr[at].mean(), self.psnr[at].std(correction=0)
                    row["PSNR [dB]"] = f"{float(mean):.2f} ± {float(std):.2f}"
                counts = Counter(Status(s).name for s in self.status[at].tolist())
                row["status"] = ", ".join(f"{n} {name}" for name, n in counts.items())
                rows.append(row)
        return markdown(rows)
