r"""Coverage of posterior intervals in compressed sensing: whether they hold the truth as often as they say.

    python benchmarks/posterior_coverage.py           # some quarter of an hour on one core
    python benchmarks/posterior_coverage.py --quick   # four images, to see that it works

Data are y = A x + noise of standard deviation σ, with m random measurements of 28 x 28 pixels. The chains of
`sampling.sample`, 10 for each of 100 images, draw z from exp(-‖A G(z) - y‖² / (2σ²) - ‖z‖² / 2). They start at
`sampling.screened_starts`.

Well specified: x = G(z) with z ~ N(0, I), so that intervals of the draws G(z) hold x in 50, 80 and 95 % of the cases if
the sampler is right. Digits: x is an image of MNIST's test set, which is not in the range of G, while the posterior
says that it is. Intervals are then those of

* G(z): the draws themselves;
* G(z) + γ ε: the same with white noise of the standard deviation γ that the decoder has learnt;
* x given y: the posterior of the model x = G(z) + γ ε, for which y given z is Gaussian with the covariance
  σ² I + γ² A Aᵀ, and x given z and y is Gaussian as well. Both are sampled exactly.

Coverage is counted by ranks of the truth among the draws, `evaluation.coverage`. Pixels that are the same in all images
of a generator have intervals without a meaning, so that only those count where the posterior standard deviation of G(z)
is above 0.01: a set that depends on the data alone, which leaves the coverage of a right posterior as it is. The share
of the pixels that count is in the table. In latent space, where z is known, all components count, and their ranks are
the histograms of simulation-based calibration: flat if the posterior is right, with high ends if it is too narrow.

Errors are standard errors over the images. The table goes to docs/posterior_coverage.md, the numbers to
docs/posterior_coverage.json, the figure to docs/posterior_coverage.png (build/ if quick); what has been computed is
kept in build/posterior_coverage/ and not computed again.

References
----------
S. Talts, M. Betancourt, D. Simpson, A. Vehtari, A. Gelman (2018), Validating Bayesian inference algorithms with
simulation-based calibration, arXiv:1804.06788.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from _coverage import CURVE, LEVELS
from _coverage_figure import BINS, draw
from _digits import Problem, digits, generator, measure, of_generator, posterior
from _study import Rows, arguments, markdown, report, skipped_without_data
from torch import Tensor

import genreg
from genreg.evaluation import Coverage, coverage, rank_transform
from genreg.operators.measurements.forward import GaussianMeasurements
from genreg.sampling import MALA, Samples, diagnose, sample, screened_starts

FLOOR = 0.01


class Effort(NamedTuple):
    """What is spent on a setting."""

    images: int = 100
    chains: int = 10
    steps: int = 500
    burn_in: int = 200
    screened: int = 10000


EFFORT = {"mnist-vae-dense": Effort(), "mnist-gan": Effort(steps=300, burn_in=130)}


class Setting(NamedTuple):
    """Number of measurements and noise."""

    m: int
    sigma: float

    def __str__(self) -> str:
        return f"m = {self.m}, σ = {self.sigma}"


CASES = {
    "mnist-vae-dense": (Setting(10, 0.3), Setting(25, 0.1), Setting(25, 0.5), Setting(100, 0.1)),
    "mnist-gan": (Setting(25, 0.5), Setting(100, 0.1)),
}


class Row(NamedTuple):
    """One posterior for one setting."""

    model: str
    setting: Setting
    truth: str
    draws: str
    pixels: Coverage
    latent: Coverage | None
    ranks: Tensor | None
    mse: Tensor
    rhat: Tensor
    ess: Tensor
    seconds: float


def chains(problem: Problem, G: genreg.Generator, effort: Effort) -> Samples:
    """Draws of the latent posterior of all images."""
    target = posterior(problem, G)
    init, _ = screened_starts(target, effort.chains, draws=effort.screened)
    turns = {"steps": effort.steps, "burn_in": effort.burn_in}
    return sample(target, MALA(), chains=effort.chains, init=init, seed=0, progress=False, **turns)


class Marginal:
    """The model x = G(z) + γ ε: data whitened by the covariance that they have given z, and x given z and y."""

    def __init__(self, problem: Problem, gamma: float) -> None:
        M, self.sigma, self.gamma = problem.A.matrix, problem.noise_std, gamma
        self.M, self.y = M, problem.y
        self.covariance = self.sigma**2 * torch.eye(len(M)) + gamma**2 * M @ M.T
        L = torch.linalg.cholesky(self.covariance)
        white = GaussianMeasurements(problem.A.domain, torch.linalg.solve_triangular(L, M, upper=False))
        y = torch.linalg.solve_triangular(L, problem.y.T, upper=False).T
        self.problem = Problem(white, problem.x, y, 1.0)

    def images(self, mean: Tensor, index: int, random: torch.Generator) -> Tensor:
        """Draws of x given z and y, of G(z) for the draws of z of one image, ``(S, n, m)``."""
        x = mean + self.gamma * torch.randn(mean.shape, generator=random)
        predicted = x.flatten(1) @ self.M.T
        r = self.y[index] - predicted - self.sigma * torch.randn(predicted.shape, generator=random)
        correction = torch.linalg.solve(self.covariance, r.T).T @ self.M
        return x + self.gamma**2 * correction.view_as(x)


def assess(
    samples: Samples, problem: Problem, how: str, marginal: Marginal | None = None, z: Tensor | None = None
) -> Row:
    """Compare draws with the truth; `how` says what is added to G(z)."""
    random = torch.Generator().manual_seed(5)
    gamma = samples.posterior.generator.std
    draws = []
    for index in range(len(problem.x)):
        images = samples.images(index)
        if how == "x given y":
            assert marginal is not None
            images = marginal.images(images, index, random)
        elif how == "G(z) + γ ε":
            assert gamma is not None
            images = images + gamma * torch.randn(images.shape, generator=random)
        draws.append(images)
    x = torch.stack(draws, 1)
    latent = samples.z.flatten(0, 1)
    found = diagnose(samples)
    return Row(
        "",
        Setting(0, 0),
        "digits" if z is None else "G(z)",
        how,
        coverage(x, problem.x, CURVE, inside=samples.std > FLOOR),
        None if z is None else coverage(latent, z, CURVE),
        None if z is None else rank_transform(latent, z),
        (x.mean(0) - problem.x).square().flatten(1).mean(1),
        found.worst_rhat,
        found.worst_ess,
        samples.time,
    )


def compute(name: str, settings: Sequence[Setting], effort: Effort, rows: Rows) -> None:
    """All posteriors of a model, one after the other; those that are there are not computed again."""
    G = generator(name)

    def add(row: Row, setting: Setting) -> None:
        rows.add(numbers(row._replace(model=name, setting=setting)))
        print(" | ".join(cells(rows[-1])), flush=True)

    for setting in settings:
        if (*setting, "G(z)", "G(z)") not in rows:
            z, x = of_generator(G, effort.images)
            problem = measure(x, "compressed sensing", *setting)
            add(assess(chains(problem, G, effort), problem, "G(z)", z=z), setting)
        problem = measure(digits(effort.images), "compressed sensing", *setting)
        if (*setting, "digits", "G(z)") not in rows:
            samples = chains(problem, G, effort)
            add(assess(samples, problem, "G(z)"), setting)
            if G.std is not None:
                add(assess(samples, problem, "G(z) + γ ε"), setting)
        if G.std is not None and (*setting, "digits", "x given y") not in rows:
            marginal = Marginal(problem, G.std)
            add(assess(chains(marginal.problem, G, effort), problem, "x given y", marginal), setting)


def numbers(row: Row) -> dict:
    """What JSON takes."""
    held = {"pixels": row.pixels, "latent": row.latent}
    return {
        "model": row.model,
        "m": row.setting.m,
        "sigma": row.setting.sigma,
        "truth": row.truth,
        "draws": row.draws,
        "levels": CURVE,
        **{name: c.overall.tolist() for name, c in held.items() if c is not None},
        **{f"{name}_error": c.error.tolist() for name, c in held.items() if c is not None},
        "histogram": None if row.ranks is None else torch.histc(row.ranks, BINS, 0, 1).tolist(),
        "counted": float(row.pixels.count.mean()) / 28**2,
        "mse": row.mse.tolist(),
        "worst_rhat": row.rhat.tolist(),
        "worst_ess": row.ess.tolist(),
        "seconds": row.seconds,
    }


def at(row: dict, kind: str) -> list[str]:
    """Coverage of the three levels in per cent, with its errors."""
    if kind not in row:
        return [""] * len(LEVELS)
    index = [CURVE.index(p) for p in LEVELS]
    return [f"{100 * row[kind][k]:.1f} ± {100 * row[kind + '_error'][k]:.1f}" for k in index]


def cells(row: dict) -> list[str]:
    """A line of the table."""
    rhat, ess, mse = (torch.tensor(row[name]) for name in ("worst_rhat", "worst_ess", "mse"))
    setting = str(Setting(row["m"], row["sigma"]))
    return [
        *(row["model"], setting, row["truth"], row["draws"]),
        *(*at(row, "pixels"), f"{100 * row['counted']:.0f} %", *at(row, "latent")),
        *(
            f"{1000 * mse.mean():.2f}",
            f"{100 * (rhat < 1.1).double().mean():.0f} %",
            f"{ess.nanmedian():.0f}",
        ),
    ]


def table(found: Sequence[dict]) -> str:
    """All lines."""
    levels = [[f"{what}, {100 * p:.0f} %" for p in LEVELS] for what in ("pixels", "z")]
    head = ("model", "data", "truth", "intervals of", *levels[0], "counted", *levels[1])
    return markdown((*head, "10³ MSE", "R-hat < 1.1", "ESS"), map(cells, found)) + "\n"


@skipped_without_data
def main() -> None:
    model = {"choices": list(CASES), "help": "only this model, to run both at once"}
    options = arguments(__doc__, {"--model": model}, output=True)
    cases, efforts = CASES, EFFORT
    if options.quick:
        cases = {"mnist-vae-dense": (Setting(25, 0.5),)}
        efforts = {"mnist-vae-dense": Effort(images=4, chains=3, steps=40, burn_in=20, screened=300)}

    def compute_part(part: str, rows: Rows) -> None:
        compute(part, cases[part], efforts[part], rows)

    key = ("m", "sigma", "truth", "draws")
    report("posterior_coverage", cases, key, compute_part, table, draw, options, only=options.model)


if __name__ == "__main__":
    main()
