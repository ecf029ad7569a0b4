"""The model that every architecture builds."""

import copy
import math
from typing import Any, ClassVar, Protocol, Self, cast

import torch
from torch import Tensor, nn


class Autoencoder(nn.Module):
    """An encoder and a decoder with one standard deviation for all pixels.

    Images are ``(B, n, m)``, or ``(B, channels, n, m)`` for an architecture with channels.

    Parameters
    ----------
    encoder
        Module that maps images ``(B, *image_shape)`` to ``(B, latent_dim)``, or ``(B, 2 * latent_dim)`` for a
        variational model: the means, then the logarithms of the standard deviations.
    decoder
        Module that maps ``(B, latent_dim)`` to mean images ``(B, *image_shape)``.
    config
        The architecture, of which ``image_shape``, ``latent_dim`` and ``variational`` are read.

    Attributes
    ----------
    log_gamma
        Parameter, a scalar: the logarithm of the decoder's standard deviation per pixel.
    """

    def __init__(self, encoder: nn.Module, decoder: nn.Module, config: "Architecture") -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder
        self.config = config
        self.log_gamma = nn.Parameter(torch.tensor(math.log(0.25)))

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Rows and columns of an image; in front of them the channels, where it has some."""
        return self.config.image_shape

    @property
    def latent_dim(self) -> int:
        """Dimension of the latent space."""
        return self.config.latent_dim

    @property
    def variational(self) -> bool:
        """Whether the encoder returns a distribution."""
        return self.config.variational

    @property
    def any_size(self) -> bool:
        """Whether there is the model for images of any other size, see `at`."""
        return getattr(self.config, "any_size", False)

    @property
    def levels(self) -> tuple[Any, ...]:
        """The latent images that make up a latent vector, see `FullyConvolutionalConfig`; none where it has none."""
        return getattr(self.config, "levels", ())

    def at(self, image_shape: tuple[int, ...]) -> Self:
        """Return the model for images of another size, with the same weights: what changes one changes both.

        Raises
        ------
        ValueError
            If the architecture makes images of one size only, or of other channels.
        """
        image_shape = tuple(image_shape)
        if image_shape == self.image_shape:
            return self
        if not self.any_size:
            raise ValueError(
                f"the model makes images of the shape {self.image_shape} only, got {image_shape}; those of "
                "networks.FullyConvolutionalConfig make any size"
            )
        other, config = copy.copy(self), cast(Any, self.config)
        other.config = config.at(image_shape)
        parts = {name: cast(Any, self._modules[name]).at(image_shape) for name in ("encoder", "decoder")}
        other._modules = {**self._modules, **parts}  # of its own: that of a copy is the original's
        return other

    def decode(self, z: Tensor) -> Tensor:
        """Return the mean images ``(B, *image_shape)`` of latent vectors ``(B, latent_dim)``."""
        return self.decoder(z)

    def encode(self, x: Tensor) -> Tensor:
        """Return the (mean) latent vectors ``(B, latent_dim)`` of images ``(B, *image_shape)``."""
        return self.encoder(x)[:, : self.latent_dim]

    def encode_distribution(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation of q(z | x), both ``(B, latent_dim)``.

        Raises
        ------
        TypeError
            If the model is not variational.
        """
        if not self.variational:
            raise TypeError(
                "encode_distribution needs a variational model, got one whose encoder returns points"
            )
        mean, log_std = self.encoder(x).chunk(2, dim=1)
        return mean, log_std.exp()

    def forward(self, x: Tensor) -> Tensor:
        """Return G(E(x)), ``(B, *image_shape)``."""
        return self.decode(self.encode(x))


class Architecture(Protocol):
    """What a configuration of an architecture offers."""

    name: ClassVar[str]

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Rows and columns of an image; in front of them the channels, where it has some."""
        ...

    @property
    def latent_dim(self) -> int:
        """Dimension of the latent space."""
        ...

    @property
    def variational(self) -> bool:
        """Whether the encoder returns a distribution."""
        ...

    def build(self) -> Autoencoder:
        """Return a model with random weights (from torch's global generator)."""
        ...

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON-able dictionary that `build` takes."""
        ...
