"""What a sampler returns: draws of latent vectors, or of images with them, and what they say about the images."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from genreg.operators.bridge.arguments import number
from genreg.operators.bridge.arrays import check_memory, samples_of
from genreg.operators.bridge.spaces import torch_dtype
from genreg.sampling.importance import kish_ess, self_normalised, weighted_mean_and_std
from genreg.sampling.joint_posterior import JointPosterior
from genreg.sampling.posterior import Posterior
from genreg.sampling.storage import as_stored, state_file
from genreg.solvers.driver.advised import Advised


class ChainStatus(Advised):
    """How a chain ended; `advice` says what the user can do about it."""

    COMPLETED = 1, "The chain took all its steps: look at the diagnostics."
    DIVERGED = (
        2,
        "The energy of the chain was not finite or had risen out of reach: its draws from there "
        "on are NaN and do not count. Take smaller steps or a kernel with a test of acceptance.",
    )
    STUCK = 3, "No proposal was accepted after the warm-up: take smaller steps or a longer warm-up."
    INTERRUPTED = 4, "The time was up before the last step: go on with `resume`."
    NOT_STARTED = (
        5,
        "The energy is not finite where the chain should start, so that it has no draws: check the data of this "
        "sample and noise_std, whether its units are those of the generator, and init.",
    )


@dataclass(frozen=True)
class Samples:
    r"""Draws of :math:`p(z \mid y)` of every sample of a batch.

    Attributes
    ----------
    posterior : LatentPosterior
        What was sampled.
    z : Tensor
        Latent vectors, ``(draws, chains, B, dim Z)``, NaN after a chain was stopped.
    energy : Tensor
        E(z), ``(draws, chains, B)``.
    acceptance : Tensor
        Share of accepted steps after the warm-up, ``(chains, B)``; 1 for kernels without a test, and a dictionary of a
        kernel with several kinds of steps.
    step : Tensor
        Step sizes h after the warm-up, ``(B,)``, in the coordinates that it learnt.
    status : Tensor
        `ChainStatus` of every chain, ``(chains, B)``.
    evaluations : Tensor
        Evaluations of E, the search for starting points included, ``(chains, B)``.
    time : float
        Wall-clock seconds of the whole batch.
    seed : int
        Seed of the random numbers.
    moments : tuple of Tensor
        Mean and standard deviation of the images over all chains and draws, ``(B, *X.shape)`` each.
    last : Tensor
        Where the chains are, ``(chains, B, dim Z)``.
    state : Mapping
        All that `resume` needs.
    weights : Tensor, optional
        Weights of the draws, ``(draws, chains, B)``, adding up to 1 for every sample, see `reweighted`.
    """

    posterior: Posterior
    z: Tensor
    energy: Tensor
    acceptance: Tensor | dict[str, Tensor]
    step: Tensor
    status: Tensor
    evaluations: Tensor
    time: float
    seed: int
    moments: tuple[Tensor, Tensor]
    last: Tensor
    state: Mapping[str, Any] = field(repr=False)
    weights: Tensor | None = None

    @property
    def mean(self) -> Any:
        """Posterior mean of the image: ODL element, ``X.shape`` or ``(B, *X.shape)``, as the data were given."""
        return self._as_data(self.moments[0])

    @property
    def std(self) -> Any:
        """Posterior standard deviation of the pixels, as `mean`; real, of complex images that of |x - mean|."""
        return self._as_data(self.moments[1])

    def _as_data(self, images: Tensor) -> Any:
        space: Any = self.posterior.generator.range
        space = space if images.is_complex() else space.real_space
        return self.posterior.fidelity.given_back(space, images)

    def images(self, index: int) -> Tensor:
        """All draws of the image of one sample that count, ``(n, *X.shape)``.

        Parameters
        ----------
        index : int
            The sample, from 0.
        """
        return self.posterior.decode(self._counted(index))

    def _counted(self, index: int) -> Tensor:
        z = self.z[:, :, index].flatten(0, 1)
        return z[torch.isfinite(z).all(1)]

    def interval(self, level: float) -> tuple[Any, Any]:
        """Credible intervals of the pixels with equal tails, lower and upper bound, each as `mean`.

        Parameters
        ----------
        level : float
            Probability of an interval, in (0, 1).

        Raises
        ------
        ValueError
            If `level` is not in (0, 1).
        TypeError
            For complex images, which have no order.
        """
        level = number(level, "level", above=0, below=1)
        tails = (0.5 - level / 2, 0.5 + level / 2)
        bounds = [self.quantiles(index, tails) for index in range(self.z.shape[2])]
        lower, upper = torch.stack(bounds, 1)
        return self._as_data(lower), self._as_data(upper)

    def exceedance(self, threshold: float) -> Any:
        """Posterior probabilities P(x > t | y) of the pixels, in [0, 1], as `mean`; NaN of a sample without draws.

        Where it is above one half is the segmentation with the fewest wrong pixels that the posterior expects.

        Parameters
        ----------
        threshold : float
            t, in the unit of the image.

        Raises
        ------
        TypeError, ValueError
            If `threshold` is no finite number.
        """
        threshold = number(threshold, "threshold")
        shares = []
        for index in range(self.z.shape[2]):
            above, weights = (self.images(index) > threshold).to(self.z.dtype), self._weights_of(index)
            if weights is None or not len(above):  # the mean of no draws is NaN
                shares.append(above.mean(0))
            else:
                shares.append(torch.tensordot(weights, above, 1))
        return self._as_data(torch.stack(shares))

    def _weights_of(self, index: int) -> Tensor | None:
        """The weights of the draws of one sample that count, ``(n,)``, where there are some."""
        if self.weights is None:
            return None
        return self.weights[:, :, index].flatten()[torch.isfinite(self.z[:, :, index]).all(-1).flatten()]

    def quantiles(self, index: int, levels: tuple[float, ...]) -> Tensor:
        """Quantiles of the pixels of one sample, ``(len(levels), *X.shape)``; NaN where no draw counts."""
        images = self.images(index)
        if images.is_complex():
            raise TypeError(
                "images must be real to have quantiles, got complex ones; take those of a part of `images`"
            )
        if not len(images) or (self.weights is not None and not bool(self.weights[:, :, index].sum() > 0)):
            return images.new_full((len(levels), *images.shape[1:]), torch.nan)
        w = self._weights_of(index)
        if w is None:
            return torch.quantile(images, torch.tensor(levels, dtype=images.dtype, device=images.device), 0)
        ordered, order = images.flatten(1).sort(0)
        share = w[order].cumsum(0)
        rows = torch.stack([(share < level * share[-1]).sum(0) for level in levels])
        return ordered.gather(0, rows.clamp_max(len(images) - 1)).view(-1, *images.shape[1:])

    def reweighted(self, log_weight: Callable[[Tensor], Tensor]) -> Samples:
        r"""The same draws with importance weights, for another density.

        Parameters
        ----------
        log_weight : callable
            The logarithm of the ratio of the other density to that of the draws up to a constant, of latent vectors
            ``(n, dim Z)``, ``(n,)``. For example ``to_torch(-genreg.latent.DensityRatio(G, D))``.

        Returns
        -------
        Samples
            With `weights`, and with the mean and standard deviation that they give; NaN of a sample without a draw
            that counts.

        Raises
        ------
        ValueError
            If `log_weight` does not return one number for every latent vector, or plus infinity.
        """
        draws, chains, batch, _ = self.z.shape
        counts = torch.isfinite(self.z).all(-1)
        with torch.no_grad():
            log_w = log_weight(self.z.nan_to_num(0.0).flatten(0, 2))
        if not isinstance(log_w, Tensor) or log_w.shape != (draws * chains * batch,):
            got = tuple(log_w.shape) if isinstance(log_w, Tensor) else type(log_w).__name__
            raise ValueError(
                f"log_weight must return one number for every latent vector, ({draws * chains * batch},), got {got}"
            )
        log_w = torch.where(counts, log_w.view(draws, chains, batch), -torch.inf)
        infinite = (log_w == torch.inf).flatten(0, 1).any(0)
        if bool(infinite.any()):
            raise ValueError(f"log_weight must be below infinity, got infinity for {samples_of(infinite)}")
        weights = self_normalised(log_w)
        moments = []
        for k in range(batch):
            if bool(torch.isfinite(weights[:, :, k]).all()):
                moments.append(weighted_mean_and_std(self.images(k), weights[:, :, k][counts[:, :, k]], 0))
            else:  # no draw counts, or has a weight
                moments.append((torch.full_like(self.moments[0][k], torch.nan),) * 2)
        mean, std = (torch.stack(parts) for parts in zip(*moments, strict=True))
        return replace(self, weights=weights, moments=(mean, std))

    @property
    def weighted_size(self) -> Tensor:
        """Kish's effective number of draws of every sample, ``(B,)``; their number without weights."""
        if self.weights is None:
            return torch.isfinite(self.z).all(-1).sum((0, 1)).to(self.z.dtype)
        return kish_ess(self.weights)

    @property
    def screened(self) -> bool:
        """Whether the chains started at ``init="screened"``, or at points that were given."""
        return bool(self.state["plan"]["screened"])

    def advice(self) -> str:
        """How many chains ended in which way, and what to do about it."""
        return ChainStatus.summary(self.status)

    def save(self, path: str | Path) -> None:
        """Write all that `resume` needs to a safetensors file, whole or not at all, with what it belongs to.

        Parameters
        ----------
        path : str or Path
            The file; one that exists is replaced.
        """
        state_file(path, self.posterior).save(lambda: as_stored(self.state))


