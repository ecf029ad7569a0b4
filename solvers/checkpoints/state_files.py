"""Files that hold the state of a computation, so that it can go on: whole or not at all, with a checksum.

A state is a mapping of numbers, texts, lists, mappings and tensors, kept as one safetensors file: the tensors as such,
all else as JSON beside them, so nothing in it is ever executed. What a state belongs to is its *identity*, a mapping
from names to settings, digests of data (`digest`) and probes: tensors that were computed, such as one image of a
generator, which another processor may reproduce only to some digits. `refuse_other` compares two identities.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

_DIGEST = "sha256:"
_TENSOR, _COMPLEX, _PAIRS = "$tensor", "$complex", "$pairs"
_PROBE = 1e-3  # relative difference up to which two probes are the same; other data differ by far more


def atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Write a temporary file beside `path` and put it in the place of `path`; `write` gets its name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.touch()
        mode = temporary.stat().st_mode
        write(temporary)
        temporary.chmod(mode)  # safetensors puts a file in the place of this one that only its owner may read
        os.replace(temporary, path)
    except OSError as error:
        if error.errno and error.filename is None:  # a full disk names nothing
            error.filename = os.fspath(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


def digest(*values: Any) -> str:
    """Return a digest of values that is the same in every process and on every machine.

    Parameters
    ----------
    *values
        Tensors and arrays (of one type, shape and content they have one digest), modules (their class and all their
        weights), numbers, texts, bytes, None, and lists, tuples, mappings and dataclasses of these.

    Returns
    -------
    str
        ``"sha256:"`` and 64 hexadecimal digits.

    Raises
    ------
    TypeError
        If a value is of another kind.
    """
    found = hashlib.sha256()
    for value in values:
        _feed(found.update, value)
    return _DIGEST + found.hexdigest()


def _feed(update: Callable[[Any], None], value: Any) -> None:
    """Hand the bytes of a value to a hash, each value with its kind and length, so that none runs into the next."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, Tensor):
        bare = value.detach().cpu().resolve_conj().resolve_neg().contiguous()
        update(f"array {str(bare.dtype).removeprefix('torch.')} {tuple(bare.shape)};".encode())
        if bare.is_complex():
            bare = torch.view_as_real(bare)
        update(bare.reshape(-1).view(torch.uint8).numpy())
    elif isinstance(value, np.ndarray) and value.dtype.kind in "biufc":
        update(f"array {value.dtype.name} {value.shape};".encode())
        little = np.ascontiguousarray(value, dtype=value.dtype.newbyteorder("<"))
        update(little.reshape(-1).view(np.uint8))
    elif isinstance(value, nn.Module):
        _feed(update, (f"{type(value).__module__}.{type(value).__qualname__}", value.state_dict()))
    elif value is None or isinstance(value, bool | int | float | complex | str):
        text = repr(value).encode()
        update(f"{type(value).__name__} {len(text)};".encode() + text)
    elif isinstance(value, bytes | bytearray | memoryview):
        update(f"bytes {len(value)};".encode() + bytes(value))
    elif isinstance(value, os.PathLike):
        _feed(update, os.fspath(value))
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        entries = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        _feed(update, (type(value).__qualname__, entries))
    elif isinstance(value, Mapping):
        update(f"mapping {len(value)};".encode())
        for key in sorted(value, key=repr):
            _feed(update, key)
            _feed(update, value[key])
    elif isinstance(value, list | tuple):
        update(f"list {len(value)};".encode())
        for entry in value:
            _feed(update, entry)
    else:
        raise TypeError(f"a digest is made of tensors, arrays, numbers and texts, got {type(value).__name__}")


def save_state(path: Path, state: Mapping[str, Any], kind: str) -> None:
    """Write a state to a file, whole or not at all, with a checksum of everything in it.

    Parameters
    ----------
    path : Path
        The file, whose folder is made where it is missing.
    state : mapping
        Tensors, numbers, texts, None, and lists and mappings of these; tuples come back as lists.
    kind : str
        What kind of state it is, such as ``"training"``; `load_state` wants the same.

    Raises
    ------
    OSError
        If the file can't be written, on a full disk for example.
    """
    tensors: dict[str, Tensor] = {}
    text = json.dumps(_packed(state, tensors))
    header = {"kind": kind, "state": text, "checksum": digest(kind, text, tensors)}

    def write(target: Path) -> None:
        try:
            save_file(tensors, target, header)
        except SafetensorError as error:
            raise OSError(f"{path} can't be written: {error}") from error
        with open(target, "rb+") as file:
            os.fsync(file.fileno())

    atomically(path, write)


