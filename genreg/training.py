r"""Training of autoencoders: one loop for every model.

A variational model minimises, over the weights and the decoder's standard deviation gamma, the mean over
images x of

    d log(gamma) + ||x - G(z)||^2 / (2 gamma^2) + beta KL(q(z | x') || N(0, I)),    z ~ q(. | x'),

where d is the number of pixels, beta the weight of the Kullback-Leibler term and x' = x + noise (the
denoising criterion; x' = x without). A model that is not variational has z = E(x') and no last term; the
gradient with respect to the weights is then that of the squared error. In both cases gamma^2 tends to the
mean squared error per pixel, unless `fit` is told to keep gamma.
"""

import dataclasses
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from genreg._run import SCHEDULES, Run, Settings, loss
from genreg._scores import evaluate, latent_statistics, range_error, whiten
from genreg.networks import Autoencoder

__all__ = ["SCHEDULES", "Sampler", "evaluate", "fit", "latent_statistics", "loss", "range_error", "whiten"]

Sampler = Callable[..., Tensor]
"""A function ``sampler(n, *, seed)`` that draws images ``(n, rows, columns)``, such as
`genreg.datasets.shapes`."""


def fit(
    model: Autoencoder,
    images: Tensor | Sampler,
    *,
    steps: int,
    batch_size: int = 128,
    lr: float = 1e-3,
    schedule: str = "cosine",
    warmup: int = 0,
    kl_weight: float = 1.0,
    kl_warmup: int = 0,
    gamma: float | None = None,
    input_noise: float = 0.0,
    weight_decay: float = 0.0,
    clip: float | None = None,
    ema: float | None = None,
    seed: int = 0,
    validation: Tensor | None = None,
    validate_every: int = 1000,
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_every: int = 1000,
    resume: bool = False,
    progress: bool = True,
) -> dict[str, Any]:
    r"""Train a model with Adam, in place; the model is in evaluation mode afterwards.

    Parameters
    ----------
    model
        The model, on the device to train on.
    images
        Images ``(N, n, m)`` from which each step draws its batch, every image once an epoch; or a function
        ``sampler(n, *, seed)`` that makes new ones, which is called with a different seed in each step.
    steps
        Number of steps of Adam (decoupled weight decay).
    batch_size
        Number of images in a step.
    lr
        Learning rate that the schedule multiplies; log(gamma) has five times that rate.
    schedule
        "cosine" (to zero), "one-cycle" (up in the first 30 %, then down to zero) or "constant".
    warmup
        Number of first steps over which the rate also rises linearly.
    kl_weight
        Weight beta of the Kullback-Leibler term of variational models.
    kl_warmup
        Number of first steps over which that weight rises linearly from zero.
    gamma
        Standard deviation of the decoder to keep; it is learned where None. With the weight beta, gamma =
        sqrt(beta/2) and kl_weight = 1 have the minimisers of ||x - G(z)||^2 + beta KL.
    input_noise
        Standard deviation of the Gaussian noise on the encoder's input (the denoising criterion).
    weight_decay
        Weight decay of AdamW.
    clip
        Bound on the norm of the gradient; none where None.
    ema
        Decay of an exponential moving average of the weights, which the model holds at the end; none where
        None.
    seed
        Seed of all random numbers: batches, noise, latent samples, dropout. The initial weights are the
        caller's. The same seed gives the same result on one device and number of threads.
    validation
        Held-out images ``(N, n, m)`` for `evaluate`.
    validate_every
        Number of steps between validations.
    checkpoint
        File in which the state of the run is kept, replaced atomically.
    checkpoint_every
        Number of steps between checkpoints.
    resume
        Whether to continue from `checkpoint` where that file exists: the result is exactly that of an
        uninterrupted run.
    progress
        Whether to show a progress bar.

    Returns
    -------
    dict
        A JSON-able card: "architecture", "training" (the settings), "score" (of `evaluate` on `validation`,
        if given) and "history" (step, training loss and scores at each validation).

    Raises
    ------
    TypeError
        If an argument has the wrong type.
    ValueError
        If images have the wrong shape or non-finite values, a number is out of range, or the checkpoint
        belongs to a run with other settings.
    FloatingPointError
        If the loss becomes non-finite.
    """
    settings = Settings(
        steps=steps,
        batch_size=batch_size,
        lr=lr,
        schedule=schedule,
        warmup=warmup,
        kl_weight=kl_weight,
        kl_warmup=kl_warmup,
        gamma=gamma,
        input_noise=input_noise,
        weight_decay=weight_decay,
        clip=clip,
        ema=ema,
        seed=seed,
    )
    for name, number in (("validate_every", validate_every), ("checkpoint_every", checkpoint_every)):
        if number < 1:
            raise ValueError(f"{name} must be at least 1, got {number}")
    if resume and checkpoint is None:
        raise ValueError("resume needs the file to resume from: give checkpoint")
    device = model.log_gamma.device
    if isinstance(images, Tensor):
        images = _checked(images, model, "images").to(device)
    elif not callable(images):
        raise TypeError(
            f"images must be a tensor or a function sampler(n, *, seed), got {type(images).__name__}"
        )
    else:
        _checked(images(1, seed=settings.seed_of(0)), model, "what the sampler in images returns")
    if validation is not None:
        validation = _checked(validation, model, "validation").to(device)
    run = Run(model, settings)
    if resume and checkpoint is not None and Path(checkpoint).exists():
        run.load(Path(checkpoint))
    bar = tqdm(total=steps, initial=run.step, desc="train", disable=not progress, mininterval=1.0)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        while run.step < steps:
            torch.manual_seed(settings.seed_of(run.step))
            value = run.advance(_batch(images, run.step, settings).to(device))
            bar.update()
            if run.step % validate_every == 0 or run.step == steps:
                entry = {"step": run.step, "train_loss": value.item()}
                if not math.isfinite(entry["train_loss"]):
                    raise FloatingPointError(
                        f"the loss is {entry['train_loss']} at step {run.step}: lower lr ({lr}) or set clip"
                    )
                with run.averaged():
                    entry |= {} if validation is None else evaluate(model, validation)
                run.history.append(entry | {"gamma": model.log_gamma.exp().item()})
                bar.set_postfix({key: f"{entry[key]:.4g}" for key in ("train_loss", "psnr") if key in entry})
            if checkpoint is not None and (run.step % checkpoint_every == 0 or run.step == steps):
                run.save(Path(checkpoint))
    bar.close()
    run.finish()
    card: dict[str, Any] = {
        "architecture": model.config.to_dict(),
        "training": dataclasses.asdict(settings),
        "history": run.history,
    }
    if validation is not None:
        card["score"] = evaluate(model, validation)
    return card


