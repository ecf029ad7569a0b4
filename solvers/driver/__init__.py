"""The one loop of the block solvers, its results, and its checks."""

from genreg.solvers.driver.contracts import debugging
from genreg.solvers.driver.loop import run
from genreg.solvers.driver.monitor import Callback, Iterate
from genreg.solvers.driver.solution import Solution, Status

__all__ = ["Callback", "Iterate", "Solution", "Status", "debugging", "run"]
