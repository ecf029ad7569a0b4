"""The images of a training: checks, and the batch of every step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from genreg.generator import Generator
from genreg.networks import Autoencoder
from genreg.networks.affine import Affine
from genreg.solvers.checkpoints import digest
from genreg.training.settings import Optimisation

Sampler = Callable[..., Tensor]
"""A function ``sampler(n, *, seed)`` that draws images ``(n, rows, columns)`` or, in colour, ``(n, 3, rows,
columns)``, such as `genreg.datasets.shapes` or a `genreg.datasets.ImageFolder`."""


_LOOKED_AT = 8  # images of a sampler by which a checkpoint knows it again


class Source(Protocol):
    """What gives a training its data."""

    def __call__(self, k: int) -> Any:
        """Return the k-th batch of the run, always the same."""

    def identity(self) -> Any:
        """Return what a checkpoint knows the data by."""


class Batches:
    """The function k -> k-th batch, which depends on k, the seed and, for few images, torch's generator.

    Parameters
    ----------
    images
        All images, or a sampler.
    optimisation
        Size, number and seeds of the batches.
    like
        Data type and device of the batches of a sampler.
    """

    def __init__(self, images: Tensor | Sampler, optimisation: Optimisation, like: Tensor) -> None:
        self.images, self.optimisation, self.like = images, optimisation, like

    @classmethod
    def checked(cls, images: Any, model: Any, optimisation: Optimisation) -> Batches:
        """Return the batches of images that a model can take, a tensor as `checked` or a sampler of which one was."""
        if isinstance(images, Tensor):
            images = checked(images, model, "images")
        elif not callable(images):
            raise TypeError(
                f"images must be a tensor or a function sampler(n, *, seed), got {type(images).__name__}"
            )
        else:
            first = images(1, seed=optimisation.images_of(0))
            checked(first, model, "what the sampler in images returns")
        return cls(images, optimisation, next(model.parameters()))

    def __call__(self, k: int) -> Tensor:
        """Return the k-th batch."""
        images, optimisation, size = self.images, self.optimisation, self.optimisation.batch_size
        if not isinstance(images, Tensor):
            return images(size, seed=optimisation.images_of(k)).to(self.like)
        if len(images) < size:
            return images[torch.randint(len(images), (size,))]
        epoch, position = divmod(k, len(images) // size)
        generator = torch.Generator().manual_seed(optimisation.seed_of(optimisation.steps + epoch))
        order = torch.randperm(len(images), generator=generator)
        return images[order[position * size : (position + 1) * size].to(images.device)]

    def identity(self) -> str | Tensor:
        """Return what a checkpoint knows the images by: a digest, or some images of a sampler."""
        if isinstance(self.images, Tensor):
            return digest(self.images)
        return self.images(_LOOKED_AT, seed=self.optimisation.images_of(0)).to(self.like)


def checked(images: Any, model: Any, name: str) -> Tensor:
    """Return images that a model can take, in its data type and on its device.

    Raises
    ------
    TypeError, ValueError
        If they are no floating point tensor ``(N, *model.image_shape)``, empty or not finite.
    """
    if not isinstance(images, Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(images).__name__}")
    if images.ndim < 2 or tuple(images.shape[1:]) != model.image_shape or len(images) == 0:
        sizes = ", ".join(map(str, model.image_shape))
        raise ValueError(f"{name} must have the shape (N, {sizes}), got {tuple(images.shape)}")
    if not images.is_floating_point():
        raise TypeError(f"{name} must be floating point, got {images.dtype}")
    if not torch.isfinite(images).all():
        raise ValueError(
            f"{name} must be finite, got {int((~torch.isfinite(images)).sum())} NaN or infinite pixels"
        )
    return images.to(next(model.parameters()))


def held_out_images(validation: Any, model: Any) -> Tensor | None:
    """Return the images for validation as `checked`, or None where there are none."""
    return None if validation is None else checked(validation, model, "validation")


def in_units_of_model(model: Any, images: Any) -> tuple[Autoencoder, Tensor, float]:
    """Return the autoencoder, images `checked` in its units, and how much larger those given are.

    Parameters
    ----------
    model : Autoencoder or Generator
        A model, or a generator of one, which forgets the value that it has kept.
    images : Tensor
        Images ``(N, *shape)`` in the units of whichever is given.

    Raises
    ------
    TypeError, ValueError
        If it is neither, or the images do not fit.
    """
    found, scale = model, 1.0
    if isinstance(model, Generator):
        model.forget()
        found, scale = model.model, model.scale
        if isinstance(found, Affine):
            images = found.to_model(images) if isinstance(images, Tensor) else images
            found = found.model
    if not isinstance(found, Autoencoder):
        raise TypeError(
            f"model must be an Autoencoder, or a Generator of one, got {type(found).__name__}; genreg.networks.adapt "
            "makes one of those of other libraries"
        )
    sides = [side for side in found.image_shape if side > 1]
    if isinstance(images, Tensor) and [side for side in images.shape[1:] if side > 1] == sides:
        images = images.reshape(len(images), *found.image_shape)  # with the axis of one channel, or without
    return found, checked(images, found, "images"), scale
