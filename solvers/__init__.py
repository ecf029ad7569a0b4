"""Solvers on batched torch, with ODL at the door.

Every solver takes ODL functionals and elements, or tensors with a leading batch axis, and returns one
`Solution`, in which every sample has its own value, status and history.
"""

from genreg.operators.linear.least_squares import rough_reconstruction
from genreg.solvers import algorithms, generative, parameter_choice, problem, updates
from genreg.solvers.algorithms import *
from genreg.solvers.driver import Iterate, Solution, Status, debugging
from genreg.solvers.generative import *
from genreg.solvers.parameter_choice import *
from genreg.solvers.problem import *
from genreg.solvers.updates import *

__all__ = ["Iterate", "Solution", "Status", "debugging", "rough_reconstruction"]
__all__ += algorithms.__all__
__all__ += generative.__all__
__all__ += parameter_choice.__all__
__all__ += problem.__all__
__all__ += updates.__all__
