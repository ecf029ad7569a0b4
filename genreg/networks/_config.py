"""What the configurations of architectures share, and the layers they are made of."""

import itertools
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from genreg.networks._autoencoder import Autoencoder

__all__ = ["ACTIVATIONS", "Config", "mlp", "saturation"]

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "elu": nn.ELU,
    "silu": nn.SiLU,
    "softplus": nn.Softplus,
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
}


@dataclass(frozen=True, kw_only=True)
class Config:
    name: ClassVar[str]

    image_shape: tuple[int, int]
    latent_dim: int
    variational: bool = True

    def __post_init__(self) -> None:
        for field in fields(self):  # JSON has no tuples
            value = getattr(self, field.name)
            if isinstance(value, list):
                object.__setattr__(self, field.name, tuple(value))
        if len(self.image_shape) != 2 or min(self.image_shape) < 1:
            raise ValueError(f"image_shape must be two positive integers, got {self.image_shape}")
        if self.latent_dim < 1:
            raise ValueError(f"latent_dim must be positive, got {self.latent_dim}")
        maximum = getattr(self, "maximum", None)
        if maximum is not None and not maximum > 0:
            raise ValueError(f"maximum must be positive or None, got {maximum}")
        activation = getattr(self, "activation", "elu")
        if activation not in ACTIVATIONS:
            raise ValueError(f"activation must be one of {sorted(ACTIVATIONS)}, got {activation!r}")

    @property
    def codes(self) -> int:
        """Number of outputs of the encoder."""
        return 2 * self.latent_dim if self.variational else self.latent_dim

    def build(self) -> Autoencoder:
        """Return a model with random weights (from torch's global generator)."""
        raise NotImplementedError

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON-able dictionary that `build` takes."""
        return {"name": self.name} | {
            key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()
        }


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
    return [] if maximum is None else [_Saturation(maximum)]
