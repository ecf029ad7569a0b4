"""What the draws of a sampler are worth, image by image, and what to do where they are worth little."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from genreg.sampling.convergence import (
    autocorrelation,
    effective_sample_size,
    monte_carlo_error,
    rank_normalised_rhat,
)

if TYPE_CHECKING:
    from genreg.sampling.samples import Samples
from genreg.solvers.driver.advised import Advised

__all__ = [
    "Diagnostics",
    "Mixing",
    "autocorrelation",
    "diagnose",
    "effective_sample_size",
    "monte_carlo_error",
    "rank_normalised_rhat",
]

_RHAT = 1.01  # both thresholds as Vehtari et al. (2021), doi:10.1214/20-BA1221, recommend them
_ESS = 400
_SCREENED = "init='screened' finds starting points in more of the modes."


class Mixing(Advised):
    """How the chains of an image have mixed; `advice` says what the user can do about it."""

    MIXED = (
        0,
        f"R-hat is at most {_RHAT} and the effective sample size at least {_ESS} throughout: nothing to do.",
    )
    FEW_SAMPLES = (
        1,
        f"The chains have met, but an effective sample size is below {_ESS}: raise steps, or start again from last, "
        "before using variances and intervals.",
    )
    CHAINS_STOPPED = (
        2,
        "Some chains were stopped as they diverged, and are left out: take a smaller step or a longer burn_in if there "
        "are many of them.",
    )
    ONE_CHAIN = (
        3,
        "Only one chain has draws, and a single one cannot show whether it has missed something: use at least two, "
        "better four, that are not stopped.",
    )
    NOT_MIXED = (
        4,
        f"An R-hat is above {_RHAT}: the chains have not met, so that mean and variance depend on the start. Raise "
        "steps and burn_in; chains that stay apart are in different modes.",
    )
    NOT_MOVED = (
        5,
        "A chain, or a component of all chains, is the same in all draws: no move was accepted. Take a smaller step, "
        "or a longer burn_in, so that it adapts, and check data and noise_std.",
    )
    NO_CHAIN = (
        6,
        "No chain has draws to the end, see the status of the chains: they diverged, and need a smaller step, or had "
        "no finite energy at the start, and data and noise_std need a check.",
    )


@dataclass(frozen=True)
class Diagnostics:
    r"""What the draws of B images are worth; the last of the d + 1 components is the energy.

    Attributes
    ----------
    rhat : Tensor
        :math:`\hat R` of the components of z and of the energy, ``(B, d + 1)``.
    ess, tail_ess : Tensor
        Effective sample sizes of bulk and tails, of all chains together, ``(B, d + 1)``.
    acceptance : Tensor
        Mean acceptance of the chains that were not stopped, of all kinds of steps, ``(B,)``.
    chains : int
        Number of chains of an image.
    stopped : Tensor
        Number of those without draws to the end, as they diverged or could not start, ``(B,)``.
    still : Tensor
        Number of those that were not stopped but are at the same point in all draws, ``(B,)``.
    screened : bool
        Whether the chains started at ``init="screened"``, or at points that were given.
    """

    rhat: Tensor
    ess: Tensor
    tail_ess: Tensor
    acceptance: Tensor
    chains: int
    stopped: Tensor
    still: Tensor
    screened: bool

    @property
    def worst_rhat(self) -> Tensor:
        r"""The largest :math:`\hat R` of an image, ``(B,)``; NaN if one is."""
        return self.rhat.amax(1)

    @property
    def median_rhat(self) -> Tensor:
        r"""The median of the :math:`\hat R` of an image, ``(B,)``; NaN if one is."""
        return self.rhat.median(1).values

    @property
    def worst_ess(self) -> Tensor:
        """The smallest effective sample size of an image, bulk or tail, ``(B,)``; NaN if one is."""
        return torch.minimum(self.ess, self.tail_ess).amin(1)

    @property
    def median_ess(self) -> Tensor:
        """The median of the effective sample sizes (bulk) of an image, ``(B,)``; NaN if one is."""
        return self.ess.median(1).values

    @property
    def status(self) -> Tensor:
        """The most serious `Mixing` member that holds for an image, integers ``(B,)``."""
        code = torch.zeros_like(self.stopped)
        for member, holds in (
            (Mixing.FEW_SAMPLES, ~(self.worst_ess >= _ESS)),
            (Mixing.CHAINS_STOPPED, self.stopped > 0),
            (Mixing.NOT_MIXED, ~(self.worst_rhat <= _RHAT)),  # NaN is no sign of having met
            (Mixing.ONE_CHAIN, self.chains - self.stopped == 1),
            (Mixing.NOT_MOVED, self.ess.isnan().any(1) | (self.still > 0)),
            (Mixing.NO_CHAIN, self.stopped == self.chains),
        ):
            code = torch.where(holds, int(member), code)
        return code

    def advice(self) -> str:
        """How many images have mixed in which way, and what to do about it."""
        advice = Mixing.summary(self.status)
        if not self.screened and bool((self.status == Mixing.NOT_MIXED).any()):
            advice += f"\n{_SCREENED}"
        return advice


def diagnose(samples: Samples) -> Diagnostics:
    r"""Compute :math:`\hat R` and effective sample sizes of the latent components and of the energy, for every image.

    Parameters
    ----------
    samples : Samples
        Draws of `sampling.sample` or `sampling.gibbs`, at least 4 of a chain.

    Returns
    -------
    Diagnostics

    Raises
    ------
    ValueError
        If there are too few draws.
    """
    values = torch.cat([samples.z, samples.energy[..., None]], -1)  # (draws, chains, B, d + 1)
    stopped = ~values.isfinite().all(-1).all(0)  # (chains, B)
    values = torch.where(stopped[..., None], torch.nan, values)
    still = ((values.amax(0) == values.amin(0)).all(-1) & ~stopped).sum(0)
    shares = samples.acceptance
    shares = torch.stack(list(shares.values())).mean(0) if isinstance(shares, dict) else shares
    running = torch.where(stopped, 0, shares).sum(0)
    return Diagnostics(
        rank_normalised_rhat(values),
        effective_sample_size(values),
        effective_sample_size(values, "tail"),
        running / (~stopped).sum(0),
        values.shape[1],
        stopped.sum(0),
        still,
        samples.screened,
    )
