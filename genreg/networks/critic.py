"""Critics: networks that give an image one number, such as the logit of a discriminator."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from genreg.networks.config import CardEntry, Config
from genreg.networks.gan import GAN, autoencoder_config


class Critic(nn.Module):
    """A network from images to one number each.

    Parameters
    ----------
    body
        Module that maps images ``(B, *image_shape)`` to ``(B, 1)``.
    config
        The architecture, of which ``image_shape`` is read.
    """

    def __init__(self, body: nn.Module, config: CriticConfig) -> None:
        super().__init__()
        self.body = body
        self.config = config

    @classmethod
    def of(cls, gan: GAN) -> Critic:
        """Return the critic of a GAN by itself; the weights are shared with it."""
        return cls(gan.critic, CriticConfig(body=gan.config.critic))

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Rows and columns of an image; in front of them the channels, where it has some."""
        return self.config.body.image_shape

    def discriminate(self, x: Tensor) -> Tensor:
        """Return the values ``(B,)`` of images ``(B, *image_shape)``."""
        return self.body(x)[:, 0]

    def forward(self, x: Tensor) -> Tensor:
        """Return the values ``(B,)`` of images ``(B, *image_shape)``."""
        return self.discriminate(x)


@dataclass(frozen=True, kw_only=True)
class CriticConfig(CardEntry):
    """A critic that is the encoder of an autoencoder with a single output.

    Parameters
    ----------
    body
        Architecture of which the encoder is used, its ``latent_dim`` replaced by 1, not variational and without
        batch normalisation.

    Raises
    ------
    TypeError
        If `body` is not the configuration of an autoencoder.
    """

    name: ClassVar[str] = "critic"

    body: Config

    def __post_init__(self) -> None:
        object.__setattr__(self, "body", autoencoder_config(self.body, "body").as_critic())

    def build(self) -> Critic:
        """Return a critic with random weights."""
        return Critic(self.body.build().encoder, self)
