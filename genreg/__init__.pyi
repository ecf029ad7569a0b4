# What the package offers: `__init__.py` imports each name when it is first used, and type checkers read this file.

from . import (
    adaptive,
    datasets,
    empirical_bayes,
    evaluation,
    latent,
    networks,
    operators,
    own_images,
    plotting,
    recipes,
    reconstruction,
    regularisers,
    sampling,
    solvers,
    training,
    weights,
)
from .generator import Decoded, Generator, load_generator
from .networks import links
from .operators import NetworkFunctional, NetworkOperator, to_torch
from .operators.fidelity import Fidelity, FunctionalFidelity, GaussianFidelity, PoissonFidelity
from .reconstruction import Reconstruction, Sweep, reconstruct, sweep
from .regularisers import (
    AutoencoderResidual,
    EncoderNorm,
    FlowPrior,
    HardConstraint,
    JointPrior,
    Regulariser,
    RelaxedConstraint,
    SparseDeviation,
    Tikhonov,
    TotalVariation,
)

__version__: str

__all__ = [
    "AutoencoderResidual",
    "Decoded",
    "EncoderNorm",
    "Fidelity",
    "FlowPrior",
    "FunctionalFidelity",
    "GaussianFidelity",
    "Generator",
    "HardConstraint",
    "JointPrior",
    "NetworkFunctional",
    "NetworkOperator",
    "PoissonFidelity",
    "Reconstruction",
    "Regulariser",
    "RelaxedConstraint",
    "SparseDeviation",
    "Sweep",
    "Tikhonov",
    "TotalVariation",
    "adaptive",
    "datasets",
    "empirical_bayes",
    "evaluation",
    "latent",
    "links",
    "load_generator",
    "networks",
    "operators",
    "own_images",
    "plotting",
    "recipes",
    "reconstruct",
    "reconstruction",
    "regularisers",
    "sampling",
    "solvers",
    "sweep",
    "to_torch",
    "training",
    "weights",
]
