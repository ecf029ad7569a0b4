r"""Conjugate gradients for quadratic objectives, batched.

References
----------
M. R. Hestenes, E. Stiefel (1952), Methods of conjugate gradients for solving linear systems,
doi:10.6028/jres.049.044.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Unpack

import torch
from torch import Tensor

from genreg.operators.bridge.caller_data import to_batch
from genreg.operators.bridge.keywords import takes
from genreg.operators.bridge.modes import undisturbed
from genreg.operators.linear.conjugate_gradient import conjugate_gradients, inner
from genreg.solvers.algorithms.descent import Descent
from genreg.solvers.driver.monitor import Iterate, Monitor, Stopping, ended_as
from genreg.solvers.driver.solution import Solution, Status
from genreg.solvers.problem.capabilities import check_offers
from genreg.solvers.problem.objective import Objective


@undisturbed
@takes(Stopping, Descent, max_iter=500, tol=1e-4, progress=True)
def conjugate_gradient(objective: Objective, init: Any, **stopping: Unpack[Stopping]) -> Solution:
    r"""Minimise a quadratic objective of one block by conjugate gradients.

    The Hessian N acts by differences of gradients, :math:`N p = (\nabla H(c p) - \nabla H(0)) / c`, exact for a
    quadratic. The number c gives the argument the length
    :math:`\ell = \|b\|^3 / \langle b, N b \rangle` with :math:`b = \nabla H(0)`, which is at most that of the
    minimiser, so that b does not drown the difference. Every 50 steps, and when the recursion says so, the residual
    is computed afresh.

    A sample has converged when :math:`\|\nabla H(x)\| (\ell + \|x\|) \le tol |H(x)|`. As H is convex and
    :math:`\|x - x^*\| \le \|x\| + \|x^*\|`, that bounds the relative error of the objective.

    Parameters
    ----------
    objective : Objective
        Quadratic and bounded below, such as a Gaussian fidelity of a linear operator plus Tikhonov's term.
    tol : float
        A sample has converged when its residual, see above, is at most this.

    Returns
    -------
    Solution
        ``history`` has ``residual``. A sample whose objective is not quadratic ends as stalled.

    Raises
    ------
    NotImplementedError
        If the objective has a part without a gradient.
    """
    monitor = Monitor(**stopping, description="conjugate gradients")
    check_offers(objective, "conjugate_gradient", "smooth", single=True)
    batch = to_batch(init, objective.spaces)
    ((name, x),) = batch.blocks.items()

    def gradient(v: Tensor) -> tuple[Tensor, Tensor]:
        value, gradients = objective.value_and_gradient({name: v})
        return value, gradients[name]

    at_zero, offset = gradient(torch.zeros_like(x))
    product = _Product(lambda p: gradient(p)[1] - offset, at_zero, offset)
    value, g = gradient(x)
    samples = torch.arange(len(x), device=x.device)
    status = torch.where(torch.isfinite(value), Status.RUNNING, Status.NON_FINITE)
    iterations, calls = torch.zeros_like(samples), torch.full_like(samples, 3)
    history: list[Tensor] = []
    taken, smallest = 0, torch.zeros_like(value)

    def unfinished(step: Tensor, r: Tensor) -> Tensor:
        """Whether the residual r by recursion, after a step from the present x, is above tolerance and rounding."""
        size, norm = product.length + inner(x + step, x + step).sqrt(), inner(r, r).sqrt()
        return (norm * size > 0.5 * monitor.tol * value.abs()) & (norm > smallest)

    with monitor:
        while True:
            size = product.length + inner(x, x).sqrt()
            residual = inner(g, g).sqrt() * size / value.abs().clamp_min(torch.finfo(value.dtype).tiny)
            history.append(residual)
            status = monitor.judge(status, residual, taken)
            running = status == Status.RUNNING
            if not running.any():
                break
            start = x, value
            keep = running.view(-1, *(1,) * (x.ndim - 1))  # (B, 1, ..., 1)
            b = torch.where(keep, -g, 0)  # samples that have ended stay where they are
            # Below rounding a residual by recursion means nothing, and a step may run along the null space of N.
            smallest = 100 * torch.finfo(value.dtype).eps * inner(b, b).sqrt()
            cycle = conjugate_gradients(product, b, unfinished, max_iter=min(50, monitor.max_iter - taken))
            x, k = x + cycle.x, int(cycle.steps.max())
            iterations, taken = iterations + cycle.steps, taken + k
            value, g = gradient(x)
            rounding = 1e-6 * torch.maximum(start[1].abs(), at_zero.abs())
            worse = running & ~(value <= start[1] + rounding)
            x = torch.where(worse.view_as(keep), start[0], x)
            value = torch.where(worse, start[1], value)
            # Neither the objective nor its gradient falls any more: this is rounding.
            idle = (value >= start[1] - rounding) & (inner(g, g) > 0.25 * inner(b, b))
            status = torch.where(worse | (running & idle), Status.STALLED, status)
            calls = torch.where(running, calls + k + 1, calls)
            seen = Iterate(taken, {name: x}, value, residual, samples)
            if monitor.stops(taken, seen):
                status = ended_as(status, Status.STOPPED)
    return monitor.solution(batch, {name: x}, value, status, iterations, calls, {"residual": history})


class _Product:
    r"""The Hessian N of a quadratic by differences of gradients, at arguments of the length of its minimiser.

    Parameters
    ----------
    difference : callable
        :math:`p \mapsto \nabla H(p) - \nabla H(0)`.
    value, b : Tensor
        H(0), ``(B,)``, and ∇H(0), ``(B, *shape)``.
    """

    def __init__(self, difference: Callable[[Tensor], Tensor], value: Tensor, b: Tensor) -> None:
        self.difference = difference
        norm = inner(b, b).sqrt()
        # H(0) / ‖b‖ has the units of x. Where it is no length, the difference is taken at the argument itself.
        self.length = torch.where(norm > 0, value.abs() / norm, 0.0).nan_to_num(0.0, 0.0)
        curvature = inner(b, self(b))
        found = torch.isfinite(curvature) & (curvature > 0)
        self.length = torch.where(found, norm * (norm * norm / torch.where(found, curvature, 1.0)), 0.0)

    def __call__(self, p: Tensor) -> Tensor:
        norm = inner(p, p).sqrt()
        usable = (self.length > 0) & (norm > 0)
        c = torch.where(usable, self.length / torch.where(norm > 0, norm, 1.0), 1.0)
        c = c.view(-1, *(1,) * (p.ndim - 1))
        return self.difference(c * p) / c
