r"""Products :math:`J p` with the Jacobian of a function of torch at one point.

Forward differentiation makes them, where all of the function has forward derivatives. Where it has not, two reverse
ones do: :math:`w \mapsto J^H w` is linear, and its own pullback of p is :math:`J p`.

Fused attention has no forward derivative on the CPU, and no second reverse one: it is computed by its formula here,
as matrix products and a softmax, with the same values up to rounding.

References
----------
J. Townsend (2017), A new trick for calculating Jacobian vector products,
https://j-towns.github.io/2017/06/12/A-new-trick.html.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from genreg.operators.bridge.spaces import Tensors, tree_leaves, tree_map


class Pushforward:
    """The function p -> J p at one point: by forward differentiation, or by two reverse ones where that is not there.

    Parameters
    ----------
    fn : callable
        Maps tensor(s) to tensor(s).
    point : Tensor or tuple
        Where to differentiate.
    """

    def __init__(self, fn: Callable[[Any], Any], point: Tensors) -> None:
        self.fn, self.point = fn, point
        self._twice: Callable[[Any], Any] | None = None

    def __call__(self, p: Tensors) -> Any:
        """Return J p for a direction of the shape of the point."""
        if self._twice is None:
            try:
                return pushed_forward(self.fn, self.point, p)
            except torch.OutOfMemoryError:
                raise
            except (NotImplementedError, RuntimeError):  # some part of it has no forward derivative
                self._twice = pushed_twice(self.fn, self.point)
        return self._twice(p)


def pushed_forward(fn: Callable[[Any], Any], point: Tensors, p: Tensors) -> Any:
    """J p by forward differentiation.

    Raises
    ------
    NotImplementedError, RuntimeError
        If a part of the function has no forward derivative.
    """
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        return torch.func.jvp(fn, (point,), (p,))[1]


def pushed_twice(fn: Callable[[Any], Any], point: Tensors) -> Callable[[Any], Any]:
    """Return p -> J p by two reverse differentiations, of which the first is done here, once for all p."""
    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
        leaves = tree_map(lambda t: t.detach().requires_grad_(), point)
        value = fn(leaves)
        weights = tree_map(lambda v: torch.zeros_like(v).requires_grad_(), value)  # w; J^H w is linear in it
        moving = [
            (v, w) for v, w in zip(tree_leaves(value), tree_leaves(weights), strict=True) if v.requires_grad
        ]
        if moving:
            values, cotangents = zip(*moving, strict=True)
            pulled = torch.autograd.grad(
                values, tree_leaves(leaves), cotangents, create_graph=True, materialize_grads=True
            )

    def push(p: Tensors) -> Any:
        pairs = [] if not moving else zip(pulled, tree_leaves(p), strict=True)
        known = [(g, direction) for g, direction in pairs if g.requires_grad]
        if not known:
            return tree_map(lambda v: torch.zeros_like(v), value)
        gradients, directions = zip(*known, strict=True)
        found = iter(
            torch.autograd.grad(
                gradients, tree_leaves(weights), directions, retain_graph=True, materialize_grads=True
            )
        )
        return tree_map(lambda v: next(found), value)

    return push
