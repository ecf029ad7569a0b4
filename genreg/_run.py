"""The state of a training run: settings, objective, one step, checkpoints."""

import dataclasses
import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from genreg.networks import Autoencoder

__all__ = ["SCHEDULES", "Run", "Settings", "atomically", "loss"]

GAMMA_RATE = 5.0  # log(gamma) has to travel several units, the weights only a fraction of one


def _one_cycle(t: float) -> float:
    return 0.04 + 0.96 * (0.5 - 0.5 * math.cos(math.pi * t / 0.3)) if t < 0.3 else _cosine((t - 0.3) / 0.7)


def _cosine(t: float) -> float:
    return 0.5 + 0.5 * math.cos(math.pi * t)


SCHEDULES: dict[str, Callable[[float], float]] = {
    "cosine": _cosine,
    "one-cycle": _one_cycle,
    "constant": lambda t: 1.0,
}
"""Factor of the learning rate as a function of the share of the steps done."""


@dataclass(frozen=True)
class Settings:
    """What determines the result of a run, apart from model and images; stored in checkpoints and cards."""

    steps: int
    batch_size: int
    lr: float
    schedule: str
    warmup: int
    kl_weight: float
    kl_warmup: int
    gamma: float | None
    input_noise: float
    weight_decay: float
    clip: float | None
    ema: float | None
    seed: int

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int):
                raise TypeError(f"{name} must be an int, got {type(value).__name__}")
        for name in ("steps", "batch_size", "lr", "gamma", "clip"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"{name} must be positive and finite, got {value}")
        for name in ("warmup", "kl_weight", "kl_warmup", "input_noise", "weight_decay", "seed"):
            value = getattr(self, name)
            if not 0 <= value < math.inf:
                raise ValueError(f"{name} must be non-negative and finite, got {value}")
        if self.ema is not None and not 0 <= self.ema < 1:
            raise ValueError(f"ema must lie in [0, 1), got {self.ema}")
        if self.schedule not in SCHEDULES:
            raise ValueError(f"schedule must be one of {sorted(SCHEDULES)}, got {self.schedule!r}")

    def rate(self, step: int) -> float:
        """Return the learning rate of a step."""
        ramp = min(1.0, (step + 1) / self.warmup) if self.warmup else 1.0
        return self.lr * ramp * SCHEDULES[self.schedule](step / self.steps)

    def beta(self, step: int) -> float:
        """Return the weight of the Kullback-Leibler term in a step."""
        return self.kl_weight * (min(1.0, step / self.kl_warmup) if self.kl_warmup else 1.0)

    def seed_of(self, step: int) -> int:
        """Return the seed of a step: a run has no random state apart from the number of the step."""
        return int(np.random.SeedSequence([self.seed, step]).generate_state(1, np.uint64)[0] >> 1)


def loss(model: Autoencoder, x: Tensor, *, kl_weight: float = 1.0, noisy: Tensor | None = None) -> Tensor:
    """Return the objective of the training for a batch, its mean over images.

    Parameters
    ----------
    model
        The model. For a variational one, z is drawn with torch's global generator.
    x
        Images ``(B, n, m)``.
    kl_weight
        Weight of the Kullback-Leibler term; 1 gives the negative evidence lower bound, apart from the
        constant d log(2 pi) / 2.
    noisy
        Input of the encoder ``(B, n, m)`` where it is not `x`.

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


class Run:
    """A model in training with all that a checkpoint holds.

    Every random number of a step comes from torch's generator seeded with ``settings.seed_of(step)``, so a
    checkpoint holds no generator: the number of the step says it all.

    Parameters
    ----------
    model
        The model, which is put in training mode.
    settings
        Settings of the run.
    """

    def __init__(self, model: Autoencoder, settings: Settings) -> None:
        self.model = model.train()
        self.settings = settings
        self.step = 0
        self.history: list[dict[str, Any]] = []
        self.weights = [p for name, p in model.named_parameters() if name != "log_gamma"]
        if settings.gamma is not None:
            model.log_gamma.data.fill_(math.log(settings.gamma))
        groups: list[dict[str, Any]] = [{"params": self.weights}]
        if settings.gamma is None:
            groups.append({"params": [model.log_gamma], "weight_decay": 0.0})
        self.optimiser = torch.optim.AdamW(
            groups, lr=settings.lr, weight_decay=settings.weight_decay, fused=True
        )
        self.average: list[Tensor] = []
        if settings.ema is not None:
            self.average = [p.detach().clone() for p in model.parameters()]

    def advance(self, x: Tensor) -> Tensor:
        """Take one step of Adam on a batch and return its loss."""
        settings = self.settings
        for group, factor in zip(self.optimiser.param_groups, (1.0, GAMMA_RATE), strict=False):
            group["lr"] = factor * settings.rate(self.step)
        noisy = x + settings.input_noise * torch.randn_like(x) if settings.input_noise else None
        value = loss(self.model, x, kl_weight=settings.beta(self.step), noisy=noisy)
        self.optimiser.zero_grad()
        value.backward()
        if settings.clip is not None:
            nn.utils.clip_grad_norm_(self.weights, settings.clip)
        self.optimiser.step()
        self.step += 1
        if settings.ema is not None:
            decay = min(settings.ema, self.step / (self.step + 9.0))
            torch._foreach_lerp_(self.average, [p.detach() for p in self.model.parameters()], 1.0 - decay)
        return value.detach()

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Let the model hold the averaged weights, where there are some."""
        if not self.average:
            yield
            return
        current = [p.detach().clone() for p in self.model.parameters()]
        self._hold(self.average)
        try:
            yield
        finally:
            self._hold(current)

    def finish(self) -> None:
        """Leave the model in evaluation mode with the averaged weights, where there are some."""
        self._hold(self.average)
        self.model.eval()

    @torch.no_grad()
    def _hold(self, values: list[Tensor]) -> None:
        for p, value in zip(self.model.parameters(), values, strict=bool(values)):
            p.copy_(value)

    def save(self, path: Path) -> None:
        """Write a checkpoint atomically."""
        state = {
            "settings": dataclasses.asdict(self.settings),
            "architecture": self.model.config.to_dict(),
            "step": self.step,
            "model": self.model.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "average": self.average,
            "history": self.history,
        }
        atomically(path, lambda target: torch.save(state, target))

    def load(self, path: Path) -> None:
        """Continue from a checkpoint.

        Raises
        ------
        ValueError
            If the file can't be read or belongs to a run with another architecture or other settings.
        """
        try:
            state = torch.load(path, map_location=self.model.log_gamma.device, weights_only=True)
            found = state["settings"] | {"architecture": state["architecture"]}
        except Exception as error:
            raise ValueError(
                f"checkpoint {path} can't be read (truncated or of another kind): {error}"
            ) from error
        asked = dataclasses.asdict(self.settings) | {"architecture": self.model.config.to_dict()}
        different = {key: (found.get(key), asked[key]) for key in asked if found.get(key) != asked[key]}
        if different:
            listed = ", ".join(f"{key} was {old} and is {new}" for key, (old, new) in different.items())
            raise ValueError(
                f"checkpoint {path} belongs to another run: {listed}. Delete it, or use its settings"
            )
        self.model.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.average = state["average"]
        self.history = state["history"]
        self.step = state["step"]


def atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Write a temporary file beside `path` and put it in the place of `path`; `write` gets its name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        write(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
