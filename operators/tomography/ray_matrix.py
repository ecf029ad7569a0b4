r"""The explicit matrix of a planar ray transform: built by ASTRA and kept on disk; an estimate of its size.

With the pixels of the image in C order and the rays ordered by (angle, detector bin), the samples of the ray
transform are :math:`y = M x`, where :math:`M` is the matrix of ASTRA's projector that ODL also uses: Joseph's
linear interpolation for parallel beams, lengths of intersection for fan beams.

References
----------
W. van Aarle, W. J. Palenstijn, J. Cant, E. Janssens, F. Bleichrodt, A. Dabravolski, J. De Beenhouwer,
K. J. Batenburg, J. Sijbers (2016). Fast and flexible X-ray tomography using the ASTRA toolbox. Optics Express
24(22), 25129-25147. doi:10.1364/OE.24.025129
"""

from __future__ import annotations

import hashlib
import math
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
import odl
import scipy.sparse
import torch
from odl.applications.tomo import ParallelBeamGeometry
from odl.applications.tomo.backends.astra_setup import astra_projection_geometry, astra_volume_geometry
from odl.applications.tomo.geometry import Geometry
from odl.core.discr import DiscretizedSpace

from genreg.operators.linear.cache import read_matrix, write_matrix
from genreg.operators.linear.sparse import SparsePair
from genreg.operators.tomography.detector import is_centred, parallel_vectors

# Part of the key of a cached matrix: increase it when the contents of the files change.
_FORMAT = 2
# Entries built in one go: ASTRA's copy and SciPy's in double precision exist for one such block at a time.
_BLOCK = 20_000_000

_PAIRS: WeakValueDictionary[tuple[str, torch.dtype], SparsePair] = WeakValueDictionary()


def import_astra() -> Any:
    """Return the module `astra`.

    Raises
    ------
    ImportError
        If the ASTRA toolbox is not installed; the message names the extra that installs it.
    """
    try:
        import astra
        import astra.experimental
    except ImportError as error:
        raise ImportError(
            "ray transforms need the ASTRA toolbox; install it with  pip install 'genreg[tomo]'"
        ) from error
    return astra


def planar_projector(space: DiscretizedSpace, geometry: Geometry) -> dict[str, Any]:
    """Return the configuration of ASTRA's CPU projector for images on `space`.

    For parallel beams ODL describes the detector to ASTRA by its width alone, which is right if it is centred at the
    axis of rotation and neither moved nor mirrored. Any other is described by vectors, in the same frame, which is
    rotated by -90 degrees.

    ASTRA has absolute tolerances and needs square pixels. So lengths are scaled to a unit near one pixel (a power of
    two, which changes no digit), and the first axis is stretched where pixels are not square: rays remain rays, with
    other lengths, see `length_ratios`.
    """
    scales = _scales(space)
    if not isinstance(geometry, ParallelBeamGeometry):
        projection = astra_projection_geometry(geometry, "cpu")
    elif is_square(space) and is_centred(geometry):
        projection = astra_projection_geometry(geometry, "cpu")
        projection = projection | {"DetectorWidth": scales[1] * projection["DetectorWidth"]}
    else:
        rotation = np.kron(np.eye(3), [[0, -1], [1, 0]])
        vectors = np.concatenate(parallel_vectors(geometry), axis=1) @ rotation
        projection = import_astra().create_proj_geom("parallel_vec", geometry.det_partition.size, vectors)
    if "Vectors" in projection:  # ASTRA's first coordinate is the second axis
        projection = projection | {"Vectors": projection["Vectors"] * np.tile(scales[::-1], 3)}
    scaled = odl.uniform_discr(scales * space.min_pt, scales * space.max_pt, space.shape)
    return {
        "type": "linear" if isinstance(geometry, ParallelBeamGeometry) else "line_fanflat",
        "VolumeGeometry": astra_volume_geometry(scaled, "cpu"),
        "ProjectionGeometry": projection,
    }


def length_ratios(space: DiscretizedSpace, geometry: Geometry) -> np.ndarray:
    """Return the lengths of the rays over those in the geometry of `planar_projector`.

    One number for each ray, ordered by (angle, detector bin), in double precision.
    """
    scales = _scales(space)
    angles, bins = np.meshgrid(geometry.angles, geometry.det_grid.coord_vectors[0], indexing="ij")
    if is_square(space):
        return np.full(angles.size, 1 / scales[1])
    rays = geometry.det_to_src(angles.ravel(), bins.ravel())  # of length one
    return 1 / np.linalg.norm(scales * rays, axis=1)


def is_square(space: DiscretizedSpace) -> bool:
    """Whether the pixels of a planar space are square."""
    return math.isclose(*space.cell_sides, rel_tol=1e-6)


def _scales(space: DiscretizedSpace) -> np.ndarray:
    """Return the factors along the two axes that make pixels square with sides near one."""
    first, second = map(float, space.cell_sides)
    unit = 2.0 ** -round(math.log2(second))
    return np.array([unit if is_square(space) else unit * second / first, unit])


