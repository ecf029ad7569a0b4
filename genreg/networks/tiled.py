r"""Large images by tiles: what a fully convolutional model makes, from memory that does not grow with the image.

What such a model makes of a place depends on what is at most a *reach* away. So an image may be decoded, encoded, and
its precision predicted, tile by tile: each from its part of the input and a margin of that reach, which is cut off
afterwards. The tiles together are the whole, up to rounding, and so is the gradient. Only one tile at a time needs
the memory of the network: for a gradient its values are not kept but made anew in the backward pass.

References
----------
A. Griewank, A. Walther (2000), Algorithm 799: Revolve: an implementation of checkpointing for the reverse or adjoint
mode of computational differentiation, doi:10.1145/347837.347846.

T. Chen, B. Xu, C. Zhang, C. Guestrin (2016), Training deep nets with sublinear memory cost, arXiv:1604.06174.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from genreg.networks.borrowed import evaluating
from genreg.operators.bridge.arguments import integer

_PROBES = (2, 4, 8, 16, 32)  # cells on either side of the one whose reach is measured


class _Span(NamedTuple):
    """Cells of a tile along one axis, and the same with its margins."""

    start: int
    stop: int
    low: int
    high: int


class _Layer(NamedTuple):
    """Images ``(B, ..., n, m)`` with one entry for every `stride` pixels along each side."""

    values: Tensor
    stride: int


class Tiled(nn.Module):
    r"""A fully convolutional model that decodes and encodes large images tile by tile.

    It offers what the model offers, with the same values up to rounding.

    Parameters
    ----------
    model : torch.nn.Module
        A model for images of any size: ``at(image_shape)`` makes that of a part, and ``levels`` are the images of which
        its latent vector consists, as those of `FullyConvolutionalConfig`.
    tile : int
        Side of a tile in pixels, without its margins; rounded up to a multiple of the side of a cell, the square of
        pixels that belongs to one entry of the coarsest latent image.

    Attributes
    ----------
    cell : int
        Side of a cell in pixels.
    reach : dict of str to int
        For "decode", "encode" and "factor" how many cells away a cell makes a difference: margins are as wide. It is
        measured, by what becomes NaN around a cell of NaN.

    Raises
    ------
    TypeError, ValueError
        If `tile` is no positive integer, the model is not for images of any size, or what it makes of a place depends
        on all of the image, as with attention or a normalisation over the image.
    """

    def __init__(self, model: nn.Module, tile: int) -> None:
        super().__init__()
        self.tile = integer(tile, "tile", minimum=1)
        if not (getattr(model, "any_size", False) and getattr(model, "levels", ())):
            raise ValueError(
                f"tile must be None for {type(model).__name__}, which does not decode images of any size from "
                "latent images"
            )
        self.model = model
        self.cell: int = math.lcm(*(level.stride for level in model.levels), getattr(model, "alignment", 1))  # type: ignore[union-attr, arg-type]
        self.reach = self._measured()

    def at(self, image_shape: tuple[int, ...]) -> Self:
        """Return the model for images of another size, by tiles of the same size."""
        other: Self = object.__new__(type(self))
        nn.Module.__init__(other)
        other.model = self.model.at(image_shape)  # type: ignore[operator]
        other.tile, other.cell, other.reach = self.tile, self.cell, self.reach
        return other

    def decode(self, z: Tensor) -> Tensor:
        """Return the mean images ``(B, *image_shape)`` of latent vectors ``(B, latent_dim)``."""
        return self._joined("decode", _decoded, _split(self.model, z))[0].values

    def forward(self, z: Tensor) -> Tensor:
        """Return the mean images, as a plain decoder does."""
        return self.decode(z)

    def __getattr__(self, name: str) -> Any:
        """What the model has: by tiles, or as it is. Where it has none, this has none either."""
        if name in _BY_TILES:
            getattr(self.model, name)
            return functools.partial(_BY_TILES[name], self)
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("model"), name)

    def _joined(
        self, kind: str, function: Callable[..., Sequence[_Layer]], layers: Sequence[_Layer]
    ) -> list[_Layer]:
        """What a function of a part of the model and its layers gives for all tiles, put together."""
        shape: tuple[int, ...] = self.model.image_shape  # type: ignore[assignment]
        rows, columns = (self._spans(side, self.reach[kind]) for side in shape[-2:])
        bands = []
        for row in rows:
            band = []
            for column in columns:
                sides = [
                    min(self.cell * span.high, side) - self.cell * span.low
                    for span, side in zip((row, column), shape[-2:], strict=True)
                ]
                part = self.model.at((*shape[:-2], *sides))  # type: ignore[operator]
                crops = [
                    _crop(layer, self.cell, row.low, row.high, column.low, column.high) for layer in layers
                ]
                found = _recomputed(functools.partial(function, part), crops)
                inner = (
                    row.start - row.low,
                    row.stop - row.low,
                    column.start - column.low,
                    column.stop - column.low,
                )
                band.append([_crop(layer, self.cell, *inner) for layer in found])
            bands.append([_cat(parts, -1) for parts in zip(*band, strict=True)])
        return [_cat(parts, -2) for parts in zip(*bands, strict=True)]

    def _spans(self, side: int, reach: int) -> list[_Span]:
        """The tiles along a side of the image."""
        cells, size = math.ceil(side / self.cell), math.ceil(self.tile / self.cell)
        ends = [(start, min(start + size, cells)) for start in range(0, cells, size)]
        return [_Span(a, b, max(a - reach, 0), min(b + reach, cells)) for a, b in ends]

    @torch.no_grad()
    def _measured(self) -> dict[str, int]:
        """The reach of every map of the model."""
        with evaluating(self.model):
            found = {
                "decode": self._reach(_decoded, lambda part: _split(part, _zeros(part, part.latent_dim)))
            }
            if hasattr(self.model, "encode"):
                found["encode"] = self._reach(_encoded, _black)
            if hasattr(self.model, "factor_of"):
                found["factor"] = self._reach(_factor, _black)
        return found

    def _reach(
        self, function: Callable[..., Sequence[_Layer]], zeros: Callable[[Any], Sequence[_Layer]]
    ) -> int:
        """How many cells away from a cell of NaN something is NaN; more than weights that are zero by chance show."""
        shape: tuple[int, ...] = self.model.image_shape  # type: ignore[assignment]
        for half in _PROBES:
            side = self.cell * (2 * half + 1)
            part = self.model.at((*shape[:-2], side, side))  # type: ignore[operator]
            layers = [_Layer(layer.values.clone(), layer.stride) for layer in zeros(part)]
            for layer in layers:
                _crop(layer, self.cell, half, half + 1, half, half + 1).values.fill_(torch.nan)
            reach = 0
            for layer in function(part, *layers):
                differs = layer.values.isnan().reshape(-1, *layer.values.shape[-2:]).any(0)
                at = differs.nonzero() // (self.cell // layer.stride)
                reach = max(reach, int((at - half).abs().max()))
            if reach < half:
                return reach
        raise ValueError(
            f"tile must be None for {type(self.model).__name__}: what it makes of a place depends on more than "
            f"{self.cell * _PROBES[-1]} pixels around it"
        )

    def extra_repr(self) -> str:
        """The tiles."""
        return f"tile={self.tile}, cell={self.cell}, reach={self.reach}"


def _crop(layer: _Layer, cell: int, top: int, bottom: int, left: int, right: int) -> _Layer:
    """Some cells of a layer, as a view."""
    k = cell // layer.stride
    return layer._replace(values=layer.values[..., k * top : k * bottom, k * left : k * right])


def _cat(layers: Sequence[_Layer], dim: int) -> _Layer:
    return _Layer(torch.cat([layer.values for layer in layers], dim), layers[0].stride)


def _recomputed(function: Callable[..., Sequence[_Layer]], layers: Sequence[_Layer]) -> Sequence[_Layer]:
    """What a function gives; where a gradient is wanted, without keeping what it takes."""
    tensors, strides = [layer.values for layer in layers], [layer.stride for layer in layers]
    plain = not any(torch._C._functorch.is_functorch_wrapped_tensor(t) for t in tensors)
    if plain and torch.is_grad_enabled() and any(t.requires_grad for t in tensors):

        def run(*values: Tensor) -> Sequence[_Layer]:
            return function(*map(_Layer, values, strides))

        return checkpoint(run, *tensors, use_reentrant=False, preserve_rng_state=False)
    return function(*layers)


# The maps of a part of the model, from layers to layers.


def _decoded(part: Any, *layers: _Layer) -> list[_Layer]:
    z = torch.cat([layer.values.flatten(1) for layer in layers], 1)
    return [_Layer(part.decode(z), 1)]


def _encoded(part: Any, image: _Layer) -> list[_Layer]:
    return _split(part, part.encode(image.values))


def _distribution(part: Any, image: _Layer) -> list[_Layer]:
    return [layer for codes in part.encode_distribution(image.values) for layer in _split(part, codes)]


def _factor(part: Any, mean: _Layer) -> list[_Layer]:
    return [_Layer(t, 1) for t in part.factor_of(mean.values) if t is not None]


def _split(part: Any, z: Tensor) -> list[_Layer]:
    """The latent images of latent vectors."""
    shapes = [(level.channels, level.rows, level.columns) for level in part.levels]
    parts = z.split([math.prod(shape) for shape in shapes], 1)
    return [
        _Layer(t.unflatten(1, shape), level.stride)
        for t, shape, level in zip(parts, shapes, part.levels, strict=True)
    ]


def _zeros(part: Any, *shape: int) -> Tensor:
    like = next(part.parameters())
    return torch.zeros((1, *shape), dtype=like.dtype, device=like.device)


def _black(part: Any) -> list[_Layer]:
    return [_Layer(_zeros(part, *part.image_shape), 1)]


def _vector(layers: Sequence[_Layer]) -> Tensor:
    return torch.cat([layer.values.flatten(1) for layer in layers], 1)


# The methods of the model that are there by tiles if it has them.


def _encode(tiled: Tiled, x: Tensor) -> Tensor:
    return _vector(tiled._joined("encode", _encoded, [_Layer(x, 1)]))


def _encode_distribution(tiled: Tiled, x: Tensor) -> tuple[Tensor, Tensor]:
    layers = tiled._joined("encode", _distribution, [_Layer(x, 1)])
    count = len(layers) // 2
    return _vector(layers[:count]), _vector(layers[count:])


def _factor_of(tiled: Tiled, mean: Tensor) -> tuple[Tensor, Tensor | None]:
    layers = tiled._joined("factor", _factor, [_Layer(mean, 1)])
    return layers[0].values, layers[1].values if len(layers) > 1 else None


def _decode_factor(tiled: Tiled, z: Tensor) -> tuple[Tensor, Tensor | None]:
    return _factor_of(tiled, tiled.decode(z))


_BY_TILES: dict[str, Callable[..., Any]] = {
    "encode": _encode,
    "encode_distribution": _encode_distribution,
    "factor_of": _factor_of,
    "decode_factor": _decode_factor,
}
