"""Wrong arguments of reconstruction and solvers: the exact exception, and the words of its message."""

import math

import numpy as np
import odl
import torch

import genreg
from genreg import solvers
from genreg.operators import gaussian_measurements

from ..refusals import wrong_arguments
from .conftest import LinearModel

X = odl.uniform_discr([0, 0], [8, 5], (4, 5))
C = odl.uniform_discr([0, 0], [8, 5], (4, 5), dtype="complex128")
FLOAT = odl.rn((4, 5), dtype="float32")
A = gaussian_measurements(X, 12, seed=0)
G = genreg.Generator(LinearModel(), X)
Y = torch.randn(2, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
META = torch.zeros(2, 12, dtype=torch.float64, device="meta")
HARD, RELAXED = genreg.HardConstraint(G), genreg.RelaxedConstraint(G, 0.1)
FIDELITY = genreg.GaussianFidelity(A, Y, 0.1)
PRIOR = genreg.JointPrior(G)
BRIEF = {"max_iter": 1, "progress": False}
DATA = {"A": A, "y": Y, "noise_std": 0.1}
SQUARE = odl.functionals.L2NormSquared(A.range)

CALLS = {
    "FunctionalFidelity": (genreg.FunctionalFidelity, {"A": A, "functional": SQUARE, "y": Y}),
    "GaussianFidelity": (genreg.GaussianFidelity, DATA),
    "Generator": (genreg.Generator, {"model": LinearModel(), "range": X}),
    "Generator.sample": (G.sample, {"n": 1, "seed": 0}),
    "JointPrior": (genreg.JointPrior, {"G": G}),
    "PoissonFidelity": (genreg.PoissonFidelity, {"A": A, "y": Y.abs()}),
    "RelaxedConstraint": (genreg.RelaxedConstraint, {"G": G, "mu": 0.1}),
    "SparseDeviation": (genreg.SparseDeviation, {"G": G, "mu": 0.1}),
    "Tikhonov": (genreg.Tikhonov, {"space": X}),
    "TotalVariation": (genreg.TotalVariation, {"space": X}),
    "complex TotalVariation": (genreg.TotalVariation, {"space": C}),
    "gradient_descent": (
        solvers.gradient_descent,
        {"objective": genreg.GaussianFidelity(A, Y[0], 0.1), "init": X.zero(), **BRIEF},
    ),
    "initial": (HARD.initial, {"y": Y, "A": A}),
    "jpmap": (solvers.jpmap, {**DATA, "G": G, **BRIEF}),
    "jpmap_continuation": (
        solvers.jpmap_continuation,
        {**DATA, "G": G, "epsilon": 1.0, "stages": 1, **BRIEF},
    ),
    "lbfgs": (
        solvers.lbfgs,
        {"objective": genreg.GaussianFidelity(A, Y[0], 0.1), "init": X.zero(), **BRIEF},
    ),
    "levenberg_marquardt": (solvers.levenberg_marquardt, {**DATA, "G": G, **BRIEF}),
    "load_generator": (
        genreg.load_generator,
        {"name_or_path": "shapes-ae", "range": odl.rn((56, 56), dtype="float32")},
    ),
    "marginal": (type(RELAXED.marginal), {"regulariser": RELAXED}),
    "pdhg": (
        solvers.pdhg,
        {"f": odl.functionals.ZeroFunctional(X), "g": SQUARE, "operators": A, **BRIEF},
    ),
    "posterior": (PRIOR.posterior, {"fidelity": FIDELITY, "z": np.zeros((2, 3))}),
    "projected_gradient": (solvers.projected_gradient, {**DATA, "G": G, **BRIEF}),
    "reconstruct": (genreg.reconstruct, {**DATA, "regulariser": HARD, "lam": 0.5, **BRIEF}),
    "reconstruct with a fidelity": (
        genreg.reconstruct,
        {"A": A, "y": Y, "fidelity": FIDELITY, "regulariser": HARD, "lam": 0.5, **BRIEF},
    ),
    "single precision": (
        genreg.GaussianFidelity,
        {"A": odl.IdentityOperator(FLOAT), "y": np.zeros((4, 5)), "noise_std": 1.0},
    ),
    "sweep": (genreg.sweep, {**DATA, "regulariser": RELAXED, "lam": [0.5], **BRIEF}),
    "sweep with a fidelity": (
        genreg.sweep,
        {"A": A, "y": Y, "fidelity": FIDELITY, "regulariser": RELAXED, "lam": [0.5], **BRIEF},
    ),
}

TABLE = [
    (
        "reconstruct",
        {"y": None},
        TypeError,
        "y must be an ODL element, a tensor or an array of numbers, got None",
    ),
    (
        "reconstruct",
        {"y": np.zeros((0, 12))},
        ValueError,
        "y must hold at least one sample, got shape (0, 12)",
    ),
    ("reconstruct", {"y": [[0.0] * 12, [0.0]]}, ValueError, "got lists of different lengths"),
    (
        "reconstruct",
        {"y": np.ma.masked_equal(np.arange(12.0), 3)},
        ValueError,
        "y must have no masked entries, got 1",
    ),
    ("reconstruct", {"y": np.array(["0"] * 12)}, TypeError, "y must be an ODL element, a tensor or an array"),
    ("reconstruct", {"noise_std": "x"}, TypeError, "noise_std must be a number or a tensor (B,), got 'x'"),
    ("reconstruct", {"noise_std": True}, TypeError, "noise_std must be a number or a tensor (B,), got True"),
    ("reconstruct", {"noise_std": math.nan}, ValueError, "noise_std must be positive and finite, got nan"),
    ("reconstruct", {"noise_std": 1j}, TypeError, "noise_std must be real, got complex numbers"),
    ("reconstruct", {"lam": None}, TypeError, "lam must be a number or a tensor (B,), got None"),
    (
        "reconstruct",
        {"lam": np.zeros((2, 1))},
        ValueError,
        "lam must be a number or have the shape (2,), got (2, 1)",
    ),
    ("reconstruct", {"restarts": np.bool_(True)}, TypeError, "restarts must be an integer, got np.True_"),
    (
        "reconstruct",
        {"restarts": 10**12},
        ValueError,
        "restarts must be smaller, got 1000000000000: that takes",
    ),
    (
        "reconstruct",
        {"init": {"u": X.zero()}},
        ValueError,
        "init must be a dict with the blocks ['z'], got ['u']",
    ),
    ("reconstruct", {"init": {"z": np.full(3, np.inf)}}, ValueError, "init must be finite, got 3 NaN"),
    (
        "reconstruct",
        {"solver": "adam"},
        TypeError,
        "solver must be a function (problem, init, ...), got 'adam'",
    ),
    ("reconstruct", {"seed": True}, TypeError, "seed must be an integer or a torch.Generator, got True"),
    ("reconstruct", {"seed": math.nan}, TypeError, "seed must be an integer or a torch.Generator, got nan"),
    (
        "reconstruct",
        {"seed": 2**70},
        ValueError,
        "seed must be at most 2**63 - 1, got 1180591620717411303424",
    ),
    ("reconstruct", {"seed": -1}, ValueError, "seed must be a non-negative integer, got -1"),
    ("reconstruct", {"max_iter": 2.5}, TypeError, "max_iter must be an integer, got 2.5"),
    ("reconstruct", {"tol": "x"}, TypeError, "tol must be a number, got 'x'"),
    ("reconstruct", {"tol": math.inf}, ValueError, "tol must be non-negative and finite, got inf"),
    ("reconstruct", {"factor": "x"}, TypeError, "factor must be a number, got 'x'"),
    ("reconstruct", {"callback": 3}, TypeError, "callback must be a function of an Iterate, got 3"),
    ("reconstruct", {"noise_std": None, "fidelity": 3}, TypeError, "fidelity must be a genreg fidelity"),
    (
        "reconstruct with a fidelity",
        {"y": 2 * Y},
        ValueError,
        "y must be the data of the fidelity, (2, 12), got others",
    ),
    ("reconstruct with a fidelity", {"y": Y[0]}, ValueError, "y must be the data of the fidelity"),
    ("sweep with a fidelity", {"y": 2 * Y}, ValueError, "y must be the data of the fidelity"),
    ("sweep", {"lam": [1.0, 0.5]}, ValueError, "lam must be strictly increasing"),
    ("sweep", {"lam": {1.0: 2}}, TypeError, "lam must be a sequence of numbers"),
    ("sweep", {"mu": [True]}, TypeError, "mu must be a sequence of numbers, got [True]"),
    ("sweep", {"tied": "no"}, TypeError, "tied must be True or False, got 'no'"),
    ("sweep", {"batch_size": None}, TypeError, "batch_size must be an integer, got None"),
    (
        "sweep",
        {"reference": np.full((4, 5), np.nan), "data_range": 1.0},
        ValueError,
        "reference must be finite, got 20",
    ),
    (
        "sweep",
        {"reference": "x", "data_range": 1.0},
        TypeError,
        "reference must be an ODL element, a tensor or an",
    ),
    (
        "sweep",
        {"restarts": 10**12, "batch_size": 10**13},
        ValueError,
        "restarts must be smaller, got 1000000000000",
    ),
    ("reconstruct", {"lam_range": "wide"}, TypeError, "lam_range must be a pair of numbers 0 < low < high"),
    (
        "reconstruct",
        {"lam_range": (1.0, 1.0)},
        ValueError,
        "lam_range must be a pair of numbers 0 < low < high, got (1.0, 1.0)",
    ),
    (
        "reconstruct",
        {"lam_range": (0.1, 1.0)},
        ValueError,
        "lam_range must not be given beside numbers for lam: it is for one of",
    ),
    ("sweep", {"lam_range": (0.1, 1.0)}, ValueError, "lam_range must not be given beside numbers for lam"),
    ("sweep", {"lam_range": 3}, ValueError, "lam_range must be a pair of numbers 0 < low < high, got 3"),
    ("sweep", {"keep_images": 1}, TypeError, "keep_images must be True or False, got 1"),
    ("sweep", {"seed": -1}, ValueError, "seed must be a non-negative integer, got -1"),
    ("sweep", {"checkpoint": 3}, TypeError, "checkpoint must be a string or a path, got int"),
    ("sweep", {"resume": "yes"}, TypeError, "resume must be True or False, got 'yes'"),
    ("sweep", {"solver": 3}, TypeError, "solver must be a function (problem, init, ...), got 3"),
    ("initial", {"init": 3}, TypeError, "init must be a word or None, got 3"),
    ("initial", {"seed": 0.5}, TypeError, "seed must be an integer or a torch.Generator, got 0.5"),
    (
        "GaussianFidelity",
        {"noise_std": META[0]},
        TypeError,
        "noise_std must hold values, got a tensor on the meta",
    ),
    (
        "single precision",
        {"y": np.full((4, 5), 1e300)},
        ValueError,
        "y must fit into torch.float32, got values up to",
    ),
    ("single precision", {"noise_std": 1e300}, ValueError, "noise_std must fit into torch.float32"),
    ("single precision", {"noise_std": 1e-300}, ValueError, "noise_std must fit into torch.float32"),
    ("PoissonFidelity", {"y": -Y.abs()}, ValueError, "y must be counts, >= 0"),
    (
        "PoissonFidelity",
        {"background": "x"},
        TypeError,
        "background must be an ODL element, a tensor or an array",
    ),
    (
        "Generator",
        {"range": C},
        ValueError,
        "model must make two channels, the parts of complex images, (2, 4, 5), got (4, 5)",
    ),
    ("Generator", {"range": np.zeros((4, 5))}, TypeError, "range must be an ODL tensor or function space"),
    ("Generator", {"latent_dim": 3.0}, TypeError, "latent_dim must be an integer, got 3.0"),
    ("Generator.sample", {"n": 10**12}, ValueError, "n must be smaller, got 1000000000000"),
    ("load_generator", {"name_or_path": 3}, TypeError, "name_or_path must be a string or a path, got int"),
    ("posterior", {"z": np.zeros((3, 3))}, ValueError, "z must have the shape (2, 3), got (3, 3)"),
    (
        "posterior",
        {"z": None},
        TypeError,
        "z must be an ODL element, a tensor or an array of numbers, got None",
    ),
    ("RelaxedConstraint", {"mu": True}, TypeError, "mu must be a number or a tensor (B,), got True"),
    ("SparseDeviation", {"sparsity": ["l1"]}, ValueError, "sparsity must be one of ['l1', 'tv'], got ['l1']"),
    ("Tikhonov", {"space": (4, 5)}, TypeError, "space must be an ODL tensor or function space, got (4, 5)"),
    ("TotalVariation", {"lower": math.nan}, ValueError, "lower must be finite, got nan"),
    ("TotalVariation", {"upper": "1"}, TypeError, "upper must be a number, got '1'"),
    (
        "complex TotalVariation",
        {"lower": 0},
        TypeError,
        "lower and upper must be None for complex images, got 0",
    ),
    ("marginal", {"seed": "a"}, TypeError, "seed must be an integer, got 'a'"),
    ("gradient_descent", {"init": torch.zeros(0, 4, 5)}, ValueError, "init must hold at least one sample"),
    ("gradient_descent", {"line_search": "x"}, TypeError, "line_search must be a Backtracking, got 'x'"),
    (
        "gradient_descent",
        {"updates": {"v": "adam"}},
        TypeError,
        "updates['v'] must be an update such as Adam()",
    ),
    ("gradient_descent", {"updates": 3}, TypeError, "updates must be a dict from blocks to updates, got 3"),
    ("lbfgs", {"memory": 10**13}, ValueError, "memory must be smaller, got 10000000000000"),
    ("lbfgs", {"callback": 3}, TypeError, "callback must be a function of an Iterate, got 3"),
    ("levenberg_marquardt", {"update": "x"}, TypeError, "update must be a LevenbergMarquardt, got 'x'"),
    ("jpmap", {"restarts": 10**12}, ValueError, "restarts must be smaller, got 1000000000000"),
    ("jpmap", {"n1": 1.5}, TypeError, "n1 must be an integer, got 1.5"),
    (
        "jpmap",
        {"rule": "slow"},
        ValueError,
        "rule must be one of ['exact', 'candidates', 'fast'], got 'slow'",
    ),
    ("jpmap", {"seed": None}, TypeError, "seed must be an integer or a torch.Generator, got None"),
    ("jpmap_continuation", {"rho": math.inf}, ValueError, "rho must be positive and finite, got inf"),
    ("jpmap_continuation", {"secant": 1}, TypeError, "secant must be True or False, got 1"),
    ("jpmap_continuation", {"stages": 0}, ValueError, "stages must be a positive integer, got 0"),
    ("projected_gradient", {"step": "x"}, TypeError, "step must be a number, got 'x'"),
    ("projected_gradient", {"restarts": 10**12}, ValueError, "restarts must be smaller, got 1000000000000"),
    ("pdhg", {"operators": np.eye(3)}, TypeError, "operators must be ODL operators, got ndarray"),
    ("pdhg", {"g": "l1"}, TypeError, "g[0] must be a functional, got str"),
    ("pdhg", {"tau": "1", "sigma": 1.0}, TypeError, "tau must be a number, got '1'"),
    ("pdhg", {"tau": 1.0, "sigma": [math.inf]}, ValueError, "sigma must be positive and finite, got inf"),
    (
        "pdhg",
        {"tau": 1.0, "sigma": [1.0] * 2},
        ValueError,
        "sigma must be a number, or one for each of the 1",
    ),
    ("pdhg", {"callback": 3}, TypeError, "callback must be a function of an Iterate, got 3"),
]


test_the_arguments_of_the_table_are_right_but_for_one, test_wrong_arguments = wrong_arguments(CALLS, TABLE)
