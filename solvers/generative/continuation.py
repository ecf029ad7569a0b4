r"""Joint posterior maximisation with a growing β: towards the hard constraint x = G(z), or to a given distance of it.

The stages minimise :math:`J_\beta(x, z)`, see `genreg.solvers.generative.joint_map`, each from the result of the
last, and a sample leaves when its gap :math:`\|x - G(z)\|^2` is at most ε. As β grows, the gap of the minimisers
falls, for large β like :math:`\beta^{-2}`.

References
----------
M. González, A. Almansa, P. Tan (2021), Solving inverse problems by joint posterior maximization with autoencoding
prior, arXiv:2103.01648, algorithms 1.1 and 2.4.

P. Tseng, D. P. Bertsekas (1993), On the convergence of the exponential multiplier method for convex programming,
doi:10.1007/BF01581598.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import odl
import torch
from torch import Tensor
from tqdm import tqdm

from genreg.operators.bridge.arguments import flag, integer, number
from genreg.operators.bridge.caller_data import Batch, per_sample_number
from genreg.operators.bridge.modes import undisturbed
from genreg.operators.bridge.protocols import GeneratorLike
from genreg.operators.fidelity.base import Fidelity
from genreg.solvers.checkpoints import begin, saving
from genreg.solvers.driver.loop import run
from genreg.solvers.driver.monitor import Callback, check_stopping
from genreg.solvers.driver.solution import Solution, Status
from genreg.solvers.generative.isotropic import JointProblem
from genreg.solvers.generative.joint_map import (
    check_encoder,
    check_turns,
    finished,
    identity,
    joint_problem,
    proposing,
)
from genreg.solvers.generative.latent import entered, first_latents
from genreg.solvers.generative.stages import Stages
from genreg.solvers.updates.base import Update
from genreg.solvers.updates.levenberg_marquardt import LevenbergMarquardt

__all__ = ["jpmap_continuation", "map_z_splitting"]

_LARGEST = math.log(10.0)  # step of log β at most
_MARGIN = 0.02  # how far below log ε a secant step aims
_OVERSHOOT = math.log(2.0)  # how far below log ε it may end


@undisturbed
def map_z_splitting(
    A: odl.Operator,
    y: Any,
    G: GeneratorLike,
    *,
    noise_std: Any = None,
    fidelity: Fidelity | Callable[..., Fidelity] | None = None,
    beta: float | Tensor | None = None,
    growth: float = 10.0,
    epsilon: float | None = None,
    init: Any = None,
    stages: int = 20,
    max_iter: int = 100,
    tol: float = 1e-4,
    callback: Callback | None = None,
    checkpoint: str | Path | None = None,
    resume: bool = False,
    progress: bool = True,
) -> Solution:
    r"""Solve the hard constraint x = G(z) by splitting and a growing β (algorithm 1.1); G needs no encoder.

    Parameters
    ----------
    A, y, G, noise_std, fidelity, init, callback, progress
        As for `jpmap`, G with or without an encoder.
    checkpoint, resume
        As for `jpmap`; the file is written after a stage.
    beta : float or Tensor, optional
        The first β; by default 0.1/γ² with the γ that the model has learned.
    growth : float
        Factor > 1 by which β grows from stage to stage.
    epsilon : float, optional
        ε > 0: a sample ends when :math:`\|x - G(z)\|^2 \le \epsilon`; by default one grey level of 255,
        :math:`\dim(X)\, s^2 / 255^2` with the scale s of G.
    stages : int
        Largest number of stages.
    max_iter, tol : int, float
        For one stage, as for `jpmap`.

    Returns
    -------
    Solution
        As for `jpmap`; ``value`` is J with the last β. ``history`` has ``beta`` and ``gap``, :math:`\|x -
        G(z)\|^2`, ``(stages, B)``. The status is that of the last stage where the gap is at most ε, and
        ``MAX_ITER`` where it is still above.

    Raises
    ------
    TypeError, ValueError, NotImplementedError
        As for `jpmap`, but for the encoder.
    """
    growth = number(growth, "growth", above=1)
    fidelity = entered(A, y, G, noise_std, fidelity, need="quadratic", by="map_z_splitting")
    epsilon = A.domain.size * (getattr(G, "scale", 1.0) / 255) ** 2 if epsilon is None else epsilon
    return _raise_beta(
        fidelity,
        G,
        joint_problem(fidelity, G, beta, 0.1),
        per_sample_number(epsilon, "epsilon", fidelity.data),
        lambda gap, level, slope: torch.full_like(gap, math.log(growth)),
        lambda problem: LevenbergMarquardt(),
        init,
        stages=stages,
        max_iter=max_iter,
        tol=tol,
        callback=callback,
        checkpoint=checkpoint,
        resume=resume,
        progress=progress,
        settings={"growth": growth},
    )


@undisturbed
def jpmap_continuation(
    A: odl.Operator,
    y: Any,
    G: GeneratorLike,
    *,
    noise_std: Any = None,
    fidelity: Fidelity | Callable[..., Fidelity] | None = None,
    epsilon: float | Tensor,
    rho: float = 100.0,
    beta: float | Tensor | None = None,
    secant: bool = True,
    init: Any = None,
    n1: int = 5,
    n2: int | None = None,
    stages: int = 100,
    max_iter: int = 50,
    tol: float = 1e-4,
    callback: Callback | None = None,
    checkpoint: str | Path | None = None,
    resume: bool = False,
    progress: bool = True,
) -> Solution:
    r"""Maximise the joint posterior subject to :math:`\|x - G(z)\|^2 \le \epsilon` (algorithm 2.4).

    The exponential multiplier method raises β after every stage, for every sample,

    .. math:: \beta \leftarrow \beta \exp\left( \frac{\rho}{\dim X} (\|x - G(z)\|^2 - \epsilon) \right) ,

    by a factor of 10 at most, until the constraint holds. Near the constraint that factor tends to 1. With `secant`
    the step of log β is the one at which the gap, :math:`\log \|x - G(z)\|^2` as a function of log β, would
    reach log ε along its secant, where that is longer. It is also bounded so that the gap ends above ε/2, as long as
    it falls no faster than :math:`\beta^{-2}`.

    Parameters
    ----------
    A, y, G, noise_std, fidelity, init, n1, n2, callback, progress
        As for `jpmap`. The encoder proposes in the first stage.
    checkpoint, resume
        As for `jpmap`; the file is written after a stage.
    epsilon : float or Tensor
        ε > 0, or one for every sample; α grey levels of 255 are :math:`\epsilon = (\alpha / 255)^2 \dim X`.
    rho : float
        ρ > 0.
    beta : float or Tensor, optional
        The first β; by default 0.1/γ² with the γ that the model has learned.
    secant : bool
        Whether to lengthen the steps of the multiplier method near the constraint, and to shorten those that
        would lead far beyond it.
    stages : int
        Largest number of stages.
    max_iter, tol : int, float
        For one stage, as for `jpmap`.

    Returns
    -------
    Solution
        As for `map_z_splitting`.

    Raises
    ------
    TypeError, ValueError, NotImplementedError
        As for `jpmap`; if ε or ρ is not positive.
    """
    rho, secant = number(rho, "rho", above=0), flag(secant, "secant")
    fidelity = entered(A, y, G, noise_std, fidelity, need="quadratic", by="jpmap_continuation")
    check_encoder(G)
    n1, n2 = check_turns("fast", n1, n2)
    size = A.domain.size

    def step(gap: Tensor, level: Tensor, slope: Tensor) -> Tensor:
        multiplier = rho / size * (gap - level)
        if not secant:
            return multiplier.clamp(0, _LARGEST)
        ratio = (gap / level).log()
        longer = torch.maximum(multiplier, (ratio + _MARGIN) / -slope)
        return torch.minimum(longer, (ratio + _OVERSHOOT) / 2).clamp(0, _LARGEST)

    def update(problem: JointProblem) -> Update:
        return proposing(problem, G.encode, "fast", n1, n2)

    return _raise_beta(
        fidelity,
        G,
        joint_problem(fidelity, G, beta, 0.1),
        per_sample_number(epsilon, "epsilon", fidelity.data),
        step,
        update,
        init,
        stages=stages,
        max_iter=max_iter,
        tol=tol,
        callback=callback,
        checkpoint=checkpoint,
        resume=resume,
        progress=progress,
        settings={"rho": rho, "secant": secant, "n1": n1, "n2": n2},
    )


def _raise_beta(
    fidelity: Fidelity,
    G: GeneratorLike,
    problem: JointProblem,
    epsilon: Tensor,
    step: Callable[[Tensor, Tensor, Tensor], Tensor],
    first_update: Callable[[JointProblem], Update],
    init: Any,
    *,
    stages: int,
    max_iter: int,
    tol: float,
    callback: Callback | None,
    checkpoint: str | Path | None,
    resume: bool,
    progress: bool,
    settings: Mapping[str, Any],
) -> Solution:
    """Solve stages with a growing β until the gap of every sample is at most ε.

    ``step(gap, epsilon, slope)`` gives the step of log β, from the slope of log gap against log β over the last
    two stages, between -2 and -1/2.
    """
    stages = integer(stages, "stages", minimum=1)
    max_iter, tol = check_stopping(max_iter, tol, callback)
    began = time.perf_counter()
    asked = {**settings, "stages": stages, "max_iter": max_iter, "tol": tol}
    file, saved = begin(
        checkpoint,
        resume,
        "continuation of beta",
        lambda: identity(problem, fidelity, G, init, epsilon=epsilon, **asked),
        progress=progress,
    )
    total = Stages(first_latents(G, fidelity, init), problem.per_sample["beta"])
    if saved is not None:
        total.restore(saved)
    bar = tqdm(total=stages, initial=total.stages, desc="continuation", disable=not progress, leave=False)
    with bar, saving(file, total.snapshot) as done:
        while total.stages < stages and len(running := total.running):
            now = problem.take(running).with_beta(total.beta[running])
            solution = run(
                now.profile(),
                Batch({"z": total.z[running]}, dict, True),
                {"z": LevenbergMarquardt() if total.stages else first_update(now)},
                max_iter=max_iter,
                tol=tol,
                callback=callback and _renumbered(callback, running),
                progress=False,
            )
            total.add(solution, now.gap(solution.blocks["z"]), epsilon, step)
            bar.update()
            if not (
                solution.status == Status.STOPPED
            ).any():  # what a callback has stopped does the stage again
                done(now=not len(total.running) or total.stages == stages)
    solution = total.solution(time.perf_counter() - began)
    return finished(fidelity, G, problem.with_beta(total.betas[-1]), solution)


def _renumbered(callback: Callback, samples: Tensor) -> Callback:
    """The callback of a stage of some samples, which are to have the numbers that they have in the batch."""
    return lambda iterate: callback(replace(iterate, samples=samples[iterate.samples]))
