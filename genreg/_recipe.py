"""What a recipe is, and the images of all recipes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from genreg import _celeba_recipe, _discs_recipe
from genreg.datasets import mnist, shapes
from genreg.networks import Architecture, Autoencoder, GanConfig
from genreg.training import Sampler

__all__ = ["CELEBA", "DISCS", "MNIST", "SHAPES", "Data", "Recipe"]


@dataclass(frozen=True)
class Data:
    """Images to train on and to measure with.

    Parameters
    ----------
    description
        What the images are, in words, for the card.
    training
        Function without arguments that returns the training images ``(N, *image_shape)``, or a sampler
        ``f(n, *, seed)``.
    validation, test
        Functions without arguments that return held-out images ``(N, *image_shape)``: those whose scores
        the history shows, and those of the score on the card.
    """

    description: str
    training: Callable[[], Tensor | Sampler]
    validation: Callable[[], Tensor]
    test: Callable[[], Tensor]


@dataclass(frozen=True)
class Recipe:
    """How weights are made.

    Parameters
    ----------
    architecture
        Configuration of the model.
    data
        The images.
    settings
        Keyword arguments of `genreg.training.fit`, or of `genreg.adversarial.fit` for a GAN.
    whitened
        Whether the latent space is normalised after the training (`genreg.training.whiten`); autoencoders only.
    half
        Whether the weights are stored in half precision.
    mixed
        Whether the layers compute in bfloat16 in training (autocast): twice as fast on CPUs that can.
    refine
        Function ``f(model, quick, progress)`` that goes on with the model and returns entries of the card;
        autoencoders only.
    """

    architecture: Architecture | GanConfig
    data: Data
    settings: Mapping[str, Any] = field(default_factory=dict)
    whitened: bool = False
    half: bool = True
    mixed: bool = False
    refine: Callable[[Autoencoder, bool, bool], Mapping[str, Any]] | None = None


SHAPES = Data(
    description="56 x 56 images of a disc and a rectangle (genreg.datasets.shapes), new ones in every step",
    training=lambda: shapes,
    validation=lambda: shapes(1000, seed=2**40),
    test=lambda: shapes(1000, seed=2**40 + 1),
)
MNIST = Data(
    description="MNIST (LeCun, Cortes, Burges; CC BY-SA 3.0), the first 58,000 training images",
    training=lambda: mnist(train=True)[0][:58_000],
    validation=lambda: mnist(train=True)[0][58_000:],
    test=lambda: mnist(train=False)[0],
)

DISCS = Data(
    description=(
        "64 x 64 images of acrylic discs with holes (genreg.datasets.discs_with_holes, seed 2, jitter 0.2 mm), "
        "39,000 of them, turned by quarters and mirrored at random"
    ),
    training=_discs_recipe.training_images,
    validation=lambda: _discs_recipe.held_out(0),
    test=lambda: _discs_recipe.held_out(1),
)

CELEBA = Data(
    description=(
        "CelebA (Liu, Luo, Wang, Tang 2015), aligned faces from $GENREG_DATA/celeba, the first 80 % by name, the "
        "middle 108 x 108 pixels reduced to 64 x 64"
    ),
    training=_celeba_recipe.training_images,
    validation=lambda: _celeba_recipe.held_out(0),
    test=lambda: _celeba_recipe.held_out(1),
)
