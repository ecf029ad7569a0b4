r"""ODL spaces and elements in torch: the layout of tensors, and conversions.

An ODL element is one sample; a batch exists only in torch. The tensors for a batch of elements of a space have any
number of leading batch axes in front of the axes of the space:

====================================  =====================================================================
space                                 tensors
====================================  =====================================================================
``rn``, ``cn``, ``uniform_discr``     one tensor ``(*batch, *space.shape)``
a field (range of a functional)       one tensor ``(*batch,)``
power space ``X**n``                  one tensor ``(*batch, n, *X.shape)``, also for powers of powers
any other product space               a tuple with one entry per part, nested likewise
====================================  =====================================================================

Weights of inner products are in `genreg.operators.bridge.weights`.
"""

from __future__ import annotations

from collections.abc import Callable
from numbers import Number
from typing import TYPE_CHECKING, Any

import numpy as np
import odl
import torch
from odl.core.set import Field
from odl.core.set.space import LinearSpaceElement
from odl.core.space.base_tensors import TensorSpace
from torch import Tensor

from genreg.operators.bridge.protocols import Space, StackedSpace

if TYPE_CHECKING:
    from typing_extensions import TypeIs

Tensors = Any  # a tensor, or a nested tuple of them for a product space: only the space knows which
_COMPLEX = (complex, np.complexfloating)


def is_stacked(space: Space) -> TypeIs[StackedSpace]:
    """Whether an element of `space` is one tensor (rather than a tuple of tensors)."""
    if isinstance(space, odl.ProductSpace):
        return len(space) > 0 and space.is_power_space and is_stacked(space[0])
    return isinstance(space, TensorSpace | Field)


def space_shape(space: Space) -> tuple[int, ...]:
    """Shape of the tensor of one element of a stacked `space`; ``()`` for a field.

    Raises
    ------
    TypeError
        If elements of `space` are tuples of tensors, or no tensors at all.
    """
    if not is_stacked(space):
        raise TypeError(f"`space` must be a tensor space, a field or a power space of these, got {space!r}")
    return () if isinstance(space, Field) else tuple(space.shape)


def split(space: Space, t: Tensors) -> tuple[Tensors, ...]:
    """Parts of the tensor(s) `t` of a product space, one per part of `space`."""
    return t.unbind(-len(space_shape(space))) if is_stacked(space) else t


def join(space: Space, parts: list[Tensors] | tuple[Tensors, ...]) -> Tensors:
    """Inverse of `split`: one stacked tensor for a power space, a tuple otherwise."""
    return torch.stack(list(parts), -len(space_shape(space))) if is_stacked(space) else tuple(parts)


def torch_dtype(space: Space) -> torch.dtype:
    """Torch data type of the elements of `space`; of the first part for a product space."""
    base = _base(space)
    if isinstance(base, Field):
        return torch.complex128 if base == odl.ComplexNumbers() else torch.float64
    return getattr(torch, base.dtype_identifier)


def torch_device(space: Space) -> torch.device:
    """Torch device of the elements of `space`; of the first part for a product space."""
    base = _base(space)
    return torch.device("cpu" if isinstance(base, Field) else base.device)


def to_tensor(x: Any) -> Tensors:
    """Return the tensor(s) of an ODL element, without batch axes.

    Memory is shared with elements of tensor spaces, numpy or pytorch, where the layout allows it. Elements of
    power spaces are stacked, which copies.

    Parameters
    ----------
    x : odl element or number
        Element of a tensor space, field or product space.

    Returns
    -------
    Tensor or tuple
        Tensors in the layout of the module docstring, detached from autograd.

    Raises
    ------
    TypeError
        If `x` is neither an element nor a number.
    """
    if isinstance(x, Number):
        return torch.tensor(x, dtype=torch.complex128 if isinstance(x, _COMPLEX) else torch.float64)
    if not isinstance(x, LinearSpaceElement):
        raise TypeError(f"`x` must be an element of an ODL space, got {type(x).__name__}")
    if isinstance(x.space, odl.ProductSpace):
        return join(x.space, [to_tensor(part) for part in x])
    data = x.data
    if isinstance(data, Tensor):
        return data.detach()
    if not data.flags.writeable or min(data.strides, default=0) < 0:
        data = data.copy()  # torch has neither read-only tensors nor negative strides
    return torch.from_numpy(data)


def to_element(space: Space, t: Tensors) -> Any:
    """Return the element of `space` with the values of the tensor(s) `t`, which have no batch axes.

    Memory is shared where backend, device and data type allow it, so later writes to `t` show in the element.

    Parameters
    ----------
    space : odl space or field
        Space of the element; a field gives a Python number.
    t : Tensor or tuple
        Tensor(s) of one element, in the layout of the module docstring.

    Returns
    -------
    odl element or number
        Elements hold tensors detached from autograd.

    Raises
    ------
    TypeError, ValueError
        If `t` does not fit the space.
    """
    if check_tensor(t, space, "t", any_device=True) != ():
        shape = tuple(t.shape) if isinstance(t, Tensor) else [tuple(part.shape) for part in t]
        raise ValueError(f"`t` must hold one element of {space!r} without batch axes, got shape {shape}")
    return _element(space, t)


