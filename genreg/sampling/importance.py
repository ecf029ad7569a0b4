r"""Importance weights: estimates for one density from draws of another.

From draws x_i of a density q, the mean of f under the density p is estimated by :math:`\sum_i w_i f(x_i)` with the
self-normalised weights :math:`w_i \propto p(x_i) / q(x_i)`. Neither density needs its constant. How many independent
draws of p that is worth, at least in order of magnitude, is Kish's :math:`(\sum_i w_i)^2 / \sum_i w_i^2`.

A logarithm that is NaN, or minus infinity, is that of a draw without weight: one that a chain no longer made.

References
----------
L. Kish (1965), Survey sampling, Wiley, section 8.2.

A. B. Owen (2013), Monte Carlo theory, methods and examples, chapter 9.

A. Vehtari, D. Simpson, A. Gelman, Y. Yao, J. Gabry (2024), Pareto smoothed importance sampling, arXiv:1507.02646.
"""

from __future__ import annotations

import torch
from torch import Tensor

from genreg.operators.bridge.keywords import documented_like

Axes = int | tuple[int, ...]


def self_normalised(log_weights: Tensor, dims: Axes = (0, 1)) -> Tensor:
    """Return weights that sum to one over some axes, from logarithms that lack a constant.

    Parameters
    ----------
    log_weights
        Logarithms of the weights, for example ``(draws, chains, B)``.
    dims
        The axes of the draws.

    Returns
    -------
    Tensor
        Weights of the same shape; NaN throughout where no draw has a weight.

    Raises
    ------
    TypeError
        If `log_weights` is no real floating point tensor.
    ValueError
        If an axis is missing or named twice, has no entries, or a logarithm is plus infinity.
    """
    axes = _axes(log_weights, dims, "log_weights")
    if bool((log_weights == torch.inf).any()):
        raise ValueError("log_weights must be finite, NaN or minus infinity, got plus infinity")
    found = log_weights.nan_to_num(nan=-torch.inf, neginf=-torch.inf)
    return (found - found.logsumexp(axes, keepdim=True)).exp()


@documented_like(self_normalised)
def kish_ess(weights: Tensor, dims: Axes = (0, 1)) -> Tensor:
    r"""Return the effective number of draws :math:`(\sum_i w_i)^2 / \sum_i w_i^2`.

    It counts what the weights cost, not that draws of a chain depend on each other.

    Parameters
    ----------
    weights
        Non-negative weights, not necessarily normalised.

    Returns
    -------
    Tensor
        The shape of `weights` without these axes; between 1 and the number of draws.

    Raises
    ------
    TypeError, ValueError
        If `weights` is no real floating point tensor, or an axis is missing or named twice.
    """
    axes = _axes(weights, dims, "weights")
    w = weights / weights.amax(axes, keepdim=True)  # squares of small weights underflow
    return w.sum(axes).square() / w.square().sum(axes)


@documented_like(kish_ess)
def weighted_mean_and_std(values: Tensor, weights: Tensor, dims: Axes = (0, 1)) -> tuple[Tensor, Tensor]:
    r"""Return mean and standard deviation of weighted draws.

    With normalised weights w the variance is :math:`\sum_i w_i (x_i - m)^2 / (1 - \sum_i w_i^2)`, for equal weights
    that of `torch.std`.

    Parameters
    ----------
    values
        What is averaged, ``weights.shape`` with any further axes behind it, such as images ``(draws, chains, B, n,
        m)``. Values without weight don't count, even if they are NaN.

    Returns
    -------
    mean, std : Tensor
        The shape of `values` without these axes. The standard deviation is NaN where a single draw has all the weight.

    Raises
    ------
    TypeError, ValueError
        If an argument is no real floating point tensor, the shapes do not fit, or an axis is missing or named twice.
    """
    axes = _axes(weights, dims, "weights")
    if not isinstance(values, Tensor) or not values.is_floating_point():
        raise TypeError(
            f"values must be a real floating point tensor, got {getattr(values, 'dtype', type(values))}"
        )
    if values.shape[: weights.ndim] != weights.shape:
        raise ValueError(
            f"values must have the shape of weights, {tuple(weights.shape)}, and further axes behind it, got "
            f"{tuple(values.shape)}"
        )
    w = weights.to(values) / weights.to(values).sum(axes, keepdim=True)
    w = w.reshape(*w.shape, *(1,) * (values.ndim - w.ndim))
    values = values.where(w != 0, 0.0)
    mean = (w * values).sum(axes, keepdim=True)
    variance = (w * (values - mean).square()).sum(axes) / (1 - w.square().sum(axes))
    return mean.sum(axes), variance.sqrt()


@documented_like(self_normalised)
def pareto_smoothed(log_weights: Tensor, dims: Axes = (0, 1)) -> tuple[Tensor, Tensor]:
    r"""Return logarithms of weights whose largest are smoothed by a fitted Pareto distribution, and its shape.

    The shape k̂ says how heavy the tail of the weights is: below 0.7 the estimates can be trusted at usual numbers of
    draws, above 1 the weights have no mean.

    Parameters
    ----------
    log_weights
        Logarithms of the weights, finite.

    Returns
    -------
    log_weights : Tensor
        Of normalised, smoothed weights, in the shape given.
    k : Tensor
        k̂, the shape of `log_weights` without these axes; infinite where there are too few draws to fit a tail.

    Raises
    ------
    TypeError, ValueError
        If `log_weights` is no real floating point tensor or not finite, or an axis is missing or named twice.
    ImportError
        If arviz-stats is not installed.
    """
    axes = _axes(log_weights, dims, "log_weights")
    if not bool(torch.isfinite(log_weights).all()):
        raise ValueError("log_weights must be finite to be smoothed: leave out draws that there are not")
    from arviz_stats.base import array_stats

    last = tuple(range(log_weights.ndim - len(axes), log_weights.ndim))
    moved = log_weights.detach().movedim(axes, last)
    rows = moved.flatten(-len(axes)).double().numpy(force=True)
    smoothed, k = array_stats.psislw(-rows, axis=-1)  # takes log-likelihoods, whose inverses are its weights
    back = torch.as_tensor(smoothed).reshape(moved.shape).movedim(last, axes)
    return back.to(log_weights), torch.as_tensor(k).to(log_weights)


def _axes(tensor: Tensor, dims: Axes, name: str) -> tuple[int, ...]:
    """Return axes that a real tensor has, counted from the front."""
    if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
        raise TypeError(
            f"{name} must be a real floating point tensor, got {getattr(tensor, 'dtype', type(tensor))}"
        )
    given = (dims,) if isinstance(dims, int) else tuple(dims)
    axes = tuple(axis % tensor.ndim for axis in given if -tensor.ndim <= axis < tensor.ndim)
    if len(axes) < len(given) or len(set(axes)) < len(axes) or not axes:
        raise ValueError(
            f"dims must be different axes of {name}, of the shape {tuple(tensor.shape)}, got {dims}"
        )
    if min(tensor.shape[axis] for axis in axes) == 0:
        raise ValueError(f"{name} must have draws along the axes {axes}, got the shape {tuple(tensor.shape)}")
    return axes
