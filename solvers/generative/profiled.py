"""What the joint objectives of image and latent vector have in common: the image can be eliminated."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor

from genreg.solvers.problem.objective import Objective

__all__ = ["Profiled"]


@dataclass(frozen=True, kw_only=True)
class Profiled(Objective, ABC):
    r"""An objective J(x, z) that offers the minimiser x*(z), and its profile :math:`\varphi(z) = J(x^*(z), z)`."""

    @abstractmethod
    def image(self, z: Tensor, **per_sample: Tensor) -> Tensor:
        """The minimiser x*(z), ``(B, *X.shape)``, for some or, by default, all samples."""

    @abstractmethod
    def profile(self) -> Objective:
        """φ, an objective of the block z, with its curvature where there is one."""
