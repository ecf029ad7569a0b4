r"""Training of autoencoders: one loop for every model.

A variational model minimises, over the weights and the decoder's standard deviation gamma, the mean over
images x of

    d log(gamma) + ||x - G(z)||^2 / (2 gamma^2) + beta KL(q(z | x') || N(0, I)),    z ~ q(. | x'),

where d is the number of pixels, beta the weight of the Kullback-Leibler term and x' = x + noise (the
denoising criterion; x' = x without). A model that is not variational has z = E(x') and no last term; the
gradient with respect to the weights is then that of the squared error. In both cases gamma^2 tends to the
mean squared error per pixel, unless `fit` is told to keep gamma.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Unpack

import torch
from torch import Tensor, nn

from genreg.networks import Autoencoder
from genreg.operators.bridge.modes import undisturbed
from genreg.training.batches import Sampler
from genreg.training.engine import Trainer
from genreg.training.model_scores import evaluate
from genreg.training.optimisers import adamw, running_statistics
from genreg.training.settings import (
    FROM_KEYWORDS,
    Bookkeeping,
    Checked,
    Keywords,
    Optimisation,
    limited,
    with_keywords,
)

GAMMA_RATE = 5.0  # log(gamma) has to travel several units, the weights only a fraction of one


@dataclass(frozen=True, kw_only=True)
class Options(Checked):
    """What determines the result beside the optimisation, see `fit`."""

    kl_weight: float = limited(1.0, minimum=0)
    kl_warmup: int = limited(0, minimum=0)
    gamma: float | None = limited(None, above=0)
    input_noise: float = limited(0.0, minimum=0)

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


class AutoencoderTrainer(Trainer):
    """An autoencoder in training."""

    scored: ClassVar[tuple[str, ...]] = ("psnr", "mse", "loss", "kl")
    criterion: ClassVar[tuple[str, int] | None] = ("loss", 1)
    module: Autoencoder
    options: Options

    def trained(self) -> list[nn.Parameter]:
        """Return all parameters but gamma."""
        return [p for name, p in self.module.named_parameters() if name != "log_gamma"]

    def make_optimisers(self) -> list[torch.optim.Optimizer]:
        """Return Adam, with a group for gamma where it is learned."""
        groups: list[dict[str, Any]] = [{"params": self.weights}]
        if self.options.gamma is None:
            groups.append({"params": [self.module.log_gamma], "weight_decay": 0.0, "factor": GAMMA_RATE})
        return [adamw(groups, self.optimisation)]

    def followed(self) -> list[Tensor]:
        """Return all parameters, gamma too, and the statistics of batch normalisation."""
        return [*self.module.parameters(), *running_statistics(self.module)]

    def begin(self) -> None:
        """Put the model in training mode, with the gamma to keep."""
        super().begin()
        if self.options.gamma is not None:
            self.module.log_gamma.data.fill_(math.log(self.options.gamma))

    def loss(self, batch: Tensor) -> Tensor:
        """Return the objective of a batch."""
        noise = self.options.input_noise
        noisy = batch + noise * torch.randn_like(batch) if noise else None
        return loss(self.module, batch, kl_weight=self.options.beta(self.step), noisy=noisy)

    def measure(self) -> dict[str, float]:
        """Return the scores and gamma."""
        return super().measure() | {"gamma": self.module.log_gamma.exp().item()}

    def score(self) -> dict[str, float]:
        """Return how well held-out images are reconstructed."""
        return evaluate(self.module, self.held_out)


@undisturbed
@with_keywords(batch_size=128, lr=1e-3)
def fit(
    model: Autoencoder,
    images: Tensor | Sampler,
    *,
    kl_weight: float = 1.0,
    kl_warmup: int = 0,
    gamma: float | None = None,
    input_noise: float = 0.0,
    validation: Tensor | None = None,
    optimisation: Optimisation = FROM_KEYWORDS,
    bookkeeping: Bookkeeping = FROM_KEYWORDS,
    **keywords: Unpack[Keywords],
) -> dict[str, Any]:
    r"""Train a model with Adam, in place; the model is in evaluation mode afterwards.

    Parameters
    ----------
    model
        The model, on the device to train on. The rate of log(gamma) is five times that of the weights.
    kl_weight
        Weight beta of the Kullback-Leibler term of variational models.
    kl_warmup
        Number of first steps over which that weight rises linearly from zero.
    gamma
        Standard deviation of the decoder to keep; it is learned where None. With the weight beta, gamma =
        sqrt(beta/2) and kl_weight = 1 have the minimisers of ||x - G(z)||^2 + beta KL.
    input_noise
        Standard deviation of the Gaussian noise on the encoder's input (the denoising criterion).
    validation
        Held-out images ``(N, *image_shape)`` for `evaluate`.
    """
    options = Options(kl_weight=kl_weight, kl_warmup=kl_warmup, gamma=gamma, input_noise=input_noise)
    if not isinstance(model, Autoencoder):
        raise TypeError(
            f"model must be an Autoencoder, got {type(model).__name__}; a GAN is trained by "
            "genreg.training.fit_gan"
        )
    if gamma is None and torch.isnan(model.log_gamma):
        raise ValueError(
            "gamma must be given for a model that has none, or genreg.training.fit_gamma find one first"
        )
    return AutoencoderTrainer.fit(model, images, validation, optimisation, options, bookkeeping)
