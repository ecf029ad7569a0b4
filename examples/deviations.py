"""Details that the generator has never seen: a bright spot in a disc, by deviations from the range of the generator.

The generator was trained on discs and rectangles without spots. The hard constraint can't show a spot; sparse
deviations can, and deviations of small total variation show it best. Every λ is chosen by Morozov's principle.
"""

import argparse

import odl
import torch
from odl.applications import tomo

import genreg
from genreg.evaluation import psnr
from genreg.plotting import image_grid


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one image, fixed λ, few iterations")
    parser.add_argument("--output", default="deviations.png", help="figure")
    options = parser.parse_args(arguments)

    X = odl.uniform_discr([-1, -1], [1, 1], (56, 56), dtype="float32")
    A = genreg.operators.ray_transform(X, tomo.parallel_beam_geometry(X, 40))
    truth = genreg.datasets.shapes_plus(1 if options.quick else 4, seed=5)
    clean = genreg.to_torch(A)(truth)
    y = clean + 0.03 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))

    G = genreg.load_generator("shapes-vae", range=X)
    cases = {
        "hard constraint": (genreg.HardConstraint(G), 10.0),
        "sparse deviation": (genreg.SparseDeviation(G, mu=1e-3), 1.4e4),
        "deviation of small TV": (genreg.SparseDeviation(G, mu=1e-3, sparsity="tv"), 300.0),
        "total variation": (genreg.TotalVariation(X, lower=0), 100.0),
    }
    rows = {"truth": truth}
    for name, (regulariser, lam) in cases.items():
        rec = genreg.reconstruct(
            A,
            y,
            regulariser,
            noise_std=0.03,
            lam=lam if options.quick else "morozov",
            restarts=1 if options.quick else 4,
            max_iter=30 if options.quick else None,
            progress=False,
        )
        rows[name] = rec.image
        print(f"{name}: {psnr(rec.image, truth, data_range=1.0).mean():.1f} dB, λ = {rec.lam.mean():.3g}")
    image_grid(rows, vmax=1.0).savefig(options.output, dpi=150)


if __name__ == "__main__":
    main()
