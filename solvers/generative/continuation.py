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
from typing import Any, Unpack

import odl
import torch
from torch import Tensor
from tqdm import tqdm

from genreg.operators.bridge.arguments import flag, integer, number
from genreg.operators.bridge.caller_data import Batch, per_sample_number
from genreg.operators.bridge.keywords import takes
from genreg.operators.bridge.modes import undisturbed
from genreg.operators.bridge.protocols import GeneratorLike
from genreg.operators.fidelity.base import Fidelity
from genreg.solvers.checkpoints import begin, saving
from genreg.solvers.driver.loop import run
from genreg.solvers.driver.monitor import Callback, Stopping, check_stopping
from genreg.solvers.driver.solution import Solution, Status
from genreg.solvers.generative.isotropic import JointProblem
from genreg.solvers.generative.joint_map import (
    Joint,
    check_encoder,
    check_turns,
    finished,
    identity,
    joint_problem,
    proposing,
)
from genreg.solvers.generative.latent import OfGenerator, entered, first_latents
from genreg.solvers.generative.stages import Stages
from genreg.solvers.updates.base import Update
from genreg.solvers.updates.levenberg_marquardt import LevenbergMarquardt

_LARGEST = math.log(10.0)  # step of log β at most
_MARGIN = 0.02  # how far below log ε a secant step aims
_OVERSHOOT = math.log(2.0)  # how far below log ε it may end


class Continued(Joint, total=False):
    r"""What the continuations in β take.

    Parameters
    ----------
    beta : float or Tensor, optional
        The first β; by default 0.1/γ² with the γ that the model has learned.
    stages : int
        Largest number of stages.
    max_iter, tol : int, float
        For one stage, as for `jpmap`.
    checkpoint : str or Path, optional
        As for `jpmap`; the file is written after a stage.

    Returns
    -------
    Solution
        As for `jpmap`; ``value`` is J with the last β. ``history`` has ``beta`` and ``gap``, :math:`\|x -
        G(z)\|^2`, ``(stages, B)``. The status is that of the last stage where the gap is at most ε, and
        ``MAX_ITER`` where it is still above.
    """

    stages: int


@undisturbed
@takes(
    Continued, Joint, OfGenerator, Stopping, stages=20, max_iter=100, tol=1e-4, resume=False, progress=True
)
def map_z_splitting(
    A: odl.Operator,
    y: Any,
    G: GeneratorLike,
    *,
    growth: float = 10.0,
    epsilon: float | None = None,
    **keywords: Unpack[Continued],
) -> Solution:
    r"""Solve the hard constraint x = G(z) by splitting and a growing β (algorithm 1.1); G needs no encoder.

    Parameters
    ----------
    G : Generator
        Generator Z -> X, with or without an encoder.
    growth : float
        Factor > 1 by which β grows from stage to stage.
    epsilon : float, optional
        ε > 0: a sample ends when :math:`\|x - G(z)\|^2 \le \epsilon`; by default one grey level of 255,
        :math:`\dim(X)\, s^2 / 255^2` with the scale s of G.
    """
    growth = number(growth, "growth", above=1)
    fidelity = entered(A, y, G, keywords, need="quadratic", by="map_z_splitting")
    epsilon = A.domain.size * (getattr(G, "scale", 1.0) / 255) ** 2 if epsilon is None else epsilon

    def step(gap: Tensor, level: Tensor, slope: Tensor) -> Tensor:
        return torch.full_like(gap, math.log(growth))

    def update(problem: JointProblem) -> Update:
        return LevenbergMarquardt()

    return _raise_beta(fidelity, G, epsilon, step, update, {"growth": growth}, keywords)


@undisturbed
@takes(
    Continued, Joint, OfGenerator, Stopping, stages=100, max_iter=50, tol=1e-4, resume=False, progress=True
)
def jpmap_continuation(
    A: odl.Operator,
    y: Any,
    G: GeneratorLike,
    *,
    epsilon: float | Tensor,
    rho: float = 100.0,
    secant: bool = True,
    n1: int = 5,
    n2: int | None = None,
    **keywords: Unpack[Continued],
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
    epsilon : float or Tensor
        ε > 0, or one for every sample; α grey levels of 255 are :math:`\epsilon = (\alpha / 255)^2 \dim X`.
    rho : float
        ρ > 0.
    secant : bool
        Whether to lengthen the steps of the multiplier method near the constraint, and to shorten those that
        would lead far beyond it.
    n1, n2
        As for `jpmap`: the encoder proposes in the first stage.
    """
    rho, secant = number(rho, "rho", above=0), flag(secant, "secant")
    fidelity = entered(A, y, G, keywords, need="quadratic", by="jpmap_continuation")
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

    settings = {"rho": rho, "secant": secant, "n1": n1, "n2": n2}
    return _raise_beta(fidelity, G, epsilon, step, update, settings, keywords)


def _raise_beta(
    fidelity: Fidelity,
    G: GeneratorLike,
    epsilon: float | Tensor,
    step: Callable[[Tensor, Tensor, Tensor], Tensor],
    first_update: Callable[[JointProblem], Update],
    settings: Mapping[str, Any],
    keywords: Continued,
) -> Solution:
    """Solve stages with a growing β until the gap of every sample is at most ε.

    ``step(gap, epsilon, slope)`` gives the step of log β, from the slope of log gap against log β over the last
    two stages, between -2 and -1/2.
    """
    problem = joint_problem(fidelity, G, keywords["beta"], 0.1)
    epsilon = per_sample_number(epsilon, "epsilon", fidelity.data)
    init, callback, progress = keywords["init"], keywords["callback"], keywords["progress"]
    stages = integer(keywords["stages"], "stages", minimum=1)
    max_iter, tol = check_stopping(keywords["max_iter"], keywords["tol"], callback)
    began = time.perf_counter()
    asked = {**settings, "stages": stages, "max_iter": max_iter, "tol": tol}
    file, saved = begin(
        keywords["checkpoint"],
        keywords["resume"],
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
