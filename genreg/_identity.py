"""What a state in a file belongs to: data, operators, generators and regularisers, as `refuse_other` compares them.

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

from genreg._state_files import digest
from genreg.fidelity import Fidelity
from genreg.fidelity.base import trailing
from genreg.generator import Generator
from genreg.operators import to_torch, torch_device, torch_dtype
from genreg.operators.spaces import space_shape
from genreg.regularisers import Regulariser
from genreg.solvers.objective import Blocks, block_spaces

__all__ = ["of_fidelity", "of_generator", "of_operator", "of_regulariser", "of_setting"]

_SEED = 1


def of_operator(name: str, A: odl.Operator, x: Tensor | None = None) -> dict[str, Any]:
    """Return what A makes of images, ``(B, *X.shape)``; by default of one of standard normal noise."""
    x = _noise(A.domain) if x is None else x
    with torch.no_grad():
        return {name: to_torch(A)(x).nan_to_num()}


def of_generator(G: Generator) -> dict[str, Any]:
    """Return the weights of a generator and two of its images."""
    weights: Any = digest(G.model) if isinstance(G.model, nn.Module) else None
    return {"weights of the generator": weights, **of_operator("images of the generator", G, codes(G))}


def codes(G: Generator) -> Tensor:
    """Return two seeded draws of N(0, I)."""
    return _noise(G.domain, 2)


def of_fidelity(fidelity: Fidelity, x: Tensor | None = None) -> dict[str, Any]:
    """Return data, noise, operator, and the misfit near the data; `x` are images for `of_operator`."""
    per_sample = fidelity.per_sample
    y, given = fidelity.data, {name: value for name, value in per_sample.items() if name != "y"}
    rms = y.abs().square().flatten(1).mean(1).sqrt()
    near = y + trailing(torch.where(rms > 0, rms, 1.0), y) * _noise(fidelity.operator.range).abs()
    with torch.no_grad():
        misfit = fidelity.misfit(near.to(y), **per_sample)
    return {
        "fidelity": type(fidelity).__name__,
        "data": digest(y),
        "noise": digest(given),
        "misfit": misfit.nan_to_num(),
        "level of the noise": fidelity.level.nan_to_num(),
        **of_operator("operator", fidelity.operator, x),
    }


def of_regulariser(regulariser: Regulariser, lam: Tensor) -> dict[str, Any]:
    """Return kind, settings, weights, and value and proximal point at seeded noise of a regulariser.

    Parameters
    ----------
    regulariser : Regulariser
        R.
    lam : Tensor
        A number for every sample, ``(B,)``, of the kind of λ.
    """
    parameters = regulariser.parameters_of(lam)
    spaces = block_spaces(regulariser.domain, regulariser.blocks)
    blocks: Blocks = {name: _noise(space, len(lam)) for name, space in spaces.items()}
    plain = (bool, int, float, str, Tensor, tuple)
    settings = {
        k: of_setting(v)
        for k, v in vars(regulariser).items()
        if isinstance(v, plain) and not k.startswith("_")
    }
    with torch.no_grad():
        value = torch.as_tensor(regulariser.value_of(blocks, **parameters)).nan_to_num()
        proximable = regulariser.proximable(**parameters).items()
        nearest = {name: g.prox(blocks[name], 1.0) for name, g in proximable if g.has_prox}
    found: dict[str, Any] = {
        "regulariser": type(regulariser).__name__,
        "parameters of the regulariser": digest(parameters),
        "settings of the regulariser": digest(settings),
        "value of the regulariser": value,
        **{f"proximal point of {name}": point for name, point in nearest.items()},
    }
    G = getattr(regulariser, "generator", None)
    return found | of_generator(G) if isinstance(G, Generator) else found


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


def _noise(space: Any, count: int = 1) -> Tensor:
    shape, dtype = (count, *space_shape(space)), torch_dtype(space)
    generator = torch.Generator().manual_seed(_SEED)
    return torch.randn(shape, generator=generator, dtype=dtype).to(torch_device(space))
