"""Checks of arguments: arrays of numbers, masks, and sizes that have to fit into memory.

An array may be an ODL element, a tensor of torch, an array of NumPy or nested lists. For numbers, and for the form of
the messages, see `genreg.operators.bridge.arguments`.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from odl.core.set.space import LinearSpaceElement
from torch import Tensor

from genreg.operators.bridge.arguments import described
from genreg.operators.bridge.modes import normal
from genreg.operators.bridge.spaces import is_stacked, to_tensor

_WANTED = "an ODL element, a tensor or an array of numbers"
_HELD = (Tensor, LinearSpaceElement)  # what lists may hold besides numbers and arrays


def array(value: Any, name: str, *, complex: bool = True, wanted: str = _WANTED) -> Tensor:
    """Return numbers as a tensor: an ODL element, a tensor, a NumPy array or nested lists.

    Memory is shared where torch can share it. Arrays of another byte order or of long doubles are converted.

    Parameters
    ----------
    value : array-like
        What was passed.
    name : str
        Name of the argument, for the message.
    complex : bool
        Whether complex numbers are allowed.
    wanted : str
        What the argument must be, for the message.

    Raises
    ------
    TypeError
        If it does not hold numbers (bools do not count), holds complex ones that are not allowed, or is a tensor
        without values.
    ValueError
        If lists are of different lengths, or entries of a masked array are masked.
    """
    tensor = _tensor(value, name, wanted)
    if tensor.dtype == torch.bool:
        raise TypeError(f"{name} must be {wanted}, got {described(value)}")
    if tensor.is_complex() and not complex:
        raise TypeError(f"{name} must be real, got complex numbers")
    return tensor


def _tensor(value: Any, name: str, wanted: str = _WANTED) -> Tensor:
    """Numbers or bools as a tensor."""
    if isinstance(value, LinearSpaceElement):
        if not is_stacked(value.space):
            raise TypeError(f"{name} must be {wanted}, got an element of {value.space!r}")
        value = to_tensor(value)
    if isinstance(value, Tensor):
        if value.is_meta:
            raise TypeError(f"{name} must hold values, got a tensor on the meta device, which has none")
        if value.layout != torch.strided:
            raise TypeError(f"{name} must be a dense tensor, got one of the layout {value.layout}")
        return normal(value.detach())
    if np.ma.is_masked(value):
        raise ValueError(f"{name} must have no masked entries, got {int(np.ma.getmaskarray(value).sum())}")
    if isinstance(value, list | tuple) and value and all(isinstance(part, _HELD) for part in value):
        value = [_tensor(part, name, wanted).numpy(force=True) for part in value]
    try:
        found = np.asarray(value)
    except (ValueError, TypeError, RuntimeError):  # lists of different lengths
        raise ValueError(f"{name} must be {wanted}, got lists of different lengths") from None
    if found.dtype.kind not in "biufc":
        raise TypeError(f"{name} must be {wanted}, got {described(value)}")
    return _of_numpy(found)


def _of_numpy(found: np.ndarray) -> Tensor:
    """An array in a type and layout that torch has."""
    kind, size = found.dtype.kind, found.dtype.itemsize
    if kind == "u" and size > 1:  # torch implements few operations for these
        dtype = np.dtype("i8" if size < 8 else "f8")
    else:
        dtype = np.dtype(f"{kind}{min(size, 16 if kind == 'c' else 8)}")  # of this machine's byte order
    found = found.astype(dtype, copy=False)
    if not found.flags.writeable or min(found.strides, default=0) < 0:
        found = found.copy()  # torch has neither read-only tensors nor negative strides
    return torch.from_numpy(np.asarray(found))


def check_finite(tensor: Tensor, name: str, *, samples: int | None = None) -> None:
    """Raise ValueError if a tensor holds NaN or infinite values; the message lists samples along the axis `samples`."""
    bad = ~torch.isfinite(tensor)
    if not bool(bad.any()):
        return
    message = f"{name} must be finite, got {int(bad.sum())} NaN or infinite values"
    if samples is not None:
        message += f" in {samples_of(bad.movedim(samples, 0).flatten(1).any(1))}"
    raise ValueError(message)


def samples_of(which: Tensor) -> str:
    """Describe the samples that a mask ``(B,)`` marks, the first five by number."""
    numbers = which.nonzero()[:, 0].tolist()
    listed = ", ".join(map(str, numbers[:5])) + (", ..." if len(numbers) > 5 else "")
    return f"sample{'s' if len(numbers) > 1 else ''} {listed} of {len(which)}"


def fitting(tensor: Tensor, name: str, dtype: torch.dtype) -> Tensor:
    """Convert numbers to another type; ValueError if a finite one overflows in it.

    Numbers that underflow to zero raise only if all of them do: then the type would lose the whole array.
    """
    found = tensor.to(dtype)
    if found is tensor or not found.numel():
        return found
    lost = torch.isfinite(tensor) & ~torch.isfinite(found)
    if bool(lost.any()):
        raise ValueError(
            f"{name} must fit into {dtype}, got values up to {float(tensor[torch.isfinite(tensor)].abs().max()):.3g}"
        )
    if bool((tensor != 0).any()) and not bool((found != 0).any()):
        raise ValueError(
            f"{name} must fit into {dtype}, got values of at most {float(tensor.abs().max()):.3g}"
        )
    return found


def boolean_mask(keep: Any, shape: tuple[int, ...], name: str, *, empty: bool = False) -> Tensor:
    """Return the boolean tensor of a mask, on the CPU.

    Parameters
    ----------
    keep : array, tensor, nested lists or ODL element
        Of bools, or of zeros and ones of any type; of a shape that broadcasts to `shape`, such as ``(m,)`` for a mask
        of columns.
    shape : tuple of int
        Shape of the result.
    name : str
        Name of the argument, for the messages.
    empty : bool
        Whether a mask without a True entry is allowed.

    Raises
    ------
    TypeError
        If it holds no bools or numbers.
    ValueError
        If it holds other numbers than 0 and 1, does not broadcast to the shape, or is False throughout.
    """
    given = _tensor(keep, name).cpu()
    if given.dtype != torch.bool:
        if not bool(((given == 0) | (given == 1)).all()):
            raise ValueError(f"{name} must be boolean, or hold zeros and ones only, got other values")
        given = given != 0
    try:
        mask = given.expand(shape if given.ndim else ())
    except RuntimeError:
        mask = given
    if tuple(mask.shape) != tuple(shape):
        raise ValueError(
            f"{name} must have the shape {shape} of the space, got {tuple(given.shape)}, which doesn't broadcast to it"
        )
    if not empty and not mask.any():
        raise ValueError(f"{name} must be True somewhere, got False throughout")
    return mask.contiguous()


def check_memory(
    shape: Sequence[float], dtype: torch.dtype, name: str, value: Any, device: torch.device | str = "cpu"
) -> None:
    """Raise ValueError if an array would not fit into the memory of the device.

    Parameters
    ----------
    shape : sequence of int
        Shape of the array.
    dtype : torch.dtype
        Its type.
    name : str
        The argument that determines its size.
    value : object
        What was received for it.
    device : torch.device or str
        Device of the array.
    """
    needed, there = math.prod(map(float, shape)) * dtype.itemsize, _memory(torch.device(device))
    if needed > there:
        raise ValueError(
            f"{name} must be smaller, got {described(value)}: that takes at least {needed / 2**30:.3g} GiB, of "
            f"{there / 2**30:.3g} GiB of memory"
        )


def _memory(device: torch.device) -> float:
    """Return the bytes of memory of a device."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # not on every system
        return 2.0**44
