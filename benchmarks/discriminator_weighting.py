r"""Posterior sampling with the prior weighted by a discriminator (DDLS, DWLS) against plain posterior sampling.

    python benchmarks/discriminator_weighting.py           # two hours beside other work; goes on where it was stopped
    python benchmarks/discriminator_weighting.py --quick   # a few digits, to see that it works

For a generator G, data y of a digit that no model has seen, and a discriminator with the logit d, chains sample

    E(z) = ‖A G(z) - y‖² / (2σ²) + ½‖z‖² - d(G(z)),

whose prior has the images of the data where exp d is the density ratio of data to images of G. Compared are

* plain: d = 0.
* critic: d is the critic of mnist-gan, as it is: a Wasserstein critic and so no logit, for the VAE that of another
  generator ("without fine-tuning").
* fine-tuned: the critic after 5 steps of gradient descent (1e-3, momentum 0.9) on the cross-entropy between digits and
  images of G.
* trained: a discriminator trained on digits and images of G for 1,500 steps of Adam, for the GAN from its critic.
* smoothed: the same with white noise of standard deviation 0.5 added to digits and images of G, so that there is a
  ratio of densities (VAE only: that of the GAN is calibrated without).
* unadjusted, Tweedie: with the fine-tuned discriminator, Langevin steps without Metropolis' test, and the same with
  every draw denoised, z - h ∇E(z), as in the algorithm of the report. The others are sampled exactly (HMC).
* weighted: the plain chains, with importance weights exp d.

Score: mean squared error × 1000, and SSIM, of the posterior mean and of single draws, over the same 100 digits with
10 chains each. Table and figure show the difference to plain, paired by
digit, ± its standard error (bars: 95 %). It goes to docs/discriminator_weighting.md, .json and .png.

References
----------
T. Che et al. (2020), arXiv:2003.06060 (DDLS).

A. M. Liang (2021), Using deep generative priors for inverse problems and Bayesian optimisation (DWLS).
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from _digits import digits, generator, operator
from _discriminator_report import SHOWN, draw, numbers, table
from _discriminators import Discriminators
from _study import arguments, atomically, folder, normal, skipped_without_data, write
from torch import Tensor

import genreg
from genreg import operators, sampling
from genreg.evaluation import ssim
from genreg.latent import DensityRatio, StandardNormal

METHODS = ("plain", "critic", "fine-tuned", "trained", "smoothed", "unadjusted", "Tweedie")
WEIGHTED = ("weighted, fine-tuned", "weighted, trained", "weighted, smoothed")


@dataclass(frozen=True)
class Problem:
    """What is measured."""

    kind: str
    m: int
    sigma: float

    def __str__(self) -> str:
        of = {"inpainting": f"{self.m} pixels", "compressed sensing": f"m = {self.m}", "denoising": ""}[
            self.kind
        ]
        return f"{self.kind}, {of}, σ = {self.sigma}".replace(", ,", ",")

    def data(self, x: Tensor) -> tuple[Any, Tensor]:
        """A and y for images x; pixels and matrix are drawn with a fixed seed."""
        A = operator(self.kind, self.m, matrix_seed=0, pixel_seed=0)
        Ax = operators.to_torch(A)(x)
        return A, Ax + self.sigma * normal(Ax.shape, 1)


PROBLEMS = (
    Problem("inpainting", 30, 0.1),
    Problem("compressed sensing", 20, 0.3),
    Problem("denoising", 784, 1.0),
    Problem("inpainting", 100, 0.1),
    Problem("compressed sensing", 50, 0.3),
)
MODELS = ("mnist-vae-dense", "mnist-gan")


@dataclass(frozen=True)
class Effort:
    """How much is spent."""

    count: int = 100
    chains: int = 10
    steps: int = 60
    training: int = 1500
    map_iterations: int = 30


def score(samples: sampling.Samples, x: Tensor) -> dict[str, Any]:
    """Scores of every digit, and images of the first ones."""
    mean, std = samples.mean, samples.std
    generator = torch.Generator().manual_seed(2)
    rows, error = [], (mean - x).square()
    for k in range(len(x)):  # ten draws of each: with the probabilities of their weights, if there are any
        z = samples.z[:, :, k].flatten(0, 1)
        w = torch.isfinite(z).all(1).to(z) if samples.weights is None else samples.weights[:, :, k].flatten()
        rows.append(z[torch.multinomial(w, 10, replacement=True, generator=generator)])
    draws = samples.posterior.decode(torch.stack(rows, 1))  # (10, B, n, m)
    of_draws = ssim(draws.flatten(0, 1), x.repeat(10, 1, 1), data_range=1.0).view(10, -1).mean(0)
    return {
        "mean_mse": 1000 * error.flatten(1).mean(1),
        "mean_ssim": ssim(mean, x, data_range=1.0),
        "draw_mse": 1000 * (error + std.square()).flatten(1).mean(1),  # the mean over all draws
        "draw_ssim": of_draws,
        "size": samples.weighted_size / (samples.z.shape[0] * samples.z.shape[1]),
        "rhat": sampling.diagnose(samples).median_rhat,
        "evaluations": float(samples.evaluations.double().mean()),
        "seconds": samples.time,
        "images": mean[:SHOWN],
        "draws": draws[0, :SHOWN],
    }


class Study:
    """All methods for one generator; what has been computed is kept in files."""

    def __init__(self, name: str, effort: Effort, cache: Path) -> None:
        self.name, self.effort, self.cache = name, effort, cache
        self.G, self.x = generator(name), digits(effort.count)
        self.discriminators = Discriminators(name, self.G, effort.training, cache)

    @property
    def kinds(self) -> tuple[str, ...]:
        """The discriminators that are of use for this generator."""
        return ("critic", "fine-tuned", "trained", *(("smoothed",) if self.G.has_encoder else ()))

    def methods(self) -> tuple[str, ...]:
        """All methods, in the order of the tables."""
        return tuple(
            method
            for method in (*METHODS, *WEIGHTED)
            if self.G.has_encoder or not method.endswith("smoothed")
        )

    def file(self, problem: Problem, method: str) -> Path:
        """Where the scores of a method are kept."""
        effort = self.effort
        settings = f"{effort.count}-{effort.chains}-{effort.steps}-{effort.training}"
        label = f"{self.name}-{problem.kind}-{problem.m}-{method}-{settings}".replace(" ", "-").replace(
            ",", ""
        )
        return self.cache / f"{label}.pt"

    def run(self, problem: Problem) -> None:
        """Compute what is not yet in the files."""
        weighted = [method for method in self.methods() if method in WEIGHTED]
        for method in self.methods():
            wanted = (method, *weighted) if method == "plain" else (method,)
            if method in WEIGHTED or all(self.file(problem, m).exists() for m in wanted):
                continue
            samples = self.sample(problem, method)
            self.keep(problem, method, samples)
            if method == "plain":
                for other in weighted:
                    ratio = DensityRatio(self.G, self.discriminators(other.split(", ")[1]))
                    self.keep(problem, other, samples.reweighted(operators.to_torch(-ratio)))

    def keep(self, problem: Problem, method: str, samples: sampling.Samples) -> None:
        """Score draws and write the scores."""
        found = score(samples, self.x)
        with atomically(self.file(problem, method)) as file:
            torch.save(found, file)
        print(
            f"{self.name}, {problem}, {method}: MSE {found['mean_mse'].mean():.2f}, SSIM "
            f"{found['mean_ssim'].mean():.3f}, R-hat {found['rhat'].median():.2f}, {found['seconds']:.0f} s",
            flush=True,
        )

    def sample(self, problem: Problem, method: str) -> sampling.Samples:
        """Draw from the posterior by a method."""
        A, y = problem.data(self.x)
        unadjusted = method in ("unadjusted", "Tweedie")
        kind = "fine-tuned" if unadjusted else method
        latent = None
        if kind != "plain":
            latent = 0.5 * StandardNormal(self.G.domain) + DensityRatio(self.G, self.discriminators(kind))
        fidelity = genreg.GaussianFidelity(A, y, problem.sigma)
        posterior = sampling.LatentPosterior(fidelity, self.G, latent=latent)
        kernel, steps = (sampling.ULA(), 2) if unadjusted else (sampling.HMC(leapfrog=2), 1)
        return sampling.sample(
            posterior,
            kernel,
            chains=self.effort.chains,
            steps=steps * self.effort.steps,
            denoise=method == "Tweedie",
            map_iterations=self.effort.map_iterations,
            seed=0,
            progress=False,
        )

    def found(self, problem: Problem) -> dict[str, dict[str, Any]]:
        """What is in the files, of all methods that are."""
        files = {method: self.file(problem, method) for method in self.methods()}
        return {method: torch.load(file) for method, file in files.items() if file.exists()}


def report(studies: Mapping[str, Study], problems: tuple[Problem, ...], out: Path) -> None:
    """Write table, numbers and figure of all that is in the files."""
    results = {
        name: {p: found for p in problems if "plain" in (found := study.found(p))}
        for name, study in studies.items()
    }
    results = {name: of for name, of in results.items() if of}
    scores = {
        name: {k: studies[name].discriminators.scores(k) for k in studies[name].kinds} for name in results
    }
    text = table(results)
    print(text)
    write(out / "discriminator_weighting.md", text)
    write(out / "discriminator_weighting.json", numbers(results, scores))
    draw(results, next(iter(studies.values())).x, out / "discriminator_weighting.png")


@skipped_without_data
def main() -> None:
    options = arguments(
        __doc__,
        {
            "--models": {"nargs": "+", "choices": MODELS, "default": MODELS},
            "--problems": {
                "nargs": "+", "type": int, "choices": range(len(PROBLEMS)), "help": "only these",
            },
            "--compute": {"action": "store_true", "help": "write the files, but no table and figure"},
        },
        output=True,
    )  # fmt: skip
    effort, problems, cache, models = Effort(), PROBLEMS, Path("build/discriminators"), options.models
    if options.quick:
        effort = Effort(count=4, chains=2, steps=10, training=3, map_iterations=2)
        cache, problems, models = Path("build/discriminators-quick"), PROBLEMS[:1], MODELS[:1]
    if options.problems is not None:
        problems = tuple(PROBLEMS[k] for k in options.problems)
    studies = {name: Study(name, effort, cache) for name in models}
    began = time.perf_counter()
    for problem in problems:
        for study in studies.values():
            study.run(problem)
    print(f"sampling: {time.perf_counter() - began:.0f} s")
    if not options.compute:
        report(studies, problems, folder(options))


if __name__ == "__main__":
    main()
