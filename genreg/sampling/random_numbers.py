"""The random numbers of a sampler, with a state that can be stored."""

from __future__ import annotations

import torch
from torch import Tensor

from genreg.operators.bridge.arguments import seed_number


class RandomNumbers:
    """Normal and uniform numbers from one generator.

    Parameters
    ----------
    seed : int
        Seed.
    device : torch.device
        Device of the numbers.
    """

    def __init__(self, seed: int, device: torch.device) -> None:
        self.generator = torch.Generator(device).manual_seed(seed_number(seed))

    def normal(self, like: Tensor) -> Tensor:
        """Standard normal numbers of the shape and kind of `like`."""
        return torch.randn(like.shape, generator=self.generator, dtype=like.dtype, device=like.device)

    def uniform(self, like: Tensor) -> Tensor:
        """Numbers from [0, 1) of the shape and kind of `like`."""
        return torch.rand(like.shape, generator=self.generator, dtype=like.dtype, device=like.device)

    def integer(self) -> int:
        """A whole number from 0 to 2³¹ - 1, for example a seed."""
        return int(torch.randint(2**31, (), generator=self.generator, device=self.generator.device))

    @property
    def state(self) -> Tensor:
        """All that determines the numbers to come."""
        return self.generator.get_state()

    @state.setter
    def state(self, state: Tensor) -> None:
        self.generator.set_state(state)
