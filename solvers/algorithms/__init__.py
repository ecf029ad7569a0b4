"""Algorithms for any objective: descent, PALM, quasi-Newton, primal-dual, conjugate gradients; and with denoisers."""

from genreg.solvers.algorithms.denoising import plug_and_play, plug_and_play_gradient, red
from genreg.solvers.algorithms.descent import (
    alternating_gradient_descent,
    gauss_newton,
    gradient_descent,
    ipalm,
    palm,
    quasi_newton,
)
from genreg.solvers.algorithms.krylov import conjugate_gradient
from genreg.solvers.algorithms.limited_memory import lbfgs
from genreg.solvers.algorithms.primal_dual import pdhg

__all__ = [
    "alternating_gradient_descent",
    "conjugate_gradient",
    "gauss_newton",
    "gradient_descent",
    "ipalm",
    "lbfgs",
    "palm",
    "pdhg",
    "plug_and_play",
    "plug_and_play_gradient",
    "quasi_newton",
    "red",
]
