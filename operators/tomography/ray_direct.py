r"""Ray transforms without a stored matrix, by direct calls to ASTRA's projectors on the CPU and on CUDA.

Both pairs map flattened images, volumes and sinograms, in ODL's order of axes, in single precision. The CPU
pair is exactly matched. On CUDA the backprojection is driven by voxels and only approximates the transpose of
the forward projection.

The CUDA calls go through ``do_composite_FP`` and ``do_composite_BP``, since in ASTRA 2.5.0 the shorter
``direct_FP3D`` and ``direct_BP3D`` do not raise when the device fails. ASTRA keeps the angles in constant
memory of the device, one set for all, hence one lock for all calls.

**The CUDA path has not been run yet**: it was written against the sources of ASTRA 2.5.0, and only its
geometries and the order of axes are tested.
"""

from __future__ import annotations

import contextlib
import math
import threading
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import torch
from odl.applications.tomo import ParallelBeamGeometry
from odl.applications.tomo.backends.astra_setup import astra_projection_geometry, astra_volume_geometry
from odl.applications.tomo.geometry import Geometry
from odl.core.discr import DiscretizedSpace
from torch import Tensor

from genreg.operators.linear.sparse import LinearPair
from genreg.operators.tomography.ray_matrix import import_astra, length_ratios, planar_projector

# Slices in one CUDA call: far below the 2048 layers that every device offers in a texture.
_SLICES = 1024

_CUDA_LOCK = threading.Lock()


class _AstraPair(LinearPair):
    """Common part of the two pairs: shapes, single precision, one flattened batch axis, a transpose by a flag."""

    def __init__(self, space: DiscretizedSpace, geometry: Geometry, transposed: bool) -> None:
        self._space, self._geometry, self._transposed = space, geometry, transposed
        self._pair_of_transpose: _AstraPair | None = None
        self._volume_shape = tuple(space.shape)
        self._data_shape = tuple(geometry.partition.shape)

    @property
    def shape(self) -> tuple[int, int]:
        """Shape (m, n) of the matrix of the map."""
        shape = math.prod(self._data_shape), math.prod(self._volume_shape)
        return shape[::-1] if self._transposed else shape

    @property
    def T(self) -> LinearPair:  # noqa: N802
        """The transposed map."""
        if self._pair_of_transpose is None:
            self._pair_of_transpose = type(self)(self._space, self._geometry, not self._transposed)
            self._pair_of_transpose._pair_of_transpose = self
        return self._pair_of_transpose

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._space, self._geometry, self._transposed)

    def _product(self, x: Tensor) -> Tensor:
        batch = x.shape[:-1]
        shapes = self._data_shape, self._volume_shape
        source, target = shapes if self._transposed else shapes[::-1]
        flat = x.detach().resolve_neg().to(torch.float32).reshape(math.prod(batch), *source).contiguous()
        out = torch.zeros(len(flat), *target, dtype=torch.float32, device=x.device)
        if len(flat) > 0:
            self._project(flat, out)
        return out.to(x.dtype).reshape(*batch, math.prod(target))

    def _project(self, source: Tensor, target: Tensor) -> None:
        """Project the batch `source` (B, ...) into the batch `target`, both float32 and contiguous."""
        raise NotImplementedError


class DirectPair(_AstraPair):
    """ASTRA's CPU projector and its exact transpose, in PyTorch's number of threads: image by image, or view by view.

    Where there are fewer images than threads, the views are shared out among these.

    Parameters
    ----------
    space : DiscretizedSpace
        Two-dimensional space of images.
    geometry : Geometry
        Parallel-beam or flat fan-beam geometry.
    transposed : bool
        Whether the map is the backprojection.
    """

    def __init__(self, space: DiscretizedSpace, geometry: Geometry, transposed: bool = False) -> None:
        super().__init__(space, geometry, transposed)
        self._astra = import_astra()
        self._config = planar_projector(space, geometry)
        self._by_views: dict[int, list[tuple[slice, _Handle]]] = {}
        self._ratios = torch.from_numpy(length_ratios(space, geometry)).float().view(self._data_shape)

    def _parts(self, count: int) -> list[tuple[slice, _Handle]]:
        """Projectors of about `count` equal shares of the views, and which these are."""
        if count not in self._by_views:
            projection = self._config["ProjectionGeometry"]
            name = "Vectors" if "Vectors" in projection else "ProjectionAngles"
            views, parts = np.asarray(projection[name]), []
            for share in np.array_split(np.arange(len(views)), max(1, min(count, len(views)))):
                part = projection | {name: views[share]}
                handle = _Handle(self._astra.projector, self._config | {"ProjectionGeometry": part})
                parts.append((slice(int(share[0]), int(share[-1]) + 1), handle))
            self._by_views[count] = parts
        return self._by_views[count]

    def _project(self, source: Tensor, target: Tensor) -> None:
        if self._transposed:
            source = source * self._ratios
        call = self._astra.projector.direct_BP if self._transposed else self._astra.projector.direct_FP
        threads = torch.get_num_threads()
        parts = self._parts(math.ceil(threads / len(source)))

        # Images of some of the views each, which are added at the end in the same order every time.
        several = self._transposed and len(parts) > 1
        images = target.new_zeros(len(parts), *target.shape) if several else target[None]

        def run(task: tuple[int, int]) -> None:
            index, k = task
            views, handle = parts[k]
            if self._transposed:
                call(handle.id, source[index, views], out=images[k, index])
            else:
                call(handle.id, source[index], out=target[index, views])

        tasks = [(index, k) for index in range(len(source)) for k in range(len(parts))]
        if threads == 1:
            for task in tasks:
                run(task)
        else:
            with ThreadPoolExecutor(threads) as pool:
                for _ in pool.map(run, tasks):
                    pass
        if not self._transposed:
            target *= self._ratios
        elif several:
            torch.sum(images, 0, out=target)


