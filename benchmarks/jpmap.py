"""JPMAP against CSGM, the hard constraint and TV on digits, as in González, Almansa and Tan (arXiv:2103.01648).

    python benchmarks/jpmap.py           # some minutes on 2 cores
    python benchmarks/jpmap.py --quick   # a few images, to see that it works

Compressed sensing, inpainting and denoising of the first 100 MNIST test images with the model mnist-vae-dense, all
images in one batch; the table goes to build/jpmap/, the picture to docs/jpmap.png.

* CSGM (Bora et al., arXiv:1703.03208): min_z ‖A G(z) - y‖² / (2σ²) + ‖z‖² / 2 by Adam (lr 0.01) from z = 0. With ten
  random starts by `quasi_newton`; a line below the table compares its minima with those of Adam.
* JPMAP: `solvers.jpmap` with the learned β, from the code of a rough reconstruction, and from three more, the
  best of 48 random ones; `solvers.jpmap_continuation` until ‖x - G(z)‖² is at most that of α grey levels of 255.
* Levenberg-Marquardt: the objective of CSGM, by `solvers.levenberg_marquardt` from the same start as JPMAP.
* TV in [0, 1], λ by the best PSNR on 20 other images.

Calls are evaluations of the objective with its gradient, the rejected ones included; those inside a proposal and
the Jacobians of Gauss-Newton steps are not. In "PSNR" and "mean", "median" (of the squared error per pixel) grey values
are in [0, 1]. The last columns are of the authors' published code, which takes the images one at a time.

Below: JPMAP's throughput over that of the authors' code, and the share of images on which J(x, z) of JPMAP is, to a
relative 1e-4, at most that of ten CSGM runs from random starts, each with the best x for its z: at most the smallest J,
and at most the J of the run whose own objective is the smallest.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import matplotlib
import torch
from _jpmap import AUTHORS, PROBLEMS, Problem, data_images, problem
from _study import arguments, figure, folder, markdown, save, skipped_without_data, write
from torch import Tensor

import genreg
from genreg import solvers
from genreg.evaluation import psnr
from genreg.plotting import mosaic

GOALS = {"JPMAP": 100, "continuation": 200}
SHOWN = {
    "CSGM": "CSGM",
    "JPMAP": "JPMAP",
    "JPMAP, continuation, α = 1": "JPMAP, continuation",
    "Levenberg-Marquardt": "Levenberg-Marquardt",
    "TV": "TV",
}


@dataclass(frozen=True)
class Row:
    """Results of one method."""

    image: Tensor
    solution: solvers.Solution
    seconds: float


@dataclass(frozen=True)
class Sizes:
    """What is computed."""

    images: int = 100
    restarts: int = 10
    adam: int = 5000
    repeats: int = 3
    alphas: tuple[int, ...] = (1, 5, 10)
    lams: Tensor = field(default_factory=lambda: torch.logspace(0, 4, 17))
    tv: dict[str, float] = field(default_factory=lambda: {"max_iter": 1000, "tol": 1e-4})


QUICK = Sizes(3, 2, adam=20, repeats=1, alphas=(1,), lams=torch.tensor([100.0]), tv={"max_iter": 20})


class Comparison:
    """The rows of one problem."""

    def __init__(self, name: str, sizes: Sizes) -> None:
        self.name, self.sizes = name, sizes
        self.problem: Problem = problem(name, sizes.images)
        self.R = genreg.HardConstraint(self.problem.G)
        self.rows: dict[str, Row] = {}
        self.options = {"noise_std": self.problem.noise_std, "progress": False}

    def add(self, label: str, solve: Callable[[], tuple[Tensor, solvers.Solution]]) -> solvers.Solution:
        """Run a method, several times if it is quick, and add the row with its median time."""
        seconds: list[float] = []
        while not seconds or (len(seconds) < self.sizes.repeats and sum(seconds) < 10):
            began = time.perf_counter()
            image, solution = solve()
            seconds.append(time.perf_counter() - began)
        self.rows[label] = Row(image, solution, statistics.median(seconds))
        return solution

    def csgm(
        self, solver: Callable[..., solvers.Solution], init: str, restarts: int, images: int | None = None
    ):
        """Solve CSGM's problem for the first images, the runs of an image next to each other."""
        p, R = self.problem, self.R
        fidelity = genreg.GaussianFidelity(p.A, p.y[:images], p.noise_std)
        rows = torch.arange(len(fidelity.data)).repeat_interleave(restarts)
        start = R.start(fidelity, init, restarts, torch.Generator().manual_seed(0))
        task = R.problem(fidelity, torch.full((len(fidelity.data),), 0.5)).take(rows)
        return solver(task, start, progress=False)

    def with_image(self, solution: solvers.Solution) -> tuple[Tensor, solvers.Solution]:
        """A solution of the hard constraint with its image."""
        with torch.no_grad():
            return genreg.to_torch(self.problem.G)(solution.blocks["z"]), solution

    def run(self) -> None:
        """Add all rows."""
        p, sizes, options = self.problem, self.sizes, self.options
        adam = partial(
            solvers.gradient_descent, updates={"z": solvers.Adam(lr=0.01)}, max_iter=sizes.adam, tol=1e-3
        )
        newton = partial(solvers.quasi_newton, max_iter=500)
        self.add("CSGM", lambda: self.with_image(self.csgm(adam, "zero", 1)))
        many = f"CSGM, {sizes.restarts} starts"
        self.add(
            many, lambda: self.with_image(self.csgm(newton, "random", sizes.restarts).best(sizes.restarts))
        )

        def joint(solve: Callable[..., solvers.Solution], **more: float) -> tuple[Tensor, solvers.Solution]:
            solution = solve(p.A, p.y, p.G, **options, **more)
            return solution.image, solution

        self.add("JPMAP", partial(joint, solvers.jpmap))
        self.add("JPMAP, 4 starts", partial(joint, solvers.jpmap, restarts=4))
        for alpha in sizes.alphas:
            epsilon = (alpha / 255) ** 2 * p.A.domain.size
            self.add(
                f"JPMAP, continuation, α = {alpha}",
                partial(joint, solvers.jpmap_continuation, epsilon=epsilon),
            )
        self.add("Levenberg-Marquardt", partial(joint, solvers.levenberg_marquardt, lam=0.5))
        self.total_variation()
        self.newton, self.adam = newton, adam

    def total_variation(self) -> None:
        """TV, with λ chosen on other images."""
        p, options = self.problem, self.options
        other = problem(self.name, 2 if self.sizes is QUICK else 20, first=1000)
        tv = genreg.TotalVariation(p.A.domain, lower=0, upper=1)
        more = self.sizes.tv
        study = genreg.sweep(
            other.A, other.y, tv, lam=self.sizes.lams, reference=other.x, data_range=1.0, keep_images=False,
            **options, **more,
        )  # fmt: skip
        self.lam = study.best("psnr").lam
        fidelity = genreg.GaussianFidelity(p.A, p.y, p.noise_std)
        lam = torch.full((len(p.y),), self.lam)

        def solve() -> tuple[Tensor, solvers.Solution]:
            start = tv.start(fidelity, None, 1, torch.Generator())
            solution = tv.solver(tv.problem(fidelity, lam), start, progress=False, **more)
            return next(iter(solution.blocks.values())), solution

        self.add("TV", solve)

    def markdown(self) -> str:
        """Write the table."""
        title = f"**{PROBLEMS[self.name]}**, {self.sizes.images} images"
        head = "method|mean|median|PSNR, dB|ms per image|calls|iterations|authors: mean|ms"
        theirs = {"CSGM": "CSGM", "JPMAP": "JPMAP", "JPMAP, continuation, α = 1": "continuation"}
        rows = []
        for label, row in self.rows.items():
            error, solution = self.error(label), row.solution
            known = AUTHORS[self.name].get(theirs.get(label, ""))
            score = psnr(row.image, self.problem.x, data_range=1.0).mean()
            cells = (label, f"{error.mean():.4f}", f"{error.median():.4f}", f"{score:.2f}")
            cells += (
                f"{1e3 * row.seconds / len(error):.1f}",
                f"{solution.operator_calls.double().mean():.0f}",
            )
            cells += (f"{solution.iterations.double().median():.0f}",)
            rows.append((*cells, *((f"{known[0]:.4f}", f"{1e3 * known[1]:.0f}") if known else ("", ""))))
        return markdown(head.split("|"), rows, title)

    def error(self, label: str) -> Tensor:
        """Mean squared error of every image."""
        return (self.rows[label].image - self.problem.x).square().mean((1, 2))

    def same_minima(self) -> str:
        """CSGM's minima by `quasi_newton` and by Adam from the same starts, on a few images."""
        few, restarts = min(10, self.sizes.images), self.sizes.restarts
        value = [self.csgm(s, "random", restarts, few).best(restarts).value for s in (self.newton, self.adam)]
        same = ((value[0] - value[1]).abs() <= 1e-3 * value[1]).sum()
        return (
            f"best of {restarts} starts of CSGM on {few} images: mean objective {value[0].mean():.2f} by quasi_newton, "
            f"{value[1].mean():.2f} by Adam, equal to 0.1 % on {same}; TV: λ = {self.lam:.3g}"
        )

    def throughput(self) -> str:
        """How much faster than the authors' code."""
        rows = {
            "JPMAP": "JPMAP",
            "JPMAP, 4 starts": "JPMAP",
            "JPMAP, continuation, α = 1": "continuation",
        }
        parts = []
        for label, kind in rows.items():
            if kind in AUTHORS[self.name]:
                mse, seconds = AUTHORS[self.name][kind]
                ratio = seconds * self.sizes.images / self.rows[label].seconds
                better = "≤" if round(float(self.error(label).mean()), 4) <= mse else ">"
                parts.append(f"{label} {ratio:.0f} times (goal {GOALS[kind]}) with an error {better} theirs")
        return "throughput: " + "; ".join(parts)

    def joint_objective(self) -> str:
        """On how many images JPMAP's J is the smallest."""
        p, restarts = self.problem, self.sizes.restarts
        runs = self.csgm(self.newton, "random", restarts)
        numbers = {"inverse_variance": p.noise_std**-2, "beta": p.G.std**-2, "weight": 1.0}
        per_sample = {key: torch.full((len(p.y),), value) for key, value in numbers.items()}
        rows = torch.arange(len(p.y)).repeat_interleave(restarts)
        profile = solvers.JointProblem.of(p.A, p.G, y=p.y, **per_sample).take(rows).profile()
        J = profile({"z": runs.blocks["z"]}).view(-1, restarts)
        smallest = J.amin(1)
        likeliest = J.gather(1, runs.value.view(-1, restarts).argmin(1, keepdim=True))[:, 0]

        def share(label: str, best: Tensor) -> str:
            value = self.rows[label].solution.value
            return f"{100 * (value <= (1 + 1e-4) * best).double().mean():.0f} %"

        one, four = "JPMAP", "JPMAP, 4 starts"
        return (
            f"J at most the smallest of {restarts} CSGM runs: JPMAP {share(one, smallest)} (goal 90 %), with 4 starts "
            f"{share(four, smallest)}; at most that of the run with the smallest objective of CSGM: "
            f"{share(one, likeliest)}, {share(four, likeliest)}"
        )


