r"""Normalising flows: bijections between images and latent vectors, trained by maximum likelihood."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from genreg.networks.config import CardEntry
from genreg.operators.bridge.arguments import choice, integer, integers

WHITENINGS = ("full", "pixel")


class Flow(nn.Module):
    r"""A bijection of images x and latent vectors z: an affine whitening, then a learned transform.

    .. math:: z = T(L^{-1} (x - m)), \qquad
        \log p(x) = -\tfrac12 \|z\|^2 - \tfrac{d}{2} \log 2\pi + \log |\det \partial z / \partial x|

    It has what a generator has (`decode`, `encode`, `latent_dim`), so ``genreg.Generator(flow, X)`` is an ODL
    operator.

    Parameters
    ----------
    transform : torch.nn.Module
        Called without arguments it gives T on vectors ``(B, d)``, with the methods ``call_and_ladj(u)``,
        which returns T(u) and the logarithm of its Jacobian determinant, and ``inv(z)``: a lazy transform of
        zuko.
    config : FlowConfig
        The architecture.
    """

    mean: Tensor
    factor: Tensor

    def __init__(self, transform: nn.Module, config: FlowConfig) -> None:
        super().__init__()
        d = config.latent_dim
        self.transform = transform
        self.config = config
        self.card: dict[str, Any] = {}
        self.register_buffer("mean", torch.zeros(d))
        self.register_buffer("factor", torch.eye(d) if config.whitening == "full" else torch.ones(d))

    @property
    def image_shape(self) -> tuple[int, int]:
        """Rows and columns of an image."""
        return self.config.image_shape

    @property
    def latent_dim(self) -> int:
        """Dimension d of the latent space: the number of pixels."""
        return self.config.latent_dim

    @torch.no_grad()
    def whiten(self, images: Tensor, variance: float) -> None:
        """Set m and L by the mean and the covariance of images, ``(N, n, m)``, with noise of this variance.

        Raises
        ------
        ValueError
            If the covariance has no Cholesky factor L, or a pixel no variance.
        """
        x = images.flatten(1).double()
        x = x - x.mean(0)
        self.mean.copy_(images.flatten(1).mean(0))
        if self.config.whitening == "pixel":
            factor, failed = (x.square().mean(0) + variance).sqrt(), False
        else:
            covariance = x.T @ x / len(x) + variance * torch.eye(x.shape[1]).to(x)
            factor, info = torch.linalg.cholesky_ex(covariance)
            failed = bool(info > 0)
        smallest = (factor if factor.ndim == 1 else factor.diagonal()).min()
        if failed or not smallest > 1e-6 * x.square().mean().sqrt():
            raise ValueError(
                f"images must vary in every direction, which {len(x)} images of {x.shape[1]} pixels do not: give a "
                f"larger dequantise, more images or whitening='pixel'"
            )
        self.factor.copy_(factor)

    def to_latent(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the latent vectors of images, and the logarithm of the Jacobian determinant.

        Parameters
        ----------
        x : Tensor
            Images ``(B, n, m)``.

        Returns
        -------
        z : Tensor
            ``(B, d)``.
        log_abs_det : Tensor
            Of ∂z/∂x, ``(B,)``.

        Raises
        ------
        ValueError
            If the images have another shape.
        """
        if tuple(x.shape[1:]) != self.image_shape:
            raise ValueError(f"x must have the shape (B, *{self.image_shape}), got {tuple(x.shape)}")
        centred = x.flatten(1) - self.mean
        if self.factor.ndim == 1:
            u, diagonal = centred / self.factor, self.factor
        else:
            u = torch.linalg.solve_triangular(self.factor, centred.T, upper=False).T
            diagonal = self.factor.diagonal()
        z, log_abs_det = self.transform().call_and_ladj(u)
        return z, log_abs_det - diagonal.log().sum()

    def to_image(self, z: Tensor) -> Tensor:
        """Return the images ``(B, n, m)`` of latent vectors ``(B, d)``."""
        u = self.transform().inv(z)
        x = u * self.factor if self.factor.ndim == 1 else u @ self.factor.T
        return (x + self.mean).unflatten(1, self.image_shape)

    def log_prob(self, x: Tensor) -> Tensor:
        """Return the log-density of images ``(B, n, m)``, in nats, ``(B,)``."""
        z, log_abs_det = self.to_latent(x)
        return log_abs_det - 0.5 * z.square().sum(1) - 0.5 * self.latent_dim * math.log(2 * math.pi)

    def decode(self, z: Tensor) -> Tensor:
        """Return `to_image`."""
        return self.to_image(z)

    def encode(self, x: Tensor) -> Tensor:
        """Return the latent vectors of `to_latent`."""
        return self.to_latent(x)[0]

    def forward(self, x: Tensor) -> Tensor:
        """Return `log_prob`."""
        return self.log_prob(x)


@dataclass(frozen=True, kw_only=True)
class FlowConfig(CardEntry):
    r"""A neural spline flow of coupling layers, after a whitening of the images (Durkan et al.).

    A layer transforms one half of the components by monotone rational-quadratic splines on [-5, 5], the
    identity outside, whose knots a dense network computes from the other half; the halves are drawn at
    random. The splines are those of the library zuko. New layers are the identity.

    Parameters
    ----------
    image_shape
        Rows and columns of the images, in all at least two pixels.
    transforms
        Number of layers.
    hidden
        Widths of the hidden layers of every network.
    bins
        Pieces of a spline.
    whitening
        ``"full"`` by the Cholesky factor of the covariance, a matrix of d × d numbers for d pixels, or
        ``"pixel"`` by a standard deviation for every pixel.

    Raises
    ------
    ValueError
        If a number is out of range.

    References
    ----------
    C. Durkan, A. Bekasov, I. Murray, G. Papamakarios (2019), Neural spline flows, arXiv:1906.04032.
    """

    name: ClassVar[str] = "flow"

    image_shape: tuple[int, int]
    transforms: int = 3
    hidden: tuple[int, ...] = (128, 128)
    bins: int = 8
    whitening: str = "full"

    def __post_init__(self) -> None:
        for field in ("image_shape", "hidden"):  # JSON has no tuples
            object.__setattr__(self, field, tuple(getattr(self, field)))
        if len(self.image_shape) != 2 or min(self.image_shape) < 1 or self.latent_dim < 2:
            raise ValueError(f"image_shape must be two positive integers, not both 1, got {self.image_shape}")
        integer(self.transforms, "transforms", minimum=1), integer(self.bins, "bins", minimum=2)
        integers(self.hidden, "hidden", minimum=1)
        choice(self.whitening, "whitening", WHITENINGS)

    @property
    def latent_dim(self) -> int:
        """Number of pixels."""
        return math.prod(self.image_shape)

    def build(self) -> Flow:
        """Return a flow whose networks are random, apart from last layers of zeros.

        Raises
        ------
        ImportError
            If zuko is missing.
        """
        try:
            from zuko.flows import NSF
        except ImportError as error:
            raise ImportError(
                "a normalising flow needs zuko (the extra genreg[flow]), which is not installed"
            ) from error
        with torch.device("cpu"):  # zuko computes the masks of its layers from values
            transform = NSF(
                self.latent_dim,
                transforms=self.transforms,
                hidden_features=self.hidden,
                bins=self.bins,
                passes=2,
                randperm=True,
                activation=nn.SiLU,
            ).transform
        for layer in transform.transforms:
            nn.init.zeros_(layer.hyper[-1].weight)
            nn.init.zeros_(layer.hyper[-1].bias)
        return Flow(transform, self)
