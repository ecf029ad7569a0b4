"""Regularisers: ODL functionals of named blocks that stand for an image.

`base` says what a regulariser is; `generative` and `deviations` have those made of a generator, `images` those of
the image itself (the baselines among them), `joint` has the joint prior of image and latent
vector, `marginal` minimises the latent vector out.
"""

from genreg.regularisers.base import Regulariser
from genreg.regularisers.deviations import RelaxedConstraint, SparseDeviation
from genreg.regularisers.generative import HardConstraint
from genreg.regularisers.images import (
    AutoencoderResidual,
    EncoderNorm,
    FlowPrior,
    Tikhonov,
    TotalVariation,
)
from genreg.regularisers.joint import JointPrior
from genreg.regularisers.marginal import Marginal

__all__ = [
    "AutoencoderResidual",
    "EncoderNorm",
    "FlowPrior",
    "HardConstraint",
    "JointPrior",
    "Marginal",
    "Regulariser",
    "RelaxedConstraint",
    "SparseDeviation",
    "Tikhonov",
    "TotalVariation",
]
