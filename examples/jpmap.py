"""Joint posterior maximisation: the image may leave the range of the generator as far as the model's own γ says.

`JointPrior` is the negative log-density of image and latent vector under a VAE; with a Gaussian fidelity and λ = 1 the
reconstruction is the maximum of their joint posterior (JPMAP). A larger β = 1/γ² ties the image to the range, a smaller
one lets it follow the data: the shapes+ here have a bright spot that the generator has never seen.
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
    parser.add_argument("--quick", action="store_true", help="20 angles, coarse tolerance")
    parser.add_argument("--output", default="jpmap.png", help="figure")
    options = parser.parse_args(arguments)

    X = odl.uniform_discr([-1, -1], [1, 1], (56, 56), dtype="float32")
    A = genreg.operators.ray_transform(X, tomo.parallel_beam_geometry(X, 20 if options.quick else 40))
    G = genreg.load_generator("shapes-vae", range=X)
    truth = X.element(genreg.datasets.shapes_plus(1, seed=3)[0].numpy())
    noise_std = 0.05
    noise = noise_std * np.random.default_rng(0).standard_normal(A.range.shape).astype("float32")
    y = A(truth) + A.range.element(noise)

    tol = 1e-2 if options.quick else 1e-4
    results = {}
    for beta in (G.std**-2, 3000.0, 300.0):
        prior = genreg.JointPrior(G, beta)
        results[f"JPMAP, β = {beta:.0f}"] = genreg.reconstruct(
            A, y, prior, noise_std=noise_std, lam=1.0, tol=tol, progress=False
        ).image
    near = genreg.solvers.jpmap_continuation(  # at most 5 grey levels of 255 off the range, on average
        A, y, G, noise_std=noise_std, epsilon=(5 / 255) ** 2 * X.size, tol=tol, progress=False
    )
    results[f"5 grey levels off, β = {float(near.history['beta'][-1]):.0f}"] = near.image
    hard = genreg.solvers.levenberg_marquardt(A, y, G, noise_std=noise_std, lam=0.5, tol=tol, progress=False)
    results["in the range"] = hard.image
    for name, image in results.items():
        print(f"{name}: {float(psnr(image, truth, data_range=1.0)):.1f} dB")
    image_grid({"truth": truth, **results}, errors=True, transposed=True).savefig(options.output, dpi=200)
    return results, truth


if __name__ == "__main__":
    main()
