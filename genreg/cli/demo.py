"""The demonstration: a generative prior against filtered back-projection, Tikhonov and TV in tomography."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import odl
import torch
from torch import Tensor

from genreg.datasets import shapes
from genreg.evaluation import psnr, ssim
from genreg.generator import load_generator
from genreg.operators import ray_transform, to_element, to_tensor, to_torch
from genreg.operators.bridge.arguments import integer, number, seed_number
from genreg.reconstruction.variational import reconstruct
from genreg.regularisers import HardConstraint, Regulariser, Tikhonov, TotalVariation
from genreg.solvers.checkpoints import atomically

__all__ = ["demo"]


@dataclass(frozen=True)
class _Row:
    """One line of the table."""

    method: str
    image: Tensor
    lam: str
    discrepancy: float
    seconds: float  # per image


@dataclass(frozen=True)
class _Problem:
    """Shapes tomography: 56 x 56 images, parallel beam, white Gaussian noise."""

    A: odl.Operator
    truth: Tensor
    y: Tensor
    noise_std: float


def _problem(images: int, angles: int, noise: float, seed: int) -> _Problem:
    from odl.applications import tomo

    X = odl.uniform_discr([-1, -1], [1, 1], (56, 56), dtype="float32")
    A = ray_transform(X, tomo.parallel_beam_geometry(X, angles))
    truth = shapes(images, seed=seed)
    clean = to_torch(A)(truth)
    noise_std = noise * float(clean.max())
    generator = torch.Generator().manual_seed(seed)
    draws = torch.randn(clean.shape, generator=generator, dtype=clean.dtype)
    return _Problem(A, truth, clean + noise_std * draws, noise_std)


def _fbp(p: _Problem) -> _Row:
    from odl.applications import tomo

    began = time.perf_counter()
    fbp = tomo.fbp_op(p.A, filter_type="Hann", frequency_scaling=0.8)
    image = torch.stack([to_tensor(fbp(to_element(p.A.range, y))) for y in p.y])
    seconds = (time.perf_counter() - began) / len(p.y)
    residual = (to_torch(p.A)(image) - p.y).square().sum()
    level = p.y.numel() * p.noise_std**2
    return _Row("FBP (Hann filter)", image, "", float(residual / level), seconds)


def _by_morozov(name: str, p: _Problem, regulariser: Regulariser, **options: Any) -> _Row:
    rec = reconstruct(p.A, p.y, regulariser, noise_std=p.noise_std, lam="morozov", progress=False, **options)
    lam = f"Morozov: {float(rec.lam.median()):.2g}"
    return _Row(name, rec.image, lam, float(rec.discrepancy.mean()), rec.time / len(p.y))


def _best_psnr(
    name: str, p: _Problem, regulariser: Regulariser, grid: Tensor, **options: Any
) -> tuple[_Row, Tensor]:
    """The λ of the grid with the best mean PSNR, which needs the truth; all λ and images are one batch."""
    count, n = len(grid), len(p.y)
    rec = reconstruct(
        p.A, p.y.repeat(count, 1, 1), regulariser, noise_std=p.noise_std, lam=grid.repeat_interleave(n),
        progress=False, **options
    )  # fmt: skip
    scores = psnr(rec.image, p.truth.repeat(count, 1, 1), data_range=1.0).view(count, n)
    best = int(scores.mean(1).argmax())
    pick = slice(best * n, (best + 1) * n)
    discrepancy = float(rec.discrepancy[pick].mean())
    row = _Row(
        name, rec.image[pick], f"best: {float(grid[best]):.2g}", discrepancy, rec.time / len(rec.image)
    )
    return row, scores.mean(1)


def demo(
    *,
    images: int = 12,
    angles: int = 40,
    noise: float = 0.05,
    seed: int = 2023,
    output: str | Path = "genreg-demo.png",
    quick: bool = False,
) -> list[dict[str, Any]]:
    """Reconstruct random shapes from noisy parallel-beam data by five methods; print a table, draw a figure.

    Parameters
    ----------
    images, angles : int
        Number of images and of projection angles.
    noise : float
        Standard deviation of the noise over the largest value of the data.
    seed : int
        Seed of images and noise; the images are not among those the prior was trained on.
    output : str or Path
        Where to write the figure, a PNG or PDF.
    quick : bool
        Two images, three λ and coarse baselines, to see that everything works.

    Returns
    -------
    list of dict
        One entry for every line of the table.

    Raises
    ------
    ValueError
        If a number is not positive or the suffix of `output` is another one.
    """
    images, angles = integer(images, "images", minimum=1), integer(angles, "angles", minimum=1)
    noise, seed = number(noise, "noise", above=0), seed_number(seed)
    output = Path(output)
    if output.suffix not in (".png", ".pdf"):
        raise ValueError(f"output must end in .png or .pdf, got {output.name!r}")
    began = time.perf_counter()
    p = _problem(2 if quick else images, angles, noise, seed)
    X = p.A.domain
    G = load_generator("shapes-vae", range=X)
    priors: dict[str, tuple[Regulariser, Tensor]] = {
        "Tikhonov": (Tikhonov(X, odl.Gradient(X, pad_mode="symmetric")), torch.logspace(0, 4, 13)),
        "TV": (TotalVariation(X, lower=0.0), torch.logspace(0, 4, 13)),
        "VAE, hard constraint": (HardConstraint(G), torch.logspace(-2, 3, 13)),
    }
    rows, curves = [_fbp(p)], {}
    for name, (regulariser, grid) in priors.items():
        options: dict[str, Any] = {"tol": 1e-3} if quick else {}
        if isinstance(regulariser, HardConstraint):
            options["restarts"] = 2 if quick else 4
        rows.append(_by_morozov(name, p, regulariser, **options))
        row, curve = _best_psnr(name, p, regulariser, grid[::5] if quick else grid, **options)
        rows.append(row)
        curves[name] = (grid[::5] if quick else grid, curve)
    table = [_score(row, p.truth) for row in rows]
    _print(table, p, time.perf_counter() - began)
    figure = _figure(rows, table, curves, p.truth)
    atomically(output, lambda part: figure.savefig(part, dpi=130, format=output.suffix[1:]))
    print(f"Figure: {output}")
    return table


def _score(row: _Row, truth: Tensor) -> dict[str, Any]:
    values, similarity = psnr(row.image, truth, data_range=1.0), ssim(row.image, truth, data_range=1.0)
    return {
        "method": row.method,
        "lam": row.lam,
        "psnr": float(values.mean()),
        "psnr_std": float(values.std(correction=0)),
        "ssim": float(similarity.mean()),
        "discrepancy": row.discrepancy,
        "seconds": row.seconds,
    }


def _print(table: list[dict[str, Any]], p: _Problem, seconds: float) -> None:
    print(
        f"Shapes tomography: {len(p.y)} images, {p.y.shape[1]} angles, noise {p.noise_std:.3g} per sample "
        f"({seconds:.0f} s in all)\n"
    )
    print(f"{'method':22s} {'λ':>16s} {'PSNR, dB':>14s} {'SSIM':>7s} {'residual/level':>15s} {'s/image':>8s}")
    for row in table:
        print(
            f"{row['method']:22s} {row['lam']:>16s} {row['psnr']:7.2f} ± {row['psnr_std']:4.2f} {row['ssim']:7.3f} "
            f"{row['discrepancy']:15.2f} {row['seconds']:8.3f}"
        )
    print(
        "\nMorozov: the largest λ that explains the data to the noise level. "
        "best: the λ with the best mean PSNR (needs the truth)."
    )


def _figure(
    rows: list[_Row], table: list[dict[str, Any]], curves: dict[str, tuple[Tensor, Tensor]], truth: Tensor
) -> Any:
    from matplotlib.figure import Figure

    from genreg.plotting import draw_images

    shown = [0, 1, 3, 5]  # FBP, then every method by Morozov
    figure = Figure(figsize=(14, 4.7), layout="constrained")
    left, right = np.ravel(figure.subfigures(1, 2, width_ratios=(2.1, 1)))  # type: ignore[arg-type]
    labels = {"truth": truth} | {rows[k].method: rows[k].image for k in shown if k < len(rows)}
    titles = {
        rows[k].method: [f"{v:.1f} dB" for v in psnr(rows[k].image, truth, data_range=1.0)]
        for k in shown
        if k < len(rows)
    }
    draw_images(left, labels, errors=True, columns=4, vmax=0.6, titles=titles, transposed=True)
    ax = right.subplots()
    for name, (grid, curve) in curves.items():
        (line,) = ax.semilogx(grid, curve, marker="o", markersize=3, label=name)
        morozov = next(row for row in table if row["method"] == name and row["lam"].startswith("Morozov"))
        ax.axhline(morozov["psnr"], color=line.get_color(), linestyle=":", linewidth=1)
    ax.set(xlabel="λ", ylabel="mean PSNR, dB", title="PSNR against λ (dotted: Morozov's choice)")
    ax.grid(alpha=0.3)
    ax.legend()
    return figure
