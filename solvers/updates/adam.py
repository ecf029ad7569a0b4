r"""Steps of Adam in one block, for every sample of a batch by itself.

With the gradient :math:`g = \nabla_i H(v)` and the number t of the step, entry by entry

.. math::

    m \leftarrow \beta_1 m + (1 - \beta_1) g, \qquad s \leftarrow \beta_2 s + (1 - \beta_2) g^2, \qquad
    v_i \leftarrow v_i - \tau \frac{m / (1 - \beta_1^t)}{\sqrt{s / (1 - \beta_2^t)} + \epsilon}.

There is no line search, so the objective may increase. The driver therefore returns, of a sample that has not
converged, the iterate with the smallest objective.

References
----------
D. P. Kingma, J. Ba (2015), Adam: a method for stochastic optimization, arXiv:1412.6980.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from genreg.operators.bridge.arguments import number
from genreg.operators.linear.conjugate_gradient import inner
from genreg.solvers.problem.capabilities import Capability
from genreg.solvers.problem.objective import Objective
from genreg.solvers.problem.state import State, relative, where
from genreg.solvers.problem.trees import map_tensors
from genreg.solvers.updates.base import TrialStep, Update
from genreg.solvers.updates.line_search import Backtracking


class Moments(NamedTuple):
    """What `Adam` remembers of the n real entries of a block.

    Attributes
    ----------
    mean, square : Tensor
        m and s, ``(B, n)``.
    steps : Tensor
        Steps taken, ``(B,)``, a whole number in the type of the block.
    """

    mean: Tensor
    square: Tensor
    steps: Tensor


@dataclass(frozen=True)
class Adam(Update):
    r"""A step of Adam; see the module's docstring.

    Every finite trial is accepted. A trial at which H or its gradient is not finite is rejected: the sample stays
    where it is, with its moments and its t, and its rate τ halves for good; after 60 of them in a row it ends as
    ``NON_FINITE``. The real and the imaginary part of a complex block are entries of their own, as in
    `torch.optim.Adam`. The residual is that of `ProxGradient`, at the accepted point.

    Parameters
    ----------
    lr : float
        First rate τ > 0: about the length of a step in every entry.
    betas : tuple of float
        β₁ and β₂ in [0, 1).
    eps : float
        ε > 0.
    decay : float
        Factor in (0, 1] on τ after every step, as in `torch.optim.lr_scheduler.ExponentialLR`. As an entry moves by
        about τ in a step, it then moves by about lr / (1 - decay) at most in all.

    Raises
    ------
    ValueError
        If a parameter is out of its range.
    """

    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    decay: float = 1.0

    monotone: ClassVar[bool] = False
    needs: ClassVar[tuple[Capability, ...]] = ("smooth",)

    def __post_init__(self) -> None:
        number(self.lr, "lr", above=0), number(self.eps, "eps", above=0)
        number(self.decay, "decay", above=0, maximum=1)
        if not isinstance(self.betas, tuple | list) or len(self.betas) != 2:
            raise ValueError(f"betas must be two numbers in [0, 1), got {self.betas!r}")
        for i, beta in enumerate(self.betas):
            number(beta, f"betas[{i}]", minimum=0, below=1)

    @property
    def line_search(self) -> Backtracking:
        """First rate, factor after a trial that is not finite, and how many of them end a sample."""
        return Backtracking(initial_step=self.lr, shrink=0.5, relative=False)

    def first_memory(self, gradient: Tensor, reach: Tensor) -> Moments:
        """Zeros."""
        g = _entries(gradient)
        return Moments(torch.zeros_like(g), torch.zeros_like(g), g.new_zeros(len(g)))

    def __call__(self, objective: Objective, state: State, block: str) -> State:
        """One trial for every sample."""
        v, memory, tau = state.blocks[block], state.memory[block], state.steps[block]
        g, (first, second) = _entries(state.gradients[block]), self.betas  # (B, n)
        moved = Moments(
            mean=first * memory.mean + (1 - first) * g,
            square=second * memory.square + (1 - second) * g.square(),
            steps=memory.steps + 1,
        )
        t = moved.steps[:, None]
        mean, spread = moved.mean / _weight(first, t), moved.square / _weight(second, t)
        point = _entries(v) - tau[:, None] * mean / (spread.sqrt() + self.eps)
        trial = TrialStep.of(objective, state, block, _like(v, point))
        gradients = torch.stack([torch.isfinite(d).flatten(1).all(1) for d in trial.gradients.values()])
        finite = torch.isfinite(trial.smooth) & gradients.all(0)
        steps = torch.where(finite, tau * self.decay, tau * self.line_search.shrink)
        memory = map_tensors(lambda new, old: where(finite, new, old), moved, memory)
        after = trial.result(finite, steps, memory, torch.zeros_like(tau))
        slope = after.gradients[block]
        residual = torch.where(finite, relative(after, block, inner(slope, slope).sqrt()), torch.inf)
        return replace(after, residuals={**after.residuals, block: residual})


def _weight(beta: float, t: Tensor) -> Tensor:
    """1 - β^t: the weights of all gradients in a moment; without cancellation, so that float32 will do."""
    return -torch.expm1(t * (math.log(beta) if beta else -math.inf))


def _entries(t: Tensor) -> Tensor:
    """The real numbers of every sample, ``(B, n)``."""
    return (torch.view_as_real(t) if t.is_complex() else t).flatten(1)


def _like(v: Tensor, entries: Tensor) -> Tensor:
    """Such numbers in the shape of `v`."""
    return torch.view_as_complex(entries.view(*v.shape, 2)) if v.is_complex() else entries.view_as(v)
