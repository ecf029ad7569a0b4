"""Quasi-Newton steps of one block, with a dense matrix or, for many unknowns, with a limited memory."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from genreg.operators.linear.conjugate_gradient import inner
from genreg.solvers.problem.objective import Objective
from genreg.solvers.problem.state import State, where
from genreg.solvers.updates.base import DENSE, FullSteps, descent_step
from genreg.solvers.updates.limited_memory import LimitedMemory, Pairs
from genreg.solvers.updates.line_search import Backtracking


class InverseHessian(NamedTuple):
    """What `QuasiNewton` remembers where M is a matrix.

    Attributes
    ----------
    matrix : Tensor
        M, ``(B, n, n)``.
    """

    matrix: Tensor


@dataclass(frozen=True)
class QuasiNewton(FullSteps):
    r"""The step :math:`v \leftarrow v - \tau M \nabla H(v)` with the BFGS approximation M of the inverse Hessian.

    Up to `dense` unknowns M is a matrix for every sample; with more it is made from the last steps, whose memory grows
    linearly, see `genreg.solvers.updates.limited_memory`. A step is accepted when
    :math:`H(v^+) \le H(v) + 10^{-4} \langle \nabla H(v), d \rangle`, starting from τ = 1. Where the curvature along a
    step is not positive, M (of a limited memory, its diagonal) is doubled instead of updated. The residual is that of
    `ProxGradient`.

    Parameters
    ----------
    line_search : Backtracking
        Settings of the step size: `shrink`, `slack` and `max_trials`, and the first step of M.
    dense : int
        Number of unknowns up to which M is a matrix.
    memory : int
        Steps that are remembered where it is none.

    References
    ----------
    J. Nocedal, S. J. Wright (2006), Numerical optimization, doi:10.1007/978-0-387-40065-5, sections 6.1 and 7.2.
    """

    line_search: Backtracking = field(default_factory=Backtracking)
    dense: int = DENSE
    memory: int = 10

    def first_memory(self, gradient: Tensor, reach: Tensor) -> InverseHessian | Pairs:
        """The first M: a multiple of the identity."""
        n = gradient[0].numel()
        if n > self.dense:
            return self._limited.first_memory(gradient, reach)
        scale = self.line_search.first_step(gradient, reach)
        eye = torch.eye(n, dtype=gradient.dtype, device=gradient.device)
        return InverseHessian(scale[:, None, None] * eye)

    @property
    def _limited(self) -> LimitedMemory:
        return LimitedMemory(length=self.memory, line_search=self.line_search)

    def __call__(self, objective: Objective, state: State, block: str) -> State:
        """One trial for every sample."""
        if isinstance(state.memory[block], Pairs):
            return self._limited(objective, state, block)
        M = state.memory[block].matrix
        v, gradient = state.blocks[block], state.gradients[block]
        direction = -(M @ gradient.flatten(1)[..., None])[..., 0].view_as(v)
        trial, accepted, steps = descent_step(objective, state, block, direction, self.line_search)
        updated = bfgs_update(M, trial.step.flatten(1), trial.gradient_change.flatten(1))
        memory = InverseHessian(where(accepted, updated, M))
        return trial.result(accepted, steps, memory, inner(gradient, gradient).sqrt())


def bfgs_update(M: Tensor, s: Tensor, y: Tensor) -> Tensor:
    """The BFGS update of the inverse Hessians M, ``(B, n, n)``, from steps s and gradient changes y, ``(B, n)``."""
    sy = (s * y).sum(1)  # (B,)
    curved = sy > 1e-8 * s.norm(dim=1) * y.norm(dim=1)
    rho = torch.where(curved, 1 / torch.where(curved, sy, 1), 0)[:, None, None]
    My = M @ y[..., None]  # (B, n, 1)
    yMy = y[:, None] @ My  # (B, 1, 1)
    outer = s[..., None] @ My.mT  # (B, n, n)
    updated = M - rho * (outer + outer.mT) + rho * (1 + rho * yMy) * (s[..., None] * s[:, None])
    return torch.where(curved[:, None, None], updated, 2 * M)
