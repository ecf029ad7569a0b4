r"""Encoders that read rough reconstructions: amortised starting points for a generative prior.

A reconstruction with a generator G starts well where an encoder E maps a rough reconstruction r(y) (a few
steps of conjugate gradients, Tikhonov, filtered back-projection) near the codes of the images that
explain the data. `fit_encoder` trains E for that, with the decoder fixed, on simulated pairs of images x
and rough reconstructions r: it minimises the mean over pairs of

    sum of the cross-entropies of x and G(E(r)), pixel by pixel, + (ω/2) ||E(r)||^2,

while a share of each batch consists of images themselves, with the objective of `genreg.training`, so
that E remains their encoder too. The prior is not touched: G and p(z) are those learned from images.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor

from genreg.networks import Autoencoder
from genreg.operators.bridge.arguments import number
from genreg.operators.bridge.modes import undisturbed
from genreg.training.autoencoder_run import loss
from genreg.training.engine import State, drive
from genreg.training.settings import Plan, check_run

__all__ = ["fit_encoder"]

_FLOOR = 1e-3  # keeps the cross-entropy and its gradient finite where the decoder is saturated
_ENTRIES = 20  # of the history
_LOOKED_AT = 8  # images of a decoder by which a checkpoint knows it again


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Settings(Plan):
    positive: ClassVar[tuple[str, ...]] = (*Plan.positive, "clip")
    non_negative: ClassVar[tuple[str, ...]] = (*Plan.non_negative, "latent_weight", "weight_decay")

    latent_weight: float
    clean: float
    clip: float
    weight_decay: float

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "clean", number(self.clean, "clean", minimum=0, below=1))


class _Run(State):
    """An encoder in training, with a decoder that stays as it is."""

    remedy: ClassVar[str] = "lower lr or clip"
    settings: _Settings

    def __init__(self, model: Autoencoder, settings: _Settings) -> None:
        self.model = model
        self.weights = [p for p in model.encoder.parameters() if p.requires_grad]
        self.optimiser = torch.optim.AdamW(
            self.weights, lr=settings.lr, weight_decay=settings.weight_decay, fused=True
        )
        super().__init__(model, settings, [self.optimiser], self.weights)

    def begin(self) -> None:
        """Put the encoder in training mode, and freeze all else."""
        super().begin()
        self.model.decoder.eval()  # its running statistics must not follow these batches
        for name, p in self.model.named_parameters():
            p.requires_grad_(p.requires_grad and name.startswith("encoder."))

    def advance(self, images: Callable[[int], tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
        """Take one step of Adam on a batch and return its loss."""
        settings, (x, rough) = self.settings, images(self.step)
        self.optimiser.param_groups[0]["lr"] = settings.rate(self.step)
        value = _objective(self.model, x, rough, round(settings.clean * len(x)), settings.latent_weight)
        return {"loss": self._descend(value, self.optimiser, self.weights, settings.clip)["train_loss"]}

    @torch.no_grad()
    def decoded(self) -> Tensor:
        """Return a few images of the decoder."""
        z = torch.randn(_LOOKED_AT, self.model.latent_dim, generator=torch.Generator().manual_seed(0))
        with torch.autocast(self.model.log_gamma.device.type, enabled=False):  # to all digits
            return self.model.decode(z.to(self.model.log_gamma))


@undisturbed
def fit_encoder(
    model: Autoencoder,
    pairs: Callable[..., tuple[Tensor, Tensor]],
    *,
    steps: int,
    batch_size: int = 32,
    lr: float = 1e-3,
    warmup: int = 200,
    latent_weight: float = 0.1,
    clean: float = 0.125,
    clip: float = 1.0,
    weight_decay: float = 1e-3,
    seed: int = 0,
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_seconds: float = 120.0,
    resume: bool = False,
    progress: bool = True,
) -> dict[str, Any]:
    """Train the encoder of a model on rough reconstructions, in place; the model is in evaluation mode afterwards.

    After an exception its modes are those it had; its flags ``requires_grad`` are in any case.

    Parameters
    ----------
    model : Autoencoder
        The model; its decoder is left as it is.
    pairs : callable
        ``pairs(n, *, seed)`` returns images and rough reconstructions, both ``(n, rows, columns)``; it is called with a
        different seed in each step.
    steps : int
        Number of steps of AdamW, learning rate by a cosine schedule.
    batch_size : int
        Pairs in a step.
    lr, warmup, weight_decay, clip
        Largest learning rate, steps of its linear rise, weight decay, bound on the norm of the gradient.
    latent_weight : float
        The weight ω.
    clean : float
        Share of clean images in a batch, in [0, 1).
    seed : int
        Seed of all random numbers; different seeds share none.
    checkpoint, checkpoint_seconds, resume
        As in `genreg.training.fit`.
    progress : bool
        Whether to show a progress bar.

    Returns
    -------
    dict
        JSON-able settings and the history of the loss, for a card.

    Raises
    ------
    TypeError
        If an argument has the wrong type.
    ValueError
        If a number is out of range, the pairs do not have the shape of the model's images, or the checkpoint
        can't be read or belongs to a run with other settings, pairs or decoder.
    FileExistsError
        If `checkpoint` exists and the run does not resume.
    FloatingPointError
        If the loss becomes non-finite.
    """
    settings = _Settings(
        steps=steps,
        batch_size=batch_size,
        lr=lr,
        schedule="cosine",
        warmup=warmup,
        ema=None,
        seed=seed,
        latent_weight=latent_weight,
        clean=clean,
        clip=clip,
        weight_decay=weight_decay,
    )
    every = max(1, settings.steps // _ENTRIES)
    check_run(resume, checkpoint, every, checkpoint_seconds)
    if not isinstance(model, Autoencoder):
        raise TypeError(f"model must be an Autoencoder, got {type(model).__name__}")
    if not callable(pairs):
        raise TypeError(f"pairs must be a function pairs(n, *, seed), got {type(pairs).__name__}")

    def drawn(k: int) -> tuple[Tensor, Tensor]:
        x, rough = pairs(settings.batch_size, seed=settings.images_of(k))
        if tuple(x.shape[1:]) != model.image_shape or x.shape != rough.shape:
            raise ValueError(
                f"pairs must return two tensors of the shape {(settings.batch_size, *model.image_shape)}, got "
                f"{tuple(x.shape)} and {tuple(rough.shape)}"
            )
        return x.to(model.log_gamma), rough.to(model.log_gamma)

    run = _Run(model, settings)
    drive(
        run,
        drawn,
        data=lambda: {"pairs": torch.cat(drawn(0))[::4], "images of the decoder": run.decoded()},
        measure=dict,
        validate_every=every,
        checkpoint=checkpoint,
        checkpoint_seconds=checkpoint_seconds,
        resume=resume,
        progress=progress,
        device=model.log_gamma.device,
    )
    return {**dataclasses.asdict(settings), "history": run.history}


def _objective(model: Autoencoder, x: Tensor, rough: Tensor, clean: int, latent_weight: float) -> Tensor:
    """Return the mean objective of a batch whose first ``clean`` images are encoded themselves."""
    z = model.encode(rough[clean:])
    p = _FLOOR + (1 - 2 * _FLOOR) * model.decode(z).float()
    target = x[clean:]
    entropy = -(target * p.log() + (1 - target) * (1 - p).log()).sum()
    value = entropy + 0.5 * latent_weight * z.square().sum()
    if clean:
        # relative to the noise of the decoder the evidence bound is some 100 times as large
        value = value + 0.01 * clean * loss(model, x[:clean])
    return value / len(x)
