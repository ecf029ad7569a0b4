"""Denoisers: networks from an image with Gaussian noise, and its standard deviation, to the image without."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from genreg.operators.bridge.arguments import integer, integers


def _convolution(inputs: int, outputs: int) -> nn.Conv2d:
    """A 3 x 3 convolution without bias; beyond its border an image goes on with the nearest values."""
    return nn.Conv2d(inputs, outputs, 3, padding=1, padding_mode="replicate", bias=False)


class _Residual(nn.Module):
    """x + conv(relu(conv(x)))."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            _convolution(channels, channels), nn.ReLU(), _convolution(channels, channels)
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class _UNet(nn.Module):
    """From ``(B, inputs, n, m)`` to ``(B, outputs, n, m)``; 2 ** (levels - 1) divides the sides."""

    def __init__(self, inputs: int, outputs: int, channels: tuple[int, ...], blocks: int) -> None:
        super().__init__()
        pairs = list(itertools.pairwise(channels))
        self.first = _convolution(inputs, channels[0])
        self.before = nn.ModuleList(_level(width, blocks) for width in channels)
        self.after = nn.ModuleList(_level(width, blocks) for width in channels[:-1])
        self.down = nn.ModuleList(nn.Conv2d(fine, coarse, 2, stride=2, bias=False) for fine, coarse in pairs)
        self.up = nn.ModuleList(
            nn.ConvTranspose2d(coarse, fine, 2, stride=2, bias=False) for fine, coarse in pairs
        )
        self.last = _convolution(channels[0], outputs)
        nn.init.zeros_(self.last.weight)

    def forward(self, x: Tensor) -> Tensor:
        levels = [self.before[0](self.first(x))]
        for down, body in zip(self.down, self.before[1:], strict=True):  # type: ignore[arg-type]
            levels.append(body(down(levels[-1])))
        t = levels.pop()
        for up, body in zip(reversed(self.up), reversed(self.after), strict=True):
            t = body(levels.pop() + up(t))
        return self.last(t)


def _level(width: int, blocks: int) -> nn.Sequential:
    return nn.Sequential(*(_Residual(width) for _ in range(blocks)))


class Denoiser(nn.Module):
    r"""A network D with D(x + σ n, σ) ≈ x for white noise n, of images of any size.

    It has no biases: :math:`D(c x, c \sigma) = c D(x, \sigma)` for c > 0, so that it serves images of any unit, and
    noise stronger and weaker than it was trained on.

    Parameters
    ----------
    network
        Module that maps ``(B, 4 C + 1, n, m)``, the image by blocks of 2 x 2 pixels and σ, to ``(B, 4 C, n, m)``, what
        is added to the image.
    config
        The architecture.
    """

    any_size: ClassVar[bool] = True

    def __init__(self, network: nn.Module, config: DenoiserConfig) -> None:
        super().__init__()
        self.network = network
        self.config = config

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Rows and columns of an image; in front of them the channels, where it has some."""
        return self.config.image_shape

    def at(self, image_shape: tuple[int, ...]) -> Self:
        """Return the denoiser for images of another size, with the same weights."""
        other = copy.copy(self)
        other.config = self.config.at(image_shape)
        return other

    def forward(self, x: Tensor, sigma: Tensor | float) -> Tensor:
        """Return images without noise, ``(B, *image_shape)``, of such images and σ of each, ``(B,)``, or of all."""
        t = x.unsqueeze(1) if len(self.image_shape) == 2 else x
        (rows, columns), factor = t.shape[-2:], self.config.factor
        below, beside = -rows % factor, -columns % factor
        if below or beside:
            t = F.pad(t, (0, beside, 0, below), mode="replicate")
        blocks = F.pixel_unshuffle(t, 2)  # (B, 4 C, n / 2, m / 2)
        level = torch.as_tensor(sigma, dtype=t.dtype, device=t.device).expand(len(t)).view(-1, 1, 1, 1)
        level = level.expand(-1, 1, *blocks.shape[-2:])
        change = F.pixel_shuffle(self.network(torch.cat([blocks, level], 1)), 2)
        return x + change[..., :rows, :columns].reshape(x.shape)


@dataclass(frozen=True, kw_only=True)
class DenoiserConfig:
    """A small U-Net of residual blocks without biases, on blocks of 2 x 2 pixels, with a map of σ as a further channel.

    It is between FFDNet, whose blocks of pixels make it fast, and DRUNet, whose U-Net and lack of biases it has.

    Parameters
    ----------
    image_shape
        Rows and columns, in front of them the channels where an image has some; the weights serve any size.
    channels
        Channels at 1/2, 1/4, ... of the resolution.
    blocks
        Residual blocks on each level, on the way down and on the way up.

    Raises
    ------
    TypeError, ValueError
        If a number is no positive integer, or the image has other axes.

    References
    ----------
    K. Zhang, W. Zuo, L. Zhang (2018), FFDNet: toward a fast and flexible solution for CNN based image denoising,
    arXiv:1710.04026.

    K. Zhang, Y. Li, W. Zuo, L. Zhang, L. Van Gool, R. Timofte (2021), Plug-and-play image restoration with deep
    denoiser prior, arXiv:2008.13751.

    S. Mohan, Z. Kadkhodaie, E. P. Simoncelli, C. Fernandez-Granda (2020), Robust and interpretable blind image
    denoising via bias-free convolutional neural networks, arXiv:1906.05478.
    """

    name: ClassVar[str] = "denoiser"

    image_shape: tuple[int, ...]
    channels: tuple[int, ...] = (32, 64)
    blocks: int = 2

    def __post_init__(self) -> None:
        for name in ("image_shape", "channels"):
            value = getattr(self, name)
            if not isinstance(value, Sequence) or isinstance(value, str) or not value:
                raise TypeError(f"{name} must be positive integers, got {value!r}")
            object.__setattr__(self, name, integers(value, name, minimum=1))
        object.__setattr__(self, "blocks", integer(self.blocks, "blocks", minimum=1))
        if len(self.image_shape) not in (2, 3):
            raise ValueError(
                "image_shape must be two positive integers, or three with the channels first, got "
                f"{self.image_shape}"
            )

    @property
    def factor(self) -> int:
        """By which the coarsest level is smaller than the image, which is continued to multiples of it."""
        return 2 ** len(self.channels)

    def at(self, image_shape: tuple[int, ...]) -> Self:
        """Return the architecture for images of another size.

        Raises
        ------
        ValueError
            If they have other channels.
        """
        other = replace(self, image_shape=tuple(image_shape))
        if other.image_shape[:-2] != self.image_shape[:-2]:
            raise ValueError(
                f"images must have the channels of those of the model, {self.image_shape}, got {image_shape}"
            )
        return other

    def build(self) -> Denoiser:
        """Return a denoiser with random weights, from torch's global generator; it starts with D(x, σ) = x."""
        channels = 1 if len(self.image_shape) == 2 else self.image_shape[0]
        return Denoiser(_UNet(4 * channels + 1, 4 * channels, self.channels, self.blocks), self)

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON-able dictionary that `genreg.networks.build` takes."""
        return {
            "name": self.name,
            "image_shape": list(self.image_shape),
            "channels": list(self.channels),
            "blocks": self.blocks,
        }
