"""A torch module at one point: its value with the graph of autograd; checks of modules that serve as priors."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from genreg.operators.bridge.forward_derivative import Pushforward
from genreg.operators.bridge.modes import undisturbed, without_autocast
from genreg.operators.bridge.protocols import Space
from genreg.operators.bridge.spaces import (
    Tensors,
    is_stacked,
    space_shape,
    to_tensor,
    torch_device,
    torch_dtype,
    tree_leaves,
    tree_map,
)


class Evaluation:
    """A module at one point, with the graph of autograd; the graph is made again after unpickling."""

    def __init__(self, module: nn.Module, point: Tensors) -> None:
        self.module = module
        self.point = point  # (1, *shape), our own copy
        self._graph: tuple[Tensors, Tensors] | None = None
        self._push: Pushforward | None = None

    def _recorded(self) -> tuple[Tensors, Tensors]:
        if self._graph is None:
            with torch.enable_grad():
                variable = tree_map(lambda t: t.detach().requires_grad_(), self.point)
                self._graph = variable, apply(self.module, variable)
        return self._graph

    @property
    @undisturbed
    def value(self) -> Tensors:
        """Output of the module, with a batch axis of length 1."""
        return self._recorded()[1]

    @undisturbed
    def pullback(self, c: Tensors) -> Tensors:
        """J^H c, without batch axis, on the device of the module."""
        variable, value = self._recorded()
        cotangents = [a.to(v.device)[None] for a, v in zip(tree_leaves(c), tree_leaves(value), strict=True)]
        leaves = torch.autograd.grad(
            tree_leaves(value), tree_leaves(variable), cotangents, retain_graph=True, allow_unused=True
        )
        found = iter(leaves)

        def sample(t: Tensor) -> Tensor:
            g = next(found)
            return torch.zeros_like(t[0]) if g is None else g[0]

        return tree_map(sample, variable)

    @undisturbed
    def pushforward(self, h: Tensors) -> Tensors:
        """J h, without batch axis."""
        tangent = tree_map(lambda a, p: a.to(p.device)[None], h, self.point)
        if self._push is None:
            self._push = Pushforward(lambda t: apply(self.module, t), self.point)
        return tree_map(lambda t: t[0], self._push(tangent))

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_graph": None, "_push": None}


class LastPoint:
    """A module used as a prior, with its evaluation at the last point, which copies and pickles leave out.

    Parameters
    ----------
    module : torch.nn.Module
        It is put into eval mode and its parameters are frozen.
    domain : odl space
        Space of the points.
    """

    def __init__(self, module: nn.Module, domain: Space) -> None:
        self.module = as_prior(module, domain)
        self.domain = domain
        self._last: Evaluation | None = None

    def forget(self) -> None:
        """Forget the last point, as its evaluation is another one once the module has changed."""
        self._last = None

    @property
    def device(self) -> torch.device:
        """Device of the module's parameters, of the domain if it has none."""
        parameter = next(self.module.parameters(), None)
        return torch_device(self.domain) if parameter is None else parameter.device

    @undisturbed
    def __call__(self, x: Any) -> Evaluation:
        """Return the evaluation at the element `x`, the last one if it belongs to an equal point."""
        t = tree_map(lambda a: a.to(self.device), to_tensor(x))
        if self._last is not None:
            pairs = zip(tree_leaves(self._last.point), tree_leaves(t), strict=True)
            if all(torch.equal(p[0], a) for p, a in pairs):
                return self._last
        self._last = Evaluation(self.module, tree_map(lambda a: a[None].clone(), t))
        return self._last

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_last": None}


def apply(module: nn.Module, t: Tensors) -> Tensors:
    """Apply a module to a tensor, or to the tensors of a tuple as its arguments."""
    with without_autocast():
        return module(t) if isinstance(t, Tensor) else module(*t)


def as_prior(module: Any, domain: Any) -> nn.Module:
    """Check the module, put it into eval mode and freeze its parameters."""
    if not isinstance(module, nn.Module):
        raise TypeError(f"`module` must be a torch.nn.Module, got {type(module).__name__}")
    dtype = torch_dtype(domain).to_real()
    for name, p in module.named_parameters():
        if p.dtype.to_real() != dtype:
            raise ValueError(
                f"`module` must have parameters of the dtype of `domain`, {dtype}, got {p.dtype} for {name}"
            )
    return module.eval().requires_grad_(False)


def trial(module: nn.Module, domain: Space, device: torch.device) -> Tensors:
    """Return the outputs for a batch of two samples, zeros and ones."""

    def batch(space: Space) -> Tensor:
        shape, dtype = space_shape(space), torch_dtype(space)
        return torch.stack([torch.zeros(shape, dtype=dtype), torch.ones(shape, dtype=dtype)]).to(device)

    inputs = tree_map_spaces(domain, batch)
    try:
        with torch.no_grad():
            outputs = apply(module, inputs)
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        shapes = tree_map(lambda t: tuple(t.shape), inputs)
        raise ValueError(
            f"`module` must accept two samples of `domain`, {shapes}; it says: {error}"
        ) from error
    if not all(isinstance(leaf, Tensor) for leaf in tree_leaves(outputs)):
        raise ValueError(f"`module` must return tensors, got {type(outputs).__name__}")
    return outputs


def tree_map_spaces(space: Space, fn: Any) -> Any:
    """Apply `fn` to each space whose elements are one tensor; the results are nested like the tensors."""
    return fn(space) if is_stacked(space) else tuple(tree_map_spaces(s, fn) for s in space.spaces)
