"""Linear algebra on batches: conjugate gradients, least squares, norms of operators, sparse matrices."""

from genreg.operators.linear.least_squares import rough_reconstruction
from genreg.operators.linear.norm import operator_norm

__all__ = ["operator_norm", "rough_reconstruction"]
