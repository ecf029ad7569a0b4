"""How good a reconstruction is, how well its errors are foreseen, and how good a generative model.

`psnr`, `ssim`, `nrmse` and `l1_error` compare images. `sparsification` gives AUSE and AURG, whether a predicted
uncertainty knows where the errors are; `coverage` counts how often intervals hold the truth; `log_likelihood` is that
of a Gaussian with a precision, through a link.
`evaluate` measures a generator by the criteria of Duff, Campbell and Ehrhardt (2021, arXiv:2107.11191, section 4) and
writes a report; the functions that it consists of can be called on their own.
"""

from genreg.evaluation.distribution import (
    EarthMover,
    MeanDiscrepancy,
    earth_mover,
    emd,
    mmd,
    nearest_distance,
)
from genreg.evaluation.figures import earth_mover_figure
from genreg.evaluation.inputs import held_out
from genreg.evaluation.intervals import (
    Coverage,
    coverage,
    gaussian_coverage,
    interval_coverage,
    rank_transform,
)
from genreg.evaluation.latent import PriorFit, encodings, far_from_prior, interpolate, prior_fit
from genreg.evaluation.metrics import l1_error, nrmse, psnr, ssim
from genreg.evaluation.reconstruction import RangeFit, deciles, fit_range
from genreg.evaluation.sbc import Calibration, calibration
from genreg.evaluation.slopes import Smoothness, jacobian, smoothness
from genreg.evaluation.suite import Evaluation, evaluate
from genreg.evaluation.uncertainty import Sparsification, image_moments, log_likelihood, sparsification

__all__ = [
    "Calibration",
    "Coverage",
    "EarthMover",
    "Evaluation",
    "MeanDiscrepancy",
    "PriorFit",
    "RangeFit",
    "Smoothness",
    "Sparsification",
    "calibration",
    "coverage",
    "deciles",
    "earth_mover",
    "earth_mover_figure",
    "emd",
    "encodings",
    "evaluate",
    "far_from_prior",
    "fit_range",
    "gaussian_coverage",
    "held_out",
    "image_moments",
    "interpolate",
    "interval_coverage",
    "jacobian",
    "l1_error",
    "log_likelihood",
    "mmd",
    "nearest_distance",
    "nrmse",
    "prior_fit",
    "psnr",
    "rank_transform",
    "smoothness",
    "sparsification",
    "ssim",
]
