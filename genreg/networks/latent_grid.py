"""Convolutional autoencoders whose latent vector is a coarse grid of codes: images of many small parts."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from genreg.networks.autoencoder import Autoencoder
from genreg.networks.borrowed import evaluating
from genreg.networks.config import Config


class _Residual(nn.Module):
    """x + conv(act(conv(act(x))))."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.SiLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class _Place(nn.Module):
    """Add a learned map, so that what is always at the same place need not be in the code."""

    def __init__(self, channels: int, rows: int, columns: int) -> None:
        super().__init__()
        self.map = nn.Parameter(torch.zeros(channels, rows, columns))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.map


class _Affine(nn.Module):
    """Between the codes c of the convolutions and the latent vector z: c = shift + exp(log_scale) z."""

    shift: Tensor
    log_scale: Tensor

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.register_buffer("shift", torch.zeros(latent_dim))
        self.register_buffer("log_scale", torch.zeros(latent_dim))


class _Encoder(_Affine):
    def __init__(self, body: nn.Sequential, latent_dim: int, variational: bool) -> None:
        super().__init__(latent_dim)
        self.body = body
        self.variational = variational

    def forward(self, x: Tensor) -> Tensor:
        codes = self.body(x[:, None]).to(x.dtype).flatten(1)
        scale = self.log_scale.exp()
        if not self.variational:
            return (codes - self.shift) / scale
        mean, log_std = codes.chunk(2, dim=1)
        # without the bound one outlier would make the loss infinite
        log_std = log_std.clamp(-8.0, 2.0) - self.log_scale
        return torch.cat([(mean - self.shift) / scale, log_std], dim=1)


class _Decoder(_Affine):
    def __init__(self, body: nn.Sequential, grid: tuple[int, int, int]) -> None:
        super().__init__(math.prod(grid))
        self.body = body
        self.grid = grid

    def forward(self, z: Tensor) -> Tensor:
        codes = torch.addcmul(self.shift, self.log_scale.exp(), z)
        logits = self.body(codes.unflatten(1, self.grid)).squeeze(1)
        # under autocast the logits are bfloat16, too coarse next to 1
        return torch.sigmoid(logits.to(z.dtype))


@torch.no_grad()
def normalise(model: Autoencoder, images: Tensor) -> None:
    """Normalise the codes of a grid autoencoder, in place; G(E(x)) is unchanged.

    Shift and scale of every entry of the latent vector change so that the aggregate posterior, the mean of
    q(z | x) over images, has mean 0 and variance 1 in every entry (with the encoder's points in the place of
    q for a model that is not variational). z = 0 is then a typical image, and ||z||^2 measures how far an
    image is from typical ones.

    Parameters
    ----------
    model
        A model that `GridConfig` built.
    images
        Images ``(N, n, m)``, many of them.

    Raises
    ------
    TypeError
        If the model is of another kind.
    """
    encoder, decoder = model.encoder, model.decoder
    if not (isinstance(encoder, _Encoder) and isinstance(decoder, _Decoder)):
        raise TypeError(f"model must be a grid autoencoder, got one of {type(model.config).__name__}")
    with evaluating(model):
        codes = torch.cat([encoder(x) for x in images.split(500)]).double()
    means = codes[:, : model.latent_dim]
    variance = means.var(0)
    if model.variational:
        variance = variance + (2 * codes[:, model.latent_dim :]).exp().mean(0)
    for part in (encoder, decoder):
        part.shift += part.log_scale.exp() * means.mean(0).to(part.shift.dtype)
        part.log_scale += 0.5 * variance.log().to(part.log_scale.dtype)


@dataclass(frozen=True, kw_only=True)
class GridConfig(Config):
    """Encoder and decoder without dense layers: the latent vector is a grid of codes, one per patch.

    Each code stands for the neighbourhood of a patch of ``2 ** len(channels)`` pixels along each side, so
    a small model describes images with many parts, and a local change of the image is a local change of
    the code. Residual blocks on the coarse grids give the encoder a view of the whole image. The decoder
    ends in a sigmoid.

    Parameters
    ----------
    image_shape, latent_dim, variational
        See `Autoencoder`; ``latent_dim`` must be a multiple of the number of patches.
    encoder, decoder
        Channels at 1/2, 1/4, ... of the resolution of the image; equally many.
    encoder_blocks, decoder_blocks
        Residual blocks on the coarsest grid.
    """

    name: ClassVar[str] = "grid"

    encoder: tuple[int, ...] = (32, 64, 128)
    decoder: tuple[int, ...] = (24, 48, 96)
    encoder_blocks: int = 4
    decoder_blocks: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.encoder or len(self.encoder) != len(self.decoder):
            raise ValueError(
                f"encoder and decoder must have equally many entries, at least one, got {self.encoder} "
                f"and {self.decoder}"
            )
        factor = 2 ** len(self.encoder)
        if any(size % factor for size in self.image_shape):
            raise ValueError(
                f"image_shape must be divisible by 2 ** len(encoder) = {factor}, got {self.image_shape}"
            )
        if self.latent_dim % math.prod(size // factor for size in self.image_shape):
            raise ValueError(
                f"latent_dim must be a multiple of the number of patches of {factor} x {factor} pixels in an "
                f"image of shape {self.image_shape}, got {self.latent_dim}"
            )
        for name in ("encoder_blocks", "decoder_blocks"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")

    def build(self) -> Autoencoder:
        """Return a model with random weights, its convolutions in channels-last layout."""
        rows, columns = (size // 2 ** len(self.encoder) for size in self.image_shape)
        codes = self.latent_dim // (rows * columns)
        down: list[nn.Module] = []
        for level, (inputs, outputs) in enumerate(zip((1, *self.encoder[:-1]), self.encoder, strict=True)):
            down += [nn.SiLU(), _Residual(inputs)] if level > 1 else [nn.SiLU()] if level else []
            down += [nn.Conv2d(inputs, outputs, 4, stride=2, padding=1)]
        down += [_Place(self.encoder[-1], rows, columns)]
        down += [_Residual(self.encoder[-1]) for _ in range(self.encoder_blocks)]
        down += [nn.SiLU(), nn.Conv2d(self.encoder[-1], codes * (2 if self.variational else 1), 1)]
        up: list[nn.Module] = [nn.Conv2d(codes, self.decoder[-1], 3, padding=1)]
        up += [_Place(self.decoder[-1], rows, columns)]
        up += [_Residual(self.decoder[-1]) for _ in range(self.decoder_blocks)]
        for inputs, outputs in zip(self.decoder[:0:-1], self.decoder[-2::-1], strict=True):
            up += [
                nn.SiLU(),
                nn.Conv2d(inputs, 4 * outputs, 3, padding=1),
                nn.PixelShuffle(2),
                _Residual(outputs),
            ]
        up += [nn.SiLU(), nn.Conv2d(self.decoder[0], 4, 3, padding=1), nn.PixelShuffle(2)]
        encoder, decoder = (
            _Encoder(nn.Sequential(*down), self.latent_dim, self.variational),
            _Decoder(nn.Sequential(*up), (codes, rows, columns)),
        )
        return Autoencoder(encoder, decoder, self).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
