"""Computing independently of the caller's global modes of torch: inference mode and autocast.

Solvers, samplers and trainings differentiate and compute in the data types of their spaces. Inside
`torch.inference_mode` nothing can be differentiated, and `torch.autocast` computes in half precision; both are
switched off where genreg computes, and restored afterwards.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

P = ParamSpec("P")
T = TypeVar("T")

_DEVICES = ("cpu", "cuda")
_HALF = (torch.float16, torch.bfloat16)


def autocast_is_on() -> bool:
    """Whether the caller is inside `torch.autocast`."""
    return any(torch.is_autocast_enabled(device) for device in _DEVICES)


def without_autocast() -> contextlib.AbstractContextManager[Any]:
    """Return a context in which tensors keep their data type."""
    if not autocast_is_on():
        return contextlib.nullcontext()
    stack = contextlib.ExitStack()
    for device in _DEVICES:
        if torch.is_autocast_enabled(device):  # torch warns about a missing device
            stack.enter_context(torch.autocast(device, enabled=False))
    return stack


def single(t: Tensor, dtype: torch.dtype) -> Tensor:
    """Convert a tensor that autocast has put into half precision back to `dtype`."""
    return t.to(dtype) if t.dtype in _HALF else t


def normal(t: Tensor) -> Tensor:
    """Return a tensor that autograd can work with: a copy if `t` was made inside `torch.inference_mode`."""
    return t.clone() if t.is_inference() else t


def undisturbed(fn: Callable[P, T]) -> Callable[P, T]:
    """Let a function compute as if it were called outside of `torch.inference_mode` and `torch.autocast`.

    Raises
    ------
    RuntimeError
        If it needs the derivative of something that was made inside `torch.inference_mode`.
    """

    @functools.wraps(fn)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> T:
        inside = torch.is_inference_mode_enabled()
        with torch.inference_mode(False) if inside else contextlib.nullcontext(), without_autocast():
            try:
                return fn(*args, **kwargs)
            except RuntimeError as error:
                if "nference tensor" not in str(error):
                    raise
                raise RuntimeError(
                    f"{fn.__qualname__} must differentiate, which torch refuses for tensors made inside "
                    "torch.inference_mode: make models, spaces, operators and regularisers outside of it (data "
                    "and starting points may come from inside)"
                ) from error

    return wrapped
