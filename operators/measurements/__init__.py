"""Forward operators of image restoration and compressed sensing."""

from genreg.operators.measurements.forward import blur, gaussian_measurements, mask, normalised

__all__ = ["blur", "gaussian_measurements", "mask", "normalised"]
