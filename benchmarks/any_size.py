r"""Priors for images of any size against total variation: brains at other sizes, photographs and discs.

    python benchmarks/any_size.py                  # several hours on one core
    python benchmarks/any_size.py --part images --side 128 --max-iter 60    # ten minutes: smaller images
    python benchmarks/any_size.py --part brain --slices 6 --max-iter 60 --sizes 1 --estimates marginal
    python benchmarks/any_size.py --quick          # small images and a few iterations, to see that it works

* brain: slices of the child (`mri_spokes`), radial samples on 20 and 30 spokes, σ = 0.0125 and 0.05, at their own 128 x
  128 and enlarged by splines to 181 x 217 and 256 x 256 pixels. TV with 0 ≤ x ≤ 1, `brain-supn` (128 x 128 alone),
  `brain-supn-any`. Enlarged slices are smoother than real ones of that size.
* images: scikit-image's camera, coins, moon, page and retina, three slices of the child and two reference discs of the
  HTC 2022, all 256 x 256 (`--side`) and in [0, 1]; parallel beam with 60 angles and 5 % noise (of the mean datum), and
  Cartesian samples of the Fourier transform, a quarter of the columns, σ = 0.02. TV with 0 ≤ x ≤ 1 and `images-supn`,
  trained on dead leaves alone. It does not come with the package: ``genreg train images-vae`` and ``genreg train
  images-supn`` make it in half an hour, in the folder runs/; without it this part is left out.

The λ of TV has the best mean PSNR on these very images, which nobody knows; the priors have λ = 1 and nothing is
chosen. "joint" maximises the density of image and latent vector, "marginal" that of the latent vector. All images are
cut to [0, 1]. Margins over TV are those of the single images, with the standard error.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import odl
import skimage.data
import torch
from _mri import Setting, noisy, test_slices
from _study import (
    arguments,
    folder,
    markdown,
    mean_and_error,
    normal,
    plus_minus,
    skipped_without_data,
    write,
)
from odl.applications import tomo
from skimage.transform import resize
from torch import Tensor

import genreg
from genreg.datasets import htc2022
from genreg.evaluation import psnr
from genreg.operators import cartesian_mask, fourier_sampling, radial_mask, ray_transform, to_torch

SIZES = ((128, 128), (181, 217), (256, 256))
ESTIMATES = ("joint", "marginal")
IMAGES = "runs/images-supn.safetensors"
PHOTOGRAPHS = ("camera", "coins", "moon", "page", "retina")


class Problem(NamedTuple):
    """Images, and how they are measured."""

    name: str
    names: tuple[str, ...]
    x: Tensor
    A: odl.Operator
    y: Tensor
    noise_std: float
    weights: tuple[str, ...]


def enlarged(x: Tensor, shape: tuple[int, int]) -> Tensor:
    """Images of another size, in [0, 1]."""
    if tuple(x.shape[1:]) == shape:
        return x
    return torch.from_numpy(np.stack([resize(image.numpy(), shape, order=3) for image in x])).clamp(0, 1)


def space(shape: tuple[int, int]) -> odl.DiscretizedSpace:
    """Images of pixels of side 1 around the origin."""
    half = [side / 2 for side in shape]
    return odl.uniform_discr([-s for s in half], half, shape, dtype="float32")


def brains(options: argparse.Namespace) -> Iterator[Problem]:
    """Radial samples of the child's slices."""
    quick, slices = options.quick, test_slices(options.slices)
    for shape in SIZES[: options.sizes]:
        x, X = enlarged(slices, shape), space(shape)
        weights = ("brain-supn", "brain-supn-any") if shape == SIZES[0] else ("brain-supn-any",)
        for noise_std in (0.05,) if quick else (0.0125, 0.05):
            for spokes in (30,) if quick else (20, 30):
                setting = Setting(spokes, noise_std)
                A = fourier_sampling(X, radial_mask(shape, spokes))
                y = noisy(to_torch(A)(x), noise_std, torch.Generator().manual_seed(100 * spokes))
                names = tuple(f"slice {k}" for k in range(len(x)))
                yield Problem(f"{shape[0]} x {shape[1]}, {setting}", names, x, A, y, noise_std, weights)


