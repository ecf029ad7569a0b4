"""The door between the caller's data and the batched solvers: ODL elements or tensors in, the same kind out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import odl
import torch
from torch import Tensor

from genreg.operators import check_tensor, to_element, to_tensor, torch_dtype
from genreg.operators.modes import normal

__all__ = ["Door", "enter", "is_element", "per_sample_number"]


def is_element(x: Any) -> bool:
    """Whether `x` is an element of an ODL space."""
    return isinstance(x, odl.core.set.space.LinearSpaceElement)


@dataclass(frozen=True)
class Door:
    """Blocks as a batch of tensors, and how to give results back.

    Attributes
    ----------
    blocks : dict of str to Tensor
        ``(B, *shape)``; a single sample came in as B = 1.
    leave : callable
        Turns such a dict into what the caller uses: ODL elements, tensors with or without a batch axis.
    batched : bool
        Whether the caller's data have a batch axis.
    """

    blocks: dict[str, Tensor]
    leave: Callable[[Mapping[str, Tensor]], dict[str, Any]]
    batched: bool

    def per_sample(self, value: Tensor, axis: int = 0) -> Tensor:
        """A per-sample result, without its batch axis for a single sample."""
        return value if self.batched else value.squeeze(axis)


def enter(init: Any, spaces: Mapping[str, Any], argument: str = "init") -> Door:
    """Take initial blocks in.

    Parameters
    ----------
    init : dict, or ODL element or Tensor for a single block
        A tensor may have one leading batch axis, the same for all blocks.
    spaces : dict of str to ODL space
        The space of every block.
    argument : str
        Name of the argument in error messages.

    Raises
    ------
    TypeError
        If a block is neither an ODL element nor a tensor, or the blocks mix the two.
    ValueError
        If the names, shapes, dtypes, devices or batch sizes do not fit, or a value is not finite.
    """
    if not isinstance(init, Mapping):
        init = dict.fromkeys(spaces, init) if len(spaces) == 1 else {}
    if set(init) != set(spaces):
        raise ValueError(
            f"{argument} must be a dict with the blocks {list(spaces)}, got {list(init) or type(init).__name__}"
        )
    elements = [is_element(init[name]) for name in spaces]
    if any(elements) and not all(elements):
        raise TypeError(f"{argument} must hold either ODL elements or tensors, got both")

    blocks, shapes = {}, set()
    for name, space in spaces.items():
        label = f"{argument}[{name!r}]" if len(spaces) > 1 else argument
        value = init[name]
        if is_element(value):
            if value not in space:
                raise ValueError(f"{label} must be an element of {space!r}, got one of {value.space!r}")
            value = to_tensor(value)
        elif not isinstance(value, Tensor):
            raise TypeError(f"{label} must be an ODL element or a torch tensor, got {type(value).__name__}")
        batch = check_tensor(value, space, label)
        if len(batch) > 1:
            raise ValueError(
                f"{label} must have at most one batch axis before {tuple(space.shape)}, got shape {tuple(value.shape)}"
            )
        if not torch.isfinite(value).all():
            raise ValueError(
                f"{label} must be finite, got {int((~torch.isfinite(value)).sum())} NaN or infinite values"
            )
        shapes.add(batch)
        value = normal(value.detach().to(torch_dtype(space)))
        blocks[name] = value if batch else value[None]
    if len(shapes) > 1:
        raise ValueError(f"{argument} must have the same batch size in all blocks, got {sorted(shapes)}")
    batched = bool(shapes.pop())

    def leave(result: Mapping[str, Tensor]) -> dict[str, Any]:
        out = {name: value if batched else value[0] for name, value in result.items()}
        return {name: to_element(spaces[name], value) for name, value in out.items()} if elements[0] else out

    return Door(blocks, leave, batched)


def per_sample_number(value: Any, name: str, data: Tensor, *, zero: bool = False) -> Tensor:
    """Return a positive number (or, with `zero`, a non-negative one) for every sample of `data`, ``(B,)``.

    Raises
    ------
    TypeError, ValueError
        If it is no number, has another shape, or has the wrong sign or is not finite.
    """
    wrong = isinstance(value, bool | complex) or getattr(value, "is_complex", bool)()
    try:
        tensor = normal(torch.as_tensor(value, dtype=data.real.dtype, device=data.device))
    except (RuntimeError, TypeError, ValueError):
        wrong = True
    if wrong:
        raise TypeError(f"{name} must be a number or a tensor (B,), got {type(value).__name__}")
    if tensor.ndim > 1 or (tensor.ndim == 1 and len(tensor) != len(data)):
        raise ValueError(
            f"{name} must be a number or have the shape ({len(data)},), got {tuple(tensor.shape)}"
        )
    enough = tensor >= 0 if zero else tensor > 0
    if not bool((enough & torch.isfinite(tensor)).all()):
        sign = "non-negative" if zero else "positive"
        raise ValueError(f"{name} must be {sign} and finite, got {value}")
    return tensor.expand(len(data))
