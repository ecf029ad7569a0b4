"""How λ is chosen, by the names that `reconstruct` and `sweep` take."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from genreg.regularisers import PlugAndPlay, Regulariser
from genreg.solvers import Choice, Trial, l_curve, morozov
from genreg.solvers.parameter_choice.discrepancy_principle import checked_range

LamRange = tuple[float, float] | None


def principle(name: str, otherwise: str, regulariser: Regulariser) -> Callable[..., Choice]:
    """Return the function of a principle of parameter choice, one of `CHOICES`.

    Raises
    ------
    ValueError
        If there is none of this name, or the L-curve is asked of a density, whose logarithm has no zero, or of what has
        no value.
    """
    if name not in CHOICES:
        raise ValueError(f"lam must be {otherwise} or one of {sorted(CHOICES)}, got {name!r}")
    if name == "l-curve" and regulariser.offset is not None:
        raise ValueError(
            "lam must be 'morozov' or given for a regulariser with a log-determinant, whose zero depends on the unit "
            f"of the image: the L-curve compares R with zero; got 'l-curve' with {type(regulariser).__name__}"
        )
    if name == "l-curve" and isinstance(regulariser, PlugAndPlay):
        raise ValueError(
            "lam must be 'morozov' or given for PlugAndPlay, which has no value that the L-curve could compare; got "
            "'l-curve'"
        )
    return CHOICES[name]


def range_of(lam: Any, lam_range: Any) -> LamRange:
    """Return the range of λ for a principle of parameter choice.

    Raises
    ------
    TypeError, ValueError
        If it is no pair of numbers 0 < low < high, or λ is given.
    """
    if lam_range is None:
        return None
    found = checked_range(lam_range)
    if not isinstance(lam, str):
        raise ValueError(
            f"lam_range must not be given beside numbers for lam: it is for one of {sorted(CHOICES)}, got {lam_range}"
        )
    return found


def _by_l_curve(solve: Callable[..., Trial], level: Tensor, scale: Tensor, lam_range: LamRange) -> Choice:
    if lam_range is None:
        decades = torch.linspace(-6, 6, 25, dtype=level.dtype, device=level.device)
        grid = scale[:, None] * 10**decades
    else:
        low, high = lam_range
        steps = 1 + max(2, math.ceil(2 * math.log10(high / low)))
        fractions = torch.linspace(0, 1, steps, dtype=level.dtype, device=level.device)
        ends = level.new_tensor([low, high]).log()
        grid = torch.lerp(ends[0], ends[1], fractions).exp()
    return l_curve(solve, torch.arange(len(level), device=level.device), lam=grid)


def _by_morozov(solve: Callable[..., Trial], level: Tensor, scale: Tensor, lam_range: LamRange) -> Choice:
    if level.isnan().any():
        raise ValueError(
            "lam='morozov' needs the level of the noise: FunctionalFidelity takes it as level, or give lam as a number"
        )
    return morozov(solve, level, start=scale, lam_range=lam_range)


CHOICES: dict[str, Callable[[Callable[..., Trial], Tensor, Tensor, LamRange], Choice]] = {
    "l-curve": _by_l_curve,
    "morozov": _by_morozov,
}
"""How λ is chosen, by the name that `reconstruct` takes.

Functions of the solve, Morozov's level, a λ of the right order for every sample, and the range of λ or None.
"""
