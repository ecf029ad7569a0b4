"""What genreg uses of ODL's spaces and operators, and of a generator, as protocols for the type checker.

ODL declares types but has hardly any, so that its objects are `Any` to the checker. Arguments annotated with these
protocols are checked for the attributes named here; at run time nothing is checked.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

from torch import Tensor

_R = TypeVar("_R")


class StackedSpace(Protocol):
    """A space whose elements are one tensor each: a tensor space, a power of one, or a field.

    A field has the method `element` only; `genreg.operators.bridge.spaces.space_shape` gives it the shape ``()``. Only
    a power has parts.
    """

    shape: tuple[int, ...]
    size: int
    weighting: Any  # with an attribute `const` or `array`
    impl: str  # "numpy" or "pytorch"
    device: str
    dtype_identifier: str  # the same for both backends
    spaces: Sequence[Any]

    def element(self, inp: Any = None, copy: bool | None = None) -> Any:
        """Make an element."""

    def __getitem__(self, index: int) -> Any: ...

    def __len__(self) -> int: ...


class ProductSpace(Protocol):
    """A product of spaces whose elements are tuples of tensors: it is not a power of a stacked space."""

    spaces: Sequence[Any]
    is_power_space: bool
    size: int
    weighting: Any  # of the parts, with an attribute `const` or `array`

    def element(self, inp: Any = None, copy: bool = True) -> Any:
        """Make an element."""

    def __getitem__(self, index: int) -> Any: ...

    def __len__(self) -> int: ...


Space = StackedSpace | ProductSpace
"""A space of ODL; `genreg.operators.bridge.spaces.is_stacked` tells the two kinds apart."""


class OdlOperator(Protocol):
    """An operator of ODL."""

    domain: Any
    range: Any
    is_linear: bool

    @property
    def adjoint(self) -> Any:
        """The adjoint in the inner products of the spaces."""

    def derivative(self, point: Any) -> Any:
        """Return the derivative at a point."""

    def __call__(self, x: Any) -> Any:
        """Return the value at an element."""


class OdlFunctional(OdlOperator, Protocol):
    """A functional of ODL."""

    @property
    def gradient(self) -> Any:
        """The gradient in the inner product of the domain."""

    @property
    def proximal(self) -> Any:
        """The map from a step to the proximal operator."""

    @property
    def convex_conj(self) -> Any:
        """The convex conjugate."""


class GeneratorLike(OdlOperator, Protocol):
    """A generator as solvers use it, such as `genreg.Generator`: an operator from latent vectors to images."""

    def decode(self, z: Tensor) -> Any:
        """Return the distribution of the image given ``(B, *domain.shape)``: its `mean` and its `precision`."""

    def encode(self, x: Tensor) -> Tensor:
        """Return latent vectors ``(B, *domain.shape)`` for images ``(B, *range.shape)``."""


class FlowLike(Protocol):
    """A normalising flow, a `torch.nn.Module`, as priors use it."""

    def to_latent(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return latent vectors, ``(B, dim)``, and the logarithms of the absolute determinants, ``(B,)``."""


def own_keywords(method: Callable[..., _R]) -> Callable[..., _R]:
    """Mark a method of which every class names keywords of its own, where the base takes any; only types change."""
    return method
