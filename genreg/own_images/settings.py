"""How a prior is made of a user's images."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from genreg.networks import FullyConvolutionalConfig, StructuredConfig
from genreg.operators.bridge.arguments import flag, integers, number, seed_number
from genreg.training.settings import Checked, limited

_QUICK = {"steps": 20, "precision_steps": 20, "batch_size": 2}


@dataclass(frozen=True, kw_only=True)
class PriorSettings(Checked):
    """What determines a prior beside the images.

    The defaults take about seven minutes of one core, whatever the size of the images: steps see crops.

    Parameters
    ----------
    crop : int
        Rows and columns of the crops to train on; smaller images can't be used.
    channels, latent_channels, top_channels, top_latent_channels
        Those of `genreg.networks.FullyConvolutionalConfig`.
    head_channels, distance
        ``channels`` and ``distance`` of `genreg.networks.StructuredConfig`, for the precision.
    range : tuple of float, optional
        The values that become 0 and 1 of the model; by default found from the training images.
    augment : bool
        Whether crops are turned, mirrored and recoloured at random, see `genreg.datasets.RandomCrops`.
    held_out : float
        Share of the files (of the folders inside the folder, where there are some) that are held out.
    steps, precision_steps : int
        Number of steps of both stages.
    batch_size : int
        Crops in a step.
    lr : float
        Learning rate.
    patience : int
        Twentieths of a stage without a better score on held-out images after which it ends, as it over-fits.
    diagonal : bool
        Whether a diagonal precision is trained as well, to compare with.
    seed : int
        Seed of all random numbers.

    Raises
    ------
    TypeError, ValueError
        If a field has the wrong type or is out of range.
    """

    crop: int = limited(64, minimum=16)
    channels: tuple[int, ...] = (16, 32, 64)
    latent_channels: int = limited(8, minimum=1)
    top_channels: tuple[int, ...] = (64,)
    top_latent_channels: int = limited(8, minimum=1)
    head_channels: tuple[int, ...] = (16, 32, 48)
    distance: int = limited(2, minimum=1)
    range: tuple[float, float] | None = None
    augment: bool = True
    held_out: float = limited(0.2, above=0, below=1)
    steps: int = limited(3000, minimum=1)
    precision_steps: int = limited(1200, minimum=1)
    batch_size: int = limited(16, minimum=1)
    lr: float = limited(2e-3, above=0)
    patience: int = limited(5, minimum=1)
    diagonal: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("channels", "top_channels", "head_channels"):
            value: Any = getattr(self, name)
            if len(value) or name != "top_channels":
                value = integers(value, name, minimum=1)
            object.__setattr__(self, name, tuple(value))
        flag(self.augment, "augment"), flag(self.diagonal, "diagonal")
        object.__setattr__(self, "seed", seed_number(self.seed))
        if self.range is not None:
            low, high = (number(value, "range") for value in self.range)
            if not low < high or not math.isfinite(high - low):
                raise ValueError(f"range must be two increasing numbers, got {self.range}")
            object.__setattr__(self, "range", (low, high))
        self.architecture()  # which checks the rest

    def architecture(self) -> StructuredConfig:
        """Return the configuration of the model for crops."""
        mean = FullyConvolutionalConfig(
            image_shape=(self.crop, self.crop),
            channels=self.channels,
            latent_channels=self.latent_channels,
            top_channels=self.top_channels,
            top_latent_channels=self.top_latent_channels,
        )
        return StructuredConfig(mean=mean, channels=self.head_channels, distance=self.distance)

    def quick(self) -> PriorSettings:
        """Return the same with a few small steps, to try things out."""
        return replace(self, **_QUICK)  # type: ignore[arg-type]
