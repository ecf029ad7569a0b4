r"""Gauss-Newton steps for latent vectors, damped after Levenberg and Marquardt.

With the gradient g of H and its Gauss-Newton matrix N, a step is

.. math:: d = -(N + \mu \operatorname{diag} N)^{-1} g ,

with a damping μ for every sample: it shrinks when H falls as the quadratic model promises, and grows when H does
not fall. N comes from the objective (`Objective.curvature`). It leaves out the second derivatives of what is squared,
so that the iteration slows down where the residual is large (an image off the range of the generator) and a Jacobian
costs several gradients. After the rule of Fletcher and Xu, N is therefore made anew after a step that has lowered H by
a tenth, and otherwise updated by the formula of Broyden, Fletcher, Goldfarb and Shanno, with Powell's damping.

References
----------
K. Levenberg (1944), doi:10.1090/qam/10666; D. W. Marquardt (1963), doi:10.1137/0111030.

K. Madsen, H. B. Nielsen, O. Tingleff (2004), Methods for non-linear least squares problems, Technical University
of Denmark, section 3.2 (the rule for μ).

R. Fletcher, C. Xu (1987), Hybrid methods for nonlinear least squares, doi:10.1093/imanum/7.3.371.

S. G. Nash, A. Sofer (1990), Assessing a search direction within a truncated-Newton method,
doi:10.1016/0167-6377(90)90065-D (when to end the inner conjugate gradients).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from genreg.operators.linear.conjugate_gradient import conjugate_gradients, inner
from genreg.solvers.problem.capabilities import Capability
from genreg.solvers.problem.objective import Objective
from genreg.solvers.problem.state import State, where
from genreg.solvers.updates.base import DENSE, TrialStep, Update
from genreg.solvers.updates.line_search import Backtracking


class GaussNewton(NamedTuple):
    """What `LevenbergMarquardt` remembers besides the damping μ, which is its step size.

    Attributes
    ----------
    growth : Tensor
        Factor by which μ grows after a failure, ``(B,)``; it doubles with every failure in a row.
    known : Tensor
        Whether `matrix` can be used; otherwise it is computed before the next step, ``(B,)``.
    matrix : Tensor
        N, ``(B, n, n)``, or ``(B, 0, 0)`` where only its products are used.
    """

    growth: Tensor
    known: Tensor
    matrix: Tensor


@dataclass(frozen=True)
class LevenbergMarquardt(Update):
    r"""The step :math:`v \leftarrow v - (N + \mu \operatorname{diag} N)^{-1} \nabla H(v)`, see the module.

    Up to `dense` unknowns by a Cholesky factorisation for every sample; with more by conjugate gradients on
    :math:`N + \mu I` (μ in units of the mean curvature along the gradient) with products :math:`N p` only.

    Parameters
    ----------
    damping : float
        First μ.
    fresh : float
        Relative decrease of H above which the next step has a new Gauss-Newton matrix; 0 for a new one always.
    smallest : float
        Smallest μ.
    dense : int
        Number of unknowns up to which N is a dense matrix.
    inner_iterations : int
        Largest number of inner conjugate gradient steps.
    line_search : Backtracking
        `slack` and `max_trials` count: what rounding is, and how often a step may fail. After 15 failures in a
        row μ has grown by a factor of 2¹²⁰.
    """

    damping: float = 0.1
    fresh: float = 0.1
    smallest: float = 1e-8
    dense: int = DENSE
    inner_iterations: int = 30
    line_search: Backtracking = field(default_factory=lambda: Backtracking(max_trials=15))

    needs: ClassVar[tuple[Capability, ...]] = ("smooth", "curvature")

    def first_step(self, gradient: Tensor, reach: Tensor) -> Tensor:
        """First damping of every sample, ``(B,)``."""
        return gradient.new_full((len(gradient),), self.damping)

    def first_memory(self, gradient: Tensor, reach: Tensor) -> GaussNewton:
        """N is not known yet."""
        count, n = gradient.flatten(1).shape
        n = n if n <= self.dense else 0
        growth = gradient.new_full((count,), 2.0)
        return GaussNewton(
            growth, torch.zeros_like(growth, dtype=torch.bool), gradient.new_zeros(count, n, n)
        )

    def __call__(self, objective: Objective, state: State, block: str) -> State:
        """One trial for every sample."""
        mu, v, gradient = state.steps[block], state.blocks[block], state.gradients[block]
        if v[0].numel() <= self.dense:
            memory = _refreshed(objective, state, block)
            d, promised = _dense_step(memory.matrix, gradient.flatten(1), mu)
        else:
            memory = state.memory[block]
            product = objective.curvature[block](state.blocks, **objective.per_sample).product
            d, promised = self._krylov_step(product, gradient, mu)
        trial = TrialStep.of(objective, state, block, v + d.view_as(v))
        d = trial.step
        slope, change = inner(gradient, d), inner(trial.gradient_change, d)  # (B,)
        highest, steepest = state.smooth + 1e-4 * slope, -1.9998 * slope
        accepted = self.line_search.accept(state.smooth, trial.smooth, highest, slope, change, steepest)
        accepted = accepted & (slope < 0)  # a step lost in the rounding of v is none

        fall = state.smooth - trial.smooth
        equal = self.line_search.equal(state.smooth, trial.smooth, slope, change)
        gain = torch.where(equal, 1.0, fall / promised)
        shrunk = (mu * (1 - (2 * gain.clamp(0, 1) - 1) ** 3).clamp_min(0.1)).clamp_min(self.smallest)
        # After Fletcher and Xu: where H has fallen by much, the old N says little about the new point, and a new one is
        # worth its Jacobian; after a short step an update of N is enough.
        far = (fall >= self.fresh * trial.smooth.abs()) | (self.fresh == 0)
        N = memory.matrix
        if N.numel():
            updated = _bfgs(N, d.flatten(1), trial.gradient_change.flatten(1))
            N = where(accepted & ~far, updated, N)
        after_step = GaussNewton(
            growth=torch.where(accepted, 2.0, 2 * memory.growth),
            known=memory.known & ~(accepted & far),
            matrix=N,
        )
        mu = torch.where(accepted, shrunk, mu.clamp_min(1e-4) * memory.growth)
        return trial.result(accepted, mu, after_step, inner(gradient, gradient).sqrt())

    def _krylov_step(
        self, product: Callable[[Tensor], Tensor], g: Tensor, mu: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Truncated conjugate gradients on (N + μ I) d = -g, and the decrease that the model promises."""
        tiny = torch.finfo(g.dtype).tiny
        gg = inner(g, g)
        unit = inner(g, product(g)) / gg.clamp_min(tiny)  # curvature along the gradient
        shift = (mu * unit).view(-1, *(1,) * (g.ndim - 1))

        def shifted(p: Tensor) -> Tensor:
            return product(p) + shift * p

        def decrease(d: Tensor, residual: Tensor) -> Tensor:
            """-(gᵀd + ½ dᵀ(N + μ)d), with (N + μ)d = -g - residual."""
            return 0.5 * (inner(residual, d) - inner(g, d))

        models = [torch.zeros_like(gg)]  # after every step

        def unfinished(d: Tensor, residual: Tensor) -> Tensor:
            models.append(decrease(d, residual))
            return (len(models) - 1) * (models[-1] - models[-2]) > 0.1 * models[-1]

        found = conjugate_gradients(shifted, -g, unfinished, max_iter=self.inner_iterations)
        return found.x, decrease(found.x, found.residual).clamp_min(tiny)


