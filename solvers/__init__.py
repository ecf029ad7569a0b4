"""Solvers on batched torch, with ODL at the door.

Every solver takes ODL functionals and elements, or tensors with a leading batch axis, and returns one
`Solution`, in which every sample has its own value, status and history.
"""

from genreg.solvers.adam import Adam
from genreg.solvers.checks import debugging
from genreg.solvers.descent import alternating_gradient_descent, gradient_descent, ipalm, palm, quasi_newton
from genreg.solvers.driver import Iterate
from genreg.solvers.inertial import Inertial
from genreg.solvers.krylov import conjugate_gradient, rough_reconstruction
from genreg.solvers.l_curve import l_curve
from genreg.solvers.limited_memory import lbfgs
from genreg.solvers.line_search import Backtracking
from genreg.solvers.morozov import Choice, Trial, morozov
from genreg.solvers.objective import Objective, SaddlePoint, split
from genreg.solvers.primal_dual import pdhg
from genreg.solvers.projected import projected_gradient
from genreg.solvers.solution import Solution, Status
from genreg.solvers.updates import ProxGradient, QuasiNewton

__all__ = [
    "Adam",
    "Backtracking",
    "Choice",
    "Inertial",
    "Iterate",
    "Objective",
    "ProxGradient",
    "QuasiNewton",
    "SaddlePoint",
    "Solution",
    "Status",
    "Trial",
    "alternating_gradient_descent",
    "conjugate_gradient",
    "debugging",
    "gradient_descent",
    "ipalm",
    "l_curve",
    "lbfgs",
    "morozov",
    "palm",
    "pdhg",
    "projected_gradient",
    "quasi_newton",
    "rough_reconstruction",
    "split",
]
