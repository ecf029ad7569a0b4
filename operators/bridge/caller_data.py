"""Conversion between the caller's data (ODL elements, tensors, arrays) and the batches of tensors that solvers use."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import odl
import torch
from torch import Tensor

from genreg.operators.bridge.arguments import described
from genreg.operators.bridge.arrays import array, check_finite, fitting
from genreg.operators.bridge.protocols import Space
from genreg.operators.bridge.spaces import check_tensor, to_element, torch_dtype

Kind = Literal["element", "tensor", "array"]
"""The kind of data that a caller uses: ODL elements, tensors of torch, or arrays of NumPy and what makes one."""


def is_element(x: Any) -> bool:
    """Whether `x` is an element of an ODL space."""
    return isinstance(x, odl.core.set.space.LinearSpaceElement)


def kind_of(x: Any) -> Kind:
    """The kind of data that `x` is."""
    return "element" if is_element(x) else "tensor" if isinstance(x, Tensor) else "array"


def as_kind(kind: Kind, space: Space, value: Tensor) -> Any:
    """Convert a result in `space`, with or without a batch axis (elements have none), to a kind of data."""
    if kind == "element":
        return to_element(space, value)
    return value if kind == "tensor" else value.numpy(force=True)


@dataclass(frozen=True)
class Batch:
    """Blocks as a batch of tensors, and the conversion of results to the kind of the caller's data.

    Attributes
    ----------
    blocks : dict of str to Tensor
        ``(B, *shape)``; B = 1 for a single sample.
    as_given : callable
        Converts such a dict to ODL elements, tensors or arrays like those of the caller, with or without a batch axis.
    batched : bool
        Whether the caller's data have a batch axis.
    kind : str
        The kind of the caller's data, see `Kind`.
    """

    blocks: dict[str, Tensor]
    as_given: Callable[[Mapping[str, Tensor]], dict[str, Any]]
    batched: bool
    kind: Kind = "tensor"

    def per_sample(self, value: Tensor, axis: int = 0) -> Tensor:
        """Return a per-sample result, without its batch axis if the caller's data have none."""
        return value if self.batched else value.squeeze(axis)


def to_batch(init: Any, spaces: Mapping[str, Any], argument: str = "init") -> Batch:
    """Convert the caller's blocks to tensors with a batch axis.

    Parameters
    ----------
    init : dict, or ODL element, Tensor or array for a single block
        A tensor or an array (or nested lists) may have one leading batch axis, the same for all blocks.
    spaces : dict of str to ODL space
        The space of every block.
    argument : str
        Name of the argument in error messages.

    Raises
    ------
    TypeError
        If a block is neither an ODL element nor an array of numbers, or the blocks are of different kinds.
    ValueError
        If the names, shapes, dtypes, devices or batch sizes do not fit, there is no sample, or a value is not finite
        in the type of its space.
    """
    if not isinstance(init, Mapping):
        init = dict.fromkeys(spaces, init) if len(spaces) == 1 else {}
    if set(init) != set(spaces):
        raise ValueError(
            f"{argument} must be a dict with the blocks {list(spaces)}, got {list(init) or type(init).__name__}"
        )
    kinds = {kind_of(init[name]) for name in spaces}
    if len(kinds) > 1:
        raise TypeError(f"{argument} must hold ODL elements, tensors or arrays, got several: {sorted(kinds)}")
    (kind,) = kinds

    blocks, shapes = {}, set()
    for name, space in spaces.items():
        label = f"{argument}[{name!r}]" if len(spaces) > 1 else argument
        value, batch = _checked(init[name], space, label)
        shapes.add(batch)
        blocks[name] = value if batch else value[None]
    if len(shapes) > 1:
        raise ValueError(f"{argument} must have the same batch size in all blocks, got {sorted(shapes)}")
    batched = bool(shapes.pop())

    def as_given(result: Mapping[str, Tensor]) -> dict[str, Any]:
        out = {name: value if batched else value[0] for name, value in result.items()}
        return {name: as_kind(kind, spaces[name], value) for name, value in out.items()}

    return Batch(blocks, as_given, batched, kind)


def _checked(value: Any, space: Any, label: str) -> tuple[Tensor, tuple[int, ...]]:
    """Return a block as a tensor of the type of its space, and its batch axes."""
    if is_element(value) and value not in space:
        raise ValueError(f"{label} must be an element of {space!r}, got one of {value.space!r}")
    tensor, dtype = array(value, label), torch_dtype(space)
    if not dtype.is_complex and not (tensor.is_complex() or tensor.is_floating_point()):
        tensor = tensor.to(dtype)  # integers are accepted as real numbers
    batch = check_tensor(tensor, space, label)
    shape = tuple(tensor.shape)
    if len(batch) > 1:
        raise ValueError(
            f"{label} must have at most one batch axis before {tuple(space.shape)}, got shape {shape}"
        )
    if not tensor.numel():
        raise ValueError(f"{label} must hold at least one sample, got shape {shape}")
    check_finite(tensor, label, samples=0 if batch else None)
    return fitting(tensor, label, dtype), batch


def finite_or_zero(starts: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Replace the starting points ``(B, *shape)`` of every sample that has one that is not finite by zero.

    A starting point made from the data, by least squares or an encoder, may overflow. The status of that sample reports
    it later; the other samples are solved as usual.
    """
    finite = torch.stack([torch.isfinite(v).flatten(1).all(1) for v in starts.values()]).all(0)
    if bool(finite.all()):
        return dict(starts)
    return {name: torch.where(finite.view(-1, *(1,) * (v.ndim - 1)), v, 0) for name, v in starts.items()}


def per_sample_number(value: Any, name: str, data: Tensor, *, zero: bool = False) -> Tensor:
    """Return a positive number (or, with `zero`, a non-negative one) for every sample of `data`, ``(B,)``.

    Raises
    ------
    TypeError, ValueError
        If it is no number, has another shape, or has the wrong sign or is not finite.
    """
    given = array(value, name, complex=False, wanted="a number or a tensor (B,)")
    if given.ndim > 1 or (given.ndim == 1 and len(given) != len(data)):
        raise ValueError(
            f"{name} must be a number or have the shape ({len(data)},), got {tuple(given.shape)}"
        )
    enough = given >= 0 if zero else given > 0
    if not bool((enough & torch.isfinite(given)).all()):
        sign = "non-negative" if zero else "positive"
        raise ValueError(f"{name} must be {sign} and finite, got {described(value)}")
    tensor = fitting(given.to(data.device), name, data.real.dtype)
    if not zero and not bool((tensor > 0).all()):
        raise ValueError(f"{name} must fit into {tensor.dtype}, got {described(value)}")
    return tensor.expand(len(data))
