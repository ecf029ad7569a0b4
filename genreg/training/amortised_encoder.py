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

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Unpack

import torch
from torch import Tensor, nn

from genreg.networks import Autoencoder
from genreg.operators.bridge.modes import undisturbed
from genreg.training.autoencoder import loss
from genreg.training.engine import Trainer
from genreg.training.optimisers import running_statistics
from genreg.training.settings import (
    FROM_KEYWORDS,
    Bookkeeping,
    Checked,
    Keywords,
    Optimisation,
    limited,
    with_keywords,
)

_FLOOR = 1e-3  # keeps the cross-entropy and its gradient finite where the decoder is saturated
_LOOKED_AT = 8  # images of a decoder by which a checkpoint knows it again


@dataclass(frozen=True, kw_only=True)
class Options(Checked):
    """What determines the result beside the optimisation, see `fit_encoder`."""

    latent_weight: float = limited(0.1, minimum=0)
    clean: float = limited(0.125, minimum=0, below=1)


class _Pairs:
    """Images and rough reconstructions, checked, in the data type and on the device of a model."""

    def __init__(self, pairs: Any, model: Autoencoder, optimisation: Optimisation) -> None:
        self.pairs, self.model, self.optimisation = pairs, model, optimisation

    def __call__(self, k: int) -> tuple[Tensor, Tensor]:
        """Return the k-th batch."""
        shape = (self.optimisation.batch_size, *self.model.image_shape)
        x, rough = self.pairs(shape[0], seed=self.optimisation.images_of(k))
        if tuple(x.shape[1:]) != shape[1:] or x.shape != rough.shape:
            raise ValueError(
                f"pairs must return two tensors of the shape {shape}, got {tuple(x.shape)} and "
                f"{tuple(rough.shape)}"
            )
        return x.to(self.model.log_gamma), rough.to(self.model.log_gamma)

    def identity(self) -> Tensor:
        """Return some of the images and reconstructions of the first batch."""
        return torch.cat(self(0))[::4]


class EncoderTrainer(Trainer):
    """An encoder in training, with a decoder that stays as it is."""

    remedy: ClassVar[str] = "lower lr or clip"
    module: Autoencoder
    options: Options

    def trained(self) -> list[nn.Parameter]:
        """Return the parameters of the encoder."""
        return [p for p in self.module.encoder.parameters() if p.requires_grad]

    def followed(self) -> list[Tensor]:
        """Return the weights and statistics of the encoder."""
        return [*self.weights, *running_statistics(self.module.encoder)]

    def begin(self) -> None:
        """Put the encoder in training mode, and freeze all else."""
        super().begin()
        self.module.decoder.eval()  # its running statistics must not follow these batches
        for name, p in self.module.named_parameters():
            p.requires_grad_(p.requires_grad and name.startswith("encoder."))

    def advance(self) -> dict[str, Tensor]:
        """Take one step and return its loss."""
        return {"loss": super().advance()["train_loss"]}

    def loss(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Return the mean objective of a batch whose first images are encoded themselves."""
        model, (x, rough) = self.module, batch
        clean = round(self.options.clean * len(x))
        z = model.encode(rough[clean:])
        p = _FLOOR + (1 - 2 * _FLOOR) * model.decode(z).float()
        target = x[clean:]
        entropy = -(target * p.log() + (1 - target) * (1 - p).log()).sum()
        value = entropy + 0.5 * self.options.latent_weight * z.square().sum()
        if clean:
            # relative to the noise of the decoder the evidence bound is some 100 times as large
            value = value + 0.01 * clean * loss(model, x[:clean])
        return value / len(x)

    @torch.no_grad()
    def data(self) -> dict[str, Any]:
        """Return some of the pairs, and a few images of the decoder."""
        z = torch.randn(_LOOKED_AT, self.module.latent_dim, generator=torch.Generator().manual_seed(0))
        with torch.autocast(self.module.log_gamma.device.type, enabled=False):  # to all digits
            decoded = self.module.decode(z.to(self.module.log_gamma))
        return {"pairs": self.batches.identity(), "images of the decoder": decoded}


@undisturbed
@with_keywords(batch_size=32, lr=1e-3, warmup=200, weight_decay=1e-3, clip=1.0, validate_every=None)
def fit_encoder(
    model: Autoencoder,
    pairs: Callable[..., tuple[Tensor, Tensor]],
    *,
    latent_weight: float = 0.1,
    clean: float = 0.125,
    optimisation: Optimisation = FROM_KEYWORDS,
    bookkeeping: Bookkeeping = FROM_KEYWORDS,
    **keywords: Unpack[Keywords],
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
    latent_weight : float
        The weight ω.
    clean : float
        Share of clean images in a batch, in [0, 1).

    Returns
    -------
    dict
        JSON-able settings and the history of the loss, for a card.

    Raises
    ------
    ValueError
        If the pairs do not have the shape of the model's images, or the checkpoint belongs to a run with other
        settings, pairs or decoder.
    """
    options = Options(latent_weight=latent_weight, clean=clean)
    if not isinstance(model, Autoencoder):
        raise TypeError(f"model must be an Autoencoder, got {type(model).__name__}")
    if not callable(pairs):
        raise TypeError(f"pairs must be a function pairs(n, *, seed), got {type(pairs).__name__}")
    drawn = _Pairs(pairs, model, optimisation)
    card = EncoderTrainer(model, optimisation, drawn, options).train(bookkeeping)
    return {**card["training"], "history": card["history"]}
