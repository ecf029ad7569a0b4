"""The fidelity of data that are given in one of several ways."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import odl
import torch

from genreg.operators.bridge.caller_data import to_batch
from genreg.operators.fidelity.base import Fidelity
from genreg.operators.fidelity.gaussian import GaussianFidelity


def fidelity_of(
    A: odl.Operator, y: Any, noise_std: Any, fidelity: Fidelity | Callable[..., Fidelity] | None
) -> Fidelity:
    """Return the fidelity of data with a standard deviation of the noise, or the one given.

    Parameters
    ----------
    A : odl.Operator
        Forward operator X -> Y.
    y : ODL element of Y, Tensor or array, optional
        Data; of a fidelity that is given they may be left out.
    noise_std : float, Tensor, array or ODL element of Y, optional
        As for `GaussianFidelity`.
    fidelity : Fidelity or callable, optional
        In place of `noise_std`: a fidelity with the operator A, or what makes one of (A, y).

    Raises
    ------
    TypeError, ValueError
        If the arguments do not fit each other.
    """
    if fidelity is None:
        if noise_std is None:
            raise TypeError("noise_std must be given, the standard deviation of the noise, or a fidelity")
        found: Any = GaussianFidelity(A, y, noise_std)
    elif noise_std is not None:
        raise TypeError("noise_std belongs to the Gaussian fidelity: give either noise_std or fidelity")
    else:
        found = fidelity(A, y) if callable(fidelity) and not isinstance(fidelity, Fidelity) else fidelity
    if not isinstance(found, Fidelity):
        raise TypeError(
            f"fidelity must be a genreg fidelity, or make one of (A, y), got {type(found).__name__}"
        )
    if found.operator != A:
        raise ValueError(f"fidelity must have the operator A, {A!r}, got {found.operator!r}")
    return _of_data(found, y) if isinstance(fidelity, Fidelity) and y is not None else found


def _of_data(fidelity: Fidelity, y: Any) -> Fidelity:
    """Return a fidelity that gives results back as `y` was given; ValueError unless `y` are its data."""
    batch = to_batch(y, {"y": fidelity.operator.range}, "y")
    data = batch.blocks["y"].to(fidelity.data.device)
    if not torch.equal(data, fidelity.data):
        raise ValueError(
            f"y must be the data of the fidelity, {tuple(fidelity.data.shape)}, got others, {tuple(data.shape)}: give "
            "those, or in the place of a fidelity a function (A, y) that makes one"
        )
    found = copy.copy(fidelity)
    found.batched, found.kind = batch.batched, batch.kind
    return found
