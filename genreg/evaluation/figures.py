"""The figures of an evaluation; each returns a matplotlib figure of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from genreg.evaluation.distribution import EarthMover, MeanDiscrepancy
from genreg.evaluation.latent import PriorFit
from genreg.evaluation.reconstruction import RangeFit, deciles
from genreg.evaluation.sbc import Calibration
from genreg.evaluation.slopes import Smoothness
from genreg.plotting import mosaic

BLUE, ORANGE, GREY = "#2f6f9f", "#d9822b", "#8a8a8a"
GAP = 2  # pixels between images
_UNITS = {"NRMSE": "NRMSE", "PSNR": "PSNR [dB]", "SSIM": "SSIM", "l1 error": "mean absolute error"}


def _axes(rows: int, columns: int, width: float = 9.0, height: float = 3.2) -> tuple[Any, np.ndarray]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for ax in axes.flat:
        ax.spines[["top", "right"]].set_visible(False)
        ax.tick_params(labelsize=8)
        ax.xaxis.label.set_size(9), ax.yaxis.label.set_size(9)
    return figure, axes


def histogram_figure(fit: RangeFit) -> Any:
    """Histograms of the errors over the test images, as in figure 1 of Duff et al."""
    figure, axes = _axes(1, 4, height=2.6)
    for ax, (name, values) in zip(axes[0], fit.scores.items(), strict=True):
        array = values.numpy(force=True)
        ends = np.quantile(array[np.isfinite(array)], [0, 1]) if np.isfinite(array).any() else (0, 1)
        width = max(ends[1] - ends[0], 1e-3 * abs(ends[1])) or 1.0  # of equal numbers it has one too
        ax.hist(array, bins=30, range=(ends[0], ends[0] + width), color=BLUE)
        ax.axvline(np.median(array), color=ORANGE, label=f"median {np.median(array):.4g}")
        ax.set(xlabel=_UNITS[name])
        ax.locator_params(axis="x", nbins=3)
        ax.legend(fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1.0), frameon=False)
    axes[0, 0].set(ylabel="test images")
    return figure


def decile_figure(fit: RangeFit) -> Any:
    """Test images at the deciles of NRMSE, their best approximations, and the differences."""
    chosen = deciles(fit.nrmse)
    truth, images = fit.truth.cpu()[chosen], fit.images.cpu()[chosen]
    largest = max(float(truth.max()), 0.0) or 1.0
    limit = float((images - truth).abs().max()) or largest
    grey = {"cmap": "gray", "vmin": 0.0, "vmax": largest}
    rows: list[tuple[str, Tensor, list[str], dict[str, Any]]] = [
        ("test image", truth, [f"{10 * k} %" for k in range(11)], grey),
        ("nearest in range", images, [f"{e:.3f}" for e in fit.nrmse[chosen]], grey),
        (
            f"error, ±{limit:.2g}",
            images - truth,
            [""] * 11,
            {"cmap": "RdBu_r", "vmin": -limit, "vmax": limit},
        ),
    ]
    n, m = truth.shape[1:]
    figure, axes = _axes(3, 1, height=3 * (9.0 / 11 * n / m + 0.25))
    for ax, (label, row, titles, style) in zip(axes[:, 0], rows, strict=True):
        _mosaic(ax, row[None], **style)
        ax.set_xticks(_centres(11, m), titles, fontsize=8)
        ax.set_ylabel(label, fontsize=8)
    return figure


def earth_mover_figure(models: Mapping[str, EarthMover]) -> Any:
    """Bars of the earth mover's distance of several models, as in figure 4 of Duff et al.

    Parameters
    ----------
    models : dict of str to EarthMover
        The distances by the labels of the bars, for example names of models or latent dimensions. A line shows
        each one's reference, the distance between two sets of real images.

    Returns
    -------
    matplotlib.figure.Figure
    """
    figure, axes = _axes(1, 1, width=max(4.0, 1.0 + 1.1 * len(models)), height=3.0)
    ax = axes[0, 0]
    ax.bar(range(len(models)), [item.raw for item in models.values()], color=BLUE, width=0.6)
    for k, item in enumerate(models.values()):
        if item.reference is not None:
            label = None if k else "two sets of real images"
            ax.plot([k - 0.4, k + 0.4], [item.reference] * 2, color=ORANGE, label=label)
        text = f"{item.raw:.4g}" + (f"\n{item.relative:.2f} × ref." if item.relative is not None else "")
        top = max(item.raw, item.reference or 0.0)
        ax.annotate(text, (k, top), (0, 4), textcoords="offset points", ha="center", fontsize=8)
    ax.set_xticks(range(len(models)), models)
    ax.set_xlim(-0.9, len(models) - 0.1)
    ax.margins(y=0.25)
    ax.set(ylabel="EMD [squared grey values]")
    if any(item.reference is not None for item in models.values()):
        ax.legend(fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1.0), frameon=False)
    return figure


def mmd_figure(item: MeanDiscrepancy) -> Any:
    """The estimate among those of random divisions of the joint set."""
    figure, axes = _axes(1, 1, width=4.5, height=3.0)
    ax = axes[0, 0]
    null = item.null.numpy(force=True)
    unit = 10.0 ** np.floor(np.log10(max(np.abs(null).max(), abs(item.value)) or 1.0))
    ax.hist(null / unit, bins=40, color=GREY, label="random divisions")
    ax.axvline(item.value / unit, color=ORANGE, label=f"generated against test, p = {item.p_value:.3g}")
    ax.set(xlabel=f"unbiased estimate of MMD², mean kernel [{unit:.0e}]", ylabel="divisions")
    ax.legend(fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1.0), frameon=False)
    return figure


def prior_figure(fit: PriorFit) -> Any:
    """Encodings in random planes with contours of N(0, I), and their distances from the centre."""
    from scipy import stats

    planes = fit.projected.numpy(force=True)
    figure, axes = _axes(1, len(planes) + 1, width=2.3 * (len(planes) + 1), height=2.8)
    limit = 1.05 * max(3.5, float(np.abs(planes).max()))
    angle = np.linspace(0, 2 * np.pi, 200)
    for k, (ax, points) in enumerate(zip(axes[0], planes, strict=False)):
        ax.scatter(*points.T, s=3, color=BLUE, alpha=0.6, linewidths=0)
        for share in (0.5, 0.9, 0.99):
            radius = np.sqrt(-2 * np.log(1 - share))
            ax.plot(radius * np.cos(angle), radius * np.sin(angle), color=ORANGE, linewidth=1)
        ax.set(xlim=(-limit, limit), ylim=(-limit, limit), aspect="equal")
        ax.set_title(f"plane {k + 1}", fontsize=9)
    ax = axes[0, -1]
    radii = fit.mahalanobis.numpy(force=True)
    ax.hist(radii, bins=30, density=True, color=BLUE)
    grid = np.linspace(0, 1.1 * max(radii.max(), stats.chi(fit.codes.shape[1]).ppf(0.999)), 200)
    ax.plot(grid, stats.chi(fit.codes.shape[1]).pdf(grid), color=ORANGE)
    ax.set_title("distance ‖z‖", fontsize=9)
    ax.set_yticks([])
    return figure


def far_figure(images: Tensor, scales: Sequence[float]) -> Any:
    """Generated images row by row of the scale of z, as in figure 5 of Duff et al."""
    rows, columns, n, m = images.shape
    figure, axes = _axes(1, 1, width=7.5, height=7.0 * rows * n / (columns * m) + 0.2)
    _mosaic(axes[0, 0], images, cmap="gray", vmin=0.0, vmax=float(images.max()))
    axes[0, 0].set_yticks(_centres(rows, n), [f"s = {s:g}" for s in scales], fontsize=9)
    return figure


def interpolation_figure(images: Tensor, corners: Tensor) -> Any:
    """The two-way interpolation, as in figure 6 of Duff et al., between the test images at its sides."""
    from matplotlib.patches import Rectangle

    steps, _, n, m = images.shape
    joint = torch.full((steps, steps + 2, n, m), torch.nan, dtype=images.dtype)
    joint[:, 1:-1] = images.cpu()
    joint[[0, 0, -1, -1], [0, -1, 0, -1]] = corners.cpu().to(joint)
    figure, axes = _axes(1, 1, width=7.5, height=7.0 * steps * n / ((steps + 2) * m) + 0.4)
    ax = axes[0, 0]
    _mosaic(ax, joint, cmap="gray", vmin=0.0, vmax=float(torch.maximum(images.max(), corners.max())))
    rows, columns = _centres(steps, n), _centres(steps + 2, m)
    for y in (rows[0], rows[-1]):
        for x in (columns[1], columns[-2]):
            ax.add_patch(
                Rectangle(
                    (x - m / 2, y - n / 2), m, n, fill=False, edgecolor=ORANGE, linewidth=2, clip_on=False
                )
            )
        for x in (columns[0], columns[-1]):
            ax.annotate(
                "test image", (x, y - n / 2 - 1), ha="center", va="bottom", fontsize=8, annotation_clip=False
            )
    return figure


def _mosaic(ax: Any, images: Tensor, **style: Any) -> None:
    """Draw images ``(rows, columns, n, m)`` in one frame without ticks."""
    ax.imshow(mosaic(images, gap=GAP), interpolation="nearest", **style)
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0)
    ax.set(xticks=[], yticks=[])


def _centres(count: int, size: int) -> np.ndarray:
    """Coordinates of the centres of the images of a mosaic along one axis."""
    return np.arange(count) * (size + GAP) + (size - 1) / 2


def calibration_figure(items: Mapping[str, Calibration], bins: int = 20) -> Any:
    """Histograms of the transforms with the 99 % band of uniform ones, and the coverage of intervals.

    Parameters
    ----------
    items : dict of str to Calibration
        By their titles.
    bins : int
        Bins of the histograms.

    Returns
    -------
    matplotlib.figure.Figure
    """
    from scipy import stats

    figure, axes = _axes(1, len(items) + 1, width=3.1 * (len(items) + 1), height=2.9)
    for ax, (title, item) in zip(axes[0], items.items(), strict=False):
        pit = item.pit.numpy(force=True)
        counts = np.stack([np.histogram(column, bins, (0, 1))[0] for column in pit.T])
        low, high = stats.binom.ppf([0.005, 0.995], len(pit), 1 / bins)
        ax.axhspan(low, high, color=GREY, alpha=0.4, linewidth=0, label="99 % band if calibrated")
        edges = np.linspace(0, 1, bins + 1)
        for k, line in enumerate(counts):
            ax.stairs(line, edges, color=BLUE, alpha=0.5, label=None if k else "one coordinate of z")
        ax.set_title(title, fontsize=9)
        ax.set(xlabel="transform of the true z under q", ylabel="draws")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, fontsize=8, loc="outside lower left", ncols=2, frameon=False)
    ax = axes[0, -1]
    ax.plot([0, 1], [0, 1], color=GREY, linewidth=1)
    for (title, item), style in zip(items.items(), ("o-", "s--"), strict=False):
        colour = ORANGE if style == "o-" else BLUE
        ax.plot(
            item.levels,
            item.coverage.mean(1).numpy(force=True),
            style,
            color=colour,
            label=title,
            markersize=4,
        )
    ax.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="central interval", ylabel="share of true z within")
    ax.set_title("coverage, mean over z", fontsize=9)
    ax.legend(fontsize=8, frameon=False)
    return figure


def smoothness_figure(item: Smoothness) -> Any:
    """Singular values of the Jacobian by their rank, and slopes between draws."""
    figure, axes = _axes(1, 2, height=3.0)
    values = item.singular_values.numpy(force=True)
    ranks = np.arange(1, values.shape[1] + 1)
    low, q1, median, q3, high = np.quantile(values, [0.05, 0.25, 0.5, 0.75, 0.95], axis=0)
    ax = axes[0, 0]
    ax.fill_between(ranks, low, high, color=BLUE, alpha=0.2, linewidth=0, label="5 to 95 %")
    ax.fill_between(ranks, q1, q3, color=BLUE, alpha=0.4, linewidth=0, label="25 to 75 %")
    ax.plot(ranks, median, color=BLUE, marker="o" if len(ranks) <= 32 else None, markersize=3, label="median")
    if low.min() > 0 and high.max() > 30 * low.min():
        ax.set_yscale("log")
    else:
        ax.set_ylim(bottom=0)
    ax.locator_params(axis="x", integer=True)
    ax.set(xlabel="rank", ylabel="singular value of dG/dz")
    ax.legend(fontsize=8, frameon=False)
    ax = axes[0, 1]
    both = [values[:, 0], item.secants.numpy(force=True)]
    edges = np.linspace(0, max(map(np.max, both)), 40)
    for array, colour, label in zip(both, (BLUE, ORANGE), ("largest singular value", "secant"), strict=True):
        ax.hist(array, bins=edges, color=colour, alpha=0.7, label=label)
    ax.set(xlabel="slope of G [grey values per unit of z]", ylabel="draws")
    ax.legend(fontsize=8, frameon=False)
    return figure
