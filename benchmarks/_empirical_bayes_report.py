"""Tables and figure of `empirical_bayes.py`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch

__all__ = ["draw", "table"]

NAMES = {
    "lasso": "EM, lasso alone",
    "EM": "EM, exact posterior",
    "mean-field": "independent components",
    "full": "full covariance",
    "flow": "autoregressive flow",
}


def table(rows: list[dict[str, Any]]) -> str:
    """A table of the Gaussians, one of the mixtures, one of what knows no prior."""
    single = [r for r in rows if r["graph"] != "mixture"]
    mixed = [r for r in rows if r["graph"] == "mixture"]
    parts = [_gaussians(single), _mixtures(mixed), _known(rows)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _setting(r: dict[str, Any]) -> str:
    return f"{r['p']} | {r['n']} | {r['m']} | {r['sigma']:g}"


def _gaussians(rows: list[dict[str, Any]]) -> str:
    lines = [
        "Gaussian graphical models. ELBO (of EM the evidence) and evidence: relative to that of the true prior.",
        "",
        "| graph | p | n | m | σ | prior learned by | F1 of edges | edges (true) | error of Λ | MSE / oracle | ELBO "
        "| evidence | s |",
        "|---" * 13 + "|",
    ]
    for r in rows:
        lines.append(
            f"| {r['graph']} | {_setting(r)} | {NAMES[r['method']]} | {r['f1'][0]:.3f} | {r['edges'][0]} "
            f"({r['true_edges'][0]}) | {r['error'][0]:.3f} | {r['mse']:.4f} | {r['elbo']:+.4f} | "
            f"{r['evidence']:+.4f} | {r['seconds']:.0f} |"
        )
    return "\n".join(lines) if rows else ""


def _mixtures(rows: list[dict[str, Any]]) -> str:
    lines = [
        "Mixtures of a chain (weight 0.6) and a random graph (0.4).",
        "",
        "| p | n | m | σ | prior learned by | weight | F1, chain; random | error of Λ | MSE / oracle | ELBO "
        "| evidence | s |",
        "|---" * 12 + "|",
    ]
    for r in rows:
        f1, error = (";  ".join(f"{value:.3f}" for value in r[key]) for key in ("f1", "error"))
        lines.append(
            f"| {_setting(r)} | {NAMES[r['method']]} | {r['weight']:.3f} | {f1} | {error} | {r['mse']:.4f} | "
            f"{r['elbo']:+.4f} | {r['evidence']:+.4f} | {r['seconds']:.0f} |"
        )
    return "\n".join(lines) if rows else ""


def _known(rows: list[dict[str, Any]]) -> str:
    lines = [
        "Mean squared errors without a prior, relative to the oracle's.",
        "",
        "| prior | p | n | m | σ | MSE of the oracle | pseudo-inverse | ridge | y itself |",
        "|---" * 9 + "|",
    ]
    seen = set()
    for r in rows:
        key = (r["graph"], _setting(r))
        if key in seen:
            continue
        seen.add(key)
        cells = [
            f"{r['known'][name]:.2f}" if name in r["known"] else ""
            for name in ("pseudo-inverse", "ridge", "y itself")
        ]
        lines.append(
            f"| {r['graph']} | {_setting(r)} | {r['known']['oracle']:.4f} | " + " | ".join(cells) + " |"
        )
    return "\n".join(lines)


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Λ and its estimates, of the three graphs for p = 20 and of a mixture, all in one range of colours."""
    quick = not any(r["part"] == "p20" for r in rows)
    cache = Path("build") / ("empirical_bayes-quick" if quick else "empirical_bayes")
    part = "base" if quick else "p20"
    graphs = list(dict.fromkeys(r["graph"] for r in rows if r["part"] == part))
    lines = [(part, graph, 0, graph) for graph in graphs]
    lines += [("mixture", "mixture", k, f"mixture, {name}") for k, name in enumerate(("chain", "random"))]
    columns = ["truth", "EM", "mean-field", "full", "flow"]
    figure, axes = plt.subplots(
        len(lines), len(columns), figsize=(2 * len(columns), 2.15 * len(lines)), squeeze=False
    )
    for (of, graph, component, label), line in zip(lines, axes, strict=True):
        truth = torch.load(cache / f"{of}-{graph}-truth.pt")[component]
        span = float(truth.abs().max())
        for name, axis in zip(columns, line, strict=True):
            matrix = torch.load(cache / f"{of}-{graph}-{name}.pt")[component]
            axis.imshow(matrix, cmap="RdBu_r", vmin=-span, vmax=span)
            axis.set(xticks=[], yticks=[])
            if of == lines[0][0] and graph == lines[0][1]:
                axis.set_title("Λ" if name == "truth" else NAMES[name], fontsize=8)
        line[0].set_ylabel(label, fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=150)
    plt.close(figure)
