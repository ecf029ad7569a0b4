"""Solvers for problems with a generator: hard constraint, joint posterior of image and latent vector."""

from genreg.solvers.generative.continuation import jpmap_continuation, map_z_splitting
from genreg.solvers.generative.hard_constraint import levenberg_marquardt
from genreg.solvers.generative.isotropic import JointProblem
from genreg.solvers.generative.joint_map import jpmap
from genreg.solvers.generative.projected import projected_gradient

__all__ = [
    "JointProblem",
    "jpmap",
    "jpmap_continuation",
    "levenberg_marquardt",
    "map_z_splitting",
    "projected_gradient",
]
