"""The state of a run as a file."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from genreg._loop import atomically
from genreg.sampling.kernels import HMC, MALA, PCN, ULA
from genreg.sampling.skrock import SKROCK

__all__ = ["read_state", "write_state"]

_KERNELS = {kernel.__name__: kernel for kernel in (ULA, MALA, PCN, HMC, SKROCK)}


def write_state(path: Path, state: Mapping[str, Any]) -> None:
    """Write a state of a run to a safetensors file, whole or not at all."""
    kernel = state["kernel"]
    known = _KERNELS.get(type(kernel).__name__) is type(kernel)
    named = {"name": type(kernel).__name__, "settings": dataclasses.asdict(kernel)} if known else None
    card = {**state, "kernel": named}
    del card["tensors"]
    tensors = {name: t.contiguous() for name, t in state["tensors"].items()}
    atomically(path, lambda target: save_file(tensors, target, {"run": json.dumps(card)}))


def read_state(path: Path) -> dict[str, Any]:
    """Read it again; the kernel is None where it is not one of this package."""
    if not path.is_file():
        raise FileNotFoundError(f"saved must be a file that exists, got {path}")
    try:
        with safe_open(path, "pt") as file:
            state = json.loads(file.metadata()["run"])
            state["tensors"] = {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"saved must be the state of a run, {path} can't be read: {error}") from error
    if (named := state["kernel"]) is not None:
        state["kernel"] = _KERNELS[named["name"]](**named["settings"])
    return state
