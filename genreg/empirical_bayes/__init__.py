r"""Empirical Bayes: priors of latent vectors that are learned from observations alone, with their posteriors.

Observations :math:`y_i` of :math:`z_i \sim p_\theta(z)` by any ODL operator, with a known likelihood (a
`genreg.GaussianFidelity` or another): `fit` learns θ and an encoder, `expectation_maximisation` θ with the exact
posterior.

- Priors: `GaussianGraphicalModel`, a Gaussian with a sparse precision or a mixture of them, whose graphs
  `GraphicalLasso` finds; `DistributionPrior`, any torch distribution with parameters.
- Encoders, approximations of the posterior: `MeanField`, `FullCovariance`, `InverseAutoregressive`.
- `ExactPosterior`: posterior and evidence in closed form, for linear observations of graphical models.

It needs scikit-learn, and zuko for flows: the extra ``genreg[bayes]``.
"""

from genreg.empirical_bayes.em import EMResult, EMStatus, expectation_maximisation
from genreg.empirical_bayes.encoders.families import FullCovariance, InverseAutoregressive, MeanField
from genreg.empirical_bayes.exact import ExactPosterior
from genreg.empirical_bayes.fitting import fit
from genreg.empirical_bayes.graphs.lasso import GraphicalLasso, SparsePrecision
from genreg.empirical_bayes.graphs.model import GaussianGraphicalModel
from genreg.empirical_bayes.graphs.selection import Selected, covariance_selection
from genreg.empirical_bayes.priors import DistributionPrior, Prior
from genreg.empirical_bayes.result import EmpiricalBayes, Inferred

__all__ = [
    "DistributionPrior",
    "EMResult",
    "EMStatus",
    "EmpiricalBayes",
    "ExactPosterior",
    "FullCovariance",
    "GaussianGraphicalModel",
    "GraphicalLasso",
    "Inferred",
    "InverseAutoregressive",
    "MeanField",
    "Prior",
    "Selected",
    "SparsePrecision",
    "covariance_selection",
    "expectation_maximisation",
    "fit",
]
