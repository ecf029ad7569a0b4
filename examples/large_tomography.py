"""Low-dose fan-beam tomography at 512 x 512: a fully convolutional prior, trained on small crops, against TV.

The images are absorption coefficients in 1/mm, the data logarithms of counts: their noise follows from the counts. The
start is the code of a rough reconstruction, and nothing has a matrix. The weights are those of any model for images of
any size, by name or path; ``--train FILE`` trains a small one on synthetic images first, in a few minutes.
"""

import argparse
import functools
import resource
import time
from pathlib import Path

import numpy as np
import odl
import torch
from odl.applications import tomo

import genreg
from genreg.evaluation import psnr
from genreg.networks import FullyConvolutionalConfig
from genreg.plotting import image_grid

SCALE = 0.02  # 1/mm, of a grey value of one: water
WIDTH = 256.0  # mm


def train(path, steps, count):
    """A small prior of synthetic images of 64 x 64 pixels."""
    sampler = functools.partial(genreg.datasets.dead_leaves, shape=(64, 64))
    torch.manual_seed(0)
    model = FullyConvolutionalConfig(image_shape=(64, 64)).build()
    options = {"batch_size": 16, "lr": 2e-3, "schedule": "one-cycle", "kl_warmup": steps // 4, "clip": 100.0}
    card = genreg.training.fit(
        model, sampler(count, seed=1), steps=steps, validation=sampler(50, seed=2), **options
    )
    genreg.weights.save(path, model, card)


def scanner(X, views):
    """A fan of flat detector pixels of 1 mm in the middle, sources on a circle of 500 mm."""
    bins = round(1.5 * X.shape[0])
    detector = odl.uniform_partition(-1.5 * WIDTH, 1.5 * WIDTH, bins)
    angles = odl.uniform_partition(0, 2 * np.pi, views)
    return tomo.FanBeamGeometry(angles, detector, src_radius=500.0, det_radius=500.0)


def phantom(X):
    """Dead leaves in a disc, as an absorption coefficient; images that no weights were trained on."""
    image = genreg.datasets.dead_leaves(1, seed=2026, shape=X.shape)[0].numpy()
    row, column = X.meshgrid
    return X.element(SCALE * image * (row**2 + column**2 < (0.46 * WIDTH) ** 2))


def timed(name, solve, truth):
    """Run a reconstruction, and print how good it is and what it took."""
    start = time.perf_counter(), time.process_time()
    result = solve()
    wall, cpu = time.perf_counter() - start[0], time.process_time() - start[1]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    score = float(psnr(result.image, truth, data_range=SCALE))
    print(
        f"{name}: {score:.2f} dB, residual / level = {float(result.discrepancy):.3f}, {int(result.iterations)} "
        f"iterations ({result.advice()}), {wall:.0f} s ({cpu:.0f} s of processors), peak memory {peak:.2f} GiB",
        flush=True,
    )
    return result


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", help="name of shipped weights or a path; by default they are trained")
    parser.add_argument(
        "--train", default="large_tomography.safetensors", help="where to keep weights trained here"
    )
    parser.add_argument("--steps", type=int, default=800, help="steps of the training")
    parser.add_argument("--side", type=int, default=512, help="rows and columns of the image")
    parser.add_argument("--views", type=int, default=360)
    parser.add_argument("--counts", type=float, default=1e4, help="of a ray through air")
    parser.add_argument(
        "--tv", type=float, nargs="+", help="λ of total variation, the best of which is shown"
    )
    parser.add_argument(
        "--max-iter", type=int, default=60, help="of the generative prior; total variation takes 5 times"
    )
    parser.add_argument("--quick", action="store_true", help="a small image, and hardly any training")
    parser.add_argument("--output", default="large_tomography.png", help="figure")
    options = parser.parse_args(arguments)
    if options.quick:
        options.side, options.views, options.steps, options.max_iter = 48, 30, 4, 4
    if options.weights is None:
        options.weights = Path(options.train)
        train(options.weights, options.steps, 32 if options.quick else 1600)

    X = odl.uniform_discr([-WIDTH / 2] * 2, [WIDTH / 2] * 2, (options.side,) * 2, dtype="float32")
    A = genreg.operators.ray_transform(X, scanner(X, options.views), method="astra")
    truth = phantom(X)
    counts = np.random.default_rng(0).poisson(options.counts * np.exp(-A(truth).asarray())).clip(1)
    y = A.range.element(-np.log(counts / options.counts))
    noise_std = A.range.element(counts**-0.5)  # of a logarithm of counts

    G = genreg.load_generator(options.weights, range=X, scale=SCALE)

    def solve(name, R, lam, times=1):
        max_iter = times * options.max_iter  # an iteration of either costs a projection and a backprojection
        settings = {"noise_std": noise_std, "tol": 1e-4, "max_iter": max_iter, "progress": False}
        return timed(f"{name}, λ = {lam:g}", lambda: genreg.reconstruct(A, y, R, lam=lam, **settings), truth)

    rec = solve(f"joint prior with {G.domain.size} latent dimensions", genreg.JointPrior(G), 1.0)
    weights = options.tv or [30.0, 100.0, 300.0]
    tv = [solve("total variation", genreg.TotalVariation(X, lower=0.0), lam, 5) for lam in weights]
    best = max(tv, key=lambda result: float(psnr(result.image, truth, data_range=SCALE)))
    images = {"truth": truth, "generative prior": rec.image, "total variation": best.image}
    image_grid(images, errors=True, transposed=True).savefig(options.output, dpi=200)
    return rec, best, truth


if __name__ == "__main__":
    main()
