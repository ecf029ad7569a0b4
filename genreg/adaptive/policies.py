r"""Policies: which groups of data to measure next, given draws of the posterior.

Of every draw z of the posterior, A(G(z)) says what each measurement would give. Their variance is the posterior
variance of the predicted data, without that of the noise to come.

References
----------
A. M. Liang (2021), Using deep generative priors for inverse problems and Bayesian optimisation (algorithms 2 to 4).

N. Srinivas, A. Krause, S. M. Kakade, M. Seeger (2010), Gaussian process optimization in the bandit setting,
arXiv:0912.3995.

A. Krause, A. Singh, C. Guestrin (2008), Near-optimal sensor placements in Gaussian processes, J. Mach. Learn. Res. 9.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from typing import ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor

from genreg.adaptive.groups import Groups


@dataclass(frozen=True)
class Predictive:
    """What the posterior predicts of the measurements of a batch of images; complex data as two real numbers each.

    Attributes
    ----------
    predictions : Tensor
        The data that n draws of the posterior predict, ``(n, B, m)``.
    noise_std : Tensor
        Standard deviation of the noise of every number, ``(B, m)``.
    measured : Tensor
        Which groups have been measured, ``(B, count)``.
    groups : Groups
        The groups of the m numbers.
    """

    predictions: Tensor
    noise_std: Tensor
    measured: Tensor
    groups: Groups

    @functools.cached_property
    def variance(self) -> Tensor:
        """Variance of the predictions, summed over every group, ``(B, count)``."""
        return self.groups.sum(self.predictions.var(0))

    def best(self, score: Tensor, k: int) -> Tensor:
        """The k groups of the highest scores ``(B, count)`` that have not been measured, ``(B, k)``."""
        return score.masked_fill(self.measured, -torch.inf).topk(k, dim=1).indices

    def random(self, k: int, generator: torch.Generator) -> Tensor:
        """K groups that have not been measured, without replacement, ``(B, k)``."""
        like = self.predictions
        score = torch.rand(self.measured.shape, generator=generator, dtype=like.dtype, device=like.device)
        return self.best(score, k)


@runtime_checkable
class Policy(Protocol):
    """What `adaptive_measurements` asks of a policy."""

    @property
    def maximises(self) -> bool:
        """Whether it looks for the largest datum, which complex data do not have."""

    def choose(self, predictive: Predictive, k: int, generator: torch.Generator) -> Tensor:
        """Choose k groups not yet measured for every image, ``(B, k)``.

        Parameters
        ----------
        predictive : Predictive
            What the posterior predicts.
        k : int
            How many to choose, at most as many as are left.
        generator : torch.Generator
            Random numbers.

        Returns
        -------
        Tensor
            ``(B, k)``.
        """


@dataclass(frozen=True)
class Variance:
    """The groups whose predictions vary most: variances summed over a group, the k largest (algorithm 2)."""

    maximises: ClassVar[bool] = False

    def choose(self, predictive: Predictive, k: int, generator: torch.Generator) -> Tensor:
        """See the class."""
        return predictive.best(predictive.variance, k)


@dataclass(frozen=True)
class Random:
    """Groups drawn at random from those not yet measured."""

    maximises: ClassVar[bool] = False

    def choose(self, predictive: Predictive, k: int, generator: torch.Generator) -> Tensor:
        """See the class."""
        return predictive.random(k, generator)


@dataclass(frozen=True)
class EpsilonGreedy:
    """`Variance`, where each of the k choices is drawn at random instead with a probability.

    Parameters
    ----------
    epsilon : float
        The probability, in [0, 1].

    Raises
    ------
    ValueError
        If it is not in [0, 1].
    """

    epsilon: float = 0.5
    maximises: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not 0 <= self.epsilon <= 1:
            raise ValueError(f"epsilon must be in [0, 1], got {self.epsilon}")

    def choose(self, predictive: Predictive, k: int, generator: torch.Generator) -> Tensor:
        """See the class."""
        chosen, variance = [], predictive.variance
        for _ in range(k):
            draw = torch.rand(
                len(predictive.measured), generator=generator, device=predictive.measured.device
            )
            greedy, drawn = predictive.best(variance, 1), predictive.random(1, generator)
            chosen.append(torch.where(draw[:, None] < self.epsilon, drawn, greedy))
            predictive = replace(
                predictive, measured=predictive.measured | predictive.groups.flags(chosen[-1])
            )
        return torch.cat(chosen, 1)


@dataclass(frozen=True)
class InformationGain:
    r"""The groups from which most is learned together, found greedily.

    With the covariance S of the predictions and a normal distribution, measuring the group g with the noise
    :math:`\Sigma_g` gives the information

    .. math:: \tfrac12 \log \det(I + \Sigma_g^{-1} S_{gg}).

    The group of the largest gain is chosen, S is conditioned on it, and so on: k groups that say the same are not
    chosen together, as `Variance` would. The gain of k greedy choices is at least 1 - 1/e of the largest possible
    one (Krause, Singh and Guestrin). S is that of the n draws; it is never formed, as conditioning the deviations of
    the draws from their mean, C of shape ``(n, m)``, takes :math:`C \leftarrow (I + P P^T)^{-1/2} C`, P those of the
    group over the noise.
    """

    maximises: ClassVar[bool] = False

    def choose(self, predictive: Predictive, k: int, generator: torch.Generator) -> Tensor:
        """See the class."""
        draws, groups = len(predictive.predictions), predictive.groups
        # The determinant of I + S / σ² needs more digits than those of single precision where σ is small.
        C = ((predictive.predictions - predictive.predictions.mean(0)) / predictive.noise_std).double()
        C = C.movedim(0, 1) / max(draws - 1, 1) ** 0.5  # (B, n, m)
        rows = torch.arange(len(C), device=C.device)
        measured, chosen = predictive.measured, []
        for _ in range(k):
            by_group = groups.gather(C).movedim(2, 1)  # (B, count, n, largest)
            chosen.append(_information(by_group).masked_fill(measured, -torch.inf).argmax(1))
            measured = measured | groups.flags(chosen[-1][:, None])
            if len(chosen) < k:
                C = _conditioned(C, by_group[rows, chosen[-1]])
        return torch.stack(chosen, 1)


@dataclass(frozen=True)
class UpperConfidenceBound:
    """Where the datum may be largest: mean of the predictions plus a multiple of their variance (algorithm 3).

    Of a group it is the mean of its data that counts. Here the weight multiplies the variance; in the literature on
    bandits it mostly multiplies the standard deviation.

    Parameters
    ----------
    weight : float
        The factor, at least 0; 50 is for images with values in [0, 1].

    Raises
    ------
    ValueError
        If it is negative or not finite.
    """

    weight: float = 50.0
    maximises: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 0 <= self.weight < torch.inf:
            raise ValueError(f"weight must be non-negative and finite, got {self.weight}")

    def choose(self, predictive: Predictive, k: int, generator: torch.Generator) -> Tensor:
        """See the class."""
        values = predictive.groups.mean(predictive.predictions)
        return predictive.best(values.mean(0) + self.weight * values.var(0), k)


@dataclass(frozen=True)
class Thompson:
    """Where one draw of the posterior, taken at random for every image, is largest (algorithm 4)."""

    maximises: ClassVar[bool] = True

    def choose(self, predictive: Predictive, k: int, generator: torch.Generator) -> Tensor:
        """See the class."""
        draws, batch = predictive.predictions.shape[:2]
        device = predictive.predictions.device
        taken = torch.randint(draws, (batch,), generator=generator, device=device)
        one = predictive.predictions[taken, torch.arange(batch, device=device)]
        return predictive.best(predictive.groups.mean(one), k)


def _information(P: Tensor) -> Tensor:
    """½ log det(I + PᵀP) of every group, ``(B, count, n, s)`` to ``(B, count)``."""
    draws, size = P.shape[-2:]
    if size == 1:
        return 0.5 * P.square().sum((-2, -1)).log1p()
    gram = P.mT @ P if size <= draws else P @ P.mT
    gram.diagonal(dim1=-2, dim2=-1).add_(1.0)
    return torch.linalg.cholesky(gram).diagonal(dim1=-2, dim2=-1).log().sum(-1)


def _conditioned(C: Tensor, P: Tensor) -> Tensor:
    """(I + P Pᵀ)^(-1/2) C: deviations of draws whose covariance is that given the group of P, ``(B, n, s)``."""
    if P.shape[-1] == 1:
        norm = torch.linalg.vector_norm(P, dim=1, keepdim=True)
        U, S = P / torch.where(norm > 0, norm, 1.0), norm[:, 0]
    else:
        U, S, _ = torch.linalg.svd(P, full_matrices=False)
    shrink = (1 + S.square()).rsqrt() - 1
    return C + U @ (shrink[..., None] * (U.mT @ C))
