r"""Products of a fixed real matrix with batches of vectors, differentiable as often as one likes.

For a matrix :math:`M` of shape :math:`(m, n)` and a batch :math:`x` of shape ``(*batch, n)`` the product is
:math:`y_b = M x_b`, of shape ``(*batch, m)``. Autograd through PyTorch's own sparse product rebuilds the
transpose in every backward pass, and `torch.func` cannot trace it; `SparsePair` stores :math:`M` and
:math:`M^T` once and differentiates by applying the other one. `LinearPair` does the same for any map that
comes with a transpose.
"""

from __future__ import annotations

import math
import warnings
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from genreg.operators.bridge.autograd import recorded

if TYPE_CHECKING:
    import scipy.sparse

# Columns multiplied in one sparse product: enough to amortise reading the matrix, few enough for the cache.
_COLUMNS = 32


class LinearPair(ABC):
    """A real linear map from vectors of length n to vectors of length m that knows its transpose.

    Calling it is differentiable to any order, forward and backward, and works under `torch.func` transforms.
    A subclass gives `shape`, `T` and the product with real vectors, which need not be differentiable.
    """

    @property
    @abstractmethod
    def shape(self) -> tuple[int, int]:
        """Shape (m, n) of the matrix of the map."""

    @property
    @abstractmethod
    def T(self) -> LinearPair:  # noqa: N802
        """The transposed map; it shares memory with this one."""

    @abstractmethod
    def _product(self, x: Tensor) -> Tensor:
        """Map real ``(*batch, n)`` to contiguous ``(*batch, m)``."""

    def __call__(self, x: Tensor) -> Tensor:
        """Map a batch of vectors, real or complex.

        Parameters
        ----------
        x : Tensor
            Batch of shape ``(*batch, n)``.

        Returns
        -------
        Tensor
            The images, of shape ``(*batch, m)``, contiguous.
        """
        return _Apply.apply(x, self) if recorded(x) else _Apply.forward(x, self)


