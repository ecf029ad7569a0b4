"""The discriminators that `discriminator_weighting.py` compares, for a generator of MNIST."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn

import genreg
from genreg import datasets, training, weights
from genreg.networks import ConvConfig, Critic, CriticConfig

__all__ = ["Discriminators"]

BODY = ConvConfig(image_shape=(28, 28), latent_dim=1, channels=(8, 16), hidden=64)
NOISE = 0.5  # of the smoothed ratio


@dataclass(frozen=True)
class Discriminators:
    """Discriminators between MNIST and the images of G, each made when it is first asked for.

    Parameters
    ----------
    name, G
        The generator.
    steps
        Of training; the runs are kept in `cache`.
    cache
        The folder.
    """

    name: str
    G: genreg.Generator
    steps: int
    cache: Path

    def __call__(self, kind: str) -> nn.Module:
        """The discriminator of a kind: "critic", "fine-tuned", "trained" or "smoothed"."""
        return self._made(kind)[0]

    def scores(self, kind: str) -> dict[str, float]:
        """`RatioScores` on the last 2,000 images of the training set, which no network here has seen."""
        return self._made(kind)[1]

    @cached_property
    def images(self) -> tuple[Tensor, Tensor]:
        """What the generators were trained on, and the images held out."""
        x = datasets.mnist(train=True)[0]
        return x[:58000], x[58000:]

    @cached_property
    def _known(self) -> dict[str, tuple[nn.Module, dict[str, float]]]:
        return {}

    def _made(self, kind: str) -> tuple[nn.Module, dict[str, float]]:
        if kind not in self._known:
            make: dict[str, Callable[[], nn.Module]] = {
                "critic": lambda: Critic.of(weights.load("mnist-gan")[0]),  # type: ignore[arg-type]
                "fine-tuned": lambda: training.fine_tune(self("critic"), self.G, self.images[0]),
                "trained": lambda: self._trained(0.0),
                "smoothed": lambda: self._trained(NOISE),
            }
            D = make[kind]()
            noise_std = NOISE if kind == "smoothed" else 0.0
            found = training.discriminator_scores(D, self.G, self.images[1], draws=10000, noise_std=noise_std)
            self._known[kind] = D, asdict(found)
        return self._known[kind]

    def _trained(self, noise_std: float) -> Critic:
        torch.manual_seed(0)
        # the critic has learnt to tell images of the GAN, for 13,500 steps; of the VAE any network can tell them soon
        D = CriticConfig(body=BODY).build() if self.G.has_encoder else copy.deepcopy(self("critic"))
        training.fit_discriminator(
            D,
            self.G,
            self.images[0],
            steps=self.steps,
            warmup=50,
            noise_std=noise_std,
            checkpoint=self.cache / f"{self.name}-{noise_std}-{self.steps}.checkpoint",
            resume=True,
            progress=False,
        )
        return D
