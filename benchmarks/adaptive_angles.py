r"""Tomography of shapes from angles that are chosen three at a time, against equispaced and random ones.

    python benchmarks/adaptive_angles.py           # six minutes on one core
    python benchmarks/adaptive_angles.py --quick   # two images and two rounds, to see that it works

Images of 56 x 56 pixels (`genreg.datasets.shapes`), parallel beam, 60 possible angles in 180° with 80 bins each, white
noise of 10 % of the largest value of the sinograms. The prior is shapes-vae. Nothing is known in the beginning; in each
round three angles are measured of each image. They are

* variance: those whose predicted projections vary most over draws of the posterior, the sum over the bins of an angle.
* information gain: greedily those that say most together, given the covariance of the draws.
* random: drawn at random.
* equispaced: not chosen one after another: after r rounds all 3r angles are equispaced, those of other r are forgotten.

All use the same sampler: 5 chains of 60 turns (MALA), half of them warm-up, from modes of the posterior sought anew in
every round. Errors are those of the posterior mean, mean ± standard error over the images. The picture and the numbers
go to docs/adaptive_angles.png and .json (build/ if quick); what was computed is kept in build/adaptive_angles, and
computed again with ``--fresh``.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import matplotlib
import odl
import torch
from _adaptive import Course, computed, count_stopped, draw_curves, numbers, table
from odl.applications import tomo

import genreg
from genreg import adaptive, sampling
from genreg.operators import ray_transform, to_torch

POLICIES: dict[str, adaptive.Policy | None] = {
    "variance": adaptive.Variance(),
    "information gain": adaptive.InformationGain(),
    "random": adaptive.Random(),
    "equispaced": None,
}
SHOWN = 2  # images in the picture


@dataclass(frozen=True)
class Effort:
    """Sizes of the experiment."""

    images: int = 60
    rounds: int = 6
    k: int = 3
    angles: int = 60
    noise: float = 0.1
    chains: int = 5
    steps: int = 60
    seed: int = 0


class Experiment:
    """Sinograms of shapes, and how to reconstruct them from some angles."""

    def __init__(self, effort: Effort) -> None:
        self.effort = effort
        X = odl.uniform_discr([-1, -1], [1, 1], (56, 56), dtype="float32")
        self.G = genreg.load_generator("shapes-vae", range=X)
        self.x = genreg.datasets.shapes(effort.images, seed=2026)
        self.A = ray_transform(X, tomo.parallel_beam_geometry(X, effort.angles, 80))
        clean = to_torch(self.A)(self.x)
        self.noise_std = effort.noise * float(clean.max())
        noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(1))
        self.y = clean + self.noise_std * noise
        self.problem = adaptive.Candidates(self.A, self.y, self.noise_std, groups=0)
        self.sampler = {
            "kernel": sampling.MALA(),
            "chains": effort.chains,
            "steps": effort.steps,
            "progress": False,
        }

    def course(self, policy: adaptive.Policy | None) -> Course:
        """What a policy chooses; equispaced angles for None."""
        if policy is None:
            return self.equispaced()
        effort = self.effort
        found = adaptive.adaptive_measurements(
            self.problem,
            policy,
            effort.rounds,
            effort.k,
            G=self.G,
            restart="map",
            seed=effort.seed,
            **self.sampler,
        )
        variance = found.std.square().flatten(2).mean(2)
        error = found.error(self.x)
        return Course(found.chosen, error, variance, found.mean[:SHOWN], 0.0, count_stopped(found.status))

    def equispaced(self) -> Course:
        """Sets of 3r equispaced angles, r = 0, 1, ..., none contained in the other."""
        effort, B = self.effort, len(self.x)
        means, variances, stopped = [], [], 0
        for r in range(effort.rounds + 1):
            count = r * effort.k
            angles = (torch.arange(count) * effort.angles / max(count, 1)).round().long().expand(B, -1)
            measured = self.problem.groups.mask(angles).view_as(self.y)
            samples = sampling.sample(
                sampling.LatentPosterior(self.problem.fidelity(self.y, measured), self.G),
                init="map" if r else "prior",
                seed=effort.seed + r,
                **self.sampler,
            )
            means.append(samples.moments[0])
            variances.append(samples.moments[1].square().flatten(1).mean(1))
            stopped += count_stopped(samples.status)
        mean = torch.stack(means, 1)
        error = (mean - self.x[:, None]).square().flatten(2).mean(2)
        chosen = angles.view(B, effort.rounds, effort.k)  # of the last set
        return Course(chosen, error, torch.stack(variances, 1), mean[:SHOWN], 0.0, stopped)


def pictures(experiment: Experiment, courses: dict[str, Course], image: int) -> Callable[[Any], None]:
    """Posterior means of an image after two and four rounds, each with the angles measured until then."""
    rounds, count = experiment.effort.rounds, experiment.effort.angles
    after = sorted({min(2, rounds), min(4, rounds)})

    def draw(figure: Any) -> None:
        axes = figure.subplots(1, 1 + len(courses) * len(after))
        axes[0].imshow(experiment.x[image].T, cmap="gray", vmin=0, vmax=1, origin="lower")
        axes[0].set_title("truth", fontsize=7)
        for ax, (name, r) in zip(axes[1:], ((n, r) for n in courses for r in after), strict=True):
            found, k = courses[name], experiment.effort.k
            ax.imshow(found.mean[image, r].T, cmap="gray", vmin=0, vmax=1, origin="lower")
            ax.set_title(f"{name}\n{k * r} angles", fontsize=6)
            if name == "equispaced":
                angles = torch.arange(k * r) * count / (k * r)
            else:
                angles = found.chosen[image, :r].flatten()
            turn = torch.pi * (angles.float() + 0.5) / count
            towards = torch.stack((-turn.sin(), turn.cos()))  # the direction in which the X-rays run
            for end in (-1, 1):
                x, y = 27.5 + end * torch.stack((22 * towards, 27 * towards)).movedim(1, 0)
                ax.plot(x, y, linewidth=1.0, color="#E69F00")
            ax.set(xlim=(-0.5, 55.5), ylim=(-0.5, 55.5))
        for ax in axes:
            ax.set_axis_off()

    return draw


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true")
    parser.add_argument(
        "--policies", nargs="+", choices=list(POLICIES), default=list(POLICIES), help="only these"
    )
    parser.add_argument("--fresh", action="store_true", help="compute again what is in build/adaptive_angles")
    options = parser.parse_args()
    matplotlib.use("Agg")
    torch.set_num_threads(1)
    effort, folder = Effort(), Path("build/adaptive_angles")
    if options.quick:
        effort, folder = Effort(images=2, rounds=2, angles=12, chains=2, steps=10), folder / "quick"
    experiment = Experiment(effort)
    courses = {}
    for name in options.policies:
        file = folder / f"{name.replace(' ', '-')}.pt"

        def make(name: str = name) -> Course:
            return experiment.course(POLICIES[name])

        courses[name] = computed(make, file, asdict(effort), options.fresh or options.quick)
        print(f"{name}: {courses[name].seconds:.0f} s", flush=True)
    rounds = tuple(range(1, effort.rounds + 1))
    print(f"\nMSE × 1000 ± standard error (mean PSNR in dB), {effort.images} images")
    print(table("shapes", courses, rounds, "angles", effort.k))
    whole = not options.quick and len(courses) == len(POLICIES)
    out = Path("docs") if whole else folder
    rows = [
        (
            "posterior means, and the directions of the rays" if image == 0 else "",
            pictures(experiment, courses, image),
        )
        for image in range(SHOWN)
    ]
    draw_curves({"shapes, 56 x 56": courses}, effort.k, "angles measured", rows, out / "adaptive_angles.png")
    record = {"effort": asdict(effort), "policies": numbers(courses, ("random", "equispaced"))}
    (out / "adaptive_angles.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(f"figure and numbers: {out}/adaptive_angles.png, .json")


if __name__ == "__main__":
    main()
