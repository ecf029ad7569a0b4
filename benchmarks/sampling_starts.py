r"""Where chains should start: the prior, the encoder, a maximum a posteriori estimate, or screened draws of the prior.

    python benchmarks/sampling_starts.py           # some twenty minutes on one core
    python benchmarks/sampling_starts.py --quick   # four images, to see that it works

For y = A x + noise of standard deviation σ, x the first 100 images of MNIST's test set, 10 chains draw z from
exp(-‖A G(z) - y‖² / (2σ²) - ‖z‖² / 2) for each image, and the mean of G(z) is compared with x: inpainting of images of
which some pixels at random are known and compressed sensing with random measurements (σ = 0.1 in both), against their
number, and denoising against σ. Starts are

* prior: draws of N(0, I);
* posterior: draws of the encoder's distribution for a rough reconstruction (a GAN has no encoder, and no such start);
* MAP: minimisers of the energy, sought from the encoder's (GAN: the prior's) draws, ``init="map"``, by 30 iterations
  (60 where 500 evaluations are allowed);
* screened: `sampling.screened_starts`, of 10,000 draws of the prior, with as many iterations.

All have the same total cost for a chain, in evaluations of energy and gradient: those of the search count, those that
the warm-up spends on curvatures as well, and 10 for the screening, whose 10,000 images are shared by 1,000 chains.
What is left is spent on turns of `sampling.MALA`, half of them warm-up. An effective sample size is the smallest of all
latent components and the energy, of bulk and tails, of the 10 chains of an image together; its mean over the images is
divided by the processor time of start and chains.

Errors are standard errors over the images. Images of real digits are not in the range of a generator: an error has a
floor that no start gets below. Neither R-hat nor effective sample sizes see a mode that no chain has found: chains that
start in one place can look mixed and be wrong.

The table goes to docs/sampling_starts.md, the numbers to docs/sampling_starts.json, the figure to
docs/sampling_starts.png (build/ if quick); what has been computed is kept in build/sampling_starts/ and not computed
again.

References
----------
A. M. Liang (2021), Using deep generative priors for inverse problems and Bayesian optimisation (figure 2).
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from _digits import digits, generator, measure, posterior
from _study import (
    Rows,
    arguments,
    figure,
    markdown,
    mean_and_error,
    plus_minus,
    report,
    save,
    skipped_without_data,
)
from torch import Tensor

import genreg
from genreg.sampling import MALA, LatentPosterior, diagnose, sample, screened_starts, starts
from genreg.sampling.adaptation import window_ends
from genreg.sampling.random_numbers import RandomNumbers

STARTS = ("prior", "posterior", "map", "screened")
LABELS = {"prior": "prior", "posterior": "posterior (encoder)", "map": "MAP", "screened": "screened"}
COLOURS = {"prior": "#d69e2e", "posterior": "#38a169", "map": "#2b6cb0", "screened": "#c53030"}
CURVATURE = 11  # evaluations for a step size
SIGMA = 0.1


class Point(NamedTuple):
    """Number of measurements and noise of a task."""

    task: str
    size: int
    sigma: float = SIGMA

    @property
    def abscissa(self) -> float:
        """Where it is drawn."""
        return self.sigma if self.task == "denoising" else self.size


class Case(NamedTuple):
    """A model, a budget of evaluations for a chain, and what it is spent on."""

    model: str
    budget: int
    points: tuple[Point, ...]
    images: int = 100
    chains: int = 10
    iterations: int = 30  # of the search for minimisers
    draws: int = 10000  # to screen


ALL = (
    *(Point("inpainting", m) for m in (25, 50, 100, 200, 400)),
    *(Point("compressed sensing", m) for m in (25, 50, 100, 200)),
    *(Point("denoising", 784, sigma) for sigma in (0.1, 0.5, 1.0)),
)
LONG = (Point("inpainting", 50), Point("inpainting", 200), Point("compressed sensing", 50))
GAN = (
    *(Point("inpainting", m) for m in (50, 200)),
    *(Point("compressed sensing", m) for m in (50, 100)),
)
CASES = {
    "dense-150": Case("mnist-vae-dense", 150, ALL),
    "dense-500": Case("mnist-vae-dense", 500, LONG, iterations=60),
    "gan-150": Case("mnist-gan", 150, GAN),
}


def turns(evaluations: int) -> int:
    """The largest number of turns, half of them warm-up, for which these are enough."""

    def cost(steps: int) -> int:
        return steps + CURVATURE * max(1, len(window_ends(steps // 2)))

    return max(steps for steps in range(4, evaluations) if cost(steps) <= evaluations)


def begin(target: LatentPosterior, start: str, case: Case) -> tuple[Tensor, int]:
    """Where the chains start, and evaluations spent on each, on average."""
    if start == "screened":
        z, spent = screened_starts(target, case.chains, draws=case.draws, iterations=case.iterations)
        shared = case.draws / (case.chains * target.batch)
    else:
        random = RandomNumbers(0, target.fidelity.data.device)
        z, spent = starts(target, start, case.chains, random, map_iterations=case.iterations)
        shared = 0.0
    return z, math.ceil(float(spent.double().mean()) + shared)


def run(case: Case, point: Point, start: str, G: genreg.Generator, x: Tensor) -> dict:
    """The numbers of one start."""
    target = posterior(measure(x, *point), G)
    began = time.process_time()
    z, spent = begin(target, start, case)
    steps = turns(case.budget - spent)
    samples = sample(
        target, MALA(), chains=case.chains, steps=steps, burn_in=steps // 2, init=z, seed=0, progress=False
    )
    seconds = time.process_time() - began
    found = diagnose(samples)
    mse = (samples.mean - x).square().flatten(1).mean(1)
    ess = found.worst_ess.nan_to_num(0.0)
    return {
        "model": case.model,
        "budget": case.budget,
        "task": point.task,
        "size": point.size,
        "sigma": point.sigma,
        "start": start,
        "spent": spent,
        "evaluations": spent + int(samples.evaluations.max()),
        "steps": steps,
        "mse": mse.tolist(),
        "worst_ess": ess.tolist(),
        "worst_rhat": found.worst_rhat.tolist(),
        "acceptance": float(found.acceptance.mean()),
        "cpu_seconds": seconds,
        "ess_per_second": float(ess.sum()) / seconds,
    }


def compute(case: Case, rows: Rows) -> None:
    """All points and starts of a case; those that are there are not computed again."""
    G, x = generator(case.model), digits(case.images)
    for point in case.points:
        for start in STARTS:
            if (*point, start) in rows or (start == "posterior" and not G.has_encoder):
                continue
            rows.add(run(case, point, start, G, x))
            print(" | ".join(cells(rows[-1])), flush=True)


def cells(row: dict) -> list[str]:
    """A line of the table; errors in thousandths."""
    size = f"σ = {row['sigma']}" if row["task"] == "denoising" else f"m = {row['size']}"
    mse, rhat = torch.tensor(row["mse"], dtype=torch.float64), torch.tensor(row["worst_rhat"])
    return [
        *(row["model"], str(row["budget"]), f"{row['task']}, {size}", LABELS[row["start"]]),
        plus_minus(1000 * mse),
        f"{sum(row['worst_ess']) / len(row['worst_ess']):.0f}",
        f"{row['ess_per_second']:.0f}",
        f"{100 * (rhat < 1.1).double().mean():.0f} %",
        *(str(row["spent"]), str(row["evaluations"])),
    ]


def table(rows: Sequence[dict]) -> str:
    """All lines."""
    head = (
        "model,evaluations allowed,data,start,10³ MSE,ESS,ESS per second (all images),R-hat < 1.1,search,used"
    )
    return markdown(head.split(","), map(cells, rows)) + "\n"


def draw(rows: Sequence[dict], path: Path) -> None:
    """Errors and effective samples per second against the number of measurements and the noise."""
    from matplotlib.ticker import FixedLocator, NullFormatter, ScalarFormatter

    models = list(dict.fromkeys(row["model"] for row in rows))
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    whole = figure(4.2 * len(tasks), 5.4 * len(models))
    grid = whole.subplots(2 * len(models), len(tasks), squeeze=False)
    for k, model in enumerate(models):
        budgets = dict(
            zip(dict.fromkeys(r["budget"] for r in rows if r["model"] == model), ("-", "--"), strict=False)
        )
        for j, task in enumerate(tasks):
            axes = grid[2 * k : 2 * k + 2, j]
            of = [r for r in rows if (r["model"], r["task"]) == (model, task)]
            if not of:
                for ax in axes:
                    ax.set_axis_off()
                continue
            for start, budget in dict.fromkeys((r["start"], r["budget"]) for r in of):
                mine = [r for r in of if (r["start"], r["budget"]) == (start, budget)]
                at = [Point(r["task"], r["size"], r["sigma"]).abscissa for r in mine]
                mse = [mean_and_error(torch.tensor(r["mse"], dtype=torch.float64)) for r in mine]
                style = {"color": COLOURS[start], "marker": "o", "markersize": 3, "linewidth": 1.2}
                style["linestyle"] = budgets[budget]
                style["markerfacecolor"] = "white" if budgets[budget] == "--" else COLOURS[start]
                label = LABELS[start] if budgets[budget] == "-" else None
                axes[0].errorbar(at, *zip(*mse, strict=True), capsize=2, label=label, **style)
                axes[1].plot(at, [r["ess_per_second"] for r in mine], **style)
            ticks = sorted({Point(r["task"], r["size"], r["sigma"]).abscissa for r in of})
            for ax, what in zip(axes, ("MSE of the mean", "ESS per second, all images"), strict=True):
                ax.set_xscale("log")
                ax.set_yscale("log")
                ax.xaxis.set_major_locator(FixedLocator(ticks))
                ax.xaxis.set_major_formatter(ScalarFormatter())
                ax.xaxis.set_minor_formatter(NullFormatter())
                ax.set_title(f"{model}: {task}", fontsize=9)
                ax.set_xlabel("σ" if task == "denoising" else "measurements", fontsize=8)
                ax.set_ylabel(what, fontsize=8)
                ax.tick_params(labelsize=7, which="both")
                ax.grid(alpha=0.25, linewidth=0.5)
        for budget, linestyle in budgets.items():
            label = f"{budget} evaluations a chain"
            grid[2 * k, 0].plot([], [], color="k", linewidth=1, linestyle=linestyle, label=label)
        grid[2 * k, 0].legend(fontsize=7, frameon=False)
    save(whole, path, 75)


@skipped_without_data
def main() -> None:
    case = {"choices": list(CASES), "help": "only this one, to run several at once"}
    options = arguments(__doc__, {"--case": case}, output=True)
    cases = CASES
    if options.quick:
        small = {"images": 4, "chains": 3, "iterations": 10, "draws": 120}
        points = (Point("inpainting", 100), Point("denoising", 784, 0.5))
        cases = {
            "dense": Case("mnist-vae-dense", 60, points, **small),
            "gan": Case("mnist-gan", 60, points[:1], **small),
        }

    def compute_part(part: str, rows: Rows) -> None:
        compute(cases[part], rows)

    key = ("task", "size", "sigma", "start")
    report("sampling_starts", cases, key, compute_part, table, draw, options, only=options.case)


if __name__ == "__main__":
    main()
