"""Generative adversarial networks: a decoder without an encoder, and the critic that it is trained against."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

from torch import Tensor, nn

from genreg.networks.autoencoder import Architecture
from genreg.networks.config import CardEntry, Config
from genreg.networks.dense_and_convolutional import ConvConfig, DenseConfig
from genreg.networks.duff import DuffConfig
from genreg.networks.field_types import check_types
from genreg.networks.fully_convolutional import FullyConvolutionalConfig
from genreg.networks.latent_grid import GridConfig
from genreg.networks.regions import RegionsConfig
from genreg.networks.strided import StridedConfig

T = TypeVar("T")

AUTOENCODERS: dict[str, Callable[..., Architecture]] = {
    c.name: c
    for c in (
        DenseConfig,
        ConvConfig,
        RegionsConfig,
        DuffConfig,
        GridConfig,
        StridedConfig,
        FullyConvolutionalConfig,
    )
}


def from_dict(config: Mapping[str, Any], table: Mapping[str, Callable[..., T]]) -> T:
    """Make a configuration from what its ``to_dict`` returned.

    Raises
    ------
    ValueError
        If it is no mapping, the name is not in the table, or a field is unknown, missing, of another type or out of
        range.
    """
    if not isinstance(config, Mapping):
        raise ValueError(f"architecture must be a mapping with its name and settings, got {config!r}")
    settings = dict(config)
    name = settings.pop("name", None)
    if not isinstance(name, str) or name not in table:
        raise ValueError(f"architecture name must be one of {sorted(table)}, got {name!r}")
    try:
        check_types(table[name], settings)
        return table[name](**settings)
    except TypeError as error:
        raise ValueError(f"settings of architecture {name!r} don't fit: {error}") from None


def autoencoder_config(value: Any, name: str) -> Config:
    """Return the configuration of an autoencoder, made of the dictionary of a card where it is one.

    Raises
    ------
    TypeError, ValueError
        If it is none.
    """
    found: Any = from_dict(value, AUTOENCODERS) if isinstance(value, Mapping) else value
    if not isinstance(found, Config):
        raise TypeError(
            f"{name} must be a configuration of an autoencoder ({', '.join(sorted(AUTOENCODERS))}), "
            f"got {type(found).__name__}"
        )
    return found


class GAN(nn.Module):
    """A decoder and a critic; z ~ N(0, I). There is no encoder.

    Parameters
    ----------
    decoder
        Module that maps ``(B, latent_dim)`` to images ``(B, *image_shape)``.
    critic
        Module that maps images ``(B, *image_shape)`` to ``(B, 1)``.
    config
        The architecture, of which ``image_shape`` and ``latent_dim`` are read.
    """

    def __init__(self, decoder: nn.Module, critic: nn.Module, config: GanConfig) -> None:
        super().__init__()
        self.decoder = decoder
        self.critic = critic
        self.config = config

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Rows and columns of an image; in front of them the channels, where it has some."""
        return self.config.image_shape

    @property
    def latent_dim(self) -> int:
        """Dimension of the latent space."""
        return self.config.latent_dim

    def decode(self, z: Tensor) -> Tensor:
        """Return the images G(z), ``(B, *image_shape)``, of latent vectors ``(B, latent_dim)``."""
        return self.decoder(z)

    def discriminate(self, x: Tensor) -> Tensor:
        """Return the values of the critic, ``(B,)``, of images ``(B, *image_shape)``: large for true ones."""
        return self.critic(x)[:, 0].to(x.dtype)

    def forward(self, z: Tensor) -> Tensor:
        """Return G(z)."""
        return self.decode(z)


@dataclass(frozen=True, kw_only=True)
class GanConfig(CardEntry):
    """A GAN whose parts are those of autoencoders: one's decoder, and one's encoder with a single output.

    Parameters
    ----------
    generator
        Architecture of which the decoder is used.
    critic
        Architecture of which the encoder is used, with ``latent_dim=1`` and ``variational=False``; where
        None, that of the generator with these two and without batch normalisation. With `DuffConfig` that is
        the paper's GAN.

    Raises
    ------
    TypeError
        If a part is not the configuration of an autoencoder.
    ValueError
        If the critic has more than one output or images of another shape.
    """

    name: ClassVar[str] = "gan"

    generator: Config
    critic: Config = None  # type: ignore[assignment]  # None becomes a configuration below

    def __post_init__(self) -> None:
        for part in ("generator", "critic"):
            value = getattr(self, part)
            if (value, part) != (None, "critic"):
                object.__setattr__(self, part, autoencoder_config(value, part))
        if self.critic is None:
            object.__setattr__(self, "critic", self.generator.as_critic())
        found = (self.critic.latent_dim, self.critic.variational, self.critic.image_shape)
        if found != (1, False, self.image_shape):
            raise ValueError(
                "critic must have latent_dim 1, variational False and the generator's image_shape "
                f"{self.image_shape}, got {found[0]}, {found[1]} and {found[2]}"
            )

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Rows and columns of an image; in front of them the channels, where it has some."""
        return self.generator.image_shape

    @property
    def latent_dim(self) -> int:
        """Dimension of the latent space."""
        return self.generator.latent_dim

    def build(self) -> GAN:
        """Return a model with random weights."""
        return GAN(self.generator.build().decoder, self.critic.build().encoder, self)
