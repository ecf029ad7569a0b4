"""Pickling and copying of ODL's operators that hold a Python module, or whose classes ODL defines inside properties."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Mapping
from types import FunctionType, ModuleType
from typing import Any

import numpy as np
import odl
import odl.applications.tomo
from odl.core.array_API_support import ArrayBackend


def pickle_operators() -> None:
    """Matrices, gradients, fan beams, and ray transforms whose adjoint has been used cannot be pickled.

    A `MatrixOperator` holds the module of its backend. The classes of gradients and adjoints are defined inside
    properties, such as ``RayTransform.adjoint``, where pickle does not find them: they are pickled as that property of
    the operator that they belong to. The geometry of a fan or cone beam holds a lambda, the shift by nothing.
    """
    odl.Operator.__reduce_ex__ = _reduce
    for geometry in (odl.applications.tomo.FanBeamGeometry, odl.applications.tomo.ConeBeamGeometry):
        geometry.__reduce_ex__ = _reduce_geometry


def _reduce(self: odl.Operator, protocol: Any) -> Any:
    owner = _owner(self)
    if owner is not None:
        return getattr, owner
    state = getattr(self, "__dict__", {})
    known = {k: call for k, v in state.items() if (call := _by_name(v))}
    cached = [k for k, v in state.items() if isinstance(v, odl.Operator) and (_owner(v) or [None])[0] is self]
    if not known and not cached:
        return object.__reduce_ex__(self, protocol)
    rest = {k: v for k, v in state.items() if k not in known} | dict.fromkeys(cached)
    return _rebuild, (type(self), known), rest


def _reduce_geometry(self: Any, protocol: Any) -> Any:
    parts: Any = object.__reduce_ex__(self, protocol)
    kind, start, state, *rest = parts
    unshifted = functools.partial(_unshifted, self.ndim)
    nameless = f"{type(self).__name__}.__init__.<locals>.<lambda>"
    named = {k: unshifted if getattr(v, "__qualname__", "") == nameless else v for k, v in state.items()}
    return kind, start, named, *rest


def _unshifted(ndim: int, angle: Any) -> np.ndarray:
    return np.zeros((1, ndim))


def _by_name(value: Any) -> tuple[Callable[[str], Any], str] | None:
    """Return the call that finds a module or a backend by its name, which every process has once."""
    if isinstance(value, ModuleType):
        return importlib.import_module, value.__name__
    return (odl.lookup_array_backend, value.impl) if isinstance(value, ArrayBackend) else None


def _rebuild(cls: Any, known: Mapping[str, tuple[Callable[[str], Any], str]]) -> Any:
    op = cls.__new__(cls)
    op.__dict__.update({attribute: find(name) for attribute, (find, name) in known.items()})
    return op


def _owner(op: odl.Operator) -> tuple[odl.Operator, str] | None:
    """Return the operator and the name of its property in which the class of `op` is defined, if it is in one."""
    outer, inside, _ = type(op).__qualname__.rpartition(".<locals>.")
    cls, _, name = outer.rpartition(".")
    if not inside or "<locals>" in cls:
        return None
    seen: dict[str, Any] = {}  # variables of the property that the methods of the class refer to
    for function in (getattr(f, "fget", f) for f in vars(type(op)).values()):
        if isinstance(function, FunctionType) and function.__closure__:
            contents = (cell.cell_contents for cell in function.__closure__)
            seen.update(zip(function.__code__.co_freevars, contents, strict=True))
    if (cls, name) == ("FunctionalComp", "gradient"):  # refers to its two parts, not to itself
        return odl.functionals.FunctionalComp(seen["func"], seen["op"]), name
    for owner in seen.values():
        classes = type(owner).__mro__
        if any(c.__qualname__ == cls and isinstance(vars(c).get(name), property) for c in classes):
            return owner, name
    return None
