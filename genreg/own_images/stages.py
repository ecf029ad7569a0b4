"""The stages of a prior: encoder and mean, then the precision; both end where they over-fit."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from genreg.datasets.mixed_images import MixedImages
from genreg.datasets.random_crops import RandomCrops
from genreg.networks import Autoencoder, Structured
from genreg.networks.borrowed import seeded
from genreg.own_images.settings import PriorSettings
from genreg.training.autoencoder import fit
from genreg.training.gaussian_likelihood import fit_gamma, fit_scale
from genreg.training.precision import fit_precision
from genreg.training.settings import Bookkeeping, Optimisation

_HELD_OUT = 64  # crops
_ENTRIES = 20  # of the history of a stage
_CLIP = 1.0  # of the norm of the gradient, times the pixels of a crop
_SHARE = 0.6  # of the time of both stages that the first one has
_LEAST = 100  # steps
_TIMED = 5  # steps


@dataclass(frozen=True)
class Crops:
    """What the stages see, in the units of the model.

    Attributes
    ----------
    training : RandomCrops
        Sampler of the crops to train on.
    held_out : Tensor
        Crops of other images, ``(N, crop, crop)``, by which weights are chosen and γ and the precision are bounded.
    """

    training: RandomCrops
    held_out: Tensor

    @classmethod
    def of(cls, training: MixedImages, held_out: MixedImages, settings: PriorSettings) -> Crops:
        """Return the crops of two sets of images."""
        plain = RandomCrops(held_out.images, settings.crop, augment=False)
        crops = RandomCrops(training.images, settings.crop, augment=settings.augment)
        return cls(crops, plain(_HELD_OUT, seed=settings.seed))


def train_mean(crops: Crops, settings: PriorSettings, **files: Any) -> tuple[Autoencoder, dict[str, Any]]:
    """Train encoder and mean; γ is the residual of held-out crops.

    Parameters
    ----------
    crops : Crops
        The images.
    settings : PriorSettings
        How to train.
    **files
        Fields of `genreg.training.Bookkeeping`.

    Returns
    -------
    Autoencoder
        With the weights that were best on the held-out crops.
    dict
        Its card, with "gamma", and "learned_gamma", which the training crops alone gave.
    """
    steps = settings.steps
    with seeded(settings.seed):
        model: Any = settings.architecture().mean.build()
    model.to(memory_format=torch.channels_last)  # a fifth faster on CPUs
    card = fit(
        model,
        crops.training,
        kl_warmup=steps // 6,
        validation=crops.held_out,
        optimisation=_optimisation(
            settings, steps, warmup=200, clip=_CLIP * settings.crop**2, weight_decay=1e-4
        ),
        bookkeeping=_bookkeeping(steps, files),
    )
    learned = model.log_gamma.exp().item()
    return model, {**card, "learned_gamma": learned, "gamma": fit_gamma(model, crops.held_out)}


def train_precision(
    mean: Autoencoder, crops: Crops, settings: PriorSettings, *, distance: int, **files: Any
) -> tuple[Structured, dict[str, Any]]:
    """Train a head for the precision on a mean, which stays as it is; held-out crops give its scale.

    Parameters
    ----------
    mean : Autoencoder
        What `train_mean` made.
    crops, settings, **files
        Those of `train_mean`.
    distance : int
        That of `genreg.networks.StructuredConfig`; 0 for a diagonal precision.

    Returns
    -------
    Structured
        With the weights that were best on the held-out crops.
    dict
        Its card, with "scale", by which L was multiplied after the training so that held-out crops are most likely.
    """
    steps = settings.precision_steps
    with seeded(settings.seed + 1):
        model = replace(settings.architecture(), distance=distance).grow(mean)
    card = fit_precision(
        model,
        crops.training,
        validation=crops.held_out,
        optimisation=_optimisation(settings, steps, warmup=100),
        bookkeeping=_bookkeeping(steps, files),
    )
    return model, {**card, "scale": fit_scale(model, crops.held_out)}


def steps_within(minutes: float, crops: Crops, settings: PriorSettings) -> PriorSettings:
    """Return the settings with as many steps as take so long on this machine, by timing a few."""
    few = Crops(crops.training, crops.held_out[:1])
    seconds = []
    for count in (1, 1 + _TIMED):  # the first step makes plans and caches
        timed = replace(settings, steps=count, precision_steps=count)
        began = time.perf_counter()
        mean, _ = train_mean(few, timed, progress=False)
        between = time.perf_counter()
        train_precision(mean, few, timed, distance=settings.distance, progress=False)
        seconds.append((between - began, time.perf_counter() - between))
    steps, precision_steps = (
        max(_LEAST, round(share * 60 * minutes * _TIMED / max(more - one, 1e-3)))
        for share, one, more in zip((_SHARE, 1 - _SHARE), *seconds, strict=True)
    )
    return replace(settings, steps=steps, precision_steps=precision_steps)


def ended(card: dict[str, Any]) -> str:
    """Return how a stage ended, in words."""
    last, kept, asked = card["history"][-1]["step"], card["kept_step"], card["training"]["steps"]
    if last < asked:
        return f"over-fitted: ended after step {last} of {asked}, the weights are those of step {kept}"
    return f"{asked} steps, the weights are those of step {kept}"


def _optimisation(settings: PriorSettings, steps: int, *, warmup: int, **more: Any) -> Optimisation:
    return Optimisation(
        steps=steps,
        batch_size=settings.batch_size,
        lr=settings.lr,
        warmup=min(warmup, 1 + steps // 10),
        keep_best=True,
        patience=settings.patience,
        seed=settings.seed,
        **more,
    )


def _bookkeeping(steps: int, files: dict[str, Any]) -> Bookkeeping:
    return Bookkeeping(validate_every=max(1, steps // _ENTRIES), **files)