def _batch(images: Tensor | Sampler, step: int, settings: Settings) -> Tensor:
    """Return the images of a step, a function of the step and the seed alone."""
    size = settings.batch_size
    if not isinstance(images, Tensor):
        return images(size, seed=settings.seed_of(step))
    per_epoch = max(1, len(images) // size)
    epoch, position = divmod(step, per_epoch)
    if len(images) < size:
        return images[torch.randint(len(images), (size,))]
    generator = torch.Generator().manual_seed(settings.seed_of(settings.steps + epoch))
    order = torch.randperm(len(images), generator=generator)
    return images[order[position * size : (position + 1) * size].to(images.device)]


def _checked(images: Tensor, model: Autoencoder, name: str) -> Tensor:
    if not isinstance(images, Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(images).__name__}")
    if images.ndim != 3 or tuple(images.shape[1:]) != model.image_shape or len(images) == 0:
        rows, columns = model.image_shape
        raise ValueError(f"{name} must have the shape (N, {rows}, {columns}), got {tuple(images.shape)}")
    if not images.is_floating_point():
        raise TypeError(f"{name} must be floating point, got {images.dtype}")
    if not torch.isfinite(images).all():
        raise ValueError(
            f"{name} must be finite, got {int((~torch.isfinite(images)).sum())} NaN or infinite pixels"
        )
    return images.to(model.log_gamma.dtype)
