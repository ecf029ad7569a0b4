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

import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from genreg.operators.bridge.door import Door, enter
from genreg.operators.bridge.modes import undisturbed
from genreg.solvers.algorithms.primal_dual_steps import Saddle, Steps, norm_of, shaped
from genreg.solvers.driver.loop import Callback, Iterate, check_stopping
from genreg.solvers.driver.solution import Solution, Status
from genreg.solvers.problem.objective import Objective, SaddlePoint

__all__ = ["pdhg"]

_CHECK_EVERY, _CHECK_FIXED_EVERY = 10, 25  # iterations between looks at the residuals


@undisturbed
def pdhg(
    f: Any,
    g: Any = None,
    operators: Any = None,
    init: Any = None,
    *,
    tau: float | None = None,
    sigma: float | Sequence[float] | None = None,
    max_iter: int = 1000,
    tol: float = 1e-4,
    callback: Callback | None = None,
    progress: bool = True,
) -> Solution:
    r"""Minimise :math:`f(x) + \sum_j g_j(K_j x)` by the primal-dual hybrid gradient method.

    Parameters
    ----------
    f : Functional, TorchFunctional or SaddlePoint
        Proximable functional on X; a `SaddlePoint` holds `f`, `g` and `operators` together.
    g : Functional, TorchFunctional or a sequence of them
        Proximable functionals on the ranges of `operators`.
    operators : odl.Operator or a sequence of them
        Linear operators K_j from X.
    init : ODL element, Tensor or dict of one of them
        Starting point, by default zero; a tensor may have a leading batch axis. The dual variables start at
        zero.
    tau, sigma : float, optional
        Primal and dual step (one for all K_j, or one each), to be given together. By default they are
        balanced for every sample while the method runs.
    max_iter : int
        Iterations.
    tol : float
        A sample has converged when :math:`\|P\| \le tol \|K\| \|p\|` and :math:`\|D\| \le tol \|K\| \|x\|`.
    callback : callable, optional
        Called with an `Iterate` every 10 iterations, 25 with given steps; a true answer ends the run.
    progress : bool
        Show a progress bar.

    Returns
    -------
    Solution
        The block is named as in `init`, or ``"x"``. ``history`` has ``residual``, as often; the
        value is that of f + Σ g_j K_j, infinite where x violates a constraint among the :math:`g_j`.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type, shape, dtype, device or sign, or is not finite.
    NotImplementedError
        If a functional has no prox.
    """
    max_iter, tol = check_stopping(max_iter, tol, callback)
    if isinstance(f, Objective):
        raise TypeError(
            "f must be a functional with a prox or a SaddlePoint, got Objective: pdhg takes no gradients"
        )
    saddle = (
        f
        if isinstance(f, SaddlePoint)
        else SaddlePoint(f, _as_tuple(g, "g"), _as_tuple(operators, "operators"))
    )
    if isinstance(f, SaddlePoint) and init is None:
        init = g
    door = _enter(saddle, init)
    (name,) = door.blocks
    problem = Saddle(saddle)
    steps = Steps(saddle, problem, tau, sigma, door.blocks[name])

    began = time.perf_counter()
    with torch.no_grad():
        x, status, iterations, residuals = _iterate(
            problem, steps, door.blocks[name], name, max_iter, tol, callback, progress
        )
        value = problem.value(x)
    return Solution(
        blocks=door.leave({name: x}),
        value=door.per_sample(value),
        status=door.per_sample(status),
        iterations=door.per_sample(iterations),
        operator_calls=door.per_sample(iterations + 1),
        time=time.perf_counter() - began,
        history={"residual": door.per_sample(torch.stack(residuals), axis=1)} if residuals else {},
    )


def _as_tuple(item: Any, argument: str) -> tuple:
    if item is None:
        raise TypeError(f"{argument} must be given, got None")
    return tuple(item) if isinstance(item, (tuple, list)) else (item,)


def _enter(saddle: SaddlePoint, init: Any) -> Door:
    if init is None:
        init = saddle.domain.zero()
    name = next(iter(init)) if isinstance(init, dict) and len(init) == 1 else "x"
    return enter(init, {name: saddle.domain})


def _iterate(
    problem: Saddle,
    steps: Steps,
    x: Tensor,
    name: str,
    max_iter: int,
    tol: float,
    callback: Callback | None,
    progress: bool,
) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
    """Run the iteration; return x, status, iterations and the history of residuals."""
    samples = torch.arange(x.shape[0], device=x.device)
    status = torch.full_like(samples, Status.RUNNING if max_iter else Status.MAX_ITER)
    iterations = torch.zeros_like(samples)
    history: list[Tensor] = []
    p = [torch.zeros_like(K(x)) for K in problem.forward]
    Kp = torch.zeros_like(x)
    final = x
    every = _CHECK_EVERY if steps.balanced else _CHECK_FIXED_EVERY
    with tqdm(total=max_iter, desc="pdhg", disable=not progress, leave=False) as bar:
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
            residual = torch.stack((primal, *dual)).amax(0)
            history.append(residual)
            running = status == Status.RUNNING
            status = torch.where(running & (residual <= tol), Status.CONVERGED, status)
            status = torch.where(running & ~torch.isfinite(residual), Status.NON_FINITE, status)
            if k == max_iter:
                status = torch.where(status == Status.RUNNING, Status.MAX_ITER, status)
            if callback and callback(Iterate(k, {name: x}, problem.value(x), residual, samples)):
                status = torch.where(status == Status.RUNNING, Status.STOPPED, status)
            iterations = torch.where(running, k, iterations)
            final = torch.where(shaped(running, x), x, final)
            bar.update(k - bar.n)
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
    P = dx / shaped(steps.tau, x) - dKp
    p_size = sum(
        norm * norm_of(part, w) for norm, part, w in zip(steps.norms, p, problem.dual_weights, strict=True)
    )
    primal = norm_of(P, problem.primal_weight) / p_size.clamp_min(tiny)
    x_size = norm_of(x, problem.primal_weight).clamp_min(tiny)
    dual = []
    for j, (norm, w) in enumerate(zip(steps.norms, problem.dual_weights, strict=True)):
        D = (p_old[j] - p[j]) / shaped(steps.sigma[j], p[j]) - problem.forward[j](dx)
        dual.append(norm_of(D, w) / (norm * x_size))
    return primal, dual
