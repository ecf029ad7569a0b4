"""Tables and figure of `empirical_bayes.py`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from _study import figure, markdown, picture, save

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


def _setting(r: dict[str, Any]) -> list[str]:
    return [f"{r[name]:g}" for name in ("p", "n", "m", "sigma")]


def _gaussians(rows: list[dict[str, Any]]) -> str:
    title = "Gaussian graphical models. ELBO (of EM the evidence) and evidence: relative to that of the true prior."
    head = "graph|p|n|m|σ|prior learned by|F1 of edges|edges (true)|error of Λ|MSE / oracle|ELBO|evidence|s"
    lines = []
    for r in rows:
        edges = f"{r['edges'][0]} ({r['true_edges'][0]})"
        graph = f"{r['f1'][0]:.3f}", edges, f"{r['error'][0]:.3f}"
        lines.append([r["graph"], *_setting(r), NAMES[r["method"]], *graph, *_scores(r)])
    return markdown(head.split("|"), lines, title) if rows else ""


def _scores(r: dict[str, Any]) -> list[str]:
    return [f"{r['mse']:.4f}", f"{r['elbo']:+.4f}", f"{r['evidence']:+.4f}", f"{r['seconds']:.0f}"]


def _mixtures(rows: list[dict[str, Any]]) -> str:
    title = "Mixtures of a chain (weight 0.6) and a random graph (0.4)."
    head = "p|n|m|σ|prior learned by|weight|F1, chain; random|error of Λ|MSE / oracle|ELBO|evidence|s"
    lines = []
    for r in rows:
        f1, error = (";  ".join(f"{value:.3f}" for value in r[key]) for key in ("f1", "error"))
        lines.append([*_setting(r), NAMES[r["method"]], f"{r['weight']:.3f}", f1, error, *_scores(r)])
    return markdown(head.split("|"), lines, title) if rows else ""


def _known(rows: list[dict[str, Any]]) -> str:
    methods = ("pseudo-inverse", "ridge", "y itself")
    lines = {}
    for r in rows:
        setting, known = _setting(r), r["known"]
        cells = [f"{known[name]:.2f}" if name in known else "" for name in methods]
        lines.setdefault((r["graph"], *setting), [r["graph"], *setting, f"{known['oracle']:.4f}", *cells])
    head = ("prior", "p", "n", "m", "σ", "MSE of the oracle", *methods)
    return markdown(head, lines.values(), "Mean squared errors without a prior, relative to the oracle's.")


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Λ and its estimates, of the three graphs for p = 20 and of a mixture, all in one range of colours."""
    quick = not any(r["part"] == "p20" for r in rows)
    cache = Path("build") / ("empirical_bayes-quick" if quick else "empirical_bayes")
    part = "base" if quick else "p20"
    graphs = list(dict.fromkeys(r["graph"] for r in rows if r["part"] == part))
    lines = [(part, graph, 0, graph) for graph in graphs]
    lines += [("mixture", "mixture", k, f"mixture, {name}") for k, name in enumerate(("chain", "random"))]
    columns = ["truth", "EM", "mean-field", "full", "flow"]
    whole = figure(2 * len(columns), 2.15 * len(lines))
    axes = whole.subplots(len(lines), len(columns), squeeze=False)
    for k, (of, graph, component, label) in enumerate(lines):
        line = axes[k]
        truth = torch.load(cache / f"{of}-{graph}-truth.pt")[component]
        span = float(truth.abs().max())
        for name, axis in zip(columns, line, strict=True):
            matrix = torch.load(cache / f"{of}-{graph}-{name}.pt")[component]
            title = ("Λ" if name == "truth" else NAMES[name]) if k == 0 else ""
            picture(axis, matrix, title, cmap="RdBu_r", vmin=-span, vmax=span)
        line[0].set_ylabel(label, fontsize=8)
    save(whole, path, 150)
