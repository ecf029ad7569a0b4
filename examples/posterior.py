"""Tomography from few angles, with the posterior of a generative prior: mean, standard deviation, credible intervals.

Chains of Hamiltonian Monte Carlo draw latent vectors from p(z | y); the images G(z) are as likely, given the data, as
the model knows. Where they differ the data leave room.
"""

import argparse

import odl
import torch
from odl.applications import tomo

import genreg
from genreg import sampling
from genreg.evaluation import psnr
from genreg.plotting import image_grid


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few steps")
    parser.add_argument("--output", default="posterior.png", help="figure")
    options = parser.parse_args(arguments)

    X = odl.uniform_discr([-1, -1], [1, 1], (56, 56), dtype="float32")
    A = genreg.operators.ray_transform(X, tomo.parallel_beam_geometry(X, 6))
    truth = X.element(genreg.datasets.shapes(1, seed=8)[0].numpy())
    noise_std = 0.03
    y = A(truth) + noise_std * odl.core.phantom.noise.white_noise(A.range, seed=1)

    G = genreg.load_generator("shapes-vae", range=X)
    posterior = sampling.LatentPosterior(genreg.GaussianFidelity(A, y, noise_std), G)
    steps = 60 if options.quick else 1000
    samples = sampling.sample(posterior, chains=8, steps=steps, seed=0, progress=False)
    tv = genreg.reconstruct(
        A, y, genreg.TotalVariation(X, lower=0), noise_std=noise_std, lam="morozov", progress=False
    )

    print(samples.advice())
    print(sampling.diagnose(samples).advice())
    lower, upper = samples.interval(0.9)
    uncertain = samples.std.asarray() > 0.01  # the others have intervals of no width, at 0 or 1
    inside = (lower.asarray() <= truth.asarray()) & (truth.asarray() <= upper.asarray())
    print(f"total variation {float(psnr(tv.image, truth, data_range=1.0)):.1f} dB")
    print(f"posterior mean {float(psnr(samples.mean, truth, data_range=1.0)):.1f} dB")
    print(
        f"{uncertain.sum()} pixels are uncertain; {100 * inside[uncertain].mean():.0f} % lie in their 90 % intervals"
    )

    draws = samples.images(0)[torch.linspace(0, samples.z.shape[0] * 8 - 1, 2).long()]
    images = {"truth": truth, "total variation": tv.image, "posterior mean": samples.mean}
    images |= {f"draw {k + 1}": X.element(draw.numpy()) for k, draw in enumerate(draws)}
    images["5 x standard deviation"] = 5 * samples.std
    image_grid(images, transposed=True).savefig(options.output, dpi=200)
    return samples, tv, truth


if __name__ == "__main__":
    main()
