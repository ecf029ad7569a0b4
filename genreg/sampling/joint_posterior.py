r"""The posterior of an image and its latent vector, :math:`p(x, z \mid y)`, see `genreg.sampling.gibbs_sampler`."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from genreg.generator import Generator
from genreg.operators import GaussianPosterior, Precision, to_torch
from genreg.operators.fidelity import GaussianFidelity
from genreg.operators.linear.conjugate_gradient import inner
from genreg.regularisers import JointPrior
from genreg.regularisers.identity import of_fidelity, of_regulariser
from genreg.sampling.adaptation import Coordinates
from genreg.sampling.kernels.metropolis import ChainState, Target
from genreg.sampling.random_numbers import RandomNumbers
from genreg.solvers.generative.profiled import Profiled
from genreg.solvers.generative.structured import negative_log_prior
from genreg.solvers.problem.objective import Objective

_TOLERANCE = 1e-3  # of a draw of the image, in posterior standard deviations


class JointPosterior:
    r"""The density of x and z given the data y of a linear operator.

    .. math:: p(x, z \mid y) \propto \exp(-E(x, z)), \qquad
              E(x, z) = \tfrac{1}{2 \sigma^2} \|A x - y\|^2 - \log p(x \mid z) + \tfrac12 \|z\|^2

    Parameters
    ----------
    prior : JointPrior
        :math:`p(x \mid z) p(z)`.
    fidelity : GaussianFidelity
        The data, B samples.
    """

    def __init__(self, prior: JointPrior, fidelity: GaussianFidelity) -> None:
        self.prior, self.fidelity = prior, fidelity
        self._forward = to_torch(fidelity.operator)

    @property
    def batch(self) -> int:
        """Number B of samples of data."""
        return len(self.fidelity.data)

    @property
    def generator(self) -> Generator:
        """The generator whose images are the means of x given z."""
        return self.prior.generator

    def take(self, index: Tensor) -> JointPosterior:
        """The posterior for the data of the samples in `index`."""
        return JointPosterior(self.prior.take(index), self.fidelity.take(index))

    def given(self, z: Tensor) -> tuple[Tensor, Precision]:
        """Mean and precision of the image given z, ``(B, dim Z)``, without the data."""
        decoded = self.prior.decode(z)
        assert decoded.precision is not None
        return decoded.mean, decoded.precision

    def decode(self, z: Tensor) -> Tensor:
        """The means of the image given z, ``(B, *X.shape)``, without gradients."""
        with torch.no_grad():
            return self.given(z)[0]

    def image(self, z: Tensor, seed: int) -> Tensor:
        """A draw of x given z and the data, ``(B, *X.shape)``; with the same seed it is the same."""
        with torch.no_grad():
            (mean, precision), data = self.given(z), self.fidelity
            posterior = GaussianPosterior(
                data.operator, data.data, mean, precision, data.inverse_variance, tol=_TOLERANCE
            )
            return posterior.sample(1, seed)[0]

    def misfit(self, x: Tensor) -> Tensor:
        """The misfit of images, ``(B,)``; differentiable."""
        r = self._forward(x) - self.fidelity.data
        return 0.5 * self.fidelity.inverse_variance * inner(r, r)

    def energy(self, x: Tensor, z: Tensor) -> Tensor:
        """E(x, z) up to a constant, ``(B,)``."""
        with torch.no_grad():
            mean, precision = self.given(z)
            return self.misfit(x) + negative_log_prior(x - mean, precision, z)

    def deviation(self, z: Tensor) -> Tensor:
        """Standard deviations that a variational encoder gives to z, ``(B, dim Z)``, from 1e-3 to 1; otherwise 1."""
        model: Any = self.generator.model
        if not getattr(model, "variational", False):
            return torch.ones_like(z)
        with torch.no_grad():
            return model.encode_distribution(model.decode(z))[1].clamp(1e-3, 1.0)

    def identity(self) -> dict[str, Any]:
        """What a run belongs to: data, noise, operator, prior and generator."""
        like = self.fidelity.data.real.flatten(1)[:, 0]
        return of_fidelity(self.fidelity) | of_regulariser(self.prior, like)

    def target(self, chains: int, coordinates: Coordinates) -> JointTarget:
        """The energies of `chains` chains of every sample."""
        return JointTarget(self, chains, coordinates)


class JointTarget:
    """The energies of all chains, those of a sample in the rows ``k, k + B, ...``, in coordinates u of z."""

    def __init__(self, posterior: JointPosterior, chains: int, coordinates: Coordinates) -> None:
        rows = torch.arange(posterior.batch, device=coordinates.mean.device).repeat(chains)
        self.posterior, self.coordinates = posterior.take(rows), coordinates
        self.shape = (chains, *coordinates.mean.shape)
        self.unknowns = posterior.generator.domain.size + posterior.generator.range.size
        self.evaluations = 0

    def state(self, u: Tensor, random: RandomNumbers) -> ChainState:
        """Draw images for latent vectors at u, ``(N, dim Z)``."""
        z, seed = self._decode(u), random.integer()
        x = self.posterior.image(z, seed)
        self.evaluations += 1
        energy = self.posterior.energy(x, z)
        return ChainState(u, energy, torch.zeros_like(u), x, torch.tensor(seed))

    def images(self, z: Tensor, state: ChainState) -> Tensor:
        """The images of a state, ``(chains, B, *X.shape)``."""
        assert state.x is not None
        return state.x.unflatten(0, self.shape[:2])

    @functools.cached_property
    def marginal(self) -> Objective:
        """The negative logarithm of the density of z with x integrated out, an objective of z."""
        fidelity = self.posterior.fidelity
        like = fidelity.data.real
        one = torch.ones(len(like), dtype=like.dtype, device=like.device)
        problem = self.posterior.prior.problem(fidelity, one)
        assert isinstance(problem, Profiled)
        return problem.profile()

    def conditional(self, move: str, u: Tensor, x: Tensor) -> Target:
        """The target of u with x (``"image"``) or ε (``"white"``) held fixed at those of u and x; or ``"marginal"``."""
        posterior = self.posterior
        if move == "marginal":
            phi = self.marginal

            def energy(z: Tensor) -> Tensor:
                return phi.smooth({"z": z}, **phi.per_sample)
        elif move == "image":

            def energy(z: Tensor) -> Tensor:
                mean, precision = posterior.given(z)
                return negative_log_prior(x - mean, precision, z)
        else:
            with torch.no_grad():
                mean, precision = posterior.given(self._decode(u))
                white = precision.whiten(x - mean)

            def energy(z: Tensor) -> Tensor:
                mean, precision = posterior.given(z)
                return posterior.misfit(mean + precision.colour(white)) + 0.5 * inner(z, z)

        return functools.partial(self._differentiated, energy)

    def _differentiated(
        self, energy: Callable[[Tensor], Tensor], u: Tensor, *, gradient: bool = True
    ) -> tuple[Tensor, Tensor]:
        self.evaluations += 1
        with torch.enable_grad():
            leaf = u.detach().requires_grad_()
            value = energy(self._decode(leaf))
            (slope,) = torch.autograd.grad(value.sum(), leaf)
        return value.detach(), slope

    def _decode(self, u: Tensor) -> Tensor:
        return self.coordinates.decode(u.view(self.shape)).flatten(0, 1)
