"""The models of the papers, with their architectures and settings.

Names in "-duff" are those of Duff, Campbell and Ehrhardt (2021), arXiv:2107.11191. Their autoencoders minimise
||x - G(z)||^2 + beta KL, which is the objective of `genreg.training.fit` with gamma = sqrt(beta / 2); without the
divergence gamma does not matter, and gamma = sqrt(1/2) makes it the squared error.

"celeba" is the variational autoencoder of González, Almansa and Tan (2021), arXiv:2103.01648, for 64 x 64 faces:
Adam with the rate 1e-4, batches of 128, the denoising criterion with noise of 15/255 and a learned gamma. The
number of steps, some hundred epochs, is a choice of this package.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from genreg.networks import DuffConfig, GanConfig, StridedConfig
from genreg.recipes.recipe import CELEBA, MNIST, SHAPES, Data, Recipe


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
    "celeba": Recipe(
        architecture=StridedConfig(image_shape=(3, 64, 64), latent_dim=64),
        data=CELEBA,
        settings={
            "steps": 125_000,
            "batch_size": 128,
            "lr": 1e-4,
            "schedule": "constant",
            "input_noise": 15 / 255,
        },
        whitened=True,
    ),
}
"""The recipes by the name of the weights."""
