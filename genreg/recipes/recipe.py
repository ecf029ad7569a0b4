"""What a recipe is, and the images of all recipes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from genreg.datasets import mnist, shapes
from genreg.networks import Architecture, Autoencoder, GanConfig
from genreg.recipes import any_size, brain, celeba, complex_brain, discs, gradients
from genreg.training.batches import Sampler


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
        Keyword arguments of `genreg.training.fit`, or of `genreg.training.fit_gan` for a GAN.
    whitened
        Whether the latent space is normalised after the training (`genreg.training.whiten`); autoencoders only.
    half
        Whether the weights are stored in half precision.
    mixed
        Whether the layers compute in bfloat16 in training (autocast): twice as fast on CPUs that can.
    range_images
        Number of test images for the distance of the range of the decoder.
    start
        Function ``f(model)`` that changes the random weights before the training.
    refine
        Function ``f(model, quick, progress, checkpoint, resume)`` that goes on with the model and returns entries of
        the card; where it takes long it keeps its state in the file `checkpoint`. Autoencoders only.
    """

    architecture: Architecture | GanConfig
    data: Data
    settings: Mapping[str, Any] = field(default_factory=dict)
    whitened: bool = False
    half: bool = True
    mixed: bool = False
    range_images: int = 100
    start: Callable[[Autoencoder], None] | None = None
    refine: Callable[[Autoencoder, bool, bool, Path, bool], Mapping[str, Any]] | None = None


def _itself(sampler: Sampler) -> Sampler:
    return sampler


def _digits(train: bool, first: int, last: int) -> Tensor:
    return mnist(train=train)[0][first:last]


SHAPES = Data(
    description="56 x 56 images of a disc and a rectangle (genreg.datasets.shapes), new ones in every step",
    training=partial(_itself, shapes),
    validation=partial(shapes, 1000, seed=2**40),
    test=partial(shapes, 1000, seed=2**40 + 1),
)
MNIST = Data(
    description="MNIST (LeCun, Cortes, Burges; CC BY-SA 3.0), the first 58,000 training images",
    training=partial(_digits, True, 0, 58_000),
    validation=partial(_digits, True, 58_000, 60_000),
    test=partial(_digits, False, 0, 10_000),
)


def _gradients(directions: int) -> Data:
    return Data(
        description=(
            "MNIST (LeCun, Cortes, Burges; CC BY-SA 3.0), the first 58,000 training images, each under an intensity "
            f"ramp of one of {directions} directions (genreg.datasets.gradient_digits), drawn anew in every step"
        ),
        training=partial(gradients.training_images, directions),
        validation=partial(gradients.held_out, directions, test=False),
        test=partial(gradients.held_out, directions, test=True),
    )


GRADIENTS = {directions: _gradients(directions) for directions in (2, 4)}

DISCS = Data(
    description=(
        "64 x 64 images of acrylic discs with holes (genreg.datasets.discs_with_holes, seed 2, jitter 0.2 mm), "
        "39,000 of them, turned by quarters and mirrored at random"
    ),
    training=discs.training_images,
    validation=partial(discs.held_out, 0),
    test=partial(discs.held_out, 1),
)

CELEBA = Data(
    description=(
        "CelebA (Liu, Luo, Wang, Tang 2015), aligned faces from $GENREG_DATA/celeba, the first 80 % by name, the "
        "middle 108 x 108 pixels reduced to 64 x 64"
    ),
    training=celeba.training_images,
    validation=partial(celeba.held_out, 0),
    test=partial(celeba.held_out, 1),
)

_BRAINS = (
    "128 x 128 axial T1-weighted slices of one adult's head (genreg.datasets.brain_slices, subject 1), cut along bent "
    "surfaces, deformed and recoloured at random, new ones in every step; "
)
BRAIN = Data(
    description=_BRAINS
    + "224 of the 280 slices, slabs of neighbouring ones held out; tested on a child's head",
    training=brain.training_images,
    validation=brain.validation_images,
    test=brain.test_images,
)
BRAIN_HEAD = Data(
    description=_BRAINS + "half of them from 28 slices that the mean has not seen; tested on a child's head",
    training=brain.head_images,
    validation=brain.validation_images,
    test=brain.test_images,
)
_CROPPED = "64 x 64 crops, half of them enlarged by up to 1.8, of "
BRAIN_CROPS = Data(
    description=_CROPPED + BRAIN.description,
    training=any_size.brain_training,
    validation=partial(any_size.brain_held_out, False),
    test=partial(any_size.brain_held_out, True),
)
BRAIN_HEAD_CROPS = Data(
    description=_CROPPED + BRAIN_HEAD.description + "; white noise of up to 0.02",
    training=any_size.brain_head,
    validation=partial(any_size.brain_held_out, False),
    test=partial(any_size.brain_held_out, True),
)
LEAVES = Data(
    description=(
        "64 x 64 crops of 3,000 images of dead leaves (genreg.datasets.dead_leaves, seed 0), turned and mirrored, half "
        "of them enlarged by up to 3, half of them with as little as a tenth of the contrast"
    ),
    training=any_size.leaves,
    validation=partial(any_size.leaves_held_out, False),
    test=partial(any_size.leaves_held_out, True),
)

_COMPLEX = (
    "64 x 64 crops of axial T1-weighted slices of one adult's head (genreg.datasets.brain_slices, subject 1), cut "
    "along bent surfaces, deformed, recoloured and enlarged at random, with synthetic phases and shading "
    "(genreg.datasets.complex_images), real and imaginary part as channels; "
)
COMPLEX_BRAIN = Data(
    description=_COMPLEX
    + "224 of the 280 slices, slabs of neighbouring ones held out; tested on a child's head",
    training=complex_brain.training_images,
    validation=partial(complex_brain.held_out, test=False),
    test=partial(complex_brain.held_out, test=True),
)
COMPLEX_BRAIN_HEAD = Data(
    description=_COMPLEX + "half of them from 28 slices that the mean has not seen; tested on a child's head",
    training=complex_brain.head_images,
    validation=partial(complex_brain.held_out, test=False),
    test=partial(complex_brain.held_out, test=True),
)
NOISY_LEAVES = replace(
    LEAVES,
    description=LEAVES.description + "; white noise of up to 0.03",
    training=any_size.noisy_leaves,
)
