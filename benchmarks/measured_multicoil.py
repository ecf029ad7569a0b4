r"""Measured multi-coil MRI: how well reconstructions predict samples of k-space that were held out.

Data: one slice of a brain, 230 x 180 Cartesian samples of 8 coils, 12.4 % of them measured, all of the centre 24 x 24
(sigpy-mri-tutorial). Coil maps are estimated from that centre. 20 % of all acquired samples are held out for the
report, 10 % for the choice of parameters; neither are from the centre (see `_measured.py`). With the parameter chosen,
the image is reconstructed once more, from all but the 20 %.

 - zero-filled: the transpose of A, samples not weighted;
 - SENSE: min ||A x - y||^2 + s ||x||^2 by conjugate gradients;
 - TV: min ||A x - y||^2 / (2 sigma^2) + lambda TV(x), for complex x;
 - |TV|, maps: the same for real and non-negative x. The phase is then that of the coil maps, which are estimated with
   that of the image at low resolution (with ``--maps espirit`` they know nothing of it, and this row fails);
 - |TV|, phase: the same with the phase of a complex TV image;
 - isotropic, diagonal, SUPN: the joint posterior of image and latent vector, maximised, with a generator of brains and
   its precision, to the power lambda. These are priors of magnitude images: phase as above. They were trained on
   slices of 128 x 128 pixels and are applied at the resolution of the data, see `_measured_learned.py`;
 - SUPN, own phase: the same model, whose phase is a polynomial of which the latent vector has the coefficients
   (`networks.with_phase`);
 - isotropic, complex and SUPN, complex: a fully convolutional model of complex images, at the size of the data, which
   was trained on crops of another person's magnitudes with synthetic phases. No phase is given to these.

The error is ||A' x - y'|| / ||y'|| for the held-out samples y', in all, below and above a quarter of a cycle per pixel.
"noise" is the error that the true image would have at most.

With the default settings (seed 0): zero-filled 0.780, SENSE 0.345, TV 0.284, |TV| with the phase of the maps 0.402 and
with the given one 0.286, isotropic 0.301, diagonal 0.289, SUPN 0.285; noise 0.249. So a better model of the covariance
predicts better, and SUPN, which has seen another person's magnitude images of other pixels, about as well as TV.
The complex SUPN is no match for TV here: with the latent vector kept at the code of the TV image, and the power 1 that
the samples for the choice prefer, its error is 0.343, that of SENSE.

Run ``python benchmarks/measured_multicoil.py`` with the environment variable GENREG_DATA set to the data folder.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from _measured import Data, Errors, Method, Split, load, measured_file
from _measured_learned import Learned, LearnedComplex, convolutional, phased
from _study import arguments, figure, picture, save, skipped_without_data
from torch import Tensor

import genreg
from genreg.operators import data_prox

TEST, TUNING = 0.2, 0.1  # fractions of the acquired samples


def zero_filled(data: Data, mask: Tensor, parameters: Sequence[float]) -> Tensor:
    """The transpose of A."""
    A, y = data.sampled(mask)
    return A.transpose(y).expand(len(parameters), -1, -1)


def sense(data: Data, mask: Tensor, parameters: Sequence[float]) -> Tensor:
    """Tikhonov's image for every s."""
    A, y = data.sampled(mask)
    shift = torch.tensor(parameters, dtype=torch.float32)
    zero = torch.zeros(len(parameters), *data.shape, dtype=torch.complex64)
    return data_prox(A, tol=1e-4, max_iter=200)(zero, y.expand(len(parameters), *y.shape), shift)


def total_variation(iterations: int, *, real: bool = False, phase: bool = False) -> Method:
    """TV with λ = parameter / σ², for images with any phase, that of the maps, or that of a complex TV image."""

    def solve(data: Data, mask: Tensor, parameters: Sequence[float]) -> Tensor:
        if phase:
            image = phase_image(iterations, data, mask)
            magnitudes = total_variation(iterations, real=True).solve(data.phased(image), mask, parameters)
            return magnitudes * torch.polar(torch.ones(data.shape), image.angle())
        A, y = data.sampled(mask, "real" if real else "complex")
        rec = genreg.reconstruct(
            A,
            y.expand(len(parameters), *y.shape).contiguous(),
            genreg.TotalVariation(A.domain, lower=0.0 if real else None),
            noise_std=data.noise_std,
            lam=torch.tensor(parameters) / data.noise_std**2,
            max_iter=iterations,
            tol=1e-4,
            progress=False,
        )
        return rec.image.to(torch.complex64)

    return Method(solve, TV_GRID)


@functools.lru_cache(maxsize=4)  # all methods get the same masks
def phase_image(iterations: int, data: Data, mask: Tensor) -> Tensor:
    """The complex TV image ``(n, m)`` whose phase is taken."""
    return total_variation(iterations).solve(data, mask, [PHASE_LAM])[0]


SENSE_GRID = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
TV_GRID = (5e-4, 1e-3, 2e-3, 4e-3, 8e-3)
LEARNED_GRID = (0.1, 0.3, 1.0, 3.0)
COMPLEX_GRID = (0.3, 1.0)  # of the models of complex images, which take longer
PHASE_LAM = 2e-3  # of the TV image whose phase is taken


