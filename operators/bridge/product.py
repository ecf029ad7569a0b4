"""Products of real and complex spaces, such as that of complex images and real latent vectors."""

from __future__ import annotations

from typing import Any

import odl


class _OverTheReals(odl.ProductSpace):
    """A product of spaces as a vector space over the real numbers; ODL's own takes spaces with one field only.

    The inner product is the real part of that of the parts.
    """

    def __init__(self, *spaces: Any) -> None:
        super().__init__(*(s.real_space for s in spaces))  # which have one field
        self._ProductSpace__spaces = spaces
        self._ProductSpace__is_power_space = False

    def _inner(self, x1: Any, x2: Any) -> float:
        return float(sum(complex(a.inner(b)).real for a, b in zip(x1, x2, strict=True)))

    def _norm(self, x: Any) -> float:
        return self._inner(x, x) ** 0.5

    def _dist(self, x1: Any, x2: Any) -> float:
        return self._norm(x1 - x2)

    def __reduce__(self) -> Any:
        return type(self), self.spaces


def product_space(*spaces: Any) -> odl.ProductSpace:
    """The product of ODL spaces, over the real numbers where some of them are complex and others real."""
    if all(s.field == spaces[0].field for s in spaces):
        return odl.ProductSpace(*spaces)
    return _OverTheReals(*spaces)
