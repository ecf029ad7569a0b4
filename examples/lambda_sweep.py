"""How much does λ matter? A grid of λ, all images and several starting points are one batch.

λ, like every scalar of a problem, may differ from sample to sample, so that a parameter study costs one call.
"""

import argparse

import odl
import torch
from matplotlib.figure import Figure
from odl.applications import tomo

import genreg
from genreg.evaluation import psnr


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer images and values of λ")
    parser.add_argument("--output", default="lambda-sweep.png", help="figure")
    options = parser.parse_args(arguments)
    images, values = (2, 5) if options.quick else (8, 13)

    X = odl.uniform_discr([-1, -1], [1, 1], (56, 56), dtype="float32")
    A = genreg.operators.ray_transform(X, tomo.parallel_beam_geometry(X, 20))
    truth = genreg.datasets.shapes(images, seed=3)
    clean = genreg.to_torch(A)(truth)
    noise_std = 0.05 * float(clean.max())
    y = clean + noise_std * torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))

    G = genreg.load_generator("shapes-vae", range=X)
    priors = {
        "hard constraint": (genreg.HardConstraint(G), torch.logspace(-2, 3, values), 3),
        "total variation": (genreg.TotalVariation(X, lower=0.0), torch.logspace(0, 4, values), 1),
    }
    ax = Figure(figsize=(6, 4), layout="constrained").subplots()
    curves = {}
    for name, (R, grid, restarts) in priors.items():
        rec = genreg.reconstruct(
            A,
            y.repeat(values, 1, 1),  # (values * images, angles, pixels)
            R,
            noise_std=noise_std,
            lam=grid.repeat_interleave(images),
            restarts=restarts,
            progress=False,
        )
        scores = psnr(rec.image, truth.repeat(values, 1, 1), data_range=1.0).view(values, images)
        curves[name] = scores.mean(1)
        best = int(curves[name].argmax())
        print(
            f"{name}: {len(rec.image) * restarts} problems in {rec.time:.1f} s, "
            f"best {curves[name][best]:.1f} dB at λ = {grid[best]:.3g}"
        )
        (line,) = ax.semilogx(grid, curves[name], marker="o", label=name)
        ax.fill_between(grid, scores.amin(1), scores.amax(1), alpha=0.15, color=line.get_color())
    ax.set(xlabel="λ", ylabel="PSNR, dB", title=f"{images} images: mean, worst and best")
    ax.grid(alpha=0.3)
    ax.legend()
    ax.figure.savefig(options.output, dpi=150)
    return curves


if __name__ == "__main__":
    main()
