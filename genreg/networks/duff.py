"""The architectures of Duff, Campbell and Ehrhardt."""

import itertools
import math
from dataclasses import dataclass
from typing import ClassVar, Self

from torch import nn

from genreg.networks.autoencoder import Autoencoder
from genreg.networks.config import Config


@dataclass(frozen=True, kw_only=True)
class DuffConfig(Config):
    """The architectures of Duff, Campbell and Ehrhardt for MNIST (28 x 28) and shapes (56 x 56).

    Encoder: three convolutions of 64 filters (kernel 4, LeakyReLU 0.3, dropout) and a dense layer. Decoder:
    dense layers to ``start``, three transposed convolutions of 64 filters (kernel 4, dropout) and the last
    layer. Every convolution is padded so that its output size is the input size over (or times) its stride.

    Parameters
    ----------
    image_shape, latent_dim, variational
        See `Autoencoder`.
    encoder_strides, decoder_strides
        Strides of the convolutions.
    dense
        Width of a dense layer before the one to the start of the transposed convolutions; 0 for none.
    slope
        Negative slope of the activation of the transposed convolutions: 0 is ReLU.
    dropout
        Probability to drop an activation in training.
    dense_output
        Whether the last layer is dense, as in the paper (39 million weights for MNIST, 157 million for
        shapes), or a convolution to one channel.

    References
    ----------
    M. Duff, N. D. F. Campbell, M. J. Ehrhardt, "Regularising inverse problems with generative machine
    learning models", appendix A, 2021. arXiv:2107.11191.
    """

    name: ClassVar[str] = "duff"

    encoder_strides: tuple[int, int, int]
    decoder_strides: tuple[int, int, int]
    dense: int = 0
    slope: float = 0.3
    dropout: float = 0.2
    dense_output: bool = False

    @classmethod
    def mnist(cls, *, variational: bool = True, dense_output: bool = False) -> Self:
        """Return the paper's architecture for MNIST: 28 x 28, latent dimension 8."""
        return cls(
            image_shape=(28, 28),
            latent_dim=8,
            variational=variational,
            encoder_strides=(2, 2, 1),
            decoder_strides=(1, 2, 2),
            dense=25,
            slope=0.0,
            dense_output=dense_output,
        )

    @classmethod
    def shapes(cls, *, variational: bool = True, dense_output: bool = False) -> Self:
        """Return the paper's architecture for shapes: 56 x 56, latent dimension 10."""
        return cls(
            image_shape=(56, 56),
            latent_dim=10,
            variational=variational,
            encoder_strides=(1, 2, 2),
            decoder_strides=(2, 2, 1),
            dense_output=dense_output,
        )

    def build(self) -> Autoencoder:
        """Return a model with random weights."""
        rows, columns = self.image_shape
        shrink = math.prod(self.encoder_strides)
        down: list[nn.Module] = [nn.Unflatten(1, (1, rows))]
        for inputs, stride in zip((1, 64, 64), self.encoder_strides, strict=True):
            pad = nn.ZeroPad2d((1, 2, 1, 2) if stride == 1 else 1)
            down += [
                pad,
                nn.Conv2d(inputs, 64, 4, stride=stride),
                nn.LeakyReLU(0.3),
                nn.Dropout(self.dropout),
            ]
        down += [nn.Flatten(), nn.Linear(64 * (rows // shrink) * (columns // shrink), self.codes)]

        grow = math.prod(self.decoder_strides)
        widths = (self.latent_dim, *([self.dense] if self.dense else []), 49)
        up: list[nn.Module] = []
        for inputs, outputs in itertools.pairwise(widths):
            up += [nn.Linear(inputs, outputs), nn.LeakyReLU(0.3)]
        up.append(nn.Unflatten(1, (1, 7, 7)))
        for inputs, stride in zip((1, 64, 64), self.decoder_strides, strict=True):
            up += [nn.ConvTranspose2d(inputs, 64, 4, stride=stride, padding=1)]
            up += [nn.ZeroPad2d((0, -1, 0, -1))] if stride == 1 else []
            up += [nn.LeakyReLU(self.slope), nn.Dropout(self.dropout)]
        if self.dense_output:
            up += [
                nn.Flatten(),
                nn.Linear(64 * (7 * grow) ** 2, rows * columns),
                nn.Unflatten(1, self.image_shape),
            ]
        else:
            factor = rows // (7 * grow)
            up += [nn.Conv2d(64, factor**2, 3, padding=1), nn.PixelShuffle(factor), nn.Flatten(1, 2)]
        return Autoencoder(nn.Sequential(*down), nn.Sequential(*up), self)
