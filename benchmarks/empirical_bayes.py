"""Empirical Bayes: priors and latent vectors from observations alone, against oracles and what knows no prior.

Latent vectors z ~ N(0, Λ⁻¹) with a sparse Λ (a chain, a grid, a random graph) are observed as y = A z + σ ε, with a
random A, square or with fewer rows. The prior is learned from the n observations: by expectation maximisation with the
exact posterior, and by the alternation of Wang (2019, slides, "Solving inverse problems by VAE-like approaches") with
encoders: independent components (the usual variational autoencoder), a full covariance, an inverse autoregressive
flow. The graph is that of the graphical lasso with thresholds, chosen by BIC and refitted
(`genreg.empirical_bayes.GraphicalLasso`); a row shows the lasso alone, λ by BIC. Encoders
take 3,000 steps. Then the same for mixtures of two Gaussians, with 9,000 steps.

Scores: F1 of the edges, relative error of Λ in the Frobenius norm, mean squared error of the latent vectors relative to
the posterior mean under the true prior (the oracle), and of those that know no prior: the pseudo-inverse, ridge
regression with a parameter for each observation by generalised cross-validation, and y in the place of z. ELBO and
evidence are means over observations, in nats, relative to the evidence of the true prior.

The tables go to docs/empirical_bayes.md, the numbers to docs/empirical_bayes.json, the figure to
docs/empirical_bayes.png (build/ if quick); what has been computed is kept in build/empirical_bayes/.
"""

from __future__ import annotations

import functools
import time
from pathlib import Path
from typing import Any

import torch
from _empirical_bayes import (
    GRAPHS,
    Observed,
    Setting,
    edge_f1,
    frobenius,
    gaussian,
    mixture,
    pseudo_inverse,
    ridge,
)
from _empirical_bayes_report import draw, table
from _study import Rows, arguments, report
from torch import Tensor

from genreg.empirical_bayes import (
    ExactPosterior,
    FullCovariance,
    GaussianGraphicalModel,
    GraphicalLasso,
    InverseAutoregressive,
    MeanField,
    expectation_maximisation,
    fit,
)

BASE = Setting(50, 5000, 50, 0.1)
ALL = ("lasso", "EM", "mean-field", "full", "flow")
SETTINGS = {
    "base": BASE,
    "p20": Setting(20, 5000, 20, 0.1),
    "p100": Setting(100, 5000, 100, 0.1),
    "n500": BASE._replace(n=500),
    "n10000": BASE._replace(n=10000),
    "m40": BASE._replace(m=40),
    "m25": BASE._replace(m=25),
    "noise": BASE._replace(sigma=0.5),
    "noisier": BASE._replace(sigma=1.0),
}
MIXTURES = {"mixture": Setting(20, 5000, 20, 0.1), "mixture-noise": Setting(20, 5000, 20, 0.3)}
ENCODERS = {"mean-field": MeanField, "full": FullCovariance, "flow": InverseAutoregressive}
QUICK = Setting(6, 300, 6, 0.1)


def learn(
    method: str, observed: Observed, components: int, steps: int
) -> tuple[GaussianGraphicalModel, Tensor, float]:
    """A prior learned by a method, its estimates of the latent vectors, and its mean ELBO (the evidence of EM)."""
    estimator = GraphicalLasso(refit=method != "lasso")
    kind = "zero" if components == 1 else "learned"
    prior = GaussianGraphicalModel(observed.truth.space, components, mean=kind, estimator=estimator)
    fidelity = observed.fidelity
    if method in ("lasso", "EM"):
        expectation_maximisation(fidelity, prior, max_iter=200, progress=False)
        posterior = ExactPosterior(fidelity, prior)
        return prior, posterior.mean, posterior.log_evidence.mean().item()
    # where components are in doubt a Gaussian's covariance depends on the observation
    encoder = ENCODERS[method](amortised=components > 1 and method != "flow")
    result = fit(fidelity, prior, encoder, steps=steps, progress=False)
    return prior, result.infer(fidelity).mean, result.elbo(fidelity, draws=20).mean().item()


