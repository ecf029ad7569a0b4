r"""The ray transform for tomography, batched and differentiable, with an exactly matched adjoint.

.. math:: (A x)(\theta, s) = \int_{\ell(\theta, s)} x \, \mathrm d\ell

sampled as in `odl.applications.tomo.RayTransform`, whose values it has. On the CPU the transform is a sparse
matrix :math:`M`, built once by ASTRA and kept on disk, and its adjoint :math:`(w_Y / w_X) M^T` is exact; a
batch costs little more than reading the matrix once. For transforms without a matrix see
`genreg.operators.tomography.ray_direct`.
"""

from __future__ import annotations

import warnings
from abc import ABC
from typing import Any, Literal, get_args
from weakref import WeakKeyDictionary

import numpy as np
import odl
from odl.applications import tomo
from odl.applications.tomo.geometry import Flat1dDetector, Flat2dDetector, Geometry
from odl.core.discr import DiscretizedSpace
from torch import Tensor

from genreg.operators.bridge.arguments import choice, flag, number
from genreg.operators.bridge.lowered import TorchOperator
from genreg.operators.bridge.modes import undisturbed
from genreg.operators.bridge.spaces import torch_device, torch_dtype
from genreg.operators.bridge.tensor_operator import TensorOperator, weighted_pair
from genreg.operators.bridge.translation import lower
from genreg.operators.linear.sparse import LinearPair
from genreg.operators.lowering.fallback import sample_by_sample
from genreg.operators.tomography.detector import ON_CPU, ON_CUDA, ignored_by_backend
from genreg.operators.tomography.ray_direct import CudaPair, DirectPair
from genreg.operators.tomography.ray_matrix import import_astra, is_square, matrix_memory, ray_pair

Backend = Literal["matrix", "astra", "cuda"]
Method = Literal["auto", Backend]
_MAX_MEMORY = 2 * 2**30

# The pairs of ODL's own ray transforms, for as long as these exist, so that lowering one again costs nothing.
_LOWERED: WeakKeyDictionary[tomo.RayTransform, LinearPair] = WeakKeyDictionary()


class RayTransform(TensorOperator):
    """A ray transform made by `ray_transform`; use that function.

    Parameters
    ----------
    space : DiscretizedSpace
        Space of images or volumes.
    geometry : Geometry
        Acquisition geometry.
    range : DiscretizedSpace
        Space of sinograms.
    pair : LinearPair
        The map of flattened images to flattened sinograms.
    method : {"matrix", "astra", "cuda"}
        How the pair computes.
    """

    def __init__(
        self,
        space: DiscretizedSpace,
        geometry: Geometry,
        range: DiscretizedSpace,
        pair: LinearPair,
        method: Backend,
    ) -> None:
        super().__init__(space, range)
        self._geometry, self._pair, self._method = geometry, pair, method

    @property
    def geometry(self) -> Geometry:
        """The acquisition geometry."""
        return self._geometry

    @property
    def method(self) -> Backend:
        """How the transform is computed: "matrix", "astra" or "cuda"."""
        return self._method

    def forward(self, t: Tensor) -> Tensor:
        """Map images ``(*batch, *domain.shape)`` to sinograms ``(*batch, *range.shape)``."""
        return _apply(self._pair, t, self.domain.ndim, self.range.shape)

    def transpose(self, s: Tensor) -> Tensor:
        """Map sinograms to images by the transposed matrix, without the weights of the spaces."""
        return _apply(self._pair.T, s, self.range.ndim, self.domain.shape)


