r"""Data fidelities :math:`\mathcal{D}(A(x); y)`: how far what x predicts is from the data y.

Up to a constant a fidelity is the negative log-likelihood of the noise: `GaussianFidelity` is that of white
Gaussian noise.
"""

from genreg.fidelity.base import Fidelity
from genreg.fidelity.gaussian import GaussianFidelity

__all__ = ["Fidelity", "GaussianFidelity"]
