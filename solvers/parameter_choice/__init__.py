"""How large the regularisation parameter is: discrepancy principle and L-curve."""

from genreg.solvers.parameter_choice.discrepancy_principle import Choice, Trial, morozov
from genreg.solvers.parameter_choice.l_curve_corner import l_curve

__all__ = ["Choice", "Trial", "l_curve", "morozov"]
