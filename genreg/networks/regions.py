"""An architecture for images of a few flat regions."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from genreg.networks.autoencoder import Autoencoder
from genreg.networks.config import Config, mlp
from genreg.operators.bridge.arguments import integer


class _Union(nn.Module):
    """Map the entries of the factors ``(B, regions * rank * (n + m))`` to images ``(B, n, m)``."""

    def __init__(self, image_shape: tuple[int, ...], regions: int, rank: int, maximum: float) -> None:
        super().__init__()
        self.image_shape = image_shape
        self.regions = regions
        self.rank = rank
        self.maximum = maximum

    def forward(self, t: Tensor) -> Tensor:
        factors = t.unflatten(1, (self.regions, self.rank, sum(self.image_shape)))
        rows, columns = factors.split(self.image_shape, dim=3)
        outside = torch.sigmoid(-(rows.transpose(2, 3) @ columns))  # (B, regions, n, m)
        everywhere = outside[:, 0]
        for k in range(1, self.regions):  # the gradient of Tensor.prod is several times slower
            everywhere = everywhere * outside[:, k]
        return self.maximum * (1.0 - everywhere)


@dataclass(frozen=True, kw_only=True)
class RegionsConfig(Config):
    r"""A decoder of unions of regions whose log-odds have a low rank, and a fully connected encoder.

    The decoder is

        G(z) = c (1 - prod_k (1 - sigmoid(A_k(z) B_k(z)'))),    A_k(z) (n, rank),  B_k(z) (m, rank),

    where a fully connected network gives the entries of all A_k and B_k. The log-odds of an axis-parallel
    rectangle, a disc or an ellipse are, near enough, a function of the row plus one of the column, which rank
    2 represents: sharp edges take few weights and little time, and G is smooth in z.

    Parameters
    ----------
    image_shape, latent_dim, variational
        See `Autoencoder`.
    encoder, decoder
        Widths of the hidden layers, from the input to the output.
    regions
        Number of regions k.
    rank
        Rank of their log-odds.
    activation
        Name of the activation.
    maximum
        Value c inside the regions.
    """

    name: ClassVar[str] = "regions"

    encoder: tuple[int, ...] = (256, 256)
    decoder: tuple[int, ...] = (256, 256)
    regions: int = 2
    rank: int = 4
    activation: str = "silu"
    maximum: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("regions", "rank"):
            object.__setattr__(self, name, integer(getattr(self, name), name, minimum=1))

    def build(self) -> Autoencoder:
        """Return a model with random weights."""
        pixels, factors = math.prod(self.image_shape), self.regions * self.rank * sum(self.image_shape)
        encoder = nn.Sequential(nn.Flatten(), *mlp((pixels, *self.encoder, self.codes), self.activation))
        decoder = nn.Sequential(
            *mlp((self.latent_dim, *self.decoder, factors), self.activation),
            _Union(self.image_shape, self.regions, self.rank, self.maximum),
        )
        return Autoencoder(encoder, decoder, self)
