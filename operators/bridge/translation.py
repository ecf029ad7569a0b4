r"""Lowering: an ODL operator or functional becomes a differentiable torch callable on batches.

``to_torch(op)`` *lowers* `op`, and with it every operator that ODL's algebra has composed it from. The result
maps tensors ``(*batch, *domain.shape)`` to ``(*batch, *range.shape)``, for a functional to ``(*batch,)``,
with the values of ODL itself, the weights of its spaces included. It is differentiable by autograd to any
order and works under `torch.func`. On complex spaces functionals give the real part of ODL's value.
One functional differs from ODL 1.0 on purpose: `odl.functionals.KullbackLeibler` at entries with zero counts is x
for x >= 0 (ODL: infinity at x = 0), and infinite for x < 0 (ODL: x); its conjugate likewise.

`lower` is a `functools.singledispatch` on the class of the operator; a new class needs one registration::

    @lower.register(MyOperator)
    def _(op):
        A = to_torch(op.inner)                    # recurse by to_torch, not by lower
        return TorchOperator(lambda t: A.fn(t).exp(), op.domain, op.range)

A class without registration is evaluated by ODL, sample by sample (see `genreg.operators.lowering.fallback`), with one
warning per class. The callables check nothing; entry points use `check_tensor`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, overload

import odl

from genreg.operators.bridge.lowered import TorchFunctional, TorchOperator
from genreg.operators.bridge.modes import undisturbed
from genreg.operators.bridge.protocols import OdlFunctional, OdlOperator


@functools.singledispatch
def lower(op: Any) -> TorchOperator | TorchFunctional:
    """Return the torch form of an ODL operator or functional; dispatches on its class.

    Call `to_torch`, which checks its argument; this is the registry that a new operator class is added to.
    """
    raise TypeError(f"`op` must be an ODL operator or functional, got {type(op).__name__}")


@overload
def to_torch(op: TorchFunctional | OdlFunctional) -> TorchFunctional: ...  # type: ignore[overload-overlap]  # to narrow
@overload
def to_torch(op: TorchOperator | OdlOperator) -> TorchOperator: ...
@undisturbed
def to_torch(op: Any) -> TorchOperator | TorchFunctional:
    """Lower an ODL operator or functional to a differentiable torch callable on batches.

    Parameters
    ----------
    op : odl.Operator
        Operator or functional, of any composition. A lowered one is returned as it is.

    Returns
    -------
    TorchOperator or TorchFunctional
        The latter for instances of `odl.functionals.Functional`.

    Raises
    ------
    TypeError
        If `op` is not an ODL operator.

    Warns
    -----
    UserWarning
        Once for every class without a native lowering; such operators are called sample by sample.
    """
    if isinstance(op, TorchOperator | TorchFunctional):
        return op
    if not isinstance(op, odl.Operator):
        raise TypeError(f"`op` must be an ODL operator or functional, got {type(op).__name__}")
    return _implementation(type(op))(op).pickled_as(to_torch, op)


def _implementation(cls: Any) -> Callable[[Any], TorchOperator | TorchFunctional]:
    """Find the lowering of `cls`.

    A subclass of a registered class of ODL that overrides `_call` has other values, and gets the fallback.
    """
    found = lower.dispatch(cls)
    owner = next((c for c in cls.__mro__ if lower.registry.get(c) is found), None)
    if owner is None or owner.__module__.split(".")[0] != "odl" or cls._call is owner._call:
        return found
    return lower.dispatch(
        odl.functionals.Functional if issubclass(cls, odl.functionals.Functional) else odl.Operator
    )
