r"""Quasi-Newton steps of limited memory: what they need grows linearly with the number of unknowns.

The approximation M of the inverse Hessian is made from the last m steps s and changes y of the gradient by the two-loop
recursion, from :math:`M_0 = \gamma_b I` on every part b of the unknowns,
:math:`\gamma_b = \langle s_b, y_b \rangle / \|y_b\|^2`.

References
----------
D. C. Liu, J. Nocedal (1989), On the limited memory BFGS method for large scale optimization,
doi:10.1007/BF01589116.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from genreg.operators.linear.conjugate_gradient import inner
from genreg.solvers.problem.objective import Objective
from genreg.solvers.problem.state import State, where
from genreg.solvers.updates.base import FullSteps, descent_step
from genreg.solvers.updates.line_search import Backtracking


class Pairs(NamedTuple):
    """What a limited memory holds.

    Attributes
    ----------
    steps, changes : Tensor
        The last m steps and changes of the gradient, newest first, ``(B, m, n)``; zeros where there were fewer.
    diagonal : Tensor
        That of M₀, ``(B, n)``.
    """

    steps: Tensor
    changes: Tensor
    diagonal: Tensor


@dataclass(frozen=True)
class LimitedMemory(FullSteps):
    r"""The step :math:`v \leftarrow v - \tau M \nabla H(v)`, see the module.

    Parameters
    ----------
    sizes : tuple of int
        Numbers of unknowns of the parts that have a scale of their own; by default all are one part.
    length : int
        Steps remembered, m.
    line_search : Backtracking
        Settings of the step size: `shrink`, `slack` and `max_trials`, and the first step of M.
    """

    sizes: tuple[int, ...] = ()
    length: int = 10
    line_search: Backtracking = field(default_factory=Backtracking)

    def first_memory(self, gradient: Tensor, reach: Tensor) -> Pairs:
        """No steps yet, and a multiple of the identity."""
        flat = gradient.flatten(1)
        none = flat.new_zeros((len(flat), self.length, flat.shape[1]))
        diagonal = self.line_search.first_step(gradient, reach)[:, None].expand_as(flat)
        return Pairs(none, none, diagonal)

    def __call__(self, objective: Objective, state: State, block: str) -> State:
        """One trial for every sample."""
        memory: Pairs = state.memory[block]
        gradient = state.gradients[block]
        direction = -two_loops(memory, gradient.flatten(1)).view_as(gradient)
        trial, accepted, tau = descent_step(objective, state, block, direction, self.line_search)
        d, change = trial.step.flatten(1), trial.gradient_change.flatten(1)  # (B, n)
        # Along negative curvature M, which must stay positive, can't follow: only its diagonal grows.
        longer = where(accepted, 2 * memory.diagonal, memory.diagonal)
        curved = accepted & _curved(d, change)
        memory = Pairs(
            steps=where(curved, torch.cat((d[:, None], memory.steps[:, :-1]), 1), memory.steps),
            changes=where(curved, torch.cat((change[:, None], memory.changes[:, :-1]), 1), memory.changes),
            diagonal=where(curved, self._scales(d, change), longer),
        )
        return trial.result(accepted, tau, memory, inner(gradient, gradient).sqrt())

    def _scales(self, d: Tensor, change: Tensor) -> Tensor:
        """γ of every part, over its entries, ``(B, n)``; that of all parts where it is not positive."""
        tiny, sizes = torch.finfo(d.dtype).tiny, self.sizes or (d.shape[1],)
        overall = inner(d, change) / inner(change, change).clamp_min(tiny)
        parts = []
        for s, y in zip(d.split(sizes, 1), change.split(sizes, 1), strict=True):
            gamma = torch.where(_curved(s, y), inner(s, y) / inner(y, y).clamp_min(tiny), overall)
            parts.append(gamma[:, None].expand_as(s))
        return torch.cat(parts, 1)


def _curved(s: Tensor, y: Tensor) -> Tensor:
    """Where the curvature along a step is positive beyond rounding, ``(B,)``."""
    sy = inner(s, y)
    return (sy > 1e-8 * (inner(s, s) * inner(y, y)).sqrt()) & (sy > 1e6 * torch.finfo(s.dtype).tiny)


def two_loops(memory: Pairs, gradient: Tensor) -> Tensor:
    """M ∇H, ``(B, n)``; a pair of zeros, which stands for one that is not there yet, changes nothing."""
    steps, changes, diagonal = memory
    products = (steps * changes).sum(2)  # (B, m)
    rho = torch.where(products > 0, 1 / torch.where(products > 0, products, 1), 0)  # (B, m)
    q, alphas = gradient, []
    for i in range(steps.shape[1]):
        alphas.append(rho[:, i] * (steps[:, i] * q).sum(1))  # (B,)
        q = q - alphas[i][:, None] * changes[:, i]
    q = diagonal * q
    for i in reversed(range(steps.shape[1])):
        beta = rho[:, i] * (changes[:, i] * q).sum(1)
        q = q + (alphas[i] - beta)[:, None] * steps[:, i]
    return q
