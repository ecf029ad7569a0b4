"""What can be measured: the data that every measurement would give, in groups that are measured together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import odl
import torch
from torch import Tensor

from genreg.adaptive.groups import Groups
from genreg.operators import check_tensor, to_element, torch_device, torch_dtype
from genreg.operators.bridge.arguments import integer
from genreg.operators.bridge.arrays import array
from genreg.operators.bridge.caller_data import as_kind, is_element
from genreg.operators.fidelity import GaussianFidelity
from genreg.operators.fidelity.base import trailing
from genreg.solvers.checkpoints import digest


class Candidates:
    """The measurements among which a policy chooses.

    All that could be measured is the data space Y of an operator A; a *group* of its components is measured at once:

    ===========================  =======================================  ========================================
    problem                      A                                        groups
    ===========================  =======================================  ========================================
    pixels                       ``odl.IdentityOperator(X)``              None
    compressed-sensing rows      ``gaussian_measurements(X, m, ...)``     None
    angles of a ray transform    ``ray_transform(X, geometry)``           0, the axis of the angles
    lines of k-space             ``fourier_sampling(X, all lines, ...)``  label of each sample: its line
    ===========================  =======================================  ========================================

    Parameters
    ----------
    A : odl.Operator
        X -> Y, of all measurements.
    y : ODL element of Y, Tensor, or callable
        The data of all measurements, ``Y.shape`` or ``(B, *Y.shape)``, of a simulation: noise included, so that a
        measurement has the same noise whenever it is looked at. For an experiment a function ``measure(groups)``: of
        the numbers of the groups chosen, ``(B, k)``, it returns data ``(B, *Y.shape)`` that are right in these
        groups, whatever finite or non-finite number is in the others; without `batch` it takes ``(k,)``, and returns
        an ODL element or a tensor ``Y.shape``.
    noise_std : float, Tensor, array or ODL element of Y
        Standard deviation of the noise of each datum, as in `GaussianFidelity`; finite.
    groups : int or Tensor, optional
        None: each component is a group. An integer: an axis of Y, with a group for each index along it. Or integer
        labels of the shape of Y, from 0 on without a gap.
    batch : int, optional
        Number B of images, where `y` is a function; without it there is one, and answers are ODL elements.

    Attributes
    ----------
    count : int
        Number of groups.
    noise_std : Tensor
        ``(B, *Y.shape)``.

    Raises
    ------
    TypeError, ValueError
        If `y` or `noise_std` does not fit the range of `A`, or `groups` does not describe groups of it.
    """

    def __init__(
        self, A: odl.Operator, y: Any, noise_std: Any, groups: Any = None, *, batch: int | None = None
    ) -> None:
        if not isinstance(A, odl.Operator):
            raise TypeError(f"A must be an ODL operator, got {type(A).__name__}")
        measured = not is_element(y) and not isinstance(y, Tensor) and callable(y)
        if batch is not None:
            batch = integer(batch, "batch", minimum=1)
        if batch is not None and not measured:
            raise ValueError(f"batch belongs to a function that measures: y says it, got {batch} and data")
        Y = A.range
        self._measure: Callable[[Tensor], Any] | None = y if measured else None
        if measured:
            shape = Y.shape if batch is None else (batch, *Y.shape)
            y = torch.zeros(shape, dtype=torch_dtype(Y), device=torch_device(Y))
            y = to_element(Y, y) if batch is None else y
        whole = GaussianFidelity(A, y, noise_std)
        self.operator, self.batched, self.kind = A, whole.batched, whole.kind
        self._data = whole.data
        sigma = torch.as_tensor(trailing(whole.noise_std, whole.data)).expand(whole.data.shape)
        if not bool(torch.isfinite(sigma).all()):
            raise ValueError("noise_std must be finite: what can't be measured is no candidate")
        self.noise_std = sigma
        self.groups = Groups.of(groups, tuple(Y.shape), sigma.device)

    @property
    def batch(self) -> int:
        """Number B of images."""
        return len(self.noise_std)

    @property
    def count(self) -> int:
        """Number of groups."""
        return self.groups.count

    @property
    def simulated(self) -> str | None:
        """A digest of the data of a simulation, None of those of an experiment."""
        return digest(self._data) if self._measure is None else None

    def measure(self, chosen: Tensor) -> Tensor:
        """Measure some groups of every image.

        Parameters
        ----------
        chosen : Tensor
            Their numbers, ``(B, k)``.

        Returns
        -------
        Tensor
            Data, ``(B, *Y.shape)``, of which only those of these groups count.

        Raises
        ------
        TypeError, ValueError
            If a function that measures returns something else, or numbers that are not finite.
        """
        if self._measure is None:
            return self._data
        values = self._measure(chosen if self.batched else chosen[0])
        values = array(values, "what measure returns")
        batch = check_tensor(values, self.operator.range, "what measure returns")
        if batch != ((self.batch,) if self.batched else ()):
            expected = self._data.shape if self.batched else self._data.shape[1:]
            raise ValueError(
                f"measure must return data of the shape {tuple(expected)}, got {tuple(values.shape)}"
            )
        values = values.detach().to(self._data).view_as(self._data)
        new = self.groups.mask(chosen).view_as(self._data)
        if not bool(torch.isfinite(values[new]).all()):
            raise ValueError("measure must return finite data of the groups chosen, got NaN or infinite ones")
        return values

    def nothing(self) -> Tensor:
        """Data before anything is measured, zeros, ``(B, *Y.shape)``."""
        return torch.zeros_like(self._data)

    def fidelity(self, y: Tensor, measured: Tensor) -> GaussianFidelity:
        """The fidelity of what has been measured.

        Parameters
        ----------
        y : Tensor
            Data, ``(B, *Y.shape)``.
        measured : Tensor
            Which of them have been measured, boolean, likewise.

        Returns
        -------
        GaussianFidelity
            With σ = ∞ for all others; its data are of the kind of `y` at the beginning.
        """
        data = as_kind(self.kind, self.operator.range, y if self.batched else y[0])
        return GaussianFidelity(self.operator, data, torch.where(measured, self.noise_std, torch.inf))

    def __repr__(self) -> str:
        return f"Candidates({self.operator!r}, {self.count} groups)"
