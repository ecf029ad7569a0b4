"""Images, models and data of the benchmarks of posterior sampling: digits of 28 x 28 pixels, latent dimension 8."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, NamedTuple

import odl
import torch
from torch import Tensor

import genreg
from genreg import datasets
from genreg.operators import gaussian_measurements, mask, to_torch
from genreg.sampling import LatentPosterior

__all__ = [
    "SPACE",
    "Problem",
    "digits",
    "generator",
    "measure",
    "of_generator",
    "operator",
    "posterior",
    "report",
]

SPACE = odl.uniform_discr([0, 0], [1, 1], (28, 28), dtype="float32")


def generator(name: str) -> genreg.Generator:
    """A trained generator of digits."""
    return genreg.load_generator(name, range=SPACE)


def digits(count: int) -> Tensor:
    """The first images of MNIST's test set, which no model has seen."""
    return datasets.mnist(train=False)[0][:count]


def of_generator(G: genreg.Generator, count: int, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Draws z of the prior, and G(z)."""
    z = torch.randn((count, *G.domain.shape), generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        return z, G.decode(z).mean


def operator(task: str, size: int) -> odl.Operator:
    """Some pixels at random ("inpainting"), random measurements ("compressed sensing"), or all pixels ("denoising").

    Parameters
    ----------
    task : str
        One of the three.
    size : int
        Number of measurements; those of a smaller number of pixels are among those of a larger one.
    """
    if task == "denoising":
        return odl.IdentityOperator(SPACE)
    if task == "compressed sensing":
        return gaussian_measurements(SPACE, size, seed=1)
    keep = torch.zeros(SPACE.size, dtype=torch.bool)
    keep[torch.randperm(SPACE.size, generator=torch.Generator().manual_seed(2))[:size]] = True
    return mask(SPACE, keep.view(SPACE.shape))


class Problem(NamedTuple):
    """Images and their data."""

    A: odl.Operator
    x: Tensor
    y: Tensor
    noise_std: float


def posterior(problem: Problem, G: genreg.Generator) -> LatentPosterior:
    """The latent posterior of all images."""
    return LatentPosterior(genreg.GaussianFidelity(problem.A, problem.y, noise_std=problem.noise_std), G)


def measure(x: Tensor, task: str, size: int, noise_std: float, *, seed: int = 3) -> Problem:
    """Data of all images with white noise."""
    A = operator(task, size)
    clean = to_torch(A)(x)
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(seed))
    return Problem(A, x, clean + noise_std * noise, noise_std)


def report(
    name: str,
    parts: Collection[str],
    compute: Callable[[str, Path], None],
    table: Callable[[list[dict]], str],
    draw: Callable[[list[dict], Path], None],
    *,
    only: str | None = None,
    quick: bool = False,
) -> None:
    """Compute the parts that are wanted, and write table, numbers and figure once all are there.

    The rows of a part are kept in build/, those of a quick run are not; ``compute(part, file)`` writes them to a file
    unless it has them. A run without the data it needs says so.
    """
    folder = Path("build" if quick else "docs")
    cache = Path("build") / (f"{name}-quick" if quick else name)
    if quick:
        shutil.rmtree(cache, ignore_errors=True)
    for path in (folder, cache):
        path.mkdir(parents=True, exist_ok=True)
    files = {part: cache / f"{part}.json" for part in parts}
    try:
        for part, file in files.items():
            if only in (None, part):
                compute(part, file)
    except FileNotFoundError as error:
        print(f"skipped: {error}")
    if not all(file.exists() for file in files.values()):
        return
    rows = [row for file in files.values() for row in json.loads(file.read_text())]
    (folder / f"{name}.md").write_text(table(rows))
    lines = ",\n".join(json.dumps(_shortened(row)) for row in rows)
    (folder / f"{name}.json").write_text(f"[\n{lines}\n]\n")
    draw(rows, folder / f"{name}.png")
    print(f"figure: {folder / name}.png")


def _shortened(value: Any) -> Any:
    """The same with numbers of four digits, to be stored as JSON."""
    if isinstance(value, dict):
        return {name: _shortened(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_shortened(item) for item in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value
