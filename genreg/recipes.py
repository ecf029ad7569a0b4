"""The recipes of the shipped weights: ``genreg train NAME`` makes them again.

A recipe takes 3 to 8 minutes of one CPU core, "disc-vae" half an hour. Larger models are trained by the
same two calls: build a configuration of `genreg.networks` with more channels or wider layers, and give
`genreg.training.fit` more steps, on a GPU if there is one (put the model there; the images follow).
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from genreg import _discs_recipe, weights
from genreg.datasets import mnist, shapes
from genreg.networks import Architecture, Autoencoder, ConvConfig, DenseConfig, RegionsConfig
from genreg.training import Sampler, evaluate, fit, latent_statistics, range_error, whiten

__all__ = ["RECIPES", "Data", "Recipe", "train"]


@dataclass(frozen=True)
class Data:
    """Images to train on and to measure with.

    Parameters
    ----------
    description
        What the images are, in words, for the card.
    training
        Function without arguments that returns the training images ``(N, n, m)``, or a sampler ``f(n, *,
        seed)``.
    validation, test
        Functions without arguments that return held-out images ``(N, n, m)``: those whose scores the history
        shows, and those of the score on the card.
    """

    description: str
    training: Callable[[], Tensor | Sampler]
    validation: Callable[[], Tensor]
    test: Callable[[], Tensor]


@dataclass(frozen=True)
class Recipe:
    """How shipped weights are made.

    Parameters
    ----------
    architecture
        Configuration of the model.
    data
        The images.
    settings
        Keyword arguments of `genreg.training.fit`.
    whitened
        Whether the latent space is normalised after the training (`genreg.training.whiten`).
    half
        Whether the weights are stored in half precision.
    mixed
        Whether the layers compute in bfloat16 in training (autocast): twice as fast on CPUs that can.
    refine
        Function ``f(model, quick, progress)`` that goes on with the model and returns entries of the card.
    """

    architecture: Architecture
    data: Data
    settings: Mapping[str, Any] = field(default_factory=dict)
    whitened: bool = False
    half: bool = True
    mixed: bool = False
    refine: Callable[[Autoencoder, bool, bool], Mapping[str, Any]] | None = None


_SHAPES = Data(
    description="56 x 56 images of a disc and a rectangle (genreg.datasets.shapes), new ones in every step",
    training=lambda: shapes,
    validation=lambda: shapes(1000, seed=2**40),
    test=lambda: shapes(1000, seed=2**40 + 1),
)
_MNIST = Data(
    description="MNIST (LeCun, Cortes, Burges; CC BY-SA 3.0), the first 58,000 training images",
    training=lambda: mnist(train=True)[0][:58_000],
    validation=lambda: mnist(train=True)[0][58_000:],
    test=lambda: mnist(train=False)[0],
)

_DISCS = Data(
    description=(
        "64 x 64 images of acrylic discs with holes (genreg.datasets.discs_with_holes, seed 2, jitter 0.2 mm), "
        "39,000 of them, turned by quarters and mirrored at random"
    ),
    training=_discs_recipe.training_images,
    validation=lambda: _discs_recipe.held_out(0),
    test=lambda: _discs_recipe.held_out(1),
)

_REGIONS = RegionsConfig(image_shape=(56, 56), latent_dim=10, maximum=0.5)

RECIPES: dict[str, Recipe] = {
    "shapes-vae": Recipe(
        architecture=_REGIONS,
        settings={"steps": 12_000, "batch_size": 128, "lr": 1e-3, "warmup": 200, "kl_weight": 20.0},
        whitened=True,
        data=_SHAPES,
    ),
    "shapes-ae": Recipe(
        architecture=replace(_REGIONS, variational=False, encoder=(64, 256)),
        settings={"steps": 10_000, "batch_size": 128, "lr": 1e-3, "warmup": 200},
        whitened=True,
        data=_SHAPES,
    ),
    "mnist-vae": Recipe(
        architecture=ConvConfig(image_shape=(28, 28), latent_dim=8, channels=(16, 32)),
        settings={"steps": 12_000, "batch_size": 128, "lr": 1e-3, "warmup": 200},
        whitened=True,
        data=_MNIST,
    ),
    "mnist-vae-dense": Recipe(
        architecture=DenseConfig(image_shape=(28, 28), latent_dim=8),
        settings={"steps": 15_000, "batch_size": 128, "lr": 1e-3, "warmup": 200, "input_noise": 15 / 255},
        whitened=True,
        data=_MNIST,
    ),
    "disc-vae": Recipe(
        architecture=_discs_recipe.ARCHITECTURE,
        settings={
            "steps": 3000,
            "batch_size": 32,
            "lr": 2e-3,
            "warmup": 200,
            "kl_warmup": 1000,
            "clip": 4000.0,
            "weight_decay": 1e-4,
        },
        whitened=True,
        data=_DISCS,
        mixed=True,
        refine=_discs_recipe.encode_limited_angles,
    ),
}
"""The recipes by the name of the weights."""


def train(
    name: str,
    out: str | os.PathLike[str] = ".",
    resume: bool = False,
    *,
    device: torch.device | str = "cpu",
    quick: bool = False,
    progress: bool = True,
) -> Path:
    """Train a model by a recipe and write its weights and card.

    Parameters
    ----------
    name
        Name of the recipe, a key of `RECIPES`.
    out
        Folder for ``NAME.safetensors``, ``NAME.json`` and, until the run is complete, ``NAME.checkpoint``.
    resume
        Whether to continue from the checkpoint in `out`, if there is one.
    device
        Device to train on.
    quick
        Whether to train for 20 steps only, to try things out; the card says so.
    progress
        Whether to show a progress bar.

    Returns
    -------
    Path
        The safetensors file, which `genreg.weights.load` reads.

    Raises
    ------
    ValueError
        If there is no such recipe, or the checkpoint belongs to a run with other settings.
    FileNotFoundError
        If the training images are missing (`genreg.datasets.mnist`).
    """
    if name not in RECIPES:
        raise ValueError(f"name must be one of {sorted(RECIPES)}, got {name!r}")
    recipe = RECIPES[name]
    settings = {"seed": 0, **recipe.settings} | ({"steps": 20} if quick else {})
    checkpoint = Path(out) / f"{name}.checkpoint"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings["seed"])
        model = recipe.architecture.build().to(device)
    images, validation, test = recipe.data.training(), recipe.data.validation(), recipe.data.test().to(device)
    # without its cache, which would go on with the weights of the first step
    mixed = torch.autocast(torch.device(device).type, torch.bfloat16, recipe.mixed, cache_enabled=False)
    with mixed:
        card = fit(
            model,
            images,
            validation=validation,
            checkpoint=checkpoint,
            resume=resume,
            progress=progress,
            **settings,
        )
    if recipe.whitened:
        whiten(model, (images if isinstance(images, Tensor) else images(10_000, seed=2**40 + 2)).to(device))
    if recipe.refine is not None:
        card = {**card, **recipe.refine(model, quick, progress)}
    card = {"name": name, "data": recipe.data.description, "quick": quick, **card}
    file, _ = weights.save(Path(out) / name, model, card, half=recipe.half)
    model, _ = weights.load(file, device=device)  # the scores are those of the weights as stored
    card["score"] = {
        **evaluate(model, test),
        **range_error(model, test[:100], steps=20 if quick else 1000),
        "images": len(test),
        "range_images": min(100, len(test)),
    }
    card["latent"] = latent_statistics(model, test)
    weights.save(file, model, card, half=recipe.half)
    checkpoint.unlink()
    return file
