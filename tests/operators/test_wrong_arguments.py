"""Wrong arguments of the operators: the exact exception, and the words of its message."""

import math

import numpy as np
import odl
import torch
from odl.applications import tomo

from genreg import operators

from ..refusals import wrong_arguments

X = odl.uniform_discr([0, 0], [8, 5], (4, 5))
C = odl.cn((8, 8))
SQUARE = odl.uniform_discr([-1, -1], [1, 1], (8, 8))
TRAJECTORY = operators.radial_trajectory(3, 4)
KSPACE = torch.randn(2, 8, 8, dtype=torch.complex128, generator=torch.Generator().manual_seed(0))
META = torch.ones(4, 5, device="meta")
P = operators.SparseCholeskyPrecision(
    X, torch.zeros(4, 5).double(), torch.zeros(4, 4, 5).double(), distance=1
)
IMAGE = torch.zeros(4, 5, dtype=torch.float64)

CALLS = {
    "blur": (operators.blur, {"space": X, "kernel_or_std": 1.0, "boundary": "zero"}),
    "calibration_region": (operators.calibration_region, {"mask": np.ones((4, 4))}),
    "cartesian_mask": (
        operators.cartesian_mask,
        {"shape": (8, 8), "acceleration": 2, "centre": 0.25, "seed": 0},
    ),
    "coil_maps": (operators.coil_maps, {"kspace": KSPACE, "calibration": 4}),
    "condition": (
        operators.condition,
        {"precision": P, "mean": IMAGE, "known": np.eye(4, 5), "values": IMAGE},
    ),
    "data_prox": (operators.data_prox, {"A": odl.IdentityOperator(X)}),
    "density_compensation": (
        operators.density_compensation,
        {"trajectory": TRAJECTORY, "shape": (4, 4), "iterations": 1},
    ),
    "derivative_test": (
        operators.derivative_test,
        {"op": odl.functionals.L2NormSquared(X), "x": X.one()},
    ),
    "dot_test": (operators.dot_test, {"A": odl.IdentityOperator(X)}),
    "fourier_sampling": (operators.fourier_sampling, {"space": C, "mask": np.ones((8, 8))}),
    "gaussian_measurements": (operators.gaussian_measurements, {"space": X, "m": 3, "seed": 0}),
    "marginal_variance": (operators.marginal_variance, {"precision": P, "method": "sampling", "samples": 2}),
    "mask": (operators.mask, {"space": X, "keep": np.ones((4, 5))}),
    "neighbourhood": (operators.neighbourhood, {"distance": 1}),
    "nufft": (operators.nufft, {"space": C, "trajectory": TRAJECTORY}),
    "operator_norm": (operators.operator_norm, {"A": odl.IdentityOperator(X)}),
    "precision": (operators.IsotropicPrecision, {"space": X, "precision": 1.0}),
    "radial_mask": (operators.radial_mask, {"shape": (4, 5), "spokes": 3}),
    "radial_trajectory": (operators.radial_trajectory, {"spokes": 3, "samples": 4}),
    "ray_transform": (
        operators.ray_transform,
        {"space": SQUARE, "geometry": tomo.parallel_beam_geometry(SQUARE, 4), "cache": False},
    ),
    "sample": (P.sample, {"n": 1, "generator": 0}),
    "to_torch": (operators.to_torch, {"op": odl.IdentityOperator(X)}),
}

