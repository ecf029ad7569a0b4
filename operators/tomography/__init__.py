"""Ray transforms: by ASTRA, by a sparse matrix of line lengths, and directly."""

from genreg.operators.tomography.ray import ray_transform

__all__ = ["ray_transform"]
