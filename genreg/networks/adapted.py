"""Autoencoders of other libraries, whose latent variables are images: MONAI, diffusers, and others called like them."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from genreg.networks.autoencoder import Autoencoder
from genreg.networks.borrowed import evaluating
from genreg.networks.config import Config
from genreg.networks.foreign import has_latent_images, image_in, known_moments, looked_at, moments_in
from genreg.operators.bridge.arguments import integer, integers


class _Latents(nn.Module):
    """Between latent images c of the library and white ones z, channel by channel: c = shift + scale z."""

    shift: Tensor
    scale: Tensor

    def __init__(self, shift: Tensor, scale: Tensor) -> None:
        super().__init__()
        self.register_buffer("shift", shift)  # (C,)
        self.register_buffer("scale", scale)

    def parts(self, c: Tensor) -> tuple[Tensor, Tensor]:
        """Return shift and scale as they multiply latent images ``(B, C, *sides)``."""
        shape = (-1, *(1,) * (c.ndim - 2))
        return self.shift.view(shape), self.scale.view(shape)


class _Half(nn.Module):
    """One half of the model, for images of the size that the configuration has."""

    def __init__(self, model: nn.Module, latents: _Latents, config: AdaptedConfig) -> None:
        super().__init__()
        self.model, self.latents, self.config = model, latents, config

    def at(self, image_shape: tuple[int, ...]) -> Self:
        """Return this half for images of another size, with the same weights."""
        other = copy.copy(self)
        other.config = self.config.at(image_shape)
        return other


class _Decoder(_Half):
    """From latent vectors ``(B, latent_dim)`` to images ``(B, *image_shape)``."""

    def forward(self, z: Tensor) -> Tensor:
        config, model = self.config, self.model
        z = z.unflatten(1, (config.latent_channels, *config.latent_size))
        shift, scale = self.latents.parts(z)
        x = image_in(model.decode(shift + scale * z))  # type: ignore[operator]  # (B, channels, *padded_size)
        inside: Any = (..., *(slice(side) for side in config.image_size))
        x = x[inside]
        if x.shape[1] != config.image_channels:
            x = x.mean(1, keepdim=True)
        return x if config.has_channels else x.squeeze(1)


class _Encoder(_Half):
    """From images to latent vectors, or to the means and the logarithms of the standard deviations of q(z | x)."""

    def forward(self, x: Tensor) -> Tensor:
        config, model = self.config, self.model
        x = x if config.has_channels else x.unsqueeze(1)
        if x.shape[1] != config.channels:
            x = x.expand(-1, config.channels, *x.shape[2:])
        missing = [a - b for a, b in zip(config.padded_size, config.image_size, strict=True)]
        if any(missing):
            x = F.pad(x, [side for more in reversed(missing) for side in (0, more)], mode="replicate")
        mean, std = moments_in(model.encode(x))  # type: ignore[operator]
        shift, scale = self.latents.parts(mean)
        z = ((mean - shift) / scale).flatten(1)
        if std is None:
            return z
        smallest = torch.finfo(std.dtype).tiny  # of a distribution that is a point
        return torch.cat([z, (std / scale).clamp_min(smallest).log().flatten(1)], 1)


@dataclass(frozen=True, kw_only=True)
class AdaptedConfig(Config):
    """What `adapt` has found out about an autoencoder of another library, at one size of images.

    Parameters
    ----------
    image_shape
        Sides of an image, in front of them the channels where it has some.
    latent_dim
        Follows from the others; where given it must be right.
    variational
        Whether the encoder returns a distribution.
    model
        Name of the class of the model.
    dimensions
        Number of the axes of an image, without that of the channels.
    channels
        Channels that the model takes.
    latent_channels
        Channels of a latent image.
    factor
        By which its sides are smaller than those of the image, which is continued to multiples of it.

    Raises
    ------
    TypeError, ValueError
        If a number is no positive integer, the image has other axes, or the latent dimension is another.
    """

    name: ClassVar[str] = "adapted"
    colour: ClassVar[bool] = True
    any_size: ClassVar[bool] = True

    latent_dim: int = 0
    model: str
    dimensions: int
    channels: int
    latent_channels: int
    factor: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "image_shape", integers(self.image_shape, "image_shape", minimum=1))
        for name in ("dimensions", "channels", "latent_channels", "factor"):
            object.__setattr__(self, name, integer(getattr(self, name), name, minimum=1))
        if len(self.image_shape) not in (self.dimensions, self.dimensions + 1):
            raise ValueError(
                f"image_shape must be {self.dimensions} sides for {self.model}, with the channels first where there "
                f"are some, got {self.image_shape}"
            )
        if self.image_channels not in (1, self.channels):
            raise ValueError(
                f"image_shape must have 1 or {self.channels} channels for {self.model}, got {self.image_channels}"
            )
        dim = self.latent_channels * math.prod(self.latent_size)
        if self.latent_dim not in (0, dim):
            raise ValueError(
                f"latent_dim must be {dim} for images of {self.image_shape}, or left out, got {self.latent_dim}"
            )
        object.__setattr__(self, "latent_dim", dim)

    @property
    def has_channels(self) -> bool:
        """Whether images have an axis of channels."""
        return len(self.image_shape) > self.dimensions

    @property
    def image_channels(self) -> int:
        """Number of channels of an image, 1 where it has no such axis."""
        return self.image_shape[0] if self.has_channels else 1

    @property
    def image_size(self) -> tuple[int, ...]:  # type: ignore[override]  # volumes have three
        """Sides of an image."""
        return self.image_shape[-self.dimensions :]

    @property
    def padded_size(self) -> tuple[int, ...]:
        """Sides, continued to multiples of the factor."""
        return tuple(self.factor * math.ceil(side / self.factor) for side in self.image_size)

    @property
    def latent_size(self) -> tuple[int, ...]:
        """Sides of a latent image."""
        return tuple(side // self.factor for side in self.padded_size)

    def at(self, image_shape: tuple[int, ...]) -> Self:
        """Return what is the same model for images of another size.

        Raises
        ------
        ValueError
            If the number of axes or channels is another.
        """
        other = replace(self, image_shape=tuple(image_shape), latent_dim=0)
        if (other.has_channels, other.image_channels) != (self.has_channels, self.image_channels):
            raise ValueError(
                f"images must have the channels of those of the model, {self.image_shape}, got {image_shape}"
            )
        return other

    def build(self) -> Autoencoder:
        """There is none.

        Raises
        ------
        NotImplementedError
            Always.
        """
        raise NotImplementedError(
            f"{self.model} is made by its own library: genreg.networks.adapt takes the model"
        )


def adapt(model: nn.Module, image_shape: tuple[int, ...]) -> Autoencoder:
    r"""Return an autoencoder of another library as one of genreg's, with the same weights.

    `genreg.Generator` does that by itself. How the model is called is found out by an image of zeros:

    * MONAI's ``AutoencoderKL``: ``encode`` returns (mean, standard deviation), ``decode`` a tensor;
    * diffusers' ``AutoencoderKL``: objects with ``latent_dist`` and ``sample``; an ``AutoencoderTiny`` or an
      ``AutoencoderDC``: objects with ``latents`` or ``latent``, points without a distribution;
    * other models with convolutions whose ``encode`` and ``decode`` return tensors.

    ``forward``, which draws a z in MONAI, is not used: encoding and decoding are deterministic.

    The latent image c, ``(C, *sides / f)``, is :math:`c = m + s \odot z` channel by channel, with a latent vector z,
    flattened. These models have nearly no prior on c. What diffusers knows about its mean and standard deviation is
    taken: ``latents_mean`` and ``latents_std``, else ``shift_factor`` and 1 / ``scaling_factor``; it is 0 and 1 for
    others. `genreg.training.whiten` finds both from images, and has to be called where a model brought nothing, or was
    trained by its user: ``scaling_factor`` is then the number of Stable Diffusion, 0.18215, unless it was given.

    Images are in the units of the model, [-1, 1] for most of diffusers', see ``scale`` and ``offset`` of
    `genreg.Generator`. Their sides may be any: they are continued by their last rows and columns to multiples of f, and
    decoded images are cut off there. Grey images are given to a model of several channels in all of them, of which the
    mean is taken. γ is not known (NaN) before `genreg.training.fit_gamma` has found it from held-out images.

    Parameters
    ----------
    model : torch.nn.Module
        The model; it is left as it is.
    image_shape : tuple of int
        Sides of an image, in front of them the channels where it has some.

    Returns
    -------
    Autoencoder
        Of which ``StructuredConfig(mean=result.config).grow(result)`` makes a model with a structured precision, for
        `genreg.training.fit_precision`.

    Raises
    ------
    TypeError
        If the model has not both halves with convolutions, or these return other objects.
    ValueError
        If they refuse an image, or their images do not fit each other or `image_shape`.
    """
    if not isinstance(model, nn.Module) or not has_latent_images(model):
        raise TypeError(
            "model must be a torch.nn.Module with convolutions and the methods encode and decode, got "
            f"{type(model).__name__}"
        )
    found = looked_at(model)
    config = AdaptedConfig(image_shape=image_shape, **found)
    parameter = next(model.parameters())
    shift, scale = (
        t.to(device=parameter.device, dtype=parameter.dtype)
        for t in known_moments(model, config.latent_channels)
    )
    latents = _Latents(shift, scale)
    made = Autoencoder(_Encoder(model, latents, config), _Decoder(model, latents, config), config)
    made.log_gamma = nn.Parameter(torch.full_like(parameter[(0,) * parameter.ndim].detach(), torch.nan))
    return made.train(model.training)


@torch.no_grad()
def standardise(model: Autoencoder, images: Tensor, *, batch_size: int = 16) -> None:
    """Change shift and scale of the latent images so that codes of images have mean 0 and variance 1 in every channel.

    In place; G(E(x)) is unchanged. The variance is that of the aggregate posterior, the mean of q(z | x) over images
    and places.

    Parameters
    ----------
    model
        A model that `adapt` made.
    images
        Images ``(N, *image_shape)``.
    batch_size
        Number of images in one batch.

    Raises
    ------
    ValueError
        If a channel is the same for all images.
    """
    config: Any = model.config
    parts = []
    with evaluating(model):
        for x in images.split(batch_size):
            codes = (
                model.encoder(x)
                .double()
                .unflatten(1, (-1, config.latent_channels, math.prod(config.latent_size)))
            )
            mean = codes[:, 0]  # (B, C, places)
            spread = (2 * codes[:, 1]).exp() if config.variational else torch.zeros_like(mean)
            parts.append(torch.stack([mean.sum((0, 2)), (mean.square() + spread).sum((0, 2))]))
    count = len(images) * math.prod(config.latent_size)
    first, second = torch.stack(parts).sum(0) / count  # (C,)
    variance = second - first.square()
    constant = (~(variance > 1e-12 * second)).nonzero().flatten().tolist()
    if constant:
        raise ValueError(f"images must have different codes in every channel, got the same in {constant}")
    latents: Any = model.encoder.latents
    latents.shift += latents.scale * first.to(latents.shift)
    latents.scale *= variance.sqrt().to(latents.scale)
