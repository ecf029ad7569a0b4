"""The training of discriminators between data and the images of a generator: settings, one step, the run."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from typing import Any, ClassVar

import odl
import torch
from torch import Tensor, nn

from genreg.networks.borrowed import evaluating
from genreg.networks.discriminator_output import DiscriminatorOutput
from genreg.operators import to_torch, torch_device, torch_dtype
from genreg.solvers.checkpoints import digest
from genreg.training.batches import Batches, checked_source
from genreg.training.engine import State, drive, running_statistics
from genreg.training.settings import Plan

__all__ = ["Made", "Run", "Settings", "cross_entropy", "train", "verdict_on"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(Plan):
    """What determines the result of a run, apart from the networks and images; stored in checkpoints and cards."""

    non_negative: ClassVar[tuple[str, ...]] = (*Plan.non_negative, "weight_decay", "noise_std")

    weight_decay: float
    noise_std: float
    momentum: float | None  # of gradient descent; Adam where None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.momentum is not None and not 0 <= self.momentum < 1:
            raise ValueError(f"momentum must lie in [0, 1), got {self.momentum}")


class Made:
    """Images of G for new z, in the data type and on the device of a network, with the noise that all images get."""

    def __init__(self, G: Any, like: Tensor, noise_std: float) -> None:
        self.fn, self.Z, self.like, self.noise_std = to_torch(G), G.domain, like, noise_std

    @torch.no_grad()
    def __call__(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw n images, from torch's global generator where none is given."""
        z = _normal((n, *self.Z.shape), torch_dtype(self.Z), torch_device(self.Z), generator)
        return self.noisy(self.fn(z).to(self.like), generator)

    def noisy(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Add the noise that data and images of G have in common."""
        if not self.noise_std:
            return x
        return x + self.noise_std * _normal(tuple(x.shape), x.dtype, x.device, generator)


def _normal(
    shape: tuple[int, ...], dtype: torch.dtype, device: torch.device, generator: torch.Generator | None
) -> Tensor:
    source = device if generator is None else generator.device
    return torch.randn(shape, generator=generator, dtype=dtype, device=source).to(device)


class Run(State):
    """A discriminator in training."""

    settings: Settings

    def __init__(self, D: nn.Module, verdict: DiscriminatorOutput, made: Made, settings: Settings) -> None:
        self.verdict, self.made = verdict, made
        self.weights = list(D.parameters())
        decay = settings.weight_decay
        self.optimiser: torch.optim.Optimizer = (
            torch.optim.AdamW(self.weights, lr=settings.lr, weight_decay=decay)
            if settings.momentum is None
            else torch.optim.SGD(self.weights, lr=settings.lr, momentum=settings.momentum, weight_decay=decay)
        )
        super().__init__(D, settings, [self.optimiser], [*self.weights, *running_statistics(D)])

    def begin(self) -> None:
        """Let all weights be trained."""
        super().begin()
        self.module.requires_grad_(True)

    def advance(self, images: Callable[[int], Tensor]) -> dict[str, Tensor]:
        """Take one step on as many images of the data as of G; return the cross-entropy."""
        self.optimiser.param_groups[0]["lr"] = self.settings.rate(self.step)
        real = images(self.step)
        fake = self.made(len(real))
        on_real, on_fake = self.verdict(torch.cat((self.made.noisy(real), fake))).chunk(2)
        return self._descend(cross_entropy(on_real, on_fake), self.optimiser, self.weights, None)


def cross_entropy(on_real: Tensor, on_fake: Tensor) -> Tensor:
    """Return the mean of -log of the probability given to what images are, from logits."""
    softplus = nn.functional.softplus
    return 0.5 * (softplus(-on_real).mean() + softplus(on_fake).mean())


def verdict_on(D: Any, G: Any) -> DiscriminatorOutput:
    """Return what judges images of G, after a look at one of them."""
    if not isinstance(G, odl.Operator) or not hasattr(G.range, "dtype"):
        raise TypeError(f"G must be an ODL operator to a tensor or function space, got {G!r}")
    verdict = DiscriminatorOutput(D, tuple(G.range.shape))
    if next(verdict.parameters(), None) is None:
        raise ValueError(f"D must have parameters, got {type(D).__name__} without any")
    with evaluating(D):
        verdict.eval().check(Made(G, next(verdict.parameters()), 0.0)(1, torch.Generator().manual_seed(0)))
    return verdict


def train(
    run: Run,
    images: Any,
    held_out: Tensor | None,
    measure: Callable[[], dict[str, float]],
    validate_every: int,
    checkpoint: str | os.PathLike[str] | None,
    checkpoint_seconds: float,
    resume: bool,
    progress: bool,
) -> None:
    """Take all steps of a run on these images."""
    images = checked_source(images, run.verdict, run.settings)
    source = Batches(images, run.settings, run.weights[0])
    drive(
        run,
        source,
        data=lambda: {
            "images": source.identity(),
            "validation": digest(held_out),
            "images of G": run.made(4, torch.Generator().manual_seed(0)),
        },
        measure=measure,
        validate_every=validate_every,
        checkpoint=checkpoint,
        checkpoint_seconds=checkpoint_seconds,
        resume=resume,
        progress=progress,
        device=run.weights[0].device,
    )
