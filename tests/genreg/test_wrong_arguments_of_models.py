"""Wrong arguments of training, sampling, evaluation and data: the exact exception, and the words of its message."""

import math

import numpy as np
import odl
import torch

import genreg
from genreg import adaptive, datasets, evaluation, latent, sampling, training
from genreg import empirical_bayes as eb
from genreg.networks import DenseConfig
from genreg.operators import gaussian_measurements

from ..refusals import wrong_arguments
from .conftest import LinearModel

X = odl.uniform_discr([0, 0], [8, 5], (4, 5))
A = gaussian_measurements(X, 12, seed=0)
G = genreg.Generator(LinearModel(), X)
Y = torch.randn(2, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
FIDELITY = genreg.GaussianFidelity(A, Y, 0.5)
POSTERIOR = sampling.LatentPosterior(FIDELITY, G)
IMAGES = torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(1))
SMALL = torch.rand(8, 4, 4, generator=torch.Generator().manual_seed(2))
Z3 = odl.rn(3)
OBSERVED = genreg.GaussianFidelity(
    odl.IdentityOperator(Z3),
    torch.randn(30, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(3)),
    0.1,
)
META = torch.zeros(2, 3, dtype=torch.float64, device="meta")
RUN = {"posterior": POSTERIOR, "chains": 1, "steps": 2, "init": "prior", "seed": 0, "progress": False}


def fit(**settings):
    model = DenseConfig(image_shape=(4, 4), latent_dim=2, encoder=(3,), decoder=(3,)).build()
    return training.fit(
        model, **{"images": SMALL, "steps": 1, "batch_size": 4, "progress": False, **settings}
    )


def empirical_bayes(**settings):
    settings = {"fidelity": OBSERVED, "prior": eb.GaussianGraphicalModel(Z3), **settings}
    return eb.fit(**{"steps": 1, "batch_size": 4, "draws": 1, "progress": False, **settings})


CALLS = {
    "Candidates": (adaptive.Candidates, {"A": A, "y": Y, "noise_std": 0.1}),
    "DensityPower": (latent.Power, {"Z": Z3, "q": 1.0}),
    "GaussianGraphicalModel": (eb.GaussianGraphicalModel, {"space": Z3}),
    "GaussianGraphicalModel.sample": (eb.GaussianGraphicalModel(Z3).sample, {"n": 1, "seed": 0}),
    "GraphicalLasso": (eb.GraphicalLasso, {}),
    "HMC": (sampling.HMC, {}),
    "SKROCK": (sampling.SKROCK, {}),
    "Sphere": (latent.Sphere, {"Z": Z3}),
    "adaptive_measurements": (
        adaptive.adaptive_measurements,
        {
            "problem": adaptive.Candidates(A, Y, 0.1),
            "policy": adaptive.Random(),
            "rounds": 1,
            "k": 1,
            "G": G,
            "chains": 1,
            "steps": 4,
            "draws": 2,
            "progress": False,
        },
    ),
    "add_gradients": (datasets.add_gradients, {"images": IMAGES, "gradients": 2, "seed": 0}),
    "discs_with_holes": (datasets.discs_with_holes, {"n": 1, "seed": 0, "size": 16}),
    "fit": (fit, {}),
    "gibbs": (
        sampling.gibbs,
        {
            "prior": genreg.JointPrior(G),
            "fidelity": FIDELITY,
            "z": np.zeros((2, 3)),
            "draws": 1,
            "burn_in": 0,
            "progress": False,
        },
    ),
    "intensity_ramps": (datasets.intensity_ramps, {"shape": (4, 5)}),
    "langevin": (sampling.langevin, RUN),
    "mmd": (evaluation.mmd, {"a": IMAGES, "b": IMAGES + 0.1, "permutations": 2}),
    "prior_fit": (evaluation.prior_fit, {"codes": torch.rand(20, 2)}),
    "psnr": (evaluation.psnr, {"images": IMAGES, "reference": IMAGES + 0.1, "data_range": 1.0}),
    "rank_transform": (evaluation.rank_transform, {"draws": np.zeros((2, 2, 3)), "truth": np.ones((2, 3))}),
    "sample": (sampling.sample, RUN),
    "screened_starts": (
        sampling.screened_starts,
        {"posterior": POSTERIOR, "chains": 1, "draws": 3, "iterations": 0},
    ),
    "shapes": (datasets.shapes, {"n": 1, "seed": 0}),
    "smoothness": (evaluation.smoothness, {"G": G, "points": 2}),
    "sparsification": (evaluation.sparsification, {"error": IMAGES, "uncertainty": IMAGES}),
    "ssim": (evaluation.ssim, {"images": IMAGES, "reference": IMAGES, "data_range": 1.0}),
}
# of these, which take time or files, only what is refused at the entry
OTHERS = {
    "training.fit_gan": (training.fit_gan, {"model": None, "images": SMALL, "steps": 1}),
    "distil": (training.distil, {"model": None, "inputs": SMALL, "outputs": SMALL, "steps": 1}),
    "earth_mover": (evaluation.earth_mover, {"generated": IMAGES, "test": IMAGES}),
    "empirical_bayes.fit": (empirical_bayes, {}),
    "evaluate": (evaluation.evaluate, {"G": G}),
    "expectation_maximisation": (
        eb.expectation_maximisation,
        {"fidelity": OBSERVED, "prior": eb.GaussianGraphicalModel(Z3), "max_iter": 1, "progress": False},
    ),
    "fastmri": (datasets.fastmri, {"folder": "/nowhere"}),
    "fit_encoder": (training.fit_encoder, {"model": None, "pairs": None, "steps": 1}),
    "fit_range": (evaluation.fit_range, {"G": G, "images": IMAGES[:, :4, :5], "data_range": 1.0}),
    "htc2022": (datasets.htc2022, {"path": "/nowhere.mat"}),
    "image_folder": (datasets.image_folder, {"path": "/nowhere", "size": 8}),
}

