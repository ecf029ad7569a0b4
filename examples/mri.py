"""MRI with a structured prior: the decoder of "brain-supn" says of every pixel how its error goes with those of others.

The image comes from the model itself, a draw of p(z) p(x | z), so that no data is needed; k-space is sampled along a
few spokes. `JointPrior` maximises p(x, z | y). Given z, x is Gaussian: `posterior` has draws of it, and the standard
deviation of every pixel.
"""

import argparse

import numpy as np
import odl
import torch

import genreg
from genreg.evaluation import psnr
from genreg.operators import fourier_sampling, radial_mask, to_torch
from genreg.plotting import image_grid


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few iterations and draws")
    parser.add_argument("--output", default="mri.png", help="figure")
    options = parser.parse_args(arguments)

    X = odl.uniform_discr([-1, -1], [1, 1], (128, 128), dtype="float32")
    G = genreg.load_generator("brain-supn", range=X)
    A = fourier_sampling(X, radial_mask(X.shape, 30))
    noise_std = 0.02

    decoded = G.decode(0.5 * torch.randn(1, G.domain.size, generator=torch.Generator().manual_seed(1)))
    truth = decoded.mean + decoded.precision.sample(1, 1)[0]
    y = to_torch(A)(truth)
    y = y + 2**0.5 * noise_std * torch.randn(
        y.shape, dtype=y.dtype, generator=torch.Generator().manual_seed(2)
    )

    tv = genreg.TotalVariation(X)
    settings = {"noise_std": noise_std, "progress": False, "max_iter": 3 if options.quick else 20}
    prior = genreg.JointPrior(G)
    rec = genreg.reconstruct(A, y, prior, lam=1.0, **settings)
    results = {
        "TV": genreg.reconstruct(
            A, y, tv, lam="morozov", noise_std=noise_std, tol=1e-3, progress=False
        ).image,
        "isotropic": genreg.reconstruct(A, y, genreg.JointPrior(G, G.std**-2), lam=1.0, **settings).image,
        "SUPN": rec.image,
    }
    posterior = prior.posterior(genreg.GaussianFidelity(A, y, noise_std), rec.blocks["z"])
    draws = posterior.sample(4 if options.quick else 50, 3)
    for name, image in results.items():
        print(f"{name}: {float(psnr(image, truth, data_range=1.0).mean()):.1f} dB")
    images = {"truth": truth[0], **{name: image[0] for name, image in results.items()}}
    images |= {"one draw": draws[0, 0], "5 x standard deviation": 5 * draws.std(0)[0]}
    elements = {name: X.element(np.asarray(image)) for name, image in images.items()}
    image_grid(elements, transposed=True).savefig(options.output, dpi=200)
    return results, truth


if __name__ == "__main__":
    main()
