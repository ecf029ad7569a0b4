"""The Levenberg-Marquardt method against first-order descent, and joint posterior maximisation of many images.

    python benchmarks/jpmap_speed.py                              # more than ten minutes on one core
    python benchmarks/jpmap_speed.py --quick                      # a few images, to see that it works
    python benchmarks/jpmap_speed.py --part many --images 10000   # one part alone

1. Batches of 100 images, min_z ‖A G(z) - y‖² / (2σ²) + ‖z‖² / 2 by `levenberg_marquardt` and by first-order
   methods on the same objective, from the code of a rough reconstruction and from draws of N(0, I): CSGM's Adam (lr
   0.01), `gradient_descent` with the backtracking of Duff et al., algorithm 1, and with its default, spectral
   steps; and by `quasi_newton`. The goals are 10 times fewer steps than first-order descent, and 3 times the speed.
   The images on which both end in the same minimum, to 0.1 % of the objective, are compared. Counted for every
   image are the steps, the evaluations (steps and rejected trials) and the seconds until its objective is within 0.1
   % of the minimum (the larger one of the two). Seconds are those of the batch, until the turn of this image;
   medians over runs that take turns. Given is the median over images of the ratio, the other method over
   Levenberg-Marquardt; "all" is the ratio of the times at which all compared images are there.
2. JPMAP of MNIST test images, compressed sensing, in chunks: time, memory and mean squared error.
"""

import resource
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
from _jpmap import PROBLEMS, Problem, problem
from _study import arguments, plus_minus, skipped_without_data
from torch import Tensor
from tqdm import tqdm

import genreg
from genreg import solvers

LAM = 0.5
TOLERANCE = 1e-3
OTHERS: dict[str, Callable[..., solvers.Solution]] = {
    "Adam": partial(solvers.gradient_descent, updates={"z": solvers.Adam(lr=0.01)}),
    "gradient descent, algorithm 1": partial(solvers.gradient_descent, line_search=solvers.Backtracking()),
    "gradient descent, spectral": solvers.gradient_descent,
    "quasi_newton (BFGS, no first-order method)": solvers.quasi_newton,
}


class Clock:
    """A callback that notes when every sample comes to its target, and ends the run when all have.

    Parameters
    ----------
    z : Tensor
        Starting points, ``(B, n)``.
    target : Tensor
        Objectives to come to, ``(B,)``; infinite for samples that don't count.
    """

    def __init__(self, z: Tensor, target: Tensor) -> None:
        self.last, self.target = z.clone(), target
        self.moves = torch.zeros(len(z), dtype=torch.int64)
        self.steps, self.evaluations = torch.full((len(z),), -1), torch.full((len(z),), -1)
        self.seconds = torch.full((len(z),), torch.nan, dtype=torch.float64)
        self.began = time.perf_counter()

    def __call__(self, iterate: solvers.Iterate) -> bool:
        """Look at an iterate; true when all samples are there."""
        now = time.perf_counter() - self.began
        at, z = iterate.samples, iterate.blocks["z"]
        self.moves[at] += (z != self.last[at]).any(1)
        self.last[at] = z
        there = at[(iterate.value <= self.target[at]) & (self.steps[at] < 0)]
        self.steps[there], self.evaluations[there] = self.moves[there], iterate.iteration
        self.seconds[there] = now
        return bool((self.steps >= 0).all())


