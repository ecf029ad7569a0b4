"""Iterations and speed on the problems of Duff, Campbell and Ehrhardt (arXiv:2107.11191).

    python benchmarks/duff_speed.py           # some minutes on 2 cores
    python benchmarks/duff_speed.py --quick   # a few images and iterations, to see that it works

1. Iterations until ‖v_k - v_(k-1)‖² / ‖v_(k-1)‖² < 1e-8 over all blocks, the authors' rule, from one random
   start (theirs) and from the encoder, with their λ and μ: the median over 100 images (they count one image),
   and evaluations of the objective with its gradient (one application of A and one of its adjoint each), rejected
   trials included; a new Gauss-Newton matrix (10 and 8 applications of A, none of the adjoint) is not counted.
2. Inertia: turns, rejected ones included, of `palm`, `ipalm` and `ipalm` with quasi-Newton steps in z (what
   `SparseDeviation` is solved by) until the objective is that of `palm` after 100, 300 and 1000 turns.
3. Table 1a's reconstructions, 100 images with three regularisers and fixed parameters, in batches and one at a
   time (on some of the images), with the convolutional and with the fully connected VAE.
"""

import functools
import time

import torch
from _duff import make
from _study import arguments, interleaved, markdown, skipped_without_data

import genreg
from genreg import solvers
from genreg.solvers import Backtracking

MODEL = {"1a": "mnist-vae", "1b": "shapes-vae"}
PARAMETERS = {  # λ, μ of the authors' public code for the VAE, and their iterations
    "1a": {"Tikhonov": (7.8125, None, 32), "hard": (0.0305, None, 54), "relaxed": (31.25, 0.0305, 325)},
    "1b": {"Tikhonov": (0.195, None, 157), "hard": (0.0244, None, 37), "relaxed": (0.39, 0.625, 255)},
}


class Counter:
    """A callback that notes when every sample's relative change falls below a tolerance."""

    def __init__(self, blocks: dict, tol: float = 1e-8) -> None:
        self.last = {name: v.clone() for name, v in blocks.items()}
        count = len(next(iter(blocks.values())))
        self.tol = tol
        self.moved = torch.zeros(count, dtype=torch.int64)
        self.iterations = torch.full((count,), -1)
        self.trips = torch.full((count,), -1)

    def __call__(self, iterate) -> bool:
        """Look at an iterate; true when all samples are done."""
        at = iterate.samples
        change = sum((v - self.last[k][at]).flatten(1).square().sum(1) for k, v in iterate.blocks.items())
        size = sum(self.last[k][at].flatten(1).square().sum(1) for k in iterate.blocks)
        for name, v in iterate.blocks.items():
            self.last[name][at] = v
        moved = change > 0
        self.moved[at[moved]] += 1
        done = at[moved & (change < self.tol * size) & (self.iterations[at] < 0)]
        self.iterations[done], self.trips[done] = self.moved[done], iterate.iteration
        return bool((self.iterations >= 0).all())


def iterations(name: str, quick: bool) -> None:
    problem = make(name, report=3 if quick else 100)
    A, y = problem.A, problem.y_test
    G = genreg.load_generator(MODEL[name], range=problem.space)
    fidelity = genreg.GaussianFidelity(A, y, problem.noise_std)
    algorithms = {
        "Tikhonov": {"gradient_descent": solvers.gradient_descent},
        "hard": {
            "algorithm 1": functools.partial(solvers.gradient_descent, line_search=Backtracking()),
            "quasi_newton": solvers.quasi_newton,
            "quasi_newton, from the encoder": solvers.quasi_newton,
            "gauss_newton": solvers.gauss_newton,
            "gauss_newton, from the encoder": solvers.gauss_newton,
        },
        "relaxed": {
            "algorithm 2": solvers.alternating_gradient_descent,
            "lbfgs": None,
            "lbfgs, from the encoder": None,
        },
    }  # fmt: skip
    print(f"\n{problem.title}: iterations to a relative change of 1e-8")
    print(markdown(("problem", "solver", "iterations", "evaluations", "paper", "not reached"), ()))
    for kind, (lam, mu, paper) in PARAMETERS[name].items():
        regulariser = {
            "Tikhonov": lambda: genreg.Tikhonov(problem.space),
            "hard": lambda: genreg.HardConstraint(G),
            "relaxed": lambda mu=mu: genreg.RelaxedConstraint(G, mu),
        }[kind]()
        task = regulariser.problem(fidelity, torch.full((len(y),), lam))
        for label, solver in algorithms[kind].items():
            init = "encoder" if "encoder" in label else None if kind == "Tikhonov" else "random"
            start = regulariser.start(fidelity, init, 1, torch.Generator().manual_seed(0))
            counter = Counter(start)
            solver = solver or regulariser.solver
            solver(task, start, max_iter=50 if quick else 5000, tol=0.0, callback=counter, progress=False)
            reached = counter.iterations >= 0
            median, calls = (
                n[reached].median().item() if reached.any() else float("nan")
                for n in (counter.iterations, counter.trips * len(start))
            )
            missing = int((~reached).sum())
            print(f"| {kind} | {label} | {median:.0f} | {calls:.0f} | {paper} | {missing} |", flush=True)


