"""Table, numbers and figure of `discriminator_weighting.py`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from _study import figure, markdown, mean_and_error, save
from torch import Tensor

from genreg.plotting import mosaic

__all__ = ["SCORES", "SHOWN", "draw", "numbers", "table"]

SCORES = ("mean_mse", "mean_ssim", "draw_mse", "draw_ssim")
SHOWN = 6  # digits in the figure
COLOURS = ("#2b6cb0", "#d9822b", "#2f855a", "#90cdf4", "#f6c177")

Results = Mapping[str, Mapping[Any, Mapping[str, Mapping[str, Any]]]]  # of models, problems, methods


def paired(found: Mapping[str, Any], plain: Mapping[str, Any], key: str) -> tuple[float, float]:
    """Mean over the digits of the difference to plain, and its standard error."""
    mean, error = mean_and_error((found[key] - plain[key]).double())
    return mean.item(), error.item()


def table(results: Results) -> str:
    """The scores of plain, and paired differences to it."""
    head = ("", "MSE of the mean", "SSIM of the mean", "MSE of draws", "SSIM of draws", "median R-hat")
    parts = []
    for name, of in results.items():
        for problem, methods in of.items():
            rows = []
            for method, found in methods.items():
                cells = []
                for key in SCORES:
                    digits = 3 if key.endswith("ssim") else 2
                    mean, error = paired(found, methods["plain"], key)
                    cells.append(
                        f"{found[key].mean():.{digits}f}"
                        if method == "plain"
                        else f"{mean:+.{digits}f} ± {error:.{digits}f}"
                    )
                rows.append([method, *cells, f"{found['rhat'].median():.2f}"])
            parts.append(markdown(head, rows, f"**{name}, {problem}**"))
    return "\n\n".join(parts) + "\n"


def numbers(results: Results, scores: Mapping[str, Any]) -> dict[str, Any]:
    """What table and figure show, as JSON takes it."""
    rows = []
    for name, of in results.items():
        for problem, methods in of.items():
            for method, found in methods.items():
                row: dict[str, Any] = {"model": name, "problem": str(problem), "method": method}
                for key in SCORES:
                    mean, error = paired(found, methods["plain"], key)
                    row[key] = round(float(found[key].mean()), 4)
                    if method != "plain":
                        row[f"{key}_difference"] = [round(mean, 4), round(error, 4)]
                row["share_of_draws"] = round(float(found["size"].median()), 4)
                row["rhat"] = round(float(found["rhat"].median()), 3)
                row["evaluations"] = round(found["evaluations"])
                rows.append(row)
    rounded = {
        name: {kind: {key: round(value, 4) for key, value in s.items()} for kind, s in kinds.items()}
        for name, kinds in scores.items()
    }
    return {"discriminators": rounded, "rows": rows}


def draw(results: Results, truth: Tensor, path: Path) -> None:
    """Draw the differences to plain with 95 % bars, and digits of the first problem."""
    whole = figure(12.5, 6.7 * len(results))
    parts = whole.subfigures(2 * len(results), 1, height_ratios=(4.1, 2.6) * len(results), squeeze=False).flat
    titles = ("MSE of the mean × 1000", "SSIM of the mean", "MSE of draws × 1000", "SSIM of draws")
    for (name, of), chart, pictures in zip(results.items(), parts[::2], parts[1::2], strict=True):
        heading = f"{name}: difference to plain posterior sampling (in brackets), {len(truth)} digits, 95 % intervals"
        chart.suptitle(heading, fontsize=10)
        methods = [m for m in next(iter(of.values())) if m != "plain"]
        panels = chart.subplots(1, len(SCORES), sharey=True)
        for ax, key, title in zip(panels, SCORES, titles, strict=True):
            for k, (problem, colour) in enumerate(zip(of, COLOURS, strict=False)):
                present = [(i, m) for i, m in enumerate(methods) if m in of[problem]]
                values = [paired(of[problem][m], of[problem]["plain"], key) for _, m in present]
                ax.errorbar(
                    [mean for mean, _ in values],
                    [-i + 0.13 * (len(of) / 2 - k) for i, _ in present],
                    xerr=[1.96 * error for _, error in values],
                    fmt="o",
                    markersize=3,
                    linewidth=1.1,
                    color=colour,
                    label=f"{problem} ({of[problem]['plain'][key].mean():.{3 if 'ssim' in key else 1}f})",
                )
            ax.axvline(0, color="#4a5568", linewidth=0.7)
            ax.set_title(title + (", lower is better" if "mse" in key else ", higher is better"), fontsize=8)
            ax.set_yticks([-i for i in range(len(methods))], methods, fontsize=8)
            ax.tick_params(labelsize=7)
            ax.grid(axis="x", alpha=0.25, linewidth=0.5)
            ax.spines[["top", "right"]].set_visible(False)
        chart.legend(
            *panels[0].get_legend_handles_labels(),
            loc="outside lower center",
            ncols=3,
            fontsize=7.5,
            frameon=False,
        )
        problem, found = next(iter(of.items()))
        left, right = pictures.subplots(1, 2)
        rows = [m for m in ("plain", "fine-tuned", "trained", "smoothed", "Tweedie") if m in found]
        for ax, key, title in ((left, "images", "posterior mean"), (right, "draws", "a draw")):
            grid = torch.stack([truth[:SHOWN], *(found[m][key] for m in rows)])
            tiles = mosaic(grid)
            ax.imshow(tiles, cmap="gray", vmin=0, vmax=1)
            height = tiles.shape[0] / (1 + len(rows))
            ax.set_yticks([height * (i + 0.5) for i in range(1 + len(rows))], ["truth", *rows], fontsize=7)
            ax.set_xticks([])
            ax.tick_params(length=0)
            ax.spines[:].set_visible(False)
            ax.set_title(f"{problem}: {title}", fontsize=8)
    save(whole, path, 85)
