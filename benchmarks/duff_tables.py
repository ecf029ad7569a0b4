"""Tables 1a, 1b and 5.3 of Duff, Campbell and Ehrhardt (arXiv:2107.11191), and deconvolution: regularisers, models, TV.

    python benchmarks/duff_tables.py              # all four: 45 minutes on one core
    python benchmarks/duff_tables.py --table 1a   # one of them
    python benchmarks/duff_tables.py --quick      # a few images and parameters, to see that it works

Parameters are those of the best mean PSNR on 20 images; the table is of 100 others. Every hard constraint
starts from the encoder and 7 random z (a GAN, which has no encoder, from 32), the lowest objective wins; the
sparse and the relaxed problems start from its solution. "One random start" is the hard constraint as in the
authors' code: one z ~ N(0, I), 200 iterations of algorithm 1. PSNR is the paper's, with the data range 2
(see `_duff.py`); subtract 6.02 dB for the range 1.

The results go to build/duff/: tables (Markdown), and strips of images from worst to best (figures 10, 12, 13).
"""

import functools
import time
from pathlib import Path

import torch
from _duff import PEAK, Problem, make
from _study import arguments, markdown, plus_minus, save, write

import genreg
from genreg import evaluation, solvers
from genreg.plotting import image_grid

OUT = Path("build/duff")

MODELS = {
    "1a": ("mnist-vae", "mnist-ae", "mnist-gan"),
    "1b": ("shapes-vae", "shapes-ae", "shapes-gan"),
    "5.3": ("shapes-vae",),
    "deconvolution": ("mnist-vae", "mnist-ae", "mnist-gan"),
}
PAPER = {
    "1a": {
        "VAE hard": 22.33, "AE hard": 21.84, "GAN hard": 16.93,
        "VAE sparse": 21.08, "AE sparse": 19.52, "GAN sparse": 17.06,
        "VAE relaxed": 20.07, "AE relaxed": 19.31, "GAN relaxed": 17.12, "TV": 21.54,
    },
    "1b": {
        "VAE hard": 32.92, "AE hard": 33.17, "GAN hard": 22.92,
        "VAE sparse": 33.09, "AE sparse": 33.12, "GAN sparse": 22.72,
        "VAE relaxed": 28.79, "AE relaxed": 30.70, "GAN relaxed": 24.20, "TV": 29.94,
    },
    "5.3": {"VAE sparse TV": 32.83, "TV": 32.01},
    "deconvolution": {},
}  # fmt: skip


