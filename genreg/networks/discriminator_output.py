"""What a discriminator says about images."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class DiscriminatorOutput(nn.Module):
    """What a network says about images ``(B, *X.shape)``: one number for each, ``(B,)``.

    Parameters
    ----------
    D : torch.nn.Module
        Maps images to ``(B,)`` or ``(B, 1)``, by ``D.discriminate(x)`` where there is such a method.
    shape : tuple of int
        The shape of an image.

    Raises
    ------
    TypeError
        If `D` is no module.
    ValueError
        If it is for images of another size.
    """

    def __init__(self, D: nn.Module, shape: tuple[int, ...]) -> None:
        super().__init__()
        if not isinstance(D, nn.Module):
            raise TypeError(f"D must be a torch.nn.Module, got {type(D).__name__}")
        own = getattr(D, "image_shape", None)
        if own is not None and tuple(own) != shape:
            raise ValueError(
                f"D must accept images of the shape {shape} that G makes, got one for {tuple(own)}"
            )
        self.D = D
        self.image_shape = shape
        self.judge = getattr(D, "discriminate", D)

    def forward(self, x: Tensor) -> Tensor:
        """Return one number for each image, ``(B,)``."""
        return self.judge(x).reshape(len(x))

    def check(self, image: Tensor) -> float:
        """Return what it says about one image, ``(1, *shape)``.

        Raises
        ------
        ValueError
            If that is not one number.
        """
        shape = self.image_shape
        try:
            with torch.no_grad():
                output = self.judge(image)
        except (RuntimeError, TypeError, ValueError, IndexError) as error:
            raise ValueError(
                f"D must accept a batch of one image that G makes, of the shape {(1, *shape)}; it says: {error}"
            ) from error
        received = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        if received not in ((1,), (1, 1)):
            raise ValueError(
                f"D must return one number for each image of the shape {shape} that G makes, a shape of (1,) or "
                f"(1, 1) for one image, got {received}: is it for images of this size?"
            )
        return output.item()
