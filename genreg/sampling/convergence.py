r"""Whether chains have met, and what their draws are worth.

Draws of a Markov chain depend on each other. With the autocorrelations :math:`\rho_t` the mean of N of them has the
variance :math:`\tau \sigma^2 / N`, :math:`\tau = 1 + 2 \sum_{t \ge 1} \rho_t`: they are worth :math:`N / \tau`
independent ones, the *effective sample size* (ESS). Chains that have not met have a larger variance together than
each has alone; :math:`\hat R`, the root of the ratio, is near 1 where they have.

Computed is what Vehtari et al. propose, by arviz-stats: chains split in halves, values replaced by normal scores of
their ranks (so that heavy tails do no harm), the sum of autocorrelations cut off by Geyer's initial monotone sequence;
:math:`\hat R` is the larger of those of the values and of their distances from the median.

All functions take draws ``(draws, chains, ...)``. A chain with a value that is not finite, as of a chain that was
stopped, is left out, for each of the trailing components alone. Where no chain is left, or all values are equal (of
chains that never moved; they are not worth N draws), the result is NaN.

References
----------
A. Vehtari, A. Gelman, D. Simpson, B. Carpenter, P.-C. Bürkner (2021), Rank-normalization, folding, and localization:
an improved R-hat for assessing convergence of MCMC, Bayesian Analysis 16, doi:10.1214/20-BA1221.

C. J. Geyer (1992), Practical Markov chain Monte Carlo, Statistical Science 7, doi:10.1214/ss/1177011137.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from genreg.operators.bridge.arguments import integer
from genreg.operators.bridge.keywords import documented_like

_KINDS = ("bulk", "tail", "mean")
_TAILS = (0.05, 0.95)
_FEWEST = 4  # draws: two for each half of a chain


def effective_sample_size(draws: Any, kind: str = "bulk") -> Any:
    r"""How many independent draws the draws of several chains are worth, together.

    Parameters
    ----------
    draws : Tensor or array
        ``(draws, chains, ...)``, at least 4 draws.
    kind : {"bulk", "tail", "mean"}
        For the location (of ranks), for the 5 % and 95 % quantiles (the smaller one), or for the mean of the values
        themselves, as Monte-Carlo errors need it.

    Returns
    -------
    Tensor or array
        ``(...)``, of the kind of `draws`, in float64. More than the number of draws if they are anti-correlated.

    Raises
    ------
    TypeError, ValueError
        If the draws are complex, have no chain axis or are too few, or the kind is unknown.
    """
    if kind not in _KINDS:
        raise ValueError(f"kind must be one of {list(_KINDS)}, got {kind!r}")
    prob = _TAILS if kind == "tail" else None
    return _by_chains(draws, lambda x: _library().ess(x, method=kind, prob=prob))


@documented_like(effective_sample_size)
def rank_normalised_rhat(draws: Any) -> Any:
    r"""The potential scale reduction :math:`\hat R` of split chains, by ranks and by ranks of distances.

    Returns
    -------
    Tensor or array
        ``(...)``, of the kind of `draws`, in float64: chains have met if it is below 1.01. NaN for less than two
        chains, infinite where every chain stays at a value of its own.

    Raises
    ------
    TypeError, ValueError
        If the draws are complex, have no chain axis or are too few.
    """
    return _by_chains(draws, lambda x: _library().rhat(x))


@documented_like(rank_normalised_rhat)
def monte_carlo_error(draws: Any) -> Any:
    r"""Standard error of the mean of the draws, :math:`\sigma / \sqrt{\mathrm{ESS}}`, with the ESS for the mean.

    Returns
    -------
    Tensor or array
        ``(...)``, of the kind of `draws`, in float64.
    """
    return _by_chains(draws, lambda x: _library().mcse(x, method="mean"), has_unit=True)


@documented_like(effective_sample_size)
def autocorrelation(draws: Any, max_lag: int | None = None) -> Any:
    r"""Autocorrelations of several chains that should have one mean.

    With the autocovariances :math:`c_t` of a chain of n draws, averaged over the chains, and the variance b of the
    means of the chains, it is :math:`\rho_t = (c_t + b) / (c_0 + b)`: chains about different means are correlated
    over all lags. The autocovariances are sums of n - t products divided by n, which damps those of large lags.

    Parameters
    ----------
    max_lag : int, optional
        The largest t, below the number of draws, which it is by default.

    Returns
    -------
    Tensor or array
        :math:`\rho_0 = 1, \rho_1, \dots`, ``(max_lag + 1, ...)``, of the kind of `draws`, in float64.

    Raises
    ------
    TypeError, ValueError
        If the draws are complex, have no chain axis or are too few, or the lag is none of theirs.
    """
    longest = len(draws) - 1
    lags = longest if max_lag is None else integer(max_lag, "max_lag", minimum=0, maximum=longest)

    def correlation(x: np.ndarray) -> np.ndarray:
        covariance = _library().autocov(x, axis=-1)[..., : lags + 1].mean(-2)
        between = x.mean(-1).var(-1, ddof=1) if x.shape[-2] > 1 else np.zeros(len(x))
        rho = covariance + between[:, None]
        return rho / rho[:, :1]

    return _by_chains(draws, correlation, (lags + 1,))


def _library() -> Any:
    """The functions for arrays ``(..., chains, draws)``; imported late, as they take all of scipy.stats along."""
    from arviz_stats.base import array_stats

    return array_stats


def _by_chains(
    draws: Any, f: Callable[[np.ndarray], np.ndarray], shape: tuple[int, ...] = (), *, has_unit: bool = False
) -> Any:
    """Apply f, from ``(n, chains, draws)`` to ``(n, *shape)``, to the components that have the same chains left.

    Values come in the unit of their range, as the library takes a range below 1e-15 for none; `has_unit` says that what
    f returns has the unit of the values.
    """
    x = draws.numpy(force=True) if isinstance(draws, Tensor) else np.asarray(draws)
    if np.iscomplexobj(x):
        raise TypeError(f"draws must be real, got {x.dtype}")
    if x.ndim < 2 or x.shape[0] < _FEWEST or x.shape[1] < 1:
        raise ValueError(
            f"draws must have the shape (draws, chains, ...) with at least {_FEWEST} draws and a chain, got {x.shape}"
        )
    trailing = x.shape[2:]
    x = np.moveaxis(x.reshape(*x.shape[:2], -1), 0, -1).swapaxes(0, 1)  # (N, chains, draws)
    left = np.isfinite(x).all(-1)
    masked = np.ma.masked_array(x, ~np.broadcast_to(left[..., None], x.shape))
    moving = (masked.max((1, 2)) > masked.min((1, 2))).filled(False)
    found = np.full((len(x), *shape), np.nan)
    for kept in np.unique(left[moving], axis=0):
        rows = moving & (left == kept).all(-1)
        with np.errstate(divide="ignore", invalid="ignore"):  # chains that stay at values of their own
            values = x[rows][:, kept].astype(np.float64)
            exponent = np.frexp(values.max((1, 2)) - values.min((1, 2)))[1]  # powers of two: no digit changes
            unit = np.ldexp(1.0, exponent - 1)
            result = f(values / unit[:, None, None])
            found[rows] = result * unit if has_unit else result
    found = np.moveaxis(found, 0, -1).reshape((*shape, *trailing))
    return torch.from_numpy(found).to(draws.device) if isinstance(draws, Tensor) else found
