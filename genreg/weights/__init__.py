"""Trained weights: a safetensors file and, beside it, a card in JSON.

``NAME.safetensors`` holds the tensors of a model, ``NAME.json`` the card: the architecture from which
`genreg.networks.build` makes the model, data, training settings, scores, and the SHA-256 of the safetensors
file.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from genreg._loop import atomically
from genreg.networks import GAN, Autoencoder, Critic, Flow, GaussianRegressor, build
from genreg.operators.arguments import check_path

__all__ = ["load", "read_card", "save", "shipped"]

FOLDER = Path(__file__).parent
FORMAT = 1


def shipped() -> list[str]:
    """Return the names of the weights that come with the package."""
    return sorted(path.stem for path in FOLDER.glob("*.safetensors"))


def save(
    path: str | os.PathLike[str],
    model: Autoencoder | Critic | Flow | GAN | GaussianRegressor,
    card: Mapping[str, Any],
    *,
    half: bool = False,
) -> tuple[Path, Path]:
    """Write the weights of a model and their card, each file atomically.

    Parameters
    ----------
    path
        Where to write: ``folder/NAME`` or ``folder/NAME.safetensors``.
    model
        The model.
    card
        JSON-able entries of the card, for example what `genreg.training.fit` returned. "architecture",
        "parameters" (their number), "format" and "sha256" are filled in.
    half
        Whether to store the weights in half precision; `load` gives single precision in any case. The
        logarithm of gamma keeps its precision.

    Returns
    -------
    tuple of Path
        The safetensors file and the card.

    Raises
    ------
    TypeError
        If the card has an entry that JSON can't represent.
    ValueError
        If a weight is NaN or infinite (or overflows in half precision), or a number of the card is not
        finite.
    """
    from safetensors.torch import save as to_bytes

    file, card_file = _files(Path(path))
    tensors = {}
    for name, tensor in model.state_dict().items():
        stored = tensor.detach().cpu().contiguous()
        if half and stored.dtype == torch.float32 and stored.ndim > 0:
            stored = stored.half()
        if not torch.isfinite(stored).all():
            raise ValueError(f"model must have finite weights, got NaN or infinity in {name!r}")
        tensors[name] = stored
    content = to_bytes(tensors)
    entries = {
        **card,
        "format": FORMAT,
        "architecture": model.config.to_dict(),
        "parameters": sum(p.numel() for p in model.parameters()),
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    text = json.dumps(entries, indent=2, allow_nan=False) + "\n"
    atomically(file, lambda target: target.write_bytes(content))
    atomically(card_file, lambda target: target.write_text(text, encoding="utf-8"))
    return file, card_file


def load(
    name_or_path: str | os.PathLike[str], *, device: torch.device | str = "cpu"
) -> tuple[Autoencoder | Critic | Flow | GAN | GaussianRegressor, dict[str, Any]]:
    """Read a model and its card.

    Parameters
    ----------
    name_or_path
        Name of shipped weights (see `shipped`), or the path of a safetensors file, with or without its
        suffix.
    device
        Device of the model.

    Returns
    -------
    model : Autoencoder, Critic, Flow, GAN or GaussianRegressor
        The model in single precision and in evaluation mode.
    card : dict
        Its card.

    Raises
    ------
    FileNotFoundError
        If there is no such file, or no card beside it; the message lists the shipped names.
    ValueError
        If a file is truncated or altered, or the weights don't fit the architecture.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load as from_bytes

    file, card_file = _located(name_or_path)
    card = _parsed(card_file)
    content = file.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != card["sha256"]:
        raise ValueError(
            f"weights {file} are truncated or altered: their SHA-256 must be {card['sha256']} by the card, "
            f"got {found} ({len(content)} bytes)"
        )
    try:
        tensors = from_bytes(content)
    except SafetensorError as error:
        raise ValueError(f"weights {file} must be a safetensors file: {error}") from error
    with torch.device("meta"):  # the random weights of a fresh model are never made
        model = build(card["architecture"])
    state = {name: _single(tensor).to(device) for name, tensor in tensors.items()}
    try:
        model.load_state_dict(state, assign=True)
    except RuntimeError as error:
        raise ValueError(f"weights {file} don't fit the architecture of their card: {error}") from error
    return model.eval(), card


def read_card(name_or_path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the card of weights without loading them.

    Raises
    ------
    FileNotFoundError
        If there are no such weights or no card.
    ValueError
        If the card is truncated or altered.
    """
    return _parsed(_located(name_or_path)[1])


def _single(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype == torch.float16 else tensor


def _files(path: Path) -> tuple[Path, Path]:
    stem = path.name.removesuffix(".safetensors").removesuffix(".json")
    return path.with_name(f"{stem}.safetensors"), path.with_name(f"{stem}.json")


def _located(name_or_path: str | os.PathLike[str]) -> tuple[Path, Path]:
    """Return the two files, which exist."""
    check_path(name_or_path, "name_or_path")
    path = Path(name_or_path)
    is_name = isinstance(name_or_path, str) and path.name == name_or_path and not path.suffix
    file, card_file = _files(FOLDER / path if is_name and name_or_path in shipped() else path)
    if not file.is_file():
        raise FileNotFoundError(
            f"name_or_path must name shipped weights ({', '.join(shipped()) or 'none'}) or an existing "
            f"safetensors file, got {os.fspath(name_or_path)!r}; no file {file}"
        )
    if not card_file.is_file():
        raise FileNotFoundError(f"weights {file} need their card {card_file}, which does not exist")
    return file, card_file


def _parsed(card_file: Path) -> dict[str, Any]:
    try:
        card = json.loads(card_file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"card {card_file} is truncated or altered: {error}") from error
    needed = ("format", "architecture", "sha256")
    if not isinstance(card, dict) or any(key not in card for key in needed):
        raise ValueError(f"card {card_file} is altered: it must have the entries {', '.join(needed)}")
    if card["format"] != FORMAT:
        raise ValueError(f"card {card_file} must have format {FORMAT}, got {card['format']!r}: update genreg")
    return card
