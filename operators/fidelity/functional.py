"""Any ODL functional as a data fidelity."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import odl
import torch
from odl.functionals import Functional
from torch import Tensor

from genreg.operators.bridge.caller_data import per_sample_number
from genreg.operators.bridge.lowered import TorchFunctional
from genreg.operators.bridge.translation import to_torch
from genreg.operators.fidelity.base import Fidelity, trailing
from genreg.operators.linear.least_squares import rough_reconstruction
from genreg.operators.lowering.splitting import is_smooth

_LONG_STEP = 1e6


class FunctionalFidelity(Fidelity):
    r"""The fidelity f(A(x) - y), or f(A(x)), of any ODL functional f on the data space.

    For example ``odl.functionals.L1Norm(A.range)`` for data with outliers, or Huber's functional for the same
    with a gradient. Its value is that of f, the weight of the data space included, and so are the discrepancy
    and its level.

    Parameters
    ----------
    A : odl.Operator
        Forward operator X -> Y, linear or not.
    functional : odl.functionals.Functional
        f, a functional on Y. Solvers that need a gradient, or a prox, need it of f.
    y : ODL element of Y, or Tensor, optional
        Data; a tensor may have a leading batch axis, ``(B, *Y.shape)``. Without it f is taken to contain the
        data of one sample, and the attribute `data` is zero.
    level : float or Tensor, optional
        Value of f(A(x) - y) to be expected at the true image, or one for every sample, ``(B,)``; the
        discrepancy principle needs it.

    Raises
    ------
    TypeError, ValueError
        If `functional` is no functional on the range of `A`, `y` does not fit that range or is not finite, or
        `level` is not positive.
    """

    def __init__(
        self, A: odl.Operator, functional: Functional, y: Any = None, *, level: float | Tensor | None = None
    ) -> None:
        if not isinstance(functional, Functional):
            raise TypeError(f"functional must be an ODL functional, got {type(functional).__name__}")
        super().__init__(A, A.range.zero() if y is None and isinstance(A, odl.Operator) else y)
        if functional.domain != A.range:
            raise ValueError(
                f"functional must be defined on the range of A, {A.range!r}, got one on {functional.domain!r}"
            )
        self.functional = functional
        self._lowered = to_torch(functional)
        self._level = None if level is None else per_sample_number(level, "level", self.data)

    @property
    def offers(self) -> frozenset[str]:
        """A gradient where f has one."""
        return frozenset({"gradient"}) if is_smooth(self.functional) else frozenset()

    @property
    def per_sample(self) -> Mapping[str, Tensor]:
        """The data y."""
        return {"y": self.data}

    def misfit(self, Ax: Tensor, *, y: Tensor) -> Tensor:
        """Evaluate f(Ax - y) for every sample, ``(*batch, B)``."""
        return self._lowered(Ax - y)

    @property
    def level(self) -> Tensor:
        """The level given, ``(B,)``; nan if none was given: the discrepancy principle refuses it."""
        if self._level is None:
            return torch.full_like(self.data.real.flatten(1)[:, 0], math.nan)
        return self._level

    def take(self, index: Tensor) -> FunctionalFidelity:
        """Return the fidelity for the data of the samples in `index`."""
        level = None if self._level is None else self._level[index]
        return FunctionalFidelity(self.operator, self.functional, self.data[index], level=level)

    def on_data(self) -> TorchFunctional:
        """Return the fidelity as a functional of A(x), with the prox of f if it has one."""
        f, y = self._lowered, self.data

        def prox(q: Tensor, step: float | Tensor) -> Tensor:
            return f._prox(q - y, step) + y

        def conj_prox(q: Tensor, step: float | Tensor, scale: float | Tensor) -> Tensor:
            return f._conj_prox(q - trailing(step, y) * y, step, scale)  # the conjugate is f* + <., y>

        return TorchFunctional(
            lambda q: self.misfit(q, y=y),
            self.operator.range,
            prox=prox if f.has_prox else None,
            conj_prox=conj_prox if f.has_prox else None,
            name=f.name,
            take=lambda index: self.take(index).on_data(),
        ).pickled_as(FunctionalFidelity.on_data, self)

    def rough(self) -> Tensor:
        """Return a rough reconstruction to start from, ``(B, *X.shape)``: a few steps of least squares.

        They fit A(x) to the minimiser of f(. - y) nearest to y, a prox of long step; to y if f has no prox.
        """
        with torch.no_grad():
            f, y = self.on_data(), self.data
            target = f.prox(y, _LONG_STEP) if f.has_prox else y
        return rough_reconstruction(self.operator, target)

    @property
    def gradient(self) -> odl.Operator:
        """Riesz gradient.

        Raises
        ------
        NotImplementedError
            If f has none.
        """
        if not is_smooth(self.functional):
            raise NotImplementedError(f"a fidelity by {self.functional!r} has no gradient")
        return super().gradient

    def __repr__(self) -> str:
        return f"FunctionalFidelity({self.operator!r}, {self.functional!r})"