class CudaPair(_AstraPair):
    """ASTRA's CUDA projectors for parallel, fan and cone beams, in two and three dimensions.

    A batch of two-dimensional parallel-beam images is one volume whose slices are the images, hence one call
    for the whole batch; other geometries are looped. Tensors on the device are linked, not copied. This class
    has not been run on a device yet.

    Parameters
    ----------
    space : DiscretizedSpace
        Space of images or volumes.
    geometry : Geometry
        Geometry with one angle or time parameter and a flat detector.
    transposed : bool
        Whether the map is the backprojection.

    Raises
    ------
    RuntimeError
        If ASTRA finds no CUDA device.
    """

    def __init__(self, space: DiscretizedSpace, geometry: Geometry, transposed: bool = False) -> None:
        super().__init__(space, geometry, transposed)
        self._astra = import_astra()
        if not self._astra.use_cuda():
            raise RuntimeError(
                "`method='cuda'` needs a CUDA device that ASTRA can use, but astra.use_cuda() is False; "
                "ASTRA's wheel also needs cuFFT of CUDA 12 (pip install nvidia-cufft-cu12)"
            )
        self._stacked = space.ndim == 2 and isinstance(geometry, ParallelBeamGeometry)

    def _project(self, source: Tensor, target: Tensor) -> None:
        with _CUDA_LOCK, _device(self._astra, source.device):
            if self._stacked:
                for part, out in zip(source.split(_SLICES), target.split(_SLICES), strict=True):
                    self._call(
                        *stacked_geometry(self._space, self._geometry, len(part)), "default", part, out
                    )
                return
            volume = astra_volume_geometry(self._space, "cuda")
            projection = astra_projection_geometry(self._geometry, "cuda")
            if self._space.ndim == 2:  # a fan: the one slice at height 0 is the image
                for index in range(len(source)):
                    item = slice(index, index + 1)
                    self._call(volume, projection, "2d_weighting", source[item], target[item])
                return
            for part, out in zip(source, target, strict=True):  # ASTRA orders (row, angle, column)
                if self._transposed:
                    self._call(volume, projection, "default", part.transpose(0, 1).contiguous(), out)
                else:
                    rows = torch.zeros(self._astra.geom_size(projection), dtype=out.dtype, device=out.device)
                    self._call(volume, projection, "default", part, rows)
                    out.copy_(rows.transpose(0, 1))

    def _call(self, volume: dict, projection: dict, kernel: str, source: Tensor, target: Tensor) -> None:
        """Run one operation on the device; ASTRA synchronises before it returns."""
        astra = self._astra
        images, data = (target, source) if self._transposed else (source, target)
        run = astra.experimental.do_composite_BP if self._transposed else astra.experimental.do_composite_FP
        with contextlib.ExitStack() as stack:
            projector = astra.projector3d.create(
                {
                    "type": "cuda3d",
                    "VolumeGeometry": volume,
                    "ProjectionGeometry": projection,
                    "ProjectionKernel": kernel,
                    "options": {},
                }
            )
            stack.callback(astra.projector3d.delete, projector)
            volume_id = astra.data3d.link("-vol", volume, images)
            stack.callback(astra.data3d.delete, volume_id)
            data_id = astra.data3d.link("-sino", projection, data)
            stack.callback(astra.data3d.delete, data_id)
            try:
                run(projector, [volume_id], [data_id])
            except astra.log.AstraError:
                # ASTRA cannot use memory that PyTorch has cached.
                if not source.is_cuda:
                    raise
                torch.cuda.empty_cache()
                run(projector, [volume_id], [data_id])


def stacked_geometry(space: DiscretizedSpace, geometry: Geometry, count: int) -> tuple[dict, dict]:
    """Return ASTRA's three-dimensional geometries for a stack of parallel-beam slices.

    The slices have thickness one and lie symmetrically to height 0, and so do the detector rows: a ray of row
    b runs in the middle of slice b, where interpolation along the axis leaves the other slices out.

    Parameters
    ----------
    space : DiscretizedSpace
        Two-dimensional space of images.
    geometry : Geometry
        Two-dimensional parallel-beam geometry.
    count : int
        Number of slices.

    Returns
    -------
    volume, projection : dict
        Geometries of arrays of shape ``(count, *space.shape)`` and ``(count, n_angles, n_bins)``.
    """
    astra = import_astra()
    (rows, columns), lower, upper = space.shape, space.partition.min_pt, space.partition.max_pt
    volume = astra.create_vol_geom(
        rows, columns, count, lower[1], upper[1], lower[0], upper[0], -count / 2, count / 2
    )
    vectors = np.array(astra_projection_geometry(geometry, "cuda")["Vectors"])
    vectors[:, 9:12] = (0.0, 0.0, 1.0)
    return volume, astra.create_proj_geom("parallel3d_vec", count, geometry.det_partition.size, vectors)


class _Handle:
    """An object of ASTRA, deleted there when this one is garbage-collected."""

    def __init__(self, manager: Any, config: dict) -> None:
        self.id = manager.create(config)
        weakref.finalize(self, partial(manager.delete, self.id))


@contextlib.contextmanager
def _device(astra: Any, device: torch.device) -> Iterator[None]:
    """Let ASTRA work on the device of the tensors, after the work that PyTorch has queued there.

    ASTRA works on streams of its own that wait for PyTorch's default stream only, and its choice of a device
    moves the current device of the thread, which is restored here.
    """
    if device.type != "cuda":
        yield
        return
    with torch.cuda.device(device):
        torch.cuda.current_stream(device).synchronize()
        astra.set_gpu_index(torch.cuda.current_device())
        yield
