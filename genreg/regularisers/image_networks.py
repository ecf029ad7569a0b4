"""Networks of images as they are called: in their own units, with an axis of channels, on parts of complex images."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from genreg.operators import torch_device, torch_dtype
from genreg.operators.bridge.arguments import number
from genreg.operators.bridge.protocols import StackedSpace
from genreg.regularisers.images import check_space


class ImageNetwork(nn.Module):
    r"""A network for images of a space, :math:`x = a + s\, x_{\mathrm{network}}`.

    A network that has an ``image_shape`` is given images of that shape, which must be that of the space, but for an
    axis of one channel; one for any size is taken at that of the space. Another one is given grey images as ``(B, 1, n,
    m)``, as all public denoisers take them, and other images as they are. Real and imaginary part of a complex image
    are two images.

    Parameters
    ----------
    module : torch.nn.Module
        The network. It is put in evaluation mode and frozen; if the space has another data type or device, a converted
        copy is used.
    space : ODL space
        The image space X.
    scale, offset : float
        s > 0 and a.

    Raises
    ------
    TypeError, ValueError
        If an argument is of another kind or does not fit.
    """

    def __init__(self, module: nn.Module, space: StackedSpace, scale: float, offset: float) -> None:
        super().__init__()
        if not isinstance(module, nn.Module):
            raise TypeError(f"module must be a torch.nn.Module, got {type(module).__name__}")
        check_space(space)
        shape, dtype = tuple(space.shape), torch_dtype(space)
        self.scale, self.offset = number(scale, "scale", above=0), number(offset, "offset")
        if dtype.is_complex and self.offset:
            raise ValueError(f"offset must be 0 for complex images, got {offset}")
        own = getattr(module, "image_shape", None)
        if own is not None and tuple(own) not in (shape, (1, *shape)) and getattr(module, "any_size", False):
            wanted = (1, *shape) if len(own) == len(shape) + 1 else shape
            module, own = module.at(wanted), wanted  # type: ignore[operator]
        if own is not None and tuple(own) not in (shape, (1, *shape)):
            raise ValueError(
                f"module must take images of the shape {shape} of the space, got one for {tuple(own)}"
            )
        self.one_channel = len(shape) == 2 if own is None else tuple(own) != shape
        parameter = next(module.parameters(), None)
        real, device = dtype.to_real(), torch_device(space)
        if parameter is not None and (parameter.dtype != real or parameter.device != device):
            module = copy.deepcopy(module).to(device=device, dtype=real)
        self.module = module.eval().requires_grad_(False)
        self.shape = shape

    def to_network(self, x: Tensor) -> Tensor:
        """Return images ``(B, *shape)`` as the network takes them; twice as many for complex ones."""
        t = torch.cat([x.real, x.imag]) if x.is_complex() else x
        t = (t - self.offset) / self.scale
        return t.unsqueeze(1) if self.one_channel else t

    def from_network(self, t: Tensor, like: Tensor) -> Tensor:
        """Undo `to_network`, for images like those it was given."""
        t = self.offset + self.scale * (t.squeeze(1) if self.one_channel else t)
        return torch.complex(*t.chunk(2)) if like.is_complex() else t

    def called(self, name: str, *arguments: Any) -> Any:
        """Call a method of the network, ``"forward"`` by calling the network itself."""
        return (self.module if name == "forward" else getattr(self.module, name))(*arguments)

    def tried(self, name: str, *arguments: Any, wanted: str) -> Tensor:
        """Return what a method gives for two images of zeros and ones.

        Raises
        ------
        TypeError, ValueError
            If there is no such method, it fails, or returns no tensor.
        """
        if not callable(getattr(self.module, name, None)):
            raise TypeError(f"module must have a method {name}, got {type(self.module).__name__}")
        parameter = next(self.module.parameters(), torch.zeros(()))
        x = torch.stack([torch.zeros(self.shape), torch.ones(self.shape)]).to(parameter)
        t = x.unsqueeze(1) if self.one_channel else x
        try:
            with torch.no_grad():
                found = self.called(name, t, *(a.expand(2).to(x) for a in arguments))
        except (RuntimeError, TypeError, ValueError, IndexError) as error:
            raise ValueError(
                f"module must accept two images of the shape {tuple(t.shape[1:])} and return {wanted}; "
                f"{type(self.module).__name__} says: {error}"
            ) from error
        if not isinstance(found, Tensor):
            raise TypeError(f"module must return {wanted}, got {type(found).__name__}")
        return found
