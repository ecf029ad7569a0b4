"""Small architectures: fully connected and convolutional."""

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from genreg.networks.autoencoder import Autoencoder
from genreg.networks.config import ACTIVATIONS, Config, mlp, saturation
from genreg.operators.bridge.keywords import documented_like


@dataclass(frozen=True, kw_only=True)
class DenseConfig(Config):
    """Fully connected encoder and decoder; with the defaults, the VAE 784-512-512-8 for JPMAP.

    Parameters
    ----------
    image_shape, latent_dim, variational
        See `Autoencoder`.
    encoder, decoder
        Widths of the hidden layers, from the input to the output.
    activation
        Name of the activation; a smooth one makes the decoder continuously differentiable.
    maximum
        Value at which the decoder's last layer, a sigmoid, saturates; None for an affine last layer. Images
        with two grey values have far sharper edges when both are limits of the sigmoid.

    References
    ----------
    M. González, A. Almansa, P. Tan, "Solving inverse problems by joint posterior maximization with
    autoencoding prior", 2021. arXiv:2103.01648.
    """

    name: ClassVar[str] = "dense"
    colour: ClassVar[bool] = True

    encoder: tuple[int, ...] = (512, 512)
    decoder: tuple[int, ...] = (512, 512)
    activation: str = "elu"
    maximum: float | None = 1.0

    def build(self) -> Autoencoder:
        """Return a model with random weights."""
        pixels = math.prod(self.image_shape)
        encoder = nn.Sequential(nn.Flatten(), *mlp((pixels, *self.encoder, self.codes), self.activation))
        decoder = nn.Sequential(
            *mlp((self.latent_dim, *self.decoder, pixels), self.activation),
            *saturation(self.maximum),
            nn.Unflatten(1, self.image_shape),
        )
        return Autoencoder(encoder, decoder, self)


@documented_like(DenseConfig)
@dataclass(frozen=True, kw_only=True)
class ConvConfig(Config):
    """Convolutional encoder and decoder for any image size divisible by ``2 ** len(channels)``.

    The encoder halves the resolution with each convolution (kernel 4, stride 2); the decoder doubles it with
    a convolution (kernel 3) to four times the channels and a pixel shuffle, which costs a CPU less than half
    of a transposed convolution of the same width. The last convolution maps to the channels of the image.

    Parameters
    ----------
    channels
        Channels at 1/2, 1/4, ... of the resolution of the image.
    hidden
        Width of the dense layer next to the latent space, in the encoder and in the decoder.
    decoder
        Widths of a fully connected decoder that takes the place of the convolutional one, where not empty:
        for small images with few degrees of freedom it is several times faster on a CPU.
    """

    name: ClassVar[str] = "conv"
    colour: ClassVar[bool] = True

    channels: tuple[int, ...] = (16, 32, 64)
    hidden: int = 256
    decoder: tuple[int, ...] = ()
    activation: str = "silu"
    maximum: float | None = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_halves(self.channels)

    def build(self) -> Autoencoder:
        """Return a model with random weights."""
        rows, columns = (size // 2 ** len(self.channels) for size in self.image_size)
        features = self.channels[-1] * rows * columns
        act = ACTIVATIONS[self.activation]
        down = self._with_channels()
        for inputs, outputs in zip((self.image_channels, *self.channels[:-1]), self.channels, strict=True):
            down += [nn.Conv2d(inputs, outputs, 4, stride=2, padding=1), act()]
        down += [nn.Flatten(), *mlp((features, self.hidden, self.codes), self.activation)]
        if self.decoder:
            pixels = math.prod(self.image_shape)
            up = mlp((self.latent_dim, *self.decoder, pixels), self.activation) + saturation(self.maximum)
            up.append(nn.Unflatten(1, self.image_shape))
            return Autoencoder(nn.Sequential(*down), nn.Sequential(*up), self)
        up = [*mlp((self.latent_dim, self.hidden, features), self.activation), act()]
        up.append(nn.Unflatten(1, (self.channels[-1], rows, columns)))
        for inputs, outputs in zip(self.channels[:0:-1], self.channels[-2::-1], strict=True):
            up += [nn.Conv2d(inputs, 4 * outputs, 3, padding=1), nn.PixelShuffle(2), act()]
        up += [nn.Conv2d(self.channels[0], 4 * self.image_channels, 3, padding=1), nn.PixelShuffle(2)]
        up += [*saturation(self.maximum), *self._as_image()]
        return Autoencoder(nn.Sequential(*down), nn.Sequential(*up), self)
