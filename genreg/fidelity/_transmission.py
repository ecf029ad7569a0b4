r"""The proximal operator of the fidelity of counts in transmission, by Newton's method.

For every datum it minimises

.. math:: \varphi(u) = s \, \bigl( e(u) - y \log(e(u) + b) \bigr) + \tfrac12 (u - q)^2, \qquad e(u) = I_0 e^{-u}.

The first term falls until e(u) = y - b and rises from there on; the minimiser lies between that point, u_0,
and q. For u <= u_0, and everywhere if b = 0, φ' increases. For u > u_0 and b > 0 the first term is concave where
e(u) is small, and φ has up to two local minima: φ'' = 0 is a cubic equation in e, and its two positive roots
e_1 > e_2, at u_1 < u_2, separate them. The better one is taken.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["transmission_prox"]

_MAX_ITER = 200


def transmission_prox(
    q: Tensor, y: Tensor, intensity: Tensor, background: Tensor, step: float | Tensor
) -> Tensor:
    """Minimise φ for every datum.

    Parameters
    ----------
    q, y, intensity, background : Tensor
        The point, the counts >= 0, the intensity > 0 and the background >= 0; they broadcast.
    step : float or Tensor
        s > 0; it broadcasts.

    Returns
    -------
    Tensor
        The minimiser, of the shape of `q`.
    """
    s = torch.as_tensor(step, dtype=q.dtype, device=q.device)
    q, y, intensity, background, s = torch.broadcast_tensors(q, y, intensity, background, s)
    log_intensity, log_background = intensity.log(), background.log()

    def value(u: Tensor) -> Tensor:
        t = log_intensity - u
        return s * (t.exp() - y * torch.logaddexp(t, log_background)) + 0.5 * (u - q).square()

    def slope(u: Tensor) -> tuple[Tensor, Tensor]:
        t = log_intensity - u
        e, share = t.exp(), torch.sigmoid(t - log_background)  # share = e / (e + b), also for e = b = 0
        return u - q + s * (y * share - e), 1 + s * (e - y * share * (1 - share))

    u_0 = log_intensity - (y - background).clamp_min(0).log()  # infinite where y <= b
    rising = q <= u_0
    # without y and b the minimiser is q + W(s I exp(-q)) with Lambert's W(z) <= log(1 + z)
    beyond = q + torch.nn.functional.softplus(s.log() + log_intensity - q)
    low, high = torch.minimum(q, u_0), torch.where(rising, torch.minimum(u_0, beyond), q)
    if not bool((background > 0).any()):
        return _increasing_root(slope, low, high)
    e_1, e_2 = _inflections(y.double(), background.double(), s.double())
    u_1, u_2 = ((log_intensity - e.log()).to(q.dtype) for e in (e_1, e_2))  # nan where φ is convex
    split = ~rising & (background > 0) & (u_1 < q) & (u_2 > u_0)
    if not bool(split.any()):
        return _increasing_root(slope, low, high)
    first = split & (slope(u_1)[0] >= 0)  # a minimum to the left of u_1
    second = split & (u_2 < q) & (slope(u_2)[0] < 0)  # and one to the right of u_2
    left = _increasing_root(slope, low, torch.where(first, u_1, high))
    right = _increasing_root(slope, torch.where(second, torch.maximum(u_2, low), low), high)
    return torch.where(second & (~first | (value(right) < value(left))), right, left)


def _inflections(y: Tensor, b: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
    """Return the positive roots of e³ + (1/s + 2b) e² + (2b/s + b² - yb) e + b²/s, the larger one first, or nan."""
    a_2, a_1, a_0 = 1 / s + 2 * b, 2 * b / s + b * b - y * b, b * b / s
    p, r = a_1 - a_2**2 / 3, 2 * a_2**3 / 27 - a_2 * a_1 / 3 + a_0
    exists = (4 * p**3 + 27 * r**2 < 0) & (a_1 < 0)
    p = torch.where(exists, p, -1.0)
    radius = (-p / 3).sqrt()
    angle = (1.5 * r / (p * radius)).clamp(-1, 1).acos() / 3
    roots = (2 * radius * (angle - 2 * math.pi * k / 3).cos() - a_2 / 3 for k in (0, 1))
    e_1, e_2 = (torch.where(exists, root, math.nan) for root in roots)
    return e_1, e_2.clamp_min(torch.finfo(torch.float64).tiny)


def _increasing_root(slope: Callable[[Tensor], tuple[Tensor, Tensor]], low: Tensor, high: Tensor) -> Tensor:
    """Find where the slope changes from negative to positive in [low, high]; bisects where Newton is slow."""
    u, before, last = high, high - low, high - low
    precision = 4 * torch.finfo(low.dtype).eps
    for _ in range(_MAX_ITER):
        f, df = slope(u)
        low, high = torch.where(f <= 0, u, low), torch.where(f >= 0, u, high)
        newton = u - f / df
        good = (newton >= low) & (newton <= high) & (2 * f.abs() <= (before * df).abs())
        new = torch.where(good, newton, 0.5 * (low + high))
        before, last, u = last, new - u, new
        if not bool((last.abs() > precision * (1 + u.abs())).any()):
            break
    return u
