"""Solvers on batched torch, with ODL at the door.

Every solver takes ODL functionals and elements, or tensors with a leading batch axis, and returns one
`Solution`, in which every sample has its own value, status and history.
"""

from genreg.operators.linear.least_squares import rough_reconstruction
from genreg.solvers.algorithms import (
    alternating_gradient_descent,
    conjugate_gradient,
    gauss_newton,
    gradient_descent,
    ipalm,
    lbfgs,
    palm,
    pdhg,
    plug_and_play,
    plug_and_play_gradient,
    quasi_newton,
    red,
)
from genreg.solvers.driver import Iterate, Solution, Status, debugging
from genreg.solvers.generative import (
    JointProblem,
    jpmap,
    jpmap_continuation,
    levenberg_marquardt,
    map_z_splitting,
    projected_gradient,
)
from genreg.solvers.parameter_choice import Choice, Trial, l_curve, morozov
from genreg.solvers.problem import DenoisingProblem, Objective, SaddlePoint, split
from genreg.solvers.updates import (
    Adam,
    Backtracking,
    Inertial,
    LevenbergMarquardt,
    Proposal,
    Propose,
    ProxGradient,
    QuasiNewton,
)

__all__ = [
    "Adam",
    "Backtracking",
    "Choice",
    "DenoisingProblem",
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
    "plug_and_play",
    "plug_and_play_gradient",
    "projected_gradient",
    "quasi_newton",
    "red",
    "rough_reconstruction",
    "split",
]
