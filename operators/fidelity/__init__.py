r"""Data fidelities :math:`\mathcal{D}(A(x); y)`: how far what x predicts is from the data y.

Up to a constant a fidelity is the negative log-likelihood of the noise: `GaussianFidelity` of white Gaussian
noise, `PoissonFidelity` of counts, in emission or transmission. `FunctionalFidelity` takes any ODL functional.
"""

from genreg.operators.fidelity.base import Fidelity
from genreg.operators.fidelity.functional import FunctionalFidelity
from genreg.operators.fidelity.gaussian import GaussianFidelity
from genreg.operators.fidelity.poisson import PoissonFidelity

__all__ = ["Fidelity", "FunctionalFidelity", "GaussianFidelity", "PoissonFidelity"]
