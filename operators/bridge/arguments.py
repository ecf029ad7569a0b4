"""Checks of arguments: numbers, seeds, flags and words. Every entry point uses these functions.

A number may be one of Python or NumPy, or an array or tensor without axes. Anything else (a bool, a string, an object)
raises TypeError, a number out of range ValueError. Messages name the argument, the requirement and what was received.
For arrays see `genreg.operators.bridge.arrays`.
"""

from __future__ import annotations

import math
import operator
import os
import reprlib
from collections.abc import Sequence
from numbers import Real
from typing import Any

import numpy as np
import torch
from torch import Tensor

_LARGEST_SEED = 2**63 - 1


def described(value: Any) -> str:
    """Describe what was received, for an error message."""
    if isinstance(value, Tensor | np.ndarray) and value.ndim:
        kind = "a tensor" if isinstance(value, Tensor) else "an array"
        return f"{kind} of shape {tuple(value.shape)} and type {value.dtype}"
    if isinstance(value, Tensor):
        return "a tensor on the meta device" if value.is_meta else repr(value.item())
    return reprlib.repr(value)


def integer(value: Any, name: str, *, minimum: int | None = None, maximum: int | None = None) -> int:
    """Return an argument as an integer.

    Parameters
    ----------
    value : int, or integer of NumPy or torch without axes
        What was passed.
    name : str
        Name of the argument, for the message.
    minimum, maximum : int, optional
        Bounds, themselves allowed.

    Raises
    ------
    TypeError
        If it is not an integer, or a bool.
    ValueError
        If it is out of bounds.
    """
    if maximum is not None:
        wanted = (
            f"an integer from {minimum} to {maximum}"
            if minimum is not None
            else f"an integer of at most {maximum}"
        )
    else:
        wanted = {None: "an integer", 0: "a non-negative integer", 1: "a positive integer"}.get(
            minimum, f"an integer of at least {minimum}"
        )
    scalar = _scalar(value)
    try:
        found = operator.index(scalar)
    except TypeError:
        raise TypeError(f"{name} must be an integer, got {described(value)}") from None
    if (minimum is not None and found < minimum) or (maximum is not None and found > maximum):
        raise ValueError(f"{name} must be {wanted}, got {described(found)}")
    return found


def integers(
    value: Any, name: str, *, count: int | None = None, minimum: int | None = None
) -> tuple[int, ...]:
    """Return integers of a sequence, an array or an iterator as a tuple; errors are those of `integer`.

    Parameters
    ----------
    value : iterable of int
        What was passed.
    name : str
        Name of the argument, for the message.
    count : int, optional
        How many there must be; by default at least one.
    minimum : int, optional
        Least value.
    """
    many = "integers" if count is None else f"{count} integers"
    if isinstance(value, str | bytes) or not hasattr(value, "__iter__"):
        raise TypeError(f"{name} must be {many}, got {described(value)}")
    if isinstance(value, np.ndarray | Tensor) and value.ndim != 1:
        raise ValueError(f"{name} must be {many}, got {described(value)}")
    items = list(value)  # an iterator can be read only once
    if len(items) != (count or len(items)) or not items:
        raise ValueError(f"{name} must be {many}, got {described(value)}")
    return tuple(integer(item, f"{name}[{i}]", minimum=minimum) for i, item in enumerate(items))


