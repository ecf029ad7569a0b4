"""Reconstructions of MRI without a generative model: what the benchmarks compare with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from _mri import TRAINED, Measured, Sizes, measure, noisy
from _unrolled import Plan, train
from torch import Tensor

import genreg
from genreg.operators import to_torch
from genreg.recipes import brain
from genreg.solvers import Status

__all__ = ["Method", "Supervised", "Tuned", "ZeroFilled", "tikhonov", "total_variation", "unconverged"]

Parameters = Mapping[str, float]


class Method(Protocol):
    """A way to reconstruct.

    Attributes
    ----------
    name : str
        Its name in tables.
    """

    name: str

    def tune(self, data: Measured) -> dict[str, float]:
        """Choose parameters on slices of subject 1."""
        ...

    def solve(self, data: Measured, parameters: Parameters) -> tuple[Tensor, str]:
        """Reconstruct; return the images, ``(B, n, m)``, and a note."""
        ...


def unconverged(status: Tensor) -> str:
    """Note on the samples that did not converge."""
    count = int((status != Status.CONVERGED).sum())
    return f"{count} of {len(status)} not converged" if count else ""


class ZeroFilled:
    """The transpose of A applied to the data."""

    name = "zero-filled"

    def tune(self, data: Measured) -> dict[str, float]:
        """There is nothing to choose."""
        return {}

    def solve(self, data: Measured, parameters: Parameters) -> tuple[Tensor, str]:
        """See the class."""
        return to_torch(data.A).adjoint(data.y), ""


@dataclass(frozen=True)
class Tuned:
    """A regulariser of the image with λ by the best mean PSNR on subject 1, from the zero-filled image.

    Parameters
    ----------
    name : str
        "Tikhonov", the squared norm of the gradient, or "TV", with 0 ≤ x ≤ 1.
    lams : tuple of float
        Values of λ to choose from.
    max_iter : int
        Iterations at most.
    """

    name: str
    lams: tuple[float, ...]
    max_iter: int

    def _regulariser(self, data: Measured) -> genreg.Regulariser:
        tv = genreg.TotalVariation(data.A.domain, lower=0, upper=1)
        return tv if self.name == "TV" else genreg.Tikhonov(data.A.domain, tv.derivative_operator)

    def tune(self, data: Measured) -> dict[str, float]:
        """Find λ."""
        study = genreg.sweep(
            data.A,
            data.y,
            self._regulariser(data),
            lam=self.lams,
            noise_std=data.setting.noise_std,
            reference=data.x,
            data_range=1.0,
            init={"x": data.zero_filled},
            max_iter=self.max_iter,
            tol=1e-3,
            progress=False,
            keep_images=False,
        )
        return {"lam": study.best("psnr").lam}

    def solve(self, data: Measured, parameters: Parameters) -> tuple[Tensor, str]:
        """Reconstruct with this λ."""
        found = genreg.reconstruct(
            data.A,
            data.y,
            self._regulariser(data),
            noise_std=data.setting.noise_std,
            lam=parameters["lam"],
            init={"x": data.zero_filled},
            max_iter=self.max_iter,
            progress=False,
        )
        at_end = parameters["lam"] in (min(self.lams), max(self.lams)) and len(self.lams) > 1
        notes = (unconverged(found.status), "λ at an end of its range" if at_end else "")
        return found.image, ", ".join(filter(None, notes))


def grid(first: float, last: float, count: int) -> tuple[float, ...]:
    """Numbers from `first` to `last` in geometric progression."""
    return tuple(torch.logspace(0, 1, count, base=last / first, dtype=torch.float64).mul(first).tolist())


def total_variation(sizes: Sizes) -> Tuned:
    """The rows of TV."""
    return Tuned("TV", (3.0,), 30) if sizes.quick else Tuned("TV", grid(0.1, 32, 11), 1500)


def tikhonov(sizes: Sizes) -> Tuned:
    """The rows of Tikhonov."""
    return Tuned("Tikhonov", (10.0,), 10) if sizes.quick else Tuned("Tikhonov", grid(1.0, 1000.0, 9), 500)


class Supervised:
    """The unrolled network, trained on `TRAINED` alone (when its weights are missing) and taken as it is elsewhere.

    Parameters
    ----------
    file : Path
        Its weights.
    sizes : Sizes
        Size of the images.
    """

    name = "unrolled, supervised"

    def __init__(self, file: Path, sizes: Sizes) -> None:
        images = brain.training_images()
        A = to_torch(measure(images(1, seed=0), TRAINED, seed=0).A)
        plan = Plan(stages=2, channels=8, steps=3, batch=2) if sizes.quick else Plan()
        self.network = train(
            file,
            images,
            A,
            lambda clean, random: noisy(clean, TRAINED.noise_std, random),
            plan,
            progress=not sizes.quick,
        )

    def tune(self, data: Measured) -> dict[str, float]:
        """There is nothing to choose."""
        return {}

    def solve(self, data: Measured, parameters: Parameters) -> tuple[Tensor, str]:
        """Apply the network."""
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=False):
            return self.network(to_torch(data.A), data.y)[-1], ""
