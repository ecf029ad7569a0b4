"""From the output of a network to a sparse Cholesky factor, and what the networks that have one share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import odl
import torch
from torch import Tensor

from genreg.networks.config import ACTIVATIONS
from genreg.operators import DiagonalPrecision, Precision, SparseCholeskyPrecision
from genreg.operators.precision.sparse_cholesky import soft_clip
from genreg.operators.precision.stencil import Stencil


def check_head(config: Any, *, padded: bool = False) -> None:
    """Check the settings of a network that predicts a factor; rows and columns of the image come last in its shape.

    A network that is not `padded` takes images only whose sides are divisible by 2 as often as it has channels.

    Raises
    ------
    ValueError
        If a number is out of range, or the image is not divisible as often as there are channels or smaller than
        the neighbourhood.
    """
    image_size, channels, bounds = config.image_shape, config.channels, config.bounds
    if not channels or min(channels) < 1:
        raise ValueError(f"channels must be positive integers, at least one, got {channels}")
    factor = 2 ** len(channels)
    if not padded and any(size % factor for size in image_size[-2:]):
        raise ValueError(f"image_shape must be divisible by 2 ** len(channels) = {factor}, got {image_size}")
    if not (len(bounds) == 2 and -math.inf < bounds[0] < bounds[1] < math.inf):
        raise ValueError(f"bounds must be two finite, increasing numbers, got {bounds}")
    if not 0 < config.limit < math.inf:
        raise ValueError(f"limit must be positive and finite, got {config.limit}")
    if config.activation not in ACTIVATIONS:
        raise ValueError(f"activation must be one of {sorted(ACTIVATIONS)}, got {config.activation!r}")
    reach = max(config.stencil.reach)
    if reach >= min(image_size[-2:]):
        raise ValueError(
            "distance and dilation must leave the neighbourhood smaller than the image, which is "
            f"{image_size}, got one that reaches {reach} pixels far"
        )


def space_of(images: Tensor) -> Any:
    """Return ``odl.rn`` of the shape, data type and device of images ``(B, *shape)``."""
    return odl.rn(
        tuple(images.shape[1:]),
        dtype=str(images.dtype).removeprefix("torch."),
        impl="numpy" if images.device.type == "cpu" else "pytorch",
        device=str(images.device),
    )


def precision_with(
    log_diag: Tensor,
    weights: Tensor | None,
    distance: int,
    dilation: int | Sequence[int],
    coupled: bool = False,
) -> Precision:
    """Return the batched precision with a factor of these entries, diagonal without weights."""
    space = space_of(log_diag)
    if weights is None:
        return DiagonalPrecision(space, 2 * log_diag)
    return SparseCholeskyPrecision(
        space, log_diag, weights, distance=distance, dilation=dilation, coupled=coupled
    )


def factor_entries(
    out: Tensor, stencil: Stencil, bounds: tuple[float, float], limit: float
) -> tuple[Tensor, Tensor | None]:
    """Return log-diagonal ``(B, C, n, m)`` and weights ``(B, K, n, m)`` of L, as `Structured` has them.

    Parameters
    ----------
    out
        The log-diagonal before clipping, then the coefficients before saturation, ``(B, C + K, n, m)``.
    stencil
        The K neighbours; weights are None without any.
    bounds, limit
        Bounds of the log-diagonal; bound of the coefficients.
    """
    channels = out.shape[1] - len(stencil)
    log_diag = soft_clip(out[:, :channels], bounds)
    if not stencil:
        return log_diag, None
    scale = log_diag.exp()
    if channels > 1:
        scale = scale[:, [term.column for term in stencil]]
    return log_diag, scale * limit * torch.tanh(out[:, channels:] / limit)
