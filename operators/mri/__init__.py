"""Magnetic resonance imaging: Fourier transforms, Cartesian and not, coils, masks and trajectories."""

from genreg.operators.mri.coils import calibration_region, coil_maps
from genreg.operators.mri.fourier import FourierSampling, fourier_sampling
from genreg.operators.mri.kspace_masks import cartesian_mask, radial_mask
from genreg.operators.mri.non_uniform_fourier import Nufft, nufft
from genreg.operators.mri.trajectories import density_compensation, golden_angle_trajectory, radial_trajectory

__all__ = [
    "FourierSampling",
    "Nufft",
    "calibration_region",
    "cartesian_mask",
    "coil_maps",
    "density_compensation",
    "fourier_sampling",
    "golden_angle_trajectory",
    "nufft",
    "radial_mask",
    "radial_trajectory",
]
