r"""Gibbs sampling of an image and a latent vector, see `genreg.sampling.gibbs_sampler`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from genreg.sampling.kernels.metropolis import MALA, ChainState, Info
from genreg.sampling.random_numbers import RandomNumbers

MOVES = ("image", "white")


@dataclass(frozen=True)
class Gibbs:
    r"""A Langevin step of z with x held fixed, one with ε held fixed, and a draw of x given z.

    The sizes of the two are learnt apart.

    Parameters
    ----------
    interweave : bool
        Whether there is the second step.
    """

    interweave: bool = True

    acceptance: ClassVar[float] = MALA.acceptance

    @property
    def moves(self) -> tuple[str, ...]:
        """What is held fixed in the steps of z, one after the other."""
        return MOVES if self.interweave else MOVES[:1]

    def largest_size(self, curvature: Tensor) -> Tensor:
        """One over the curvature, to begin with."""
        return MALA().largest_size(curvature)

    def step(
        self, target: Any, state: ChainState, size: Tensor, random: RandomNumbers
    ) -> tuple[ChainState, Info]:
        """Take the steps of the sizes h, ``(moves, N)``; `target` is a `joint_posterior.JointTarget`."""
        u, infos = state.u, []
        for move, h in zip(self.moves, size, strict=True):
            conditional = target.conditional(move, u, state.x)
            moved, info = MALA().step(conditional, ChainState.at(conditional, u), h, random)
            u = moved.u
            infos.append(info)
        probability = torch.stack([info.probability for info in infos])  # (moves, N)
        return target.state(u, random), Info(probability, torch.stack([info.accepted for info in infos]))
