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
from collections.abc import Callable, Sequence
from typing import Any

import odl
import torch
from torch import Tensor
from tqdm import tqdm

from genreg.operators import to_torch, weight
from genreg.operators.arguments import number
from genreg.operators.modes import undisturbed
from genreg.operators.norm import operator_norm
from genreg.solvers.door import Door, enter
from genreg.solvers.driver import Callback, Iterate, check_stopping
from genreg.solvers.objective import Objective, SaddlePoint
from genreg.solvers.solution import Solution, Status

__all__ = ["pdhg"]

_CHECK_EVERY, _CHECK_FIXED_EVERY = 10, 25  # iterations between looks at the residuals
_MARGIN = 0.99  # τ Σ σ_j ‖K_j‖² of the balanced steps


class _Problem:
    """A saddle-point problem in torch, with its K and K* and their norms."""

    def __init__(self, saddle: SaddlePoint) -> None:
        self.f, self.g = saddle.f, saddle.g
        self.forward = [to_torch(K) for K in saddle.operators]
        self.backward = [K.adjoint for K in self.forward]
        self.primal_weight = float(weight(saddle.domain))
        self.dual_weights = [_weight_of_parts(K.range) for K in saddle.operators]

    def value(self, x: Tensor) -> Tensor:
        """Objective f(x) + Σ g_j(K_j x), ``(B,)``."""
        return sum((g(K(x)) for g, K in zip(self.g, self.forward, strict=True)), self.f(x))

    def adjoint(self, p: Sequence[Tensor]) -> Tensor:
        total = self.backward[0](p[0])
        for K, part in zip(self.backward[1:], p[1:], strict=True):
            total = total + K(part)
        return total


def _weight_of_parts(space: Any) -> float | Tensor:
    return _weight_of_parts(space[0]) if isinstance(space, odl.ProductSpace) else weight(space)


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
    problem = _Problem(saddle)
    steps = _Steps(saddle, problem, tau, sigma, door.blocks[name])

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


class _Steps:
    """Step sizes τ and σ_j, fixed numbers or one for every sample."""

    def __init__(
        self, saddle: SaddlePoint, problem: _Problem, tau: float | None, sigma: Any, x: Tensor
    ) -> None:
        if (tau is None) != (sigma is None):
            raise ValueError(f"tau and sigma must be given together, got tau={tau!r} and sigma={sigma!r}")
        self.balanced = tau is None
        count = len(saddle.operators)
        if not self.balanced:
            many = isinstance(sigma, tuple | list) or getattr(sigma, "ndim", 0) > 0
            sigmas = list(sigma) if many else [sigma] * count
            if len(sigmas) != count:
                raise ValueError(
                    f"sigma must be a number, or one for each of the {count} operators, got {len(sigmas)}"
                )
            self.tau = number(tau, "tau", above=0)
            self.sigma = [number(s, "sigma", above=0) for s in sigmas]
            self.norms = [(self.tau * s * count) ** -0.5 for s in self.sigma]  # what such steps are meant for
            return
        self.norms = [operator_norm(K, rtol=1e-3) for K in saddle.operators]
        self.strength = _strengths(problem, self.norms, x, saddle.expected)
        self.speed = 1.0
        self._set()

    def _set(self) -> None:
        self.tau = _MARGIN / sum(self.strength) / max(self.norms)
        self.sigma = [
            s * max(self.norms) / norm**2 for s, norm in zip(self.strength, self.norms, strict=True)
        ]

    def balance(self, primal: Tensor, dual: Sequence[Tensor]) -> None:
        """Move the steps of the samples whose relative residuals are apart."""
        if not self.balanced:
            return
        for j, residual in enumerate(dual):
            ratio = (residual / primal.clamp_min(torch.finfo(primal.dtype).tiny)).clamp(1e-2, 1e2)
            moved = torch.where((ratio > 1.5) | (ratio < 1 / 1.5), ratio.pow(self.speed), 1.0)
            self.strength[j] = self.strength[j] * moved
        self.speed *= 0.95
        self._set()


