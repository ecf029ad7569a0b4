r"""The posterior of the latent vector of an image in the range of a generator."""

from __future__ import annotations

from typing import Any

import torch
from odl.functionals import Functional
from torch import Tensor

from genreg.fidelity import Fidelity
from genreg.generator import Generator
from genreg.operators import check_tensor, torch_dtype
from genreg.regularisers import HardConstraint
from genreg.sampling.random import Random
from genreg.solvers import Objective

__all__ = ["STARTS", "LatentPosterior"]

STARTS = ("prior", "posterior", "map")


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

    def take(self, index: Tensor) -> LatentPosterior:
        """The posterior for the data of the samples in `index`."""
        return LatentPosterior(self.fidelity.take(index), self.generator, latent=self.latent)

    def decode(self, z: Tensor) -> Tensor:
        """Images ``(..., *X.shape)`` of latent vectors ``(..., dim Z)``, without gradients."""
        with torch.no_grad():
            flat = z.reshape(-1, z.shape[-1])
            return self.generator.module(flat).reshape(*z.shape[:-1], *self.generator.range.shape)

    def start(
        self, init: str | Tensor, chains: int, random: Random, *, map_iterations: int = 100
    ) -> tuple[Tensor, Tensor]:
        r"""Latent vectors to start from.

        Parameters
        ----------
        init : str or Tensor
            ``"prior"``: draws of N(0, I). ``"posterior"``: draws of the encoder's distribution for a rough
            reconstruction. ``"map"``: minimisers of E, sought from draws of the encoder, or of the prior where there
            is none, from one for each chain; of those that were found for a sample, the chains take some with
            probabilities in proportion to :math:`e^{-E}`, as one in a mode without mass would stay there.
            A tensor: one for every sample, ``(B, dim Z)``, or for every chain, ``(chains, B, dim Z)``.
        chains : int
            Chains of every sample.
        random : Random
            Random numbers.
        map_iterations : int
            Iterations of the search for minimisers.

        Returns
        -------
        z : Tensor
            ``(chains, B, dim Z)``.
        evaluations : Tensor
            Evaluations of E and its gradient that were spent on every chain, ``(chains, B)``.

        Raises
        ------
        ValueError
            If `init` is none of these, or the model has no encoder.
        """
        G, data = self.generator, self.fidelity.data
        shape = (chains, self.batch, *G.domain.shape)
        like = torch.empty(shape, dtype=torch_dtype(G.domain), device=data.device)
        spent = torch.zeros(shape[:2], dtype=torch.int64, device=data.device)
        if isinstance(init, Tensor):
            check_tensor(init, G.domain, "init")
            if init.shape not in (shape, shape[1:]) or not bool(torch.isfinite(init).all()):
                raise ValueError(
                    f"init must be finite and have the shape {shape[1:]} or {shape}, got {tuple(init.shape)}"
                )
            return init.detach().expand(shape).to(like).clone(), spent
        if init not in STARTS:
            raise ValueError(f"init must be one of {STARTS}, samples or a tensor, got {init!r}")
        if init == "posterior" and not G.has_encoder:
            raise ValueError(f"init must be 'prior', 'map' or a tensor: {G!r} has no encoder")
        z = random.normal(like)
        if init != "prior" and G.has_encoder:
            z = self._encoded(z)
        if init == "map":
            return self._modes(z, random, map_iterations)
        return z, spent

    def _encoded(self, noise: Tensor) -> Tensor:
        """Draws of q(z | x) for a rough reconstruction x; its mean where the encoder says no more."""
        image = self.fidelity.rough()
        model: Any = self.generator.model
        if not getattr(model, "variational", False):
            return self.generator.encode(image).expand_as(noise).clone()
        with torch.no_grad():
            mean, std = model.encode_distribution(image.reshape(self.batch, *model.image_shape))
        return mean + std * noise

    def _modes(self, z: Tensor, random: Random, iterations: int) -> tuple[Tensor, Tensor]:
        chains, batch = z.shape[:2]
        rows = torch.arange(batch, device=z.device).repeat(chains)
        found = self.prior.solver(
            self.objective.take(rows), {"z": z.flatten(0, 1)}, max_iter=iterations, tol=1e-3, progress=False
        )
        energy = found.value.view(chains, batch).nan_to_num(torch.inf)
        logits = torch.where(torch.isfinite(energy), -energy, -1e30)
        # Gumbel's trick: the largest of log p + noise is a draw from p
        noise = -(-random.uniform(energy.expand(chains, chains, batch)).log()).log()
        chosen = (logits + noise).argmax(1)  # (chains, B)
        modes = found.blocks["z"].view_as(z)
        z = modes.gather(0, chosen[..., None].expand_as(z))
        return z, found.operator_calls.view(chains, batch)
