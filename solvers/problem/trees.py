"""Tensors nested in mappings, tuples, NamedTuples and dataclasses, as the state of a solver is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

from torch import Tensor


def map_tensors(fn: Callable[..., Tensor], tree: Any, *others: Any) -> Any:
    """Apply a function to every tensor of a tree, and to those in the same places of other trees.

    Parameters
    ----------
    fn : callable
        A function of as many tensors as there are trees.
    tree
        A tensor, or a mapping, tuple, NamedTuple or dataclass of trees.
    *others
        Trees that are nested as the first.

    Returns
    -------
    tree
        The results, nested as the first; a mapping becomes a dict.
    """
    if isinstance(tree, Tensor):
        return fn(tree, *others)
    if isinstance(tree, Mapping):
        return {
            name: map_tensors(fn, part, *(other[name] for other in others)) for name, part in tree.items()
        }
    if isinstance(tree, tuple):
        parts = [map_tensors(fn, *each) for each in zip(tree, *others, strict=True)]
        return _like(tree, parts)
    return type(tree)(
        **{
            f.name: map_tensors(fn, *(getattr(each, f.name) for each in (tree, *others)))
            for f in fields(tree)
        }
    )


def refilled(template: Any, saved: Any) -> Any:
    """Return what a file has given back, in which tuples have become lists, with the types of a template.

    Raises
    ------
    ValueError
        If it is nested otherwise.
    """
    if isinstance(template, Mapping) and isinstance(saved, Mapping) and template.keys() == saved.keys():
        return {name: refilled(part, saved[name]) for name, part in template.items()}
    if isinstance(template, tuple) and isinstance(saved, list | tuple) and len(template) == len(saved):
        return _like(template, [refilled(*pair) for pair in zip(template, saved, strict=True)])
    if isinstance(template, Tensor) and isinstance(saved, Tensor):
        return saved
    raise ValueError(
        f"the saved state must hold {type(template).__name__} where it holds {type(saved).__name__}: it is that of "
        "another version of genreg, so begin anew with another file"
    )


def _like(template: tuple, parts: list) -> tuple:
    """A tuple, or a NamedTuple of the same type, with other entries."""
    return type(template)(*parts) if hasattr(template, "_fields") else tuple(parts)