def draw(comparisons: list[Comparison], path: Path, columns: int = 8) -> None:
    """Draw the reconstructions, one panel for every problem."""
    whole = figure(4.5 * len(comparisons) + 1.0, 4.0)
    panels = whole.subplots(1, len(comparisons), squeeze=False)[0]
    cmap = matplotlib.colormaps["gray"].with_extremes(bad="white")
    for panel, one in zip(panels, comparisons, strict=True):
        rows = {"truth": one.problem.x, "data": data_images(one.problem)}
        rows |= {name: one.rows[label].image for label, name in SHOWN.items()}
        tiles = torch.stack([image[:columns] for image in rows.values()])
        panel.imshow(mosaic(tiles), cmap=cmap, vmin=0, vmax=1, interpolation="nearest")
        at = 30 * torch.arange(len(rows)) + 13.5
        panel.set(xticks=[], title=PROBLEMS[one.name])
        panel.title.set_fontsize(9)
        panel.set_yticks(at, list(rows) if panel is panels[0] else [], fontsize=9)
        panel.tick_params(length=0)
        panel.spines[:].set_visible(False)
        errors = ["error"] + [""] + [f"{1e3 * one.error(label).mean():.1f}" for label in SHOWN]
        for y, text in zip(at, errors, strict=True):
            panel.text(30 * columns + 1, y, text, fontsize=8, va="center")
    whole.supxlabel(
        f"error: mean squared error × 1000 of {comparisons[0].sizes.images} images, grey values in [0, 1]",
        fontsize=8,
    )
    save(whole, path, 150)


@skipped_without_data
def main() -> None:
    problems = {"choices": sorted(AUTHORS), "action": "append"}
    options = arguments(__doc__, {"--problem": problems}, threads=2, output=True)
    began = time.perf_counter()
    sizes = QUICK if options.quick else Sizes()
    comparisons = []
    for name in options.problem or AUTHORS:
        one = Comparison(name, sizes)
        solvers.jpmap(one.problem.A, one.problem.y[:2], one.problem.G, max_iter=2, **one.options)  # imports
        one.run()
        text = "\n".join(
            (one.markdown(), "", one.same_minima(), "", one.throughput(), "", one.joint_objective(), "")
        )
        write(Path("build/jpmap") / f"{name}.md", text)
        print(text, flush=True)
        comparisons.append(one)
    draw(comparisons, folder(options, whole=len(comparisons) == len(AUTHORS)) / "jpmap.png")
    print(f"{time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
