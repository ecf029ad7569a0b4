r"""Limited-angle tomography of measured data (Helsinki Tomography Challenge 2022): TV against a generative prior.

Data: acrylic discs of 70 mm diameter with holes, measured from 90 down to 30 degrees only. The training discs ta to td
are scanned all around and subsampled here; all settings below were chosen on them. The test discs 01a to 07a (90 to 30
degrees) serve for the scores alone. Score: Matthews' correlation of the segmentation with the reference.

Both methods see the same data, corrected for beam hardening with the curve of the solid disc and for the gain of the
scan, and both cut at half the attenuation of acrylic. The gain comes from the rim of the disc; the generative prior
can tell it from the whole image, and the column "TV, b" shows what TV makes of that gain.

TV: min ||A x - y||^2 / (2 sigma^2) + lambda TV(x), 0 <= x <= 1, on 256 x 256 pixels.

Generative prior (`disc-vae`, trained on synthetic discs):
 1. two rough reconstructions on 64 x 64 pixels, Tikhonov around the solid disc and TV, are encoded; the decoded
    image of the first gives the gain of the scan;
 2. z: min ||A G(z) - y||^2 / (2 sigma^2) + lambda ||z||^2 from both codes; the smaller value wins;
 3. deviation from the range of G, on 128 x 128 pixels: min ||A u - (y - A G(z))||^2 / (2 sigma^2) + mu TV(u);
    the image is G(z) + u.

Run ``python benchmarks/htc2022.py`` with the environment variable GENREG_DATA set to the data folder.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import odl
import torch
from _study import arguments, figure, picture, save, skipped_without_data
from torch import Tensor

import genreg
from genreg.datasets import HTCData, htc2022, solid_disc
from genreg.operators import ray_transform, to_torch

ALPHA = 3.0  # mm^2, of the rough reconstructions that the encoder was trained on
FINE = 128  # pixels along each side, of the start by TV and of the deviation
SIGMA = 0.5  # mm of acrylic: noise and what the model of the scanner gets wrong
STARTS = {"ta": 0.0, "tb": 40.0, "tc": 80.0, "td": 20.0}  # degrees
TEST = tuple(f"0{level}a" for level in range(1, 8))


@dataclass(frozen=True)
class Settings:
    """Settings, chosen on the training discs."""

    tv_size: int = 256
    tv_lam: tuple[tuple[float, float], ...] = ((30.0, 0.5), (60.0, 1.0), (90.0, 2.0))  # span, lambda
    tv_iterations: int = 1500
    lam: float = 2.0
    iterations: int = 150
    mu: float = 10.0
    deviation_iterations: int = 300

    def tv_weight(self, span: float) -> float:
        """Interpolate log(lambda) in the angular range."""
        spans, lams = zip(*self.tv_lam, strict=True)
        return float(np.exp(np.interp(span, spans, np.log(lams))))


@dataclass(frozen=True)
class Result:
    """An image in the frame of the reference, and how well it explains the data."""

    image: Tensor
    residual: float  # root mean square, mm
    gain: float
    seconds: float

    def score(self, reference: Tensor) -> float:
        """Matthews' correlation coefficient with the reference, cut at half."""
        return matthews_correlation(self.image > 0.5, reference)


def matthews_correlation(segmentation: Tensor, reference: Tensor) -> float:
    """Correlation coefficient of two binary images."""
    pair = torch.stack([segmentation.flatten(), reference.flatten()]).double()
    return float(torch.corrcoef(pair)[0, 1])


def total_variation(data: HTCData, gain: float, settings: Settings, progress: bool) -> Result:
    """Reconstruct with TV and bounds."""
    began = time.perf_counter()
    data = data.resized(settings.tv_size).binned(2)
    A = ray_transform(data.space, data.geometry)
    rec = genreg.reconstruct(
        A,
        data.path_length(gain)[None],
        genreg.TotalVariation(data.space, lower=0.0, upper=1.0),
        noise_std=SIGMA,
        lam=settings.tv_weight(float(data.angles[-1] - data.angles[0])),
        max_iter=settings.tv_iterations,
        tol=1e-6,
        progress=progress,
    )
    residual = float((rec.residual / data.sinogram.numel()).sqrt())
    return Result(data.upright(rec.image)[0], residual, gain, time.perf_counter() - began)


def generative(data: HTCData, settings: Settings, progress: bool) -> Result:
    """Reconstruct with the generative prior, see the top of the file."""
    began = time.perf_counter()
    rim = data.fit_rim()
    aligned = data.aligned(rim)
    data = aligned.resized(64).binned(4)
    A = ray_transform(data.space, data.geometry)
    forward = to_torch(A)
    G = genreg.load_generator("disc-vae", range=data.space)
    common = {"noise_std": SIGMA, "progress": progress}

    # long rays tell more about the gain than the rim does, once it is known roughly where the holes are
    guess = G.decode(G.encode(rough(A, data, rim.gain, common))).mean
    gain = data.fit_gain(forward(guess)[0])
    starts = torch.cat([rough(A, data, gain, common), coarse_tv(aligned, gain, settings, common)])
    y = data.path_length(gain).expand(len(starts), -1, -1).contiguous()
    rec = genreg.reconstruct(
        A,
        y,
        genreg.HardConstraint(G),
        lam=settings.lam,
        init={"z": G.encode(starts)},
        # the settings were chosen with these steps, whose slowness regularises: faster ones fit the artefacts as well
        solver=genreg.solvers.gradient_descent,
        max_iter=settings.iterations,
        **common,
    )
    image, residual = deviate(aligned, rec.image[rec.value.argmin()], gain, settings, common)
    return Result(aligned.resized(FINE).upright(image), residual, gain, time.perf_counter() - began)


