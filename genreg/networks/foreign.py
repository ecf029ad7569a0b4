"""How autoencoders of other libraries are called, and what they return: MONAI, diffusers, and others like them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from genreg.networks.borrowed import evaluating

_SIDES = {1: 256, 2: 64, 3: 32}  # of the image that shows how a model is called, by the number of its axes


def has_latent_images(model: nn.Module) -> bool:
    """Whether a model has convolutions and both halves of an autoencoder, but does not say a latent dimension."""
    halves = all(callable(getattr(model, half, None)) for half in ("encode", "decode"))
    return halves and not hasattr(model, "latent_dim") and _kernel(model) is not None


def _kernel(model: nn.Module) -> Tensor | None:
    """The kernel of the first convolution, ``(outputs, inputs, *sides)``; None without one."""
    return next((p for p in model.parameters() if p.ndim > 2), None)


def moments_in(found: Any) -> tuple[Tensor, Tensor | None]:
    """Mean and standard deviation of the latent image in what ``encode`` returned; no deviation of a point."""
    found = getattr(found, "latent_dist", found)  # diffusers
    if isinstance(found, tuple) and len(found) == 2:  # MONAI: the standard deviation, not its logarithm
        mean, std = found
    elif hasattr(found, "mean") and isinstance(getattr(found, "std", None), Tensor):
        mean, std = found.mean, found.std
    else:
        for name in ("latents", "latent"):  # diffusers without a distribution
            found = getattr(found, name, found)
        mean, std = found, None
    if not isinstance(mean, Tensor):
        raise TypeError(
            "model must have a method encode that returns a tensor, (mean, standard deviation), or an object with "
            f"latent_dist or latents, got {type(found).__name__}"
        )
    return mean, std


def image_in(found: Any) -> Tensor:
    """The image in what ``decode`` returned."""
    found = getattr(found, "sample", found)  # diffusers
    if not isinstance(found, Tensor):
        raise TypeError(
            "model must have a method decode that returns a tensor or an object with sample, got "
            f"{type(found).__name__}"
        )
    return found


def looked_at(model: nn.Module) -> dict[str, Any]:
    """Find out how a model is called, from an image of zeros: the fields of `AdaptedConfig` but for the shape."""
    kernel: Any = _kernel(model)
    dimensions = kernel.ndim - 2
    channels = getattr(getattr(model, "config", None), "in_channels", kernel.shape[1])
    name, side = f"{type(model).__module__}.{type(model).__qualname__}", _SIDES.get(dimensions, 32)
    x = torch.zeros((1, channels, *(side,) * dimensions), dtype=kernel.dtype, device=kernel.device)

    def tried(half: str, t: Tensor) -> Any:
        try:
            with evaluating(model), torch.no_grad():
                return getattr(model, half)(t)
        except (RuntimeError, ValueError, IndexError) as error:
            raise ValueError(
                f"model must {half} images of the shape {tuple(x.shape)}, by way of latent images; {name} says: {error}"
            ) from error

    mean, std = moments_in(tried("encode", x))
    sides = set(mean.shape[2:])
    if mean.ndim != x.ndim or len(sides) != 1 or side % next(iter(sides)):
        raise ValueError(
            f"latent_dim must be given, or the model encode images of {tuple(x.shape)} as latent images with sides "
            f"smaller by a whole factor: {name} has no attribute latent_dim and returns {tuple(mean.shape)}"
        )
    back = image_in(tried("decode", mean))
    if back.shape[2:] != x.shape[2:] or back.shape[1] not in (1, channels):
        raise ValueError(f"model must decode images of {tuple(x.shape)}, got {tuple(back.shape)} from {name}")
    return {
        "variational": std is not None,
        "model": name,
        "dimensions": dimensions,
        "channels": int(channels),
        "latent_channels": mean.shape[1],
        "factor": side // mean.shape[2],
    }


def known_moments(model: nn.Module, channels: int) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the latent images as far as the configuration of a model has them, ``(C,)``."""
    config: Any = getattr(model, "config", None)
    mean, std = (getattr(config, name, None) for name in ("latents_mean", "latents_std"))
    if std is None:
        factor = getattr(config, "scaling_factor", None)
        std = 1.0 if factor is None else 1.0 / factor
    if mean is None:
        mean = getattr(config, "shift_factor", None) or 0.0
    found = []
    for name, value in (("mean", mean), ("standard deviation", std)):
        t = torch.as_tensor(value, dtype=torch.float64).flatten()
        if t.numel() not in (1, channels):
            raise ValueError(
                f"model must have one {name} of the latent images for each of its {channels} channels, got {len(t)}"
            )
        found.append(t.expand(channels).clone())
    return found[0], found[1]
