"""ODL, imported without its side effects on numpy and the environment, and repaired where 1.0.0 is defective.

Each repair is one function: its docstring says what goes wrong without it. They apply to the versions of ODL
that have the defects and are switched off by setting the environment variable ``GENREG_NO_ODL_REPAIRS`` to 1
before the import of genreg. None changes a result that was right.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, ValuesView
from typing import Any

import numpy as np

SWITCH = "GENREG_NO_ODL_REPAIRS"
AFFECTED_VERSIONS = ("1.0.0",)


def _import_odl() -> None:
    """Import ODL, and undo its changes to numpy's print options and to the environment.

    ODL makes numpy print as version 1.13 did, in lines of 71 characters, and sets SCIPY_ARRAY_API for this process
    and its children. If ODL was imported before genreg, only the print options are reset, and only if they are still
    those of ODL.
    """
    if "odl" in sys.modules:
        options = np.get_printoptions()
        if (options["legacy"], options["linewidth"]) == ("1.13", 71):
            np.set_printoptions(legacy=False, linewidth=75)
        return
    variable = os.environ.get("SCIPY_ARRAY_API")
    with np.printoptions():
        import odl  # noqa: F401
    if variable is None:
        os.environ.pop("SCIPY_ARRAY_API", None)
    else:
        os.environ["SCIPY_ARRAY_API"] = variable


_import_odl()

import odl  # noqa: E402
import torch  # noqa: E402
from odl.core.set import space as _spaces  # noqa: E402
from odl.core.set.space import LinearSpace, LinearSpaceElement  # noqa: E402
from odl.core.space.base_tensors import TensorSpace  # noqa: E402
from odl.core.space.weightings import weighting as _weightings  # noqa: E402

from genreg.operators.bridge.pickles import pickle_operators  # noqa: E402


class _DataTypes(dict):
    """The data types of a backend, whose values never compare a data type with an array."""

    def values(self) -> ValuesView:  # type: ignore[override]  # the class of a dict's own views cannot be derived from
        return _Values(self)


class _Values(ValuesView):
    def __contains__(self, value: object) -> bool:
        return not isinstance(value, torch.Tensor | np.ndarray) and any(value == v for v in self)


def recognise_arrays_quickly() -> None:
    """Inner products and norms on pytorch spaces take 3 to 80 ms.

    To find the backend of an array ODL asks whether the array is among the data types of each backend, and
    comparing a tensor with a data type formats the tensor, 13 times.
    """
    for name in ("numpy", "pytorch"):
        backend = odl.lookup_array_backend(name)
        backend.available_dtypes = _DataTypes(backend.available_dtypes)


def accept_numbers_from_numpy_and_torch() -> None:
    """``np.float64(2) * x`` and ``x / torch.tensor(2.0)`` raise, and so does pdhg without step sizes.

    numpy turns the element into an array before it asks the element, and ODL takes nothing for a number but
    Python's own. Arrays of one number that have axes remain rejected.
    """
    LinearSpaceElement.__array_ufunc__ = None  # numpy then leaves the operation to the element
    for cls in (TensorSpace, odl.ProductSpace):
        cls._elementwise_num_operation = _with_python_numbers(cls._elementwise_num_operation)
    element = TensorSpace.element

    def element_of_number(self: Any, inp: Any = None, copy: bool | None = None) -> Any:
        return element(self, inp.item() if isinstance(inp, np.number) else inp, copy)

    TensorSpace.element = element_of_number


def _with_python_numbers(method: Callable[..., Any]) -> Callable[..., Any]:
    def _elementwise_num_operation(
        self: Any, operation: str, x1: Any, x2: Any = None, *args: Any, **kw: Any
    ) -> Any:
        return method(self, operation, _python_number(x1), _python_number(x2), *args, **kw)

    return _elementwise_num_operation


def _python_number(x: Any) -> Any:
    if isinstance(x, np.number) or (isinstance(x, np.ndarray | torch.Tensor) and x.ndim == 0):
        return x.item()
    return x


def let_divergence_write_to_tensors() -> None:
    """On pytorch spaces ``Gradient(X).adjoint(p, out=x)`` raises, and with it pdhg, CG and others."""
    original = odl.Divergence._call

    def _call(self: Any, x: Any, out: Any = None) -> Any:
        if out is None or self.range.impl != "pytorch":
            return original(self, x, out)
        out.assign(original(self, x))
        return out

    _replace_call(odl.Divergence, _call)


def _replace_call(cls: Any, call: Callable[..., Any]) -> None:
    """Replace `_call`, which ODL copies to other attributes when the class is used first."""
    original = cls._call
    for name in ("_call", "_call_in_place", "_call_out_of_place"):
        if cls.__dict__.get(name) is original:
            setattr(cls, name, call)


def compute_inner_products_once() -> None:
    """`inner` computes the product twice, four times on a `uniform_discr`, eight on a power of one."""

    def inner(self: LinearSpace, x1: Any, x2: Any) -> Any:
        for name, x in (("x1", x1), ("x2", x2)):
            if x not in self:
                raise _spaces.LinearSpaceTypeError(f"`{name}` {x} is not an element of {self}")
        value = self._inner(x1, x2)
        return value if self.field is None else self.field.element(value)

    LinearSpace.inner = inner


def sum_inner_products_accurately() -> None:
    """Inner products of float32 tensors are off by 3e-4 for a million entries and 2e-2 for 16 millions.

    They are computed as a product of a row and a column, without the cascade of partial sums of `torch.sum`.
    """
    original = _weightings._inner_default

    def _inner_default(x1: Any, x2: Any) -> Any:
        if isinstance(x1, torch.Tensor) and isinstance(x2, torch.Tensor):
            return (x1 * x2.conj()).sum() if x2.is_complex() else (x1 * x2).sum()
        return original(x1, x2)

    _weightings._inner_default = _inner_default


def give_elements_their_own_memory() -> None:
    """On pytorch spaces all entries of ``x = X.element(2.0)`` share one memory cell: ``x[0] = 7`` changes all."""
    cls = type(odl.rn(1, impl="pytorch"))
    original = cls.broadcast_to

    def broadcast_to(self: Any, inp: Any) -> torch.Tensor:
        return original(self, inp).clone(memory_format=torch.contiguous_format)

    cls.broadcast_to = broadcast_to


def remember_norm_estimates() -> None:
    """Each ``op.norm(estimate=True)`` runs the power method again: it looks up its cache under a wrong name."""
    original = odl.Operator.norm

    def norm(self: Any, estimate: bool = False, **kwargs: Any) -> float:
        known = self.__dict__.get("_Operator__norm")
        if estimate and not kwargs and known is not None:
            return known
        return original(self, estimate, **kwargs)

    odl.Operator.norm = norm


def give_results_their_own_memory() -> None:
    """``(odl.RealPart(C) + v)(x)`` adds v to the caller's x, and so does a `QuadraticForm` with RealPart in it.

    RealPart, ImagPart, FlatteningOperator and its inverse return views of their argument, as an operator of the
    user may, and ODL's sums write into what an operator returns.
    """
    original = odl.Operator.__call__

    def call(self: Any, x: Any, out: Any = None, **kwargs: Any) -> Any:
        result = original(self, x, out, **kwargs)
        return result.copy() if out is None and _share_memory(result, x) else result

    odl.Operator.__call__ = call


def _share_memory(a: Any, b: Any) -> bool:
    if isinstance(a, LinearSpaceElement) and isinstance(a.space, odl.ProductSpace):
        return any(_share_memory(part, b) for part in a)
    if isinstance(b, LinearSpaceElement) and isinstance(b.space, odl.ProductSpace):
        return any(_share_memory(a, part) for part in b)
    first, second = _extent(a), _extent(b)
    return first is not None and second is not None and first[0] < second[1] and second[0] < first[1]


def _extent(x: Any) -> tuple[int, int] | None:
    """Return first and last address of an element, array or tensor, if it has memory of its own to compare."""
    x = getattr(x, "data", x) if isinstance(x, LinearSpaceElement) else x
    if isinstance(x, np.ndarray):
        return np.lib.array_utils.byte_bounds(x)
    if isinstance(x, torch.Tensor):
        try:
            storage = x.untyped_storage()
            return storage.data_ptr(), storage.data_ptr() + storage.nbytes()
        except (NotImplementedError, RuntimeError):  # within the transforms of torch.func
            return None
    return None


def sum_complex_samples() -> None:
    """WeightedSumSamplingOperator, the adjoint of a SamplingOperator, drops the imaginary parts on pytorch spaces.

    On numpy spaces it raises.
    """
    cls = odl.WeightedSumSamplingOperator
    original = cls._call

    def _call(self: Any, x: Any) -> Any:
        if self.domain.is_real:
            return original(self, x)
        return original(self, x.real) + 1j * original(self, x.imag)

    _replace_call(cls, _call)


def compare_weights_of_different_kinds() -> None:
    """A space with an array of weights, compared with one that has a number, raises AttributeError.

    So do ``x in space``, products of the two, and the messages of other errors.
    """
    for cls in (
        _weightings.ArrayWeighting,
        _weightings.CustomInner,
        _weightings.CustomNorm,
        _weightings.CustomDist,
    ):
        cls.__eq__ = _equal_if_of(cls, cls.__eq__)


def _equal_if_of(cls: type, original: Callable[[Any, Any], bool]) -> Callable[[Any, Any], bool]:
    def equal(self: Any, other: Any) -> bool:
        return other is self or (isinstance(other, cls) and original(self, other))

    return equal


def compose_scaled_operators_in_order() -> None:
    """``(A * 2) * B`` with a nonlinear A is B after A where the spaces allow it, and ``(A * 2) * v`` is v A(2 x)."""
    cls = odl.OperatorRightScalarMult
    original = cls.__mul__

    def multiply(self: Any, other: Any) -> Any:
        if isinstance(other, odl.Operator | LinearSpaceElement):
            return odl.Operator.__mul__(self, other)
        return original(self, other)

    cls.__mul__ = multiply


_REPAIRS = (
    recognise_arrays_quickly,
    accept_numbers_from_numpy_and_torch,
    let_divergence_write_to_tensors,
    compute_inner_products_once,
    sum_inner_products_accurately,
    give_elements_their_own_memory,
    remember_norm_estimates,
    give_results_their_own_memory,
    sum_complex_samples,
    compare_weights_of_different_kinds,
    compose_scaled_operators_in_order,
    pickle_operators,
)


def _apply() -> bool:
    if odl.__version__ not in AFFECTED_VERSIONS or os.environ.get(SWITCH, "0") not in ("", "0"):
        return False
    if not getattr(odl, "_repaired_by_genreg", False):  # once, even if this module is loaded again
        for repair in _REPAIRS:
            repair()
        odl._repaired_by_genreg = True
    return True


active: bool = _apply()
"""Whether the repairs are in force."""