def _element(space: Any, t: Tensors) -> Any:
    if isinstance(space, Field):
        return space.element(t.item())
    if isinstance(space, odl.ProductSpace):
        parts = zip(space.spaces, split(space, t), strict=True)
        return space.element([_element(s, part) for s, part in parts], copy=False)
    t = t.detach().to(torch_device(space), torch_dtype(space)).resolve_conj().resolve_neg()
    return space.element(t if space.impl == "pytorch" else t.numpy(force=True))


def check_tensor(t: Any, space: Space, name: str, *, any_device: bool = False) -> tuple[int, ...]:
    """Check that `t` holds a batch of elements of `space`, and return the batch shape.

    Parameters
    ----------
    t : Tensor or tuple
        What the user passed.
    space : odl space or field
        The space it has to fit.
    name : str
        Name of the argument, for the error message.
    any_device : bool, optional
        Accept tensors on another device than the one of a pytorch-backed space.

    Returns
    -------
    tuple of int
        The leading batch axes, common to all parts.

    Raises
    ------
    TypeError
        If `t` is not a tensor (or tuple of tensors for a product space), or real where the space is complex
        or the other way round, or of integers.
    ValueError
        If trailing axes, number of parts, batch axes or device do not fit.
    """
    if not is_stacked(space):
        if not isinstance(space, odl.ProductSpace):
            raise TypeError(f"`space` must be a tensor space, a field or a product of these, got {space!r}")
        if not isinstance(t, tuple | list) or len(t) != len(space):
            got = f"{len(t)} of them" if isinstance(t, tuple | list) else _describe(t)
            raise (ValueError if isinstance(t, tuple | list) else TypeError)(
                f"`{name}` must be a tuple of {len(space)} tensors, one per part of its space, got {got}"
            )
        pairs = enumerate(zip(t, space.spaces, strict=True))
        batches = [check_tensor(part, s, f"{name}[{i}]", any_device=any_device) for i, (part, s) in pairs]
        if len(set(batches)) > 1:
            raise ValueError(f"the parts of `{name}` must have the same batch axes, got {batches}")
        return batches[0] if batches else ()
    if not isinstance(t, Tensor):
        raise TypeError(f"`{name}` must be a torch tensor, got {_describe(t)}")
    shape = space_shape(space)
    k = len(shape)
    if t.ndim < k or tuple(t.shape[t.ndim - k :]) != shape:
        raise ValueError(f"`{name}` must have shape (*batch, *{shape}), got {tuple(t.shape)}")
    dtype = torch_dtype(space)
    if t.is_complex() != dtype.is_complex or not (t.is_complex() or t.is_floating_point()):
        kind = "complex" if dtype.is_complex else "real floating point"
        raise TypeError(f"`{name}` must be {kind} like its space ({dtype}), got {t.dtype}")
    if (
        not any_device
        and getattr(_base(space), "impl", None) == "pytorch"
        and t.device != torch_device(space)
    ):
        raise ValueError(f"`{name}` must be on {torch_device(space)} like its space, got {t.device}")
    return tuple(t.shape[: t.ndim - k])


def tree_map(fn: Callable[..., Any], *trees: Any) -> Any:
    """Apply `fn` to the tensors of equally nested trees; leaves of the first tree decide the nesting."""
    if isinstance(trees[0], tuple | list):
        return tuple(tree_map(fn, *parts) for parts in zip(*trees, strict=True))
    return fn(*trees)


def tree_leaves(tree: Any) -> list[Any]:
    """Leaves of a nested tuple, in order; a single tensor is its own leaf."""
    return [leaf for part in tree for leaf in tree_leaves(part)] if isinstance(tree, tuple | list) else [tree]


def first_leaf(tree: Tensors) -> Tensor:
    """First tensor of a nested tuple."""
    while not isinstance(tree, Tensor):
        tree = tree[0]
    return tree


class DeviceCopies:
    """Tensor(s) with one copy per device, made when it is first needed.

    Numpy spaces are on the CPU; with this, a problem written on them can also be solved on tensors on a GPU.

    Parameters
    ----------
    value : Tensor or tuple
        The tensor(s), all on one device.
    """

    def __init__(self, value: Tensors) -> None:
        self._copies = {first_leaf(value).device: value}

    def __call__(self, like: Tensors) -> Any:
        """Return the tensor(s) on the device of `like`."""
        device = first_leaf(like).device
        if device not in self._copies:
            value = next(iter(self._copies.values()))
            self._copies[device] = tree_map(lambda t: t.to(device), value)
        return self._copies[device]


def _base(space: Space) -> Any:
    """Return the space itself, or the first part of a product, down to one that is not a product."""
    return _base(space[0]) if isinstance(space, odl.ProductSpace) else space


def _describe(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"a numpy array of shape {value.shape}"
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    return "an ODL element" if isinstance(value, LinearSpaceElement) else type(value).__name__
