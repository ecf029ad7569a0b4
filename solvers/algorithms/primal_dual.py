r"""The primal-dual hybrid gradient method, batched, for :math:`\min_x f(x) + \sum_j g_j(K_j x)`.

.. math::
    x^{k+1} &= \mathrm{prox}_{\tau f}\bigl(x^k - \tau \textstyle\sum_j K_j^* p_j^k\bigr), \\
    p_j^{k+1} &= \mathrm{prox}_{\sigma_j g_j^*}\bigl(p_j^k + \sigma_j K_j (2 x^{k+1} - x^k)\bigr),

with adjoints and proxes in the inner products of the spaces, so that the iterates are those of ODL's solver.
Every operator has its own dual step, and so has every sample: :math:`\tau \sum_j \sigma_j \|K_j\|^2 < 1`.

The steps are balanced unless they are given: the primal and dual residuals

.. math::
    P^k &= (x^{k-1} - x^k) / \tau - K^* (p^{k-1} - p^k), \\
    D_j^k &= (p_j^{k-1} - p_j^k) / \sigma_j - K_j (x^{k-1} - x^k)

cost one further operator call every 10 iterations, and a sample whose one residual is much larger than the
other moves its steps in that direction, by less and less.

References
----------
A. Chambolle, T. Pock (2011), A first-order primal-dual algorithm for convex problems with applications to
imaging, doi:10.1007/s10851-010-0251-1.

T. Goldstein, M. Li, X. Yuan (2015), Adaptive primal-dual splitting methods for statistical learning and image
processing, NeurIPS 28; arXiv:1305.0546.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Unpack

import odl
import torch
from odl.functionals import Functional
from torch import Tensor

from genreg.operators.bridge.caller_data import to_batch
from genreg.operators.bridge.keywords import takes
from genreg.operators.bridge.lowered import TorchFunctional
from genreg.operators.bridge.modes import undisturbed
from genreg.solvers.algorithms.primal_dual_steps import Saddle, Steps, norm_of, shaped
from genreg.solvers.driver.monitor import Iterate, Monitor, Stopping, ended_as
from genreg.solvers.driver.solution import Solution, Status
from genreg.solvers.problem.capabilities import check_offers
from genreg.solvers.problem.objective import SaddlePoint

_CHECK_EVERY, _CHECK_FIXED_EVERY = 10, 25  # iterations between looks at the residuals


@undisturbed
@takes(Stopping, max_iter=1000, tol=1e-4, progress=True)
def pdhg(
    f: SaddlePoint | Functional | TorchFunctional,
    init: Any = None,
    *,
    g: Functional | TorchFunctional | Sequence[Functional | TorchFunctional] | None = None,
    operators: odl.Operator | Sequence[odl.Operator] | None = None,
    tau: float | None = None,
    sigma: float | Sequence[float] | None = None,
    **stopping: Unpack[Stopping],
) -> Solution:
    r"""Minimise :math:`f(x) + \sum_j g_j(K_j x)` by the primal-dual hybrid gradient method.

    Parameters
    ----------
    f : SaddlePoint, Functional or TorchFunctional
        The problem, ``SaddlePoint(f, g, operators)``; or f alone, with the other two as keyword arguments.
    init : ODL element, Tensor or dict of one of them
        Starting point, by default zero; a tensor may have a leading batch axis. The dual variables start at
        zero.
    g, operators : optional
        Those of `SaddlePoint`, unless `f` is one.
    tau, sigma : float, optional
        Primal and dual step (one for all K_j, or one each), to be given together. By default they are
        balanced for every sample while the method runs.
    max_iter : int
        Iterations.
    tol : float
        A sample has converged when :math:`\|P\| \le tol \|K\| \|p\|` and :math:`\|D\| \le tol \|K\| \|x\|`.
    callback : callable, optional
        Called with an `Iterate` every 10 iterations, 25 with given steps; a true answer ends the run.

    Returns
    -------
    Solution
        The block is named as in `init`, or ``"x"``. ``history`` has ``residual``, as often; the
        value is that of f + Σ g_j K_j, infinite where x violates a constraint among the :math:`g_j`.

    Raises
    ------
    NotImplementedError
        If a functional has no prox.
    """
    monitor, watched = Monitor(**stopping, description="pdhg"), stopping["callback"] is not None
    problem: Any = f if g is None and operators is None else SaddlePoint(f, g, operators)
    check_offers(problem, "pdhg", "saddle", argument="f")
    if init is None:
        init = problem.domain.zero()
    name = next(iter(init)) if isinstance(init, dict) and len(init) == 1 else "x"
    batch = to_batch(init, {name: problem.domain})
    start = batch.blocks[name]
    saddle = Saddle(problem)
    steps = Steps(problem, saddle, tau, sigma, start)
    with torch.no_grad(), monitor:
        x, status, iterations, residuals = _iterate(saddle, steps, start, name, monitor, watched)
        value = saddle.value(x)
    return monitor.solution(
        batch, {name: x}, value, status, iterations, iterations + 1, {"residual": residuals}
    )


def _iterate(
    problem: Saddle, steps: Steps, x: Tensor, name: str, monitor: Monitor, watched: bool
) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
    """Run the iteration; return x, status, iterations and the history of residuals."""
    samples, max_iter = torch.arange(x.shape[0], device=x.device), monitor.max_iter
    status = torch.full_like(samples, Status.RUNNING if max_iter else Status.MAX_ITER)
    iterations = torch.zeros_like(samples)
    history: list[Tensor] = []
    p = [torch.zeros_like(K(x)) for K in problem.forward]
    Kp = torch.zeros_like(x)
    final = x
    every = _CHECK_EVERY if steps.balanced else _CHECK_FIXED_EVERY
    for k in range(1, max_iter + 1):
        x_old, p_old, Kp_old = x, p, Kp
        x = problem.f.prox(_minus(x_old, steps.tau, Kp_old), steps.tau)
        ahead = torch.lerp(x_old, x, 2.0)  # 2 x - x_old in one pass
        p = [
            g.conj_prox(_plus(part, s, K(ahead)), s)
            for g, part, s, K in zip(problem.g, p_old, steps.sigma, problem.forward, strict=True)
        ]
        Kp = problem.adjoint(p)
        if k % every and k < max_iter:
            continue
        primal, dual = _residuals(problem, steps, x, x_old - x, p, p_old, Kp_old - Kp)
        residual = torch.stack((primal, *dual)).amax(0)  # (B,)
        history.append(residual)
        # Samples that have ended move on with the batch; their result is the x at which they ended.
        running = status == Status.RUNNING
        iterations = torch.where(running, k, iterations)
        final = torch.where(shaped(running, x), x, final)
        status = monitor.judge(status, residual, k, stuck=~torch.isfinite(residual))
        seen = Iterate(k, {name: x}, problem.value(x), residual, samples) if watched else None
        if monitor.stops(k, seen):
            status = ended_as(status, Status.STOPPED)
        if not (status == Status.RUNNING).any():
            break
        steps.balance(primal, dual)
    return final, status, iterations, history


def _plus(v: Tensor, step: Tensor | float, w: Tensor) -> Tensor:
    """Return v + step w."""
    return torch.addcmul(v, shaped(step, v), w) if isinstance(step, Tensor) else torch.add(v, w, alpha=step)


def _minus(v: Tensor, step: Tensor | float, w: Tensor) -> Tensor:
    """Return v - step w."""
    return (
        torch.addcmul(v, shaped(step, v), w, value=-1)
        if isinstance(step, Tensor)
        else torch.sub(v, w, alpha=step)
    )


def _residuals(
    problem: Saddle,
    steps: Steps,
    x: Tensor,
    dx: Tensor,
    p: list[Tensor],
    p_old: list[Tensor],
    dKp: Tensor,
) -> tuple[Tensor, list[Tensor]]:
    """Primal residual and dual residual for every operator, relative to ‖K‖ ‖p‖ and ‖K‖ ‖x‖, ``(B,)``."""
    tiny = torch.finfo(x.real.dtype).tiny
    P = dx / shaped(steps.tau, x) - dKp  # (B, *X.shape)
    p_size = sum(
        norm * norm_of(part, w) for norm, part, w in zip(steps.norms, p, problem.dual_weights, strict=True)
    )
    primal = norm_of(P, problem.primal_weight) / p_size.clamp_min(tiny)
    x_size = norm_of(x, problem.primal_weight).clamp_min(tiny)
    dual = []
    for j, (norm, w) in enumerate(zip(steps.norms, problem.dual_weights, strict=True)):
        D = (p_old[j] - p[j]) / shaped(steps.sigma[j], p[j]) - problem.forward[j](dx)  # (B, *range.shape)
        dual.append(norm_of(D, w) / (norm * x_size))
    return primal, dual
