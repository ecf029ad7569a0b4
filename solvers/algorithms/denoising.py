r"""Fixed points with a denoiser D: regularisation by denoising, and plug-and-play.

Problems are those of `genreg.solvers.problem.denoising`, with a fidelity f and a strength s. Where the steps of an
iteration grow, only a share of each is taken, see `genreg.solvers.updates.fixed_point`; that does not change its fixed
points. A network that is not nonexpansive may have none that attracts: samples then end with MAX_ITER or NON_FINITE.

References
----------
Y. Romano, M. Elad, P. Milanfar (2017), The little engine that could: regularization by denoising (RED),
arXiv:1611.02862, doi:10.1137/16M1102884.

E. T. Reehorst, P. Schniter (2019), Regularization by denoising: clarifications and new interpretations,
arXiv:1806.02296, doi:10.1109/TCI.2018.2880326.

S. V. Venkatakrishnan, C. A. Bouman, B. Wohlberg (2013), Plug-and-play priors for model based reconstruction,
doi:10.1109/GlobalSIP.2013.6737048.

E. K. Ryu, J. Liu, S. Wang, X. Chen, Z. Wang, W. Yin (2019), Plug-and-play methods provably converge with properly
trained denoisers, arXiv:1905.05406.
"""

from __future__ import annotations

import functools
from typing import Any

from torch import Tensor

from genreg.operators.bridge.arguments import number
from genreg.operators.bridge.caller_data import to_batch
from genreg.operators.bridge.modes import undisturbed
from genreg.solvers.driver.loop import run
from genreg.solvers.driver.monitor import Callback
from genreg.solvers.driver.solution import Solution
from genreg.solvers.problem.capabilities import Capability, check_offers
from genreg.solvers.problem.denoising import DenoisingProblem
from genreg.solvers.updates.fixed_point import FixedPoint


@undisturbed
def red(
    problem: DenoisingProblem,
    init: Any,
    *,
    damping: float = 1.0,
    max_iter: int = 200,
    tol: float = 1e-4,
    callback: Callback | None = None,
    progress: bool = True,
) -> Solution:
    r"""Solve :math:`\nabla f(x) + s (x - D(x)) = 0` by proximal steps of the fidelity.

    .. math:: x \leftarrow \mathrm{argmin}_u\ f(u) + \frac{L s}{2} \|u - v\|^2, \qquad
              v = x - \frac{1}{L} (x - D(x)),

    with the damping L ≥ 1: the fixed-point iteration of Romano, Elad and Milanfar for L = 1, in general RED-PG of
    Reehorst and Schniter. It converges where D is nonexpansive and L > 1. A sample has converged when a step has at
    most the length ``tol`` times that of x.

    Parameters
    ----------
    problem : DenoisingProblem
        That of a `RegularisationByDenoising`, with a Gaussian fidelity of a linear operator.
    init : ODL element, Tensor or dict of one of them
        Starting point; a tensor may have a leading batch axis.
    damping : float
        L.
    max_iter : int
        Steps, each with one call of the denoiser, one of A and its adjoint, and one exact step of the fidelity.
    tol : float
        A sample has converged when :math:`\|T(x) - x\|` is at most this times :math:`\|x\|`, T(x) the next iterate.
    callback : callable, optional
        Called with an `Iterate` after every iteration; a true answer ends the run.
    progress : bool
        Show a progress bar.

    Returns
    -------
    Solution
        Its value is that of the objective of Romano et al., :math:`f(x) + \frac{s}{2} \langle x, x - D(x) \rangle`,
        which the solution minimises where D is homogeneous with a symmetric Jacobian.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type, shape, dtype, device or sign, or is not finite.
    NotImplementedError
        If the fidelity has no exact step.
    """
    step = functools.partial(_red, damping=number(damping, "damping", minimum=1))
    if isinstance(problem, DenoisingProblem) and not problem.equation:
        raise TypeError(
            "problem must be that of RegularisationByDenoising for red, got that of plug-and-play"
        )
    needs: tuple[Capability, ...] = ("denoiser", "data_step")
    return _iterated("red", problem, init, FixedPoint(step, needs), max_iter, tol, callback, progress)


@undisturbed
def plug_and_play(
    problem: DenoisingProblem,
    init: Any,
    *,
    max_iter: int = 200,
    tol: float = 1e-4,
    callback: Callback | None = None,
    progress: bool = True,
) -> Solution:
    r"""Solve :math:`x = D(x - \nabla f(x) / s)` by plug-and-play ADMM.

    ADMM with the penalty s,

    .. math:: x \leftarrow \mathrm{argmin}_u\ f(u) + \frac{s}{2} \|u - (d - u')\|^2, \qquad
              d \leftarrow D(x + u'), \qquad u' \leftarrow u' + x - d,

    has :math:`s u' = -\nabla f(x)` after its first line, so that it is an iteration of x alone, from the point
    :math:`d + \nabla f(x) / s` with :math:`d = D(x - \nabla f(x) / s)`. It converges where f is strongly convex and
    D - I has a small Lipschitz constant (Ryu et al.), for every s. Parameters are those of `red`, without the damping.

    Returns
    -------
    Solution
        Its value is that of the fidelity: that of a regulariser is not known.

    Raises
    ------
    TypeError, ValueError, NotImplementedError
        As `red`.
    """
    needs: tuple[Capability, ...] = ("denoiser", "data_step")
    update = FixedPoint(_alternating_directions, needs)
    return _iterated("plug_and_play", problem, init, update, max_iter, tol, callback, progress)


@undisturbed
def plug_and_play_gradient(
    problem: DenoisingProblem,
    init: Any,
    *,
    max_iter: int = 200,
    tol: float = 1e-4,
    callback: Callback | None = None,
    progress: bool = True,
) -> Solution:
    r"""Solve :math:`x = D(x - \nabla f(x) / s)` by iterating it: proximal gradient descent with D as the prox.

    For any differentiable fidelity. The step size is 1 / s, which is too long for s below half the largest curvature of
    f, for Gaussian noise :math:`\|A\|^2 / \sigma^2`; `plug_and_play` has the same solutions for every s. Parameters are
    those of `red`, without the damping; results are those of `plug_and_play`.
    """
    update = FixedPoint(_proximal_gradient)
    return _iterated("plug_and_play_gradient", problem, init, update, max_iter, tol, callback, progress)


def _red(problem: DenoisingProblem, x: Tensor, gradient: Tensor, *, damping: float) -> Tensor:
    return problem.data_step(x - (x - problem.denoise(x)) / damping, damping * problem.strength, x)


def _proximal_gradient(problem: DenoisingProblem, x: Tensor, gradient: Tensor) -> Tensor:
    return problem.denoise(x - gradient / problem.strength.view(-1, *(1,) * (x.ndim - 1)))


def _alternating_directions(problem: DenoisingProblem, x: Tensor, gradient: Tensor) -> Tensor:
    step = gradient / problem.strength.view(-1, *(1,) * (x.ndim - 1))
    return problem.data_step(problem.denoise(x - step) + step, problem.strength, x)


def _iterated(
    solver: str,
    problem: DenoisingProblem,
    init: Any,
    update: FixedPoint,
    max_iter: int,
    tol: float,
    callback: Callback | None,
    progress: bool,
) -> Solution:
    check_offers(problem, solver, *update.needs, argument="problem")
    if not isinstance(init, dict):
        init = {"x": init}
    return run(
        problem,
        to_batch(init, problem.spaces),
        {"x": update},
        max_iter=max_iter,
        tol=tol,
        callback=callback,
        progress=progress,
        description=solver.replace("_", " "),
    )
