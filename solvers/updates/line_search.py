r"""Backtracking line search, for every sample of a batch by itself.

A trial point is :math:`v^+ = \mathrm{prox}_{\tau g}(v - \tau \nabla H(v))`, with :math:`d = v^+ - v`. Two
rules:

*growth* (the default of the proximal algorithms): accept when

.. math:: H(v^+) \le H(v) + \langle \nabla H(v), d \rangle + \tfrac{1}{2 \tau} \|d\|^2,

which without a prox is the condition of algorithms 1 and 2 of Duff, Campbell and Ehrhardt (2021), and grow τ
after a success;

*spectral*: try the step of Barzilai and Borwein,
:math:`\tau = \|d\|^2 / \langle d, \Delta \nabla H \rangle`, and accept when the objective falls by
:math:`10^{-4} \|d\|^2 / (2 \tau)` (monotone SpaRSA).

Near a minimiser both differences drown in rounding. A trial whose value is within some ten units of rounding
of :math:`|H|`, or differs by far more than the slopes at both ends allow (where H is a small difference of large
numbers, its rounding is larger), is therefore judged by gradients instead,
:math:`\langle \nabla H(v^+) - \nabla H(v), d \rangle \le \|d\|^2 / \tau` (or ≤ 1.9999 times that, for the spectral
rule): the same condition to second order, without cancellation. So float32 does not stall at the optimum, and values
do not drift upwards.

References
----------
M. Duff, N. D. F. Campbell, M. J. Ehrhardt (2021), arXiv:2107.11191.
S. J. Wright, R. D. Nowak, M. A. T. Figueiredo (2009), Sparse reconstruction by separable approximation,
doi:10.1109/TSP.2009.2016892.
W. W. Hager, H. Zhang (2005), A new conjugate gradient method with guaranteed descent and an efficient line
search, doi:10.1137/030601880 (acceptance by gradients near a minimiser).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from genreg.operators.bridge.arguments import described, integer, number
from genreg.operators.linear.conjugate_gradient import inner


@dataclass(frozen=True)
class Backtracking:
    """Settings of the line search.

    Parameters
    ----------
    initial_step : float
        First τ tried, in units of ℓ / ‖∇H‖ at the start when `relative`, else as it is; ℓ is the unit of length of
        the block, see `Objective`, or where that is not known the distance of the minimum along -∇H.
    grow, shrink : float
        Factors on τ after an accepted and after a rejected trial.
    spectral : bool
        Use the spectral rule (see the module's docstring) instead of growth.
    slack : float
        Units of rounding of the value of H within which values count as equal.
    max_trials : int
        Rejections in a row after which a sample counts as stalled.
    relative : bool
        Scale `initial_step` by ℓ / ‖∇H‖ of every sample, so that the first trial moves by `initial_step` times ℓ.
    """

    initial_step: float = 1.0
    grow: float = 2.0
    shrink: float = 0.5
    spectral: bool = False
    slack: float = 10.0
    max_trials: int = 60
    relative: bool = True

    def __post_init__(self) -> None:
        number(self.initial_step, "initial_step", above=0), number(self.grow, "grow", minimum=1)
        number(self.shrink, "shrink", above=0, below=1), number(self.slack, "slack", minimum=0)
        integer(self.max_trials, "max_trials", minimum=1)

    def first_step(self, gradient: Tensor, reach: Tensor) -> Tensor:
        """Step size of the first trial, ``(B,)``, which moves by `initial_step` times `reach`, ``(B,)``."""
        norm = inner(gradient, gradient).sqrt()
        step = torch.full_like(norm, self.initial_step)
        return torch.where(norm > 0, step * reach / norm, step) if self.relative else step

    def bound(
        self, value: Tensor, proximable_change: Tensor, slope: Tensor, step_sq: Tensor, tau: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Largest H(v⁺), and largest <∇H(v⁺) - ∇H(v), d>, at which a (prox-)gradient step is accepted, ``(B,)``.

        Parameters
        ----------
        value : Tensor
            H(v).
        proximable_change : Tensor
            Σ g(v⁺) - Σ g(v).
        slope, step_sq : Tensor
            <∇H(v), d> and ‖d‖².
        tau : Tensor
            Step sizes.
        """
        quadratic = step_sq / (2 * tau)
        if self.spectral:
            return value - proximable_change - 1e-4 * quadratic, 1.9999 * step_sq / tau
        return value + slope + quadratic, step_sq / tau

    def accept(
        self,
        value: Tensor,
        trial: Tensor,
        highest: Tensor,
        slope: Tensor,
        change: Tensor,
        steepest: Tensor,
    ) -> Tensor:
        """Which samples take the trial point.

        Parameters
        ----------
        value, trial : Tensor
            H(v) and H(v⁺).
        highest : Tensor
            Largest H(v⁺) to be accepted.
        slope : Tensor
            <∇H(v), d>.
        change, steepest : Tensor
            <∇H(v⁺) - ∇H(v), d>, and the largest to be accepted: this decides where the values are equal but
            for rounding.
        """
        equal = self.equal(value, trial, slope, change)
        return torch.where(equal, change <= steepest, trial <= highest) & torch.isfinite(trial)

    def equal(self, value: Tensor, trial: Tensor, slope: Tensor, change: Tensor) -> Tensor:
        """Where two values of H are equal but for rounding, see `accept`.

        They are within the slack; or their difference, though within a hundred times the slack, is ten times as large
        as the slopes <∇H, d> at both ends together, between which the mean slope lies that it would have to be. The
        slope must also have become smaller, lest values that do not belong to their gradients increase for ever.
        """
        difference, end = (trial - value).abs(), slope + change
        rounding = self.slack * torch.finfo(value.dtype).eps * value.abs()
        impossible = (difference > 10 * (slope.abs() + end.abs())) & (end.abs() < slope.abs())
        return (difference <= rounding) | (impossible & (difference <= 100 * rounding))

    def next_step(self, accepted: Tensor, change: Tensor, step_sq: Tensor, tau: Tensor) -> Tensor:
        """Step size of the next trial."""
        grown = tau * self.grow
        if self.spectral:
            barzilai = step_sq / change.clamp_min(torch.finfo(change.dtype).tiny)
            grown = torch.where(change > 0, barzilai.clamp(1e-10 * tau, 1e3 * tau), 10 * tau)
        grown = torch.where(step_sq > 0, grown, tau)  # a block that could not move has learned nothing
        return torch.where(accepted, grown, tau * self.shrink)


def searching(line_search: Any, default: Backtracking) -> Backtracking:
    """Return the line search given, or another one in place of None; TypeError if it is none."""
    if line_search is None:
        return default
    if not isinstance(line_search, Backtracking):
        raise TypeError(f"line_search must be a Backtracking, got {described(line_search)}")
    return line_search
