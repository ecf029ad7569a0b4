"""A prior of your own: train an autoencoder on your images, save it, reconstruct with it.

The images are random shapes here; with yours, give `fit` a tensor (N, rows, columns) with values in [0, 1].
The data are compressed sensing: 100 random measurements of 3136 pixels.
"""

import argparse
from pathlib import Path

import odl
import torch

import genreg
from genreg import datasets, networks, operators, training, weights
from genreg.evaluation import psnr
from genreg.plotting import image_grid


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a few steps of training, to see that it works")
    parser.add_argument("--folder", type=Path, default=Path("own-model"), help="for weights and the figure")
    options = parser.parse_args(arguments)

    config = networks.ConvConfig(image_shape=(56, 56), latent_dim=10, channels=(8, 16, 32), variational=False)
    torch.manual_seed(0)
    model = config.build()
    card = training.fit(
        model,
        datasets.shapes,  # draws new images for every step
        steps=60 if options.quick else 3000,
        batch_size=64,
        lr=3e-3,
        schedule="one-cycle",
        validation=datasets.shapes(200, seed=2**40),
        progress=not options.quick,
    )
    training.whiten(model, datasets.shapes(2000, seed=1))  # latent vectors of mean zero, covariance one
    file, _ = weights.save(options.folder / "my-shapes", model, {"name": "my-shapes", **card})
    print(f"{file}: {card['score']['psnr']:.1f} dB on held-out images")

    X = odl.uniform_discr([0, 0], [1, 1], (56, 56), dtype="float32")
    A = operators.normalised(operators.gaussian_measurements(X, 100, seed=0))
    truth = datasets.shapes(2 if options.quick else 8, seed=7)
    clean = operators.to_torch(A)(truth)
    noise_std = 0.2 * float(clean.std())
    y = clean + noise_std * torch.randn(clean.shape, generator=torch.Generator().manual_seed(1))

    G = genreg.load_generator(file, range=X)
    settings = {"noise_std": noise_std, "progress": False}
    rec = genreg.reconstruct(A, y, genreg.HardConstraint(G), lam=1.0, restarts=8, **settings)
    tv = genreg.reconstruct(A, y, genreg.TotalVariation(X, lower=0.0), lam="morozov", **settings)
    scores = [psnr(r.image, truth, data_range=1.0).mean().item() for r in (rec, tv)]
    print(f"from {len(y[0])} measurements: own model {scores[0]:.1f} dB, TV {scores[1]:.1f} dB")
    figure = image_grid({"truth": truth, "own model": rec.image, "total variation": tv.image}, errors=True)
    figure.savefig(options.folder / "reconstructions.png", dpi=150)
    return card, scores


if __name__ == "__main__":
    main()
