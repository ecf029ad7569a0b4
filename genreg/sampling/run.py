"""The run of a sampler: all chains of all samples, turn by turn, with a state that can be stored."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from genreg.sampling.adaptation import Coordinates, Scatter
from genreg.sampling.kernels.metropolis import Kernel, State
from genreg.sampling.moments import Moments
from genreg.sampling.posterior import LatentPosterior
from genreg.sampling.random_numbers import Random
from genreg.sampling.samples import ChainStatus, Samples
from genreg.sampling.warm_up import adapted, largest_curvature, window_ends

__all__ = ["Plan", "Run"]

_RISE = (
    1000.0,
    10.0,
)  # nats, and nats for each latent dimension, by which the energy of a sound chain may rise


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


class _Target:
    """The energies of all chains, layer upon layer of the samples of a batch, in coordinates u."""

    def __init__(self, posterior: LatentPosterior, chains: int, coordinates: Coordinates) -> None:
        rows = torch.arange(posterior.batch, device=coordinates.mean.device).repeat(chains)
        self.objective = posterior.objective.take(rows)
        self.shape = (chains, *coordinates.mean.shape)
        self.coordinates = coordinates
        self.evaluations = 0

    def __call__(self, u: Tensor, *, gradient: bool = True) -> tuple[Tensor, Tensor]:
        self.evaluations += 1
        blocks = {"z": self.coordinates.decode(u.view(self.shape)).flatten(0, 1)}
        if not gradient:
            return self.objective(blocks), torch.zeros_like(u)
        energy, slope = self.objective.value_and_gradient(blocks)
        return energy, self.coordinates.transposed(slope["z"].view(self.shape)).flatten(0, 1)


class Run:
    """Chains in progress.

    Parameters
    ----------
    posterior : LatentPosterior
        The density.
    kernel : Kernel
        The kernel.
    plan : Plan
        What to do.
    random : Random
        Random numbers.
    z : Tensor
        Where the chains start, ``(chains, B, dim Z)``.
    spent : Tensor
        Evaluations of the density so far, ``(chains, B)``.
    """

    def __init__(
        self,
        posterior: LatentPosterior,
        kernel: Kernel,
        plan: Plan,
        random: Random,
        z: Tensor,
        spent: Tensor,
    ) -> None:
        self.posterior, self.kernel, self.plan, self.random, self.spent = (
            posterior,
            kernel,
            plan,
            random,
            spent,
        )
        self.chains, self.batch, self.dim = z.shape
        self.target = _Target(posterior, self.chains, Coordinates.identity(z))
        self.turn, self.seconds = 0, 0.0
        self.log_size = z.new_zeros(self.batch)
        self.alive = torch.ones(self.chains, self.batch, dtype=torch.bool, device=z.device)
        self.started = self.alive.clone()
        self.accepted = torch.zeros_like(self.alive, dtype=torch.int64)
        self.scatter = Scatter(z, plan.metric == "dense")
        self.moments = Moments(posterior.decode(z[0]))
        self.z = z.new_full((plan.draws, *z.shape), torch.nan)
        self.energy = z.new_full((plan.draws, *z.shape[:2]), torch.nan)
        self.ends = [] if plan.metric == "identity" else window_ends(plan.burn_in)

    def begin(self, z: Tensor, step: Tensor | None, coordinates: Coordinates | None = None) -> None:
        """Go to the starting points, and find the first step sizes unless they are given."""
        if coordinates is not None:
            self.target.coordinates = coordinates
        self.state = self._at(z)
        finite = self.state.finite.view_as(self.alive)
        if not bool(finite.any()):
            raise ValueError(
                "init must have a finite energy, got none in any chain of any sample: check data and noise_std, and "
                "whether their units are those of the generator"
            )
        self.alive &= finite
        self.started = finite
        self.top = self.state.energy.view_as(self.alive) + _RISE[0] + _RISE[1] * self.dim
        if step is None:
            self._find_size()
        else:
            self.log_size = step.expand(self.batch).log().to(z)

    def go(self, *, max_seconds: float | None, done: Callable[[], None], progress: bool) -> Samples:
        """Take the turns that are left, or those there is time for; `done()` is called after each."""
        plan, start = self.plan, time.perf_counter() - self.seconds
        bar = tqdm(total=plan.steps, initial=self.turn, desc="Sampling", disable=not progress)
        began = self.turn
        with bar:
            while self.turn < plan.steps:
                if (
                    max_seconds is not None
                    and time.perf_counter() - start >= max_seconds
                    and self.turn > began
                ):
                    break
                self._advance()
                self.seconds = time.perf_counter() - start
                bar.update()
                done()
        return self.samples()

    def _advance(self) -> None:
        plan, kernel = self.plan, self.kernel
        size = self.log_size.exp().repeat(self.chains)
        new, info = kernel.step(self.target, self.state, size, self.random)
        energy = new.energy.view_as(self.alive)
        self.alive &= new.finite.view_as(self.alive) & (energy <= self.top)
        self.state = new.where(self.alive.flatten(), self.state)
        if self.turn < plan.burn_in:
            self._learn(info.probability.view_as(self.alive))
        else:
            self.accepted += info.accepted.view_as(self.alive) & self.alive
            done = self.turn - plan.burn_in + 1
            if done % plan.thin == 0:
                self._keep(done // plan.thin - 1, size)
        self.turn += 1

    def _learn(self, probability: Tensor) -> None:
        turn, goal = self.turn, self.kernel.acceptance
        if goal is not None:
            count = self.alive.sum(0)
            share = torch.where(self.alive, probability, 0.0).sum(0) / count.clamp_min(1)
            began = max((end for end in self.ends if end <= turn), default=0)
            moved = adapted(self.log_size, share, turn - began, goal)
            self.log_size = torch.where(count > 0, moved, self.log_size)
        if not self.ends or turn < self.ends[0]:
            pass
        elif turn < self.ends[-1]:
            z = self.target.coordinates.decode(self._points(self.state.u))
            self.scatter.add(z)
            if turn + 1 in self.ends:
                self.target.coordinates = self.scatter.coordinates()
                self.scatter = Scatter(z, self.plan.metric == "dense")
                self.state = self._at(z)
                if goal is not None or not self.plan.step_given:
                    self._find_size()
        if turn + 1 == self.plan.burn_in and goal is None and not self.plan.step_given:
            self._find_size()

    def _keep(self, draw: int, size: Tensor) -> None:
        u = self.state.u
        if self.plan.denoise:
            u = u - size[:, None] * self.state.gradient
        z = self.target.coordinates.decode(self._points(u))
        self.z[draw] = torch.where(self.alive[..., None], z, torch.nan)
        self.energy[draw] = torch.where(self.alive, self.state.energy.view_as(self.alive), torch.nan)
        self.moments.add(self.posterior.decode(z), self.alive)

    def _find_size(self) -> None:
        """Step sizes for the largest curvature at the chains of each sample."""
        curvature = largest_curvature(self.target, self.state.u, self.state.gradient, self.random)
        largest = torch.where(self.alive, curvature.view_as(self.alive), 0.0).amax(0)
        largest = torch.where(largest > 0, largest, 1.0)  # of samples without a chain
        self.log_size = self.kernel.largest_size(largest).log()

    def _at(self, z: Tensor) -> State:
        return State.at(self.target, self.target.coordinates.encode(z).flatten(0, 1))

    def _points(self, u: Tensor) -> Tensor:
        return u.view(self.chains, self.batch, self.dim)

    def samples(self) -> Samples:
        """What the turns taken have given."""
        plan = self.plan
        taken = max(self.turn - plan.burn_in, 0)
        draws = taken // plan.thin
        status = torch.full_like(self.accepted, ChainStatus.COMPLETED)
        if self.turn < plan.steps:
            status.fill_(ChainStatus.INTERRUPTED)
        status[(self.accepted == 0) & (taken > 0)] = ChainStatus.STUCK
        status[~self.alive] = ChainStatus.DIVERGED
        status[~self.started] = ChainStatus.NOT_STARTED
        return Samples(
            posterior=self.posterior,
            z=self.z[:draws],
            energy=self.energy[:draws],
            acceptance=self.accepted.to(self.energy.dtype) / max(taken, 1),
            step=self.log_size.exp(),
            status=status,
            evaluations=self.spent + self.target.evaluations,
            time=self.seconds,
            seed=plan.seed,
            moments=self.moments.result,
            last=self.target.coordinates.decode(self._points(self.state.u)),
            state=self.snapshot(),
        )

    def snapshot(self) -> dict[str, Any]:
        """All that determines how the run goes on."""
        parts = {"scatter": self.scatter.tensors, "moments": self.moments.tensors}
        tensors = {f"{part}.{name}": t for part, held in parts.items() for name, t in held.items()}
        tensors |= {
            "u": self.state.u,
            "state.energy": self.state.energy,
            "state.gradient": self.state.gradient,
            "coordinates.mean": self.target.coordinates.mean,
            "coordinates.factor": self.target.coordinates.factor,
            "random": self.random.state,
        }
        names = ("log_size", "alive", "started", "accepted", "top", "spent", "z", "energy")
        tensors |= {name: getattr(self, name) for name in names}
        return {
            "plan": vars(self.plan),
            "kernel": self.kernel,
            "turn": self.turn,
            "seconds": self.seconds,
            "evaluations": self.target.evaluations,
            "tensors": {name: t.clone() for name, t in tensors.items()},
        }

    @classmethod
    def restored(
        cls,
        posterior: LatentPosterior,
        saved: Mapping[str, Any],
        kernel: Kernel | None,
        steps: int | None = None,
    ) -> Run:
        """Continue from a snapshot, where it says no other with more turns to come than it had planned for.

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
        run = cls(posterior, kernel, plan, Random(plan.seed, device), z, tensors["spent"])
        run._restore(saved)
        return run

    def _restore(self, saved: Mapping[str, Any]) -> None:
        self.turn, self.seconds = saved["turn"], saved["seconds"]
        self.target.evaluations = saved["evaluations"]
        device = self.z.device
        tensors = {
            name: t.clone() if name == "random" else t.to(device, copy=True)
            for name, t in saved["tensors"].items()
        }

        def part(name: str) -> dict[str, Tensor]:
            return {key.removeprefix(name): t for key, t in tensors.items() if key.startswith(name)}

        self.scatter.restore(part("scatter."))
        self.moments.restore(part("moments."))
        self.target.coordinates = Coordinates(**part("coordinates."))
        self.state = State(tensors["u"], **part("state."))
        self.random.state = tensors["random"]
        for name in ("log_size", "alive", "started", "accepted", "top", "spent"):
            setattr(self, name, tensors[name])
        for name in ("z", "energy"):
            getattr(self, name)[: len(tensors[name])] = tensors[name]