@undisturbed
def ray_transform(
    space: DiscretizedSpace,
    geometry: Geometry,
    *,
    method: Method = "auto",
    cache: bool = True,
    max_memory: float = _MAX_MEMORY,
) -> RayTransform:
    """Return the ray transform on `space` as a linear ODL operator that lowers to batched torch.

    Values are those of `odl.applications.tomo.RayTransform`, also in double precision, but for a detector off the axis,
    which is taken into account (ODL's CPU back-end assumes a parallel-beam detector to be centred). ODL's filtered
    backprojection, `fbp_op`, accepts the operator.

    Parameters
    ----------
    space : DiscretizedSpace
        Images or volumes: made by `odl.uniform_discr`, real or complex, numpy- or pytorch-backed, with the
        default weighting or none. On the CPU two-dimensional. Planar pixels need not be square, but for "cuda".
    geometry : Geometry
        Parallel beam, fan beam with a flat detector, or (on CUDA) three-dimensional parallel or cone beam.
    method : {"auto", "matrix", "astra", "cuda"}
        "matrix" stores the matrix and its transpose, on the device of the space: exactly matched adjoint,
        both precisions. "astra" calls ASTRA's CPU projectors for one image after the other, in single
        precision. "cuda" calls ASTRA's CUDA projectors in single precision, for a batch of two-dimensional
        parallel-beam images in one call; there the adjoint is ASTRA's backprojection, which is not the exact
        transpose, and **it has not been run on a device yet**. "auto" takes the matrix on the CPU if its
        estimated memory is at most `max_memory` and "astra" otherwise; on CUDA, and in three dimensions, it
        takes "cuda" where ASTRA can use the device, but the matrix for double precision if it is small
        enough.
    cache : bool
        Whether matrices are kept on disk, in the folder ``$GENREG_CACHE`` or else in the user's cache folder
        (``~/.cache/genreg``), 8 bytes per entry, for instance 43 MB at 128 x 128 pixels and 180 angles. All of them
        take at most ``$GENREG_CACHE_SIZE`` MiB, 4096 by default; the least recently used are deleted. Without a
        writable folder nothing is kept. A file that was altered is replaced.
    max_memory : float
        Bytes that the matrix and its transpose may take for "auto" to choose the matrix; 2 GiB by default.
        Forcing ``method="matrix"`` ignores it.

    Returns
    -------
    RayTransform
        Operator from `space` to the sinograms, with the range that ODL's ray transform has.

    Raises
    ------
    TypeError
        If `space` or `geometry` are of another kind.
    ValueError
        If they don't fit each other or the method, or an argument or ``$GENREG_CACHE_SIZE`` is out of range.
    RuntimeError
        If CUDA is asked for and ASTRA can't use it.
    ImportError
        If the ASTRA toolbox is not installed.

    Examples
    --------
    >>> import odl
    >>> from odl.applications import tomo
    >>> X = odl.uniform_discr([-1, -1], [1, 1], (32, 32), dtype="float32")
    >>> A = ray_transform(X, tomo.parallel_beam_geometry(X, 20), cache=False)
    >>> A.method
    'matrix'
    """
    _check(space, geometry, method, max_memory, cache)
    backend = _choose(space, geometry, method, max_memory)
    pair = _pair(space, geometry, backend, cache)
    return RayTransform(space, geometry, _sinograms(space, geometry), pair, backend)


def _check(space: Any, geometry: Any, method: Any, max_memory: Any, cache: Any) -> None:
    if not isinstance(space, DiscretizedSpace):
        raise TypeError(f"`space` must be made by odl.uniform_discr, got {type(space).__name__}")
    if not isinstance(geometry, Geometry):
        raise TypeError(
            f"`geometry` must be a geometry of odl.applications.tomo, got {type(geometry).__name__}"
        )
    choice(method, "`method`", get_args(Method))
    number(max_memory, "`max_memory`", minimum=0, infinite=True)
    flag(cache, "`cache`")
    if space.ndim != geometry.ndim:
        raise ValueError(f"`space` must have the {geometry.ndim} dimensions of `geometry`, got {space.ndim}")
    if space.dtype_identifier not in ("float32", "float64", "complex64", "complex128"):
        raise ValueError(f"`space` must be of floating type, got {space.dtype_identifier}")
    if not space.is_uniform:
        raise ValueError(f"`space` must have pixels of the same sides, got a partition {space.partition}")
    constant = getattr(space.weighting, "const", None)
    if constant is None or not np.isclose(constant, [1.0, space.cell_volume], atol=0).any():
        raise ValueError(f"`space` must be weighted by its cell volume or not at all, got {space.weighting}")
    if not isinstance(geometry.detector, Flat1dDetector | Flat2dDetector):
        raise ValueError(f"`geometry` must have a flat detector, got {type(geometry.detector).__name__}")
    if not geometry.det_partition.is_uniform or geometry.motion_partition.ndim != 1:
        raise ValueError("`geometry` must have a uniform detector and one motion parameter")


def _choose(space: DiscretizedSpace, geometry: Geometry, method: Method, max_memory: float) -> Backend:
    """Return the method that is used; raise if it cannot be the given one."""
    on_device, usable = torch_device(space).type == "cuda", import_astra().use_cuda()
    square = space.ndim == 3 or is_square(space)
    if method == "auto":
        cuda = on_device and usable and square
        method = "cuda" if space.ndim == 3 else _automatic(space, geometry, max_memory, cuda)
    if method == "cuda":
        if not usable:
            what = "a three-dimensional ray transform" if space.ndim == 3 else "`method='cuda'`"
            raise RuntimeError(
                f"{what} needs a CUDA device that ASTRA can use, but astra.use_cuda() is False; "
                "ASTRA's wheel also needs cuFFT of CUDA 12 (pip install nvidia-cufft-cu12)"
            )
        if not square:
            raise ValueError(
                f"`method='cuda'` needs square pixels, got cell sides {space.cell_sides}: take \"matrix\", or a "
                "space with as many pixels along each axis as make them square"
            )
        return "cuda"
    if space.ndim != 2:
        raise ValueError(f"`method={method!r}` needs a two-dimensional space, got {space.ndim} dimensions")
    if method == "astra" and on_device:
        raise ValueError(f"`method='astra'` needs a space on the CPU, got {torch_device(space)}")
    return method


