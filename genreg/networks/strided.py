"""A convolutional architecture for colour images and larger grey ones."""

import itertools
import math
from dataclasses import dataclass, replace
from typing import ClassVar, Self

from torch import nn

from genreg.networks.autoencoder import Autoencoder
from genreg.networks.config import ACTIVATIONS, Config, saturation
from genreg.operators.bridge.arguments import integer


@dataclass(frozen=True, kw_only=True)
class StridedConfig(Config):
    """Strided convolutions with batch normalisation and their mirror image; by default JPMAP's for CelebA.

    Every convolution of the encoder halves the resolution, every transposed one of the decoder doubles it;
    a dense layer lies on either side of the latent space. In training the layers are normalised by the
    batch. A model in evaluation mode takes the running statistics: G is a function of z alone, of the same
    smoothness as the activation, and a batch is decoded as its samples one at a time.

    Parameters
    ----------
    image_shape
        ``(rows, columns)``, or ``(channels, rows, columns)`` for images of several channels; rows and
        columns divisible by ``2 ** len(channels)``.
    latent_dim, variational
        See `Autoencoder`.
    channels
        Channels at 1/2, 1/4, ... of the resolution of the image.
    kernel
        Side of the kernels.
    activation
        Name of the activation; a smooth one makes the decoder continuously differentiable.
    maximum
        Value at which the decoder's last layer, a sigmoid, saturates; None for an affine last layer.
    batch_norm
        Whether the convolutions are normalised by the batch. The critic of a GAN should not be: its gradient
        penalty is meant for each image by itself.

    References
    ----------
    M. González, A. Almansa, P. Tan, "Solving inverse problems by joint posterior maximization with
    autoencoding prior", 2021. arXiv:2103.01648.
    """

    name: ClassVar[str] = "strided"
    colour: ClassVar[bool] = True

    latent_dim: int = 64
    channels: tuple[int, ...] = (64, 128, 256, 512)
    kernel: int = 5
    activation: str = "elu"
    maximum: float | None = 1.0
    batch_norm: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.channels and min(self.channels) < 1:
            raise ValueError(f"channels must be positive integers, got {self.channels}")
        integer(self.kernel, "kernel", minimum=2)  # the stride
        self._check_halves(self.channels)

    def build(self) -> Autoencoder:
        """Return a model with random weights."""
        coarse = (self.channels[-1], *(size // 2 ** len(self.channels) for size in self.image_size))
        features = math.prod(coarse)
        steps = (self.image_channels, *self.channels)
        pad = (self.kernel - 1) // 2
        # what a transposed convolution of stride 2 lacks to twice the size of its input
        rest = 2 + 2 * pad - self.kernel

        down = self._with_channels()
        for inputs, outputs in itertools.pairwise(steps):
            convolution = nn.Conv2d(
                inputs, outputs, self.kernel, stride=2, padding=pad, bias=not self.batch_norm
            )
            down += [convolution, *self._normalised(outputs)]
        down += [nn.Flatten(), nn.Linear(features, self.codes)]

        up: list[nn.Module] = [nn.Linear(self.latent_dim, features), nn.Unflatten(1, coarse)]
        for level in range(len(self.channels), 0, -1):
            inputs, outputs = steps[level], steps[level - 1]
            up += self._normalised(inputs)
            up += [
                nn.ConvTranspose2d(
                    inputs,
                    outputs,
                    self.kernel,
                    stride=2,
                    padding=pad,
                    output_padding=rest,
                    bias=level == 1 or not self.batch_norm,
                )
            ]
        up += [*saturation(self.maximum), *self._as_image()]
        return Autoencoder(nn.Sequential(*down), nn.Sequential(*up), self)

    def as_critic(self) -> Self:
        """Return the configuration of a critic, without batch normalisation."""
        return replace(self, latent_dim=1, variational=False, batch_norm=False)

    def _normalised(self, channels: int) -> list[nn.Module]:
        """Return what follows a convolution."""
        return [
            *([nn.BatchNorm2d(channels)] if self.batch_norm else []),
            ACTIVATIONS[self.activation](),
        ]
