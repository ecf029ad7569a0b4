r"""Adaptive measurements with a generative prior.

One loop serves measurement and the search for the largest datum: sample the posterior :math:`p(z \mid y)` given all
that has been measured, predict the data A(G(z)) of every candidate for draws z, let a policy choose, measure, repeat.
It begins with nothing measured, with the prior.

The report by Liang (2021) describes it in algorithms 2 to 4. Its published code differs from it, and here it is done
as the mathematics say: the energy of one image has the prior term ‖z‖²/2 of this image, not of a whole batch; an
average over draws has no zeros in it; the noise of a measurement is drawn once, not at each evaluation of the energy;
what varies most is sought among predicted data, of decoded images, not among latent vectors.
"""

from __future__ import annotations

import math
import secrets
from typing import Any

import odl
import torch
from odl.functionals import Functional
from torch import Tensor
from tqdm import tqdm

from genreg.adaptive.candidates import Candidates
from genreg.adaptive.policies import Belief, Policy
from genreg.adaptive.result import AdaptiveResult
from genreg.generator import Generator
from genreg.operators import to_torch
from genreg.operators.arguments import choice, integer, seed_number, seeded_generator
from genreg.sampling import LatentPosterior, Samples, sample
from genreg.sampling.kernels import Kernel
from genreg.sampling.starts import STARTS
from genreg.solvers.door import given_back

__all__ = ["adaptive_measurements"]

_NUMBERS = 2**25  # predicted at once


def adaptive_measurements(
    problem: Candidates,
    policy: Policy,
    rounds: int,
    k: int,
    *,
    G: Generator,
    latent: Functional | None = None,
    kernel: Kernel | None = None,
    chains: int = 10,
    steps: int = 100,
    burn_in: int | None = None,
    metric: str = "dense",
    init: str | Tensor = "prior",
    restart: str = "last",
    initial: Any = None,
    draws: int = 200,
    seed: int | None = None,
    progress: bool = True,
) -> AdaptiveResult:
    r"""Choose measurements round by round, with a policy that sees the posterior given those before.

    Every image has its own choices. Unless `restart` says otherwise, the chains of a round start where those of the
    round before have ended, with their step sizes and coordinates. That is cheap, and enough where a round changes
    the posterior little. Where a few measurements with little noise leave narrow modes far apart, chains stay in modes
    that have lost their probability; ``restart="map"`` seeks modes anew in every round.

    Parameters
    ----------
    problem : Candidates
        What can be measured.
    policy : Policy
        How to choose: `Variance`, `Random`, `EpsilonGreedy`, `InformationGain`; `UpperConfidenceBound` and `Thompson`
        to find the largest datum.
    rounds : int
        Number of rounds.
    k : int
        Number of groups measured in each.
    G : Generator
        The generator Z -> X, the prior.
    latent : Functional, optional
        Negative logarithm of another density of z than N(0, I), see `LatentPosterior`.
    kernel, chains, steps, burn_in, metric
        Those of `genreg.sampling.sample`, for each round.
    init : str or Tensor
        Where the chains of the first round start, see `sample`.
    restart : {"last", "map", "screened", "posterior", "prior"}
        Where those of the later rounds start: where the chains are, or anew as `sample` can.
    initial : sequence of int or Tensor, optional
        Numbers of groups that are measured before the first round, ``(n,)``, or ``(B, n)`` for each image its own.
    draws : int
        Draws of the posterior of every image, of all chains together, that the policy sees, at most.
    seed : int, optional
        Seed of all random numbers; without it one is drawn, see `AdaptiveResult.seed`.
    progress : bool
        Show a progress bar.

    Returns
    -------
    AdaptiveResult

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or sign, the generator has other images than the operator, more is to be
        measured than there is, or a policy that looks for the largest datum is to choose complex data.
    """
    _check(problem, policy, G)
    rounds, k = integer(rounds, "rounds", minimum=1), integer(k, "k", minimum=1)
    draws, chains = integer(draws, "draws", minimum=2), integer(chains, "chains", minimum=1)
    choice(restart, "restart", ("last", *STARTS))
    first = _initial(initial, problem)
    left = problem.count - (0 if first is None else first.shape[1])
    if rounds * k > left:
        raise ValueError(
            f"rounds * k must be at most the number of groups left to measure, {left}, got {rounds} * {k}"
        )
    seed = secrets.randbits(32) if seed is None else seed_number(seed)
    known = _Known(problem)
    if first is not None:
        known.measure(first)
    random = seeded_generator(seed, known.y.device)
    samples: Samples | None = None
    chosen, best, states = [], [], []
    for turn in tqdm(range(rounds + 1), desc="Measuring", disable=not progress):
        posterior = LatentPosterior(problem.fidelity(known.y, known.where), G, latent=latent)
        samples = sample(
            posterior,
            kernel,
            chains=chains,
            steps=steps,
            burn_in=burn_in,
            metric=metric,
            init=init if samples is None else samples if restart == "last" else restart,
            seed=int(torch.randint(2**31, (), generator=random, device=random.device)),
            progress=False,
        )
        states.append((samples.status.T, *samples.moments))
        if turn < rounds:
            chosen.append(_choose(policy, known, samples, k, draws, random))
            known.measure(chosen[-1])
            best.append(known.largest)
    assert samples is not None
    status, mean, std = (torch.stack(parts, 1) for parts in zip(*states, strict=True))

    def images(value: Tensor) -> Any:
        rows = value if problem.batched else value[0]
        return given_back(problem.kind, odl.ProductSpace(G.range, rounds + 1), rows)

    def plain(value: Tensor) -> Tensor:
        return value if problem.batched else value[0]

    return AdaptiveResult(
        chosen=plain(torch.stack(chosen, 1)),
        mean=images(mean),
        std=images(std),
        best=None if known.y.is_complex() else plain(torch.stack(best, 1)),
        status=plain(status),
        samples=samples,
        seed=seed,
    )


