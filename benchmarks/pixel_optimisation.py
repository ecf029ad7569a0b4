r"""Finding the brightest pixel of a digit by few measurements: upper confidence bound and Thompson sampling.

    python benchmarks/pixel_optimisation.py           # a quarter of an hour on one core
    python benchmarks/pixel_optimisation.py --quick   # a few digits and rounds, to see that it works

The digits of MNIST's test set are lit from one side, of 2 or of 4 (`genreg.datasets.gradient_digits`), and the priors
are VAEs of such digits, gradients-2-vae and gradients-4-vae. Nothing is known in the beginning; in each of 20 rounds a
policy chooses 10 pixels (of 784), which are measured without noise. The likelihood takes them as uncertain by γ, the
decoder's standard deviation of a pixel, as no digit is exactly in the range of a decoder. Policies, which see 200 draws
of the posterior from 10 chains of 100 turns a round (MALA), the first half of them warm-up:

* UCB: the pixels of the largest posterior mean + 50 variance (Liang 2021, algorithm 3).
* Thompson: the brightest pixels of one draw (algorithm 4).
* exploitation: the pixels of the largest posterior mean.
* random: pixels drawn at random.

Given are the simple regret, the true maximum minus the largest value measured so far, as mean ± standard error over the
images; the paired difference from random choice; and how soon the brightest pixel is found (one of them, where several
are equally bright). Source: A. M. Liang, "Using deep generative priors for inverse problems and Bayesian optimisation",
2021, figure 7. The picture and the numbers go to docs/pixel_optimisation.png and .json (build/ if quick).
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import odl
import torch
from _adaptive import count_stopped
from _digits import generator
from _study import (
    arguments,
    figure,
    folder,
    light,
    mean_and_error,
    picture,
    save,
    skipped_without_data,
    write,
)
from torch import Tensor

import genreg
from genreg import adaptive, sampling

POLICIES: dict[str, adaptive.Policy] = {
    "UCB": adaptive.UpperConfidenceBound(weight=50.0),
    "Thompson": adaptive.Thompson(),
    "exploitation": adaptive.UpperConfidenceBound(weight=0.0),
    "random": adaptive.Random(),
}
COLOURS = {"UCB": "#D55E00", "Thompson": "#0072B2", "exploitation": "#009E73", "random": "#555555"}


@dataclass(frozen=True)
class Effort:
    """Sizes of the experiment."""

    images: int = 100
    rounds: int = 20
    k: int = 10
    chains: int = 10
    steps: int = 100
    seed: int = 0


@dataclass(frozen=True)
class Search:
    """What a policy has found.

    Attributes
    ----------
    chosen : Tensor
        Pixels measured, ``(B, rounds, k)``.
    regret : Tensor
        Simple regret after each round, ``(B, rounds)``.
    seconds : float
        Processor time of all images.
    stuck : int
        Chains that diverged or accepted nothing after the warm-up, of all images and rounds.
    """

    chosen: Tensor
    regret: Tensor
    seconds: float
    stuck: int

    @property
    def found(self) -> Tensor:
        """In which round the brightest pixel was measured, from 1, ``(B,)``; infinite where it never was."""
        hit = self.regret <= 0
        first = hit.float().argmax(1) + 1.0
        return torch.where(hit.any(1), first, torch.inf)


def search(x: Tensor, G: genreg.Generator, policy: adaptive.Policy, effort: Effort) -> Search:
    """Look for the brightest pixels of some images ``(B, 28, 28)``."""
    sigma = float(G.model.log_gamma.exp())
    problem = adaptive.Candidates(odl.IdentityOperator(G.range), x, sigma)
    blind = isinstance(policy, adaptive.Random)  # its choices need no posterior
    began = time.process_time()
    result = adaptive.adaptive_measurements(
        problem,
        policy,
        effort.rounds,
        effort.k,
        G=G,
        kernel=sampling.MALA(),
        chains=1 if blind else effort.chains,
        steps=2 if blind else effort.steps,
        seed=effort.seed,
        progress=False,
    )
    regret = x.amax((1, 2))[:, None] - result.best
    return Search(result.chosen, regret, time.process_time() - began, count_stopped(result.status))


def summary(name: str, found: Search, random: Search) -> dict[str, Any]:
    """The numbers of a policy, JSON-able."""
    regret, difference = mean_and_error(found.regret), mean_and_error(found.regret - random.regret)
    rounds = found.regret.shape[1]
    return {
        "policy": name,
        "regret": regret[0].tolist(),
        "regret_error": regret[1].tolist(),
        "minus_random": difference[0].tolist(),
        "minus_random_error": difference[1].tolist(),
        "found": [(found.found <= r + 1).float().mean().item() for r in range(rounds)],
        "median_round": found.found.median().nan_to_num(posinf=-1).item(),
        "found_round": found.found.nan_to_num(posinf=-1).int().tolist(),
        "seconds": found.seconds,
        "stuck_chains": found.stuck,
    }


def report(title: str, rows: list[dict[str, Any]], rounds: int, images: int) -> None:
    """Print the table of a data set."""
    shown = sorted({min(r, rounds) for r in (1, 5, 10, 20)})
    print(
        f"\n{title}, {images} images: simple regret × 1000 ± standard error after round r (found: % of the images)"
    )
    print(f"{'':14}" + "".join(f"{f'r = {r}':>22}" for r in shown) + f"{'median round':>14}{'CPU s':>8}")
    for row in rows:
        cells = "".join(
            f"{1e3 * row['regret'][r - 1]:>9.1f} ± {1e3 * row['regret_error'][r - 1]:<4.1f}"
            f"({100 * row['found'][r - 1]:3.0f})"
            for r in shown
        )
        median = f"{row['median_round']:.0f}" if row["median_round"] > 0 else f"> {rounds}"
        print(f"{row['policy']:14}{cells}{median:>14}{row['seconds']:8.0f}", flush=True)
    for row in rows[:-1]:
        cells = ", ".join(
            f"{1e3 * row['minus_random'][r - 1]:.1f} ± {1e3 * row['minus_random_error'][r - 1]:.1f} (r = {r})"
            for r in shown
        )
        print(f"  {row['policy']} minus random, paired, × 1000: {cells}; stuck chains: {row['stuck_chains']}")


def draw(tables: dict[int, list[dict[str, Any]]], x: Tensor, example: dict[str, Search], file: Path) -> None:
    """Draw regret and share of images found by round, and what every policy measured of one digit."""
    whole = figure(9.6, 8.6)
    top, bottom = whole.subfigures(2, 1, height_ratios=[3, 1.15])
    axes = top.subplots(2, len(tables), sharex=True, squeeze=False)
    for column, (gradients, rows) in enumerate(tables.items()):
        upper, lower = axes[:, column]
        for shift, row in enumerate(rows):
            turns = torch.arange(1, len(row["regret"]) + 1)
            style = {"color": COLOURS[row["policy"]], "marker": "o", "markersize": 3, "linewidth": 1.4}
            upper.errorbar(
                turns + 0.08 * (shift - 1.5),
                row["regret"],
                row["regret_error"],
                label=row["policy"],
                capsize=2,
                elinewidth=0.9,
                **style,
            )
            lower.plot(turns, row["found"], **style)
        upper.set_yscale("log")
        upper.set_title(f"{gradients} gradients", fontsize=10)
        lower.set(xlabel="round, of 10 pixels each", ylim=(-0.02, 1.02))
        for ax in (upper, lower):
            light(ax)
    axes[0, 0].set_ylabel("simple regret, mean ± standard error")
    axes[1, 0].set_ylabel("images whose brightest\npixel has been measured")
    axes[0, 0].legend(fontsize=8, frameon=False)
    brightest = int(x.argmax())
    panels = bottom.subplots(1, len(example) + 1)
    for ax in panels:
        picture(ax, x, "a digit and its brightest pixel" if ax is panels[0] else "")
    for ax, (name, found) in zip(panels[1:], example.items(), strict=True):
        rows, columns = (part.flatten() for part in (found.chosen[0] // 28, found.chosen[0] % 28))
        turn = torch.arange(1, found.chosen.shape[1] + 1).repeat_interleave(found.chosen.shape[2])
        shown = ax.scatter(columns, rows, c=turn, s=6, cmap="plasma_r", vmin=1)
        when = f"round {found.found[0]:.0f}" if found.found[0].isfinite() else "not found"
        ax.set_title(f"{name}: {when}", fontsize=8)
    for ax in panels:
        ax.plot(brightest % 28, brightest // 28, "o", mec="#56B4E9", mfc="none", markersize=9, mew=1.6)
    bottom.colorbar(shown, ax=list(panels), shrink=0.8, label="measured in round")
    save(whole, file, 130)


@skipped_without_data
def main() -> None:
    images = {"type": int, "default": 100, "help": "number of test digits"}
    steps = {"type": int, "default": 100, "help": "turns of every chain in a round"}
    options = arguments(__doc__, {"--images": images, "--steps": steps}, output=True)
    effort = Effort(images=options.images, steps=options.steps)
    if options.quick:
        effort = Effort(images=3, rounds=3, chains=3, steps=6)
    tables: dict[int, list[dict[str, Any]]] = {}
    for gradients in (2, 4):
        x = genreg.datasets.gradient_digits(train=False, gradients=gradients)[0][: effort.images]
        G = generator(f"gradients-{gradients}-vae")
        searches = {name: search(x, G, policy, effort) for name, policy in POLICIES.items()}
        tables[gradients] = [summary(name, found, searches["random"]) for name, found in searches.items()]
        report(f"{gradients} gradients", tables[gradients], effort.rounds, effort.images)
    file = folder(options) / "pixel_optimisation.png"
    draw(tables, x[0], searches, file)
    record = {"effort": asdict(effort), "gradients": {str(n): rows for n, rows in tables.items()}}
    write(file.with_suffix(".json"), record)


if __name__ == "__main__":
    main()
