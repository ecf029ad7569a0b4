r"""The discrepancy principle, for a batch of problems at once.

Morozov's principle takes the largest λ whose reconstruction explains the data to the level of the noise,
:math:`\|A x_\lambda - y\|^2 \le c \, \dim(Y) \sigma^2` (a complex number
counts as two real ones). The residual grows with λ, so the search keeps, for
every sample, the largest λ known to meet the level and the smallest known to miss it, and tries several λ
between them (or a decade apart, while there is none on one side) in one batched solve that starts from the
nearest solution known.

References
----------
V. A. Morozov (1966), On the solution of functional equations by the method of regularization, Soviet Math.
Dokl. 7.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from genreg.operators.bridge.arguments import described, integer, number
from genreg.operators.bridge.arrays import array
from genreg.operators.bridge.caller_data import per_sample_number
from genreg.solvers.driver.solution import Status
from genreg.solvers.problem.objective import Blocks
from genreg.solvers.problem.trees import map_tensors


@dataclass(frozen=True)
class Trial:
    """Reconstructions of B samples with K parameters each.

    Attributes
    ----------
    blocks : dict of str to Tensor
        ``(B, K, *shape)``.
    residual : Tensor
        Sum of squares ‖Ax - y‖², or another measure of the misfit, ``(B, K)``.
    value, penalty : Tensor
        Objective and regulariser, ``(B, K)``.
    status, iterations : Tensor
        Status and iterations of the solver, ``(B, K)``.
    """

    blocks: Blocks
    residual: Tensor
    value: Tensor
    penalty: Tensor
    status: Tensor
    iterations: Tensor

    def map(self, fn: Callable[..., Tensor], *others: Trial) -> Trial:
        """Apply `fn` to every tensor of these trials."""
        return map_tensors(fn, self, *others)


@dataclass(frozen=True)
class Choice:
    """The parameter chosen for every sample, with its reconstruction.

    Attributes
    ----------
    lam, residual, value, penalty : Tensor
        λ, residual, objective and regulariser, ``(B,)``.
    blocks : dict of str to Tensor
        ``(B, *shape)``.
    status : Tensor
        Status of the solver at the chosen λ, or `Status.LEVEL_NOT_REACHED`, `Status.LEVEL_NOT_EXCEEDED`.
    iterations : Tensor
        Iterations of the solve that gave the result.
    tried_lam, tried_residual : Tensor
        All λ tried and their residuals, ``(B, n)``.
    """

    lam: Tensor
    residual: Tensor
    value: Tensor
    penalty: Tensor
    blocks: Blocks
    status: Tensor
    iterations: Tensor
    tried_lam: Tensor
    tried_residual: Tensor

    @classmethod
    def single(cls, lam: Tensor, trial: Trial) -> Choice:
        """The choice of the only parameter tried, ``(B,)``."""
        return cls(
            lam=lam,
            residual=trial.residual[:, 0],
            value=trial.value[:, 0],
            penalty=trial.penalty[:, 0],
            blocks={name: v[:, 0] for name, v in trial.blocks.items()},
            status=trial.status[:, 0],
            iterations=trial.iterations[:, 0],
            tried_lam=lam[:, None],
            tried_residual=trial.residual,
        )


def morozov(
    solve: Callable[[Tensor, Tensor, Blocks | None], Trial],
    level: Tensor,
    *,
    start: float | Tensor = 1.0,
    lam_range: tuple[float, float] | None = None,
    candidates: int = 5,
    rtol: float = 0.02,
    max_rounds: int = 12,
) -> Choice:
    r"""Find, for every sample, the largest λ whose residual is at most `level`.

    Parameters
    ----------
    solve : callable
        ``solve(samples, lam, init)`` reconstructs the samples with these numbers, b of them, with the
        parameters ``lam``, ``(b, K)``, from the blocks ``init``, ``(b, K, *shape)``, or from its own starting
        point for None.
    level : Tensor
        Residual to be met, ``(B,)``: :math:`c \dim(Y) \sigma^2`.
    start : float or Tensor
        Centre of the first λ tried, or one for every sample, ``(B,)``: a λ of the right order, such as the ratio of
        the two terms at a rough reconstruction.
    lam_range : tuple of float, optional
        Smallest and largest λ that are tried; by default 10⁻⁸ and 10⁸ times `start`.
    candidates : int
        K, the number of λ tried at once for every sample.
    rtol : float
        The search ends when the residual is within this fraction below the level, or the λ are this close.
    max_rounds : int
        Batched solves at most.

    Returns
    -------
    Choice
        Where no λ meets the level: the λ of the smallest residual, with `Status.LEVEL_NOT_REACHED`. Where all
        meet it: the largest λ, with `Status.LEVEL_NOT_EXCEEDED`.

    Raises
    ------
    TypeError, ValueError
        If `level`, `start`, `lam_range`, `candidates`, `rtol` or `max_rounds` has the wrong type or is out of range.
    """
    centre = per_sample_number(start, "start", level)
    if lam_range is None:
        low, high = 1e-8 * centre, 1e8 * centre
    else:
        low, high = (torch.full_like(centre, bound) for bound in checked_range(lam_range))
        centre = centre.clamp(low, high)
    candidates, max_rounds, rtol = check_search(candidates, max_rounds, rtol)
    if not bool((level > 0).all()):
        raise ValueError(f"level must be positive, got {level.tolist()}")
    steps = torch.linspace(
        -(candidates - 1) / 2, (candidates - 1) / 2, candidates, dtype=level.dtype, device=level.device
    )
    lam = (centre[:, None] * 10**steps).clamp(low[:, None], high[:, None])  # (B, K)
    everyone = torch.arange(len(level), device=level.device)
    search = _Search(level, low, high, rtol, lam, solve(everyone, lam, None))
    for _ in range(max_rounds - 1):
        samples = (~search.done()).nonzero().squeeze(1)
        if not len(samples):
            break
        lam = search.propose(candidates)[samples]
        search.learn(samples, lam, solve(samples, lam, search.nearest(samples, lam)))
    return search.choice()


def checked_range(lam_range: Any) -> tuple[float, float]:
    """Return the smallest and the largest λ of a search.

    Raises
    ------
    TypeError
        If `lam_range` holds no real numbers.
    ValueError
        If it is no pair 0 < low < high of finite ones.
    """
    wanted = "a pair of numbers 0 < low < high"
    bounds = array(lam_range, "lam_range", complex=False, wanted=wanted).double().flatten().tolist()
    if len(bounds) != 2 or not 0 < bounds[0] < bounds[1] < math.inf:
        raise ValueError(f"lam_range must be {wanted}, got {described(lam_range)}")
    return bounds[0], bounds[1]


def check_search(candidates: Any, max_rounds: Any, rtol: Any) -> tuple[int, int, float]:
    """Return the settings of a search for λ, checked.

    Raises
    ------
    TypeError, ValueError
        If one is no number or out of range.
    """
    return (
        integer(candidates, "candidates", minimum=2),
        integer(max_rounds, "max_rounds", minimum=1),
        number(rtol, "rtol", above=0, below=1),
    )


def extended(
    lam: Tensor, trial: Trial, samples: Tensor, new_lam: Tensor, new: Trial, *, repeated: Tensor
) -> tuple[Tensor, Trial]:
    """Append trials of some samples; the others repeat one of theirs, so that the table stays rectangular.

    Parameters
    ----------
    lam, trial
        All trials so far, ``(B, n)``.
    samples : Tensor
        The samples, b of them.
    new_lam, new
        Their new trials, ``(b, K)``.
    repeated : Tensor
        Which of its trials a sample repeats, ``(B,)``.
    """
    rows = torch.arange(len(lam), device=lam.device)[:, None]

    def append(old: Tensor, fresh: Tensor) -> Tensor:
        same = old[rows, repeated[:, None].expand(-1, fresh.shape[1])]  # (B, K, ...)
        return torch.cat((old, same.index_copy(0, samples, fresh)), 1)

    return map_tensors(append, (lam, trial), (new_lam, new))


class _Search:
    """All that has been tried, and what it says about every sample."""

    def __init__(
        self, level: Tensor, low: Tensor, high: Tensor, rtol: float, lam: Tensor, trial: Trial
    ) -> None:
        self.level, self.low, self.high, self.rtol = level, low, high, rtol
        self.rows = torch.arange(level.shape[0], device=level.device)
        self.lam, self.trial = lam, trial
        self._judge()

    def learn(self, samples: Tensor, lam: Tensor, trial: Trial) -> None:
        """Add trials of some samples."""
        self.lam, self.trial = extended(self.lam, self.trial, samples, lam, trial, repeated=self.best)
        self._judge()

    def _judge(self) -> None:
        residual = self.trial.residual.nan_to_num(torch.inf)  # (B, n)
        meets = residual <= self.level[:, None]
        self.meets_any, self.misses_any = meets.any(1), (~meets).any(1)
        self.lower = torch.where(meets, self.lam, 0.0).amax(1)  # largest λ that meets the level, 0 if none
        above = ~meets & (self.lam > self.lower[:, None])
        self.upper = torch.where(above, self.lam, torch.inf).amin(1)  # smallest λ above it that misses
        largest = torch.where(meets, self.lam, -1.0).argmax(1)
        self.best = torch.where(self.meets_any, largest, residual.argmin(1))
        # The residual has settled above the level: it has fallen, and a smaller λ changes nothing any more. Where it
        # has not fallen yet, as for every λ above the one that makes the image constant, the search goes on.
        lowest = residual.gather(1, self.lam.argsort(1)[:, :2])
        fallen = lowest[:, 0] < (1 - 1e-2) * residual.amax(1)
        still = lowest[:, 0] >= (1 - 1e-3) * lowest[:, 1]
        settled = (still & fallen) | (self.lam.amin(1) <= self.low)
        self.settled = ~self.meets_any & settled

    def done(self) -> Tensor:
        close = self.trial.residual[self.rows, self.best] >= (1 - self.rtol) * self.level
        narrow = self.upper <= (1 + self.rtol) * self.lower
        exhausted = ~torch.isfinite(self.upper) & (self.lower >= self.high)
        return (self.meets_any & (close | narrow | exhausted)) | self.settled

    def propose(self, count: int) -> Tensor:
        """Parameters to try next, ``(B, count)``: inside the bracket, or decades beyond its open end."""
        k = torch.arange(1, count + 1, dtype=self.level.dtype, device=self.level.device)
        lower = torch.where(self.meets_any, self.lower, self.upper / 10 ** (count + 1.0))
        upper = torch.where(torch.isfinite(self.upper), self.upper, self.lower * 10 ** (count + 1.0))
        fraction = k / (count + 1)
        lam = lower[:, None].log() * (1 - fraction) + upper[:, None].log() * fraction
        return lam.exp().clamp(self.low[:, None], self.high[:, None])

    def nearest(self, samples: Tensor, lam: Tensor) -> Blocks:
        """Blocks of the trials nearest to the parameters ``lam`` of some samples."""
        distance = (self.lam[samples, None, :].log() - lam[:, :, None].log()).abs()
        index = distance.argmin(2)
        return {name: v[samples[:, None], index] for name, v in self.trial.blocks.items()}

    def choice(self) -> Choice:
        at = (self.rows, self.best)
        status = self.trial.status[at]
        status = torch.where(~self.meets_any, Status.LEVEL_NOT_REACHED, status)
        status = torch.where(~self.misses_any, Status.LEVEL_NOT_EXCEEDED, status)
        return Choice(
            lam=self.lam[at],
            residual=self.trial.residual[at],
            value=self.trial.value[at],
            penalty=self.trial.penalty[at],
            blocks={name: v[at] for name, v in self.trial.blocks.items()},
            status=status,
            iterations=self.trial.iterations[at],
            tried_lam=self.lam,
            tried_residual=self.trial.residual,
        )
