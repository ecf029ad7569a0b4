"""Recipes of structured models: a head for the precision, on a mean that has its own recipe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from genreg import weights
from genreg.networks import Autoencoder, StructuredConfig
from genreg.networks.borrowed import seeded
from genreg.recipes.recipe import Data
from genreg.training.gaussian_likelihood import fit_scale, likelihood
from genreg.training.precision import fit_precision
from genreg.training.settings import check_files


@dataclass(frozen=True)
class StructuredRecipe:
    """How the weights of a structured model are made.

    Parameters
    ----------
    mean
        Name of the weights of the mean model: those in the folder that is written to, or shipped ones.
    architecture
        Configuration of the model.
    data
        The images for the head.
    settings
        Keyword arguments of `genreg.training.fit_precision`.
    joint
        Keyword arguments of a second call with ``joint=True``; none where empty.
    half
        Whether the weights are stored in half precision.
    mixed
        Whether the layers compute in bfloat16 in training (autocast).
    scaled
        Whether the factor is multiplied in the end by the number under which the validation images are most likely.
    """

    mean: str
    architecture: StructuredConfig
    data: Data
    settings: Mapping[str, Any] = field(default_factory=dict)
    joint: Mapping[str, Any] = field(default_factory=dict)
    half: bool = True
    mixed: bool = False
    scaled: bool = False

    def diagonal(self) -> StructuredRecipe:
        """Return the recipe of the same model with a diagonal precision."""
        return replace(self, architecture=replace(self.architecture, distance=0, dilation=1, coupled=False))


def train_precision(
    name: str,
    recipe: StructuredRecipe,
    out: Path,
    resume: bool,
    *,
    device: torch.device | str,
    quick: bool,
    progress: bool,
) -> Path:
    """Train a structured model by its recipe; see `genreg.recipes.train`, which calls this."""
    stages = [("", recipe.settings)] + ([("joint_", {"joint": True, **recipe.joint})] if recipe.joint else [])
    checkpoints = [out / f"{name}.{prefix}checkpoint" for prefix, _ in stages]
    check_files(resume, *checkpoints)
    beside = out / f"{recipe.mean}.safetensors"
    mean, mean_card = weights.load(beside if beside.exists() else recipe.mean, device=device)
    assert isinstance(mean, Autoencoder)
    images, validation = recipe.data.training(), recipe.data.validation().to(device)
    test = recipe.data.test().to(device)
    with seeded(recipe.settings.get("seed", 0)):
        model = recipe.architecture.grow(mean)
    card: dict[str, Any] = {
        "name": name,
        "data": recipe.data.description,
        "quick": quick,
        "mean": {"name": recipe.mean, "sha256": mean_card["sha256"]},
    }
    for (prefix, settings), checkpoint in zip(stages, checkpoints, strict=True):
        with torch.autocast(torch.device(device).type, torch.bfloat16, recipe.mixed, cache_enabled=False):
            entries = fit_precision(
                model,
                images,
                **({"seed": 0, **settings} | ({"steps": 20} if quick else {})),
                validation=validation,
                checkpoint=checkpoint,
                resume=resume,
                progress=progress,
            )
        card |= {f"{prefix}{key}": value for key, value in entries.items()}
    card["validation"] = card.pop("joint_score", card["score"])
    if recipe.scaled:
        card["scale"] = fit_scale(model, validation)
    shared = None if recipe.joint else recipe.mean
    file, _ = weights.save(out / name, model, card, half=recipe.half, shared=shared)
    stored: Any = weights.load(file, device=device)[0]
    card["score"] = {**_scores(stored, test), "images": len(test)}  # of the weights as stored
    weights.save(file, model, card, half=recipe.half, shared=shared)
    for checkpoint in checkpoints:
        checkpoint.unlink()
    return file


def _scores(model: Autoencoder, test: Tensor) -> dict[str, float]:
    return {**likelihood(model, test), "gamma": model.log_gamma.exp().item()}
