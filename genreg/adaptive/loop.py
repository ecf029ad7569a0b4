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
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import odl
import torch
from odl.functionals import Functional
from torch import Tensor
from tqdm import tqdm

from genreg.adaptive.candidates import Candidates
from genreg.adaptive.policies import Policy, Predictive
from genreg.adaptive.progress import Observations, Progress
from genreg.adaptive.result import AdaptiveResult
from genreg.generator import Generator
from genreg.operators import to_torch
from genreg.operators.bridge.arguments import choice, integer, seed_number
from genreg.operators.bridge.caller_data import as_kind
from genreg.operators.bridge.modes import undisturbed
from genreg.sampling import LatentPosterior, Samples, sample
from genreg.sampling.kernels.metropolis import Kernel
from genreg.sampling.starting_points import STARTS
from genreg.solvers.checkpoints import codes, digest, of_generator, of_operator, of_setting, resumable

_NUMBERS = 2**25  # predicted at once


@undisturbed
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
    checkpoint: str | Path | None = None,
    resume: bool = False,
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
    checkpoint : str or Path, optional
        New file that receives the state after every posterior and after every measurement.
    resume : bool
        Go on from the checkpoint, with the same arguments otherwise, exactly as the run would have gone on; what was
        measured is not measured again. `rounds` may be more than they were, and without `seed` that of the run is
        taken. Where there is no such file yet the run starts from the beginning.
    progress : bool
        Show a progress bar.

    Returns
    -------
    AdaptiveResult

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or sign, the generator has other images than the operator, more is to be
        measured than there is, or a policy that looks for the largest datum is to choose complex data; or the
        checkpoint to resume from is damaged or was made with other arguments.
    FileExistsError
        If the checkpoint exists and `resume` is false.
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
    seed = None if seed is None else seed_number(seed)
    sampler: dict[str, Any] = {"kernel": kernel, "chains": chains, "steps": steps, "burn_in": burn_in}
    sampler["metric"] = metric
    settings = {"policy": policy, "k": k, "init": init, "restart": restart, "initial": first, "draws": draws}
    file, saved = resumable.begin(
        checkpoint,
        resume,
        "adaptive measurement",
        lambda: _identity(problem, G, latent, {**sampler, **settings}),
        progress=progress,
    )
    if saved is not None and seed not in (None, saved["seed"]):
        raise ValueError(f"seed must be that of the run to resume, {saved['seed']}, got {seed}")
    seed = secrets.randbits(32) if seed is None else seed
    run = Progress(problem, seed)
    if saved is not None:
        run.restore(
            saved, lambda y, where: LatentPosterior(problem.fidelity(y, where), G, latent=latent), kernel
        )
        seed = run.seed
    elif first is not None:
        run.observed.measure(first)
    if len(run.chosen) > rounds:
        raise ValueError(
            f"rounds must be at least those of the run to resume, {len(run.chosen)}, got {rounds}"
        )
    bar = tqdm(total=rounds + 1, initial=len(run.states), desc="Measuring", disable=not progress)
    with bar, resumable.saving(file, run.snapshot) as done:
        while True:
            if len(run.states) == len(run.chosen):
                posterior = LatentPosterior(
                    problem.fidelity(run.observed.y, run.observed.where), G, latent=latent
                )
                start: Any = init if run.samples is None else run.samples if restart == "last" else restart
                drawn = sample(posterior, **sampler, init=start, seed=run.new_seed(), progress=False)
                run.take(drawn)
                bar.update()
                done(now=True)
            if len(run.chosen) == rounds:
                break
            assert run.samples is not None
            run.measure(_choose(policy, run.observed, run.samples, k, draws, run.random))
            done(now=True)
    samples, observed = run.samples, run.observed
    assert samples is not None
    status, mean, std = (torch.stack(parts, 1) for parts in zip(*run.states, strict=True))

    def plain(value: Tensor) -> Tensor:
        return value if problem.batched else value[0]

    def images(value: Tensor) -> Any:
        return as_kind(problem.kind, odl.ProductSpace(G.range, rounds + 1), plain(value))

    return AdaptiveResult(
        chosen=plain(torch.stack(run.chosen, 1)),
        mean=images(mean),
        std=images(std),
        best=None if observed.y.is_complex() else plain(torch.stack(run.best, 1)),
        status=plain(status),
        samples=samples,
        seed=seed,
    )


def _choose(
    policy: Policy, observed: Observations, samples: Samples, k: int, draws: int, random: torch.Generator
) -> Tensor:
    """The groups that the policy chooses for every image, ``(B, k)``; few images at a time, to save memory."""
    problem, forward = observed.problem, to_torch(observed.problem.operator)
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
        chosen.append(policy.choose(Predictive(predicted, sigma, observed.groups[rows], groups), k, random))
    every = torch.cat(chosen)
    before = observed.groups.sum(1) + k
    if every.shape != (problem.batch, k) or bool(
        ((observed.groups | problem.groups.flags(every)).sum(1) != before).any()
    ):
        raise ValueError(f"policy must choose {k} different groups not yet measured, {policy!r} did not")
    return every


def _identity(
    problem: Candidates, G: Generator, latent: Functional | None, settings: Mapping[str, Any]
) -> dict[str, Any]:
    """What a run belongs to; data are part of it where they are those of a simulation."""
    z = codes(G)
    with torch.no_grad():
        prior = None if latent is None else to_torch(latent)(z).nan_to_num()
    return {
        "data": problem.simulated,
        "noise": digest(problem.noise_std),
        "groups": digest(problem.groups.labels),
        **of_operator("operator", problem.operator, G.module(z).detach()),
        **of_generator(G),
        "prior of the latent vectors": prior,
        **{name: of_setting(value) for name, value in settings.items()},
    }


def _finite_draws(samples: Samples, most: int) -> Tensor:
    """Draws of z, ``(n, B, d)``, evenly from all chains; those of stopped chains are replaced by others."""
    draws, chains = samples.z.shape[:2]
    kept = torch.linspace(0, draws - 1, min(draws, max(1, most // chains)), device=samples.z.device)
    z = samples.z[kept.round().long()].flatten(0, 1)
    finite = torch.isfinite(z).all(-1)
    if bool(finite.all()):
        return z
    order = (~finite).long().argsort(dim=0, stable=True)  # the finite ones first
    place = torch.arange(len(z), device=z.device)[:, None] % finite.sum(0).clamp_min(1)
    index = order.gather(0, place)[..., None].expand_as(z)
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