TABLE = [
    ("fit", {"steps": None}, TypeError, "steps must be an integer, got None"),
    ("fit", {"batch_size": 4.0}, TypeError, "batch_size must be an integer, got 4.0"),
    ("fit", {"seed": True}, TypeError, "seed must be an integer, got True"),
    ("fit", {"seed": 2**70}, ValueError, "seed must be at most 2**63 - 1"),
    ("fit", {"validate_every": "often"}, TypeError, "validate_every must be an integer, got 'often'"),
    ("fit", {"images": SMALL[:0]}, ValueError, "images must have the shape (N, 4, 4), got (0, 4, 4)"),
    ("fit", {"images": SMALL / 0}, ValueError, "images must be finite"),
    ("distil", {"mean_steps": 1.5}, TypeError, "mean_steps must be an integer, got 1.5"),
    ("empirical_bayes.fit", {"n_critic": None}, TypeError, "n_critic must be an integer, got None"),
    (
        "empirical_bayes.fit",
        {"draws": 10**12},
        ValueError,
        "batch_size times draws must be smaller, got 4000000000000",
    ),
    ("expectation_maximisation", {"max_iter": "9"}, TypeError, "max_iter must be an integer, got '9'"),
    ("expectation_maximisation", {"seed": 0.5}, TypeError, "seed must be an integer, got 0.5"),
    (
        "GaussianGraphicalModel",
        {"components": 10**12},
        ValueError,
        "components must be smaller, got 1000000000000",
    ),
    ("GaussianGraphicalModel", {"mean": 0}, ValueError, "mean must be one of ['zero', 'learned'], got 0"),
    ("GaussianGraphicalModel.sample", {"n": -1}, ValueError, "n must be a positive integer, got -1"),
    ("GraphicalLasso", {"gamma": None}, TypeError, "gamma must be a number, got None"),
    ("sample", {"kernel": "HMC"}, TypeError, "kernel must be a kernel such as HMC(), got 'HMC'"),
    ("sample", {"kernel": sampling.HMC}, TypeError, "kernel must be a kernel such as HMC(), got <class"),
    ("sample", {"chains": 10**12}, ValueError, "chains must be smaller, got 1000000000000: that takes"),
    ("sample", {"chains": None}, TypeError, "chains must be an integer, got None"),
    ("sample", {"steps": 10**13, "thin": 1}, ValueError, "steps / thin must be smaller, got 10000000000000"),
    ("sample", {"burn_in": 2}, ValueError, "burn_in must be smaller than steps, 2, got 2"),
    ("sample", {"step": "x"}, TypeError, "step must be a number or a tensor (B,), got 'x'"),
    ("sample", {"init": META}, TypeError, "init must hold values, got a tensor on the meta device"),
    (
        "sample",
        {"init": np.full((2, 3), np.nan)},
        ValueError,
        "init must be finite, got 6 NaN or infinite values in samples 0, 1 of 2",
    ),
    ("sample", {"metric": "full"}, ValueError, "metric must be one of"),
    ("sample", {"denoise": "no"}, TypeError, "denoise must be True or False, got 'no'"),
    ("sample", {"seed": "a"}, TypeError, "seed must be an integer, got 'a'"),
    ("langevin", {"adjusted": 1}, TypeError, "adjusted must be True or False, got 1"),
    ("gibbs", {"z": np.zeros((3, 3))}, ValueError, "z must have the shape (2, 3), got (3, 3)"),
    ("gibbs", {"chains": 10**12}, ValueError, "chains must be smaller, got 1000000000000"),
    ("gibbs", {"step": None}, TypeError, "step must be a number, got None"),
    ("gibbs", {"checkpoint": 3}, TypeError, "checkpoint must be a string or a path, got int"),
    ("gibbs", {"resume": 1}, TypeError, "resume must be True or False, got 1"),
    ("gibbs", {"interweave": None}, TypeError, "interweave must be True or False, got None"),
    ("screened_starts", {"draws": 10**13}, ValueError, "draws must be smaller, got 10000000000000"),
    ("screened_starts", {"posterior": G}, TypeError, "posterior must be a LatentPosterior, got Generator"),
    ("HMC", {"leapfrog": 1.5}, TypeError, "leapfrog must be an integer, got 1.5"),
    ("Candidates", {"batch": 1.5}, TypeError, "batch must be an integer, got 1.5"),
    ("Candidates", {"groups": 1.5}, TypeError, "groups must be an integer, got 1.5"),
    ("adaptive_measurements", {"rounds": None}, TypeError, "rounds must be an integer, got None"),
    ("adaptive_measurements", {"checkpoint": 3}, TypeError, "checkpoint must be a string or a path, got int"),
    ("adaptive_measurements", {"resume": None}, TypeError, "resume must be True or False, got None"),
    ("sample", {"checkpoint": 3}, TypeError, "checkpoint must be a string or a path, got int"),
    ("adaptive_measurements", {"seed": math.nan}, TypeError, "seed must be an integer, got nan"),
    ("shapes", {"n": 10**12}, ValueError, "n must be smaller, got 1000000000000: that takes"),
    ("shapes", {"n": True}, TypeError, "n must be an integer, got True"),
    ("discs_with_holes", {"jitter": "x"}, TypeError, "jitter must be a number, got 'x'"),
    ("discs_with_holes", {"n": 10**12}, ValueError, "n must be smaller, got 1000000000000"),
    ("intensity_ramps", {"shape": 4}, TypeError, "shape must be 2 integers, got 4"),
    ("fastmri", {"folder": None}, TypeError, "`folder` must be a string or a path, got NoneType"),
    ("htc2022", {"path": 3}, TypeError, "path must be a string or a path, got int"),
    ("image_folder", {"path": None}, TypeError, "path must be a string or a path, got NoneType"),
    ("image_folder", {"size": (8, 0)}, ValueError, "size[1] must be a positive integer, got 0"),
    (
        "psnr",
        {"images": None},
        TypeError,
        "images must be an ODL element, a tensor or an array of numbers, got None",
    ),
    (
        "psnr",
        {"reference": IMAGES[0, 0]},
        ValueError,
        "reference must have the shape (n, m) or (B, n, m), got (16,)",
    ),
    (
        "ssim",
        {"images": IMAGES[:, :4], "reference": IMAGES[:, :4]},
        ValueError,
        "images must have at least 11 pixels",
    ),
    ("mmd", {"a": None}, TypeError, "a must be an ODL element, a tensor or an array of numbers, got None"),
    ("mmd", {"factors": [0.0]}, ValueError, "factors[0] must be positive and finite, got 0.0"),
    ("mmd", {"permutations": 2.0}, TypeError, "permutations must be an integer, got 2.0"),
    ("earth_mover", {"test": IMAGES[:0]}, ValueError, "test must be images (n, *shape), at least one"),
    ("prior_fit", {"projections": 10**12}, ValueError, "projections must be smaller, got 1000000000000"),
    ("prior_fit", {"codes": "x"}, TypeError, "codes must be an ODL element, a tensor or an array"),
    ("rank_transform", {"truth": np.full((2, 3), np.nan)}, ValueError, "truth must be finite, got 6"),
    ("smoothness", {"G": None}, TypeError, "G must be a genreg.Generator, got NoneType"),
    ("smoothness", {"points": 10**12}, ValueError, "points must be smaller, got 1000000000000"),
    ("sparsification", {"steps": True}, TypeError, "steps must be an integer, got True"),
    ("sparsification", {"measure": 2}, ValueError, "measure must be one of ['mae', 'rmse'], got 2"),
    ("fit_range", {"images": IMAGES}, ValueError, "images must have the shape (N, 4, 5), got (3, 16, 16)"),
    ("evaluate", {"seed": -1}, ValueError, "seed must be a non-negative integer, got -1"),
    ("DensityPower", {"Z": np.zeros(3)}, TypeError, "Z must be an ODL tensor space such as odl.rn(dim)"),
    (
        "psnr",
        {"data_range": 1e300},
        ValueError,
        "data_range must be a number between 0 and 1e+100, got 1e+300",
    ),
]


test_the_arguments_of_the_table_are_right_but_for_one, test_wrong_arguments = wrong_arguments(
    CALLS, TABLE, OTHERS
)