def number(
    value: Any,
    name: str,
    *,
    above: float | None = None,
    minimum: float | None = None,
    below: float | None = None,
    maximum: float | None = None,
    infinite: bool = False,
) -> float:
    """Return an argument as a real number.

    Parameters
    ----------
    value : float, int, or real number of NumPy or torch without axes
        What was passed.
    name : str
        Name of the argument, for the message.
    above, below : float, optional
        Bounds, themselves not allowed.
    minimum, maximum : float, optional
        Bounds, themselves allowed.
    infinite : bool
        Whether +inf is allowed.

    Raises
    ------
    TypeError
        If it is not a real number, or a bool.
    ValueError
        If it is NaN, infinite or out of bounds.
    """
    scalar = _scalar(value)
    if not isinstance(scalar, Real):
        raise TypeError(f"{name} must be a number, got {described(value)}")
    try:
        found = float(scalar)
    except OverflowError:
        found = -math.inf if scalar < 0 else math.inf
    inside = (
        (above is None or found > above)
        and (minimum is None or found >= minimum)
        and (below is None or found < below)
        and (maximum is None or found <= maximum)
    )
    if math.isnan(found) or not inside or (math.isinf(found) and not (infinite and found > 0)):
        wanted = _range(above, minimum, below, maximum, infinite)
        raise ValueError(f"{name} must be {wanted}, got {described(value)}")
    return found


def _range(
    above: float | None, minimum: float | None, below: float | None, maximum: float | None, infinite: bool
) -> str:
    """Describe the range that `number` requires."""
    lower, upper = above if minimum is None else minimum, below if maximum is None else maximum
    if lower is not None and upper is not None:
        return f"a number between {lower:.3g} and {upper:.3g}"
    if upper is not None:
        return f"finite and {'at most' if below is None else 'below'} {upper:g}"
    if lower is None:
        return "finite"
    if lower == 0:
        wanted = "non-negative" if above is None else "positive"
    else:
        wanted = f"{'at least' if above is None else 'above'} {lower:g}"
    return wanted if infinite else f"{wanted} and finite"


def _scalar(value: Any) -> Any:
    """Convert a number without axes to Python's; None for anything else, bools included."""
    if isinstance(value, np.ma.MaskedArray) and np.ma.is_masked(value):
        return None
    if isinstance(value, np.ndarray | Tensor | np.generic):
        if value.ndim or (isinstance(value, Tensor) and value.is_meta):
            return None
        value = value.item()
    return None if isinstance(value, bool | str | bytes) else value


def flag(value: Any, name: str) -> bool:
    """Return an argument that is True or False; TypeError for anything else."""
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{name} must be True or False, got {described(value)}")
    return bool(value)


def choice(value: Any, name: str, options: Sequence[str]) -> str:
    """Return an argument that is one of a few words; ValueError for anything else."""
    if not isinstance(value, str) or value not in options:
        raise ValueError(f"{name} must be one of {list(options)}, got {described(value)}")
    return value


def check_callable(value: Any, name: str, signature: str) -> None:
    """Raise TypeError unless an optional argument is callable; `signature` is for the message."""
    if value is not None and not callable(value):
        raise TypeError(f"{name} must be a function {signature}, got {described(value)}")


def check_path(value: Any, name: str) -> None:
    """Raise TypeError unless an argument is the name of a file or folder, a string or a path."""
    if not isinstance(value, str | os.PathLike):
        raise TypeError(f"{name} must be a string or a path, got {type(value).__name__}")


def seed_number(seed: Any, name: str = "seed") -> int:
    """Return a seed as an integer from 0 to 2⁶³ - 1; errors are those of `integer`."""
    found = integer(seed, name, minimum=0)
    if found > _LARGEST_SEED:
        raise ValueError(f"{name} must be at most 2**63 - 1, got {described(found)}")
    return found


def seeded_generator(seed: Any, device: torch.device | str = "cpu", *, name: str = "seed") -> torch.Generator:
    """Return a generator of random numbers for a seed, or the generator itself.

    Raises
    ------
    TypeError, ValueError
        If it is neither, negative or above 2⁶³ - 1.
    """
    if isinstance(seed, torch.Generator):
        return seed
    if _scalar(seed) is None or not hasattr(_scalar(seed), "__index__"):
        raise TypeError(f"{name} must be an integer or a torch.Generator, got {described(seed)}")
    return torch.Generator(device).manual_seed(seed_number(seed, name))