TABLE = [
    ("blur", {"kernel_or_std": 1e300}, ValueError, "`kernel_or_std` must be smaller, got 1e+300"),
    ("blur", {"boundary": ["zero"]}, ValueError, "`boundary` must be one of"),
    ("blur", {"space": (4, 5)}, TypeError, "`space` must be a tensor space of floating type"),
    ("cartesian_mask", {"centre": True}, TypeError, "`centre` must be a number, got True"),
    ("cartesian_mask", {"seed": 2**70}, ValueError, "`seed` must be at most 2**63 - 1, got 11805916207174"),
    (
        "cartesian_mask",
        {"seed": math.nan},
        TypeError,
        "`seed` must be an integer or a torch.Generator, got nan",
    ),
    ("coil_maps", {"calibration": True}, TypeError, "`calibration` must be an integer, got True"),
    (
        "coil_maps",
        {"method": None},
        ValueError,
        "`method` must be one of ['low-resolution', 'espirit'], got None",
    ),
    ("condition", {"known": "all"}, TypeError, "known must be an ODL element, a tensor or an array"),
    ("condition", {"max_iter": 1.5}, TypeError, "max_iter must be an integer, got 1.5"),
    ("data_prox", {"tol": True}, TypeError, "`tol` must be a number, got True"),
    ("density_compensation", {"eps": 1}, ValueError, "`eps` must be a number between"),
    ("derivative_test", {"op": 3}, TypeError, "`op` must be an ODL operator or functional, got int"),
    ("derivative_test", {"order": None}, TypeError, "`order` must be a number, got None"),
    ("dot_test", {"A": None}, TypeError, "`A` must be an ODL operator, got NoneType"),
    ("dot_test", {"rtol": math.nan}, ValueError, "`rtol` must be non-negative and finite, got nan"),
    ("fourier_sampling", {"coils": "x"}, TypeError, "`coils` must be an ODL element, a tensor or an array"),
    (
        "fourier_sampling",
        {"mask": [1, 0, 1]},
        ValueError,
        "`mask` must have the shape (8, 8) of the space, got (3,)",
    ),
    (
        "gaussian_measurements",
        {"m": 10**12},
        ValueError,
        "`m` must be smaller, got 1000000000000: that takes",
    ),
    (
        "gaussian_measurements",
        {"m": np.array([3])},
        TypeError,
        "`m` must be an integer, got an array of shape (1,)",
    ),
    (
        "gaussian_measurements",
        {"seed": "a"},
        TypeError,
        "`seed` must be an integer or a torch.Generator, got 'a'",
    ),
    ("marginal_variance", {"samples": None}, TypeError, "samples must be an integer, got None"),
    ("marginal_variance", {"precision": 1.0}, TypeError, "precision must be a Precision, got float"),
    ("mask", {"keep": [[1], [1, 0]]}, ValueError, "`keep` must be an ODL element, a tensor or an array"),
    ("mask", {"keep": True}, ValueError, "`keep` must have the shape (4, 5) of the space, got ()"),
    ("neighbourhood", {"distance": 10**12}, ValueError, "distance must be smaller, got 1000000000000"),
    ("nufft", {"density": -np.ones((3, 4))}, ValueError, "`density` must be positive and finite"),
    ("nufft", {"trajectory": 100 * TRAJECTORY}, ValueError, "`trajectory` must lie in k-space"),
    ("nufft", {"trajectory": None}, TypeError, "`trajectory` must be an ODL element, a tensor or an array"),
    ("operator_norm", {"max_iter": 0}, ValueError, "`max_iter` must be a positive integer, got 0"),
    ("operator_norm", {"weighted": "no"}, TypeError, "`weighted` must be True or False, got 'no'"),
    ("operator_norm", {"A": np.eye(3)}, TypeError, "`A` must be an ODL operator, got ndarray"),
    ("precision", {"precision": 1j}, TypeError, "precision must be real, got complex numbers"),
    ("precision", {"space": C}, TypeError, "space must be a real tensor space of floating type"),
    ("radial_mask", {"spokes": 10**12}, ValueError, "`spokes` must be smaller, got 1000000000000"),
    ("radial_trajectory", {"spokes": "3"}, TypeError, "`spokes` must be an integer, got '3'"),
    ("radial_trajectory", {"samples": 10**12}, ValueError, "must be smaller, got 3000000000000"),
    ("ray_transform", {"cache": 1}, TypeError, "`cache` must be True or False, got 1"),
    ("sample", {"n": 10**12}, ValueError, "n must be smaller, got 1000000000000"),
    ("sample", {"generator": 1.5}, TypeError, "generator must be an integer or a torch.Generator, got 1.5"),
]


test_the_arguments_of_the_table_are_right_but_for_one, test_wrong_arguments = wrong_arguments(CALLS, TABLE)
