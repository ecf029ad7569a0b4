"""The recipes of the shipped weights, and of the paper's own models: ``genreg train NAME`` makes them.

A recipe of shipped weights takes 2 to 8 minutes of one CPU core, "disc-vae" half an hour, "brain-supn-complex" with its
mean, "brain-vae-complex", about as long. Those whose names end in "-duff" have the architectures and settings of Duff,
Campbell and Ehrhardt (2021), "celeba" those of González, Almansa and Tan (2021) for faces, whose images have to lie in
``$GENREG_DATA/celeba``; they want a GPU.
Other models are trained by the same calls: build a configuration of `genreg.networks`, and give it to
`genreg.training.fit` or `genreg.training.fit_gan`, on a GPU if there is one (put the model there; the images
follow).
"""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from genreg import weights
from genreg.networks import (
    GAN,
    Autoencoder,
    ConvConfig,
    DenseConfig,
    GanConfig,
    RegionsConfig,
    StructuredConfig,
)
from genreg.networks.borrowed import seeded
from genreg.recipes import discs, gradients
from genreg.recipes.brains_and_leaves import BRAINS_AND_LEAVES
from genreg.recipes.papers import PAPER
from genreg.recipes.recipe import (
    DISCS,
    GRADIENTS,
    MNIST,
    SHAPES,
    Data,
    Recipe,
)
from genreg.recipes.structured import StructuredRecipe, train_precision
from genreg.training.autoencoder import fit
from genreg.training.gan import fit_gan
from genreg.training.model_scores import evaluate, latent_statistics, range_error, whiten
from genreg.training.settings import check_files

__all__ = ["RECIPES", "Data", "Recipe", "train"]


def _critic(image_shape: tuple[int, ...], widths: tuple[int, ...]) -> DenseConfig:
    """Return a configuration whose encoder is a critic.

    A fully connected critic makes the generator cover the images better than one of convolutions: on MNIST,
    after 1,000 steps with the same rates, the range came 2.4 dB nearer to held-out images.
    """
    return DenseConfig(
        image_shape=image_shape, latent_dim=1, variational=False, encoder=widths, activation="leaky_relu"
    )


