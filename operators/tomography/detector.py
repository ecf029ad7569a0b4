"""The position of the detector of a parallel-beam geometry, and back-ends of ODL that ignore it."""

from __future__ import annotations

import numpy as np
from odl.applications import tomo
from odl.applications.tomo import ParallelBeamGeometry

__all__ = ["ON_CPU", "ON_CUDA", "detector_place", "ignored_by_backend", "is_centred", "parallel_vectors"]

# ODL names a back-end by its key if the user gave it, and by its class if ODL chose it.
ON_CPU, ON_CUDA = ("astra_cpu", "AstraCpuImpl"), ("astra_cuda", "AstraCudaImpl")
_SKIMAGE = ("skimage", "SkImageImpl")


def is_centred(geometry: ParallelBeamGeometry) -> bool:
    """Whether the detector of a parallel-beam geometry is where ODL's CPU back-end assumes it to be."""
    offsets, rotated = detector_place(geometry)
    return bool(not rotated and np.abs(offsets).max() <= 1e-6 * geometry.det_partition.cell_sides[0])


def detector_place(geometry: ParallelBeamGeometry) -> tuple[np.ndarray, bool]:
    """Return the offset of the detector's middle from the axis of rotation for every angle, and whether it is rotated.

    It is not rotated if the bins run along (cos, sin) of the angle.
    """
    _, centre, step = parallel_vectors(geometry)
    pitch = float(geometry.det_partition.cell_sides[0])
    axis = np.stack([np.cos(geometry.angles), np.sin(geometry.angles)], axis=1)
    return (centre * step).sum(axis=1) / pitch, not np.allclose(step / pitch, axis, rtol=0, atol=1e-9)


def parallel_vectors(geometry: ParallelBeamGeometry) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return direction of the rays, centre of the detector and step between bins, each (angles, 2).

    The detector is moved along the rays to the axis of rotation. ODL puts it at distance one, too far for single
    precision if images are small.
    """
    middle, pitch = geometry.det_params.mid_pt, geometry.det_partition.cell_sides[0]
    axis = geometry.det_axis(geometry.angles)
    centre = geometry.det_point_position(geometry.angles, middle.item())
    return (
        -geometry.det_to_src(geometry.angles, middle),
        (centre * axis).sum(axis=1, keepdims=True) * axis,
        axis * pitch,
    )


def ignored_by_backend(op: tomo.RayTransform) -> str:
    """Describe what ODL's operator ignores of the position of a parallel-beam detector; empty if nothing.

    The CPU back-end of ASTRA assumes the bins to be centred at the axis of rotation, and the detector neither moved nor
    rotated. That of scikit-image takes the bins as they are, but ignores a motion or rotation of the detector.
    """
    if op.impl not in ON_CPU + _SKIMAGE or not isinstance(op.geometry, ParallelBeamGeometry):
        return ""
    offsets, rotated = detector_place(op.geometry)
    if op.impl in _SKIMAGE:
        offsets = offsets - op.geometry.det_params.mid_pt.item()
    pitch, off = float(op.geometry.det_partition.cell_sides[0]), float(np.abs(offsets).max())
    faults = [f"is off the axis of rotation by up to {off:.4g}"] if off > 1e-6 * pitch else []
    return " and ".join([*faults, "is rotated or mirrored"] if rotated else faults)
