"""Fully convolutional autoencoders with a latent image, for images of any size."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from genreg.networks.autoencoder import Autoencoder
from genreg.networks.config import ACTIVATIONS, Config
from genreg.operators.bridge.arguments import integer, integers

_SCALES = (-5.0, 5.0)  # bounds of the logarithms of the scales of the latent image given its top level
_DEVIATIONS = (-7.0, 3.0)  # bounds of those of the standard deviations of q(z | x)


class Level(NamedTuple):
    """A latent image, of which a latent vector is a part: its size, and the pixels of the image between its entries."""

    channels: int
    rows: int
    columns: int
    stride: int


def _convolution(inputs: int, outputs: int) -> nn.Conv2d:
    """A 3 x 3 convolution; beyond its border an image goes on with the nearest values."""
    return nn.Conv2d(inputs, outputs, 3, padding=1, padding_mode="replicate")


class _Residual(nn.Module):
    """x + conv(act(conv(act(x)))), the identity at first."""

    def __init__(self, channels: int, activation: type[nn.Module]) -> None:
        super().__init__()
        last = _convolution(channels, channels)
        nn.init.zeros_(last.weight)
        self.body = nn.Sequential(activation(), _convolution(channels, channels), activation(), last)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


def _down(inputs: int, widths: tuple[int, ...], outputs: int, activation: type[nn.Module]) -> nn.Sequential:
    """From ``(B, inputs, n, m)`` to ``(B, outputs, n / f, m / f)``, f = 2 ** len(widths)."""
    layers: list[nn.Module] = []
    for width in widths:
        layers += [nn.PixelUnshuffle(2), _convolution(4 * inputs, width), _Residual(width, activation)]
        inputs = width
    return nn.Sequential(*layers, activation(), _convolution(inputs, outputs))


def _up(inputs: int, widths: tuple[int, ...], outputs: int, activation: type[nn.Module]) -> nn.Sequential:
    """From ``(B, inputs, n / f, m / f)`` to ``(B, outputs, n, m)``."""
    layers: list[nn.Module] = [_convolution(inputs, widths[-1]), _Residual(widths[-1], activation)]
    for coarse, fine in zip(widths[:0:-1], widths[-2::-1], strict=True):
        layers += [
            activation(),
            _convolution(coarse, 4 * fine),
            nn.PixelShuffle(2),
            _Residual(fine, activation),
        ]
    return nn.Sequential(*layers, activation(), _convolution(widths[0], 4 * outputs), nn.PixelShuffle(2))


class _Sized(nn.Module):
    """A part of the model that knows for which images it serves."""

    config: FullyConvolutionalConfig

    def at(self, image_shape: tuple[int, ...]) -> Self:
        """Return this part for images of another size, with the same layers."""
        other = copy.copy(self)
        other.config = self.config.at(image_shape)
        return other


class _Decoder(_Sized):
    r"""From latent vectors (e, t) to images :math:`D(\mu(t) + s(t) \odot e)`, see `FullyConvolutionalConfig`."""

    def __init__(self, config: FullyConvolutionalConfig) -> None:
        super().__init__()
        activation = ACTIVATIONS[config.activation]
        self.config = config
        self.image = _up(config.latent_channels, config.channels, config.image_channels, activation)
        if config.top_channels:
            inputs, outputs = config.top_latent_channels, 2 * config.latent_channels
            self.top = _up(inputs, config.top_channels, outputs, activation)
            last: Any = self.top[-2]
            nn.init.zeros_(last.weight)  # mu = 0 and s = 1 at first
            nn.init.zeros_(last.bias)

    def forward(self, z: Tensor) -> Tensor:
        config = self.config
        latent, top = z.split((config.white_dim, config.latent_dim - config.white_dim), dim=1)
        latent = latent.unflatten(1, (config.latent_channels, *config.latent_size))  # (B, C, n / f, m / f)
        if config.top_channels:
            top = top.unflatten(1, (config.top_latent_channels, *config.top_size))
            mean, log_scale = self.top(top).chunk(2, dim=1)
            latent = mean + log_scale.clamp(*_SCALES).exp() * latent
        rows, columns = config.image_size
        x = self.image(latent)[..., :rows, :columns]
        return x.squeeze(1) if len(config.image_shape) == 2 else x


class _Encoder(_Sized):
    """From images to the codes of (e, t), or to the means and the logarithms of the standard deviations of q."""

    def __init__(self, config: FullyConvolutionalConfig) -> None:
        super().__init__()
        activation, several = ACTIVATIONS[config.activation], 2 if config.variational else 1
        self.config = config
        outputs = several * config.latent_channels
        self.latent = _down(config.image_channels, config.channels, outputs, activation)
        if config.top_channels:
            self.top = _down(outputs, config.top_channels, several * config.top_latent_channels, activation)

    def forward(self, x: Tensor) -> Tensor:
        config = self.config
        x = x.unsqueeze(1) if len(config.image_shape) == 2 else x
        below, beside = (a - b for a, b in zip(config.padded_size, config.image_size, strict=True))
        if below or beside:
            x = F.pad(x, (0, beside, 0, below), mode="replicate")
        levels = [self.latent(x)]
        if config.top_channels:
            levels.append(self.top(levels[0]))
        if not config.variational:
            return torch.cat([level.flatten(1) for level in levels], 1)
        moments = [level.chunk(2, dim=1) for level in levels]
        means = [mean.flatten(1) for mean, _ in moments]
        log_stds = [log_std.clamp(*_DEVIATIONS).flatten(1) for _, log_std in moments]
        return torch.cat([*means, *log_stds], 1)


@dataclass(frozen=True, kw_only=True)
class FullyConvolutionalConfig(Config):
    r"""A fully convolutional autoencoder; it trains on crops and serves images of any size.

    The latent vector z = (e, t) is an image e at 1/f of the resolution and a coarser one t, and

    .. math:: G(z) = D(\mu(t) + s(t) \odot e), \qquad e, t \sim N(0, I),

    so that the latent image has means and scales that t predicts, while z is white, as everywhere. All parts are
    convolutions: the same weights serve images of any size (`at`), and what is farther away than the receptive field
    makes no difference. Images whose sides are no multiples of the total factor are continued by their last rows and
    columns before they are encoded, and decoded images are cut off there.

    Parameters
    ----------
    image_shape
        Rows and columns of an image, in front of them the channels where it has some.
    variational
        See `Autoencoder`.
    channels
        Channels of encoder and decoder at 1/2, 1/4, ... of the resolution of the image; f = 2 ** len(channels).
    latent_channels
        Channels of e.
    top_channels
        Channels of the networks between e and t, at 1/2, 1/4, ... of the resolution of e; empty for no t.
    top_latent_channels
        Channels of t.
    activation
        Name of the activation; a smooth one makes the decoder smooth.
    latent_dim
        Follows from the others; where given it must be right.

    Raises
    ------
    TypeError, ValueError
        If a number is no positive integer, or the latent dimension is not that of the images.

    References
    ----------
    R. Child (2021), Very deep VAEs generalize autoregressive models and can outperform them on images, ICLR,
    arXiv:2011.10650, for latent images in several levels.
    """

    name: ClassVar[str] = "fully-convolutional"
    colour: ClassVar[bool] = True
    any_size: ClassVar[bool] = True

    latent_dim: int = 0
    channels: tuple[int, ...] = (24, 48, 64)
    latent_channels: int = 8
    top_channels: tuple[int, ...] = ()
    top_latent_channels: int = 8
    activation: str = "silu"

    def __post_init__(self) -> None:
        given = self.latent_dim
        object.__setattr__(self, "latent_dim", 1)
        super().__post_init__()
        for name in ("latent_channels", "top_latent_channels"):
            object.__setattr__(self, name, integer(getattr(self, name), name, minimum=1))
        object.__setattr__(self, "channels", integers(self.channels, "channels", minimum=1))
        if self.top_channels:
            object.__setattr__(self, "top_channels", integers(self.top_channels, "top_channels", minimum=1))
        dim = self.white_dim + self.top_latent_channels * math.prod(self.top_size)
        if given not in (0, dim):
            raise ValueError(
                f"latent_dim must be {dim} for images of {self.image_shape}, or left out, got {given}"
            )
        object.__setattr__(self, "latent_dim", dim)

    @property
    def padded_size(self) -> tuple[int, int]:
        """Rows and columns, continued to multiples of the total factor."""
        total = 2 ** (len(self.channels) + len(self.top_channels))
        rows, columns = (total * math.ceil(side / total) for side in self.image_size)
        return rows, columns

    @property
    def latent_size(self) -> tuple[int, int]:
        """Rows and columns of e."""
        rows, columns = (side // 2 ** len(self.channels) for side in self.padded_size)
        return rows, columns

    @property
    def top_size(self) -> tuple[int, int]:
        """Rows and columns of t, zero without one."""
        if not self.top_channels:
            return 0, 0
        rows, columns = (side // 2 ** len(self.top_channels) for side in self.latent_size)
        return rows, columns

    @property
    def levels(self) -> tuple[Level, ...]:
        """The latent images of which a latent vector consists, in turn."""
        stride = 2 ** len(self.channels)
        fine = Level(self.latent_channels, *self.latent_size, stride)
        if not self.top_channels:
            return (fine,)
        return fine, Level(self.top_latent_channels, *self.top_size, stride * 2 ** len(self.top_channels))

    @property
    def white_dim(self) -> int:
        """Dimension of e."""
        return self.latent_channels * math.prod(self.latent_size)

    def at(self, image_shape: tuple[int, ...]) -> Self:
        """Return the architecture for images of another size.

        Raises
        ------
        ValueError
            If the number of channels is another, or a side is not positive.
        """
        other = replace(self, image_shape=tuple(image_shape), latent_dim=0)
        if (len(other.image_shape), other.image_channels) != (len(self.image_shape), self.image_channels):
            raise ValueError(
                f"images must have the channels of those of the model, {self.image_shape}, got {image_shape}"
            )
        return other

    def build(self) -> Autoencoder:
        """Return a model with random weights."""
        return Autoencoder(_Encoder(self), _Decoder(self), self)
