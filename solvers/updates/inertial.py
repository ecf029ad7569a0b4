r"""Inertial steps of one block, for iPALM.

.. math:: v_i^+ = \mathrm{prox}_{\tau g_i}(w - \tau \nabla_i H(v)), \qquad w = v_i + \beta_k (v_i - v_i^{\mathrm{old}}),

with :math:`\beta_k = (k - 1) / (k + 2)` of Nesterov's type. Extrapolating the point but not the gradient is
one of the two choices of Pock and Sabach, and that of iPiano; it needs no evaluation of the objective besides
the one at :math:`v^+`, so that an iteration costs what one of PALM does.

A sample takes :math:`v^+` if :math:`H(v^+) \le H(v) + \langle \nabla H(v), d \rangle + \|d\|^2 / (2 \tau)`, d the
whole step, *and* the objective H + Σ g does not increase. If the first fails, τ shrinks as in PALM; if only the
second fails, the momentum starts anew, so that the next step is one of PALM. It also starts anew after a step
against it, :math:`\langle w - v^+, d \rangle > 0`. So the objective falls monotonically. τ doubles until a trial
fails, then grows by `Backtracking.grow`, which should be little, as a failure costs an iteration, and doubles
again after 100 trials without a failure.

References
----------
T. Pock, S. Sabach (2016), Inertial proximal alternating linearized minimization (iPALM) for nonconvex and
nonsmooth problems, doi:10.1137/16M1064064; arXiv:1702.02505.

P. Ochs, Y. Chen, T. Brox, T. Pock (2014), iPiano: inertial proximal algorithm for nonconvex optimization,
doi:10.1137/130942954.

B. O'Donoghue, E. Candès (2015), Adaptive restart for accelerated gradient schemes,
doi:10.1007/s10208-013-9150-3.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from torch import Tensor

from genreg.operators.linear.conjugate_gradient import inner
from genreg.solvers.problem.objective import Objective
from genreg.solvers.problem.state import State, where
from genreg.solvers.updates.base import TrialStep, Update
from genreg.solvers.updates.line_search import Backtracking

_PATIENCE = 100  # trials without a failure after which the step is taken to be far too small


class Momentum(NamedTuple):
    """What `Inertial` remembers.

    Attributes
    ----------
    step : Tensor
        The last step that was taken, ``(B, *shape)``.
    age, since_failure : Tensor
        Steps since the momentum began anew, and trials since the last one that was too long, ``(B,)``; whole numbers in
        the type of the step sizes.
    """

    step: Tensor
    age: Tensor
    since_failure: Tensor


@dataclass(frozen=True)
class Inertial(Update):
    """A prox-gradient step with momentum, adaptive restart and backtracking; see the module's docstring.

    Parameters
    ----------
    line_search : Backtracking
        Settings of the step size; its `spectral` rule is not used.
    """

    line_search: Backtracking = field(default_factory=lambda: Backtracking(grow=1.02, slack=100.0))

    def first_memory(self, gradient: Tensor, reach: Tensor) -> Momentum:
        """No momentum, and no failure for long, so that the first steps double."""
        age = torch.zeros_like(gradient.real.flatten(1)[:, 0])
        return Momentum(torch.zeros_like(gradient), age, torch.full_like(age, _PATIENCE))

    def __call__(self, objective: Objective, state: State, block: str) -> State:
        """One trial for every sample."""
        search, tau = self.line_search, state.steps[block]
        v, gradient = state.blocks[block], state.gradients[block]
        last, age, since = state.memory[block]
        trailing = (-1, *(1,) * (v.ndim - 1))
        beta = age / (age + 3)  # (k - 1) / (k + 2), k = age + 1
        ahead = v + beta.view(trailing) * last
        point = ahead - tau.view(trailing) * gradient
        if g := objective.proximable.get(block):
            point = g.prox(point, tau * objective.weight(block))
        trial = TrialStep.of(objective, state, block, point)
        d, pull = trial.step, point - ahead
        slope, change, step_sq = inner(gradient, d), inner(trial.gradient_change, d), inner(d, d)  # (B,)
        part = trial.proximable_change

        highest, steepest = state.smooth + slope + step_sq / (2 * tau), step_sq / tau
        bounded = search.accept(state.smooth, trial.smooth, highest, slope, change, steepest)
        # As a bound on <∇H(v⁺) - ∇H(v), d>, the second-order form of "does not increase": g(v⁺) - g(v) ≤ <s, d> with
        # the subgradient s of g at v⁺. The difference of the values themselves may be wrong by their rounding, which
        # must not end the momentum.
        unit = torch.finfo(tau.dtype).eps * state.value.abs()
        level = torch.maximum(2 * inner(pull, d) / tau, 2 * (unit - slope - part))
        falls = search.accept(state.smooth, trial.smooth, state.smooth - part, slope, change, level)
        inert = (beta > 0) & (inner(last, last) > 0)
        # Without inertia a bounded step falls, unless the prox is inexact: then wait for a better one.
        still = trial.smooth - state.smooth + part <= 10 * unit
        accepted = bounded & torch.where(inert, falls, still)

        onward = accepted & (inner(pull, d) >= 0)
        since = torch.where(bounded, since + 1, 0)
        grown = torch.where(since > _PATIENCE, 2.0 * tau, search.grow * tau)
        steps = torch.where(bounded, torch.where(accepted & (step_sq > 0), grown, tau), tau * search.shrink)
        memory = Momentum(
            step=where(accepted, d, last),
            age=torch.where(onward, age + 1, torch.where(bounded, 0, age)),
            since_failure=since,
        )

        # (w - v⁺) / τ - ∇H(v) is a subgradient of g at v⁺.
        subgradient = trial.gradient_change - pull / tau.view(trailing)
        moved = trial.result(accepted, steps, memory, inner(subgradient, subgradient).sqrt())
        stayed = trial.result(accepted, steps, memory, inner(pull, pull).sqrt() / tau)
        at_rest = torch.where(inert, state.residuals[block], stayed.residuals[block])
        residual = torch.where(accepted, moved.residuals[block], at_rest)
        return replace(moved, residuals={**moved.residuals, block: residual})
