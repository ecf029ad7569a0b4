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

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import matplotlib
import odl
import torch
from _adaptive import Course, computed, count_stopped, draw_curves, numbers, table
from torch import Tensor

import genreg
from genreg import adaptive, sampling

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
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    sigma = (NOISE_STD**2 + model_error(G) ** 2) ** 0.5
    problem = adaptive.Candidates(odl.IdentityOperator(G.range), x + NOISE_STD * noise, sigma)
    found = adaptive.adaptive_measurements(
        problem,
        policy,
        effort.rounds,
        effort.k,
        G=G,
        kernel=sampling.MALA(),
        chains=effort.chains,
        steps=effort.steps,
        restart=effort.restart,
        seed=effort.seed,
        progress=False,
    )
    variance = found.std.square().flatten(2).mean(2)
    return Course(
        found.chosen, found.error(x), variance, found.mean[:SHOWN], 0.0, count_stopped(found.status)
    )


def pictures(
    x: Tensor, courses: dict[str, Course], image: int, names: tuple[str, ...]
) -> Callable[[Any], None]:
    """Posterior means of a digit after some rounds with the pixels measured, for some policies next to each other."""
    rounds = courses[names[0]].chosen.shape[1]
    after = sorted({min(2, rounds), min(5, rounds)})

    def draw(figure: Any) -> None:
        axes = figure.subplots(1, 1 + len(names) * len(after))
        axes[0].imshow(x[image], cmap="gray", vmin=0, vmax=1)
        axes[0].set_title("truth", fontsize=7)
        for ax, (name, r) in zip(axes[1:], ((n, r) for n in names for r in after), strict=True):
            found = courses[name]
            ax.imshow(found.mean[image, r], cmap="gray", vmin=0, vmax=1)
            seen = found.chosen[image, :r].flatten()
            ax.plot(seen % 28, seen // 28, "s", markersize=1.6, color="#E69F00")
            ax.set_title(f"{name}\n{found.chosen.shape[2] * r} pixels", fontsize=6)
        for ax in axes:
            ax.set_axis_off()

    return draw


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS), help="only these")
    parser.add_argument(
        "--policies", nargs="+", choices=list(POLICIES), default=list(POLICIES), help="only these"
    )
    parser.add_argument("--fresh", action="store_true", help="compute again what is in build/adaptive_pixels")
    options = parser.parse_args()
    matplotlib.use("Agg")
    torch.set_num_threads(1)
    efforts = {name: MODELS[name] for name in options.models}
    folder = Path("build/adaptive_pixels")
    if options.quick:
        efforts = {
            name: replace(effort, images=4, rounds=3, chains=2, steps=10) for name, effort in efforts.items()
        }
        folder = folder / "quick"
    try:
        digits = genreg.datasets.mnist(train=False)[0]
    except FileNotFoundError as error:
        print(f"skipped: {error}")
        return
    X = odl.uniform_discr([0, 0], [1, 1], (28, 28), dtype="float32")
    panels: dict[str, dict[str, Course]] = {}
    for name, effort in efforts.items():
        G, x = genreg.load_generator(name, range=X), digits[: effort.images]
        panels[name] = {}
        for label in options.policies:
            policy = POLICIES[label]
            file = folder / f"{name}-{label.replace(' ', '-')}.pt"
            settings = {**asdict(effort), "noise_std": NOISE_STD}

            def make(x: Tensor = x, G: Any = G, policy: Any = policy, effort: Effort = effort) -> Course:
                return course(x, G, policy, effort)

            panels[name][label] = computed(make, file, settings, options.fresh or options.quick)
        shown = tuple(sorted({max(1, round(share * effort.rounds)) for share in (0.15, 0.25, 0.5, 1.0)}))
        print(f"\nMSE × 1000 ± standard error (mean PSNR in dB), {effort.images} digits")
        print(table(name, panels[name], shown, "pixels", effort.k), flush=True)
    if len(options.policies) < len(POLICIES):
        return
    whole = not options.quick and list(efforts) == list(MODELS)
    out = Path("docs") if whole else folder
    first = panels[next(iter(panels))]
    titles = [
        f"{next(iter(panels))}: posterior means, and the pixels measured",
        *["" for _ in range(SHOWN - 1)],
    ]
    rows = [
        (title, pictures(digits, first, image, ("variance", "information gain", "random")))
        for image, title in enumerate(titles)
    ]
    draw_curves(panels, 10, "pixels measured", rows, out / "adaptive_pixels.png")
    record = {
        name: {"effort": asdict(efforts[name]), "policies": numbers(courses, ("random",))}
        for name, courses in panels.items()
    }
    (out / "adaptive_pixels.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(f"figure and numbers: {out}/adaptive_pixels.png, .json")


if __name__ == "__main__":
    main()
