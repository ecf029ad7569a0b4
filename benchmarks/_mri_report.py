"""Tables and figures of the comparison of MRI reconstructions."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from _mri import Result, Setting, Sizes
from _study import figure, light, markdown, picture, plus_minus, save
from torch import Tensor

__all__ = ["Scores", "as_json", "draw_curves", "draw_images", "margins", "tables"]

METRICS = {"psnr": "PSNR, dB", "ssim": "SSIM"}
STYLES: dict[str, dict[str, Any]] = {
    "zero-filled": {"color": "#a0aec0", "linestyle": ":"},
    "Tikhonov": {"color": "#718096", "linestyle": ":"},
    "TV": {"color": "#2b6cb0"},
    "TV, best λ": {"color": "#63b3ed", "linestyle": ":"},
    "range-constrained": {"color": "#b7791f", "linestyle": "--"},
    "weights optimised": {"color": "#6b46c1", "linestyle": "--"},
    "joint, isotropic": {"color": "#38a169", "linestyle": "--"},
    "joint, diagonal": {"color": "#d69e2e", "linestyle": "-."},
    "joint, SUPN": {"color": "#c53030", "linewidth": 2.2},
    "unrolled, supervised": {"color": "#1a202c", "linestyle": "-."},
}

Scores = Mapping[str, Mapping[Setting, Mapping[str, Tensor]]]
"""PSNR and SSIM of every slice, by method and setting."""


def tables(scores: Scores, seconds: Mapping[str, Mapping[Setting, float]], sizes: Sizes) -> str:
    """Mean ± standard deviation over the slices, one table for every noise level and metric."""
    parts = []
    for noise in sizes.noise:
        for metric, label in METRICS.items():
            digits = 2 if metric == "psnr" else 3
            title = f"**{label}, σ = {noise:g}**, mean ± standard deviation of {sizes.test} slices"
            settings = [Setting(s, noise) for s in sizes.spokes]
            best = [max(float(of[s][metric].mean()) for of in scores.values()) for s in settings]
            rows = []
            for method, of in scores.items():
                cells = [plus_minus(of[s][metric], digits, spread=True) for s in settings]
                means = [float(of[s][metric].mean()) for s in settings]
                cells = [f"**{c}**" if m == b else c for c, m, b in zip(cells, means, best, strict=True)]
                taken = [seconds[method][s] for s in settings]
                rows.append([method, *cells, f"{sum(taken) / len(taken):.2g}"])
            parts.append(markdown(("spokes", *map(str, sizes.spokes), "s per slice"), rows, title))
    return "\n\n".join(parts) + "\n"


def margins(scores: Scores, sizes: Sizes, method: str) -> str:
    """Mean differences of the PSNR of one method to the others, ± their standard errors over the slices."""
    title = f"PSNR of {method} minus that of the others, dB, mean ± standard error over the slices"
    head = ("σ, spokes", *(f"{n:g}, {s}" for n in sizes.noise for s in sizes.spokes))
    ours, rows = scores[method], []
    for other, of in scores.items():
        if other != method:
            differences = (ours[s]["psnr"] - of[s]["psnr"] for s in sizes.settings)
            rows.append([other, *(plus_minus(d, sign="+") for d in differences)])
    return markdown(head, rows, title) + "\n"


def draw_curves(scores: Scores, sizes: Sizes, path: Path) -> None:
    """Draw PSNR and SSIM against the number of spokes, a column for every noise level."""
    whole = figure(5.0 * len(sizes.noise) + 0.6, 8.0)
    axes = whole.subplots(2, len(sizes.noise), squeeze=False, sharey="row", sharex=True)
    for row, (metric, label) in zip(axes, METRICS.items(), strict=True):
        row[0].set_ylabel(label)
        for ax, noise in zip(row, sizes.noise, strict=True):
            for k, (method, of) in enumerate(scores.items()):
                values = [of[Setting(s, noise)][metric] for s in sizes.spokes]
                at = [s + 0.35 * (k - (len(scores) - 1) / 2) for s in sizes.spokes]  # side by side
                ax.errorbar(
                    at,
                    [float(v.mean()) for v in values],
                    [float(v.std()) for v in values],
                    marker="o",
                    markersize=3,
                    capsize=2,
                    elinewidth=0.7,
                    label=method,
                    **STYLES.get(method, {}),
                )
            ax.set_xticks(sizes.spokes)
            light(ax, linewidth=0.5)
    for ax, noise in zip(axes[0], sizes.noise, strict=True):
        ax.set_title(f"noise σ = {noise:g}", fontsize=10)
    for ax in axes[1]:
        ax.set_xlabel("spokes")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    whole.legend(handles, labels, loc="outside lower center", ncols=5, fontsize=8, frameon=False)
    save(whole, path, 150)


def draw_images(
    results: Mapping[str, Mapping[Setting, Result]],
    truth: Tensor,
    settings: list[Setting],
    index: int,
    path: Path,
) -> None:
    """Draw one slice by all methods, two rows (images, five times their errors) for every setting."""
    columns = 1 + len(results)
    whole = figure(1.75 * columns, 3.75 * len(settings))
    axes = whole.subplots(2 * len(settings), columns, squeeze=False)
    true = truth[index]
    for row, setting in enumerate(settings):
        upper, lower = axes[2 * row], axes[2 * row + 1]
        picture(upper[0], true, "truth")
        upper[0].set_ylabel(str(setting), fontsize=8)
        lower[0].set(xticks=[], yticks=[])
        lower[0].spines[:].set_visible(False)
        lower[0].set_ylabel("5 × error", fontsize=8)
        for k, (method, of) in enumerate(results.items(), start=1):
            image, score = of[setting].images[index], of[setting].scores(truth)
            picture(upper[k], image, method)
            title = f"{score['psnr'][index]:.1f} dB, {score['ssim'][index]:.3f}"
            picture(lower[k], 5 * (image - true).abs(), title, size=7, cmap="inferno")
    save(whole, path, 80)


def as_json(
    scores: Scores, seconds: Mapping[str, Mapping[Setting, float]], parameters: Mapping, notes: Mapping
) -> dict:
    """All numbers, as JSON takes them."""

    def rounded(number: Any) -> float:
        return round(float(number), 5)

    def entry(method: str, setting: Setting) -> dict[str, Any]:
        values = scores[method][setting]
        return {
            "spokes": setting.spokes,
            "noise_std": setting.noise_std,
            **{metric: {"mean": rounded(v.mean()), "std": rounded(v.std())} for metric, v in values.items()},
            "seconds_per_slice": rounded(seconds[method][setting]),
            "parameters": parameters[method][setting],
            "note": notes[method][setting],
        }

    return {method: [entry(method, setting) for setting in of] for method, of in scores.items()}
