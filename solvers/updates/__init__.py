"""How a block moves: steps with line searches, quasi-Newton and Gauss-Newton steps, proposals."""

from genreg.solvers.updates.adam import Adam
from genreg.solvers.updates.base import ProxGradient
from genreg.solvers.updates.inertial import Inertial
from genreg.solvers.updates.levenberg_marquardt import LevenbergMarquardt
from genreg.solvers.updates.line_search import Backtracking
from genreg.solvers.updates.propose import Proposal, Propose
from genreg.solvers.updates.quasi_newton import QuasiNewton

__all__ = [
    "Adam",
    "Backtracking",
    "Inertial",
    "LevenbergMarquardt",
    "Proposal",
    "Propose",
    "ProxGradient",
    "QuasiNewton",
]
