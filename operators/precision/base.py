r"""Precisions of Gaussian images, :math:`\Lambda = L L^T` in :math:`x \sim N(\mu, \Lambda^{-1})`, as ODL operators.

Densities are over the samples of an image, with plain sums: :math:`\log N(r; 0, \Lambda^{-1}) = -\tfrac12 r^T \Lambda r
+ \tfrac12 \log\det\Lambda - \tfrac{N}{2} \log 2\pi`. Everything follows from the factor L, which a class defines by
five methods: `whiten` (:math:`L^T`), `unwhiten` (:math:`L`), their inverses `colour` (:math:`L^{-T}`) and `uncolour`
(:math:`L^{-1}`), and `logdet`.
"""

from __future__ import annotations

import functools
import math
from abc import abstractmethod
from collections.abc import Callable
from typing import Any, Self

import odl
import scipy.sparse
import torch
from odl.core.space.base_tensors import TensorSpace
from torch import Tensor

from genreg.operators.bridge.arguments import integer, seeded_generator
from genreg.operators.bridge.arrays import check_memory
from genreg.operators.bridge.spaces import torch_device, torch_dtype
from genreg.operators.bridge.tensor_operator import TensorOperator


def checked_parameter(value: Any, name: str, space: TensorSpace, shape: tuple[int, ...]) -> Tensor:
    """Return a parameter ``(*batch, *shape)``, with no or one batch axis, as a tensor like the elements of a space.

    Raises
    ------
    TypeError
        If it is not a tensor of floating type.
    ValueError
        If it has another shape or device, or entries that are not finite.
    """
    if not isinstance(value, Tensor) or not value.is_floating_point():
        kind = value.dtype if isinstance(value, Tensor) else type(value).__name__
        raise TypeError(f"{name} must be a torch tensor of floating type, got {kind}")
    if value.ndim - len(shape) not in (0, 1) or value.shape[value.ndim - len(shape) :] != shape:
        raise ValueError(
            f"{name} must have the shape {shape}, or (B, {', '.join(map(str, shape))}), got {tuple(value.shape)}"
        )
    if value.device != torch_device(space):
        raise ValueError(
            f"{name} must be on the device of the space, {torch_device(space)}, got {value.device}"
        )
    if has_values(value) and not _is_finite(value.detach()):
        raise ValueError(f"{name} must be finite, got entries that are not")
    return value.to(torch_dtype(space))


def has_values(t: Tensor) -> bool:
    """Whether entries can be inspected: inside of a function transform they cannot."""
    return not torch._C._functorch.is_functorch_wrapped_tensor(t)


def _is_finite(t: Tensor) -> bool:
    """Whether all entries are finite. A finite sum implies it, and takes a tenth of the time of testing each entry."""
    return math.isfinite(t.sum()) or bool(torch.isfinite(t).all())


def white_noise(
    space: TensorSpace, n: int, batch: tuple[int, ...], generator: torch.Generator | int | None
) -> Tensor:
    """Independent standard normal images, ``(n, *batch, *shape)``; both parts of complex ones have variance 1.

    Raises
    ------
    TypeError, ValueError
        If n is not a positive integer, or so large that the images do not fit into memory.
    """
    n = integer(n, "n", minimum=1)
    if generator is not None:
        generator = seeded_generator(generator, name="generator")
    device = torch_device(space) if generator is None else generator.device
    shape = (n, *batch, *space.shape)
    check_memory(shape, torch_dtype(space), "n", n, device)
    noise = torch.randn(shape, generator=generator, dtype=torch_dtype(space), device=device)
    return (math.sqrt(2) * noise if noise.is_complex() else noise).to(torch_device(space))


