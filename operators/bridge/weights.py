r"""Weights of inner products, by which ODL's gradients differ from autograd's.

The inner product of a space is :math:`\langle x, y\rangle = \sum w\, x\, \bar y` with a weight :math:`w`, the cell
volume for a `uniform_discr`. ODL's gradients are Riesz representers in this inner product, autograd's are not:
``riesz(space, g) = g / w`` converts the latter to the former.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, overload

import odl
import torch
from odl.core.set import Field
from odl.core.set.space import LinearSpaceElement
from torch import Tensor

from genreg.operators.bridge.protocols import ProductSpace, Space, StackedSpace
from genreg.operators.bridge.spaces import (
    DeviceCopies,
    Tensors,
    is_stacked,
    torch_device,
    torch_dtype,
    tree_map,
)


@overload
def weight(space: StackedSpace) -> float | Tensor: ...
@overload
def weight(space: ProductSpace) -> tuple[Any, ...]: ...
def weight(space: Any) -> float | Tensor | tuple[Any, ...]:
    r"""Return the weight :math:`w` of the inner product :math:`\langle x, y\rangle = \sum w\, x\, \bar y`.

    Returns
    -------
    float, Tensor or tuple
        A number where the weight is constant, else a tensor that broadcasts against the elements; a tuple of
        these for a product space that is not a power space. Weights of the product space itself are
        multiplied in.

    Raises
    ------
    NotImplementedError
        If the inner product has no such form: exponents other than 2, matrix weights, custom inner products.
    """
    if isinstance(space, Field):
        return 1.0
    w = space.weighting
    if getattr(w, "exponent", 2.0) != 2.0 or not (hasattr(w, "const") or hasattr(w, "array")):
        raise NotImplementedError(f"{space!r} has no inner product with a weight: {w!r}")
    if isinstance(space, odl.ProductSpace):
        return _product_weight(space)
    constant = float(w.const) if hasattr(w, "const") else _weight_tensor(w.array, space)
    if getattr(space, "is_uniformly_weighted", True) or not getattr(space, "is_uniform", False):
        return constant
    # With nodes on the boundary, the outermost cells are weighted by the fraction that lies inside the domain.
    for axis, (left, right) in enumerate(space.partition.boundary_cell_fractions):
        line = torch.ones(space.shape[axis], dtype=torch_dtype(space).to_real(), device=torch_device(space))
        line[0] *= left
        line[-1] *= right
        constant = constant * line.reshape([-1 if a == axis else 1 for a in range(space.ndim)])
    return constant


def _product_weight(space: Any) -> float | Tensor | tuple[Any, ...]:
    n, w = len(space), space.weighting
    outer = [float(w.const)] * n if hasattr(w, "const") else [float(o) for o in w.array]
    if not is_stacked(space):
        return tuple(_scaled(o, weight(s)) for o, s in zip(outer, space.spaces, strict=True))
    inner = weight(space[0])
    if len(set(outer)) == 1:
        return _scaled(outer[0], inner)
    column = torch.tensor(outer, dtype=torch_dtype(space).to_real(), device=torch_device(space))
    return inner * column.reshape(-1, *(1,) * (len(space.shape) - 1))


def _scaled(scale: float, w: Any) -> Any:
    return tuple(_scaled(scale, part) for part in w) if isinstance(w, tuple) else scale * w


def _weight_tensor(array: Any, space: Space) -> Tensor:
    array = array.data if isinstance(array, LinearSpaceElement) else array
    return torch.as_tensor(array, dtype=torch_dtype(space).to_real(), device=torch_device(space))


def riesz(space: Space, g: Tensors) -> Tensors:
    r"""Turn a Euclidean (autograd) gradient into the Riesz gradient of ODL.

    ODL's gradient :math:`g_R` satisfies :math:`f'(x)h = \mathrm{Re}\langle g_R, h\rangle_X`, autograd's
    satisfies :math:`f'(x)h = \mathrm{Re}\sum \bar g h`; hence :math:`g_R = g / w`, the weights of product
    spaces included.

    Parameters
    ----------
    space : odl space
        Space of the variable.
    g : Tensor or tuple
        Autograd's gradient(s), with any batch axes.

    Returns
    -------
    Tensor or tuple
        The Riesz gradient(s), of the same shape; `g` itself where the weight is 1.
    """
    w = weight(space)
    if isinstance(w, float):
        return g if w == 1.0 else g / w
    return tree_map(torch.div, g, w)


def weighted_adjoint(
    fn: Callable[[Tensors], Tensors], domain: Space, range: Space, *, inverse: bool = False
) -> Callable[[Tensors], Tensors]:
    r"""Return :math:`s \mapsto w_X^{-1} J^H (w_Y s)`, with the two weights merged where they are constant.

    Parameters
    ----------
    fn : callable
        The action of the Euclidean transpose :math:`J^H` on batches.
    domain, range : odl spaces
        The spaces X and Y.
    inverse : bool
        Go back from an adjoint `fn` to the Euclidean transpose, :math:`s \mapsto w_X A^* (w_Y^{-1} s)`.
    """
    w_domain, w_range = weight(domain), weight(range)
    if isinstance(w_domain, float) and isinstance(w_range, float):
        ratio = w_domain / w_range if inverse else w_range / w_domain
        return fn if ratio == 1.0 else lambda s: ratio * fn(s)
    before, after = _multiplication(w_range, inverse), _multiplication(w_domain, not inverse)
    return lambda s: after(fn(before(s)))


def _multiplication(w: float | Tensor | tuple[Any, ...], inverse: bool) -> Callable[[Tensors], Tensors]:
    """Return the multiplication by a weight, or by its inverse."""
    if isinstance(w, tuple):
        parts = [_multiplication(part, inverse) for part in w]
        return lambda t: tuple(f(part) for f, part in zip(parts, t, strict=True))
    factor = 1 / w if inverse else w
    if isinstance(factor, float):
        return lambda t: factor * t
    copies = DeviceCopies(factor)
    return lambda t: t * copies(t)
