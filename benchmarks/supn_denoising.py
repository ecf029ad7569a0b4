r"""Denoising with a structured Gaussian decoder (SUPN) against a denoising autoencoder of the same size.

    python benchmarks/supn_denoising.py           # some three quarters of an hour on one core
    python benchmarks/supn_denoising.py --quick   # a few digits, to see that it works

For y = x + σ ε with white noise ε, images x of MNIST's test set and brain slices of a person whom no model has seen:

* SUPN: min over x and z of ‖x - y‖² / (2σ²) + ½‖x - μ(z)‖²_Λ(z) - ½ log det Λ(z) + ½‖z‖², by `JointPrior`, from
  z = E(y). Given z the image is the mean of p(x | z, y). One model for every σ, trained on images without noise.
* diagonal, isotropic: the same with the diagonal precision of a head of the same size, and with the same mean and one
  standard deviation for all pixels.
* SUPN, marginal and diagonal, marginal: the maximum of p(z | y), and the mean of x given that z. Under much noise the
  joint maximum is at latent vectors of images with small variances, which have high densities but little probability.
* SUPN, mean and diagonal, mean: the mean of draws of p(x, z | y), `sampling.gibbs` from E(y).
* autoencoder: encoder and mean decoder of the same sizes, trained on y -> x for this very σ from the weights of the
  others, by `training.fit(..., input_noise=σ)`.
* TV: total variation, its weight by the best PSNR on training images.

PSNR in dB over the range [0, 1], mean and standard deviation over the images. The authors of SUPN report 28.89 dB for a
denoising autoencoder and 31.38 dB for SUPN on faces. The trained networks are kept in build/denoising/, the picture
goes to docs/supn_denoising.png (build/ if quick).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import odl
import torch
from _study import arguments, folder, normal, plus_minus, save
from torch import Tensor

import genreg
from genreg import datasets, sampling, training, weights
from genreg.evaluation import psnr
from genreg.plotting import image_grid
from genreg.recipes import brain

METHODS = (
    *("noisy", "TV", "autoencoder", "isotropic", "diagonal", "SUPN"),
    *("diagonal, marginal", "SUPN, marginal", "diagonal, mean", "SUPN, mean"),
)


@dataclass(frozen=True)
class Case:
    """Images, models and the effort spent on them."""

    name: str
    sigmas: tuple[float, ...]
    images: Callable[[], tuple[Tensor, Tensor]]  # for training, for the test
    batch: int
    steps: int  # of the trainings
    count: int  # test images
    max_iter: int = 100
    draws: int = 50  # after as many for the burn-in


def _digits() -> tuple[Tensor, Tensor]:
    return datasets.mnist(train=True)[0][:20000], datasets.mnist(train=False)[0]


def _slices() -> tuple[Tensor, Tensor]:
    return brain.training_images()(400, seed=1), brain.test_images()


CASES = (
    Case("mnist", (0.1, 0.25, 0.5), _digits, 64, 1000, 50),
    Case("brain", (0.05, 0.1), _slices, 8, 300, 12, 60),
)


class Denoising:
    """All methods for one kind of image and one σ."""

    def __init__(self, case: Case, sigma: float, cache: Path) -> None:
        self.case, self.sigma = case, sigma
        self.file = cache / f"{case.name}-{sigma}-{case.steps}"
        self.train, test = case.images()
        self.x = test[: case.count]
        self.y = self.x + sigma * normal(self.x.shape, 0)
        shape = tuple(self.x.shape[1:])
        self.space = odl.uniform_discr([0, 0], [1, 1], shape, dtype="float32")

    def __call__(self, method: str) -> Tensor:
        """The denoised images."""
        if method == "noisy":
            return self.y
        if method == "TV":
            return self.total_variation()
        if method == "autoencoder":
            return self.autoencoder()
        kind, _, estimate = method.partition(", ")
        name = {"isotropic": "vae", "diagonal": "diagonal", "SUPN": "supn"}[kind]
        G = genreg.load_generator(f"{self.case.name}-{name}", range=self.space)
        prior = genreg.JointPrior(G, estimate="marginal" if estimate == "marginal" else "joint")
        if estimate != "mean":
            return self.reconstruct(self.y, prior, 1.0, self.case.max_iter)
        fidelity = genreg.GaussianFidelity(odl.IdentityOperator(self.space), self.y, self.sigma)
        turns = {"draws": self.case.draws, "burn_in": self.case.draws}
        return sampling.gibbs(prior, fidelity, G.encode(self.y), **turns, progress=False).mean

    def reconstruct(self, y: Tensor, prior: genreg.Regulariser, lam: float, max_iter: int) -> Tensor:
        """The minimiser with this prior and weight."""
        A = odl.IdentityOperator(self.space)
        options = {"noise_std": self.sigma, "lam": lam, "max_iter": max_iter, "progress": False}
        return genreg.reconstruct(A, y, prior, **options).image

    def total_variation(self) -> Tensor:
        """TV with the weight that is best for ten training images."""
        prior = genreg.TotalVariation(self.space)
        clean = self.train[:10]
        y = clean + self.sigma * normal(clean.shape, 1)
        # a weight of 1 for the plain sum over pixels, in units of 1/σ
        unit = 1 / (self.sigma * float(self.space.cell_sides[0]))
        lams = unit * torch.logspace(-0.75, 0.75, 13)
        found = [self.reconstruct(y, prior, float(lam), 200) for lam in lams]
        scores = torch.stack([psnr(image, clean, data_range=1.0).mean() for image in found])
        best = int(scores.argmax())
        if best in (0, len(lams) - 1):
            print(f"TV: the best weight is at the end of its range for σ = {self.sigma}")
        return self.reconstruct(self.y, prior, float(lams[best]), 200)

    def autoencoder(self) -> Tensor:
        """The mean model, trained further as a denoising autoencoder."""
        model, _ = weights.load(f"{self.case.name}-vae")
        training.fit(
            model,
            self.train,
            steps=self.case.steps,
            batch_size=self.case.batch,
            lr=5e-4,
            warmup=30,
            kl_weight=0.0,
            input_noise=self.sigma,
            checkpoint=f"{self.file}-autoencoder.checkpoint",
            resume=True,
            progress=False,
        )
        with torch.no_grad():
            return model.decode(model.encode(self.y))


def main() -> None:
    options = arguments(
        __doc__,
        {
            "--case": {"choices": [case.name for case in CASES], "help": "only these images"},
            "--methods": {"nargs": "+", "choices": METHODS, "default": METHODS, "help": "only these"},
        },
        output=True,
    )
    cases = [case for case in CASES if options.case in (None, case.name)]
    cache = Path("build/denoising")
    if options.quick:
        cases = [replace(CASES[0], sigmas=(0.25,), steps=3, count=3, max_iter=5, draws=2)]
        cache = Path("build/denoising-quick")
    for case in cases:
        try:
            rows = {"truth": Denoising(case, 0.0, cache).x}
        except FileNotFoundError as error:
            print(f"{case.name} skipped: {error}")
            continue
        print(f"{case.name}, {case.count} images" + "".join(f"{f'σ = {s}':>16}" for s in case.sigmas))
        middle = case.sigmas[len(case.sigmas) // 2]
        problems = [Denoising(case, sigma, cache) for sigma in case.sigmas]
        for method in options.methods:
            cells = []
            for problem in problems:
                image = problem(method)
                score = psnr(image, problem.x, data_range=1.0)
                cells.append(plus_minus(score, spread=True))
                if problem.sigma == middle:
                    rows[f"{method}, {score.mean():.2f} dB"] = image
            print(f"{method:<{len(case.name) + 12}}" + "".join(f"{c:>16}" for c in cells), flush=True)
        figure = image_grid(rows, columns=4, vmin=0.0, vmax=1.0, transposed=True)
        figure.suptitle(f"PSNR over {case.count} images, σ = {middle}", fontsize=9)
        name = "supn_denoising.png" if case.name == "brain" else f"supn_denoising_{case.name}.png"
        save(figure, folder(options) / name, 110)


if __name__ == "__main__":
    main()