def photograph(name: str, side: int) -> Tensor:
    """The middle square of a picture of scikit-image, grey, in [0, 1]."""
    picture = getattr(skimage.data, name)().astype(float) / 255
    grey = picture.mean(-1) if picture.ndim == 3 else picture
    least = min(grey.shape)
    top, left = ((n - least) // 2 for n in grey.shape)
    square = grey[top : top + least, left : left + least]
    return torch.from_numpy(resize(square, (side, side), anti_aliasing=True)).float()


def pictures(options: argparse.Namespace) -> Iterator[Problem]:
    """Two problems with ten images."""
    quick, side = options.quick, options.side
    found = {name: photograph(name, side) for name in (PHOTOGRAPHS[:2] if quick else PHOTOGRAPHS)}
    if not quick:
        found |= {f"slice {k}": x for k, x in enumerate(enlarged(test_slices(3), (side, side)))}
        for name in ("ta", "tb"):
            disc = htc2022(name, size=side).reference
            found[f"disc {name}"] = torch.nn.functional.avg_pool2d(disc[None].float(), len(disc) // side)[0]
    x, X = torch.stack(list(found.values())), space((side, side))
    R = ray_transform(X, tomo.parallel_beam_geometry(X, 60))
    clean = to_torch(R)(x)
    sigma = 0.05 * float(clean.mean())
    y = clean + sigma * normal(clean.shape, 1)
    yield Problem("tomography, 60 angles, 5 %", tuple(found), x, R, y, sigma, (IMAGES,))
    F = fourier_sampling(X, cartesian_mask((side, side), 4.0, seed=0))
    y = noisy(to_torch(F)(x), 0.02, torch.Generator().manual_seed(2))
    yield Problem("Cartesian MRI, 4 x, σ = 0.02", tuple(found), x, F, y, 0.02, (IMAGES,))


def total_variation(problem: Problem, iterations: int) -> tuple[Tensor, float]:
    """PSNR of every image with the λ that is best for their mean, which rises with λ up to there."""
    prior = genreg.TotalVariation(problem.A.domain, lower=0.0, upper=1.0)
    lam, best = 0.0, torch.zeros(1)
    for step in itertools.count():
        larger = 0.2 / problem.noise_std * 2 ** (step / 2)
        found = score(problem, prior, larger, iterations)
        if found.mean() <= best.mean():
            return best, lam
        lam, best = larger, found
    raise AssertionError


def score(problem: Problem, prior: genreg.Regulariser, lam: float, iterations: int) -> Tensor:
    """PSNR of every image."""
    found = genreg.reconstruct(
        problem.A,
        problem.y,
        prior,
        noise_std=problem.noise_std,
        lam=lam,
        max_iter=iterations,
        progress=False,
    )
    return psnr(found.image.clamp(0, 1), problem.x, data_range=1.0)


@skipped_without_data
def main() -> None:
    parts = {"brain": brains, "images": pictures}
    options = arguments(
        __doc__,
        {
            "--part": {"choices": list(parts), "help": "only this one"},
            "--slices": {"type": int, "default": 10, "help": "of the child"},
            "--sizes": {"type": int, "default": len(SIZES), "help": "how many sizes of the slices"},
            "--side": {"type": int, "default": 256, "help": "rows and columns of the photographs"},
            "--max-iter": {"type": int, "default": 100, "help": "iterations of the priors"},
            "--estimates": {"nargs": "+", "choices": ESTIMATES, "default": ESTIMATES},
        },
        output=True,
    )
    if options.quick:
        options.slices, options.sizes, options.side, options.max_iter = 2, 1, 64, 2
    results = []
    for part, problems in parts.items():
        if options.part not in (None, part):
            continue
        if part == "images" and not Path(IMAGES).is_file():
            print(f"images skipped: there is no {IMAGES}")
            continue
        for problem in problems(options):
            tv, lam = total_variation(problem, 10 if options.quick else 500)
            rows = {f"TV, λ = {lam:.3g}": tv}
            for name in problem.weights:
                G = genreg.load_generator(name, range=problem.A.domain)
                for estimate in options.estimates:
                    prior = genreg.JointPrior(G, estimate=estimate)
                    rows[f"{Path(name).stem}, {estimate}"] = score(problem, prior, 1.0, options.max_iter)
            table = [
                [
                    name,
                    f"{mean_and_error(found)[0]:.2f}",
                    plus_minus(found - tv, sign="+"),
                    f"{int((found > tv).sum())}",
                ]
                for name, found in rows.items()
            ]
            title = f"{problem.name}, {len(problem.x)} images"
            print(markdown(["", "PSNR, dB", "over TV", "better than TV"], table, title) + "\n", flush=True)
            scores = {name: [round(float(s), 3) for s in found] for name, found in rows.items()}
            results.append({"problem": problem.name, "images": problem.names, "PSNR": scores})
            write(folder(options, whole=options.part is None) / "any_size.json", results)


if __name__ == "__main__":
    main()
