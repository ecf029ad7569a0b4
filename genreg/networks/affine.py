"""Models in other units."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor, nn

from genreg.operators.bridge.arguments import number


class Affine(nn.Module):
    r"""A model whose images are in other units, :math:`x = a + s\, x_{\mathrm{model}}`.

    Its mean is :math:`a + s\, G(z)`, its standard deviation s γ, and the factor of its precision L / s. It offers what
    the model offers, each in these units; what an attribute says of architecture and latent space is the model's.

    Parameters
    ----------
    model : torch.nn.Module
        The model.
    scale : float
        s > 0.
    offset : float
        a.

    Raises
    ------
    TypeError, ValueError
        If the scale is no positive number, or the offset no finite one.
    """

    def __init__(self, model: nn.Module, scale: float, offset: float) -> None:
        super().__init__()
        self.model = model
        self.scale, self.offset = number(scale, "scale", above=0), number(offset, "offset")

    def decode(self, z: Tensor) -> Tensor:
        """Return the mean images of latent vectors ``(B, latent_dim)``."""
        return self.offset + self.scale * getattr(self.model, "decode", self.model)(z)

    def forward(self, z: Tensor) -> Tensor:
        """Return the mean images, as a plain decoder does."""
        return self.decode(z)

    def at(self, image_shape: tuple[int, ...]) -> Self:
        """Return the model for images of another size, in the same units."""
        return type(self)(self.model.at(image_shape), self.scale, self.offset)  # type: ignore[operator]

    def to_model(self, x: Tensor) -> Tensor:
        """Return images in the units of the model."""
        return (x - self.offset) / self.scale

    def __getattr__(self, name: str) -> Any:
        """What the model has: in these units, or as it is. Where it has none, this has none either."""
        if name in _CONVERTED:
            return _CONVERTED[name](self, getattr(self.model, name))
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("model"), name)

    def extra_repr(self) -> str:
        """The two numbers."""
        return f"scale={self.scale}, offset={self.offset}"


def _of_images(units: Affine, method: Callable[[Tensor], Any]) -> Callable[[Tensor], Any]:
    """A method of images, such as ``encode``."""
    return lambda x: method(units.to_model(x))


def _factor(
    units: Affine, method: Callable[[Tensor], Any], of_images: bool = False
) -> Callable[[Tensor], Any]:
    """The entries of L / s: ``decode_factor``, a method of latent vectors, or ``factor_of``, one of mean images."""

    def entries(t: Tensor) -> tuple[Tensor, Tensor | None]:
        log_diag, weights = method(units.to_model(t) if of_images else t)
        return log_diag - math.log(units.scale), None if weights is None else weights / units.scale

    return entries


_CONVERTED: dict[str, Callable[[Affine, Any], Any]] = {
    "encode": _of_images,
    "encode_distribution": _of_images,
    "discriminate": _of_images,
    "decode_factor": _factor,
    "factor_of": functools.partial(_factor, of_images=True),
    "log_gamma": lambda units, value: torch.as_tensor(value) + math.log(units.scale),
}