@dataclass(frozen=True)
class JointSamples(Samples):
    r"""Draws of :math:`p(x, z \mid y)` of every sample of a batch: latent vectors that have images of their own.

    Mean and standard deviation are those of the draws of x, gathered while these were made. The draws themselves are
    not kept but made again, from z and the same random numbers, by whatever asks for them.

    Attributes
    ----------
    posterior : JointPosterior
        What was sampled, as `resume` takes it.
    energy : Tensor
        :math:`-\log p(x, z, y)` up to a constant, ``(draws, chains, B)``.
    acceptance : dict of str to Tensor
        Share of accepted steps of z after the burn-in, ``(chains, B)``, of the kinds ``"image"`` (x held fixed) and
        ``"white"`` (ε held fixed), or of ``"marginal"`` (x integrated out).
    step : Tensor
        Step sizes h of the kinds after the burn-in, ``(kinds, B)``.
    z, status, evaluations, time, seed, moments, last, state, weights
        See `Samples`.
    """

    acceptance: dict[str, Tensor]

    @property
    def log_density(self) -> Tensor:
        r""":math:`\log p(x, z, y)` up to a constant, ``(draws, chains, B)``."""
        return -self.energy

    @functools.cached_property
    def x(self) -> Tensor:
        """All images, ``(draws, chains, B, *X.shape)``, NaN after a chain was stopped; made at the first call."""
        posterior, counts = self.posterior, torch.isfinite(self.z).all(-1)
        assert isinstance(posterior, JointPosterior)
        draws, chains, batch, _ = self.z.shape
        space, like = posterior.generator.range, self.z
        dtype = torch_dtype(space)
        check_memory((draws, chains, batch, space.size), dtype, "draws", draws, like.device)
        rows = posterior.take(torch.arange(batch, device=like.device).repeat(chains))
        images = like.new_empty((draws, chains, batch, *space.shape), dtype=dtype)
        for draw, seed in enumerate(self.state["tensors"]["seeds"][:draws].tolist()):
            z = torch.where(counts[draw, ..., None], self.z[draw], self.last)
            images[draw] = rows.image(z.flatten(0, 1), seed).view_as(images[draw])
        return images.masked_fill(~counts.view(*counts.shape, *(1,) * len(space.shape)), torch.nan)

    def images(self, index: int) -> Tensor:
        """All draws of the image of one sample that count, ``(n, *X.shape)``.

        Parameters
        ----------
        index : int
            The sample, from 0.
        """
        counts = torch.isfinite(self.z[:, :, index]).all(-1)
        return self.x[:, :, index][counts]

    def _as_data(self, images: Tensor) -> Tensor:
        return images