class _Known:
    """What has been measured so far.

    Attributes
    ----------
    y : Tensor
        Data, ``(B, *Y.shape)``, zero where nothing was measured.
    where : Tensor
        Where something was, boolean, likewise.
    groups : Tensor
        Which groups were, boolean, ``(B, count)``.
    """

    def __init__(self, problem: Candidates) -> None:
        sigma = problem.noise_std
        self.problem = problem
        self.y = problem.nothing()
        self.where = torch.zeros_like(sigma, dtype=torch.bool)
        self.groups = torch.zeros((problem.batch, problem.count), dtype=torch.bool, device=sigma.device)

    def measure(self, chosen: Tensor) -> None:
        """Measure groups of every image, ``(B, k)``."""
        new = self.problem.groups.mask(chosen).view_as(self.where)
        self.y = torch.where(new, self.problem.measure(chosen), self.y)
        self.where = self.where | new
        self.groups = self.groups | self.problem.groups.flags(chosen)

    @property
    def largest(self) -> Tensor:
        """The largest datum measured, ``(B,)``."""
        means = self.problem.groups.mean(self.y.real.flatten(1))
        return means.masked_fill(~self.groups, -torch.inf).amax(1)


def _choose(
    policy: Policy, known: _Known, samples: Samples, k: int, draws: int, random: torch.Generator
) -> Tensor:
    """The groups that the policy chooses for every image, ``(B, k)``; few images at a time, to save memory."""
    problem, forward = known.problem, to_torch(known.problem.operator)
    z = _finite_draws(samples, draws)
    numbers = max(math.prod(space.shape) for space in (problem.operator.range, problem.operator.domain))
    at_once = max(1, _NUMBERS // (2 * len(z) * numbers))
    chosen = []
    for rows in torch.arange(problem.batch, device=z.device).split(at_once):
        with torch.no_grad():
            predicted = forward(samples.posterior.decode(z[:, rows])).flatten(2)
        sigma, groups = problem.noise_std[rows].flatten(1), problem.groups
        if predicted.is_complex():
            predicted, sigma = torch.view_as_real(predicted).flatten(2), sigma.repeat_interleave(2, dim=1)
            groups = groups.doubled()
        chosen.append(policy.choose(Belief(predicted, sigma, known.groups[rows], groups), k, random))
    every = torch.cat(chosen)
    before = known.groups.sum(1) + k
    if every.shape != (problem.batch, k) or bool(
        ((known.groups | problem.groups.flags(every)).sum(1) != before).any()
    ):
        raise ValueError(f"policy must choose {k} different groups not yet measured, {policy!r} did not")
    return every


def _finite_draws(samples: Samples, most: int) -> Tensor:
    """Draws of z, ``(n, B, d)``, evenly from all chains; those of stopped chains are replaced by others."""
    draws, chains = samples.z.shape[:2]
    kept = torch.linspace(0, draws - 1, min(draws, max(1, most // chains)), device=samples.z.device)
    z = samples.z[kept.round().long()].flatten(0, 1)
    finite = torch.isfinite(z).all(-1)
    if bool(finite.all()):
        return z
    order = (~finite).long().argsort(dim=0, stable=True)  # the finite ones first
    turn = torch.arange(len(z), device=z.device)[:, None] % finite.sum(0).clamp_min(1)
    index = order.gather(0, turn)[..., None].expand_as(z)
    return z.gather(0, index).nan_to_num(0.0)


def _check(problem: Any, policy: Any, G: Any) -> None:
    if not isinstance(problem, Candidates):
        raise TypeError(f"problem must be Candidates, got {type(problem).__name__}")
    if isinstance(policy, type) or not isinstance(policy, Policy):
        raise TypeError(f"policy must be a policy such as Variance(), got {policy!r}")
    if not isinstance(G, Generator):
        raise TypeError(f"G must be a genreg.Generator, got {type(G).__name__}")
    if G.range != problem.operator.domain:
        raise ValueError(
            f"G must make images of the domain of A, {problem.operator.domain!r}, got {G.range!r}"
        )
    if policy.maximises and problem.operator.range.is_complex:
        raise ValueError(f"policy must not look for the largest of complex data, got {policy!r}")


def _initial(initial: Any, problem: Candidates) -> Tensor | None:
    """Groups measured before the first round, ``(B, n)``."""
    if initial is None:
        return None
    chosen = torch.as_tensor(initial, device=problem.noise_std.device)
    if chosen.is_floating_point() or chosen.is_complex() or chosen.dtype == torch.bool:
        raise TypeError(f"initial must be numbers of groups, integers, got {chosen.dtype}")
    if chosen.ndim not in (1, 2) or (chosen.ndim == 2 and len(chosen) != problem.batch):
        raise ValueError(
            f"initial must have the shape (n,) or ({problem.batch}, n), got {tuple(chosen.shape)}"
        )
    chosen = chosen.long().expand(problem.batch, -1)
    inside = bool(((chosen >= 0) & (chosen < problem.count)).all())
    if not inside or any(len(row.unique()) < len(row) for row in chosen):
        raise ValueError(
            f"initial must be different numbers of groups from 0 to {problem.count - 1}, got {initial}"
        )
    return chosen
