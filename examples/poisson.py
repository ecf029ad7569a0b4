"""X-ray tomography at low dose: the data are counts of photons, and the fidelity is that of Poisson noise.

A detector pixel expects I₀ exp(-A x) photons, and b more from scatter. To take logarithms and assume one noise
level, as `GaussianFidelity` does, is to trust rays that hardly a photon has passed as much as the open beam.
"""

import argparse

import numpy as np
import odl
from odl.applications import tomo

import genreg
from genreg.evaluation import psnr
from genreg.plotting import image_grid


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fixed λ, one starting point, coarse tolerance")
    parser.add_argument("--output", default="poisson.png", help="figure")
    options = parser.parse_args(arguments)

    X = odl.uniform_discr([-1, -1], [1, 1], (56, 56), dtype="float32")
    A = 10 * genreg.operators.ray_transform(
        X, tomo.parallel_beam_geometry(X, 40)
    )  # attenuation 10 where x = 1
    truth = X.element(genreg.datasets.shapes(1, seed=8)[0].numpy())
    intensity, background = 30.0, 1.0
    expected = intensity * np.exp(-A(truth).asarray()) + background
    counts = A.range.element(np.random.default_rng(0).poisson(expected))
    poisson = genreg.PoissonFidelity(A, counts, intensity=intensity, background=background)

    # the same data as line integrals, with the best noise level that all of them can share
    photons = np.maximum(counts.asarray() - background, 0.5)
    integrals = A.range.element(-np.log(photons / intensity))
    noise_std = float(np.sqrt(np.mean((integrals.asarray() - A(truth).asarray()) ** 2)))
    gaussian = genreg.GaussianFidelity(A, integrals, noise_std)

    tv = genreg.TotalVariation(X, lower=0.0)
    prior = genreg.HardConstraint(genreg.load_generator("shapes-vae", range=X))
    cases = {
        "total variation, Gaussian": (integrals, tv, gaussian, 1500.0),
        "total variation, Poisson": (counts, tv, poisson, 450.0),
        "generative prior, Gaussian": (integrals, prior, gaussian, 70.0),
        "generative prior, Poisson": (counts, prior, poisson, 10.0),
    }
    print(f"{counts.asarray().min():.0f} to {counts.asarray().max():.0f} photons in a detector pixel")
    results = {}
    for name, (y, regulariser, fidelity, lam) in cases.items():
        results[name] = rec = genreg.reconstruct(
            A,
            y,
            regulariser,
            fidelity=fidelity,
            lam=lam if options.quick else "morozov",
            factor=1.05,  # counts this low deviate by more than dim(Y), see PoissonFidelity
            restarts=1 if options.quick or regulariser is tv else 4,
            tol=1e-3 if options.quick else None,
            progress=False,
        )
        score = float(psnr(rec.image, truth, data_range=1.0))
        print(
            f"{name}: {score:.1f} dB, λ = {float(rec.lam):.3g}, discrepancy / level = {float(rec.discrepancy):.3f}"
        )
    images = {"truth": truth, **{name: rec.image for name, rec in results.items()}}
    image_grid(images, errors=True, transposed=True).savefig(options.output, dpi=200)
    return results, truth


if __name__ == "__main__":
    main()
