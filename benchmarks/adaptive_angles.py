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

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import odl
import torch
from _adaptive import Course, adapted, computed, count_stopped, draw_curves, numbers, read, rows_of, table
from _study import folder, normal, write
from odl.applications import tomo
from torch import Tensor

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
        self.y = clean + self.noise_std * normal(clean.shape, 1)
        self.problem = adaptive.Candidates(self.A, self.y, self.noise_std, groups=0)

    def course(self, policy: adaptive.Policy | None) -> Course:
        """What a policy chooses; equispaced angles for None."""
        if policy is None:
            return self.equispaced()
        return adapted(self.problem, policy, self.effort, self.G, self.x, restart="map", shown=SHOWN)

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
                kernel=sampling.MALA(),
                chains=effort.chains,
                steps=effort.steps,
                progress=False,
            )
            means.append(samples.moments[0])
            variances.append(samples.moments[1].square().flatten(1).mean(1))
            stopped += count_stopped(samples.status)
        mean = torch.stack(means, 1)
        error = (mean - self.x[:, None]).square().flatten(2).mean(2)
        chosen = angles.view(B, effort.rounds, effort.k)  # of the last set
        return Course(chosen, error, torch.stack(variances, 1), mean[:SHOWN], stopped)


def main() -> None:
    options = read(__doc__, list(POLICIES))
    effort, cache = Effort(), Path("build/adaptive_angles")
    if options.quick:
        effort, cache = Effort(images=2, rounds=2, angles=12, chains=2, steps=10), cache / "quick"
    experiment = Experiment(effort)
    courses = {}
    for name in options.policies:
        file = cache / f"{name.replace(' ', '-')}.pt"
        fresh = options.fresh or options.quick
        courses[name] = computed(
            lambda name=name: experiment.course(POLICIES[name]), file, asdict(effort), fresh
        )
        print(f"{name}: {courses[name].seconds:.0f} s", flush=True)
    print(f"\nMSE × 1000 ± standard error (mean PSNR in dB), {effort.images} images")
    print(table("shapes", courses, range(1, effort.rounds + 1), "angles", effort.k))

    def directions(ax: Any, name: str, chosen: Tensor) -> None:
        count = chosen.numel()
        angles = torch.arange(count) * effort.angles / count if name == "equispaced" else chosen.flatten()
        turn = torch.pi * (angles.float() + 0.5) / effort.angles
        towards = torch.stack((-turn.sin(), turn.cos()))  # the direction in which the X-rays run
        for end in (-1, 1):
            x, y = 27.5 + end * torch.stack((22 * towards, 27 * towards)).movedim(1, 0)
            ax.plot(x, y, linewidth=1.0, color="#E69F00")
        ax.set(xlim=(-0.5, 55.5), ylim=(-0.5, 55.5))

    after = sorted({min(2, effort.rounds), min(4, effort.rounds)})
    title = "posterior means, and the directions of the rays"
    turned = {name: replace(course, mean=course.mean.mT) for name, course in courses.items()}
    rows = rows_of(experiment.x.mT, turned, title, SHOWN, after, "angles", directions, origin="lower")
    out = folder(options, whole=len(courses) == len(POLICIES))
    draw_curves({"shapes, 56 x 56": courses}, effort.k, "angles measured", rows, out / "adaptive_angles.png")
    write(out / "adaptive_angles.json", numbers(effort, courses, ("random", "equispaced")))


if __name__ == "__main__":
    main()
