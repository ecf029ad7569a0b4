"""Solvers on batched torch, with ODL at the door.

Every solver takes ODL functionals and elements, or tensors with a leading batch axis, and returns one
`Solution`, in which every sample has its own value, status and history.
"""

from genreg.solvers.adam import Adam
from genreg.solvers.checks import debugging
from genreg.solvers.continuation import jpmap_continuation, map_z_splitting
from genreg.solvers.descent import (
    alternating_gradient_descent,
    gauss_newton,
    gradient_descent,
    ipalm,
    palm,
    quasi_newton,
)
from genreg.solvers.driver import Iterate
from genreg.solvers.gauss_newton import LevenbergMarquardt
from genreg.solvers.inertial import Inertial
from genreg.solvers.joint import JointProblem
from genreg.solvers.jpmap import jpmap
from genreg.solvers.krylov import conjugate_gradient, rough_reconstruction
from genreg.solvers.l_curve import l_curve
from genreg.solvers.levenberg_marquardt import levenberg_marquardt
from genreg.solvers.limited_memory import lbfgs
from genreg.solvers.line_search import Backtracking
from genreg.solvers.morozov import Choice, Trial, morozov
from genreg.solvers.objective import Objective, SaddlePoint, split
from genreg.solvers.primal_dual import pdhg
from genreg.solvers.projected import projected_gradient
from genreg.solvers.propose import Proposal, Propose
from genreg.solvers.solution import Solution, Status
from genreg.solvers.updates import ProxGradient, QuasiNewton

__all__ = [
    "Adam",
    "Backtracking",
    "Choice",
    "Inertial",
    "Iterate",
    "JointProblem",
    "LevenbergMarquardt",
    "Objective",
    "Proposal",
    "Propose",
    "ProxGradient",
    "QuasiNewton",
    "SaddlePoint",
    "Solution",
    "Status",
    "Trial",
    "alternating_gradient_descent",
    "conjugate_gradient",
    "debugging",
    "gauss_newton",
    "gradient_descent",
    "ipalm",
    "jpmap",
    "jpmap_continuation",
    "l_curve",
    "lbfgs",
    "levenberg_marquardt",
    "map_z_splitting",
    "morozov",
    "palm",
    "pdhg",
    "projected_gradient",
    "quasi_newton",
    "rough_reconstruction",
    "split",
]
