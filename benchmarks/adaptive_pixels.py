r"""Digits from pixels that are chosen one after another, by the posterior of a generative prior, against random pixels.

    python benchmarks/adaptive_pixels.py           # 25 minutes on one core
    python benchmarks/adaptive_pixels.py --quick   # a few digits and rounds, to see that it works

Nothing is known in the beginning; in each of 20 rounds a policy chooses 10 pixels (of 784) for each of the first 100
digits of MNIST's test set, which are measured with noise of standard deviation 0.1, drawn once. Policies, which see
draws of the posterior of all that was measured before:

* variance: the pixels of the largest posterior variance (Liang 2021, algorithm 2).
* epsilon-greedy: each of them drawn at random instead, with probability 0.5.
* information gain: greedily those that say most together, given the covariance of the draws.
* random: pixels drawn at random.

The priors are mnist-vae-dense and mnist-gan (latent dimension 8). No digit is exactly in the range of a generator: the
likelihood takes a pixel as uncertain by the noise and by the error of the model, σ² + γ², with γ the standard deviation
that the VAE has learnt, and for the GAN the root mean squared error of its projections of held-out digits. All policies
of a model use the same sampler, MALA with half of the turns as warm-up. VAE: 10 chains of 100 turns a round, which
start where they were in the round before. GAN: 4 chains of 40 turns, from modes sought anew in every round; chains that
go on stay in modes that have lost their probability (20 digits, 150 random pixels: an MSE of 0.048 against 0.027).

Errors are those of the posterior mean for the digit without noise, mean ± standard error over the digits. The picture
and the numbers go to docs/adaptive_pixels.png and .json (build/ if quick); what was computed is kept in
build/adaptive_pixels, and computed again with ``--fresh``.

Source: A. M. Liang (2021), Using deep generative priors for inverse problems and Bayesian optimisation, figure 6.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import odl
from _adaptive import Course, adapted, computed, draw_curves, numbers, read, rows_of, table
from _digits import digits, generator
from _study import folder, normal, skipped_without_data, write
from torch import Tensor

import genreg
from genreg import adaptive

POLICIES: dict[str, adaptive.Policy] = {
    "variance": adaptive.Variance(),
    "information gain": adaptive.InformationGain(),
    "epsilon-greedy": adaptive.EpsilonGreedy(0.5),
    "random": adaptive.Random(),
}
NOISE_STD = 0.1
SHOWN = 3  # digits in the picture


@dataclass(frozen=True)
class Effort:
    """Sizes of the experiment."""

    images: int = 100
    rounds: int = 20
    k: int = 10
    chains: int = 10
    steps: int = 100
    restart: str = "last"
    seed: int = 0


MODELS = {"mnist-vae-dense": Effort(), "mnist-gan": Effort(chains=4, steps=40, restart="map")}


def model_error(G: genreg.Generator) -> float:
    """How far a pixel of a digit is from the best that the generator can make."""
    return G.std if G.std is not None else G.card["score"]["range_mse"] ** 0.5


def course(x: Tensor, G: genreg.Generator, policy: adaptive.Policy, effort: Effort) -> Course:
    """Measure pixels of digits ``(B, 28, 28)``."""
    sigma = (NOISE_STD**2 + model_error(G) ** 2) ** 0.5
    problem = adaptive.Candidates(odl.IdentityOperator(G.range), x + NOISE_STD * normal(x.shape, 1), sigma)
    return adapted(problem, policy, effort, G, x, restart=effort.restart, shown=SHOWN)


def pixels(ax: Any, name: str, chosen: Tensor) -> None:
    """Mark the pixels measured."""
    ax.plot(chosen.flatten() % 28, chosen.flatten() // 28, "s", markersize=1.6, color="#E69F00")


@skipped_without_data
def main() -> None:
    only = {"nargs": "+", "choices": list(MODELS), "default": list(MODELS), "help": "only these"}
    options = read(__doc__, list(POLICIES), {"--models": only})
    efforts = {name: MODELS[name] for name in options.models}
    cache = Path("build/adaptive_pixels")
    if options.quick:
        small = {"images": 4, "rounds": 3, "chains": 2, "steps": 10}
        efforts, cache = {name: replace(effort, **small) for name, effort in efforts.items()}, cache / "quick"
    panels: dict[str, dict[str, Course]] = {}
    for name, effort in efforts.items():
        G, x = generator(name), digits(effort.images)
        panels[name] = {}
        for label in options.policies:
            file = cache / f"{name}-{label.replace(' ', '-')}.pt"
            settings = {**asdict(effort), "noise_std": NOISE_STD}

            def make(x: Tensor = x, G: Any = G, label: str = label, effort: Effort = effort) -> Course:
                return course(x, G, POLICIES[label], effort)

            panels[name][label] = computed(make, file, settings, options.fresh or options.quick)
        shown = sorted({max(1, round(share * effort.rounds)) for share in (0.15, 0.25, 0.5, 1.0)})
        print(f"\nMSE × 1000 ± standard error (mean PSNR in dB), {effort.images} digits")
        print(table(name, panels[name], shown, "pixels", effort.k), flush=True)
    if len(options.policies) < len(POLICIES):
        return
    out = folder(options, whole=list(efforts) == list(MODELS))
    first, courses = next(iter(panels.items()))
    pictured = {name: courses[name] for name in ("variance", "information gain", "random")}
    after = sorted({min(2, efforts[first].rounds), min(5, efforts[first].rounds)})
    title = f"{first}: posterior means, and the pixels measured"
    rows = rows_of(digits(SHOWN), pictured, title, SHOWN, after, "pixels", pixels)
    draw_curves(panels, 10, "pixels measured", rows, out / "adaptive_pixels.png")
    record = {name: numbers(efforts[name], courses, ("random",)) for name, courses in panels.items()}
    write(out / "adaptive_pixels.json", record)


if __name__ == "__main__":
    main()