class Precision(TensorOperator):
    r"""A precision :math:`\Lambda = L L^T : X \to X`, linear and positive definite, of one image or of a batch.

    ``precision(x)`` is :math:`\Lambda x` for an ODL element, for which it must not be batched. It is self-adjoint in
    the inner product of X where that has a constant weight. On tensors ``(*batch, *X.shape)``, where the last batch
    axis is that of the parameters if these are batched, all methods are differentiable in argument and parameters.

    Parameters
    ----------
    space : TensorSpace
        X, real.
    parameters : dict of str to Tensor
        The parameters of the class; with a leading axis if the precision is batched.
    batch : tuple of int
        ``()`` for one precision, ``(B,)`` for one of every sample.
    """

    def __init__(self, space: TensorSpace, parameters: dict[str, Tensor], batch: tuple[int, ...]) -> None:
        super().__init__(space, space)
        self.parameters = parameters
        self.batch = batch

    @staticmethod
    def _check_space(space: Any) -> None:
        if not isinstance(space, TensorSpace) or not torch_dtype(space).is_floating_point:
            raise TypeError(f"space must be a real tensor space of floating type, got {space!r}")

    @property
    @abstractmethod
    def diagonal(self) -> Tensor:
        """The diagonal of L, ``(*batch, *shape)``."""

    @abstractmethod
    def whiten(self, r: Tensor, /) -> Tensor:
        r""":math:`L^T r`, white noise where r is a draw of :math:`N(0, \Lambda^{-1})`."""

    @abstractmethod
    def unwhiten(self, u: Tensor, /) -> Tensor:
        r""":math:`L u`."""

    @abstractmethod
    def colour(self, u: Tensor, /) -> Tensor:
        r""":math:`L^{-T} u`, a draw of :math:`N(0, \Lambda^{-1})` where u is white noise."""

    @abstractmethod
    def uncolour(self, b: Tensor, /) -> Tensor:
        r""":math:`L^{-1} b`."""

    @abstractmethod
    def logdet(self) -> Tensor:
        r""":math:`\log\det\Lambda`, of the shape `batch`."""

    def with_parameters(self, **parameters: Tensor) -> Self:
        """The precision of the same kind with other parameters, which are not checked, for use inside loops."""
        name, value = next(iter(parameters.items()))
        unbatched = self.parameters[name].ndim - len(self.batch)
        new: Self = object.__new__(type(self))
        new.__dict__.update(self.__dict__)
        new.parameters, new._adjoint = parameters, None
        new.batch = tuple(value.shape[: value.ndim - unbatched])
        return new

    def detach(self) -> Self:
        """The precision with parameters detached from autograd."""
        return self.with_parameters(**{name: p.detach() for name, p in self.parameters.items()})

    @property
    def size(self) -> int:
        """Number of real numbers of an image: its entries, twice as many of a complex one."""
        return self.domain.size * (2 if torch_dtype(self.domain).is_complex else 1)

    @property
    def _axes(self) -> tuple[int, ...]:
        return tuple(range(-self.domain.ndim, 0))

    @abstractmethod
    def restrict(self, keep: Tensor) -> Precision:
        r"""The precision whose factor is :math:`L_{UU}` on a set U of pixels, and the identity on the others.

        Parameters
        ----------
        keep : Tensor
            The pixels of U, boolean, ``(*shape)``.
        """

    def take(self, index: Tensor | slice | int) -> Self:
        """The precisions of some samples of a batched one; itself if it is not batched."""
        if not self.batch:
            return self
        return self.with_parameters(**{name: p[index] for name, p in self.parameters.items()})

    def forward(self, t: Tensor) -> Tensor:
        r""":math:`\Lambda t`, ``(*batch, *shape)``."""
        return self.unwhiten(self.whiten(t))

    transpose = forward

    def _call(self, x: Any) -> Any:
        if self.batch:
            raise ValueError(
                f"a precision must not be batched to act on an ODL element, got a batch of {self.batch[0]}; "
                "take one of its samples by `take`"
            )
        return super()._call(x)

    def quadratic(self, r: Tensor) -> Tensor:
        r""":math:`r^T \Lambda r`, ``(*batch,)``."""
        return self.whiten(r).square().sum(self._axes)

    def solve(self, b: Tensor) -> Tensor:
        r""":math:`\Lambda^{-1} b`, exactly, by the two triangular solves."""
        return self.colour(self.uncolour(b))

    def log_density(self, r: Tensor) -> Tensor:
        r""":math:`\log N(r; 0, \Lambda^{-1})`, ``(*batch,)``, with its constant."""
        return 0.5 * (self.logdet() - self.quadratic(r) - self.size * math.log(2 * math.pi))

    def sample(self, n: int, generator: torch.Generator | int | None = None) -> Tensor:
        r"""Draws of :math:`N(0, \Lambda^{-1})`, ``(n, *batch, *shape)``, differentiable in the parameters.

        Parameters
        ----------
        n : int
            Number of draws of every sample.
        generator : torch.Generator or int, optional
            Random numbers, or their seed; torch's global generator where None.
        """
        return self.colour(white_noise(self.domain, n, self.batch, generator))

    @property
    def factor(self) -> Factor:
        """L as an ODL operator, with its adjoint and its inverse."""
        return Factor(self)

    @property
    def inverse(self) -> odl.Operator:
        r"""The covariance :math:`\Lambda^{-1}` as an ODL operator."""
        return _Pair(self, self.solve, self.solve)

    def to_dense(self) -> Tensor:
        r""":math:`\Lambda` as a matrix, ``(*batch, N, N)``, for images of moderate size."""
        size = self.domain.size
        eye = torch.eye(size, dtype=torch_dtype(self.domain), device=torch_device(self.domain))
        columns = eye.reshape(size, *(1,) * len(self.batch), *self.domain.shape)
        return (
            self.forward(columns.expand(size, *self.batch, *self.domain.shape))
            .flatten(1 + len(self.batch))
            .movedim(0, -1)
        )

    @abstractmethod
    def to_scipy(self) -> scipy.sparse.csc_array:
        r""":math:`\Lambda` as a sparse matrix, of a precision that is not batched."""

    def _one(self) -> None:
        if self.batch:
            raise ValueError(f"the precision must not be batched, got a batch of {self.batch[0]}")


class _Pair(TensorOperator):
    """A linear operator from a space to itself by two functions; its inverse is the precision by default."""

    def __init__(
        self,
        precision: Precision,
        forward: Callable[[Tensor], Tensor],
        transpose: Callable[[Tensor], Tensor],
        inverse: Callable[[], odl.Operator] | None = None,
    ) -> None:
        super().__init__(precision.domain, precision.domain)
        precision._one()
        self._precision, self._inverse = precision, inverse
        self._forward, self._transpose = forward, transpose

    def forward(self, t: Tensor) -> Tensor:
        """Apply the operator."""
        return self._forward(t)

    def transpose(self, s: Tensor) -> Tensor:
        """Apply its transpose."""
        return self._transpose(s)

    @property
    def inverse(self) -> odl.Operator:
        """The inverse operator."""
        return self._precision if self._inverse is None else self._inverse()


class Factor(_Pair):
    """The factor L of a precision, as an ODL operator.

    Parameters
    ----------
    precision : Precision
        The precision, not batched.
    """

    def __init__(self, precision: Precision) -> None:
        p = precision
        back = functools.partial(_Pair, p, p.uncolour, p.colour, functools.partial(Factor, p))
        super().__init__(p, p.unwhiten, p.whiten, back)
