"""Trained weights: a safetensors file and, beside it, a card in JSON.

``NAME.safetensors`` holds the tensors of a model, ``NAME.json`` the card: the architecture from which
`genreg.networks.build` makes the model, data, training settings, scores, and the SHA-256 of the safetensors
file. Models that share parts, such as precisions of one mean, need not repeat them: the card then names the weights,
in the same folder or shipped, that have the other tensors, with their SHA-256.
"""

import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from genreg.networks import GAN, AdaptedConfig, Autoencoder, Critic, Denoiser, Flow, GaussianRegressor, build
from genreg.operators.bridge.arguments import check_path
from genreg.solvers.checkpoints import atomically

__all__ = ["load", "read_card", "save", "shipped"]

FOLDER = Path(__file__).parent
FORMAT = 1


def shipped() -> list[str]:
    """Return the names of the weights that come with the package."""
    return sorted(path.stem for path in FOLDER.glob("*.safetensors"))


def save(
    path: str | os.PathLike[str],
    model: Autoencoder | Critic | Denoiser | Flow | GAN | GaussianRegressor,
    card: Mapping[str, Any],
    *,
    half: bool = False,
    shared: str | None = None,
) -> tuple[Path, Path]:
    """Write the weights of a model and their card, each file atomically.

    Models of double precision throughout are kept in it, of which the card tells; all others are kept in single.

    Parameters
    ----------
    path
        Where to write: ``folder/NAME`` or ``folder/NAME.safetensors``.
    model
        The model.
    card
        JSON-able entries of the card, for example what `genreg.training.fit` returned. "architecture",
        "parameters" (their number), "precision", "format" and "sha256" are filled in.
    half
        Whether to store the weights in half precision; `load` gives single precision in any case. The
        logarithm of gamma keeps its precision.
    shared
        Name of other weights, in that folder or shipped, whose tensors are left out where the model has the same ones.

    Returns
    -------
    tuple of Path
        The safetensors file and the card.

    Raises
    ------
    TypeError
        If the card has an entry that JSON can't represent.
    ValueError
        If a weight is NaN or infinite (or overflows in half precision), a number of the card is not finite, or the
        model is made by another library, wholly or in part.
    """
    from safetensors.torch import save as to_bytes

    file, card_file = _files(Path(path))
    config: Any = model.config
    if isinstance(getattr(config, "mean", config), AdaptedConfig):
        raise ValueError(
            "model must be one that genreg builds, to be made again from its card, got one of another library: keep "
            "that as its library does, and a head of its precision as model.head.state_dict()"
        )
    tensors = {}
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    double = not half and all(t.dtype == torch.float64 for t in state.values() if t.is_floating_point())
    for name, tensor in state.items():
        stored = tensor if double else _single(tensor)
        if half and stored.dtype == torch.float32 and stored.ndim > 0:
            stored = stored.half()
        if not torch.isfinite(stored).all():
            raise ValueError(f"model must have finite weights, got NaN or infinity in {name!r}")
        tensors[name] = stored
    common = {}
    if shared is not None:
        other, digest = _tensors(_beside(shared, file))
        common = {"shared": {"name": shared, "sha256": digest}}
        tensors = {name: t for name, t in tensors.items() if not _same(t, other.get(name))}
    content = to_bytes(tensors)
    entries = {
        **{key: value for key, value in card.items() if key != "shared"},
        **common,
        "format": FORMAT,
        "architecture": model.config.to_dict(),
        "parameters": sum(p.numel() for p in model.parameters()),
        "precision": "float64" if double else "float32",
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    text = json.dumps(entries, indent=2, allow_nan=False) + "\n"
    atomically(file, lambda target: target.write_bytes(content))
    atomically(card_file, lambda target: target.write_text(text, encoding="utf-8"))
    return file, card_file


def load(
    name_or_path: str | os.PathLike[str], *, device: torch.device | str = "cpu"
) -> tuple[Autoencoder | Critic | Denoiser | Flow | GAN | GaussianRegressor, dict[str, Any]]:
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
    model : Autoencoder, Critic, Denoiser, Flow, GAN or GaussianRegressor
        The model in evaluation mode and in single precision, or in double where its card says so.
    card : dict
        Its card.

    Raises
    ------
    FileNotFoundError
        If there is no such file, or no card beside it; the message lists the shipped names.
    ValueError
        If a file is truncated or altered, the card is not one, or the weights don't fit the architecture, are not of
        the precision that the card tells, single or half by default, or not finite.
    """
    file, card_file = _located(name_or_path)
    card = _parsed(card_file)
    tensors, _ = _tensors(file, card["sha256"])
    if "shared" in card:
        other = card["shared"]
        tensors = _tensors(_beside(other["name"], file, other["sha256"]))[0] | tensors
    try:
        with torch.device("meta"):  # the random weights of a fresh model are never made
            model = build(card["architecture"])
    except Exception as error:  # numbers that pass for sizes and are none raise whatever the layers do
        raise ValueError(f"card {card_file} must describe an architecture: {error}") from error
    double = card.get("precision", "float32") == "float64"
    if fault := _misfit((model.double() if double else model.float()).state_dict(), tensors):
        raise ValueError(f"weights {file} don't fit the architecture of their card: {fault}")
    state = {name: (tensor if double else _single(tensor)).to(device) for name, tensor in tensors.items()}
    model.load_state_dict(state, assign=True)
    return model.eval(), card


def _tensors(file: Path, digest: str | None = None) -> tuple[dict[str, Tensor], str]:
    """The tensors of a file, and its SHA-256, which must be `digest` where that is given."""
    from safetensors.torch import load as from_bytes

    content = file.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if digest not in (None, found):
        raise ValueError(
            f"weights {file} are truncated or altered: their SHA-256 must be {digest} by the card, "
            f"got {found} ({len(content)} bytes)"
        )
    try:
        return from_bytes(content), found
    except Exception as error:  # of a data type that torch has not, for instance
        raise ValueError(f"weights {file} must be a safetensors file: {error}") from error


def _beside(name: str, file: Path, digest: str | None = None) -> Path:
    """The file of other weights, in the same folder or shipped, by the name and SHA-256 that a card has."""
    if Path(name).name != name:
        raise ValueError(f"shared must be the name of weights in the same folder, or shipped, got {name!r}")
    candidates = [folder / f"{name}.safetensors" for folder in (file.parent, FOLDER)]
    found = [candidate for candidate in candidates if candidate.is_file()]
    for candidate in found:
        if digest in (None, hashlib.sha256(candidate.read_bytes()).hexdigest()):
            return candidate
    if found:
        raise ValueError(
            f"weights {file} share tensors with {name!r} of the SHA-256 {digest}, which {found[0]} has not"
        )
    raise FileNotFoundError(
        f"weights {file} share tensors with {name!r}, but there is no file {candidates[0]}"
    )


def _same(a: Tensor, b: Tensor | None) -> bool:
    return b is not None and a.dtype == b.dtype and torch.equal(a, b)


def _misfit(expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> str:
    """Say what of the tensors is not as a model wants it; empty where they fit."""
    for name, tensor in expected.items():
        if name not in found:
            return f"there is no {name!r}"
        kinds = (torch.float32, torch.float16) if tensor.dtype == torch.float32 else (tensor.dtype,)
        got = found[name]
        if got.dtype not in kinds:
            names = " or ".join(str(kind).removeprefix("torch.") for kind in kinds)
            return f"{name!r} must be {names}, got {str(got.dtype).removeprefix('torch.')}"
        if got.shape != tensor.shape:
            return f"{name!r} must have the shape {tuple(tensor.shape)}, got {tuple(got.shape)}"
        if not bool(torch.isfinite(got).all()):
            return f"{name!r} must be finite, got NaN or infinity"
    more = sorted(found.keys() - expected.keys())
    return f"there are {', '.join(map(repr, more))}, which it has not" if more else ""


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
    return tensor.float() if tensor.dtype in (torch.float16, torch.float64) else tensor


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
    except (ValueError, RecursionError) as error:
        raise ValueError(f"card {card_file} is truncated or altered: {error}") from error
    needed = ("format", "architecture", "sha256")
    if not isinstance(card, dict) or any(key not in card for key in needed):
        raise ValueError(f"card {card_file} is altered: it must have the entries {', '.join(needed)}")
    if type(card["format"]) is not int or card["format"] != FORMAT:
        raise ValueError(f"card {card_file} must have format {FORMAT}, got {card['format']!r}: update genreg")
    if not isinstance(card["architecture"], dict):
        raise ValueError(f"card {card_file} must describe an architecture, got {card['architecture']!r}")
    if card.get("precision", "float32") not in ("float32", "float64"):
        raise ValueError(
            f"card {card_file} must have precision 'float32' or 'float64', got {card['precision']!r}"
        )
    shared = card.get("shared", {"name": "", "sha256": card["sha256"]})
    if not isinstance(shared, dict) or not isinstance(shared.get("name"), str):
        raise ValueError(f"card {card_file} must name the weights it shares, got {shared!r}")
    for digest in (card["sha256"], shared.get("sha256")):
        if not isinstance(digest, str) or not re.fullmatch("[0-9a-f]{64}", digest):
            raise ValueError(f"card {card_file} must have 64 hexadecimal digits as sha256, got {digest!r}")
    return card
