"""A Gaussian of images as a model for `genreg.Generator`."""

from __future__ import annotations

from torch import Tensor, nn

from genreg.operators import DenseCholeskyPrecision


class ConstantImage(nn.Module):
    """A model with one image, whatever the latent vector, which has one entry that says nothing.

    Parameters
    ----------
    mean : Tensor
        The image, ``(*shape)``.
    """

    mean: Tensor
    latent_dim = 1

    def __init__(self, mean: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean)

    def decode(self, z: Tensor) -> Tensor:
        """Return the image for every latent vector ``(B, 1)``, with the derivative zero."""
        return self.mean + (0.0 * z).reshape(-1, *(1,) * self.mean.ndim)


class GaussianImage(nn.Module):
    r"""The linear model :math:`x = m + L^{-T} z`, :math:`z \sim N(0, I)`, whose images have the law N(m, Λ⁻¹).

    Parameters
    ----------
    mean : Tensor
        m, ``(*shape)``.
    precision : DenseCholeskyPrecision
        Λ = L Lᵀ, not batched.
    """

    mean: Tensor

    def __init__(self, mean: Tensor, precision: DenseCholeskyPrecision) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.precision = precision
        self.latent_dim = mean.numel()

    def decode(self, z: Tensor) -> Tensor:
        """Return the images ``(B, *shape)`` of latent vectors ``(B, p)``."""
        return self.mean + self.precision.colour(z.reshape(-1, *self.mean.shape))

    def encode(self, x: Tensor) -> Tensor:
        """Return the latent vectors of images."""
        return self.precision.whiten(x - self.mean).flatten(1)
