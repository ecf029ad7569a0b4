"""The training of autoencoders: settings, objective, one step."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from genreg.networks import Autoencoder
from genreg.solvers.checkpoints import atomically
from genreg.training.engine import State, running_statistics
from genreg.training.settings import SCHEDULES, Plan

__all__ = ["SCHEDULES", "Run", "Settings", "atomically", "loss"]

GAMMA_RATE = 5.0  # log(gamma) has to travel several units, the weights only a fraction of one


@dataclass(frozen=True, kw_only=True)
class Settings(Plan):
    """What determines the result of a run, apart from model and images; stored in checkpoints and cards."""

    positive: ClassVar[tuple[str, ...]] = (*Plan.positive, "gamma", "clip")
    non_negative: ClassVar[tuple[str, ...]] = (
        *Plan.non_negative,
        *("kl_weight", "kl_warmup", "input_noise", "weight_decay"),
    )

    kl_weight: float
    kl_warmup: int
    gamma: float | None
    input_noise: float
    weight_decay: float
    clip: float | None

    def beta(self, step: int) -> float:
        """Return the weight of the Kullback-Leibler term in a step."""
        return self.kl_weight * (min(1.0, step / self.kl_warmup) if self.kl_warmup else 1.0)


def loss(model: Autoencoder, x: Tensor, *, kl_weight: float = 1.0, noisy: Tensor | None = None) -> Tensor:
    """Return the objective of the training for a batch, its mean over images.

    Parameters
    ----------
    model
        The model. For a variational one, z is drawn with torch's global generator.
    x
        Images ``(B, *image_shape)``.
    kl_weight
        Weight of the Kullback-Leibler term; 1 gives the negative evidence lower bound, apart from the
        constant d log(2 pi) / 2.
    noisy
        Input of the encoder ``(B, *image_shape)`` where it is not `x`.

    Returns
    -------
    Tensor
        A scalar, in nats per image.
    """
    inputs = x if noisy is None else noisy
    if model.variational:
        mean, log_std = model.encoder(inputs).chunk(2, dim=1)
        z = torch.addcmul(mean, log_std.exp(), torch.randn_like(mean))
        kl = (0.5 * (mean.square() + (2 * log_std).exp() - 1) - log_std).sum(1).mean()
    else:
        z, kl = model.encode(inputs), None
    error = (model.decode(z) - x).square().sum() / len(x)
    value = x[0].numel() * model.log_gamma + 0.5 * error * (-2 * model.log_gamma).exp()
    return value if kl is None else value + kl_weight * kl


class Run(State):
    """An autoencoder in training.

    Parameters
    ----------
    model
        The model.
    settings
        Settings of the run.
    """

    remedy: ClassVar[str] = "lower lr or set clip"
    settings: Settings

    def __init__(self, model: Autoencoder, settings: Settings) -> None:
        self.model = model
        self.weights = [p for name, p in model.named_parameters() if name != "log_gamma"]
        groups: list[dict[str, Any]] = [{"params": self.weights}]
        if settings.gamma is None:
            groups.append({"params": [model.log_gamma], "weight_decay": 0.0})
        self.optimiser = torch.optim.AdamW(
            groups, lr=settings.lr, weight_decay=settings.weight_decay, fused=True
        )
        super().__init__(model, settings, [self.optimiser], [*model.parameters(), *running_statistics(model)])

    def begin(self) -> None:
        """Put the model in training mode, with the gamma to keep."""
        super().begin()
        if self.settings.gamma is not None:
            self.model.log_gamma.data.fill_(math.log(self.settings.gamma))

    def advance(self, images: Callable[[int], Tensor]) -> dict[str, Tensor]:
        """Take one step of Adam on a batch and return its loss."""
        settings, x = self.settings, images(self.step)
        for group, factor in zip(self.optimiser.param_groups, (1.0, GAMMA_RATE), strict=False):
            group["lr"] = factor * settings.rate(self.step)
        noisy = x + settings.input_noise * torch.randn_like(x) if settings.input_noise else None
        value = loss(self.model, x, kl_weight=settings.beta(self.step), noisy=noisy)
        return self._descend(value, self.optimiser, self.weights, settings.clip)
