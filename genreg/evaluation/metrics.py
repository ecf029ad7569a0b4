r"""How near images are to their references: one number for every image."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from genreg.operators.bridge.arguments import number
from genreg.operators.bridge.keywords import documented_like
from genreg.plotting import as_images

_WINDOW = 11  # of the structural similarity: 3.5 standard deviations of 1.5 pixels on either side


def psnr(images: Any, reference: Any, *, data_range: float) -> torch.Tensor:
    r"""Peak signal-to-noise ratio :math:`10 \log_{10}(R^2 / \mathrm{MSE})` of every image, in dB.

    Parameters
    ----------
    images, reference : ODL element, Tensor or array
        ``(n, m)`` or ``(B, n, m)``: :math:`\hat x` and x.
    data_range : float
        R, the range of grey values, for example 1 for images in [0, 1].

    Returns
    -------
    Tensor
        ``(B,)``, float64; infinite for equal images.

    Raises
    ------
    ValueError
        If the shapes differ or `data_range` is not positive.
    """
    from skimage.metrics import peak_signal_noise_ratio

    data_range = number(data_range, "data_range", above=0, maximum=1e100)
    pairs = _pairs(images, reference)
    with np.errstate(divide="ignore"):
        scores = [peak_signal_noise_ratio(true, image, data_range=data_range) for image, true in pairs]
    return torch.tensor(scores, dtype=torch.float64)


@documented_like(psnr)
def nrmse(images: Any, reference: Any) -> torch.Tensor:
    r"""Root mean squared error relative to the reference, :math:`\|\hat x - x\|_2 / \|x\|_2`, of every image.

    The normalisation is the Euclidean norm of the reference, so 0 is perfect and a black image scores 1.

    Returns
    -------
    Tensor
        ``(B,)``, float64.

    Raises
    ------
    ValueError
        If the shapes differ, or an image of the reference is zero everywhere.
    """
    from skimage.metrics import normalized_root_mse

    pairs = _pairs(images, reference)
    if any(not true.any() for _, true in pairs):
        raise ValueError(
            "reference must have no image that is zero everywhere, for NRMSE divides by its norm"
        )
    return torch.tensor(
        [normalized_root_mse(true, image, normalization="euclidean") for image, true in pairs],
        dtype=torch.float64,
    )


@documented_like(psnr)
def l1_error(images: Any, reference: Any) -> torch.Tensor:
    r"""Mean absolute error :math:`\|\hat x - x\|_1 / N` of every image, with N the number of pixels.

    Returns
    -------
    Tensor
        ``(B,)``, float64, in grey values.

    Raises
    ------
    ValueError
        If the shapes differ.
    """
    return torch.tensor(
        [np.abs(image - true).mean() for image, true in _pairs(images, reference)], dtype=torch.float64
    )


@documented_like(psnr)
def ssim(images: Any, reference: Any, *, data_range: float) -> torch.Tensor:
    """Structural similarity index of every image, with the Gaussian window of the original paper (σ = 1.5).

    Parameters
    ----------
    images, reference : ODL element, Tensor or array
        ``(n, m)`` or ``(B, n, m)``, at least 11 pixels a side.

    Returns
    -------
    Tensor
        ``(B,)``, float64, at most 1.

    Raises
    ------
    ValueError
        If the shapes differ or are too small, or `data_range` is not positive.

    References
    ----------
    Z. Wang, A. C. Bovik, H. R. Sheikh, E. P. Simoncelli (2004), Image quality assessment: from error
    visibility to structural similarity, doi:10.1109/TIP.2003.819861.
    """
    from skimage.metrics import structural_similarity

    settings = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    data_range = number(data_range, "data_range", above=0, maximum=1e100)
    pairs = _pairs(images, reference)
    if pairs and min(pairs[0][0].shape) < _WINDOW:
        raise ValueError(f"images must have at least {_WINDOW} pixels a side, got {pairs[0][0].shape}")
    return torch.tensor(
        [structural_similarity(true, image, data_range=data_range, **settings) for image, true in pairs],
        dtype=torch.float64,
    )


def _pairs(images: Any, reference: Any) -> list[tuple[np.ndarray, np.ndarray]]:
    """Image and reference, float64, of every sample."""
    images, reference = (
        as_images(images).astype(np.float64),
        as_images(reference, "reference").astype(np.float64),
    )
    if images.shape != reference.shape:
        raise ValueError(f"images must have the shape of reference, {reference.shape}, got {images.shape}")
    return list(zip(images, reference, strict=True))
