r"""The proximal operator of a quadratic data term: the base class of its implementations.

.. math:: \mathrm{prox}(p) = \operatorname*{argmin}_x\ \tfrac12 \|A x - y\|^2 + \tfrac{s}{2} \|x - p\|^2
          = p + (A^T A + s)^{-1} A^T (y - A p)

with the plain Euclidean norms of the samples, whatever the weights of the two spaces, and a shift :math:`s > 0`
per sample. It is always computed as the point plus a correction, so that the correction, which is small for large
shifts, keeps its relative precision.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import odl
import torch
from odl.core.set import Field
from torch import Tensor

from genreg.operators.bridge.arrays import array
from genreg.operators.bridge.lowered import Picklable, Step, append_axes
from genreg.operators.bridge.modes import undisturbed
from genreg.operators.bridge.spaces import (
    Tensors,
    check_tensor,
    is_stacked,
    space_shape,
    torch_dtype,
    tree_map,
)
from genreg.operators.lowering.building_blocks import euclidean_pair


class DataProx(Picklable, ABC):
    r"""The map :math:`p \mapsto \mathrm{argmin}_x\ \frac12\|Ax - y\|^2 + \frac s2 \|x - p\|^2`, on batches.

    Made by `data_prox`. Norms are Euclidean, of the samples. Nothing is recorded for differentiation.

    Parameters
    ----------
    A : odl.Operator
        Linear operator X -> Y with an adjoint; X is a tensor space or a power of one.

    Attributes
    ----------
    operator : odl.Operator
        The operator A.
    last_residual : Tensor or None
        Relative residuals of the last solve, ``(*batch,)``; None for a closed form.

    Raises
    ------
    TypeError
        If `A` is not an ODL operator, or its domain is no tensor space.
    ValueError
        If `A` is not linear.
    NotImplementedError
        If `A` has no adjoint, or one of its spaces has no inner product with a weight.
    """

    last_residual: Tensor | None = None

    def __init__(self, A: odl.Operator) -> None:
        if not isinstance(A, odl.Operator):
            raise TypeError(f"`A` must be an ODL operator, got {type(A).__name__}")
        if not A.is_linear:
            raise ValueError(f"`A` must be linear with an adjoint, got the nonlinear {A!r}")
        if isinstance(A.domain, Field) or not is_stacked(A.domain):
            raise TypeError(
                f"`A` must act on a tensor space (uniform_discr, rn, cn) or a power of one, got {A.domain!r}"
            )
        self.operator = A
        self._forward, self._transpose = euclidean_pair(A)
        self._ndim = len(space_shape(A.domain))
        self._real = torch_dtype(A.domain).to_real()

    def check(self, shift: Step, point: Tensor | None = None, y: Tensors | None = None) -> None:
        """Check arguments, once before a loop; calls themselves check nothing.

        Parameters
        ----------
        shift, point, y
            As for a call; the latter two are optional.

        Raises
        ------
        TypeError
            If an argument is of the wrong type or real where its space is complex.
        ValueError
            If `shift` is not positive and finite, or so small that the step is numerically singular; if
            shapes do not fit.
        """
        values = array(shift, "`shift`", complex=False, wanted="a number or a tensor")
        if values.numel():
            limits = torch.finfo(self._real)
            if not bool(((values > 0) & (values <= limits.max)).all()):
                raise ValueError(
                    f"`shift` (sigma^2 beta) must be positive and finite in {self._real}, got {_listed(values)}"
                )
            smallest = float(values.min())
            least = limits.tiny if smallest < limits.tiny else self._least(smallest)
            if smallest < least:
                raise ValueError(
                    f"`shift` (sigma^2 beta) must be at least {least:.3g}, or the step is singular in "
                    f"{self._real} for this `A`; got {smallest:.3g}"
                )
        batches = [tuple(values.shape)]
        if point is not None:
            batches.append(check_tensor(point, self.operator.domain, "point"))
        if _given(y):
            batches.append(check_tensor(y, self.operator.range, "y"))
        try:
            np.broadcast_shapes(*batches)
        except ValueError:
            raise ValueError(
                f"the leading axes of `shift`, `point` and `y` must fit each other, got {batches}"
            ) from None

    @undisturbed
    @torch.no_grad()
    def __call__(self, point: Tensor, y: Tensors | None, shift: Step, start: Tensor | None = None) -> Tensor:
        r"""Return :math:`\mathrm{argmin}_x\ \frac12\|Ax - y\|^2 + \frac s2 \|x - \text{point}\|^2`.

        Parameters
        ----------
        point : Tensor
            ``(*batch, *X.shape)``.
        y : Tensor, tuple or None
            Data, ``(*batch, *Y.shape)``; None or 0 for zero data.
        shift : float or Tensor
            The shift :math:`s > 0`: a number, or ``(*batch,)``.
        start : Tensor, optional
            Where an iteration starts, by default `point`; ignored by closed forms.

        Returns
        -------
        Tensor
            ``(*batch, *X.shape)``. The leading axes of all arguments broadcast against each other.
        """
        return point + self.correction(point, y, shift, start)

    @undisturbed
    @torch.no_grad()
    def correction(
        self, point: Tensor, y: Tensors | None, shift: Step, start: Tensor | None = None
    ) -> Tensor:
        """Return the difference of the result of a call and the point, to its own relative precision.

        Parameters and shapes are those of a call.
        """
        Ap = self._forward(point)
        r = tree_map(torch.sub, y, Ap) if _given(y) else tree_map(torch.neg, Ap)
        return self._correction(r, self._cast(shift, point), None if start is None else start - point)

    @undisturbed
    @torch.no_grad()
    def reduced(self, v: Tensor, shift: Step) -> Tensor:
        r"""Return :math:`K v`, the Hessian of the minimal value as a function of the point.

        .. math:: K = s\,(I - s (A^T A + s)^{-1}) = s\, (A^T A + s)^{-1} A^T A, \qquad
                  K v = s\,(v - \mathrm{prox}(v;\, y = 0))

        symmetric, with eigenvalues between 0 and s; computed without cancellation. It tends to
        :math:`A^T A` for large shifts.

        Parameters
        ----------
        v : Tensor
            ``(*batch, *X.shape)``.
        shift : float or Tensor
            As for a call.

        Returns
        -------
        Tensor
            ``(*batch, *X.shape)``.
        """
        shift = self._cast(shift, v)
        return append_axes(shift, self._ndim) * self._correction(self._forward(v), shift, None)

    @abstractmethod
    def _correction(self, r: Tensors, shift: Step, guess: Tensor | None) -> Tensor:
        """Return (A^T A + shift)^-1 A^T r; the shift is a number or ``(*batch,)``, `guess` an estimate."""

    def _least(self, shift: float) -> float:
        """Return the least shift that the precision of the space allows if `shift` is smaller, else 0."""
        return 0.0

    def _cast(self, shift: Step, like: Tensor) -> Step:
        return shift.to(like.device, self._real) if isinstance(shift, Tensor) else shift

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.operator!r})"


def _given(y: Any) -> bool:
    """Whether `y` is data, and not None or 0, which mean zero data."""
    return isinstance(y, Tensor | tuple | list) or not (y is None or y == 0)


def _listed(values: Tensor) -> str:
    shown = ", ".join(f"{v:.6g}" for v in values.flatten()[:4].tolist())
    return shown + (", ..." if values.numel() > 4 else "")
