"""What the solvers take: objectives, saddle points, and where every sample of a batch stands."""

from genreg.solvers.problem.objective import Objective, SaddlePoint, split

__all__ = ["Objective", "SaddlePoint", "split"]
