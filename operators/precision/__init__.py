"""Precisions of Gaussians: isotropic, diagonal, dense, sparse Cholesky; conditional distributions, variances."""

from genreg.operators.precision.base import Precision
from genreg.operators.precision.complex_images import ComplexPrecision
from genreg.operators.precision.conditioning import Conditional, condition
from genreg.operators.precision.covariance import (
    Estimate,
    correlation_image,
    covariance_column,
    marginal_variance,
)
from genreg.operators.precision.dense import DenseCholeskyPrecision
from genreg.operators.precision.diagonal import DiagonalPrecision, IsotropicPrecision
from genreg.operators.precision.gaussian_posterior import GaussianPosterior
from genreg.operators.precision.sparse_cholesky import SparseCholeskyPrecision, neighbourhood, soft_clip

__all__ = [
    "ComplexPrecision",
    "Conditional",
    "DenseCholeskyPrecision",
    "DiagonalPrecision",
    "Estimate",
    "GaussianPosterior",
    "IsotropicPrecision",
    "Precision",
    "SparseCholeskyPrecision",
    "condition",
    "correlation_image",
    "covariance_column",
    "marginal_variance",
    "neighbourhood",
    "soft_clip",
]