class Table:
    """Rows of one table, and the images of every row."""

    def __init__(self, problem: Problem, *, quick: bool) -> None:
        self.problem, self.quick = problem, quick
        self.rows: dict[str, dict] = {}
        self.images: dict[str, torch.Tensor] = {}
        self.common = {"noise_std": problem.noise_std, "progress": False}

    def grid(self, low: float, high: float, count: int) -> torch.Tensor:
        """Values from 10^low to 10^high."""
        return torch.logspace(low, high, 2 if self.quick else count)

    def sweep(self, regulariser, **options):
        """Choose λ (and μ) by the mean PSNR of the images to choose with."""
        p = self.problem
        study = genreg.sweep(
            p.A, p.y_train, regulariser, reference=p.train, data_range=PEAK, keep_images=False,
            batch_size=600, **self.common, **options,
        )  # fmt: skip
        return study.best("psnr")

    def report(self, name: str, regulariser, lam: float, **options) -> genreg.Reconstruction:
        """Reconstruct the test images and add a row."""
        p = self.problem
        began = time.perf_counter()
        rec = genreg.reconstruct(p.A, p.y_test, regulariser, lam=lam, **self.common, **options)
        seconds = time.perf_counter() - began
        score = evaluation.psnr(rec.image, p.test, data_range=PEAK)
        mu = regulariser.parameters.get("mu")
        self.rows[name] = {
            "psnr": score,
            "ssim": evaluation.ssim(rec.image, p.test, data_range=1.0).mean().item(),
            "lam": lam,
            "mu": mu,
        }
        self.images[name] = rec.image
        print(
            f"  {name:24s} {score.mean():6.2f} ± {score.std():5.2f} dB, min {score.min():5.2f}, λ {lam:.3g}"
            + ("" if mu is None else f", μ {mu:.3g}")
            + f", {seconds:.1f} s, {time.perf_counter() - began:.1f} s",
            flush=True,
        )
        return rec

    def generative(self, model: str, *, kinds: tuple[str, ...]) -> None:
        """Hard, sparse and relaxed constraint of one model."""
        p, G = self.problem, genreg.load_generator(model, range=self.problem.space)
        label = model.split("-")[1].upper()
        hard = genreg.HardConstraint(G)
        count = 2 if self.quick else 8 if G.has_encoder else 32
        starts = {"restarts": count, "max_iter": 200, "tol": 1e-4}
        lam = self.sweep(hard, lam=self.grid(-1.5, 1, 6), **starts).lam
        train = genreg.reconstruct(p.A, p.y_train, hard, lam=lam, **self.common, **starts)
        test = self.report(f"{label} hard", hard, lam, **starts)
        algorithm_1 = functools.partial(solvers.gradient_descent, line_search=solvers.Backtracking())
        once = {"init": "random", "solver": algorithm_1, "max_iter": 200, "tol": 0.0}
        self.report(f"{label} hard, one random start", hard, lam, **once)
        options = {"max_iter": 20 if self.quick else 200, "tol": 1e-4}
        for kind in kinds:
            make_regulariser, block = {
                "sparse": (lambda mu: genreg.SparseDeviation(G, mu), "u"),
                "relaxed": (lambda mu: genreg.RelaxedConstraint(G, mu), "x"),
                "sparse TV": (lambda mu: genreg.SparseDeviation(G, mu, sparsity="tv"), "u"),
            }[kind]

            def start(rec, block=block):
                return {block: rec.image if block == "x" else torch.zeros_like(rec.image), **rec.blocks}

            best = self.sweep(
                make_regulariser(1.0), lam=self.grid(0, 3, 7), mu=lam * torch.tensor([0.3, 1.0, 3.0]),
                tied=False, init=start(train), **options,
            )  # fmt: skip
            mu = best.mu / best.lam
            self.report(f"{label} {kind}", make_regulariser(mu), best.lam, init=start(test), **options)

    def baselines(self) -> None:
        """TV, without and with bounds, and Tikhonov."""
        X = self.problem.space
        options = {"max_iter": 200 if self.quick else 1000, "tol": 1e-5}
        for name, tv in (
            ("TV", genreg.TotalVariation(X)),
            ("TV in [0, 1]", genreg.TotalVariation(X, lower=0, upper=1)),
        ):
            lam = self.sweep(tv, lam=self.grid(-1, 1.5, 16), **options).lam
            self.report(name, tv, lam, **options)
        tikhonov = genreg.Tikhonov(X)
        lam = self.sweep(tikhonov, lam=self.grid(-2, 2, 16)).lam
        self.report("Tikhonov", tikhonov, lam)

    def markdown(self, paper: dict[str, float]) -> str:
        """Write the table, with the paper's numbers beside ours."""
        head = ("method", "PSNR (range 2), dB", "worst", "SSIM", "paper", "λ", "μ")
        rows = []
        for name, row in self.rows.items():
            theirs = f"{paper[name]:.2f}" if name in paper else ""
            mu = "" if row["mu"] is None else f"{row['mu']:.3g}"
            ours = plus_minus(row["psnr"], spread=True), f"{row['psnr'].min():.2f}", f"{row['ssim']:.3f}"
            rows.append((name, *ours, theirs, f"{row['lam']:.3g}", mu))
        return markdown(head, rows, f"**{self.problem.title}**, {len(self.problem.test)} images") + "\n"

    def strips(self, path: Path, first: str, others: tuple[str, ...]) -> None:
        """Images from the worst to the best of the method `first`, as in figures 10, 12 and 13."""
        order = self.rows[first]["psnr"].argsort()
        count = min(9, len(order))
        chosen = order[torch.linspace(0, len(order) - 1, count).long()]
        rows = {"truth": self.problem.test[chosen]}
        rows |= {name: self.images[name][chosen] for name in (first, *others) if name in self.images}
        peak = float(self.problem.test.max())
        save(image_grid(rows, columns=count, vmax=peak), path, 110)


def main() -> None:
    options = arguments(__doc__, {"--table": {"choices": sorted(MODELS), "action": "append"}}, threads=2)
    for name in options.table or sorted(MODELS):
        try:
            problem = make(name, **({"choose": 2, "report": 3} if options.quick else {}))
        except FileNotFoundError as error:
            print(f"table {name} skipped: {error}")
            continue
        print(f"Table {name}: {problem.title}")
        table = Table(problem, quick=options.quick)
        table.baselines()
        kinds = ("sparse TV", "sparse", "relaxed") if name == "5.3" else ("sparse", "relaxed")
        for model in MODELS[name][:1] if options.quick else MODELS[name]:
            table.generative(model, kinds=kinds)
        text = table.markdown(PAPER[name])
        write(OUT / f"table-{name}.md", text)
        print(text)
        others = ("VAE sparse TV", "VAE sparse", "VAE relaxed", "TV")
        table.strips(OUT / f"strips-{name}.png", "VAE hard" if name != "5.3" else "VAE sparse TV", others)


if __name__ == "__main__":
    main()
