r"""Link functions: from images with bounded values to the whole real line, where they may be Gaussian.

A link g acts pixel by pixel, increasing and smooth. An image y is modelled by :math:`g(y) \sim N(\mu, \Lambda^{-1})`,
so that its density is

.. math:: \log p(y) = \log N(g(y); \mu, \Lambda^{-1}) + \sum_p \log g'(y_p) .

Where g is infinite, at the bounds, values are first clipped to a distance `eps` from them; densities are those of the
clipped images then.
"""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

__all__ = ["LINKS", "Identity", "Link", "Log", "Logit"]


class Link(ABC):
    """An increasing function g of the values of a pixel; tensors of any shape, differentiable."""

    name: ClassVar[str]

    @abstractmethod
    def forward(self, y: Tensor) -> Tensor:
        """g(y), of the values after clipping."""

    @abstractmethod
    def inverse(self, v: Tensor) -> Tensor:
        r""":math:`g^{-1}(v)`."""

    @abstractmethod
    def log_derivative(self, y: Tensor) -> Tensor:
        r""":math:`\log g'(y)`, at the values after clipping."""

    def to_dict(self) -> dict[str, Any]:
        """The JSON-able dictionary that `from_dict` takes."""
        return {"name": self.name, **dataclasses.asdict(self)}  # type: ignore[call-overload]

    @staticmethod
    def from_dict(entries: Mapping[str, Any]) -> Link:
        """The link of a dictionary.

        Raises
        ------
        ValueError
            If the name is unknown, or an entry is unknown or out of range.
        """
        entries = dict(entries)
        name = entries.pop("name", None)
        if name not in LINKS:
            raise ValueError(f"name of a link must be one of {sorted(LINKS)}, got {name!r}")
        try:
            return LINKS[name](**entries)
        except TypeError as error:
            raise ValueError(f"entries of the link {name!r} do not fit: {error}") from error


@dataclass(frozen=True)
class Identity(Link):
    """g(y) = y, for values without bounds."""

    name: ClassVar[str] = "identity"

    def forward(self, y: Tensor) -> Tensor:
        """Y itself."""
        return y

    def inverse(self, v: Tensor) -> Tensor:
        """V itself."""
        return v

    def log_derivative(self, y: Tensor) -> Tensor:
        """Zero."""
        return torch.zeros_like(y)


@dataclass(frozen=True)
class Log(Link):
    """g(y) = log y, for positive values.

    Parameters
    ----------
    eps : float
        Values below `eps` count as `eps`.

    Raises
    ------
    ValueError
        If `eps` is not positive and finite.
    """

    name: ClassVar[str] = "log"

    eps: float = 1e-6

    def __post_init__(self) -> None:
        if not 0 < self.eps < math.inf:
            raise ValueError(f"eps must be positive and finite, got {self.eps}")

    def forward(self, y: Tensor) -> Tensor:
        """Log y."""
        return y.clamp_min(self.eps).log()

    def inverse(self, v: Tensor) -> Tensor:
        """Exp v."""
        return v.exp()

    def log_derivative(self, y: Tensor) -> Tensor:
        """-log y."""
        return -self.forward(y)


@dataclass(frozen=True)
class Logit(Link):
    r"""g(y) = log(u / (1 - u)), u = (y - lower) / (upper - lower), for values between two bounds.

    Parameters
    ----------
    lower, upper : float
        The bounds.
    eps : float
        u is clipped to [eps, 1 - eps], so that :math:`|g| \leq \log((1 - eps) / eps)`: 6.9 for the default.

    Raises
    ------
    ValueError
        If lower < upper does not hold, a bound is not finite, or `eps` is not in (0, 0.5).
    """

    name: ClassVar[str] = "logit"

    lower: float = 0.0
    upper: float = 1.0
    eps: float = 1e-3

    def __post_init__(self) -> None:
        if not -math.inf < self.lower < self.upper < math.inf:
            raise ValueError(
                f"lower and upper must be finite with lower < upper, got {self.lower} and {self.upper}"
            )
        if not 0 < self.eps < 0.5:
            raise ValueError(f"eps must lie in (0, 0.5), got {self.eps}")

    def _share(self, y: Tensor) -> Tensor:
        return ((y - self.lower) / (self.upper - self.lower)).clamp(self.eps, 1 - self.eps)

    def forward(self, y: Tensor) -> Tensor:
        """The log-odds of y between the bounds."""
        return torch.logit(self._share(y))

    def inverse(self, v: Tensor) -> Tensor:
        """Lower + (upper - lower) / (1 + exp(-v))."""
        return self.lower + (self.upper - self.lower) * torch.sigmoid(v)

    def log_derivative(self, y: Tensor) -> Tensor:
        """-log(u (1 - u)) - log(upper - lower)."""
        u = self._share(y)
        return -u.log() - torch.log1p(-u) - math.log(self.upper - self.lower)


LINKS: dict[str, type[Link]] = {link.name: link for link in (Identity, Log, Logit)}
"""The links by name."""
