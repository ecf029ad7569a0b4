"""Regularisers: ODL functionals of named blocks that stand for an image.

`base` says what a regulariser is; `generative` and `deviations` have those made of a generator, `images` the
baselines, `learned_images` those of the image made of an encoder, a flow or any network, `denoisers` what a denoiser
stands for, `joint` has the joint prior of image and latent vector, `marginal` minimises the latent vector out.
"""

from genreg.regularisers.base import Regulariser
from genreg.regularisers.denoisers import PlugAndPlay, RegularisationByDenoising
from genreg.regularisers.deviations import RelaxedConstraint, SparseDeviation
from genreg.regularisers.generative import HardConstraint
from genreg.regularisers.images import Tikhonov, TotalVariation
from genreg.regularisers.joint import JointPrior
from genreg.regularisers.learned_images import AutoencoderResidual, EncoderNorm, FlowPrior, LearnedRegulariser
from genreg.regularisers.marginal import Marginal

__all__ = [
    "AutoencoderResidual",
    "EncoderNorm",
    "FlowPrior",
    "HardConstraint",
    "JointPrior",
    "LearnedRegulariser",
    "Marginal",
    "PlugAndPlay",
    "RegularisationByDenoising",
    "Regulariser",
    "RelaxedConstraint",
    "SparseDeviation",
    "Tikhonov",
    "TotalVariation",
]