def _refreshed(objective: Objective, state: State, block: str) -> GaussNewton:
    """The memory with N for all samples, computed for those where it is not known."""
    memory: GaussNewton = state.memory[block]
    at = (~memory.known).nonzero().squeeze(1)
    if not len(at):
        return memory
    if len(at) == len(memory.known):
        N = objective.curvature[block](state.blocks, **objective.per_sample).matrix()
    else:  # the Jacobian is what costs: only of the samples that need it
        few = objective.take(at)
        blocks = {name: v[at] for name, v in state.blocks.items()}
        N = memory.matrix.index_copy(0, at, few.curvature[block](blocks, **few.per_sample).matrix())
    return memory._replace(known=torch.ones_like(memory.known), matrix=N)


def _dense_step(N: Tensor, g: Tensor, mu: Tensor) -> tuple[Tensor, Tensor]:
    """Solve (N + μ diag N) d = -g, and return the decrease that the model promises, -gᵀd - ½ dᵀN d."""
    diagonal = N.diagonal(dim1=1, dim2=2)
    floor = torch.finfo(g.dtype).eps * diagonal.amax(1, keepdim=True)  # a direction that nothing depends on
    damping = mu[:, None] * diagonal + floor  # (B, n)
    factor, _ = torch.linalg.cholesky_ex(N + torch.diag_embed(damping))
    d = -torch.cholesky_solve(g[..., None], factor)[..., 0]
    promised = 0.5 * ((damping * d * d).sum(1) - (g * d).sum(1))
    return d, promised.clamp_min(torch.finfo(g.dtype).tiny)


def _bfgs(N: Tensor, s: Tensor, y: Tensor) -> Tensor:
    """The update of the matrices N, ``(B, n, n)``, by steps s and gradient changes y, ``(B, n)``, damped by Powell."""
    Ns = (N @ s[..., None])[..., 0]  # (B, n)
    sNs, sy = (s * Ns).sum(1), (s * y).sum(1)
    mix = torch.where(sy < 0.2 * sNs, 0.8 * sNs / (sNs - sy), 1.0)[:, None]
    r = mix * y + (1 - mix) * Ns
    tiny = torch.finfo(s.dtype).tiny
    down = Ns[..., None] * (Ns / sNs.clamp_min(tiny)[:, None])[:, None]
    up = r[..., None] * (r / (r * s).sum(1).clamp_min(tiny)[:, None])[:, None]
    updated = N - down + up
    usable = torch.isfinite(updated).flatten(1).all(1) & (sNs > 0)
    return torch.where(usable[:, None, None], updated, N)
