"""The figure of `posterior_coverage`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from _coverage import CURVE, coverage_panel
from _study import figure, save

__all__ = ["BINS", "draw"]

BINS = 20  # of the histograms of ranks
COLOURS = ("#2b6cb0", "#c53030", "#38a169", "#d69e2e", "#805ad5")


def draw(found: Sequence[dict], path: Path) -> None:
    """Coverage against the nominal probability, and histograms of latent ranks, of what `numbers` gave."""
    models = list(dict.fromkeys(row["model"] for row in found))
    whole = figure(13, 3.9 * len(models))
    styles = {"G(z)": "-", "G(z) + γ ε": "--", "x given y": ":"}
    for axes, name in zip(whole.subplots(len(models), 4, squeeze=False), models, strict=True):
        of = [row for row in found if row["model"] == name]
        settings = dict.fromkeys((row["m"], row["sigma"]) for row in of)
        colours = dict(zip(settings, COLOURS, strict=False))
        titles = ("pixels, x = G(z)", "z, x = G(z)", "pixels, digits")
        for ax, title in zip(axes[:3], titles, strict=False):
            coverage_panel(ax, f"{name}: {title}")
            ax.fill_between((0, 1), (-0.03, 0.97), (0.03, 1.03), color="#a0aec0", alpha=0.25, linewidth=0)
        axes[3].set_title(f"{name}: ranks of z, x = G(z)", fontsize=9)
        axes[3].tick_params(labelsize=7)
        axes[3].grid(alpha=0.25, linewidth=0.5)
        axes[0].set_ylabel("share of truths in the interval", fontsize=8)
        for row in of:
            setting = row["m"], row["sigma"]
            style = {"color": colours[setting], "linewidth": 1.2}
            if row["truth"] == "digits":
                axes[2].plot(CURVE, row["pixels"], linestyle=styles[row["draws"]], **style)
                continue
            axes[0].plot(CURVE, row["pixels"], label="m = {}, σ = {}".format(*setting), **style)
            axes[1].plot(CURVE, row["latent"], **style)
            total = sum(row["histogram"])
            share = [BINS * count / total for count in row["histogram"]]
            axes[3].stairs(share, [k / BINS for k in range(BINS + 1)], **style)
            half = 1.96 * ((BINS - 1) / total) ** 0.5
        axes[3].axhspan(1 - half, 1 + half, color="#a0aec0", alpha=0.3, linewidth=0)
        axes[3].set(xlim=(0, 1), ylim=(0, None))
        axes[3].set_xlabel("rank of the truth among the draws", fontsize=8)
        for label in dict.fromkeys(row["draws"] for row in of):
            axes[2].plot([], [], color="k", linewidth=1, linestyle=styles[label], label=label)
        for ax in (axes[0], axes[2]):
            ax.legend(fontsize=7, frameon=False, loc="upper left")
    save(whole, path, 80)