def inertia(name: str, lam: float, mu: float, quick: bool) -> None:
    problem = make(name, report=3 if quick else 20)
    G = genreg.load_generator(MODEL[name], range=problem.space)
    fidelity = genreg.GaussianFidelity(problem.A, problem.y_test, problem.noise_std)
    sparse = genreg.SparseDeviation(G, mu)
    start = sparse.start(fidelity, "encoder", 1, torch.Generator().manual_seed(0))
    task = sparse.problem(fidelity, torch.full((len(problem.y_test),), lam))
    runs = {}
    methods = {"palm": solvers.palm, "ipalm": solvers.ipalm, "ipalm, quasi-Newton in z": sparse.solver}
    turns = (10, 20) if quick else (100, 300, 1000)
    for label, solver in methods.items():
        solution = solver(task, start, max_iter=max(turns) + 1, tol=0.0, progress=False)
        runs[label] = solution.history["value"]
    print(f"\n{problem.title}, sparse deviations: turns to the objective of palm, and the ratio")
    for count in turns:
        target = runs["palm"][min(count, len(runs["palm"]) - 1)] * (1 + 1e-6)
        for label, values in list(runs.items())[1:]:
            reached = values <= target
            first = torch.where(reached.any(0), reached.int().argmax(0), len(values)).double()
            away = int((~reached.any(0)).sum())
            ratio = f"{count / first.mean():.1f} times fewer in all; {away} of {len(first)} end elsewhere"
            print(f"  palm {count}: {label} {first.median():.0f} (median), {ratio}", flush=True)


def throughput(model: str, quick: bool) -> None:
    problem = make("1a", report=3 if quick else 100)
    y, A, singles = problem.y_test, problem.A, 2 if quick else 20
    G = genreg.load_generator(model, range=problem.space)
    regularisers = {
        "hard": (genreg.HardConstraint(G), 2.0),
        "sparse": (genreg.SparseDeviation(G, 2.0 / 32), 32.0),
        "relaxed": (genreg.RelaxedConstraint(G, 2.0 / 100), 100.0),
    }
    options = {"noise_std": problem.noise_std, "progress": False, "max_iter": 20 if quick else 200}

    def batch(kind: str) -> None:
        regulariser, lam = regularisers[kind]
        genreg.reconstruct(A, y, regulariser, lam=lam, **options)

    def single(kind: str) -> None:
        regulariser, lam = regularisers[kind]
        for k in range(0, len(y), max(1, len(y) // singles)):
            genreg.reconstruct(A, y[k], regulariser, lam=lam, **options)

    count = len(range(0, len(y), max(1, len(y) // singles)))
    print(f"\n{problem.title}: {len(y)} reconstructions with {model}")
    total = {"batch": 0.0, "single": 0.0}
    for kind in regularisers:
        functions = {"batch": functools.partial(batch, kind), "single": functools.partial(single, kind)}
        times = interleaved(functions, 1 if quick else 3)
        one = times["single"] / count
        total["batch"] += times["batch"]
        total["single"] += one * len(y)
        print(
            f"  {kind:8s} {times['batch']:6.2f} s in one batch, {one:6.3f} s one at a time: "
            f"{one * len(y) / times['batch']:.1f} times the throughput",
            flush=True,
        )
    print(
        f"  all three: {total['batch']:.1f} s (goal 60), {total['single'] / total['batch']:.1f} times (goal 15)"
    )


@skipped_without_data
def main() -> None:
    parts = ["iterations", "inertia", "throughput"]
    options = arguments(__doc__, {"--part": {"choices": parts, "action": "append"}}, threads=2)
    began = time.perf_counter()
    parts = options.part or parts
    if "iterations" in parts:
        iterations("1a", options.quick)
        iterations("1b", options.quick)
    if "inertia" in parts:
        inertia("1a", 31.25, 0.0625, options.quick)
        inertia("1b", 10.0, 0.05, options.quick)
    if "throughput" in parts:
        for model in ("mnist-vae", "mnist-vae-dense"):
            throughput(model, options.quick)
    print(f"\n{time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
