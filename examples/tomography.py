"""Tomography of random shapes: a trained generator as the prior against total variation.

The problem is written with ODL's spaces and operators; the data are an ODL element, and so are the answers.
"""

import argparse

import odl
from odl.applications import tomo

import genreg
from genreg.evaluation import psnr
from genreg.plotting import image_grid


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer starting points and iterations")
    parser.add_argument("--output", default="tomography.png", help="figure")
    options = parser.parse_args(arguments)

    X = odl.uniform_discr([-1, -1], [1, 1], (56, 56), dtype="float32")
    A = genreg.operators.ray_transform(
        X, tomo.parallel_beam_geometry(X, 40)
    )  # or ODL's own tomo.RayTransform
    truth = X.element(genreg.datasets.shapes(1, seed=8)[0].numpy())
    noise_std = 0.03
    y = A(truth) + noise_std * odl.core.phantom.noise.white_noise(A.range, seed=1)

    G = genreg.load_generator("shapes-vae", range=X)  # trained weights come with the package
    settings = {"noise_std": noise_std, "lam": "morozov", "progress": False}
    rec = genreg.reconstruct(A, y, genreg.HardConstraint(G), restarts=1 if options.quick else 4, **settings)
    tv = genreg.reconstruct(A, y, genreg.TotalVariation(X, lower=0.0), **settings)

    for name, result in (("hard constraint", rec), ("total variation", tv)):
        score = float(psnr(result.image, truth, data_range=1.0))
        print(
            f"{name}: {score:.1f} dB, λ = {float(result.lam):.3g}, residual / level = {float(result.discrepancy):.3f}"
        )
    images = {"truth": truth, "generative prior": rec.image, "total variation": tv.image}
    image_grid(images, errors=True, transposed=True).savefig(options.output, dpi=200)
    return rec, tv, truth


if __name__ == "__main__":
    main()
