"""Networks that map an image to a Gaussian distribution of images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor, nn

from genreg.networks.config import ACTIVATIONS, CardEntry
from genreg.networks.factor import check_head, factor_entries, precision_with
from genreg.networks.links import Identity, Link
from genreg.networks.structured import _Head
from genreg.operators import Precision
from genreg.operators.precision.stencil import Stencil


class GaussianRegressor(nn.Module):
    r"""A network x -> (mean, L) with g(y) | x ~ N(mean(x), (L(x) L(x)')^-1), for images y of the shape of x.

    The link g acts pixel by pixel and makes bounded images fit for a Gaussian. Column p of L is that of
    `genreg.networks.Structured`: exp(l_p) on the diagonal, and exp(l_p) a_k(p) for the neighbours p + k.

    Parameters
    ----------
    network
        Module that maps ``(B, 1, n, m)`` to ``(B, 2 + K, n, m)``: the mean, l before clipping, a before saturation.
    config
        The architecture.
    """

    def __init__(self, network: nn.Module, config: GaussianRegressorConfig) -> None:
        super().__init__()
        self.network = network
        self.config = config
        self._stencil = config.stencil

    @property
    def image_shape(self) -> tuple[int, int]:
        """Rows and columns of an image."""
        return self.config.image_shape

    @property
    def link(self) -> Link:
        """The link g."""
        return self.config.link

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return mean ``(B, n, m)``, log-diagonal ``(B, n, m)`` and weights ``(B, K, n, m)`` or None, from images."""
        out = self.network(x.unsqueeze(1)).to(x.dtype)
        log_diag, weights = factor_entries(out[:, 1:], self._stencil, self.config.bounds, self.config.limit)
        return out[:, 0], log_diag.squeeze(1), weights

    def predict(self, x: Tensor) -> tuple[Tensor, Precision]:
        """Return the distribution of g(y), differentiable.

        Parameters
        ----------
        x
            Images ``(B, n, m)``.

        Returns
        -------
        mean : Tensor
            Its mean, ``(B, n, m)``; ``link.inverse(mean)`` is the median of the pixels of y.
        precision : Precision
            Batched; diagonal for distance 0. ``mean + precision.sample(k)`` are draws ``(k, B, n, m)`` of g(y).

        Raises
        ------
        ValueError
            If the images have another shape.
        """
        if tuple(x.shape[1:]) != self.image_shape or x.ndim != 3:
            rows, columns = self.image_shape
            raise ValueError(f"x must have the shape (B, {rows}, {columns}), got {tuple(x.shape)}")
        mean, log_diag, weights = self(x)
        return mean, precision_with(log_diag, weights, self.config.distance, self.config.dilation)


@dataclass(frozen=True, kw_only=True)
class GaussianRegressorConfig(CardEntry):
    """A small U-Net from images to the mean and the Cholesky factor of the precision of images of the same shape.

    Parameters
    ----------
    image_shape
        Rows and columns.
    channels
        Channels at 1/2, 1/4, ... of the resolution, by whose powers of 2 the image must be divisible.
    distance
        d: a pixel is joined to those at most d rows and d columns away. 0 gives a diagonal precision.
    dilation
        Factor of the offsets, or several factors whose neighbourhoods are joined.
    bounds
        Bounds of the log-diagonal, to which it is softly clipped.
    limit
        Bound on the size of the coefficients a.
    activation
        Name of the activation.
    link
        The link g, or its dictionary.

    Raises
    ------
    ValueError
        If a number is out of range, or the image is not divisible as often as there are channels or smaller than the
        neighbourhood.
    TypeError
        If `link` is none.

    References
    ----------
    I. J. A. Simpson, S. Vicente, N. D. F. Campbell (2022), Learning structured Gaussians to approximate deep ensembles,
    CVPR, arXiv:2203.15485.
    """

    name: ClassVar[str] = "gaussian-regressor"

    image_shape: tuple[int, int]
    channels: tuple[int, ...] = (16, 32, 48)
    distance: int = 2
    dilation: int | tuple[int, ...] = 1
    bounds: tuple[float, float] = (-5.0, 5.0)
    limit: float = 2.0
    activation: str = "silu"
    link: Link = field(default_factory=Identity)

    def __post_init__(self) -> None:
        if isinstance(self.link, Mapping):  # from the JSON of a card
            object.__setattr__(self, "link", Link.from_dict(self.link))
        if not isinstance(self.link, Link):
            raise TypeError(f"link must be a genreg.links.Link, got {type(self.link).__name__}")
        self._with_tuples()
        if len(self.image_shape) != 2 or min(self.image_shape) < 1:
            raise ValueError(f"image_shape must be two positive integers, got {self.image_shape}")
        check_head(self)

    @property
    def stencil(self) -> Stencil:
        """The neighbours of a pixel that have an entry in its column of L."""
        return Stencil.of(1, self.distance, self.dilation) if self.distance else Stencil()

    def build(self) -> GaussianRegressor:
        """Return a network with random weights, from torch's global generator; it starts with mean 0, precision 1."""
        network = _Head(1, 2 + len(self.stencil), self.channels, ACTIVATIONS[self.activation])
        return GaussianRegressor(network, self)
