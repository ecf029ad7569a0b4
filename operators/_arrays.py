"""Tensors of what users hand over as arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["as_tensor"]


def as_tensor(values: Any, name: str) -> Tensor:
    """Return a tensor, array, list or element of a tensor space as a detached tensor; arrays are copied.

    Arrays may have any byte order, as those read from files do.

    Parameters
    ----------
    values : Tensor, array, list or element
        Numbers.
    name : str
        What the message calls them.

    Raises
    ------
    TypeError
        If they are no numbers.
    """
    data = values.data if hasattr(values, "space") else values
    if isinstance(data, Tensor):
        return data.detach()
    try:
        array = np.array(data)
        return torch.from_numpy(array.astype(array.dtype.newbyteorder("="), copy=False))
    except (TypeError, ValueError):
        raise TypeError(f"`{name}` must be an array of numbers, got {type(values).__name__}") from None
