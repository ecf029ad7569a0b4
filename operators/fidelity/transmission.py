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
from dataclasses import dataclass

import torch
from torch import Tensor

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
    q, y, intensity, b, s = torch.broadcast_tensors(q, y, intensity, background, s)
    phi = _Phi(q, y, intensity.log(), b.log(), s)
    u_0 = phi.log_intensity - (y - b).clamp_min(0).log()  # infinite where y <= b
    rising = q <= u_0
    # without y and b the minimiser is q + W(s I exp(-q)) with Lambert's W(z) <= log(1 + z)
    beyond = q + torch.nn.functional.softplus(s.log() + phi.log_intensity - q)
    low, high = torch.minimum(q, u_0), torch.where(rising, torch.minimum(u_0, beyond), q)
    (nonconvex,) = (~rising & (b > 0)).flatten().nonzero(as_tuple=True)
    if not len(nonconvex):
        return _increasing_root(phi, low, high)

    part, start, end = phi.take(nonconvex), low.flatten()[nonconvex], high.flatten()[nonconvex]
    u_1, u_2 = part.inflections()  # nan where φ is convex
    split = (u_1 < end) & (u_2 > start)
    first = split & (part.slope(u_1)[0] >= 0)  # a minimum to the left of u_1
    second = split & (u_2 < end) & (part.slope(u_2)[0] < 0)  # and one to the right of u_2
    high = high.flatten().index_copy(0, nonconvex, torch.where(first, u_1, end)).view_as(high)
    u = _increasing_root(phi, low, high)
    if not bool(second.any()):
        return u
    where, part = nonconvex[second], part.take(second)
    left = u.flatten()[where]
    right = _increasing_root(part, torch.maximum(u_2, start)[second], end[second])
    better = ~first[second] | (part.value(right) < part.value(left))
    return u.flatten().index_copy(0, where, torch.where(better, right, left)).view_as(u)


@dataclass(frozen=True)
class _Phi:
    """The function φ of every datum."""

    q: Tensor
    y: Tensor
    log_intensity: Tensor
    log_background: Tensor
    s: Tensor

    def take(self, index: Tensor) -> _Phi:
        """Return φ of some data, flattened."""
        values = (self.q, self.y, self.log_intensity, self.log_background, self.s)
        return _Phi(*(v.flatten()[index] for v in values))

    def value(self, u: Tensor) -> Tensor:
        """Evaluate φ."""
        t = self.log_intensity - u
        counts = t.exp() - self.y * torch.logaddexp(t, self.log_background)
        return self.s * counts + 0.5 * (u - self.q).square()

    def slope(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Evaluate φ' and φ''."""
        t = self.log_intensity - u
        e, share = t.exp(), torch.sigmoid(t - self.log_background)  # share = e / (e + b), also for e = b = 0
        signal = self.y * share
        return u - self.q + self.s * (signal - e), 1 + self.s * (e - signal * (1 - share))

    def inflections(self) -> tuple[Tensor, Tensor]:
        """Return u_1 and u_2 from e³ + (1/s + 2b) e² + (2b/s + b² - yb) e + b²/s = 0, or nan."""
        b, s = self.log_background.double().exp(), self.s.double()
        a_2, a_1, a_0 = 1 / s + 2 * b, 2 * b / s + b * b - self.y * b, b * b / s
        p, r = a_1 - a_2**2 / 3, 2 * a_2**3 / 27 - a_2 * a_1 / 3 + a_0
        exists = (4 * p**3 + 27 * r**2 < 0) & (a_1 < 0)
        radius = (torch.where(exists, -p, 1.0) / 3).sqrt()
        angle = (-0.5 * r / radius**3).clamp(-1, 1).acos() / 3
        roots = [2 * radius * (angle - 2 * math.pi * k / 3).cos() - a_2 / 3 for k in (0, 1)]
        tiny = torch.finfo(torch.float64).tiny
        u_1, u_2 = (
            self.log_intensity - torch.where(exists, root.clamp_min(tiny), math.nan).log() for root in roots
        )
        return u_1.to(self.q.dtype), u_2.to(self.q.dtype)


def _increasing_root(phi: _Phi, low: Tensor, high: Tensor) -> Tensor:
    """Find where φ' changes from negative to positive in [low, high]; bisects where Newton is slow."""
    u, before, last = high, high - low, high - low
    done = torch.zeros_like(low, dtype=torch.bool)
    precision = 4 * torch.finfo(low.dtype).eps
    for _ in range(_MAX_ITER):
        f, df = phi.slope(u)
        low, high = torch.where(f <= 0, u, low), torch.where(f >= 0, u, high)
        newton = u - f / df
        good = (newton >= low) & (newton <= high) & (2 * f.abs() <= (before * df).abs())
        new = torch.where(good, newton, 0.5 * (low + high))
        done = done | ((newton - u).abs() <= precision * (1 + u.abs())) | (new == u)
        before, last, u = last, new - u, torch.where(done, u, new)
        if bool(done.all()):
            break
    return u
