r"""Gibbs sampling of an image and a latent vector, see `genreg.sampling.gibbs_sampler`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from genreg.sampling.kernels.metropolis import HMC, MALA, ChainState, Info, Kernel
from genreg.sampling.random_numbers import RandomNumbers

_STEPS: dict[str, Kernel] = {"image": MALA(), "white": MALA(), "marginal": HMC()}


@dataclass(frozen=True)
class Gibbs:
    r"""Steps of z, and a draw of x given z.

    The steps are of Langevin's algorithm with x held fixed and with ε held fixed, or one of Hamiltonian dynamics for
    the density of z alone. The sizes of different steps are learnt apart.

    Parameters
    ----------
    interweave : bool
        Whether there is the step with ε held fixed.
    collapsed : bool
        Whether the image is integrated out in the step of z, which is then the only one.
    """

    interweave: bool = True
    collapsed: bool = False

    @property
    def acceptance(self) -> float:
        """The share of accepted proposals at which the steps work best."""
        share = _STEPS[self.moves[0]].acceptance
        assert share is not None
        return share

    @property
    def moves(self) -> tuple[str, ...]:
        """What is held fixed in the steps of z, one after the other, or the "marginal" that they are for."""
        if self.collapsed:
            return ("marginal",)
        return ("image", "white") if self.interweave else ("image",)

    def largest_size(self, curvature: Tensor) -> Tensor:
        """One over the curvature, to begin with."""
        return _STEPS[self.moves[0]].largest_size(curvature)

    def step(
        self, target: Any, state: ChainState, size: Tensor, random: RandomNumbers
    ) -> tuple[ChainState, Info]:
        """Take the steps of the sizes h, ``(moves, N)``; `target` is a `joint_posterior.JointTarget`."""
        u, infos = state.u, []
        for move, h in zip(self.moves, size, strict=True):
            conditional = target.conditional(move, u, state.x)
            moved, info = _STEPS[move].step(conditional, ChainState.at(conditional, u), h, random)
            u = moved.u
            infos.append(info)
        probability = torch.stack([info.probability for info in infos])  # (moves, N)
        return target.state(u, random), Info(probability, torch.stack([info.accepted for info in infos]))
