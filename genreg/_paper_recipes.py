"""The models of Duff, Campbell and Ehrhardt (2021), arXiv:2107.11191: architectures and settings of the paper.

The autoencoders minimise ||x - G(z)||^2 + beta KL, which is the objective of `genreg.training.fit` with gamma =
sqrt(beta / 2); without the divergence gamma does not matter, and gamma = sqrt(1/2) makes it the squared error.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from genreg._recipe import MNIST, SHAPES, Data, Recipe
from genreg.networks import DuffConfig, GanConfig

__all__ = ["PAPER"]


def _recipes(
    name: str, architecture: Callable[..., DuffConfig], data: Data, beta: float
) -> dict[str, Recipe]:
    common = {"steps": 30_000, "batch_size": 100, "lr": 5e-4, "schedule": "constant"}
    vae, ae = (architecture(variational=v, dense_output=True) for v in (True, False))
    return {
        f"{name}-vae-duff": Recipe(vae, data, {**common, "gamma": math.sqrt(beta / 2)}),
        f"{name}-ae-duff": Recipe(ae, data, {**common, "gamma": math.sqrt(0.5)}),
        f"{name}-gan-duff": Recipe(GanConfig(generator=ae), data, {"steps": 20_000}),
    }


PAPER: dict[str, Recipe] = {
    **_recipes("mnist", DuffConfig.mnist, MNIST, beta=0.05),
    **_recipes("shapes", DuffConfig.shapes, SHAPES, beta=0.01),
}
"""The recipes by the name of the weights."""
