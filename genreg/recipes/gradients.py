"""The digits that are lit from one side, for the recipes "gradients-2-vae" and "gradients-4-vae"."""

from __future__ import annotations

import torch
from torch import Tensor

from genreg.datasets import add_gradients, gradient_digits, intensity_ramps, mnist
from genreg.networks import ConvConfig
from genreg.training.autoencoder import Sampler

ARCHITECTURE = ConvConfig(image_shape=(28, 28), latent_dim=12, channels=(16, 32), decoder=(256, 512))


def training_images(gradients: int) -> Sampler:
    """Return a sampler of the first 58,000 digits, each under a ramp drawn anew."""
    digits = mnist(train=True)[0][:58_000]
    ramps = intensity_ramps((28, 28), gradients)

    def draw(n: int, *, seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        chosen = digits[torch.randint(len(digits), (n,), generator=generator)]
        return chosen * ramps[torch.randint(gradients, (n,), generator=generator)]

    return draw


def held_out(gradients: int, *, test: bool) -> Tensor:
    """Return the 10,000 test digits, or the 2,000 digits kept for validation."""
    if test:
        return gradient_digits(train=False, gradients=gradients)[0]
    return add_gradients(mnist(train=True)[0][58_000:], gradients, seed=1)[0]
