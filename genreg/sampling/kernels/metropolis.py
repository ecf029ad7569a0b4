r"""Markov kernels for a density :math:`\exp(-E(u))`, of a batch of chains, each with a step size of its own.

A kernel makes ``(state, info)`` of a state. Sizes mean the same in all of them: h is the variance of the noise that a
step adds to every component (in Hamiltonian dynamics, of a single leapfrog step), so that to first order each is the
step of Langevin's diffusion over the time h,

.. math:: u^+ = u - \tfrac{h}{2} \nabla E(u) + \sqrt{h}\, \xi, \qquad \xi \sim N(0, I) .

======================  ==========================================  ==========  ==============================
class                   step                                        exact       evaluations of E a step
======================  ==========================================  ==========  ==============================
ULA                     the formula                                 no          1
MALA                    the same as a proposal                      yes         1
PCN                     a proposal that keeps N(0, I)               yes         1, without gradient
HMC                     a trajectory of Hamilton's equations        yes         up to ``leapfrog``
SKROCK                  Chebyshev stages, for stiff densities       no          ``stages`` + 1
======================  ==========================================  ==========  ==============================

Exact kernels leave the density invariant for every h, by Metropolis' test; the others sample a density that differs
from it by a bias that falls with h.

References
----------
G. O. Roberts, R. L. Tweedie (1996), Exponential convergence of Langevin distributions and their discrete
approximations, doi:10.2307/3318418.

S. L. Cotter, G. O. Roberts, A. M. Stuart, D. White (2013), MCMC methods for functions: modifying old algorithms to
make them faster, doi:10.1214/13-STS421.

R. M. Neal (2011), MCMC using Hamiltonian dynamics, arXiv:1206.1901.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from genreg.operators.bridge.arguments import integer, number
from genreg.sampling.random_numbers import RandomNumbers


class Target(Protocol):
    """The density of the chains."""

    def __call__(self, u: Tensor, *, gradient: bool = True) -> tuple[Tensor, Tensor]:
        """Energies ``(N,)`` at points ``(N, d)``, and gradients ``(N, d)``, or zeros instead of these."""


@dataclass(frozen=True)
class ChainState:
    """Where the chains are.

    Attributes
    ----------
    u : Tensor
        Points, ``(N, d)``.
    energy : Tensor
        E(u), ``(N,)``.
    gradient : Tensor
        Its gradient, ``(N, d)``.
    x : Tensor, optional
        Images ``(N, *X.shape)`` that belong to the points, where they are sampled too.
    seed : Tensor, optional
        Seed of the random numbers that made them.
    """

    u: Tensor
    energy: Tensor
    gradient: Tensor
    x: Tensor | None = None
    seed: Tensor | None = None

    @classmethod
    def at(cls, target: Target, u: Tensor, *, gradient: bool = True) -> ChainState:
        """Evaluate the target, without its gradient where no kernel asks for it."""
        return cls(u, *target(u, gradient=gradient))

    def where(self, mask: Tensor, other: ChainState) -> ChainState:
        """Return this state for the chains in `mask`, ``(N,)``, and `other` for the rest."""
        rows, x = mask[:, None], None
        if self.x is not None and other.x is not None:
            x = torch.where(mask.view(-1, *(1,) * (self.x.ndim - 1)), self.x, other.x)
        return ChainState(
            torch.where(rows, self.u, other.u),
            torch.where(mask, self.energy, other.energy),
            torch.where(rows, self.gradient, other.gradient),
            x,
            self.seed,
        )

    @property
    def finite(self) -> Tensor:
        """Whether energy and gradient are finite, ``(N,)``."""
        return torch.isfinite(self.energy) & torch.isfinite(self.gradient).all(1)


@dataclass(frozen=True)
class Info:
    """What a step did.

    Attributes
    ----------
    probability : Tensor
        With which the proposal was to be accepted, ``(N,)``, or ``(moves, N)`` of kernels that propose more than once;
        1 for kernels without a test.
    accepted : Tensor
        Whether it was, likewise.
    """

    probability: Tensor
    accepted: Tensor


class Kernel(Protocol):
    """What a sampler needs of a kernel."""

    @property
    def acceptance(self) -> float | None:
        """The share of accepted proposals at which it works best, or None where it has no test."""

    def largest_size(self, curvature: Tensor) -> Tensor:
        """The size that suits a Hessian with the largest eigenvalue `curvature`, ``(...)``."""

    def step(
        self, target: Target, state: ChainState, size: Tensor, random: RandomNumbers
    ) -> tuple[ChainState, Info]:
        """Take a step of the sizes h, ``(N,)``."""


class _OverCurvature:
    """Kernels whose step size is one over the curvature at first."""

    def largest_size(self, curvature: Tensor) -> Tensor:
        """One over the curvature; without a test the variance is at most a third too large, where it is stiffest."""
        return 1 / curvature


@dataclass(frozen=True)
class ULA(_OverCurvature):
    """Unadjusted Langevin algorithm: a step of Euler's method, without a test.

    For E = ‖u‖²/2 it samples the variance 1 / (1 - h/4) instead of 1, and diverges from h = 4 on.
    """

    acceptance: ClassVar[None] = None

    def step(
        self, target: Target, state: ChainState, size: Tensor, random: RandomNumbers
    ) -> tuple[ChainState, Info]:
        """See the class."""
        u = _drift(state, size) + size.sqrt()[:, None] * random.normal(state.u)
        return ChainState.at(target, u), always(state)


@dataclass(frozen=True)
class MALA(_OverCurvature):
    """Metropolis-adjusted Langevin algorithm."""

    acceptance: ClassVar[float] = 0.574  # Roberts and Rosenthal (1998), doi:10.1111/1467-9868.00123

    def step(
        self, target: Target, state: ChainState, size: Tensor, random: RandomNumbers
    ) -> tuple[ChainState, Info]:
        """See the class."""
        h = size[:, None]
        proposal = ChainState.at(target, _drift(state, size) + h.sqrt() * random.normal(state.u))
        forth = (proposal.u - _drift(state, size)).square().sum(1)
        back = (state.u - _drift(proposal, size)).square().sum(1)
        log_ratio = state.energy - proposal.energy + (forth - back) / (2 * size)
        return _metropolis(state, proposal, log_ratio, random)


@dataclass(frozen=True)
class PCN(_OverCurvature):
    r"""Preconditioned Crank-Nicolson: :math:`u^+ = e^{-h/2} u + \sqrt{1 - e^{-h}}\, \xi`.

    The proposal leaves N(0, I) invariant, so that only what the energy adds to ‖u‖²/2 is tested; it works in any
    number of dimensions where the data say little. In coordinates that the warm-up has learnt, chains may stick in
    tails that are longer than those of a normal distribution: use ``metric="identity"``.
    """

    acceptance: ClassVar[float] = 0.3

    def step(
        self, target: Target, state: ChainState, size: Tensor, random: RandomNumbers
    ) -> tuple[ChainState, Info]:
        """See the class."""
        h = size[:, None]
        moved = (-h / 2).exp() * state.u + (-torch.expm1(-h)).sqrt() * random.normal(state.u)
        proposal = ChainState.at(target, moved, gradient=False)
        log_ratio = _beyond_normal(state) - _beyond_normal(proposal)
        return _metropolis(state, proposal, log_ratio, random)


@dataclass(frozen=True)
class HMC(_OverCurvature):
    r"""Hamiltonian Monte Carlo with trajectories of one length, in as many leapfrog steps as their size asks for.

    A trajectory of a length t has :math:`n = \lceil t / \sqrt{h} \rceil` steps, each of t / n. Where the density is a
    standard normal one, the length π/2 gives independent draws; where it is bent or has tails longer ones do better (on
    posteriors of "shapes-vae" and "mnist-vae-dense" 2.2 gave as many or more effective samples for every evaluation).
    The length of every trajectory is multiplied by a random number, so that none returns to its start by resonance.

    Parameters
    ----------
    length : float
        Length of a trajectory, in coordinates of the chain.
    jitter : float
        Lengths are multiplied by numbers from [1 - jitter, 1 + jitter].
    leapfrog : int
        The largest number of steps; a trajectory that would need more is shorter.

    Raises
    ------
    ValueError
        If `length` is not positive and finite, `jitter` not in [0, 1), or `leapfrog` below 1.
    """

    length: float = 2.0
    jitter: float = 0.3
    leapfrog: int = 12

    acceptance: ClassVar[float] = 0.7

    def __post_init__(self) -> None:
        number(self.length, "length", above=0), number(self.jitter, "jitter", minimum=0, below=1)
        object.__setattr__(self, "leapfrog", integer(self.leapfrog, "leapfrog", minimum=1))

    def step(
        self, target: Target, state: ChainState, size: Tensor, random: RandomNumbers
    ) -> tuple[ChainState, Info]:
        """See the class."""
        momentum = random.normal(state.u)
        length = self.length * (1 + self.jitter * (2 * random.uniform(state.energy) - 1))
        wanted = (length / size.sqrt()).ceil()
        steps = wanted.clamp(1, self.leapfrog)
        eps = torch.where(wanted > steps, size.sqrt(), length / steps)[:, None]
        p = momentum - 0.5 * eps * state.gradient
        moved = state
        for k in range(int(steps.max())):
            ahead = ChainState.at(target, moved.u + eps * p)
            kick = torch.where((steps == k + 1)[:, None], 0.5 * eps, eps)
            under_way = steps > k
            p = torch.where(under_way[:, None], p - kick * ahead.gradient, p)
            moved = ahead.where(under_way, moved)
        kinetic = 0.5 * (momentum.square() - p.square()).sum(1)
        return _metropolis(state, moved, state.energy - moved.energy + kinetic, random)


def _drift(state: ChainState, size: Tensor) -> Tensor:
    return state.u - 0.5 * size[:, None] * state.gradient


def _beyond_normal(state: ChainState) -> Tensor:
    return state.energy - 0.5 * state.u.square().sum(1)


def always(state: ChainState) -> Info:
    """Every proposal is accepted."""
    return Info(torch.ones_like(state.energy), torch.ones_like(state.energy, dtype=torch.bool))


def _metropolis(
    state: ChainState, proposal: ChainState, log_ratio: Tensor, random: RandomNumbers
) -> tuple[ChainState, Info]:
    """Accept proposals with the probability min(1, exp(log_ratio)); never one that is not finite."""
    log_ratio = torch.where(proposal.finite, log_ratio, -torch.inf).nan_to_num(-torch.inf)
    probability = log_ratio.clamp_max(0.0).exp()
    accepted = random.uniform(state.energy) < probability
    return proposal.where(accepted, state), Info(probability, accepted)