_REGIONS = RegionsConfig(image_shape=(56, 56), latent_dim=10, maximum=0.5)
_CONV = ConvConfig(image_shape=(28, 28), latent_dim=8, channels=(16, 32))
_MNIST_SUPN = StructuredRecipe(
    mean="mnist-vae",
    architecture=StructuredConfig(mean=_CONV, channels=(16, 32), distance=2),
    settings={"steps": 3000, "batch_size": 64, "lr": 2e-3, "warmup": 100},
    data=MNIST,
)
RECIPES: dict[str, Recipe | StructuredRecipe] = {
    **PAPER,
    "shapes-vae": Recipe(
        architecture=_REGIONS,
        settings={"steps": 12_000, "batch_size": 128, "lr": 1e-3, "warmup": 200, "kl_weight": 20.0},
        whitened=True,
        data=SHAPES,
    ),
    "shapes-ae": Recipe(
        architecture=replace(_REGIONS, variational=False, encoder=(64, 256)),
        settings={"steps": 10_000, "batch_size": 128, "lr": 1e-3, "warmup": 200},
        whitened=True,
        data=SHAPES,
    ),
    "shapes-gan": Recipe(
        architecture=GanConfig(generator=_REGIONS, critic=_critic((56, 56), (256, 256))),
        settings={"steps": 2500, "lr": 1e-3, "schedule": "cosine", "ema": 0.999},
        data=SHAPES,
        mixed=True,
    ),
    "mnist-vae": Recipe(
        architecture=_CONV,
        settings={"steps": 12_000, "batch_size": 128, "lr": 1e-3, "warmup": 200},
        whitened=True,
        data=MNIST,
    ),
    "mnist-ae": Recipe(
        architecture=replace(_CONV, variational=False),
        settings={"steps": 4000, "batch_size": 128, "lr": 2e-3, "warmup": 200},
        whitened=True,
        data=MNIST,
        mixed=True,
    ),
    "mnist-gan": Recipe(
        architecture=GanConfig(generator=_CONV, critic=_critic((28, 28), (512, 512))),
        settings={"steps": 4500, "critic_steps": 3, "lr": 1e-3, "schedule": "cosine", "ema": 0.999},
        data=MNIST,
        mixed=True,
    ),
    "mnist-vae-dense": Recipe(
        architecture=DenseConfig(image_shape=(28, 28), latent_dim=8),
        settings={"steps": 15_000, "batch_size": 128, "lr": 1e-3, "warmup": 200, "input_noise": 15 / 255},
        whitened=True,
        data=MNIST,
    ),
    **{
        f"gradients-{n}-vae": Recipe(
            architecture=gradients.ARCHITECTURE,
            settings={"steps": 15_000, "batch_size": 128, "lr": 1e-3, "warmup": 200},
            whitened=True,
            data=data,
            mixed=True,
        )
        for n, data in GRADIENTS.items()
    },
    "disc-vae": Recipe(
        architecture=discs.ARCHITECTURE,
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
        data=DISCS,
        mixed=True,
        refine=discs.encode_limited_angles,
    ),
    "mnist-supn": _MNIST_SUPN,
    "mnist-diagonal": _MNIST_SUPN.diagonal(),
    **BRAINS_AND_LEAVES,
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
        Folder for ``NAME.safetensors``, ``NAME.json`` and, until the run is complete, ``NAME.checkpoint``, written
        every two minutes, and ``NAME.refine_checkpoint`` for recipes that go on with the encoder.
    resume
        Whether to continue from the checkpoint in `out`, if there is one. Without, one that is there is refused.
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
        If there is no such recipe, or the checkpoint can't be read or belongs to another run.
    FileExistsError
        If there is a checkpoint and `resume` is not set.
    KeyboardInterrupt
        At Ctrl-C, with a checkpoint.
    FileNotFoundError
        If the training images are missing (`genreg.datasets.mnist`; for "celeba" the folder of images).
    """
    if name not in RECIPES:
        raise ValueError(f"name must be one of {sorted(RECIPES)}, got {name!r}")
    recipe = RECIPES[name]
    if isinstance(recipe, StructuredRecipe):
        return train_precision(name, recipe, Path(out), resume, device=device, quick=quick, progress=progress)
    settings = {"seed": 0, **recipe.settings} | ({"steps": 20} if quick else {})
    checkpoint, refinement = (Path(out) / f"{name}.{kind}checkpoint" for kind in ("", "refine_"))
    check_files(resume, checkpoint, refinement)
    with seeded(settings["seed"]):
        model = recipe.architecture.build().to(device)
    if recipe.start is not None and isinstance(model, Autoencoder):
        recipe.start(model)
    images, validation, test = recipe.data.training(), recipe.data.validation(), recipe.data.test().to(device)
    # without its cache, which would go on with the weights of the first step
    mixed = torch.autocast(torch.device(device).type, torch.bfloat16, recipe.mixed, cache_enabled=False)
    run: dict[str, Any] = {
        "validation": validation,
        "checkpoint": checkpoint,
        "resume": resume,
        "progress": progress,
        **settings,
    }
    with mixed:
        card = fit_gan(model, images, **run) if isinstance(model, GAN) else fit(model, images, **run)
    if recipe.whitened and isinstance(model, Autoencoder):
        whiten(model, (images if isinstance(images, Tensor) else images(10_000, seed=2**40 + 2)).to(device))
    if recipe.refine is not None and isinstance(model, Autoencoder):
        card = {**card, **recipe.refine(model, quick, progress, refinement, resume)}
    card = {"name": name, "data": recipe.data.description, "quick": quick, **card}
    file, _ = weights.save(Path(out) / name, model, card, half=recipe.half)
    stored: Any = weights.load(file, device=device)[0]
    card |= _scores(stored, test, recipe.range_images, quick)  # of the weights as stored
    weights.save(file, model, card, half=recipe.half)
    checkpoint.unlink()
    refinement.unlink(missing_ok=True)
    return file


def _scores(model: Autoencoder | GAN, test: Tensor, range_images: int, quick: bool) -> dict[str, Any]:
    """Return the entries of the card that say how good a model is."""
    few = test[:range_images]
    if isinstance(model, GAN):
        descent: dict[str, Any] = {"steps": 20, "restarts": 2} if quick else {"steps": 300, "restarts": 16}
        score = range_error(model, few, lr=0.1, **descent)
        return {"score": {**score, "restarts": descent["restarts"], "range_images": len(few)}}
    score = {**evaluate(model, test), **range_error(model, few, steps=20 if quick else 1000)}
    return {
        "score": {**score, "images": len(test), "range_images": len(few)},
        "latent": latent_statistics(model, test),
    }