def load_state(path: Path, kind: str, *, name: str = "checkpoint") -> dict[str, Any]:
    """Read what `save_state` has written, its tensors on the CPU.

    Parameters
    ----------
    path : Path
        The file.
    kind : str
        What kind of state it has to be.
    name : str
        What error messages call the file.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is damaged, truncated, of another kind, or holds no checksum.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{name} must be a file that exists, got {path}")
    try:
        with safe_open(path, "pt") as file:
            header = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise ValueError(
            f"{name} {path} can't be read: it is damaged, truncated or of another kind (as files of versions that "
            f"kept no checksum are), so begin anew with another file: {error}"
        ) from error
    if header.keys() != {"kind", "state", "checksum"}:
        raise ValueError(f"{name} {path} can't be read: it is no file with the state of a {kind}")
    if header["checksum"] != digest(header["kind"], header["state"], tensors):
        raise ValueError(f"{name} {path} can't be read: it is damaged, its content does not fit its checksum")
    if header["kind"] != kind:
        raise ValueError(
            f"{name} {path} can't be read: it holds the state of a {header['kind']}, not of a {kind}"
        )
    return _unpacked(json.loads(header["state"]), tensors)


def _packed(value: Any, tensors: dict[str, Tensor]) -> Any:
    """Return the JSON of a value, after moving its tensors to `tensors`."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, Tensor):
        # a clone, as tensors that share memory can't be stored side by side
        bare = value.detach().cpu().resolve_conj().resolve_neg().clone(memory_format=torch.contiguous_format)
        key = str(len(tensors))
        tensors[key] = torch.view_as_real(bare) if bare.is_complex() else bare
        return {_COMPLEX if bare.is_complex() else _TENSOR: key}
    if isinstance(value, Mapping):
        if all(isinstance(key, str) and not key.startswith("$") for key in value):
            return {key: _packed(entry, tensors) for key, entry in value.items()}
        return {_PAIRS: [[_packed(key, tensors), _packed(entry, tensors)] for key, entry in value.items()]}
    if isinstance(value, list | tuple):
        return [_packed(entry, tensors) for entry in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"a state is made of tensors, numbers and texts, got {type(value).__name__}")


def _unpacked(value: Any, tensors: dict[str, Tensor]) -> Any:
    """Undo `_packed`."""
    if isinstance(value, list):
        return [_unpacked(entry, tensors) for entry in value]
    if not isinstance(value, dict):
        return value
    if _TENSOR in value:
        return tensors[value[_TENSOR]]
    if _COMPLEX in value:
        return torch.view_as_complex(tensors[value[_COMPLEX]])
    if _PAIRS in value:
        return {_unpacked(key, tensors): _unpacked(entry, tensors) for key, entry in value[_PAIRS]}
    return {key: _unpacked(entry, tensors) for key, entry in value.items()}


def moved(value: Any, device: torch.device) -> Any:
    """Return a state, or a part of it, with its tensors on another device."""
    if isinstance(value, Mapping):
        return {name: moved(entry, device) for name, entry in value.items()}
    if isinstance(value, list):
        return [moved(entry, device) for entry in value]
    return value.to(device) if isinstance(value, Tensor) else value


def not_finite(state: Any, name: str = "") -> list[str]:
    """Return the names of the tensors and numbers in a state that are not finite, such as ``model.log_gamma``."""
    return list(_not_finite(state, name))


def _not_finite(value: Any, name: str) -> Iterator[str]:
    if isinstance(value, Mapping):
        entries: Any = value.items()
    elif isinstance(value, list | tuple):
        entries = enumerate(value)
    else:
        if isinstance(value, float | complex | Tensor) and not bool(
            torch.isfinite(torch.as_tensor(value)).all()
        ):
            yield name
        return
    for key, entry in entries:
        yield from _not_finite(entry, f"{name}.{key}" if name else str(key))


def refuse_other(
    path: Path, found: Mapping[str, Any], asked: Mapping[str, Any], *, name: str = "checkpoint"
) -> None:
    """Refuse a state that belongs to something else.

    Parameters
    ----------
    path : Path
        The file.
    found, asked : mapping
        The identity in the file, and that of the call: settings (numbers, texts, lists and mappings of these), digests
        and probes by their names.
    name : str
        What the message calls the file.

    Raises
    ------
    ValueError
        If they differ; the message names what does, and of settings both values.
    """
    listed = []
    for key in [*asked, *(key for key in found if key not in asked)]:
        old, new = found.get(key), asked.get(key)
        if isinstance(old, Tensor) and isinstance(new, Tensor):
            if old.shape != new.shape or not _close(old, new.detach().cpu()):
                listed.append(f"{key} differ")
        elif any(isinstance(v, Tensor) or (isinstance(v, str) and v.startswith(_DIGEST)) for v in (old, new)):
            if isinstance(old, Tensor) or isinstance(new, Tensor) or old != new:
                listed.append(f"{key} differ")
        elif _packed(old, {}) != _packed(new, {}):
            listed.append(f"{key} was {old} and is {new}")
    if listed:
        raise ValueError(
            f"{name} {path} belongs to another run: {', '.join(listed)}. Give what it was made with, or another file"
        )


def _close(old: Tensor, new: Tensor) -> bool:
    if not old.is_floating_point() and not old.is_complex():
        return torch.equal(old, new)
    kind = torch.complex128 if old.is_complex() else torch.float64
    a, b = old.to(kind), new.to(kind)
    return bool(torch.linalg.vector_norm(a - b) <= _PROBE * torch.linalg.vector_norm(b))
