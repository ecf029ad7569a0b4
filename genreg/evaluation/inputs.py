"""What an evaluation starts from: the model and the images."""

from __future__ import annotations

import os
from typing import Any

import odl
import torch
from torch import Tensor

from genreg import weights
from genreg.datasets import mnist
from genreg.generator import Generator
from genreg.operators import torch_device, torch_dtype
from genreg.operators.bridge.arguments import integer, seeded_generator
from genreg.operators.bridge.arrays import array


def held_out(name: str, n: int, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Test and reference images of the distribution a model was trained on.

    They are those of `genreg.recipes`, of the recipe of that name or else of one of the same data, which the
    first word of the name tells ("shapes-gan": shapes).

    Parameters
    ----------
    name : str
        Name of a model, for example ``"mnist-vae"``.
    n : int
        Number of images of each kind; fewer where there are fewer. They are drawn at random, for the order of
        a data set may mean something (the second half of MNIST's test images is by other writers).
    seed : int
        Seed of the draw.

    Returns
    -------
    test, reference : Tensor
        ``(n, rows, columns)``: test images, and others of the same distribution. The latter have not been used
        in training either, but for MNIST: there they are training images, as in the paper, for the 2,000 held
        out differ in distribution from the test images (`mmd` of 1000 each: p = 0.005).

    Raises
    ------
    ValueError
        If no recipe fits the name, or n is not positive.
    """
    from genreg.recipes.shipped import RECIPES

    n, random = integer(n, "n", minimum=1), seeded_generator(seed)
    kind = name.split("-")[0]
    alike = [key for key in RECIPES if key == name] + [key for key in RECIPES if key.split("-")[0] == kind]
    if not alike:
        kinds = sorted({key.split("-")[0] for key in RECIPES})
        raise ValueError(
            f"images must be given for a model that is no recipe of genreg and whose name does not begin with "
            f"one of {kinds}, got {name!r}"
        )
    data = RECIPES[alike[0]].data
    test = data.test()
    reference = mnist(train=True)[0] if kind == "mnist" else data.validation()
    return (
        test[torch.randperm(len(test), generator=random)[:n]],
        reference[torch.randperm(len(reference), generator=random)[:n]],
    )


def load(name_or_path: str | os.PathLike[str]) -> Generator:
    """Load a generator on a space of the shape of its images; ValueError if they have channels."""
    model, card = weights.load(name_or_path)
    if len(model.image_shape) != 2:
        raise ValueError(f"model must have images without channels, got images of shape {model.image_shape}")
    G = Generator(model, odl.uniform_discr([-1, -1], [1, 1], tuple(model.image_shape), dtype="float32"))
    G.card = card
    return G


def checked(argument: str, images: Any, G: Generator) -> Tensor:
    """Images as a tensor ``(N, n, m)`` of the kind of G; ValueError if their shape or values do not fit."""
    tensor = array(images, argument)
    shape = tuple(G.range.shape)
    if tensor.ndim != 3 or tuple(tensor.shape[1:]) != shape:
        raise ValueError(
            f"{argument} must have the shape (N, {shape[0]}, {shape[1]}), got {tuple(tensor.shape)}"
        )
    if not (tensor.is_floating_point() or tensor.is_complex()) and tensor.numel() and int(tensor.max()) > 1:
        raise ValueError(
            f"{argument} must be in the range of the model's images, mostly [0, 1], got integers up to "
            f"{int(tensor.max())}: divide grey values by the largest possible one"
        )
    if tensor.is_complex() or not torch.isfinite(tensor).all():
        kind = "complex" if tensor.is_complex() else "NaN or infinite"
        raise ValueError(f"{argument} must be real and finite, got {kind} values")
    return tensor.detach().to(device=torch_device(G.range), dtype=torch_dtype(G.range))
