"""The figure of a parameter sweep: curves over the parameters, and a strip of images."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from genreg.plotting import as_images, draw_images

_ROWS = 4  # rows of the strip at most
_MARK = "#d9822b"


def sweep_figure(sweep: Any, image: int, columns: int) -> Any:
    """See `Sweep.show`, whose attributes are those of `sweep`.

    Raises
    ------
    ValueError
        If there is no such image.
    """
    from matplotlib.figure import Figure

    count = len(sweep.lam)
    if not 0 <= image < count:
        raise ValueError(f"image must be from 0 to {count - 1}, got {image!r}")
    strip = None if sweep.images is None else _strip(sweep, image, columns)
    across = max(len(stack) for stack in strip[0].values()) if strip else 6
    panels = 1 + (sweep.psnr is not None) + (sweep.reference is not None)
    width = max(3.6 * min(panels, 2) + 2.4 * (panels > 2), 1.25 * across + 0.8)
    below = 1.5 * len(strip[0]) + 0.1 if strip else 0.0
    figure = Figure(figsize=(width, 2.9 + below), layout="constrained")
    parts: Any = figure.subfigures(2, 1, height_ratios=[2.9, below]) if strip else [figure]
    ratios = [1.5] * (panels - (sweep.reference is not None)) + [1.0] * (sweep.reference is not None)
    axes = parts[0].subplots(1, panels, width_ratios=ratios, squeeze=False)[0]
    _curves(sweep, axes)
    if sweep.reference is not None:
        axes[-1].imshow(as_images(sweep.reference[image])[0], cmap="gray", interpolation="nearest")
        axes[-1].set(xticks=[], yticks=[])
        axes[-1].set_title("reference", fontsize=9)
    if strip:
        rows, titles, marked = strip
        shown = sweep.reference[image] if sweep.reference is not None else torch.cat(list(rows.values()))
        draw_images(
            parts[1], rows, columns=columns, vmin=0.0, vmax=float(as_images(shown).max()), titles=titles
        )
        for k in marked:
            parts[1].axes[k].spines[:].set(color=_MARK, linewidth=2.5)
        if marked:
            parts[1].supxlabel("framed: the largest λ that meets the level", fontsize=7, color=_MARK)
    return figure


def _curves(sweep: Any, axes: Any) -> None:
    """Discrepancy and PSNR, means over the images; geometric for the discrepancy."""
    M = sweep.lam.shape[1]
    known = not bool(sweep.level.isnan().any())
    discrepancy = (sweep.discrepancy if known else sweep.residual).double().cpu()
    mean = discrepancy.log().mean(0).exp()
    if sweep.principle is None:
        grid, label = sweep.lam[0, 0].cpu(), "λ"
        _lines(axes[0], grid, mean, discrepancy, sweep.mu)
    else:
        grid, label = torch.arange(M) if sweep.mu is None else sweep.mu.cpu(), "μ"
        _lines(axes[0], grid, mean.T, discrepancy.mT, None)
    if known:
        axes[0].axhline(sweep.factor, color=_MARK, linestyle="--", linewidth=1, label="Morozov's level")
    axes[0].set(yscale="log", xlabel=label, ylabel="discrepancy / level" if known else "discrepancy")
    if axes[0].get_legend_handles_labels()[1]:
        axes[0].legend(fontsize=7, frameon=False)
    if sweep.psnr is not None:
        score = sweep.psnr if sweep.principle is None else sweep.psnr.mT
        _lines(axes[1], grid, score.mean(0), score, sweep.mu if sweep.principle is None else None)
        axes[1].set(xlabel=label, ylabel="PSNR [dB]")
    for ax in axes[: 1 + (sweep.psnr is not None)]:
        if float(grid.min()) > 0:
            ax.set_xscale("log")
        elif float(grid.max()) > 0:
            ax.set_xscale("symlog", linthresh=float(grid[grid > 0].min()))
        ax.spines[["top", "right"]].set_visible(False)
        ax.tick_params(which="both", labelsize=7)


def _lines(ax: Any, grid: Any, mean: Any, values: Any, mu: Any) -> None:
    """A line for every row of `mean`; with a single one, the range over the images around it."""
    import matplotlib

    shades = matplotlib.colormaps["viridis"](np.linspace(0.0, 0.85, len(mean)))
    for m, (line, shade) in enumerate(zip(mean, shades, strict=True)):
        label = f"μ = {float(mu[m]):.3g}" if mu is not None else None
        ax.plot(grid, line, marker="o", markersize=3, color=shade, label=label)
    if len(mean) == 1 and len(values) > 1:
        ax.fill_between(
            grid, values[:, 0].amin(0), values[:, 0].amax(0), color=shades[0], alpha=0.15, linewidth=0
        )


def _strip(sweep: Any, image: int, columns: int) -> tuple[dict[str, Any], dict[str, list[str]], list[int]]:
    """Rows of images, their titles, and the places of those that Morozov's principle takes in their row."""
    _, M, L = sweep.lam.shape
    images, lam = sweep.images[image].cpu(), sweep.lam[image].cpu()
    if sweep.principle is not None:
        across = _evenly(M, columns)
        mus = [""] * M if sweep.mu is None else [f"μ = {float(mu):.3g}\n" for mu in sweep.mu]
        label = sweep.principle
        return (
            {label: images[across, 0]},
            {label: [f"{mus[m]}λ = {float(lam[m, 0]):.3g}" for m in across]},
            [],
        )
    meets = (sweep.discrepancy[image] <= sweep.factor).cpu()
    rows, titles, marked = {}, {}, []
    for r, m in enumerate(_evenly(M, _ROWS)):
        label = "images" if sweep.mu is None else f"μ = {float(sweep.mu[m]):.3g}"
        largest = int(meets[m].nonzero().max()) if meets[m].any() else None
        across = _evenly(L, columns, largest)
        rows[label] = images[m, across]
        titles[label] = [f"λ = {float(lam[m, k]):.3g}" for k in across]
        if largest is not None:
            marked.append(r * len(across) + across.index(largest))
    return rows, titles, marked


def _evenly(count: int, most: int, wanted: int | None = None) -> list[int]:
    """At most `most` of the first `count` numbers, evenly, with the nearest to `wanted` moved there."""
    picks = np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(int))
    if wanted is not None:
        picks[np.abs(picks - wanted).argmin()] = wanted
    return picks.tolist()