def estimate_nonzeros(space: DiscretizedSpace, geometry: Geometry) -> int:
    r"""Estimate the number of nonzeros of the matrix from the geometry alone.

    Over an image of :math:`N` pixels of sides :math:`p` and :math:`q`, with rays of one angle a distance :math:`d`
    apart at the axis of rotation, the chords add up to :math:`N p q / d`. Per length and on average over the
    angles Joseph's projector writes :math:`4 \sqrt{p^{-2} + q^{-2}} / \pi` entries, two for each row or column
    crossed, and the line projector :math:`2 (p^{-1} + q^{-1}) / \pi`, one for each pixel crossed. Where the
    detector is narrower than the image, the number of rays is the limit.
    """
    (rows, columns), (p, q) = space.shape, map(float, space.cell_sides)
    rays = int(np.prod(geometry.partition.shape))
    views = int(np.prod(geometry.motion_partition.shape))
    pitch = float(geometry.det_partition.cell_sides[0])
    if isinstance(geometry, ParallelBeamGeometry):
        per_length, per_ray = 4 / math.pi * math.hypot(1 / p, 1 / q), 2 * max(rows, columns)
    else:
        pitch *= geometry.src_radius / (geometry.src_radius + geometry.det_radius)
        per_length, per_ray = 2 / math.pi * (1 / p + 1 / q), rows + columns
    per_view = per_length * rows * columns * p * q / pitch
    return int(min(views * per_view, rays * per_ray))


def matrix_memory(space: DiscretizedSpace, geometry: Geometry) -> int:
    """Estimate the bytes that the matrix and its transpose occupy, in the precision of the space."""
    item = 8 if np.dtype(space.dtype_identifier) in (np.float64, np.complex128) else 4
    rays = int(np.prod(geometry.partition.shape))
    return 2 * estimate_nonzeros(space, geometry) * (item + 4) + 4 * (rays + space.size)


def ray_pair(
    space: DiscretizedSpace, geometry: Geometry, dtype: torch.dtype, *, cache: bool = True
) -> SparsePair:
    """Return the matrix of the ray transform with its transpose, on the CPU.

    Parameters
    ----------
    space : DiscretizedSpace
        Two-dimensional space of images.
    geometry : Geometry
        Parallel-beam or flat fan-beam geometry.
    dtype : torch.dtype
        float32 or float64. ASTRA computes the entries in single precision in either case.
    cache : bool
        Whether to read the matrix from disk, and to write it there after it was built.

    Returns
    -------
    SparsePair
        The matrix, shared by all callers that ask for the same one while it is in use.
    """
    astra = import_astra()
    projector = planar_projector(space, geometry)
    ratios = length_ratios(space, geometry)
    key = _digest([_FORMAT, astra.__version__, projector, ratios])
    pair = _PAIRS.get((key, dtype))
    if pair is None:
        shape = (int(np.prod(geometry.partition.shape)), space.size)
        matrix = read_matrix(f"ray-{key}", shape) if cache else None
        if matrix is None:
            matrix = _build(astra, projector, math.ceil(estimate_nonzeros(space, geometry) / _BLOCK))
            matrix.data *= np.repeat(ratios.astype(np.float32), np.diff(matrix.indptr))
            if cache:
                write_matrix(f"ray-{key}", matrix)
        pair = _PAIRS[key, dtype] = SparsePair.from_scipy(matrix, dtype)
    return pair


def _build(astra: Any, projector: dict[str, Any], blocks: int) -> scipy.sparse.csr_array:
    """Return ASTRA's matrix in single precision with sorted rows, assembled from blocks of angles."""
    projection = projector["ProjectionGeometry"]
    name = "Vectors" if "Vectors" in projection else "ProjectionAngles"
    views = np.asarray(projection[name])
    parts = []
    for part in np.array_split(views, max(1, min(blocks, len(views)))):
        handle = astra.projector.create(projector | {"ProjectionGeometry": projection | {name: part}})
        try:
            matrix_handle = astra.projector.matrix(handle)
            try:
                matrix = scipy.sparse.csr_array(astra.matrix.get(matrix_handle), dtype=np.float32)
            finally:
                astra.matrix.delete(matrix_handle)
        finally:
            astra.projector.delete(handle)
        matrix.sort_indices()
        parts.append(matrix)
    return parts[0] if len(parts) == 1 else scipy.sparse.csr_array(scipy.sparse.vstack(parts, format="csr"))


def _digest(value: Any) -> str:
    """Return a hash of nested dicts, lists, arrays and plain values."""
    state = hashlib.sha256()

    def update(value: Any) -> None:
        if isinstance(value, dict):
            update([[key, value[key]] for key in sorted(value)])
        elif isinstance(value, list | tuple):
            state.update(f"[{len(value)}".encode())
            for item in value:
                update(item)
        elif isinstance(value, np.ndarray):
            state.update(f"{value.dtype}{value.shape}".encode() + np.ascontiguousarray(value).tobytes())
        else:
            state.update(f"{type(value).__name__}:{value!r};".encode())

    update(value)
    return state.hexdigest()[:32]
