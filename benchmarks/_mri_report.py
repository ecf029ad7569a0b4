"""Tables and figures of the comparison of MRI reconstructions."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from _mri import Result, Setting, Sizes
from torch import Tensor

__all__ = ["Scores", "draw_curves", "draw_images", "margins", "tables"]

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
            lines = [
                f"**{label}, σ = {noise:g}**, mean ± standard deviation of {sizes.test} slices",
                "",
                "| spokes | " + " | ".join(str(s) for s in sizes.spokes) + " | s per slice |",
                "|---" * (len(sizes.spokes) + 2) + "|",
            ]
            best = {
                s: max(float(of[Setting(s, noise)][metric].mean()) for of in scores.values())
                for s in sizes.spokes
            }
            for method, of in scores.items():
                cells = []
                for s in sizes.spokes:
                    values = of[Setting(s, noise)][metric]
                    text = f"{values.mean():.{digits}f} ± {values.std():.{digits}f}"
                    cells.append(f"**{text}**" if float(values.mean()) == best[s] else text)
                taken = [seconds[method][Setting(s, noise)] for s in sizes.spokes]
                lines.append(f"| {method} | " + " | ".join(cells) + f" | {sum(taken) / len(taken):.2g} |")
            parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def margins(scores: Scores, sizes: Sizes, method: str) -> str:
    """Mean differences of the PSNR of one method to the others, ± their standard errors over the slices."""
    lines = [
        f"PSNR of {method} minus that of the others, dB, mean ± standard error over the slices",
        "",
        "| σ, spokes | " + " | ".join(f"{n:g}, {s}" for n in sizes.noise for s in sizes.spokes) + " |",
        "|---" * (len(sizes.settings) + 1) + "|",
    ]
    for other in (name for name in scores if name != method):
        cells = []
        for setting in sizes.settings:
            difference = scores[method][setting]["psnr"] - scores[other][setting]["psnr"]
            error = difference.std() / len(difference) ** 0.5
            cells.append(f"{difference.mean():+.2f} ± {error:.2f}")
        lines.append(f"| {other} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def draw_curves(scores: Scores, sizes: Sizes, path: Path) -> None:
    """Draw PSNR and SSIM against the number of spokes, a column for every noise level."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.0 * len(sizes.noise) + 0.6, 8.0), layout="constrained")
    axes = figure.subplots(2, len(sizes.noise), squeeze=False, sharey="row", sharex=True)
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
            ax.spines[["top", "right"]].set_visible(False)
            ax.grid(alpha=0.25, linewidth=0.5)
    for ax, noise in zip(axes[0], sizes.noise, strict=True):
        ax.set_title(f"noise σ = {noise:g}", fontsize=10)
    for ax in axes[1]:
        ax.set_xlabel("spokes")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5, fontsize=8, frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def draw_images(
    results: Mapping[str, Mapping[Setting, Result]],
    truth: Tensor,
    settings: list[Setting],
    index: int,
    path: Path,
) -> None:
    """Draw one slice by all methods, two rows (images, five times their errors) for every setting."""
    from matplotlib.figure import Figure

    columns = 1 + len(results)
    figure = Figure(figsize=(1.75 * columns, 3.75 * len(settings)), layout="constrained")
    axes = figure.subplots(2 * len(settings), columns, squeeze=False)
    true = truth[index]
    for ax in axes.flat:
        ax.set(xticks=[], yticks=[])
        ax.spines[:].set_visible(False)
    for row, setting in enumerate(settings):
        upper, lower = axes[2 * row], axes[2 * row + 1]
        upper[0].imshow(true.numpy(), cmap="gray", vmin=0, vmax=1)
        upper[0].set_title("truth", fontsize=8)
        upper[0].set_ylabel(str(setting), fontsize=8)
        lower[0].set_ylabel("5 × error", fontsize=8)
        for k, (method, of) in enumerate(results.items(), start=1):
            result = of[setting]
            score = result.scores(truth)
            upper[k].imshow(result.images[index].numpy(), cmap="gray", vmin=0, vmax=1)
            lower[k].imshow(5 * (result.images[index] - true).abs().numpy(), cmap="inferno", vmin=0, vmax=1)
            upper[k].set_title(method, fontsize=8)
            lower[k].set_title(f"{score['psnr'][index]:.1f} dB, {score['ssim'][index]:.3f}", fontsize=7)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=80)


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
