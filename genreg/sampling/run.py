"""The run of a sampler: all chains of all samples, iteration by iteration."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from genreg.operators.bridge.arguments import number
from genreg.sampling.adaptation import Coordinates, Scatter, adapted, largest_curvature, window_ends
from genreg.sampling.joint_posterior import JointPosterior
from genreg.sampling.kernels.gibbs import Gibbs
from genreg.sampling.kernels.metropolis import ChainState, Kernel
from genreg.sampling.moments import Moments
from genreg.sampling.posterior import Posterior
from genreg.sampling.random_numbers import RandomNumbers
from genreg.sampling.samples import ChainStatus, JointSamples, Samples
from genreg.sampling.storage import as_stored, restore, snapshot
from genreg.solvers.checkpoints import StateFile, saving

# nats, and nats for each unknown, by which the energy of a sound chain may rise
_RISE = (1000.0, 10.0)


@dataclass(frozen=True)
class Plan:
    """What a run is to do; see `sample`."""

    steps: int
    burn_in: int
    thin: int
    chains: int
    metric: str
    step_given: bool
    denoise: bool
    screened: bool
    seed: int
    init: str = ""

    @property
    def draws(self) -> int:
        """Draws to keep of every chain."""
        return (self.steps - self.burn_in) // self.thin


class Chains:
    """Chains in progress.

    Parameters
    ----------
    posterior : Posterior
        The density.
    kernel : Kernel
        The kernel.
    plan : Plan
        What to do.
    random : RandomNumbers
        RandomNumbers numbers.
    z : Tensor
        Where the chains start, ``(chains, B, dim Z)``.
    spent : Tensor
        Evaluations of the density so far, ``(chains, B)``.
    """

    def __init__(
        self,
        posterior: Posterior,
        kernel: Kernel,
        plan: Plan,
        random: RandomNumbers,
        z: Tensor,
        spent: Tensor,
    ) -> None:
        self.posterior, self.kernel, self.plan = posterior, kernel, plan
        self.random, self.spent = random, spent
        self.chains, self.batch, self.dim = z.shape
        self.target: Any = posterior.target(self.chains, Coordinates.identity(z))
        self.iteration, self.seconds = 0, 0.0
        self.log_size = z.new_zeros(self.batch)
        self.alive = torch.ones(self.chains, self.batch, dtype=torch.bool, device=z.device)
        self.started = self.alive.clone()
        self.accepted = torch.zeros_like(self.alive, dtype=torch.int64)
        self.scatter = Scatter(z, plan.metric == "dense")
        self.moments = Moments(posterior.decode(z[0]))
        self.z = z.new_full((plan.draws, *z.shape), torch.nan)
        self.energy = z.new_full((plan.draws, *z.shape[:2]), torch.nan)
        self.seeds = torch.zeros(plan.draws, dtype=torch.int64)  # of images that are drawn
        self.ends = [] if plan.metric == "identity" else window_ends(plan.burn_in)

    def begin(self, z: Tensor, step: Tensor | None, coordinates: Coordinates | None = None) -> None:
        """Go to the starting points, and find the first step sizes unless they are given.

        Parameters
        ----------
        z : Tensor
            Starting points, ``(chains, B, dim Z)``.
        step : Tensor, optional
            Step sizes, one or ``(B,)``; ``(moves, 1)`` or ``(moves, B)`` of a kernel that proposes more than once.
        coordinates : Coordinates, optional
            Where the chains move; by default those of z.
        """
        if coordinates is not None:
            self.target.coordinates = coordinates
        self.state = self._at(z)
        finite = self.state.finite.view_as(self.alive)
        self.alive &= finite
        self.started = finite
        self.top = self.state.energy.view_as(self.alive) + _RISE[0] + _RISE[1] * self.target.unknowns
        if step is None:
            self._find_size()
        else:
            self.log_size = step.expand(*step.shape[:-1], self.batch).log().to(z)
        shape = (*self.log_size.shape[:-1], *self.alive.shape)
        self.accepted = torch.zeros(shape, dtype=torch.int64, device=z.device)

    def go(self, *, max_seconds: float | None, file: StateFile | None, progress: bool) -> Samples:
        """Take the iterations that are left, or those there is time for; the state is kept in `file`."""
        plan, start = self.plan, time.perf_counter() - self.seconds
        bar = tqdm(total=plan.steps, initial=self.iteration, desc="Sampling", disable=not progress)
        began = self.iteration
        with bar, saving(file, lambda: as_stored(snapshot(self))) as done:
            while self.iteration < plan.steps:
                late = max_seconds is not None and time.perf_counter() - start >= max_seconds
                if late and self.iteration > began:
                    break
                self._advance()
                self.seconds = time.perf_counter() - start
                bar.update()
                done()
        samples = self.samples()
        if file is not None:
            file.save(lambda: as_stored(samples.state))
        return samples

    def _advance(self) -> None:
        plan, kernel = self.plan, self.kernel
        size = self.log_size.exp().tile(self.chains)  # (N,) or (moves, N)
        new, info = kernel.step(self.target, self.state, size, self.random)
        energy = new.energy.view_as(self.alive)
        self.alive &= new.finite.view_as(self.alive) & (energy <= self.top)
        self.state = new.where(self.alive.flatten(), self.state)
        if self.iteration < plan.burn_in:
            self._learn(info.probability.view_as(self.accepted))
        else:
            self.accepted += info.accepted.view_as(self.accepted) & self.alive
            done = self.iteration - plan.burn_in + 1
            if done % plan.thin == 0:
                self._keep(done // plan.thin - 1, size)
        self.iteration += 1

    def _learn(self, probability: Tensor) -> None:
        now, goal = self.iteration, self.kernel.acceptance
        if goal is not None:
            count = self.alive.sum(0)
            share = torch.where(self.alive, probability, 0.0).sum(-2) / count.clamp_min(1)
            began = max((end for end in self.ends if end <= now), default=0)
            moved = adapted(self.log_size, share, now - began, goal)
            self.log_size = torch.where(count > 0, moved, self.log_size)
        if not self.ends or now < self.ends[0]:
            pass
        elif now < self.ends[-1]:
            z = self.target.coordinates.decode(self._points(self.state.u))
            self.scatter.add(z)
            if now + 1 in self.ends:
                self.target.coordinates = self.scatter.coordinates()
                self.scatter = Scatter(z, self.plan.metric == "dense")
                self.state = self._at(z)
                if goal is not None or not self.plan.step_given:
                    self._find_size()
        if now + 1 == self.plan.burn_in and goal is None and not self.plan.step_given:
            self._find_size()

    def _keep(self, draw: int, size: Tensor) -> None:
        u = self.state.u
        if self.plan.denoise:
            u = u - size[:, None] * self.state.gradient
        z = self.target.coordinates.decode(self._points(u))
        self.z[draw] = torch.where(self.alive[..., None], z, torch.nan)
        self.energy[draw] = torch.where(self.alive, self.state.energy.view_as(self.alive), torch.nan)
        self.moments.add(self.target.images(z, self.state), self.alive)
        if self.state.seed is not None:
            self.seeds[draw] = self.state.seed

    def _find_size(self) -> None:
        """Step sizes for the largest curvature at the chains of each sample."""
        curvature = largest_curvature(self.target, self.state.u, self.state.gradient, self.random)
        largest = torch.where(self.alive, curvature.view_as(self.alive), 0.0).amax(0)
        largest = torch.where(largest > 0, largest, 1.0)  # of samples without a chain
        self.log_size = self.kernel.largest_size(largest).log()

    def _at(self, z: Tensor) -> ChainState:
        return self.target.state(self.target.coordinates.encode(z).flatten(0, 1), self.random)

    def _points(self, u: Tensor) -> Tensor:
        return u.view(self.chains, self.batch, self.dim)

    def samples(self) -> Samples:
        """What the iterations so far have given."""
        plan = self.plan
        taken = max(self.iteration - plan.burn_in, 0)
        draws = taken // plan.thin
        status = torch.full_like(self.alive, ChainStatus.COMPLETED, dtype=torch.int64)
        if self.iteration < plan.steps:
            status.fill_(ChainStatus.INTERRUPTED)
        status[(self.accepted == 0).view(-1, *status.shape).all(0) & (taken > 0)] = ChainStatus.STUCK
        status[~self.alive] = ChainStatus.DIVERGED
        status[~self.started] = ChainStatus.NOT_STARTED
        acceptance = self.accepted.to(self.energy.dtype) / max(taken, 1)
        found: dict[str, Any] = {
            "posterior": self.posterior,
            "z": self.z[:draws],
            "energy": self.energy[:draws],
            "step": self.log_size.exp(),
            "status": status,
            "evaluations": self.spent + self.target.evaluations,
            "time": self.seconds,
            "seed": plan.seed,
            "moments": self.moments.result,
            "last": self.target.coordinates.decode(self._points(self.state.u)),
            "state": snapshot(self),
        }
        if isinstance(self.posterior, JointPosterior) and isinstance(self.kernel, Gibbs):
            return JointSamples(acceptance=dict(zip(self.kernel.moves, acceptance, strict=True)), **found)
        return Samples(acceptance=acceptance, **found)

    @classmethod
    def restored(
        cls, posterior: Posterior, saved: Mapping[str, Any], kernel: Kernel | None, steps: int | None = None
    ) -> Chains:
        """Continue from a snapshot, where it says no other with more iterations to come than it had planned for.

        Raises
        ------
        ValueError
            If `kernel` is another one than that of the run, or neither says which that was.
        """
        plan = Plan(**saved["plan"])
        plan = plan if steps is None else dataclasses.replace(plan, steps=steps)
        if kernel is not None and saved["kernel"] not in (None, kernel):
            raise ValueError(f"kernel must be that of the run, {saved['kernel']}, got {kernel}")
        kernel = kernel or saved["kernel"]
        if kernel is None:
            raise ValueError(
                "kernel must be given: it is not one of genreg.sampling, so that its name says nothing"
            )
        tensors, device = saved["tensors"], posterior.fidelity.data.device
        z = tensors["u"].to(device).view(plan.chains, posterior.batch, -1)
        run = cls(posterior, kernel, plan, RandomNumbers(plan.seed, device), z, tensors["spent"])
        restore(run, saved)
        return run


def check_seconds(seconds: float | None) -> None:
    """Refuse a time that is not positive."""
    if seconds is not None:
        number(seconds, "max_seconds", above=0, infinite=True)