class SparsePair(LinearPair):
    """A fixed real sparse matrix together with its transpose, both in sorted CSR form.

    The pair is immutable; `deepcopy` therefore shares it and pickling stores plain tensors.

    Parameters
    ----------
    matrix, transposed : Tensor
        Sparse CSR tensors of shape (m, n) and (n, m), of one floating dtype and device.

    Raises
    ------
    ValueError
        If the two tensors are not CSR, or their shapes, dtypes or devices do not match.
    """

    def __init__(self, matrix: Tensor, transposed: Tensor) -> None:
        for name, tensor in (("matrix", matrix), ("transposed", transposed)):
            if not isinstance(tensor, Tensor) or tensor.layout != torch.sparse_csr or tensor.ndim != 2:
                raise ValueError(
                    f"`{name}` must be a two-dimensional sparse CSR tensor, got {_describe(tensor)}"
                )
        if tuple(transposed.shape) != tuple(matrix.shape)[::-1]:
            raise ValueError(
                f"`transposed` must have shape {tuple(matrix.shape)[::-1]}, got {tuple(transposed.shape)}"
            )
        if (matrix.dtype, matrix.device) != (transposed.dtype, transposed.device):
            raise ValueError(
                "`matrix` and `transposed` must share dtype and device, got "
                f"{matrix.dtype} on {matrix.device} and {transposed.dtype} on {transposed.device}"
            )
        self._matrix = matrix
        self._transposed = transposed
        self._pair_of_transpose: SparsePair | None = None

    @classmethod
    def from_scipy(cls, matrix: scipy.sparse.sparray, dtype: torch.dtype = torch.float32) -> SparsePair:
        """Return the pair for a SciPy sparse matrix.

        Parameters
        ----------
        matrix : scipy sparse array
            Any SciPy sparse format; it is not modified.
        dtype : torch.dtype
            float32 or float64.

        Raises
        ------
        ValueError
            If `dtype` is another one.
        """
        if dtype not in (torch.float32, torch.float64):
            raise ValueError(f"`dtype` must be torch.float32 or torch.float64, got {dtype}")
        matrix = matrix.tocsr().astype(np.float32 if dtype == torch.float32 else np.float64)
        return cls(_csr_tensor(_sorted(matrix)), _csr_tensor(_sorted(matrix.T.tocsr())))

    @property
    def shape(self) -> tuple[int, int]:
        """Shape (m, n) of the matrix."""
        return self._matrix.shape[0], self._matrix.shape[1]

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the entries."""
        return self._matrix.dtype

    @property
    def device(self) -> torch.device:
        """Device of the entries."""
        return self._matrix.device

    @property
    def matrix(self) -> Tensor:
        """The matrix as a sparse CSR tensor."""
        return self._matrix

    @property
    def T(self) -> SparsePair:  # noqa: N802
        """The transposed pair; it shares memory with this one."""
        if self._pair_of_transpose is None:
            self._pair_of_transpose = SparsePair(self._transposed, self._matrix)
            self._pair_of_transpose._pair_of_transpose = self
        return self._pair_of_transpose

    def to(self, *, dtype: torch.dtype | None = None, device: torch.device | str | None = None) -> SparsePair:
        """Return the pair in another dtype or on another device; itself if nothing changes."""
        dtype, device = dtype or self.dtype, torch.device(device or self.device)
        if (dtype, device) == (self.dtype, self.device):
            return self
        with _no_beta_warning():
            return SparsePair(
                self._matrix.to(dtype=dtype, device=device), self._transposed.to(dtype=dtype, device=device)
            )

    def _product(self, x: Tensor) -> Tensor:
        if torch.is_autocast_enabled(x.device.type):  # torch has no sparse products in half precision
            with torch.autocast(x.device.type, enabled=False):
                return self._product(x.to(self.dtype))
        matrix = self._matrix
        batch = x.shape[:-1]
        count = math.prod(batch)
        if count == 1:
            return (matrix @ x.reshape(matrix.shape[1])).reshape(*batch, matrix.shape[0])
        flat = x.reshape(count, matrix.shape[1])
        if count <= _COLUMNS:
            out = _multiply_columns(matrix, flat)
        else:
            out = torch.cat([_multiply_columns(matrix, part) for part in flat.split(_COLUMNS)])
        return out.reshape(*batch, matrix.shape[0])

    def __deepcopy__(self, memo: dict[int, Any]) -> SparsePair:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (_parts(self._matrix), _parts(self._transposed))

    def __repr__(self) -> str:
        nnz = self._matrix.values().numel()
        return f"SparsePair(shape={self.shape}, nnz={nnz}, dtype={self.dtype}, device={str(self.device)!r})"


class _Apply(torch.autograd.Function):
    """x -> M x along the last axis; its derivative is itself, its transpose that of the pair."""

    @staticmethod
    def forward(x: Tensor, pair: LinearPair) -> Tensor:
        if x.is_complex():
            parts = pair._product(torch.view_as_real(x.resolve_conj()).movedim(-1, 0).contiguous())
            return torch.complex(parts[0], parts[1])
        return pair._product(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, LinearPair], output: Tensor) -> None:
        ctx.pair = inputs[1]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return _Apply.apply(grad, ctx.pair.T), None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, _: None) -> Tensor:
        return _Apply.apply(tangent, ctx.pair)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int, None], x: Tensor, pair: LinearPair) -> tuple[Tensor, int]:
        return _Apply.apply(x.movedim(in_dims[0], 0), pair), 0


def _multiply_columns(matrix: Tensor, x: Tensor) -> Tensor:
    """(B, n) -> (B, m). The sparse kernel is fastest on row-major (n, B), and transposing costs little."""
    if x.shape[0] == 0:
        return x.new_zeros(0, matrix.shape[0])
    return (matrix @ x.T.contiguous()).T.contiguous()


def _sorted(matrix: Any) -> Any:
    matrix.sum_duplicates()
    matrix.sort_indices()
    return matrix


def _csr_tensor(matrix: Any) -> Tensor:
    # int32 indices halve the index traffic; PyTorch's CPU kernel takes them as they are.
    small = max(*matrix.shape, matrix.nnz) <= np.iinfo(np.int32).max
    index = np.int32 if small else np.int64
    crow, col = matrix.indptr.astype(index, copy=False), matrix.indices.astype(index, copy=False)
    return _rebuild_csr(
        torch.from_numpy(crow), torch.from_numpy(col), torch.from_numpy(matrix.data), tuple(matrix.shape)
    )


def _parts(tensor: Tensor) -> tuple[Tensor, Tensor, Tensor, tuple[int, ...]]:
    return tensor.crow_indices(), tensor.col_indices(), tensor.values(), tuple(tensor.shape)


def _rebuild_csr(crow: Tensor, col: Tensor, values: Tensor, shape: tuple[int, ...]) -> Tensor:
    with _no_beta_warning():
        return torch.sparse_csr_tensor(crow, col, values, size=shape, check_invariants=False)


def _rebuild(matrix: tuple[Any, ...], transposed: tuple[Any, ...]) -> SparsePair:
    return SparsePair(_rebuild_csr(*matrix), _rebuild_csr(*transposed))


class _no_beta_warning(warnings.catch_warnings):  # noqa: N801
    """Silence PyTorch's notice, given once per process, that CSR tensors are in beta."""

    def __enter__(self) -> None:
        super().__enter__()
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support", category=UserWarning)


def _describe(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of layout {value.layout} and shape {tuple(value.shape)}"
    return type(value).__name__
