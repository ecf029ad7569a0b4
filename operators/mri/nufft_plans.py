"""FINUFFT's plans for one set of frequencies: on the CPU by finufft, on CUDA by cufinufft.

The sum and its adjoint are evaluated by the same kernel with the same accuracy, so that each is the adjoint of the
other to rounding. A plan is for a fixed number of images; the last few plans are kept.

**The CUDA path has not been run yet**: it was written against the sources of cufinufft.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

_KEPT = 8  # plans; each has a grid of twice the size of the image along every axis


def import_finufft(device: torch.device) -> ModuleType:
    """Return the module that computes on `device`.

    Raises
    ------
    ImportError
        If it is not installed.
    NotImplementedError
        If the device is neither the CPU nor CUDA.
    """
    if device.type not in ("cpu", "cuda"):
        raise NotImplementedError(
            f"non-uniform Fourier transforms run on the CPU and on CUDA, not on {device}"
        )
    name = "finufft" if device.type == "cpu" else "cufinufft"
    try:
        return __import__(name)
    except ImportError:
        extra = "'genreg[mri]'" if name == "finufft" else name
        raise ImportError(f"non-uniform Fourier transforms need {name}: pip install {extra}") from None


class Plans:
    r"""The sums :math:`y_j = \sum_p x_p e^{-2\pi i \kappa_j \cdot p}` and their adjoint, on batches.

    Parameters
    ----------
    shape : tuple of int
        Rows and columns of the images; pixels count from ``[n // 2, m // 2]``.
    points : Tensor
        Frequencies :math:`\kappa_j` in cycles per pixel, float64 on the CPU, ``(samples, 2)``.
    eps : float
        Relative accuracy.
    """

    def __init__(self, shape: tuple[int, int], points: Tensor, eps: float) -> None:
        self._shape, self._points, self._eps = shape, points, eps
        self._plans: OrderedDict[tuple[Any, ...], Any] = OrderedDict()
        self._lock = threading.Lock()  # the calls of a plan share its grid

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._shape, self._points, self._eps)

    def sums(self, x: Tensor) -> Tensor:
        """Map complex images ``(*batch, n, m)`` to the sums, ``(*batch, samples)``."""
        samples = (len(self._points),)
        return self._execute(2, x.reshape(-1, *self._shape), samples).reshape(*x.shape[:-2], *samples)

    def adjoint(self, y: Tensor) -> Tensor:
        """Map complex samples ``(*batch, samples)`` to images ``(*batch, n, m)``."""
        images = self._execute(1, y.reshape(-1, len(self._points)), self._shape)
        return images.reshape(*y.shape[:-1], *self._shape)

    def _execute(self, kind: int, t: Tensor, shape: tuple[int, ...]) -> Tensor:
        source = t.detach().resolve_conj().resolve_neg().contiguous()
        out = source.new_empty(len(source), *shape)
        if not len(source):
            return out
        with self._lock:
            plan = self._plan(kind, len(source), source)
            if source.is_cuda:
                plan.execute(source, out=out)
            else:
                plan.execute(source.numpy(force=True), out=out.numpy(force=True))
        return out

    def _plan(self, kind: int, count: int, like: Tensor) -> Any:
        """Return the plan of a kind (1: to images, 2: to samples) for a number of images."""
        if like.is_cuda:
            stream = torch.cuda.current_stream(like.device).cuda_stream
            options = {"gpu_device_id": like.device.index or 0, "gpu_stream": stream}
        else:
            options = {"nthreads": torch.get_num_threads()}
        key = (kind, count, like.dtype, like.device, *options.values())
        if key in self._plans:
            self._plans.move_to_end(key)
            return self._plans[key]
        plan = import_finufft(like.device).Plan(
            kind,
            self._shape,
            n_trans=count,
            eps=self._eps,
            isign=-1 if kind == 2 else 1,
            dtype=str(like.dtype).removeprefix("torch."),
            **options,
        )
        radians = (2 * torch.pi * self._points).to(like.device, like.dtype.to_real())
        lines = [line.contiguous() for line in radians.unbind(1)]
        plan.setpts(*(lines if like.is_cuda else [line.numpy(force=True) for line in lines]))
        self._plans[key] = plan
        if len(self._plans) > _KEPT:
            self._plans.popitem(last=False)
        return plan
