"""How do λ and μ matter? Every λ, μ and image is a problem of one batch: the study of a parameter is one call.

As figures 8, 9 and 11 of Duff, Campbell and Ehrhardt (arXiv:2107.11191): the discrepancy of the data against λ,
with Morozov's level, and images along λ, for the three generative regularisers and total variation. One figure
for every regulariser, and the parameters that Morozov's principle, the L-curve and the true images choose.
"""

import argparse
from pathlib import Path

import odl
import torch
from odl.applications import tomo

import genreg


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer images, values and iterations")
    parser.add_argument("--output", default="lambda_sweep", help="folder of the figures and tables")
    options = parser.parse_args(arguments)
    images, values, max_iter = (2, 4, 40) if options.quick else (3, 9, 400)
    folder = Path(options.output)
    folder.mkdir(exist_ok=True)

    X = odl.uniform_discr([-1, -1], [1, 1], (56, 56), dtype="float32")
    A = genreg.operators.ray_transform(X, tomo.parallel_beam_geometry(X, 20))
    truth = genreg.datasets.shapes(images, seed=3)
    clean = genreg.to_torch(A)(truth)
    noise_std = 0.05 * float(clean.max())
    y = clean + noise_std * torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))

    G = genreg.load_generator("shapes-vae", range=X)
    mu = [1e-4, 1e-2] if options.quick else [1e-4, 1e-3, 1e-2]
    studies = {
        "hard": (genreg.HardConstraint(G), (-2, 3), None),
        "relaxed": (genreg.RelaxedConstraint(G, 1.0), (2, 6), mu),
        "sparse": (genreg.SparseDeviation(G, 1.0), (1, 5), mu),
        "tv": (genreg.TotalVariation(X, lower=0.0), (0, 4), None),
    }
    sweeps = {}
    for name, (R, (low, high), mus) in studies.items():
        result = genreg.sweep(
            A,
            y,
            R,
            lam=torch.logspace(low, high, values),
            mu=mus,
            noise_std=noise_std,
            max_iter=max_iter,
            reference=truth,
            data_range=1.0,
            progress=False,
        )
        sweeps[name] = result
        result.show().savefig(folder / f"{name}.png", dpi=150)
        result.to_csv(folder / f"{name}.csv")
        best, morozov = result.best("psnr"), result.choose("morozov")
        corner = result.choose("l-curve", mu=best.mu)
        print(f"{name}: {result.lam.numel()} problems in {result.time:.1f} s")
        pair = f"λ = {best.lam:.3g}" + ("" if best.mu is None else f", μ = {best.mu:.3g}")
        print(f"  best mean PSNR {best.mean:.1f} ± {best.std:.1f} dB at {pair}")
        print(f"  Morozov {morozov.psnr.mean():.1f} dB, L-curve {corner.psnr.mean():.1f} dB")
        print(morozov)
    return sweeps


if __name__ == "__main__":
    main()
