r"""Problems with a denoiser D in the place of a regulariser.

With a fidelity f(x) = 𝒟(A x; y), regularisation by denoising looks for x with

.. math:: \nabla f(x) + s\, (x - D(x)) = 0,

and plug-and-play for :math:`x = D(x - \nabla f(x) / s)`, the fixed points of proximal gradient descent and of ADMM
with D in the place of the prox of :math:`R / s`. Gradients are Euclidean; s is λ times the weight of the space. Neither
need be the minimum of an objective.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from genreg.operators.proximal import DataProx
from genreg.operators.proximal.weighted import in_units_of_noise
from genreg.solvers.problem.capabilities import Capability
from genreg.solvers.problem.objective import Objective


@dataclass(frozen=True, kw_only=True)
class DenoisingProblem(Objective):
    """A fidelity and a denoiser, for a batch of images in the block ``"x"``.

    Attributes
    ----------
    smooth, spaces, proximable, per_sample, curvature, lengths, offset
        Those of an `Objective`; per_sample has λ as ``lam``, ``(B,)``, and for a data step the y and inverse_variance
        of a `GaussianFidelity`.
    denoise : callable
        D, ``(B, *shape)`` to ``(B, *shape)``.
    data_prox : DataProx or None
        The exact step of the fidelity, where it has one.
    equation : bool
        Whether the gradient of `smooth` is that of the equation to be solved, as in regularisation by denoising, and
        not that of the fidelity alone.
    """

    denoise: Callable[[Tensor], Tensor]
    data_prox: DataProx | None
    equation: bool

    @property
    def offers(self) -> dict[str, frozenset[Capability]]:
        """What a solver can use: descent where the gradient is that of the equation, a denoiser, a data step."""
        found: set[Capability] = {"denoiser"}
        if self.data_prox is not None:
            found.add("data_step")
        return {"x": frozenset(found | (super().offers["x"] if self.equation else set()))}

    @property
    def strength(self) -> Tensor:
        """The number s of every sample, ``(B,)``."""
        return self.per_sample["lam"] * self.weight("x")

    @torch.no_grad()
    def data_step(self, p: Tensor, strength: Tensor, near: Tensor) -> Tensor:
        r"""The minimiser of :math:`f(x) + \frac{s}{2} \|x - p\|^2`.

        Parameters
        ----------
        p : Tensor
            Points, ``(B, *shape)``.
        strength : Tensor
            s, ``(B,)``.
        near : Tensor
            Where an iteration starts, ``(B, *shape)``.
        """
        assert self.data_prox is not None  # by `offers`
        step, root, shift = in_units_of_noise(self.data_prox, self.per_sample["inverse_variance"], strength)
        return step(p, root * self.per_sample["y"], shift, near)
