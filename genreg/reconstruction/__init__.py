"""Reconstructions of batches of images, their parameter, and sweeps over parameters."""

from genreg.reconstruction.parameter_sweep import sweep
from genreg.reconstruction.sweep_result import Sweep
from genreg.reconstruction.variational import Reconstruction, reconstruct

__all__ = ["Reconstruction", "Sweep", "reconstruct", "sweep"]
