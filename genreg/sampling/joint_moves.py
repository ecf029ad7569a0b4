"""The moves of a chain of images and latent vectors, see `genreg.sampling.gibbs`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from genreg.operators import GaussianPosterior, Precision, to_torch
from genreg.operators.fidelity import GaussianFidelity
from genreg.operators.linear.conjugate_gradient import inner
from genreg.regularisers import JointPrior
from genreg.sampling.kernels.metropolis import MALA, Info, State
from genreg.sampling.random_numbers import Random
from genreg.solvers.generative.structured import negative_log_prior

__all__ = ["JointMoves"]

_TOLERANCE = 1e-3  # of a draw of the image, in posterior standard deviations


class JointMoves:
    """The moves for a batch of chains."""

    def __init__(self, prior: JointPrior, fidelity: GaussianFidelity, random: Random) -> None:
        self.prior, self.fidelity, self.random = prior, fidelity, random
        self.forward = to_torch(fidelity.operator)

    def decode(self, z: Tensor) -> tuple[Tensor, Precision]:
        """Mean and precision of the image given z."""
        decoded = self.prior.decode(z)
        assert decoded.precision is not None
        return decoded.mean, decoded.precision

    def scale(self, z: Tensor) -> Tensor:
        """Variances by which the steps of z are scaled, ``(B, dim Z)``."""
        model: Any = self.prior.generator.model
        if not getattr(model, "variational", False):
            return torch.ones_like(z)
        with torch.no_grad():
            return model.encode_distribution(model.decode(z))[1].square().clamp(1e-6, 1.0)

    def image(self, z: Tensor) -> Tensor:
        """A draw of x given z and the data."""
        with torch.no_grad():
            (mean, precision), data = self.decode(z), self.fidelity
            posterior = GaussianPosterior(
                data.operator,
                data.data,
                mean,
                precision,
                data.inverse_variance,
                tol=_TOLERANCE,
            )
            return posterior.sample(1, self.random.generator)[0]

    def misfit(self, x: Tensor) -> Tensor:
        """The misfit of images, ``(B,)``; differentiable."""
        r = self.forward(x) - self.fidelity.data
        return 0.5 * self.fidelity.inverse_variance * inner(r, r)

    def log_density(self, x: Tensor, z: Tensor) -> Tensor:
        """Log p(x, z, y) up to a constant."""
        with torch.no_grad():
            mean, precision = self.decode(z)
            return -self.misfit(x) - negative_log_prior(x - mean, precision, z)

    def move(
        self, kind: str, z: Tensor, x: Tensor, size: Tensor, scale: Tensor
    ) -> tuple[Tensor, Tensor, Info]:
        """One Langevin step of z, of sizes ``(B,)`` times the variances `scale`, with x or with ε held fixed."""
        decode = self.decode
        if kind == "white":
            with torch.no_grad():
                mean, precision = decode(z)
                white = precision.whiten(x - mean)

            def image(z: Tensor) -> Tensor:
                mean, precision = decode(z)
                return mean + precision.colour(white)

            def target(z: Tensor) -> Tensor:
                return -self.misfit(image(z)) - 0.5 * inner(z, z)
        else:

            def image(z: Tensor) -> Tensor:
                return x

            def target(z: Tensor) -> Tensor:
                mean, precision = decode(z)
                return -negative_log_prior(x - mean, precision, z)

        root = scale.sqrt()

        def energy(u: Tensor, *, gradient: bool = True) -> tuple[Tensor, Tensor]:
            with torch.enable_grad():
                leaf = u.detach().requires_grad_()
                value = -target(root * leaf)
                (slope,) = torch.autograd.grad(value.sum(), leaf)
            return value.detach(), slope

        state, info = MALA().step(energy, State.at(energy, z / root), size, self.random)
        z = root * state.u
        if kind == "white":
            with torch.no_grad():
                moved = image(z)
            x = torch.where(info.accepted.view(-1, *(1,) * (x.ndim - 1)), moved, x)
        return z, x, info
