"""What a state in a file belongs to: operators, generators and settings, as `refuse_other` compares them.

Data and weights are known by digests, to the last bit. What an operator does is known by what it makes of one seeded
random image, which another processor may reproduce only to some digits.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import odl
import torch
from torch import Tensor, nn

from genreg.operators import to_torch, torch_device, torch_dtype
from genreg.operators.bridge.protocols import GeneratorLike, StackedSpace
from genreg.operators.bridge.spaces import space_shape
from genreg.solvers.checkpoints.state_files import digest

_SEED = 1


def noise(space: StackedSpace, count: int = 1) -> Tensor:
    """Return seeded draws of standard normal noise in a space, ``(count, *shape)``."""
    shape, dtype = (count, *space_shape(space)), torch_dtype(space)
    generator = torch.Generator().manual_seed(_SEED)
    return torch.randn(shape, generator=generator, dtype=dtype).to(torch_device(space))


def codes(G: GeneratorLike) -> Tensor:
    """Return two seeded draws of N(0, I) for a generator."""
    return noise(G.domain, 2)


def of_operator(name: str, A: odl.Operator, x: Tensor | None = None) -> dict[str, Any]:
    """Return what A makes of images, ``(B, *X.shape)``; by default of one of standard normal noise."""
    x = noise(A.domain) if x is None else x
    with torch.no_grad():
        return {name: to_torch(A)(x).nan_to_num()}


def of_generator(G: GeneratorLike) -> dict[str, Any]:
    """Return the weights of a generator, where it has a model with weights, and two of its images."""
    model = getattr(G, "model", None)
    weights = digest(model) if isinstance(model, nn.Module) else None
    return {"weights of the generator": weights, **of_operator("images of the generator", G, codes(G))}


def of_setting(value: Any) -> Any:
    """Return a setting as it is compared: numbers and texts as such, tensors by digests, others by their names."""
    if isinstance(value, bool | int | float | str) or value is None:
        return value
    if isinstance(value, Mapping):
        return {str(key): of_setting(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [of_setting(entry) for entry in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return repr(value)
    try:
        return digest(value)
    except TypeError:
        return getattr(value, "__qualname__", type(value).__qualname__)
