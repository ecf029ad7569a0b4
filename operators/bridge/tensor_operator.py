r"""Linear ODL operators whose action and transpose are written once, in torch, on batches.

An operator :math:`A : X \to Y` of this kind has a method for the map of samples, :math:`t \mapsto J t`, and one for
the transpose :math:`J^T` (for complex spaces :math:`J^H`). Its adjoint in the inner products of the two
spaces, :math:`\langle x, y\rangle = \sum w\, x\, \bar y`, is :math:`A^* s = w_X^{-1} J^T (w_Y s)`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import odl
import torch
from odl.core.space.base_tensors import TensorSpace
from torch import Tensor

from genreg.operators.bridge.lowered import TorchOperator
from genreg.operators.bridge.modes import without_autocast
from genreg.operators.bridge.protocols import Space, StackedSpace
from genreg.operators.bridge.spaces import Tensors, to_element, to_tensor, torch_dtype
from genreg.operators.bridge.translation import lower
from genreg.operators.bridge.weights import weighted_adjoint


def check_space(space: Any) -> None:
    """Raise a TypeError unless `space` is a tensor space of floating type."""
    if isinstance(space, TensorSpace):
        dtype = torch_dtype(space)
        if dtype.is_floating_point or dtype.is_complex:
            return
    raise TypeError(f"`space` must be a tensor space of floating type (uniform_discr, rn, cn), got {space!r}")


def weighted_pair(
    forward: Callable[[Tensors], Tensors],
    transpose: Callable[[Tensors], Tensors],
    domain: Space,
    range: Space,
) -> TorchOperator:
    """Return the linear operator of a function and its Euclidean transpose, to which the weights are added here."""
    return TorchOperator.pair(forward, weighted_adjoint(transpose, domain, range), domain, range)


class TensorOperator(odl.Operator):
    """A linear operator between tensor spaces that is written in torch.

    A subclass implements `forward` and `transpose` with differentiable torch functions for any leading batch
    axes; ODL's calls and the lowering use the same two.
    """

    def __init__(self, domain: StackedSpace, range: StackedSpace) -> None:
        super().__init__(domain, range, linear=True)
        self._adjoint: AdjointOperator | None = None

    @abstractmethod
    def forward(self, t: Tensor, /) -> Tensor:
        """Map ``(*batch, *domain.shape)`` to ``(*batch, *range.shape)``."""

    @abstractmethod
    def transpose(self, s: Tensor, /) -> Tensor:
        """Apply the (conjugate) transpose, without weights: ``(*batch, *range.shape)`` to the domain."""

    def _call(self, x: Any) -> Any:
        with torch.no_grad(), without_autocast():
            return to_element(self.range, self.forward(to_tensor(x)))

    def _image_of(self, y: Any, scale: float | Tensor = 1.0) -> Any:
        """The transpose of data times a scale, as an element of the domain: the adjoint without weights."""
        with torch.no_grad():
            return to_element(self.domain, self.transpose(scale * to_tensor(self.range.element(y))))

    @property
    def adjoint(self) -> AdjointOperator:
        """The adjoint in the inner products of the two spaces."""
        if self._adjoint is None:
            self._adjoint = AdjointOperator(self)
        return self._adjoint


class AdjointOperator(odl.Operator):
    """The adjoint of a `TensorOperator`.

    Parameters
    ----------
    operator : TensorOperator
        The operator whose adjoint this is.
    """

    def __init__(self, operator: TensorOperator) -> None:
        super().__init__(operator.range, operator.domain, linear=True)
        self._operator = operator

    def _call(self, x: Any) -> Any:
        operator = self._operator
        with torch.no_grad(), without_autocast():
            fn = weighted_adjoint(operator.transpose, operator.domain, operator.range)
            return to_element(self.range, fn(to_tensor(x)))

    @property
    def adjoint(self) -> TensorOperator:
        """The operator itself."""
        return self._operator


@lower.register(TensorOperator)
def _lower_operator(op: TensorOperator) -> TorchOperator:
    return weighted_pair(op.forward, op.transpose, op.domain, op.range)


@lower.register(AdjointOperator)
def _lower_adjoint(op: AdjointOperator) -> TorchOperator:
    return _lower_operator(op.adjoint).adjoint
