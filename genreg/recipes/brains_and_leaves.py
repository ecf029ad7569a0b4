"""The recipes of brains, and of priors for images of any size."""

from __future__ import annotations

from functools import partial

from genreg.networks import StructuredConfig
from genreg.recipes import any_size, brain, complex_brain
from genreg.recipes.recipe import (
    BRAIN,
    BRAIN_CROPS,
    BRAIN_HEAD,
    BRAIN_HEAD_CROPS,
    COMPLEX_BRAIN,
    COMPLEX_BRAIN_HEAD,
    LEAVES,
    NOISY_LEAVES,
    Data,
    Recipe,
)
from genreg.recipes.structured import StructuredRecipe

_LARGE = {"clip": 4000.0, "weight_decay": 1e-4}
_BRAIN_SUPN = StructuredRecipe(
    mean="brain-vae",
    architecture=StructuredConfig(mean=brain.ARCHITECTURE, channels=(16, 32, 48), distance=2),
    settings={"steps": 1500, "batch_size": 8, "lr": 2e-3, "warmup": 100},
    data=BRAIN_HEAD,
    mixed=True,
)
_COMPLEX_SUPN = StructuredRecipe(
    mean="brain-vae-complex",
    architecture=StructuredConfig(
        mean=complex_brain.ARCHITECTURE, channels=(16, 32, 48), distance=2, coupled=True
    ),
    settings={"steps": 800, "batch_size": 8, "lr": 2e-3, "warmup": 100, "keep_best": True},
    data=COMPLEX_BRAIN_HEAD,
    mixed=True,
)


def _any_size_mean(architecture: StructuredConfig, data: Data) -> Recipe:
    """Return the recipe of encoder and mean of a model for images of any size."""
    return Recipe(
        architecture=architecture.mean,
        settings={
            "steps": 3000,
            "batch_size": 16,
            "lr": 2e-3,
            "warmup": 100,
            "kl_warmup": 300,
            "clip": 100.0,
        },
        data=data,
        range_images=2,
    )


def _any_size(mean: str, architecture: StructuredConfig, data: Data) -> StructuredRecipe:
    """Return the recipe of a structured model for images of any size: the head, then everything together."""
    shared = {"batch_size": 8, "clip": 1000.0, "warmup": 50}
    return StructuredRecipe(
        mean=mean,
        architecture=architecture,
        settings={"steps": 1200, "lr": 2e-3, **shared},
        joint={"steps": 3000, "lr": 5e-4, **shared},
        data=data,
        scaled=True,
    )


BRAINS_AND_LEAVES: dict[str, Recipe | StructuredRecipe] = {
    "brain-vae": Recipe(
        architecture=brain.ARCHITECTURE,
        settings={"steps": 3000, "batch_size": 16, "lr": 1e-3, "warmup": 300, "kl_warmup": 500, **_LARGE},
        whitened=True,
        data=BRAIN,
        mixed=True,
        range_images=10,
        start=brain.darken,
        refine=brain.fit_noise,
    ),
    "brain-supn": _BRAIN_SUPN,
    "brain-diagonal": _BRAIN_SUPN.diagonal(),
    "brain-vae-any": _any_size_mean(any_size.BRAIN, BRAIN_CROPS),
    "brain-supn-any": _any_size("brain-vae-any", any_size.BRAIN, BRAIN_HEAD_CROPS),
    "images-vae": _any_size_mean(any_size.LEAVES, LEAVES),
    "images-supn": _any_size("images-vae", any_size.LEAVES, NOISY_LEAVES),
    "brain-vae-complex": Recipe(
        architecture=complex_brain.ARCHITECTURE,
        settings={
            **{
                "steps": 2500,
                "batch_size": 8,
                "lr": 2e-3,
                "warmup": 200,
                "kl_warmup": 300,
                "keep_best": True,
            },
            **_LARGE,
        },
        data=COMPLEX_BRAIN,
        mixed=True,
        range_images=2,
        start=complex_brain.lay_out,
        refine=partial(brain.fit_noise, images_from=complex_brain.head_images),
    ),
    "brain-supn-complex": _COMPLEX_SUPN,
    "brain-diagonal-complex": _COMPLEX_SUPN.diagonal(),
}
"""The recipes by the name of the weights."""
