r"""Step sizes of the primal-dual hybrid gradient method, for every sample: where they start, and how they are balanced.

See `genreg.solvers.algorithms.primal_dual`. With strengths :math:`s_j` the steps are
:math:`\tau = 0.99 / (\sum_j s_j \max_i \|K_i\|)` and :math:`\sigma_j = s_j \max_i \|K_i\| / \|K_j\|^2`.

References
----------
T. Goldstein, M. Li, X. Yuan (2015), Adaptive primal-dual splitting methods for statistical learning and image
processing, NeurIPS 28; arXiv:1305.0546.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, overload

import odl
import torch
from torch import Tensor

from genreg.operators import to_torch, weight
from genreg.operators.bridge.arguments import number
from genreg.operators.linear.norm import operator_norm
from genreg.solvers.problem.objective import SaddlePoint

_MARGIN = 0.99  # τ Σ σ_j ‖K_j‖² of the balanced steps


class Saddle:
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
        """Σ K_j* p_j, ``(B, *X.shape)``."""
        total = self.backward[0](p[0])
        for K, part in zip(self.backward[1:], p[1:], strict=True):
            total = total + K(part)
        return total


def _weight_of_parts(space: Any) -> float | Tensor:
    return _weight_of_parts(space[0]) if isinstance(space, odl.ProductSpace) else weight(space)


class Steps:
    """Step sizes τ and σ_j, fixed numbers or one for every sample."""

    def __init__(
        self, saddle: SaddlePoint, problem: Saddle, tau: float | None, sigma: Any, x: Tensor
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
        self.strength = strengths(problem, self.norms, x, saddle.expected)
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


def strengths(problem: Saddle, norms: Sequence[float], x: Tensor, expected: Tensor | None) -> list[Tensor]:
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
    still = norm_of(d, problem.primal_weight) == 0  # the data are in f
    if bool(still.any()):
        d = torch.where(shaped(still, d), problem.f.prox(zero, 1.0), d)
    size = norm_of(d, problem.primal_weight)
    d = d / shaped(torch.where(size > 0, size, 1.0), d)
    images = [K(d) for K in problem.forward]

    def value(log_t: Tensor) -> Tensor:
        t = 10**log_t
        parts = (g(shaped(t, Kd) * Kd) for g, Kd in zip(problem.g, images, strict=True))
        own = problem.f(shaped(t, d) * d)
        return sum(parts, torch.where(torch.isfinite(own), own, 0.0)).nan_to_num(torch.inf)

    log_t, lowest = least_along(value, ones)
    at_zero = value(torch.full_like(ones, -torch.inf))
    fall = at_zero - lowest
    found = (size > 0) & torch.isfinite(at_zero) & (fall > 1e-6 * at_zero.abs())
    least = lowest if expected is None else torch.fmin(lowest, expected)
    shorter = (least.clamp_min(0) / torch.where(found, at_zero, 1.0)).clamp(1e-12, 1.0).sqrt()
    strengths = []
    for norm, Kd, w in zip(norms, images, problem.dual_weights, strict=True):
        dual = shorter * fall / norm_of(Kd, w).clamp_min(torch.finfo(fall.dtype).tiny)  # t ‖p_j‖
        strengths.append(torch.where(found, dual * norm / max(norms) / 100**log_t, ones))
    return strengths


def least_along(value: Callable[[Tensor], Tensor], like: Tensor) -> tuple[Tensor, Tensor]:
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


@overload
def shaped(step: Tensor, like: Tensor) -> Tensor: ...
@overload
def shaped(step: Tensor | float, like: Tensor) -> Tensor | float: ...
def shaped(step: Tensor | float, like: Tensor) -> Tensor | float:
    """A step of every sample with trailing axes, so that it multiplies `like`; a number as it is."""
    return step.view(-1, *(1,) * (like.ndim - 1)) if isinstance(step, Tensor) else step


def norm_of(v: Tensor, w: float | Tensor) -> Tensor:
    """Norm of every sample in a space of weight w, ``(B,)``; to the few digits that a stopping rule needs."""
    if isinstance(w, Tensor):
        return torch.linalg.vecdot((w.to(v.device) * v).flatten(1), v.flatten(1)).real.sqrt()
    v = v.flatten(1)
    return (w * torch.linalg.vecdot(v, v).real).sqrt()
