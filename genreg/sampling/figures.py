"""Pictures of chains."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from genreg.sampling.convergence import autocorrelation

if TYPE_CHECKING:
    from genreg.sampling.samples import Samples


def plot_traces(samples: Samples, index: Sequence[int] = (0,), *, max_lag: int | None = None) -> Any:
    """Draw the energies of all chains of some images, and the autocorrelations of energy and latent components.

    Chains that have met have energies about one level, and autocorrelations that fall to 0 within a small part of
    the lags; a grey band holds those of independent draws with a probability of 95 %.

    Parameters
    ----------
    samples : Samples
        Draws of `sampling.sample` or `sampling.gibbs`, at least 4 of a chain.
    index : sequence of int
        The images, a column each.
    max_lag : int, optional
        The largest lag, in draws that were kept; a quarter of their number, at most 200, by default.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ValueError
        If there is no such image, no image at all, too few draws, or no such lag.
    """
    from matplotlib.figure import Figure

    draws, chains, batch, dim = samples.z.shape
    if not len(index) or any(not 0 <= k < batch for k in index):
        raise ValueError(f"index must have images from 0 to {batch - 1}, at least one, got {list(index)}")
    max_lag = min(draws // 4, 200) if max_lag is None else max_lag
    figure = Figure(figsize=(4.2 * len(index) + 0.4, 4.6), layout="constrained")
    axes = figure.subplots(2, len(index), squeeze=False)
    for (top, bottom), k in zip(axes.T, index, strict=True):
        energy = samples.energy[:, :, k].cpu()
        values = torch.cat([energy[..., None], samples.z[:, :, k].cpu()], -1)
        values = torch.where(values.isfinite().all(-1, keepdim=True), values, torch.nan)
        top.plot(energy.numpy(force=True), linewidth=0.6, alpha=0.8)
        top.set(title=f"image {k}", xlabel="draw", ylabel="energy")
        rho = autocorrelation(values, max_lag).numpy(force=True)
        half = 1.96 / (draws * chains) ** 0.5
        bottom.axhspan(-half, half, color="#a0aec0", alpha=0.4, linewidth=0)
        bottom.plot(rho[:, 1:], color="#2b6cb0", linewidth=0.6, alpha=0.6)
        bottom.plot([], [], color="#2b6cb0", linewidth=0.6, label=f"z, {dim} components")
        bottom.plot(rho[:, 0], color="#c53030", linewidth=1.4, label="energy")
        bottom.set(
            xlabel="lag in draws", ylabel="autocorrelation", ylim=(min(-0.2, 1.1 * float(_least(rho))), 1)
        )
        for ax in (top, bottom):
            ax.tick_params(labelsize=7)
            ax.grid(alpha=0.25, linewidth=0.5)
    axes[1, 0].legend(fontsize=7, frameon=False)
    return figure


def _least(values: Any) -> Any:
    """The smallest value that is a number, or 0."""
    numbers = values[values == values]
    return numbers.min() if numbers.size else 0.0
