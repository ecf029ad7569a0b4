"""Generative regularisers for inverse problems: written in ODL, solved as batched PyTorch.

A problem is written with ODL's spaces, operators and functionals; `to_torch` lowers it to torch, where a
trained generator is the prior and a batch of images, parameters and restarts is solved at once.
"""

import genreg._checkout
import genreg.operators  # noqa: F401  (then this, as it undoes what the import of ODL changes)
from genreg import (
    adaptive,
    adversarial,
    datasets,
    density_ratio,
    distillation,
    empirical_bayes,
    evaluation,
    flows,
    latent,
    links,
    networks,
    operators,
    sampling,
    solvers,
    training,
    weights,
)
from genreg.fidelity import Fidelity, FunctionalFidelity, GaussianFidelity, PoissonFidelity
from genreg.generator import Decoded, Generator, load_generator
from genreg.operators import NetworkFunctional, NetworkOperator, to_torch
from genreg.reconstruct import Reconstruction, reconstruct
from genreg.regularisers import (
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
from genreg.sweep import Sweep, sweep

__version__ = "0.1.0"

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
    "adversarial",
    "datasets",
    "density_ratio",
    "distillation",
    "empirical_bayes",
    "evaluation",
    "flows",
    "latent",
    "links",
    "load_generator",
    "networks",
    "operators",
    "reconstruct",
    "sampling",
    "solvers",
    "sweep",
    "to_torch",
    "training",
    "weights",
]
