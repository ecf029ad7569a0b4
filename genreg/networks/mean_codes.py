"""The two halves of a model as modules: mean images of latent vectors, and mean latent vectors of images."""

from __future__ import annotations

from torch import Tensor, nn

from genreg.operators.bridge.complex_parts import from_channels, to_channels
from genreg.operators.bridge.modes import without_autocast


class MeanDecoder(nn.Module):
    """The mean image of a model, ``(B, latent_dim)`` to ``(B, *shape)``; a channel axis of one is dropped.

    Where images are `of_parts`, the two channels of the model become real and imaginary part.
    """

    def __init__(self, model: nn.Module, shape: tuple[int, ...], of_parts: bool = False) -> None:
        super().__init__()
        self.model = model
        self.shape = shape
        self.of_parts = of_parts
        self.decode = getattr(model, "decode", model)

    def forward(self, z: Tensor) -> Tensor:
        """Return the mean images."""
        with without_autocast():
            x = self.decode(z)
        if self.of_parts:
            if tuple(x.shape[1:]) != (2, *self.shape):
                raise ValueError(
                    "model must make two channels, the parts of complex images, "
                    f"{(2, *self.shape)}, got {tuple(x.shape[1:])}"
                )
            return from_channels(x)
        return x.squeeze(1) if x.ndim == len(self.shape) + 2 and x.shape[1] == 1 else x


class MeanEncoder(nn.Module):
    """The mean latent vector of a model, ``(B, *shape)`` to ``(B, latent_dim)``; undoes what `MeanDecoder` does."""

    def __init__(self, model: nn.Module, shape: tuple[int, ...], of_parts: bool = False) -> None:
        super().__init__()
        self.model = model
        self.of_parts = of_parts
        self.one_channel = getattr(model, "image_shape", shape) == (1, *shape)

    def of_model(self, x: Tensor) -> Tensor:
        """Return images as the model takes them."""
        if self.of_parts:
            return to_channels(x)
        return x[:, None] if self.one_channel else x

    def forward(self, x: Tensor) -> Tensor:
        """Return the mean latent vectors."""
        with without_autocast():
            return self.model.encode(self.of_model(x))  # type: ignore[operator]
