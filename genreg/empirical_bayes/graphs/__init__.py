"""Gaussian graphical models: sparse precisions, and how their graphs are found."""

from genreg.empirical_bayes.graphs.lasso import GraphicalLasso, SparsePrecision
from genreg.empirical_bayes.graphs.model import GaussianGraphicalModel
from genreg.empirical_bayes.graphs.selection import Selected, covariance_selection

__all__ = ["GaussianGraphicalModel", "GraphicalLasso", "Selected", "SparsePrecision", "covariance_selection"]