def match(prior: GaussianGraphicalModel, truth: GaussianGraphicalModel) -> list[int]:
    """The components of a prior in the order of those of the truth: the one whose mean is nearest."""
    if truth.components == 1:
        return [0]
    first = int(torch.cdist(truth.means[:1], prior.means).argmin())
    return [first, 1 - first]


def row(method: str, observed: Observed, components: int, steps: int, keep: Path) -> dict[str, Any]:
    """Scores of a method."""
    began = time.perf_counter()
    prior, z, elbo = learn(method, observed, components, steps)
    seconds = time.perf_counter() - began
    truth, oracle = observed.truth, observed.oracle
    order = match(prior, truth)
    torch.save([prior.matrices[k] for k in order], keep)
    evidence = ExactPosterior(observed.fidelity, prior).log_evidence
    pairs = [(prior.matrices[k], truth.matrices[i]) for i, k in enumerate(order)]
    return {
        "method": method,
        "f1": [edge_f1(*pair) for pair in pairs],
        "edges": [int((a.triu(1) != 0).sum()) for a, _ in pairs],
        "error": [frobenius(*pair) for pair in pairs],
        "mse": observed.mse(z) / observed.mse(oracle.mean),
        "elbo": elbo - oracle.log_evidence.mean().item(),
        "evidence": (evidence - oracle.log_evidence).mean().item(),
        "weight": float(prior.weights[order[0]]),
        "seconds": seconds,
    }


def without_prior(observed: Observed) -> dict[str, float]:
    """Mean squared error of the oracle, and relative to it of what knows no prior."""
    oracle = observed.mse(observed.oracle.mean)
    found = {"pseudo-inverse": observed.mse(pseudo_inverse(observed)), "ridge": observed.mse(ridge(observed))}
    if observed.fidelity.data.shape[1] == observed.z.shape[1]:
        found["y itself"] = observed.mse(observed.fidelity.data)
    return {"oracle": oracle, **{name: value / oracle for name, value in found.items()}}


def compute(part: str, rows: Rows, *, quick: bool) -> None:
    """The rows of a part, those that are not there yet."""
    setting, methods = (SETTINGS[part], ALL) if part in SETTINGS else (MIXTURES[part], ALL[1:])
    setting = QUICK if quick else setting
    graphs = ["mixture"] if part in MIXTURES else ["chain"] if quick else list(GRAPHS)
    rows.file.parent.mkdir(parents=True, exist_ok=True)
    for graph in graphs:
        missing = [method for method in methods if (graph, method) not in rows]
        if not missing:
            continue
        observed = mixture(setting) if graph == "mixture" else gaussian(graph, setting)
        true_edges = [int((matrix.triu(1) != 0).sum()) for matrix in observed.truth.matrices]
        common = {"part": part, "graph": graph, **setting._asdict(), "known": without_prior(observed)}
        torch.save(list(observed.truth.matrices), rows.file.with_name(f"{part}-{graph}-truth.pt"))
        for method in missing:
            keep = rows.file.with_name(f"{part}-{graph}-{method}.pt")
            steps = 60 if quick else 9000 if part in MIXTURES else 3000
            found = row(method, observed, len(true_edges), steps, keep)
            rows.add(common | {"true_edges": true_edges} | found)
            f1 = " ".join(f"{value:.3f}" for value in found["f1"])
            print(
                f"{part:14s} {graph:8s} {method:10s} F1 {f1}  error {found['error'][0]:.3f}  "
                f"MSE {found['mse']:.4f}  ELBO {found['elbo']:+.4f}  {found['seconds']:.0f} s",
                flush=True,
            )
    order = [*GRAPHS, "mixture"]
    rows.sort(key=lambda r: (order.index(r["graph"]), ALL.index(r["method"])))


def main() -> None:
    only = {"choices": [*SETTINGS, *MIXTURES], "help": "compute one part only"}
    options = arguments(__doc__, {"--only": only}, output=True)
    parts = ["base", "mixture"] if options.quick else [*SETTINGS, *MIXTURES]
    compute_part = functools.partial(compute, quick=options.quick)
    key = ("graph", "method")
    report("empirical_bayes", parts, key, compute_part, table, draw, options, only=options.only)


if __name__ == "__main__":
    main()
