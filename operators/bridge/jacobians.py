r"""Jacobians of batched operators, for latent vectors: few columns, many pixels.

For :math:`F : Z \to Y` on a batch, :math:`J = F'(z)` of every sample by itself. `jacobian` makes all its columns
in one sweep of forward differentiation over the batch, `linearise` the products :math:`J p` and
:math:`J^T w`. All are Euclidean, without the weights of the spaces.

References
----------
A. Griewank, A. Walther (2008), Evaluating derivatives, doi:10.1137/1.9780898717761, chapter 3.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from genreg.operators.bridge.forward_derivative import Pushforward, pushed_forward, pushed_twice
from genreg.operators.bridge.lowered import TorchOperator
from genreg.operators.bridge.spaces import Tensors, space_shape, tree_leaves, tree_map

# Numbers that a sweep of forward differentiation may hold at once, for one layer of the width of the output.
_ENTRIES = 2**25


def jacobian(op: TorchOperator, z: Tensor) -> Tensor:
    """Jacobian of every sample, ``(B, m, n)`` with m entries of Y and n of Z; complex where Y is.

    By forward differentiation (n sweeps at once), or by reverse (m sweeps) where m is smaller.

    Parameters
    ----------
    op : TorchOperator
        F, from one tensor to one tensor.
    z : Tensor
        Points, ``(B, *Z.shape)``, real.
    """
    m, n = math.prod(space_shape(op.range)), z[0].numel()
    if m < n and not op.linear:
        return _rows(op, z)
    return columns(op, z).flatten(2).permute(1, 2, 0)  # (n, B, m) to (B, m, n)


def columns(op: TorchOperator, z: Tensor) -> Tensor:
    """Columns :math:`J e_i` of every sample, ``(n, B, *Y.shape)``, by forward differentiation.

    An operator that cannot be differentiated forwards gets them by two reverse differentiations, or from its rows.
    """
    count, n = len(z), z[0].numel()
    eye = torch.eye(n, dtype=z.dtype, device=z.device)
    basis = eye.view(n, 1, *z.shape[1:]).expand(n, *z.shape)  # (n, B, *Z.shape)
    with torch.no_grad():
        if op.linear:
            return op(basis)
        chunk = max(1, _ENTRIES // max(count * math.prod(space_shape(op.range)), 1))
        for push in (
            lambda: functools.partial(pushed_forward, op.fn, z),
            lambda: pushed_twice(op.fn, z),
        ):
            try:
                return torch.func.vmap(push(), chunk_size=chunk)(basis)
            except torch.OutOfMemoryError:
                raise
            except (NotImplementedError, RuntimeError):
                continue  # without a forward derivative, or one that takes many directions at once
    return _rows(op, z).movedim(2, 0).reshape(n, count, *space_shape(op.range))


def _rows(op: TorchOperator, z: Tensor) -> Tensor:
    """Jacobians ``(B, m, n)`` by reverse differentiation, row by row."""

    def row(entry: Tensor) -> Tensor:
        return torch.autograd.grad(entry.sum(), leaf, retain_graph=True, materialize_grads=True)[0]

    with torch.enable_grad():
        leaf = z.detach().requires_grad_()
        value = op(leaf).flatten(1)  # (B, m)
        parts = (value.real, value.imag) if value.is_complex() else (value,)
        # each (B, m, *Z.shape)
        jacobians = [torch.stack([row(part[:, i]) for i in range(part.shape[1])], 1) for part in parts]
    return (torch.complex(*jacobians) if value.is_complex() else jacobians[0]).flatten(2)


def linearise(
    op: TorchOperator, z: Tensor
) -> tuple[Tensors, Callable[[Tensor], Any], Callable[[Any], Tensor]]:
    """Return the values F(z), and the functions p -> J p and w -> J^T w.

    Parameters
    ----------
    op : TorchOperator
        F, which must be differentiable forwards and backwards, or backwards twice.
    z : Tensor
        Points, ``(B, *Z.shape)``.
    """
    with torch.enable_grad():
        leaf = z.detach().requires_grad_()
        recorded = op(leaf)
    value = tree_map(lambda t: t.detach(), recorded)

    forward = Pushforward(op.fn, z)

    def push(p: Tensor) -> Any:
        with torch.no_grad():
            return op(p) if op.linear else forward(p)

    def pull(w: Any) -> Tensor:
        return torch.autograd.grad(
            tree_leaves(recorded), leaf, tree_leaves(w), retain_graph=True, materialize_grads=True
        )[0]

    return value, push, pull
