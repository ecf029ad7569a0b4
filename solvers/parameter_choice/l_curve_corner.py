r"""The L-curve, for a batch of problems at once.

The L-curve of :math:`\min_v D(v) + \lambda P(v)` is the curve of the points :math:`(\log D, \log P)` of the
minimisers, over λ; its corner, the point of maximal curvature, balances the two. Minimisers satisfy
:math:`D' + \lambda P' = 0` (derivatives by λ), so that the tangent of the curve is known without differences:

.. math:: \theta(\lambda) = -\arctan \frac{D}{\lambda P},

from :math:`-\pi/2` (vertical, the penalty falls) to 0 (horizontal, the misfit grows). The curvature of a point
is the change of this angle between its neighbours over the length of the curve between them, so noise of the
solver is never differentiated twice, as it is with three points alone.

A trial that another trial beats in its own objective :math:`D + \lambda P` is no minimiser, but a bad local
minimum or an unfinished solve, and is left out; those that remain are monotone in D and P. Left out are also
points nearer to their neighbours than the solver can tell, as at the ends of the curve.

A curve may bend so little that its corner means nothing, as that of sparse deviations from a generator with the
truth in its range: where the noise is known, Morozov's principle is the safer choice.

References
----------
P. C. Hansen, D. P. O'Leary (1993), The use of the L-curve in the regularization of discrete ill-posed problems,
doi:10.1137/0914086.

A. Cultrera, L. Callegaro (2020), A simple algorithm to find the L-curve corner in the regularisation of
ill-posed inverse problems, doi:10.1088/2633-1357/abad0d.

T. Regińska (1996), A regularization parameter in discrete ill-posed problems, doi:10.1137/S1064827593252672.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from genreg.operators.bridge.arrays import array
from genreg.solvers.driver.solution import Status
from genreg.solvers.parameter_choice.discrepancy_principle import Choice, Trial, check_search, extended
from genreg.solvers.problem.objective import Blocks

_APART = 0.01  # shortest distance of points in log D and log P: about what solvers with default tolerances can tell


@dataclass(frozen=True)
class Corner:
    """The corner of one L-curve.

    Attributes
    ----------
    index : int
        Which of the trials it is.
    below, above : float
        λ of its neighbours on the curve; its own where there is no corner.
    found : bool
        Whether the curve has a corner, a point with neighbours on both sides where it turns towards the origin.
    """

    index: int
    below: float
    above: float
    found: bool


def corner(lam: Tensor, misfit: Tensor, penalty: Tensor) -> list[Corner]:
    """Find the corner of every L-curve.

    Parameters
    ----------
    lam : Tensor
        λ of the trials, ``(B, n)``, in any order.
    misfit, penalty : Tensor
        D and P of their solutions, ``(B, n)``, such that every solution minimises D + λ P.

    Returns
    -------
    list of Corner
        One for every sample. A curve without a corner has the trial of the smallest product D P, Regińska's
        rule, which needs no curvature.
    """
    arrays = (t.detach().double().numpy(force=True) for t in (lam, misfit, penalty))
    return [_corner(*row) for row in zip(*arrays, strict=True)]


def _corner(lam: np.ndarray, D: np.ndarray, P: np.ndarray) -> Corner:
    usable = np.isfinite(D) & np.isfinite(P) & (D > 0) & (P > 0) & (lam > 0)
    rows = np.flatnonzero(usable)
    if not len(rows):
        finite = np.where(np.isfinite(D), D, np.inf)
        k = int(finite.argmin())
        return Corner(k, float(lam[k]), float(lam[k]), False)
    rows = rows[np.argsort(lam[rows], kind="stable")]
    own = D[rows] + lam[rows] * P[rows]
    best = (D[rows] + lam[rows, None] * P[rows]).min(1)
    rows = _apart(rows[own <= best * (1 + 1e-12)], D, P)
    curvature = _curvature(lam[rows], D[rows], P[rows])
    if not len(curvature) or curvature.max() <= 0:
        k = int(rows[(D[rows] * P[rows]).argmin()])
        return Corner(k, float(lam[k]), float(lam[k]), False)
    k = int(curvature.argmax()) + 1
    return Corner(int(rows[k]), float(lam[rows[k - 1]]), float(lam[rows[k + 1]]), True)


def _apart(rows: np.ndarray, D: np.ndarray, P: np.ndarray) -> np.ndarray:
    """Those trials that lie apart from the one kept before them."""
    kept: list[int] = []
    for k in rows:
        if not kept or np.hypot(np.log(D[k] / D[kept[-1]]), np.log(P[k] / P[kept[-1]])) >= _APART:
            kept.append(int(k))
    return np.array(kept, dtype=int)


def _curvature(lam: np.ndarray, D: np.ndarray, P: np.ndarray) -> np.ndarray:
    """Curvature at the inner points, in the order of λ."""
    if len(lam) < 3:
        return np.empty(0)
    angle = -np.arctan(D / (lam * P))
    length = np.hypot(np.diff(np.log(D)), np.diff(np.log(P)))
    return (angle[2:] - angle[:-2]) / (length[1:] + length[:-1])


def l_curve(
    solve: Callable[[Tensor, Tensor, Blocks | None], Trial],
    samples: Tensor,
    *,
    lam: Tensor | None = None,
    candidates: int = 4,
    rtol: float = 0.1,
    max_rounds: int = 4,
) -> Choice:
    r"""Find, for every sample, the λ at the corner of its L-curve.

    All λ of a grid are solved at once; then the interval around the corner is refined, from warm starts.

    Parameters
    ----------
    solve : callable
        As in `morozov`; value - λ penalty is the misfit D of the curve.
    samples : Tensor
        Numbers of the samples, ``(B,)``.
    lam : Tensor or array, optional
        Grid of λ > 0, ``(n,)`` or one for every sample, ``(B, n)``, n >= 3; by default two a decade from 1e-6 to 1e6.
    candidates : int
        Number of λ tried at once between the neighbours of the corner, for every sample.
    rtol : float
        The search ends when the neighbours of the corner are within this fraction of it.
    max_rounds : int
        Batched solves at most, the grid included.

    Returns
    -------
    Choice
        Where the curve has no corner: the λ of the smallest product of misfit and penalty, with
        `Status.NO_CORNER`.

    Raises
    ------
    TypeError, ValueError
        If `lam`, `candidates`, `rtol` or `max_rounds` has the wrong type or is out of range.
    """
    candidates, max_rounds, rtol = check_search(candidates, max_rounds, rtol)
    if lam is None:
        lam = torch.logspace(-6, 6, 25, dtype=torch.float64, device=samples.device)
    lam = array(lam, "lam", complex=False)
    lam = lam if lam.is_floating_point() else lam.double()
    fits = lam.ndim == 1 or (lam.ndim == 2 and len(lam) == len(samples))
    if not fits or lam.shape[-1] < 3 or not bool((torch.isfinite(lam) & (lam > 0)).all()):
        raise ValueError(
            f"lam must be at least 3 positive numbers, got {lam.tolist() if lam.ndim == 1 else lam}"
        )
    fractions = torch.linspace(0, 1, candidates + 2, dtype=lam.dtype, device=lam.device)[1:-1]
    tried = lam.expand(len(samples), -1)
    trial = solve(samples, tried, None)
    for _ in range(max_rounds - 1):
        corners = corner(tried, trial.value - tried * trial.penalty, trial.penalty)
        chosen = tried.new_tensor([[c.below, c.above] for c in corners])
        wide = [c.found and c.above > (1 + rtol) ** 2 * c.below for c in corners]
        rows = torch.tensor(wide, device=lam.device).nonzero().squeeze(1)
        if not len(rows):
            break
        low, high = chosen[rows].log().unbind(1)
        new = torch.lerp(low[:, None], high[:, None], fractions).exp()
        nearest = (tried[rows, None].log() - new[..., None].log()).abs().argmin(2)
        start = {name: v[rows[:, None], nearest] for name, v in trial.blocks.items()}
        fresh = solve(samples[rows], new, start)
        tried, trial = extended(tried, trial, rows, new, fresh, repeated=torch.zeros_like(samples))
    return _choice(tried, trial)


def _choice(tried: Tensor, trial: Trial) -> Choice:
    corners = corner(tried, trial.value - tried * trial.penalty, trial.penalty)
    at = (
        torch.arange(len(tried), device=tried.device),
        torch.tensor([c.index for c in corners], device=tried.device),
    )
    found = torch.tensor([c.found for c in corners], device=tried.device)
    return Choice(
        lam=tried[at],
        residual=trial.residual[at],
        value=trial.value[at],
        penalty=trial.penalty[at],
        blocks={name: v[at] for name, v in trial.blocks.items()},
        status=torch.where(found, trial.status[at], Status.NO_CORNER),
        iterations=trial.iterations[at],
        tried_lam=tried,
        tried_residual=trial.residual,
    )
