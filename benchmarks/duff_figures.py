"""Figures 8, 9 and 11 of Duff, Campbell and Ehrhardt (arXiv:2107.11191): one image, all λ and μ.

    python benchmarks/duff_figures.py           # some minutes on 2 cores
    python benchmarks/duff_figures.py --quick   # few parameters, to see that it works

For deconvolution and compressed sensing of a digit and tomography of shapes: discrepancy over Morozov's level
against λ for several μ, PSNR, and the images along λ. The PSNR is the paper's, with the data range 2.

Then PALM in float32 on sparse deviations: of shapes+ (total variation) and of measured data, a limited-angle scan of
the Helsinki Tomography Challenge 2022: the statuses, and the largest rise of the objective in an iteration.
Figures go to build/duff/.
"""

import time
from collections import Counter
from pathlib import Path

import torch
from _duff import PEAK, make
from _study import arguments, save

import genreg
from genreg import solvers
from genreg.datasets import htc2022
from genreg.operators import ray_transform

OUT = Path("build/duff")
MODELS = {"deconvolution": "mnist-vae", "1a": "mnist-vae", "1b": "shapes-vae"}
IMAGE = 8  # of those to report on


def sweeps(name: str, quick: bool) -> None:
    """Draw the sweeps of one problem."""
    problem = make(name, choose=1, report=IMAGE + 1)
    G = genreg.load_generator(MODELS[name], range=problem.space)
    lam = torch.logspace(-2, 3, 3 if quick else 11)
    kinds = {
        "hard": (genreg.HardConstraint(G), {"restarts": 2 if quick else 8}),
        "relaxed": (genreg.RelaxedConstraint(G, 1.0), {"mu": [0.01, 0.1, 1.0]}),
        "sparse": (genreg.SparseDeviation(G, 1.0), {"mu": [0.01, 0.1, 1.0]}),
        "tv": (genreg.TotalVariation(problem.space), {}),
    }
    y, truth = problem.y_test[IMAGE:], problem.test[IMAGE:]
    for kind, (regulariser, options) in kinds.items():
        began = time.perf_counter()
        study = genreg.sweep(
            problem.A, y, regulariser, lam=lam, noise_std=problem.noise_std, reference=truth, data_range=PEAK,
            max_iter=20 if quick else 300, progress=False, **options,
        )  # fmt: skip
        print(f"best PSNR {study.best('psnr')}, {time.perf_counter() - began:.1f} s", flush=True)
        save(study.show(), OUT / f"sweep-{name}-{kind}.png", 110)


def report(label: str, solution: solvers.Solution) -> None:
    """Print how a run ended, and the largest rise of its objective."""
    value = solution.history["value"].double()
    rise = (value.diff(dim=0) / value[1:].abs()).amax()
    counts = Counter(solvers.Status(s).name for s in solution.status.flatten().tolist())
    calls = solution.operator_calls.double().mean()
    print(
        f"{label}: {dict(counts)}, {solution.iterations.double().mean():.0f} iterations, {calls:.0f} evaluations, "
        f"largest relative rise {rise:.1e} (float32 rounds at 6.0e-08)",
        flush=True,
    )


def descend(label: str, problem: solvers.Objective, start: dict, max_iter: int) -> None:
    """PALM, without and with inertia."""
    for name, solver in (("palm", solvers.palm), ("ipalm", solvers.ipalm)):
        report(f"{label}, {name}", solver(problem, start, max_iter=max_iter, progress=False))


def shapes_plus(quick: bool) -> None:
    problem = make("5.3", choose=1, report=2 if quick else 20)
    G = genreg.load_generator("shapes-vae", range=problem.space)
    fidelity = genreg.GaussianFidelity(problem.A, problem.y_test, problem.noise_std)
    R = genreg.SparseDeviation(G, 0.02, sparsity="tv")
    start = R.start(fidelity, None, 1, torch.Generator().manual_seed(0))
    task = R.problem(fidelity, torch.full((len(problem.y_test),), 10.0))
    descend("shapes+, sparse TV", task, start, 20 if quick else 500)


def discs(quick: bool) -> None:
    data = htc2022("ta").subset(0.0, 60.0, step=1.0)
    rim = data.fit_rim()
    data = data.aligned(rim).resized(64).binned(4)
    A = ray_transform(data.space, data.geometry)
    G = genreg.load_generator("disc-vae", range=data.space)
    fidelity = genreg.GaussianFidelity(A, data.path_length(rim.gain)[None].contiguous(), 0.5)
    R = genreg.SparseDeviation(G, 0.05)
    start = R.start(fidelity, "encoder", 1, torch.Generator().manual_seed(0))
    task = R.problem(fidelity, torch.tensor([40.0]))
    descend("HTC2022 ta, 60 degrees, sparse deviation", task, start, 20 if quick else 1000)


def main() -> None:
    quick = arguments(__doc__, threads=2).quick
    parts = {name: lambda name=name: sweeps(name, quick) for name in MODELS if not quick or name != "1a"}
    parts |= {"shapes+": lambda: shapes_plus(quick), "HTC2022": lambda: discs(quick)}
    for name, run in parts.items():
        try:
            run()
        except FileNotFoundError as error:
            print(f"{name} skipped: {error}")


if __name__ == "__main__":
    main()
