"""The images of a training: checks, and the batch of every step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from genreg.solvers.checkpoints import digest
from genreg.training.settings import Plan

__all__ = ["Batches", "Sampler", "checked", "checked_source"]

Sampler = Callable[..., Tensor]
"""A function ``sampler(n, *, seed)`` that draws images ``(n, rows, columns)`` or, in colour, ``(n, 3, rows,
columns)``, such as `genreg.datasets.shapes` or a `genreg.datasets.ImageFolder`."""


_LOOKED_AT = 8  # images of a sampler by which a checkpoint knows it again


class Batches:
    """The function k -> k-th batch, which depends on k, the seed and, for few images, torch's generator.

    Parameters
    ----------
    images
        All images, or a sampler.
    settings
        Settings of the run.
    like
        Data type and device of the batches of a sampler.
    """

    def __init__(self, images: Tensor | Sampler, settings: Plan, like: Tensor) -> None:
        self.images, self.settings, self.like = images, settings, like

    def __call__(self, k: int) -> Tensor:
        """Return the k-th batch."""
        images, settings, size = self.images, self.settings, self.settings.batch_size
        if not isinstance(images, Tensor):
            return images(size, seed=settings.images_of(k)).to(self.like)
        if len(images) < size:
            return images[torch.randint(len(images), (size,))]
        epoch, position = divmod(k, len(images) // size)
        generator = torch.Generator().manual_seed(settings.seed_of(settings.steps + epoch))
        order = torch.randperm(len(images), generator=generator)
        return images[order[position * size : (position + 1) * size].to(images.device)]

    def identity(self) -> str | Tensor:
        """Return what a checkpoint knows the images by: a digest, or some images of a sampler."""
        if isinstance(self.images, Tensor):
            return digest(self.images)
        return self.images(_LOOKED_AT, seed=self.settings.images_of(0)).to(self.like)


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


def checked_source(images: Any, model: Any, settings: Plan) -> Tensor | Sampler:
    """Return the training images, a tensor as `checked` or a sampler of which one image was."""
    if isinstance(images, Tensor):
        return checked(images, model, "images")
    if not callable(images):
        raise TypeError(
            f"images must be a tensor or a function sampler(n, *, seed), got {type(images).__name__}"
        )
    checked(images(1, seed=settings.images_of(0)), model, "what the sampler in images returns")
    return images
