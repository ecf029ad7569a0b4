"""The alternating maximisation of the evidence bound: settings, one step, the run."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from genreg.empirical_bayes.encoders.families import Encoder
from genreg.empirical_bayes.priors import Drawn, Prior
from genreg.empirical_bayes.result import evidence_terms
from genreg.networks.borrowed import seeded
from genreg.operators.fidelity import Fidelity
from genreg.training.engine import State
from genreg.training.settings import Plan

__all__ = ["Run", "Settings"]


@dataclass(frozen=True, kw_only=True)
class Settings(Plan):
    """What determines the result of a run, apart from the observations and the prior at its start."""

    integers: ClassVar[tuple[str, ...]] = (*Plan.integers, "n_critic", "draws", "dense")
    positive: ClassVar[tuple[str, ...]] = (*Plan.positive, "n_critic", "draws", "memory", "clip")
    non_negative: ClassVar[tuple[str, ...]] = (*Plan.non_negative, "dense")

    n_critic: int
    draws: int
    dense: int
    memory: int | None
    clip: float | None


class Run(State):
    """An encoder and a prior in training on observations."""

    remedy: ClassVar[str] = "lower lr or set clip"
    settings: Settings

    def __init__(
        self, encoder: Encoder, prior: Prior, fidelity: Fidelity, inputs: Tensor, settings: Settings
    ) -> None:
        self.encoder, self.prior, self.fidelity, self.inputs = encoder, prior, fidelity, inputs
        self.n = len(inputs)
        self.weights = list(encoder.parameters())
        self.optimiser = torch.optim.Adam(self.weights, lr=settings.lr)
        both = nn.ModuleDict({"encoder": encoder, "prior": prior})  # a checkpoint holds them together
        super().__init__(both, settings, [self.optimiser, *prior.optimisers], self.weights)

    def advance(self, images: Callable[[int], Tensor]) -> dict[str, Tensor]:
        """Take one step of Adam on the encoder, and after every n_critic of them one of the prior."""
        index = images(self.step)
        self.optimiser.param_groups[0]["lr"] = self.settings.rate(self.step)
        belief = self.encoder(self.inputs[index])
        z, terms = evidence_terms(belief, self.prior, self.fidelity.take(index), self.settings.draws)
        losses = self._descend(-terms.mean(), self.optimiser, self.weights, self.settings.clip)
        memory = self.n if self.settings.memory is None else self.settings.memory
        self.prior.absorb(Drawn(z.detach(), belief.gaussian), min(1.0, len(index) / memory))
        if self.step % self.settings.n_critic == 0:
            value = losses["train_loss"].item()
            if not math.isfinite(value):
                raise FloatingPointError(
                    f"train loss is {value} at step {self.step}: {self.remedy}, lr is {self.settings.lr}"
                )
            sparse = self.step > self.settings.dense * self.settings.n_critic
            self.last = self.prior.update(self.n, sparse=sparse)
        return losses

    def _identity(self) -> dict[str, Any]:
        """What a checkpoint and a run must agree on."""
        return dataclasses.asdict(self.settings) | {
            "encoder": self.encoder.config.to_dict(),
            "prior": self.prior.to_dict(),
        }

    @torch.no_grad()
    def consolidate(self) -> None:
        """Learn the prior from what the encoder says of all observations."""
        rows = torch.arange(self.n, device=self.inputs.device)
        self.prior.forget()
        with seeded(self.settings.seed_of(self.settings.steps), rows.device):
            for index in rows.split(self.settings.batch_size):
                belief = self.encoder(self.inputs[index])
                z, _ = belief.draw(self.settings.draws)
                self.prior.absorb(Drawn(z, belief.gaussian), len(index) / self.n)
        self.last = self.prior.update(self.n)
