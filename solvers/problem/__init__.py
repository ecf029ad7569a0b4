"""What the solvers take: objectives, saddle points, problems with denoisers; where every sample stands."""

from genreg.solvers.problem.denoising import DenoisingProblem
from genreg.solvers.problem.objective import Objective, SaddlePoint, split

__all__ = ["DenoisingProblem", "Objective", "SaddlePoint", "split"]
