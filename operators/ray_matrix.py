r"""The explicit matrix of a planar ray transform: built by ASTRA, estimated beforehand, kept on disk.

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
import os
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
import scipy.sparse
import torch
from odl.applications.tomo import ParallelBeamGeometry
from odl.applications.tomo.backends.astra_setup import astra_projection_geometry, astra_volume_geometry
from odl.applications.tomo.geometry import Geometry
from odl.core.discr import DiscretizedSpace

from genreg.operators.sparse import SparsePair

__all__ = [
    "cache_directory",
    "estimate_nonzeros",
    "import_astra",
    "is_centred",
    "matrix_memory",
    "planar_projector",
    "ray_pair",
]

# Part of the key of a cached matrix: raise it when the contents of the files change.
_FORMAT = 1
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


def cache_directory() -> Path:
    """Return the folder of cached matrices: ``$GENREG_CACHE``, or ``genreg`` in the user's cache folder."""
    if folder := os.environ.get("GENREG_CACHE"):
        return Path(folder)
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "genreg"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "genreg" / "Cache"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "genreg"


def planar_projector(space: DiscretizedSpace, geometry: Geometry) -> dict[str, Any]:
    """Return the configuration of ASTRA's CPU projector for images on `space`.

    For parallel beams ODL describes the detector to ASTRA by its width alone, as if it were centred at the axis
    of rotation and neither moved nor mirrored. Where that is so, its description is taken, and else vectors say
    where the detector is, in the same frame, which is turned by -90 degrees.
    """
    projection = None
    if not is_centred(geometry):
        turn = np.kron(np.eye(3), [[0, -1], [1, 0]])
        vectors = np.concatenate(_parallel_vectors(geometry), axis=1) @ turn
        projection = import_astra().create_proj_geom("parallel_vec", geometry.det_partition.size, vectors)
    return {
        "type": "linear" if isinstance(geometry, ParallelBeamGeometry) else "line_fanflat",
        "VolumeGeometry": astra_volume_geometry(space, "cpu"),
        "ProjectionGeometry": projection or astra_projection_geometry(geometry, "cpu"),
    }


def is_centred(geometry: Geometry) -> bool:
    """Whether the detector of a parallel-beam geometry is where ODL's CPU back-end takes it to be."""
    if not isinstance(geometry, ParallelBeamGeometry):
        return True
    _, centre, step = _parallel_vectors(geometry)
    pitch = float(geometry.det_partition.cell_sides[0])
    axis = np.stack([np.cos(geometry.angles), np.sin(geometry.angles)], axis=1)
    offset = (centre * step).sum(axis=1) / pitch
    return bool(
        np.allclose(step, pitch * axis, atol=1e-9 * pitch) and np.allclose(offset, 0, atol=1e-6 * pitch)
    )


def _parallel_vectors(geometry: Geometry) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return direction of the rays, centre of the detector and step between bins, each (angles, 2)."""
    middle = geometry.det_params.mid_pt
    return (
        -geometry.det_to_src(geometry.angles, middle),
        geometry.det_point_position(geometry.angles, middle.item()),
        geometry.det_axis(geometry.angles) * geometry.det_partition.cell_sides[0],
    )


def estimate_nonzeros(space: DiscretizedSpace, geometry: Geometry) -> int:
    r"""Estimate the number of nonzeros of the matrix from the geometry alone.

    Over an image of :math:`N` square pixels of side :math:`p`, with rays of one angle a distance :math:`d`
    apart at the axis of rotation, the chords add up to :math:`N p^2 / d`. Per pixel length and on average
    over the angles Joseph's projector writes :math:`4 \sqrt 2 / \pi` entries, two for each row or column
    crossed, and the line projector :math:`4 / \pi`, one for each pixel crossed. Where the detector is
    narrower than the image, the number of rays is the limit.
    """
    rows, columns = space.shape
    rays = int(np.prod(geometry.partition.shape))
    views = int(np.prod(geometry.motion_partition.shape))
    pitch = float(geometry.det_partition.cell_sides[0])
    if isinstance(geometry, ParallelBeamGeometry):
        per_length, per_ray = 4 * math.sqrt(2) / math.pi, 2 * max(rows, columns)
    else:
        pitch *= geometry.src_radius / (geometry.src_radius + geometry.det_radius)
        per_length, per_ray = 4 / math.pi, rows + columns
    per_view = per_length * rows * columns * float(space.cell_sides[0]) / pitch
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
    key = _digest([_FORMAT, astra.__version__, projector])
    pair = _PAIRS.get((key, dtype))
    if pair is None:
        shape = (int(np.prod(geometry.partition.shape)), space.size)
        path = cache_directory() / f"ray-{key}.npz"
        matrix = _read(path, shape) if cache else None
        if matrix is None:
            matrix = _build(astra, projector, math.ceil(estimate_nonzeros(space, geometry) / _BLOCK))
            if cache:
                _write(path, matrix)
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


def _read(path: Path, shape: tuple[int, int]) -> scipy.sparse.csr_array | None:
    """Return the cached matrix, or None where there is none or it does not hold what it should."""
    try:
        # The zip format checks a CRC of each array.
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            matrix = scipy.sparse.csr_array((file["data"], file["indices"], file["indptr"]), shape=shape)
        matrix.check_format(full_check=True)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    if matrix.dtype != np.float32 or not np.isfinite(matrix.data).all():
        return None
    return matrix


def _write(path: Path, matrix: scipy.sparse.csr_array) -> None:
    """Write the matrix atomically; a cache that can't be written is not an error."""
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.stem, suffix=".tmp")
        temporary = Path(name)
        with os.fdopen(handle, "wb") as file:
            np.savez(file, data=matrix.data, indices=matrix.indices, indptr=matrix.indptr)
        os.replace(temporary, path)
    except OSError:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