def methods(quick: bool) -> dict[str, Method]:
    """All methods by name; one more line here is one more row of the table, and one more picture."""
    iterations = 30 if quick else 300
    reference = functools.partial(phase_image, iterations)
    effort = {"max_iter": 1, "tol": 0.3} if quick else {}
    learned = functools.partial(Learned, reference=reference, **effort)
    of_parts = functools.partial(LearnedComplex, reference=reference, **effort)
    grid = LEARNED_GRID[-2:] if quick else LEARNED_GRID
    return {
        "zero-filled": Method(zero_filled),
        "SENSE": Method(sense, SENSE_GRID),
        "TV": total_variation(iterations),
        "|TV|, maps": total_variation(iterations, real=True),
        "|TV|, phase": total_variation(iterations, phase=True),
        "isotropic": Method(learned("brain-supn", isotropic=True), grid),
        "diagonal": Method(learned("brain-diagonal"), grid),
        "SUPN": Method(learned("brain-supn"), grid),
        "SUPN, own phase": Method(of_parts("brain-supn", phased), COMPLEX_GRID),
        "isotropic, complex": Method(
            of_parts("brain-supn-complex", convolutional, isotropic=True), COMPLEX_GRID
        ),
        "SUPN, complex": Method(of_parts("brain-supn-complex", convolutional), COMPLEX_GRID),
    }


def chosen(method: Method, data: Data, split: Split) -> float:
    """The parameter with the smallest error on the samples for this."""
    if len(method.grid) == 1:
        return method.grid[0]
    errors = data.errors(method.solve(data, split.train, method.grid), split.tuning).all
    return method.grid[int(errors.argmin())]


def run(data: Data, seed: int, quick: bool) -> dict[str, tuple[Tensor, Errors]]:
    """Images and errors of all methods, and a table of them."""
    split = data.split(test=TEST, tuning=TUNING, seed=seed)
    counts = [int(part.sum()) for part in split]
    print(
        f"samples: {counts[0]} to reconstruct from, {counts[1]} to choose with, {counts[2]} held out, of "
        f"{len(data.kspace)} coils; sigma {data.noise_std:.4f}, seed {seed}"
    )
    print(f"{'':14}{'parameter':>10}{'error':>8}{'inner':>8}{'outer':>8}{'s':>8}")
    everything = split.train | split.tuning
    found = {}
    for name, method in methods(quick).items():
        began = time.perf_counter()
        parameter = chosen(method, data, split)
        image = method.solve(data, everything, [parameter])
        errors = data.errors(image, split.test)
        found[name] = (image[0], errors)
        shown = f"{parameter:g}" if len(method.grid) > 1 else "-"
        print(_row(name, shown, errors) + f"{time.perf_counter() - began:8.1f}", flush=True)
    print(_row("noise", "-", data.floor(split.test)))
    return found


def _row(name: str, parameter: str, errors: Errors) -> str:
    return f"{name:14}{parameter:>10}" + "".join(f"{float(e[0]):8.3f}" for e in errors)


def draw(data: Data, found: dict[str, tuple[Tensor, Errors]], file: Path) -> None:
    """Draw the samples, the images and a detail of each."""
    n, m = data.shape
    detail = slice(round(0.30 * n), round(0.60 * n)), slice(round(0.30 * m), round(0.70 * m))
    whole = figure(2.3 * (len(found) + 1), 5.2)
    axes = whole.subplots(2, len(found) + 1)
    picture(axes[0, 0], data.mask, f"samples, {100 * float(data.mask.float().mean()):.1f} %", size=9)
    picture(axes[1, 0], data.maps[0].abs(), "map of a coil", size=9, cmap="viridis", vmin=None, vmax=None)
    bright = float(found["TV"][0].abs().quantile(0.998))
    for (name, (image, errors)), column in zip(found.items(), axes.T[1:], strict=True):
        magnitude = image.abs()
        if name == "zero-filled":  # its grey values mean nothing: samples that are not there count as zero
            magnitude = magnitude * (bright / float(magnitude.quantile(0.998)))
        picture(column[0], magnitude, f"{name}: error {float(errors.all[0]):.3f}", size=9, vmax=bright)
        picture(column[1], magnitude[detail], vmax=bright)
    save(whole, file, 90)


@skipped_without_data
def main() -> None:
    options = arguments(
        __doc__,
        {
            "--maps": {
                "choices": ("low-resolution", "espirit"),
                "default": "low-resolution",
                "help": "of the coils",
            },
            "--seed": {"type": int, "default": 0, "help": "of the choice of samples"},
            "--out": {"type": Path, "help": "file of the picture, by default docs/measured_multicoil.png"},
        },
        threads=2,
    )
    data = load(measured_file(), maps=options.maps)
    if options.quick:
        data = data.coarse(2)
    found = run(data, options.seed, options.quick)
    default = Path("build" if options.quick else "docs") / "measured_multicoil.png"
    draw(data, found, options.out or default)


if __name__ == "__main__":
    main()
