"""The images of a training: checks, and the batch of every step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from genreg._loop import Plan

__all__ = ["Sampler", "batches", "checked", "checked_source"]

Sampler = Callable[..., Tensor]
"""A function ``sampler(n, *, seed)`` that draws images ``(n, rows, columns)`` or, in colour, ``(n, 3, rows,
columns)``, such as `genreg.datasets.shapes` or a `genreg.datasets.ImageFolder`."""


def batches(images: Tensor | Sampler, settings: Plan, like: Tensor) -> Callable[[int], Tensor]:
    """Return the function k -> k-th batch, which depends on k, the seed and, for few images, torch's generator."""
    size = settings.batch_size

    def sampled(k: int) -> Tensor:
        return images(size, seed=settings.seed_of(k)).to(like)  # type: ignore[operator]

    def drawn(k: int) -> Tensor:
        if len(images) < size:  # type: ignore[arg-type]
            return images[torch.randint(len(images), (size,))]  # type: ignore[index, arg-type]
        epoch, position = divmod(k, len(images) // size)  # type: ignore[arg-type]
        generator = torch.Generator().manual_seed(settings.seed_of(settings.steps + epoch))
        order = torch.randperm(len(images), generator=generator)  # type: ignore[arg-type]
        return images[order[position * size : (position + 1) * size].to(images.device)]  # type: ignore

    return drawn if isinstance(images, Tensor) else sampled


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
    checked(images(1, seed=settings.seed_of(0)), model, "what the sampler in images returns")
    return images