def deviate(
    aligned: HTCData, image: Tensor, gain: float, settings: Settings, common: dict[str, Any]
) -> tuple[Tensor, float]:
    """Add a deviation of small total variation, on the finer pixels; return the image and its residual."""
    data = aligned.resized(FINE).binned(2)
    A = ray_transform(data.space, data.geometry)
    forward = to_torch(A)
    interpolate = torch.nn.functional.interpolate
    fine = interpolate(image[None, None], size=(FINE, FINE), mode="bicubic", align_corners=False)[0].clamp(
        0, 1
    )
    y = data.path_length(gain)[None]
    deviation = genreg.reconstruct(
        A,
        y - forward(fine),
        genreg.TotalVariation(data.space),
        lam=settings.mu,
        max_iter=settings.deviation_iterations,
        **common,
    )
    image = (fine + deviation.image).clamp(0, 1)
    return image[0], float((forward(image) - y).square().mean().sqrt())


def rough(A: odl.Operator, data: HTCData, gain: float, common: dict[str, Any]) -> Tensor:
    """Tikhonov around the solid disc: what the encoder was trained on."""
    solid = solid_disc(data.size)[None]
    y = data.path_length(gain)[None] - to_torch(A)(solid)
    lam = ALPHA / (2 * SIGMA**2 * float(data.space.cell_volume))
    return (
        solid + genreg.reconstruct(A, y, genreg.Tikhonov(data.space), lam=lam, max_iter=300, **common).image
    )


def coarse_tv(aligned: HTCData, gain: float, settings: Settings, common: dict[str, Any]) -> Tensor:
    """TV on the finer pixels, averaged to those of the generator."""
    fine = aligned.resized(FINE).binned(2)
    A = ray_transform(fine.space, fine.geometry)
    R = genreg.TotalVariation(fine.space, lower=0.0, upper=1.0)
    y = fine.path_length(gain)[None]
    rec = genreg.reconstruct(A, y, R, lam=1.0, max_iter=settings.tv_iterations // 2, tol=1e-6, **common)
    return torch.nn.functional.avg_pool2d(rec.image, 2)


def problems(quick: bool) -> list[tuple[str, HTCData]]:
    """Training discs at three angular ranges, then the test discs; one view per degree."""
    found = []
    for name in ("ta",) if quick else ("ta", "tb", "tc", "td"):
        for span in (60.0,) if quick else (90.0, 60.0, 30.0):
            found.append((f"{name} {span:.0f}", htc2022(name).subset(STARTS[name], span, step=1.0)))
    for name in ("07a",) if quick else TEST:
        data = htc2022(name)
        span = float(data.angles[-1] - data.angles[0])
        found.append((f"{name} {span:.0f}", data.subset(float(data.angles[0]), span, step=1.0)))
    return found


def draw(rows: list[tuple[str, Tensor, Result, Result]], file: Path) -> None:
    """Draw references, TV and generative reconstructions, with the errors of the segmentations."""
    whole = figure(1.7 * len(rows), 8.8)
    axes = whole.subplots(5, len(rows), squeeze=False)
    for column, (label, reference, tv, generated) in zip(axes.T, rows, strict=True):
        images = [reference.float(), tv.image, None, generated.image, None]
        for k, result in ((2, tv), (4, generated)):
            found = result.image > 0.5  # white: right, red: acrylic missed, blue: acrylic invented
            right = (found == reference).float()
            images[k] = torch.stack([right + (reference & ~found), right, right + (found & ~reference)], -1)
        titles = (f"{label}°", f"{tv.score(reference):.3f}", "", f"{generated.score(reference):.3f}", "")
        for axis, image, title in zip(column, images, titles, strict=True):
            picture(axis, image.clamp(0, 1), title, size=9)
    for axis, text in zip(axes[:, 0], ("reference", "TV", "error", "generative", "error"), strict=True):
        axis.set_ylabel(text)
    save(whole, file, 110)


@skipped_without_data
def main() -> None:
    out = {
        "type": Path,
        "default": Path("htc2022.png"),
        "help": "name of the figures, before _training and _test",
    }
    progress = {"action": "store_true", "help": "show progress bars"}
    options = arguments(__doc__, {"--out": out, "--progress": progress}, threads=None)
    cases = problems(options.quick)
    settings = Settings()
    if options.quick:
        settings = Settings(tv_size=128, tv_iterations=150, iterations=40, deviation_iterations=50)
    rows = []
    print(
        f"{'':>8}  {'TV':>6} {'mm':>5} {'s':>5}   {'TV, b':>6} {'mm':>5}   {'generative':>10} {'mm':>5} {'s':>5}"
    )
    for label, data in cases:
        generated = generative(data, settings, options.progress)
        tv = total_variation(data, data.fit_rim().gain, settings, options.progress)
        other = total_variation(data, generated.gain, settings, options.progress)
        rows.append((label, data.reference, tv, generated))
        scores = [result.score(data.reference) for result in (tv, other, generated)]
        print(
            f"{label:>8}  {scores[0]:6.3f} {tv.residual:5.2f} {tv.seconds:5.1f}   "
            f"{scores[1]:6.3f} {other.residual:5.2f}   "
            f"{scores[2]:10.3f} {generated.residual:5.2f} {generated.seconds:5.1f}",
            flush=True,
        )
    for part, suffix in (("t", "_training"), ("0", "_test")):
        file = options.out.with_stem(options.out.stem + suffix)
        draw([row for row in rows if row[0].startswith(part)], file)


if __name__ == "__main__":
    main()
