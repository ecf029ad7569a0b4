r"""Compressed sensing with few data: joint maximum, marginal maximum and posterior mean of structured decoders.

    python benchmarks/marginal_estimate.py           # about three quarters of an hour on one core
    python benchmarks/marginal_estimate.py --quick   # a few digits, to see that it works

50 MNIST test images (9000 to 9049), m Gaussian measurements with variance 1/m, noise of 10/255. Mean squared error ×
1000, all images cut to [0, 1], and seconds of the processor for the whole batch:

* hard: min ‖A G(z) - y‖² / (2σ²) + ½‖z‖² with `mnist-vae`, the best of 8 starts; JPMAP: the joint maximum with the same
  model and its one γ.
* SUPN, diagonal: `JointPrior` with `mnist-supn` and `mnist-diagonal`, from the encoder: the maximum of p(x, z | y) or,
  "marginal", of p(z | y), with the mean of x given z; "4 starts" takes the best of four by that density.
* posterior mean: of 200 draws of p(x, z | y) by `sampling.gibbs` from the marginal maximum.
* TV with 0 ≤ x ≤ 1 and the best λ for these very images.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import odl
import torch
from _study import arguments, folder, markdown, normal, skipped_without_data, write
from torch import Tensor

import genreg
from genreg import datasets, sampling
from genreg.operators import gaussian_measurements

SIGMA = 10 / 255
COUNTS = (50, 100, 140, 200, 300)


class Sensing:
    """All methods for one number of measurements."""

    def __init__(self, m: int, images: Tensor, quick: bool) -> None:
        self.x, self.quick = images, quick
        self.space = odl.uniform_discr([0, 0], [1, 1], (28, 28), dtype="float32")
        # entries of variance 1/m for the plain sum over pixels
        self.A = gaussian_measurements(self.space, m, seed=m)
        clean = genreg.to_torch(self.A)(images)
        self.y = clean + SIGMA * normal(clean.shape, 1)
        self.z: Tensor | None = None

    def generator(self, name: str) -> genreg.Generator:
        """The generator of shipped weights."""
        return genreg.load_generator(name, range=self.space)

    def reconstruct(self, prior: genreg.Regulariser, lam: float, starts: int = 1) -> genreg.Reconstruction:
        """All images with a prior."""
        return genreg.reconstruct(
            self.A,
            self.y,
            prior,
            noise_std=SIGMA,
            lam=lam,
            restarts=starts,
            max_iter=5 if self.quick else 200,
            progress=False,
        )

    def structured(self, name: str, estimate: str, starts: int = 1) -> Tensor:
        """The images of a structured model; the latent vectors of SUPN are kept."""
        prior = genreg.JointPrior(self.generator(f"mnist-{name}"), estimate=estimate)  # type: ignore[arg-type]
        found = self.reconstruct(prior, 1.0, starts)
        self.z = found.blocks["z"] if name == "supn" else self.z
        return found.image

    def posterior_mean(self) -> Tensor:
        """From the last latent vectors of the structured model."""
        assert self.z is not None
        prior = genreg.JointPrior(self.generator("mnist-supn"))
        fidelity = genreg.GaussianFidelity(self.A, self.y, SIGMA)
        draws = 3 if self.quick else 200
        return sampling.gibbs(prior, fidelity, self.z, draws=draws, burn_in=draws, progress=False).mean

    def total_variation(self) -> Tensor:
        """With the best λ."""
        prior = genreg.TotalVariation(self.space, lower=0.0, upper=1.0)
        lams = torch.logspace(1, 3.5, 3 if self.quick else 11)
        found = [self.reconstruct(prior, float(lam)).image for lam in lams]
        return min(found, key=self.error)

    def error(self, image: Tensor) -> float:
        """Mean squared error × 1000."""
        return float(1000 * (image.clamp(0, 1) - self.x).square().mean())

    @property
    def methods(self) -> dict[str, Callable[[], Tensor]]:
        """In the order of the table; the posterior mean starts where the method before it ends."""
        return {
            "hard, 8 starts": lambda: (
                self.reconstruct(genreg.HardConstraint(self.generator("mnist-vae")), 0.5, 8).image
            ),
            "JPMAP": lambda: self.reconstruct(genreg.JointPrior(self.generator("mnist-vae")), 1.0).image,
            "diagonal, joint": lambda: self.structured("diagonal", "joint"),
            "diagonal, marginal": lambda: self.structured("diagonal", "marginal"),
            "SUPN, joint": lambda: self.structured("supn", "joint"),
            "SUPN, joint, 4 starts": lambda: self.structured("supn", "joint", 4),
            "SUPN, marginal": lambda: self.structured("supn", "marginal"),
            "SUPN, marginal, 4 starts": lambda: self.structured("supn", "marginal", 4),
            "SUPN, posterior mean": self.posterior_mean,
            "TV": self.total_variation,
        }


@skipped_without_data
def main() -> None:
    options = arguments(
        __doc__,
        {"--measurements": {"type": int, "nargs": "+", "default": COUNTS, "help": "their numbers m"}},
        output=True,
    )
    counts, number = ((50,), 3) if options.quick else (tuple(options.measurements), 50)
    images = datasets.mnist(train=False)[0][9000 : 9000 + number]
    table: dict[str, list[tuple[float, float]]] = {}
    for m in counts:
        problem = Sensing(m, images, options.quick)
        for name, method in problem.methods.items():
            begin = time.process_time()
            error = problem.error(method())
            table.setdefault(name, []).append((error, time.process_time() - begin))
            print(f"m = {m}, {name}: {error:.2f}, {table[name][-1][1]:.1f} s", flush=True)
    rows = [
        [name, *(f"{error:.1f} ({seconds:.0f} s)" for error, seconds in cells)]
        for name, cells in table.items()
    ]
    print(markdown(["", *(f"m = {m}" for m in counts)], rows))
    write(
        folder(options, whole=counts == COUNTS) / "marginal_estimate.json",
        {"measurements": counts, "error and seconds": table},
    )


if __name__ == "__main__":
    main()
