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

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from genreg._run import loss
from genreg.networks import Autoencoder
from genreg.operators.arguments import integer, number, seed_number

__all__ = ["fit_encoder"]

_FLOOR = 1e-3  # keeps the cross-entropy and its gradient finite where the decoder is saturated


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
    progress: bool = True,
) -> dict[str, Any]:
    """Train the encoder of a model on rough reconstructions, in place; the model is in evaluation mode after.

    Parameters
    ----------
    model : Autoencoder
        The model; its decoder is left as it is.
    pairs : callable
        ``pairs(n, *, seed)`` returns images and rough reconstructions, both ``(n, rows, columns)``.
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
        Seed of all random numbers.
    progress : bool
        Whether to show a progress bar.

    Returns
    -------
    dict
        JSON-able settings and the history of the loss, for a card.

    Raises
    ------
    ValueError
        If a number is out of range, or the pairs do not have the shape of the model's images.
    FloatingPointError
        If the loss becomes non-finite.
    """
    settings: dict[str, Any] = {
        "steps": steps,
        "batch_size": batch_size,
        "lr": lr,
        "warmup": warmup,
        "latent_weight": latent_weight,
        "clean": clean,
        "clip": clip,
        "weight_decay": weight_decay,
        "seed": seed,
    }
    for name, least in (("steps", 1), ("batch_size", 1), ("warmup", 0)):
        integer(settings[name], name, minimum=least)
    number(lr, "lr", above=0), number(clip, "clip", above=0), seed_number(seed)
    number(latent_weight, "latent_weight", minimum=0), number(weight_decay, "weight_decay", minimum=0)
    number(clean, "clean", minimum=0, below=1)
    frozen = [p for name, p in model.named_parameters() if not name.startswith("encoder.")]
    flags = [p.requires_grad for p in frozen]
    for p in frozen:
        p.requires_grad_(False)
    model.train()
    model.decoder.eval()  # frozen: its running statistics must not follow these batches
    weights = [p for p in model.encoder.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(weights, lr=lr, weight_decay=weight_decay)
    history, total = [], 0.0
    every = max(1, steps // 20)
    bar = tqdm(total=steps, desc="train encoder", disable=not progress, mininterval=1.0)
    with torch.random.fork_rng(devices=[]):
        for step in range(steps):
            torch.manual_seed(seed + step)
            x, rough = pairs(batch_size, seed=(seed << 32) + step)
            if tuple(x.shape[1:]) != model.image_shape or x.shape != rough.shape:
                raise ValueError(
                    f"pairs must return two tensors of the shape {(batch_size, *model.image_shape)}, got "
                    f"{tuple(x.shape)} and {tuple(rough.shape)}"
                )
            x, rough = x.to(model.log_gamma.device), rough.to(model.log_gamma.device)
            for group in optimiser.param_groups:
                ramp = min(1.0, (step + 1) / warmup) if warmup else 1.0
                group["lr"] = lr * ramp * (0.5 + 0.5 * math.cos(math.pi * step / steps))
            value = _objective(model, x, rough, round(clean * len(x)), latent_weight)
            optimiser.zero_grad()
            value.backward()
            nn.utils.clip_grad_norm_(weights, clip)
            optimiser.step()
            total += value.item()
            if (step + 1) % every == 0:
                history.append({"step": step + 1, "loss": total / every})
                if not math.isfinite(total):
                    raise FloatingPointError(f"the loss is {total} at step {step + 1}: lower lr ({lr})")
                bar.set_postfix(loss=f"{total / every:.4g}")
                total = 0.0
            bar.update()
    bar.close()
    for p, flag in zip(frozen, flags, strict=True):
        p.requires_grad_(flag)
    model.eval()
    return {**settings, "history": history}


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
