r"""Samples of the joint posterior of image and latent vector, :math:`p(x, z \mid y)`.

Given z the image is Gaussian, and drawn exactly (`operators.GaussianPosterior`). Given the image, z moves by a step of
the Metropolis-adjusted Langevin algorithm. Alone, this alternation (Gibbs) mixes slowly: an image holds its latent
vector fast, and the other way round. So z takes a second step in each turn with the *white* image

.. math:: \varepsilon = L(z)^T (x - \mu(z)) \sim N(0, I)

held fixed instead of x, so that x follows z. The logarithm of its target is
:math:`-\tfrac{1}{2 \sigma^2} \|A (\mu(z) + L(z)^{-T} \varepsilon) - y\|^2 - \tfrac12 \|z\|^2`. Where the data say
little this step goes far, where they say much the other one does; both leave the posterior invariant (interweaving).

References
----------
G. O. Roberts, R. L. Tweedie (1996), Exponential convergence of Langevin distributions and their discrete
approximations, doi:10.2307/3318418.

Y. Yu, X.-L. Meng (2011), To center or not to center: that is not the question, doi:10.1198/jcgs.2011.203main.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from genreg.fidelity import GaussianFidelity
from genreg.operators import GaussianPosterior, Precision, to_torch
from genreg.operators.arguments import flag, integer, number, seed_number
from genreg.operators.arrays import check_memory
from genreg.regularisers import JointPrior
from genreg.sampling.kernels import MALA, Info, State
from genreg.sampling.random import Random
from genreg.sampling.warm_up import adapted
from genreg.solvers.door import enter
from genreg.solvers.line_search import inner
from genreg.solvers.structured import negative_log_prior

__all__ = ["JointSamples", "gibbs"]

_TOLERANCE = 1e-3  # of a draw of the image, in posterior standard deviations


@dataclass(frozen=True)
class JointSamples:
    r"""Draws of :math:`p(x, z \mid y)` of every sample of a batch.

    Attributes
    ----------
    x : Tensor
        Images, ``(draws, chains, B, *X.shape)``.
    z : Tensor
        Latent vectors, ``(draws, chains, B, dim Z)``.
    log_density : Tensor
        :math:`\log p(x, z, y)` up to a constant, ``(draws, chains, B)``.
    acceptance : dict of str to Tensor
        Share of accepted steps of z after the burn-in, ``(chains, B)``, of the kinds ``"image"`` (x held fixed) and
        ``"white"`` (ε held fixed).
    """

    x: Tensor
    z: Tensor
    log_density: Tensor
    acceptance: dict[str, Tensor]

    @property
    def mean(self) -> Tensor:
        """Posterior mean of the image, ``(B, *X.shape)``."""
        return self.x.flatten(0, 1).mean(0)

    @property
    def std(self) -> Tensor:
        """Posterior standard deviation of the pixels, ``(B, *X.shape)``."""
        return self.x.flatten(0, 1).std(0)


def gibbs(
    prior: JointPrior,
    fidelity: GaussianFidelity,
    z: Tensor,
    *,
    draws: int = 100,
    burn_in: int = 100,
    thin: int = 1,
    chains: int = 1,
    interweave: bool = True,
    step: float = 1.0,
    seed: int = 0,
    progress: bool = True,
) -> JointSamples:
    r"""Draw images and latent vectors from their joint posterior, see the module.

    During the burn-in the step sizes adapt, for every chain and kind of step, to an acceptance of 57 %; then they
    are kept. The steps are scaled by the standard deviations that a variational encoder gives to z.

    Parameters
    ----------
    prior : JointPrior
        :math:`p(x \mid z) p(z)`.
    fidelity : GaussianFidelity
        The data of a linear operator, B samples.
    z : Tensor
        Where the chains start, ``(B, dim Z)``, for example at the maximum of the posterior, ``rec.blocks["z"]``.
    draws : int
        Number of draws to keep of every chain.
    burn_in : int
        Turns before the first of them.
    thin : int
        Turns for each of them.
    chains : int
        Chains of every sample; those after the first start where z has been disturbed by N(0, I/100).
    interweave : bool
        Whether z takes the second kind of step as well.
    step : float
        First size of the steps, in units of the encoder's standard deviations.
    seed : int
        Seed of all random numbers.
    progress : bool
        Show a progress bar.

    Returns
    -------
    JointSamples

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type, shape or sign.
    """
    draws, burn_in = integer(draws, "draws", minimum=1), integer(burn_in, "burn_in", minimum=0)
    thin, chains = integer(thin, "thin", minimum=1), integer(chains, "chains", minimum=1)
    step, seed = number(step, "step", above=0), seed_number(seed)
    interweave = flag(interweave, "interweave")
    if not isinstance(prior, JointPrior):
        raise TypeError(f"prior must be a JointPrior, got {type(prior).__name__}")
    prior.posterior(fidelity, z)  # refuses what does not fit
    z = enter(z, {"z": prior.generator.domain}, "z").blocks["z"]
    count = len(z)
    check_memory((chains, count, prior.generator.range.size), z.dtype, "chains", chains, z.device)
    check_memory((draws, chains, count, z.shape[1]), z.dtype, "draws", draws, z.device)
    rows = torch.arange(count, device=z.device).repeat(chains)
    chain = _Chain(prior.take(rows), fidelity.take(rows), Random(seed, z.device))
    z = z.detach()[rows]
    z[count:] += 0.1 * chain.random.normal(z[count:])
    scale = chain.scale(z)
    kinds = ("image", "white") if interweave else ("image",)
    log_step = {
        kind: torch.full((len(z),), float(step), dtype=z.dtype, device=z.device).log() for kind in kinds
    }
    accepted = {kind: torch.zeros(len(z), dtype=z.dtype, device=z.device) for kind in kinds}
    kept: list[tuple[Tensor, Tensor, Tensor]] = []
    turns = burn_in + draws * thin
    for turn in tqdm(range(turns), desc="Gibbs", disable=not progress):
        x = chain.image(z)
        for kind in kinds:
            z, x, info = chain.move(kind, z, x, log_step[kind].exp(), scale)
            if turn < burn_in:
                log_step[kind] = adapted(log_step[kind], info.probability, turn, MALA.acceptance)
            else:
                accepted[kind] += info.accepted / (turns - burn_in)
        if turn >= burn_in and (turn - burn_in + 1) % thin == 0:
            kept.append((x, z, chain.log_density(x, z)))
    x, z, density = (torch.stack(parts).unflatten(1, (chains, count)) for parts in zip(*kept, strict=True))
    return JointSamples(x, z, density, {kind: share.view(chains, count) for kind, share in accepted.items()})


class _Chain:
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
