"""The Gaussian of images that a model predicts, given z: what it makes of its outputs on an ODL space."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from genreg.operators import (
    ComplexPrecision,
    DiagonalPrecision,
    Precision,
    SparseCholeskyPrecision,
    torch_device,
    torch_dtype,
)
from genreg.operators.bridge.protocols import StackedSpace
from genreg.operators.precision.complex_images import channel_space


@dataclass(frozen=True)
class Decoded:
    r"""What a generator says about an image, given z: :math:`x \sim N(\mathrm{mean}, \Lambda^{-1})`.

    Attributes
    ----------
    mean : Tensor
        G(z), ``(B, *shape)``.
    make_precision : callable
        Makes `precision`, without arguments.
    """

    mean: Tensor
    make_precision: Callable[[], Precision | None]

    @functools.cached_property
    def precision(self) -> Precision | None:
        r""":math:`\Lambda` of every image, as the model has learned it, or None; made when it is first asked for.

        An `IsotropicPrecision` of one standard deviation γ for all pixels, or, of structured models, a
        `DiagonalPrecision` or a `SparseCholeskyPrecision` that depends on z.
        """
        return self.make_precision()


def real_space(space: StackedSpace) -> StackedSpace:
    """The space of the images as the model makes them: of two channels, where they are complex."""
    return channel_space(space) if torch_dtype(space).is_complex else space


def factor_like(model: nn.Module, space: StackedSpace) -> Precision | None:
    """A precision of the kind that a structured model predicts, to be given its parameters; None of others."""
    if not hasattr(model, "decode_factor"):
        return None
    if torch_dtype(space).is_complex:
        channels = factor_like(model, channel_space(space))
        assert channels is not None
        return ComplexPrecision(space, channels)
    with torch.no_grad():
        z = torch.zeros(1, model.latent_dim, dtype=torch_dtype(space), device=torch_device(space))  # type: ignore[call-overload]
        log_diag, weights = model.decode_factor(z)  # type: ignore[operator]
    log_diag = log_diag.reshape(1, *space.shape)
    if weights is None:
        return DiagonalPrecision(space, 2 * log_diag)
    config: Any = model.config
    return SparseCholeskyPrecision(
        space,
        log_diag,
        weights,
        distance=config.distance,
        dilation=config.dilation,
        coupled=getattr(config, "coupled", False),
    )