def _strengths(problem: _Problem, norms: Sequence[float], x: Tensor, expected: Tensor | None) -> list[Tensor]:
    """First strengths σ_j ‖K_j‖² / max ‖K‖, ``(B,)``, such that τ and σ have the units of the problem.

    The objective F, but for constraints on x, is minimised along the direction d in which a first step leads from
    zero. With the minimiser t d and
    the decrease Δ, the solution has about the length t ‖d‖, and the dual variables at zero about Δ / (t ‖K_j d‖). At
    the solution they are shorter, by about the root of F there over F(0), as the gradient of a square is; F there is
    F(t d) or what is expected, if that is less. All scale with image, data and λ as the solution does. 1 where no
    decrease is found.
    """
    ones = torch.ones_like(x.flatten(1)[:, 0].abs())
    zero = torch.zeros_like(x)
    p = [g.conj_prox(K(zero), 1.0) for g, K in zip(problem.g, problem.forward, strict=True)]
    d = -problem.adjoint(p)
    still = _norm(d, problem.primal_weight) == 0  # the data are in f
    if bool(still.any()):
        d = torch.where(_shaped(still, d), problem.f.prox(zero, 1.0), d)
    size = _norm(d, problem.primal_weight)
    d = d / _shaped(torch.where(size > 0, size, 1.0), d)
    images = [K(d) for K in problem.forward]

    def value(log_t: Tensor) -> Tensor:
        t = 10**log_t
        parts = (g(_shaped(t, Kd) * Kd) for g, Kd in zip(problem.g, images, strict=True))
        own = problem.f(_shaped(t, d) * d)
        return sum(parts, torch.where(torch.isfinite(own), own, 0.0)).nan_to_num(torch.inf)

    log_t, lowest = _least(value, ones)
    at_zero = value(torch.full_like(ones, -torch.inf))
    fall = at_zero - lowest
    found = (size > 0) & torch.isfinite(at_zero) & (fall > 1e-6 * at_zero.abs())
    least = lowest if expected is None else torch.fmin(lowest, expected)
    shorter = (least.clamp_min(0) / torch.where(found, at_zero, 1.0)).clamp(1e-12, 1.0).sqrt()
    strengths = []
    for norm, Kd, w in zip(norms, images, problem.dual_weights, strict=True):
        dual = shorter * fall / _norm(Kd, w).clamp_min(torch.finfo(fall.dtype).tiny)  # t ‖p_j‖
        strengths.append(torch.where(found, dual * norm / max(norms) / 100**log_t, ones))
    return strengths


def _least(value: Callable[[Tensor], Tensor], like: Tensor) -> tuple[Tensor, Tensor]:
    """The minimiser of a function of one number for every sample, ``(B,)``, and its value there.

    By steps of 2 from -18 to 18, and between the neighbours of the best of these by golden section.
    """
    grid = torch.arange(-18.0, 19.0, 2.0).tolist()
    values = torch.stack([value(torch.full_like(like, k)) for k in grid])
    best = like.new_tensor(grid)[values.argmin(0)]
    low, high = best - 2, best + 2
    golden = (5**0.5 - 1) / 2
    for _ in range(30):
        left, right = high - golden * (high - low), low + golden * (high - low)
        falls = value(left) > value(right)
        low, high = torch.where(falls, left, low), torch.where(falls, high, right)
    middle = (low + high) / 2
    return middle, value(middle)


def _shaped(step: Tensor | float, like: Tensor) -> Tensor | float:
    return step.view(-1, *(1,) * (like.ndim - 1)) if isinstance(step, Tensor) else step


def _iterate(
    problem: _Problem,
    steps: _Steps,
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
            final = torch.where(_shaped(running, x), x, final)
            bar.update(k - bar.n)
            if not (status == Status.RUNNING).any():
                break
            steps.balance(primal, dual)
    return final, status, iterations, history


def _plus(v: Tensor, step: Tensor | float, w: Tensor) -> Tensor:
    """Return v + step w."""
    return torch.addcmul(v, _shaped(step, v), w) if isinstance(step, Tensor) else torch.add(v, w, alpha=step)


def _minus(v: Tensor, step: Tensor | float, w: Tensor) -> Tensor:
    """Return v - step w."""
    return (
        torch.addcmul(v, _shaped(step, v), w, value=-1)
        if isinstance(step, Tensor)
        else torch.sub(v, w, alpha=step)
    )


def _residuals(
    problem: _Problem,
    steps: _Steps,
    x: Tensor,
    dx: Tensor,
    p: list[Tensor],
    p_old: list[Tensor],
    dKp: Tensor,
) -> tuple[Tensor, list[Tensor]]:
    """Primal residual and dual residual for every operator, relative to ‖K‖ ‖p‖ and ‖K‖ ‖x‖, ``(B,)``."""
    tiny = torch.finfo(x.real.dtype).tiny
    P = dx / _shaped(steps.tau, x) - dKp
    p_size = sum(
        norm * _norm(part, w) for norm, part, w in zip(steps.norms, p, problem.dual_weights, strict=True)
    )
    primal = _norm(P, problem.primal_weight) / p_size.clamp_min(tiny)
    x_size = _norm(x, problem.primal_weight).clamp_min(tiny)
    dual = []
    for j, (norm, w) in enumerate(zip(steps.norms, problem.dual_weights, strict=True)):
        D = (p_old[j] - p[j]) / _shaped(steps.sigma[j], p[j]) - problem.forward[j](dx)
        dual.append(_norm(D, w) / (norm * x_size))
    return primal, dual


def _norm(v: Tensor, w: float | Tensor) -> Tensor:
    """Norm of every sample in a space of weight w, ``(B,)``; to the few digits that a stopping rule needs."""
    if isinstance(w, Tensor):
        return torch.linalg.vecdot((w.to(v.device) * v).flatten(1), v.flatten(1)).real.sqrt()
    v = v.flatten(1)
    return (w * torch.linalg.vecdot(v, v).real).sqrt()
