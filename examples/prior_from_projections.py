"""A prior of images learned from noisy projections alone, without a single clean image, and reconstructions with it.

The images, 16 x 16, are of discs and rectangles. Of each of some thousand there are 12 noisy projections. Expectation
maximisation (`genreg.empirical_bayes`) learns the mean image and a sparse precision, a Gaussian graphical model of the
pixels, from a start that knows only that neighbours are alike. As a joint prior it serves in `genreg.reconstruct`.
A Gaussian can't know edges, so that total variation, which was made for such images, is a strong rival.
"""

import argparse

import odl
import torch
from odl.applications import tomo

import genreg
from genreg import empirical_bayes
from genreg.evaluation import psnr
from genreg.plotting import image_grid

SIDE, NOISE = 16, 0.05


def images(n, seed):
    """Shapes of 56 x 56 pixels, their margin cut off, averaged over 3 x 3 pixels."""
    return torch.nn.functional.avg_pool2d(genreg.datasets.shapes(n, seed=seed)[:, 4:52, 4:52], 3)


def smooth_precision(tie, own):
    """A precision that ties each pixel to its four neighbours."""
    D = torch.diff(torch.eye(SIDE, dtype=torch.float64), dim=0)
    L = torch.kron(torch.eye(SIDE), D.T @ D) + torch.kron(D.T @ D, torch.eye(SIDE))
    return tie * L + own * torch.eye(SIDE**2, dtype=torch.float64)


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few projections, few iterations")
    parser.add_argument("--output", default="prior_from_projections.png", help="figure")
    options = parser.parse_args(arguments)

    X = odl.uniform_discr([-1, -1], [1, 1], (SIDE, SIDE), dtype="float32")
    A = genreg.operators.ray_transform(X, tomo.parallel_beam_geometry(X, 12))

    def measured(x, seed):
        clean = genreg.to_torch(A)(x)
        return clean + NOISE * torch.randn(clean.shape, generator=torch.Generator().manual_seed(seed))

    count = 500 if options.quick else 3000
    unseen = images(count, seed=0)  # only their projections are used, but for the comparison at the end
    fidelity = genreg.GaussianFidelity(A, measured(unseen, 1), NOISE)
    prior = empirical_bayes.GaussianGraphicalModel(
        X,
        mean="learned",
        precision=smooth_precision(60, 5),
        estimator=empirical_bayes.GraphicalLasso(lam=0.2),
    )
    dense, turns = (5, 6) if options.quick else (22, 28)
    found = empirical_bayes.expectation_maximisation(
        fidelity, prior, dense=dense, max_iter=turns, progress=False
    )
    print(
        f"{count} x 12 projections, noise {NOISE}; {int(found.history[-1]['edges'])} edges of {256 * 255 // 2}"
    )

    truth = images(4 if options.quick else 50, seed=1)
    y = measured(truth, 2)
    learned = genreg.reconstruct(A, y, prior.joint_prior(), noise_std=NOISE, lam=1.0, progress=False)
    shown = {"truth": truth, "from projections": learned.image}
    clean = empirical_bayes.GaussianGraphicalModel(
        X,
        mean="learned",
        means=unseen.flatten(1).double().mean(0, keepdim=True),
        precision=torch.linalg.inv(torch.cov(unseen.flatten(1).double().T) + 1e-4 * torch.eye(SIDE**2)),
    )
    shown["from clean images"] = genreg.reconstruct(
        A, y, clean.joint_prior(), noise_std=NOISE, lam=1.0, progress=False
    ).image
    rivals = {
        "Tikhonov": genreg.Tikhonov(X, odl.Gradient(X)),
        "total variation": genreg.TotalVariation(X, lower=0),
    }
    for name, rival in rivals.items():
        shown[name] = genreg.reconstruct(A, y, rival, noise_std=NOISE, lam="morozov", progress=False).image
    for name, x in shown.items():
        if name != "truth":
            print(f"{name:28s} {psnr(x, truth, data_range=1.0).mean():.2f} dB")
    image_grid({name: x[:4] for name, x in shown.items()}, transposed=True).savefig(options.output, dpi=150)
    return prior, {name: psnr(x, truth, data_range=1.0).mean() for name, x in shown.items()}


if __name__ == "__main__":
    main()