def compare(name: str, start: str, *, quick: bool) -> None:
    """Print a table of ratios."""
    p = problem(name, 4 if quick else 100)
    R = genreg.HardConstraint(p.G)
    z = R.initial(p.y, p.A, init=start, seed=0)["z"]
    task = R.problem(genreg.GaussianFidelity(p.A, p.y, p.noise_std), torch.full((len(z),), LAM))

    def newton(callback: Clock | None = None, tol: float = 1e-5) -> solvers.Solution:
        return solvers.levenberg_marquardt(
            p.A, p.y, p.G, noise_std=p.noise_std, lam=LAM, init=z, max_iter=200, tol=tol, callback=callback,
            progress=False,
        )  # fmt: skip

    def other(label: str, callback: Clock | None = None, tol: float = 1e-5) -> solvers.Solution:
        limit = 60 if quick else 2000
        return OTHERS[label](task, {"z": z}, max_iter=limit, tol=tol, callback=callback, progress=False)

    print(f"\n{PROBLEMS[name]}, {len(z)} images, start: {start}")
    ours = newton().value
    for label in OTHERS:
        theirs = other(label).value
        larger, smaller = torch.maximum(ours, theirs), torch.minimum(ours, theirs)
        same = larger <= (1 + TOLERANCE) * smaller
        lower = int(((ours < theirs) & ~same).sum())
        if not same.any():
            print(f"  {label}: no image ends in the same minimum")
            continue
        target = torch.where(same, (1 + TOLERANCE) * larger, torch.inf)
        _report(label, z, target, same, lower, newton, partial(other, label), 1 if quick else 3)


def _report(
    label: str,
    z: Tensor,
    target: Tensor,
    same: Tensor,
    lower: int,
    newton: Callable[..., solvers.Solution],
    other: Callable[..., solvers.Solution],
    repeats: int,
) -> None:
    clocks: tuple[list[Clock], list[Clock]] = ([], [])
    for _ in range(repeats):
        for solve, done in zip((newton, other), clocks, strict=True):
            done.append(Clock(z, target))
            solve(callback=done[-1], tol=1e-5)
    seconds = [torch.stack([c.seconds[same] for c in done]).median(0).values for done in clocks]
    whole = [statistics.median(float(c.seconds[same].max()) for c in done) for done in clocks]
    lm, fo = clocks[0][-1], clocks[1][-1]
    steps = (fo.steps[same] / lm.steps[same].clamp_min(1)).median()
    evaluations = (fo.evaluations[same] / lm.evaluations[same].clamp_min(1)).median()
    print(
        f"  {label}: same minimum for {int(same.sum())} of {len(same)} (of the others Levenberg-Marquardt is lower on "
        f"{lower})\n"
        f"    steps {fo.steps[same].median()} against {lm.steps[same].median()}: {steps:.1f} times; "
        f"evaluations {evaluations:.1f} times\n"
        f"    ms until an image is there {1e3 * seconds[1].median():.0f} against {1e3 * seconds[0].median():.0f}: "
        f"{(seconds[1] / seconds[0]).median():.1f} times; all: {1e3 * whole[1]:.0f} against "
        f"{1e3 * whole[0]:.0f} ms, {whole[1] / whole[0]:.1f} times",
        flush=True,
    )


def many(count: int, chunk: int) -> None:
    """JPMAP of so many images."""
    p: Problem = problem("cs", count)
    total, errors, peaks = 0.0, [], []
    for rows in tqdm(torch.arange(len(p.x)).split(chunk), desc="chunks", leave=False):
        solution = solvers.jpmap(p.A, p.y[rows], p.G, noise_std=p.noise_std, progress=False)
        total += solution.time
        errors.append((solution.image - p.x[rows]).square().mean((1, 2)))
        peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)  # KiB on Linux
    error = torch.cat(errors)
    print(
        f"\n{PROBLEMS['cs']}, JPMAP of {len(p.x)} images, {chunk} at once: {total:.0f} s (goal 300 for 10,000), "
        f"{1e3 * total / len(error):.1f} ms per image; mean squared error "
        f"{plus_minus(error, 4)}, median {error.median():.4f}; peak memory {peaks[0]:.0f} MiB after the "
        f"first chunk, {peaks[-1]:.0f} MiB after the last"
    )


@skipped_without_data
def main() -> None:
    images = {"type": int, "default": 10000, "help": "images of the second part"}
    part = {"choices": ("descent", "many"), "action": "append"}
    options = arguments(__doc__, {"--images": images, "--part": part}, threads=2)
    parts, began = options.part or ("descent", "many"), time.perf_counter()
    if "descent" in parts:
        for name in ("cs", "tomography"):
            for start in ("encoder",) if options.quick else ("encoder", "random"):
                compare(name, start, quick=options.quick)
    if "many" in parts:
        many(20 if options.quick else options.images, 10 if options.quick else 500)
    print(f"\n{time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