def _automatic(space: DiscretizedSpace, geometry: Geometry, max_memory: float, cuda: bool) -> Backend:
    """Choose for a planar space; `cuda` says whether ASTRA can work on its device."""
    double = space.dtype_identifier in ("float64", "complex128")
    memory = matrix_memory(space, geometry)
    if memory <= max_memory and (double or not cuda):
        return "matrix"
    if torch_device(space).type == "cuda" and not cuda:
        raise ValueError(
            f"`max_memory` must be at least {memory} bytes, the size of the matrix, where ASTRA can't use the "
            f"device or pixels are not square, got {max_memory}"
        )
    if double:
        warnings.warn(
            f"the matrix would take {memory / 2**20:.0f} MiB, more than `max_memory`: the ray transform is "
            "computed in single precision by ASTRA's projector",
            UserWarning,
            stacklevel=4,
        )
    return "cuda" if cuda else "astra"


def _pair(space: DiscretizedSpace, geometry: Geometry, method: Backend, cache: bool) -> LinearPair:
    if method == "cuda":
        return CudaPair(space, geometry)
    if method == "astra":
        return DirectPair(space, geometry)
    return ray_pair(space, geometry, torch_dtype(space).to_real(), cache=cache).to(device=torch_device(space))


def _sinograms(space: DiscretizedSpace, geometry: Geometry) -> DiscretizedSpace:
    """Return the range of ODL's own ray transform."""
    return tomo.RayTransform(space, geometry, impl=_NoBackend).range


class _NoBackend:
    """A back-end that is never called, for ODL's constructor."""

    def call_forward(self) -> None: ...

    def call_backward(self) -> None: ...


def _apply(pair: LinearPair, t: Tensor, ndim: int, shape: tuple[int, ...]) -> Tensor:
    """Apply the pair to the last `ndim` axes of a batch, flattened."""
    batch = t.shape[: t.ndim - ndim]
    return pair(t.reshape(*batch, pair.shape[1])).reshape(*batch, *shape)


class _BackProjection(ABC):  # noqa: B024
    """A class of which the adjoints of ODL's ray transforms are instances; ODL defines one class for every operator."""

    @classmethod
    def __subclasshook__(cls, other: type) -> bool:
        return issubclass(other, odl.Operator) and (
            (other.__module__, other.__name__) == (tomo.RayTransform.__module__, "RayBackProjection")
        )


def _as_odl_computes(op: Any, transform: tomo.RayTransform) -> TorchOperator:
    """Lower by calls of ODL, and warn if its back-end ignores a part of the geometry."""
    if fault := ignored_by_backend(transform):
        warnings.warn(
            f"ODL's back-end {transform.impl} ignores that the detector {fault}, and so does its lowering; "
            "genreg.operators.ray_transform(space, geometry) does not",
            UserWarning,
            stacklevel=4,
        )
    return sample_by_sample(op)


def _same_here(op: tomo.RayTransform) -> bool:
    """Whether ODL's operator has the same values as the pairs of this module."""
    return op.impl in ON_CUDA or (op.impl in ON_CPU and not ignored_by_backend(op))


@lower.register(tomo.RayTransform)
def _lower_ray_transform(op: tomo.RayTransform) -> TorchOperator:
    if not _same_here(op):
        return _as_odl_computes(op, op)
    space, geometry, shape = op.domain, op.geometry, op.range.shape
    backend: Backend = "cuda" if op.impl in ON_CUDA else _choose(space, geometry, "auto", _MAX_MEMORY)
    pair = _LOWERED.get(op)
    if pair is None:
        pair = _LOWERED[op] = _pair(space, geometry, backend, cache=True)
    return weighted_pair(
        lambda t: _apply(pair, t, space.ndim, shape),
        lambda s: _apply(pair.T, s, len(shape), space.shape),
        space,
        op.range,
    )


@lower.register(_BackProjection)
def _lower_back_projection(op: Any) -> TorchOperator:
    if not _same_here(op.adjoint):
        return _as_odl_computes(op, op.adjoint)
    return _lower_ray_transform(op.adjoint).adjoint
