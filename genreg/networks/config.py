"""What the configurations of architectures share, and the layers they are made of."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from genreg.networks.autoencoder import Autoencoder
from genreg.operators.bridge.arguments import integer, integers, number

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "elu": nn.ELU,
    "silu": nn.SiLU,
    "softplus": nn.Softplus,
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
}


class CardEntry:
    """A dataclass of settings with a name, which cards hold."""

    name: ClassVar[str]

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON-able dictionary that `genreg.networks.build` takes."""
        return {"name": self.name} | {key: _plain(value) for key, value in vars(self).items()}

    def _with_tuples(self) -> None:
        """Make tuples of the lists that JSON has in their place."""
        for name, value in vars(self).items():
            if isinstance(value, Sequence) and not isinstance(value, str | tuple):
                object.__setattr__(self, name, tuple(value))


def _plain(value: Any) -> Any:
    if hasattr(value, "to_dict"):
        return value.to_dict()
    return list(value) if isinstance(value, tuple) else value


@dataclass(frozen=True, kw_only=True)
class Config(CardEntry):
    """The fields that every architecture has, and its entry in a card."""

    colour: ClassVar[bool] = False
    """Whether images may have channels, ``image_shape = (channels, rows, columns)``."""
    any_size: ClassVar[bool] = False
    """Whether the weights serve images of any size, see `Autoencoder.at`."""

    image_shape: tuple[int, ...]
    latent_dim: int
    variational: bool = True

    def __post_init__(self) -> None:
        self._with_tuples()
        shape = integers(self.image_shape, "image_shape")  # as Python has them, for JSON
        object.__setattr__(self, "image_shape", shape)
        if len(self.image_shape) not in ((2, 3) if self.colour else (2,)) or min(self.image_shape) < 1:
            required = "two positive integers" + (", or three with the channels first" if self.colour else "")
            raise ValueError(f"image_shape must be {required}, got {self.image_shape}")
        object.__setattr__(self, "latent_dim", integer(self.latent_dim, "latent_dim", minimum=1))
        maximum = getattr(self, "maximum", None)
        if maximum is not None:
            number(maximum, "maximum", above=0)
        activation = getattr(self, "activation", "elu")
        if activation not in ACTIVATIONS:
            raise ValueError(f"activation must be one of {sorted(ACTIVATIONS)}, got {activation!r}")

    @property
    def codes(self) -> int:
        """Number of outputs of the encoder."""
        return 2 * self.latent_dim if self.variational else self.latent_dim

    @property
    def image_channels(self) -> int:
        """Number of channels of an image, 1 where it has no such axis."""
        return 1 if len(self.image_shape) == 2 else self.image_shape[0]

    @property
    def image_size(self) -> tuple[int, int]:
        """Rows and columns of an image."""
        rows, columns = self.image_shape[-2:]
        return rows, columns

    def _check_halves(self, channels: tuple[int, ...]) -> None:
        """Check that as many convolutions of stride 2 as there are channels fit the image."""
        factor = 2 ** len(channels)
        if not channels or any(size % factor for size in self.image_size):
            raise ValueError(
                f"image_shape must be divisible by 2 ** len(channels) = {factor}, got {self.image_shape} "
                f"with channels {channels}"
            )

    def _with_channels(self) -> list[nn.Module]:
        """Return what gives images the axis of channels that convolutions need."""
        return [nn.Unflatten(1, (1, self.image_shape[0]))] if len(self.image_shape) == 2 else []

    def _as_image(self) -> list[nn.Module]:
        """Return what takes that axis away again."""
        return [nn.Flatten(1, 2)] if len(self.image_shape) == 2 else []

    def build(self) -> Autoencoder:
        """Return a model with random weights (from torch's global generator)."""
        raise NotImplementedError

    def as_critic(self) -> Self:
        """Return the configuration whose encoder is the critic of a GAN with this decoder."""
        return replace(self, latent_dim=1, variational=False)


def mlp(widths: tuple[int, ...], activation: str) -> list[nn.Module]:
    """Return dense layers through these widths with the activation between them."""
    layers: list[nn.Module] = []
    for i, (inputs, outputs) in enumerate(itertools.pairwise(widths)):
        layers += ([ACTIVATIONS[activation]()] if i else []) + [nn.Linear(inputs, outputs)]
    return layers


class _Saturation(nn.Module):
    """maximum * sigmoid(t), entry by entry."""

    def __init__(self, maximum: float) -> None:
        super().__init__()
        self.maximum = maximum

    def forward(self, t: Tensor) -> Tensor:
        return torch.sigmoid(t) * self.maximum

    def extra_repr(self) -> str:
        return f"maximum={self.maximum}"


def saturation(maximum: float | None) -> list[nn.Module]:
    """Return the last layer of a decoder whose values have a maximum, where one is given."""
    return [] if maximum is None else [_Saturation(maximum)]
