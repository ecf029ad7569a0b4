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

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from genreg.operators.bridge.arguments import flag, integer, number, seed_number
from genreg.operators.bridge.arrays import check_memory
from genreg.operators.bridge.door import enter
from genreg.operators.bridge.modes import undisturbed
from genreg.operators.fidelity import GaussianFidelity
from genreg.regularisers import JointPrior
from genreg.regularisers.identity import of_fidelity, of_regulariser
from genreg.sampling.joint_moves import JointMoves
from genreg.sampling.kernels.metropolis import MALA
from genreg.sampling.moments import masked_moments
from genreg.sampling.random_numbers import Random
from genreg.sampling.samples import ChainStatus
from genreg.sampling.warm_up import adapted
from genreg.solvers.checkpoints import digest, not_finite, resumable

__all__ = ["JointSamples", "gibbs"]


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
    status : Tensor
        `ChainStatus` of every chain, ``(chains, B)``. What a chain draws after it was stopped is NaN and does not
        count.
    """

    x: Tensor
    z: Tensor
    log_density: Tensor
    acceptance: dict[str, Tensor]
    status: Tensor

    @property
    def mean(self) -> Tensor:
        """Posterior mean of the image over the draws that count, ``(B, *X.shape)``; NaN of a sample without any."""
        return self._moments[0]

    @property
    def std(self) -> Tensor:
        """Posterior standard deviation of the pixels, as `mean`; NaN of a sample with fewer than two draws."""
        return self._moments[1]

    @functools.cached_property
    def _moments(self) -> tuple[Tensor, Tensor]:
        counts = torch.isfinite(self.log_density).flatten(0, 1)
        return masked_moments(self.x.flatten(0, 1), counts)

    def advice(self) -> str:
        """How many chains ended in which way, and what to do about it."""
        return ChainStatus.summary(self.status)


@undisturbed
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
    checkpoint: str | Path | None = None,
    resume: bool = False,
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
        Where the chains start, ``(B, dim Z)``, finite, for example at the maximum of the posterior,
        ``rec.blocks["z"]``.
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
    checkpoint : str or Path, optional
        New file that receives the state about every minute and at the end.
    resume : bool
        Go on from the checkpoint, with the same arguments otherwise, exactly as the run would have gone on; `draws` may
        be more than they were. Where there is no such file yet the run starts from the beginning.
    progress : bool
        Show a progress bar.

    Returns
    -------
    JointSamples
        A chain whose image, latent vector or density is not finite is stopped, with a status of its own; the others go
        on.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type, shape or sign, `z` is not finite, or the checkpoint to resume from is
        damaged or was made with other arguments.
    FileExistsError
        If the checkpoint exists and `resume` is false.
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
    settings: dict[str, Any] = {"burn_in": burn_in, "thin": thin, "chains": chains}
    settings |= {"interweave": interweave, "step": step, "seed": seed}

    def identity() -> Mapping[str, Any]:
        of_prior = of_regulariser(prior, fidelity.data.real.flatten(1)[:, 0])
        return {**of_fidelity(fidelity), **of_prior, "z": digest(z), **settings}

    file, saved = resumable.begin(checkpoint, resume, "Gibbs sampling", identity, progress=progress)
    run = _Run(prior, fidelity, z, chains, ("image", "white") if interweave else ("image",), step, seed)
    if saved is not None:
        run.restore(saved)
    turns = burn_in + draws * thin
    with resumable.saving(file, run.snapshot) as done:
        for turn in tqdm(
            range(run.turn, turns), initial=run.turn, total=turns, desc="Gibbs", disable=not progress
        ):
            run.advance(learns=turn < burn_in)
            if turn >= burn_in and (turn - burn_in + 1) % thin == 0:
                run.keep()
            done(now=turn + 1 == turns)
    return run.result(burn_in, draws)


class _Run:
    """Chains in progress, those of a sample in the rows ``k, k + B, ...``."""

    def __init__(
        self,
        prior: JointPrior,
        fidelity: GaussianFidelity,
        z: Tensor,
        chains: int,
        kinds: tuple[str, ...],
        step: float,
        seed: int,
    ) -> None:
        self.chains, count = chains, len(z)
        rows = torch.arange(count, device=z.device).repeat(chains)
        self.moves = JointMoves(prior.take(rows), fidelity.take(rows), Random(seed, z.device))
        z = z[rows]
        z[count:] += 0.1 * self.moves.random.normal(z[count:])
        like = z[:, 0]
        self.turn = 0
        self.z, self.x, self.scale = z, self.moves.prior.decode(z).mean.detach(), self.moves.scale(z)
        self.alive = torch.ones_like(like, dtype=torch.bool)
        self.started = self.alive
        self.log_step = {kind: torch.full_like(like, float(step)).log() for kind in kinds}
        self.accepted = {kind: torch.zeros_like(like, dtype=torch.int64) for kind in kinds}
        self.kept: dict[str, list[Tensor]] = {"x": [], "z": [], "log_density": []}

    def advance(self, *, learns: bool) -> None:
        """Take a turn."""
        before = self.x, self.z
        x, z = self.moves.image(self.z), self.z
        if self.turn == 0:
            self.alive = self._finite(x, z) & torch.isfinite(self.moves.log_density(x, z))
            self.started = self.alive
        for kind, log_step in self.log_step.items():
            z, x, info = self.moves.move(kind, z, x, log_step.exp(), self.scale)
            if learns:
                moved = adapted(log_step, info.probability, self.turn, MALA.acceptance)
                self.log_step[kind] = torch.where(self.alive, moved, log_step)
            else:
                self.accepted[kind] = self.accepted[kind] + (info.accepted & self.alive)
        self.alive = self.alive & self._finite(x, z)
        self.x, self.z = self._where_alive(x, before[0]), self._where_alive(z, before[1])
        self.turn += 1

    def keep(self) -> None:
        """Take in the present points as draws."""
        density = self.moves.log_density(self.x, self.z)
        self.alive = self.alive & torch.isfinite(density)
        for name, value in (("x", self.x), ("z", self.z), ("log_density", density)):
            self.kept[name].append(self._where_alive(value, torch.full_like(value, torch.nan)))

    @staticmethod
    def _finite(x: Tensor, z: Tensor) -> Tensor:
        return torch.isfinite(x.flatten(1)).all(1) & torch.isfinite(z).all(1)

    def _where_alive(self, new: Tensor, old: Tensor) -> Tensor:
        return torch.where(self.alive.view(-1, *(1,) * (new.ndim - 1)), new, old)

    def result(self, burn_in: int, draws: int) -> JointSamples:
        """The draws so far."""
        count = len(self.z) // self.chains
        x, z, density = (
            torch.stack(parts[:draws]).unflatten(1, (self.chains, count)) for parts in self.kept.values()
        )
        status = torch.full(self.alive.shape, int(ChainStatus.COMPLETED), device=z.device)
        never = torch.stack([taken == 0 for taken in self.accepted.values()]).all(0)
        status[never] = ChainStatus.STUCK
        status[~self.alive] = ChainStatus.DIVERGED
        status[~self.started] = ChainStatus.NOT_STARTED
        taken = max(self.turn - burn_in, 1)
        acceptance = {kind: (n.to(z.dtype) / taken).view(x.shape[1:3]) for kind, n in self.accepted.items()}
        return JointSamples(x, z, density, acceptance, status.view(x.shape[1:3]))

    def snapshot(self) -> dict[str, Any]:
        """All that determines how the run goes on, and its draws."""
        names = ("turn", "z", "x", "scale", "alive", "started", "log_step", "accepted")
        state = {name: getattr(self, name) for name in names}
        kept = {name: torch.stack(parts) for name, parts in self.kept.items() if parts}
        return {**state, "kept": kept, "random": self.moves.random.state}

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Continue from a snapshot; ValueError where its points are not finite."""
        device = self.z.device
        self.turn = saved["turn"]
        for name in ("z", "x", "scale", "alive", "started"):
            setattr(self, name, saved[name].to(device))
        for name in ("log_step", "accepted"):
            setattr(self, name, {kind: t.to(device) for kind, t in saved[name].items()})
        if bad := not_finite({"z": self.z[self.alive], "step": self.log_step}):
            raise ValueError(
                f"checkpoint must hold finite points, got NaN or infinite values of {', '.join(bad)}"
            )
        self.kept = {name: list(saved["kept"].get(name, torch.empty(0)).to(device)) for name in self.kept}
        self.moves.random.state = saved["random"]
