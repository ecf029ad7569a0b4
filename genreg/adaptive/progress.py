"""How far adaptive measurements have come, as a state that can be stored."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from genreg.adaptive.candidates import Candidates
from genreg.sampling import LatentPosterior, Samples
from genreg.sampling.kernels.metropolis import Kernel
from genreg.sampling.run import Chains
from genreg.sampling.storage import as_stored, refuse_not_finite, restored


class Observations:
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


class Progress:
    """What was measured, chosen and found so far.

    Parameters
    ----------
    problem : Candidates
        What can be measured.
    seed : int
        Seed of all random numbers.

    Attributes
    ----------
    observed : Observations
        What has been measured.
    chosen, best : list of Tensor
        Groups chosen in every round, ``(B, k)``, and the largest datum after it, ``(B,)``.
    states : list of tuple of Tensor
        Status of the chains, ``(B, chains)``, and mean and standard deviation of the images, of every posterior.
    samples : Samples or None
        Of the last posterior.
    """

    def __init__(self, problem: Candidates, seed: int) -> None:
        self.observed, self.seed = Observations(problem), seed
        self.random = torch.Generator(self.observed.y.device).manual_seed(seed)
        self.samples: Samples | None = None
        self.chosen: list[Tensor] = []
        self.best: list[Tensor] = []
        self.states: list[tuple[Tensor, ...]] = []
        self._given = self.observed.y, self.observed.where

    def new_seed(self) -> int:
        """The seed of the next sampling."""
        return int(torch.randint(2**31, (), generator=self.random, device=self.random.device))

    def take(self, samples: Samples) -> None:
        """Take in samples of the posterior given all that is observed."""
        self.samples, self._given = samples, (self.observed.y, self.observed.where)
        self.states.append((samples.status.T, *samples.moments))

    def measure(self, groups: Tensor) -> None:
        """Measure groups, ``(B, k)``."""
        self.observed.measure(groups)
        self.chosen.append(groups)
        self.best.append(self.observed.largest)

    def snapshot(self) -> dict[str, Any]:
        """All that determines how the run goes on, and its results."""
        assert self.samples is not None
        return {
            "seed": self.seed,
            "random": self.random.get_state(),
            "y": self.observed.y,
            "where": self.observed.where,
            "groups": self.observed.groups,
            "sampled": self._given,
            "chosen": self.chosen,
            "best": self.best,
            "states": self.states,
            "samples": as_stored(self.samples.state),
        }

    def restore(
        self,
        saved: Mapping[str, Any],
        posterior: Callable[[Tensor, Tensor], LatentPosterior],
        kernel: Kernel | None,
    ) -> None:
        """Continue from a snapshot; ``posterior(y, where)`` is that of data, `kernel` that of the call."""
        device = self.observed.y.device
        self.seed = saved["seed"]
        self.random.set_state(saved["random"])
        observed = self.observed
        observed.y, observed.where, observed.groups = (
            saved[name].to(device) for name in ("y", "where", "groups")
        )
        self.chosen, self.best = ([t.to(device) for t in saved[name]] for name in ("chosen", "best"))
        self.states = [tuple(t.to(device) for t in parts) for parts in saved["states"]]
        y, where = self._given = tuple(t.to(device) for t in saved["sampled"])
        state = restored(saved["samples"])
        refuse_not_finite(state)
        self.samples = Chains.restored(posterior(y, where), state, kernel).samples()
