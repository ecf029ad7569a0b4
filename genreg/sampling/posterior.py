r"""The posterior of the latent vector of an image in the range of a generator."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from odl.functionals import Functional
from torch import Tensor

from genreg.generator import Generator
from genreg.operators import to_torch
from genreg.operators.fidelity import Fidelity
from genreg.regularisers import HardConstraint
from genreg.regularisers.identity import of_fidelity
from genreg.sampling.adaptation import Coordinates
from genreg.sampling.kernels.metropolis import ChainState
from genreg.sampling.random_numbers import RandomNumbers
from genreg.solvers import Objective
from genreg.solvers.checkpoints import codes, of_generator


class ChainTarget(Protocol):
    """What the kernels take of a posterior, for all chains; those of a sample in the rows ``k, k + B, ...``."""

    coordinates: Coordinates
    evaluations: int
    unknowns: int

    def state(self, u: Tensor, random: RandomNumbers) -> ChainState:
        """The state of chains at points u, ``(N, d)``."""

    def images(self, z: Tensor, state: ChainState) -> Tensor:
        """Images ``(chains, B, *X.shape)`` of the latent vectors z, ``(chains, B, d)``, that were made of a state."""


class Posterior(Protocol):
    """What is sampled."""

    @property
    def fidelity(self) -> Fidelity:
        """The fidelity of the data."""

    @property
    def batch(self) -> int:
        """Number B of samples of data."""

    @property
    def generator(self) -> Generator:
        """The generator of the images."""

    def decode(self, z: Tensor) -> Tensor:
        """Images of latent vectors."""

    def identity(self) -> dict[str, Any]:
        """What a stored run belongs to."""

    def target(self, chains: int, coordinates: Coordinates) -> ChainTarget:
        """The energies of `chains` chains of every sample."""


class LatentPosterior:
    r"""The density of z given the data y, for an image G(z) and :math:`z \sim N(0, I)`.

    .. math:: p(z \mid y) \propto \exp(-E(z)), \qquad E(z) = \mathcal{D}(A(G(z)); y) + \tfrac12 \|z\|^2 ,

    with a Gaussian fidelity :math:`\mathcal{D} = \|A(G(z)) - y\|^2 / (2 \sigma^2)`. It is the objective of a
    `HardConstraint` with λ = ½.

    Parameters
    ----------
    fidelity : Fidelity
        The data, B samples.
    G : Generator
        The generator Z -> X.
    latent : Functional, optional
        The negative logarithm of another prior density of z, a differentiable ODL functional on Z, in the place of
        ‖z‖²/2. For example ``0.5 * odl.functionals.L2NormSquared(Z) + genreg.latent.DensityRatio(G, D)`` weighs the
        prior with a discriminator.

    Raises
    ------
    TypeError
        If `fidelity` is no fidelity or `G` no generator.
    ValueError
        If the fidelity is not one of the images of G, or `latent` is no functional on Z.
    NotImplementedError
        If the fidelity or `latent` has no gradient.

    References
    ----------
    A. Jalal, M. Arvinte, G. Daras, E. Price, A. G. Dimakis, J. I. Tamir (2021), Robust compressed sensing MRI with
    deep generative priors, arXiv:2108.01368.
    """

    def __init__(self, fidelity: Fidelity, G: Generator, *, latent: Functional | None = None) -> None:
        if not isinstance(fidelity, Fidelity):
            raise TypeError(f"fidelity must be a genreg Fidelity, got {type(fidelity).__name__}")
        self.prior = HardConstraint(G, latent)
        if fidelity.domain != G.range:
            raise ValueError(
                f"fidelity must be a functional of the images of G, on {G.range!r}, got one on {fidelity.domain!r}"
            )
        if self.prior.latent_prox is not None:
            raise NotImplementedError(f"latent must be differentiable, got {latent!r}")
        self.fidelity, self.generator, self.latent = fidelity, G, latent
        data = fidelity.data
        lam = torch.full(
            (len(data),), 0.5 if latent is None else 1.0, dtype=data.real.dtype, device=data.device
        )
        problem = self.prior.problem(fidelity, lam)
        assert isinstance(problem, Objective)
        self.objective = problem
        """E as the solvers take it, with the block ``"z"``."""

    @property
    def batch(self) -> int:
        """Number B of samples of data."""
        return len(self.fidelity.data)

    def energy(self, z: Tensor) -> Tensor:
        """E(z), ``(B,)``, of one latent vector for each sample, ``(B, dim Z)``; differentiable."""
        return self.objective.smooth({"z": z}, **self.objective.per_sample)

    def minimise(self, z: Tensor, iterations: int) -> tuple[Tensor, Tensor, Tensor]:
        """Seek minimisers of E from several points of every sample.

        Parameters
        ----------
        z : Tensor
            Where to start, ``(n, B, dim Z)``.
        iterations : int
            Iterations of the solver, at most.

        Returns
        -------
        z : Tensor
            What was found, ``(n, B, dim Z)``.
        energy, evaluations : Tensor
            E there, infinite where it is not finite, and how often E and its gradient were evaluated, ``(n, B)``.
        """
        rows = torch.arange(self.batch, device=z.device).repeat(len(z))
        found = self.prior.solver(
            self.objective.take(rows), {"z": z.flatten(0, 1)}, max_iter=iterations, tol=1e-3, progress=False
        )
        energy = found.value.view(z.shape[:2])
        energy = torch.where(torch.isfinite(energy), energy, torch.inf)
        return found.blocks["z"].view_as(z), energy, found.operator_calls.view(z.shape[:2])

    def take(self, index: Tensor) -> LatentPosterior:
        """The posterior for the data of the samples in `index`."""
        return LatentPosterior(self.fidelity.take(index), self.generator, latent=self.latent)

    def decode(self, z: Tensor) -> Tensor:
        """Images ``(..., *X.shape)`` of latent vectors ``(..., dim Z)``, without gradients."""
        with torch.no_grad():
            flat = z.reshape(-1, z.shape[-1])
            return self.generator.module(flat).reshape(*z.shape[:-1], *self.generator.range.shape)

    def identity(self) -> dict[str, Any]:
        """What a run belongs to: data, noise, operator, generator, and prior of the latent vectors."""
        z = codes(self.generator)
        found = of_fidelity(self.fidelity, self.decode(z)) | of_generator(self.generator)
        with torch.no_grad():
            prior = None if self.latent is None else to_torch(self.latent)(z).nan_to_num()
        return {**found, "prior of the latent vectors": prior}

    def target(self, chains: int, coordinates: Coordinates) -> ChainTarget:
        """The energies of `chains` chains of every sample."""
        return _LatentTarget(self, chains, coordinates)


class _LatentTarget:
    """The energies of latent vectors in coordinates u."""

    def __init__(self, posterior: LatentPosterior, chains: int, coordinates: Coordinates) -> None:
        rows = torch.arange(posterior.batch, device=coordinates.mean.device).repeat(chains)
        self.posterior, self.objective = posterior, posterior.objective.take(rows)
        self.shape = (chains, *coordinates.mean.shape)
        self.unknowns = self.shape[-1]
        self.coordinates = coordinates
        self.evaluations = 0

    def __call__(self, u: Tensor, *, gradient: bool = True) -> tuple[Tensor, Tensor]:
        self.evaluations += 1
        blocks = {"z": self.coordinates.decode(u.view(self.shape)).flatten(0, 1)}
        if not gradient:
            return self.objective(blocks), torch.zeros_like(u)
        energy, slope = self.objective.value_and_gradient(blocks)
        return energy, self.coordinates.transposed(slope["z"].view(self.shape)).flatten(0, 1)

    def state(self, u: Tensor, random: RandomNumbers) -> ChainState:
        return ChainState.at(self, u)

    def images(self, z: Tensor, state: ChainState) -> Tensor:
        return self.posterior.decode(z)
