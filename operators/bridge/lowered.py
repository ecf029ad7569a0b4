r"""Lowered operators and functionals: torch callables on batches of tensors, between ODL spaces."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable
from typing import Any, Self

from torch import Tensor

from genreg.operators.bridge.modes import autocast_is_on, single, without_autocast
from genreg.operators.bridge.protocols import Space
from genreg.operators.bridge.spaces import Tensors, is_stacked, space_shape, torch_dtype, tree_map

Step = float | Tensor  # a number, or one number per sample: (*batch,)
Prox = Callable[[Tensors, Step], Tensors]
ConjProx = Callable[[Tensors, Step, Step], Tensors]


class Picklable:
    """An object that is pickled and copied as a call that makes it again, since closures cannot be pickled."""

    _pickled_as: tuple[Callable[..., Any], tuple[Any, ...]] | None = None

    def pickled_as(self, make: Callable[..., Any], *args: Any) -> Self:
        """Pickle this object as ``make(*args)``, unless an inner call has already set how it is pickled."""
        if self._pickled_as is None:
            object.__setattr__(self, "_pickled_as", (make, args))  # as for a frozen dataclass
        return self

    def __reduce_ex__(self, protocol: Any) -> Any:
        return super().__reduce_ex__(protocol) if self._pickled_as is None else self._pickled_as


class TorchOperator(Picklable):
    r"""An operator on batches of tensors, between two ODL spaces.

    Results of `to_torch`, and what is made of them, can be pickled and copied: they are then lowered again.

    Parameters
    ----------
    fn : callable
        Maps tensor(s) of the domain to tensor(s) of the range, for any leading batch axes.
    domain, range : odl spaces
        The spaces; they fix the trailing axes.
    adjoint : TorchOperator or callable, optional
        The adjoint in the weighted inner products of the two spaces, :math:`w_X^{-1} J^T w_Y`, or a
        function without arguments that makes it when it is first needed. Without it the operator is taken to be
        nonlinear.

    Attributes
    ----------
    fn : callable
        The bare function, for composition.
    """

    def __init__(
        self,
        fn: Callable[[Tensors], Tensors],
        domain: Space,
        range: Space,
        adjoint: TorchOperator | Callable[[], TorchOperator] | None = None,
    ) -> None:
        self.fn = fn
        self.domain = domain
        self.range = range
        self._adjoint = adjoint

    @classmethod
    def pair(
        cls,
        fn: Callable[[Tensors], Tensors],
        adjoint: Callable[[Tensors], Tensors],
        domain: Space,
        range: Space,
    ) -> TorchOperator:
        """Return the linear operator `fn` whose (weighted) adjoint acts by the function `adjoint`."""
        forward = cls(fn, domain, range)
        forward._adjoint = cls(adjoint, range, domain, forward)
        return forward

    def __call__(self, t: Tensors) -> Tensors:
        """Apply the operator to tensor(s) of shape ``(*batch, *domain.shape)``, in their data type."""
        return _precisely(self.fn, self.domain, t) if autocast_is_on() else self.fn(t)

    @property
    def linear(self) -> bool:
        """Whether the operator is linear, that is, has an `adjoint`."""
        return self._adjoint is not None

    @property
    def adjoint(self) -> TorchOperator:
        """The adjoint in the weighted inner products, which is that of ODL.

        Raises
        ------
        NotImplementedError
            If the operator is not linear.
        """
        if self._adjoint is None:
            raise NotImplementedError(f"a nonlinear operator has no adjoint: {self!r}")
        if not isinstance(self._adjoint, TorchOperator):
            self._adjoint = self._adjoint()
            if self._adjoint._adjoint is None or not isinstance(self._adjoint._adjoint, TorchOperator):
                self._adjoint._adjoint = self
        if self._pickled_as is not None:  # otherwise the two refer to each other, and pickle handles that
            self._adjoint.pickled_as(_adjoint, self)
        return self._adjoint

    def __repr__(self) -> str:
        return f"TorchOperator({self.domain!r} -> {self.range!r})"


class TorchFunctional(Picklable):
    r"""A functional f on batches of tensors: one value per sample, and its proximal operators.

    As with `TorchOperator`, pickles and copies are made by lowering again.

    Parameters
    ----------
    fn : callable
        Maps tensor(s) ``(*batch, *domain.shape)`` to values ``(*batch,)``; of complex ones the functional has
        the real part.
    domain : odl space
        The space X; its weighted norm is the one of the proximal operators.
    prox : callable, optional
        ``prox(t, step)``, see the method of that name.
    conj_prox : callable, optional
        ``conj_prox(t, step, scale)``: the prox of ``step`` times the conjugate of ``scale * f``, where that
        is cheaper than Moreau's identity. Either of the two gives the other.
    name : str, optional
        Used in error messages.
    take : callable, optional
        Makes the functional for some samples of the batch, where it has parameters of every sample.

    Attributes
    ----------
    fn : callable
        The bare function, with real values.
    values : callable
        The same with the values of ODL, complex where those are. Products, quotients and complex multiples are
        composed of these values, since the real part of a product is not the product of the real parts.
    """

    def __init__(
        self,
        fn: Callable[[Tensors], Tensor],
        domain: Space,
        prox: Prox | None = None,
        conj_prox: ConjProx | None = None,
        name: str = "functional",
        take: Callable[[Tensor], TorchFunctional] | None = None,
    ) -> None:
        self.values = fn
        self.fn = _real_part_of(fn)
        self.domain = domain
        self.name = name
        self._take = take
        self._ndims = sample_ndims(domain)
        if prox is None and conj_prox is not None:
            prox = functools.partial(_prox_by_moreau, conj_prox, self._ndims)
        elif conj_prox is None and prox is not None:
            conj_prox = functools.partial(_conj_prox_by_moreau, prox, self._ndims)
        self._prox = prox
        self._conj_prox = conj_prox

    def __call__(self, t: Tensors) -> Tensor:
        """Values ``(*batch,)`` at tensor(s) of shape ``(*batch, *domain.shape)``, in their data type."""
        return _precisely(self.fn, self.domain, t) if autocast_is_on() else self.fn(t)

    @property
    def has_prox(self) -> bool:
        """Whether `prox` and `conj_prox` are available."""
        return self._prox is not None

    def prox(self, t: Tensors, step: Step) -> Tensors:
        r"""Return :math:`\mathrm{argmin}_u\ \tau f(u) + \frac12 \|u - t\|_X^2` in the norm of the space.

        Parameters
        ----------
        t : Tensor or tuple
            Points, ``(*batch, *domain.shape)``.
        step : float or Tensor
            The step :math:`\tau > 0`: a number, or one per sample, ``(*batch,)``.

        Raises
        ------
        NotImplementedError
            If the functional has no proximal operator.
        """
        if self._prox is None:
            raise NotImplementedError(f"no proximal operator is known for {self.name}")
        with without_autocast():
            return self._prox(t, step)

    def conj_prox(self, t: Tensors, step: Step) -> Tensors:
        r"""Return the prox of :math:`\sigma f^*` at `t`, with :math:`f^*` the convex conjugate in X.

        Parameters and errors are those of `prox`.
        """
        if self._conj_prox is None:
            raise NotImplementedError(f"no proximal operator is known for {self.name}")
        with without_autocast():
            return self._conj_prox(t, step, 1.0)

    def scaled(self, lam: Step) -> TorchFunctional:
        r"""Return :math:`\lambda f`, with its proximal operators.

        Parameters
        ----------
        lam : float or Tensor
            A number >= 0, or one per sample, ``(*batch,)``.

        Raises
        ------
        ValueError
            If `lam` is a negative number.
        """
        if not isinstance(lam, Tensor):
            if not lam >= 0:
                raise ValueError(f"`lam` must be >= 0, got {lam}")
            if lam == 1:
                return self
        values, prox, conj_prox = self.values, self._prox, self._conj_prox
        return TorchFunctional(
            lambda t: lam * values(t),
            self.domain,
            None if prox is None else lambda t, step: prox(t, lam * step),
            None if conj_prox is None else lambda t, step, scale: conj_prox(t, step, lam * scale),
            name=self.name,
            take=lambda index: self.take(index).scaled(
                lam[index] if isinstance(lam, Tensor) and lam.ndim else lam
            ),
        ).pickled_as(TorchFunctional.scaled, self, lam)

    def take(self, index: Tensor) -> TorchFunctional:
        """Return the functional for the samples `index` of a batch; itself if it has no data per sample."""
        return self if self._take is None else self._take(index).pickled_as(TorchFunctional.take, self, index)

    def __repr__(self) -> str:
        return f"TorchFunctional({self.name} on {self.domain!r})"


def _conj_prox_by_moreau(prox: Prox, ndims: Any, t: Tensors, step: Step, scale: Step) -> Tensors:
    s = append_axes(step, ndims)
    inner = prox(tree_map(operator.truediv, t, s), scale / step)
    return tree_map(lambda a, b, c: a - c * b, t, inner, s)


def _prox_by_moreau(conj_prox: ConjProx, ndims: Any, t: Tensors, step: Step) -> Tensors:
    s = append_axes(step, ndims)
    inner = conj_prox(tree_map(operator.truediv, t, s), 1.0 / step, 1.0)
    return tree_map(lambda a, b, c: a - c * b, t, inner, s)


def _real_part_of(fn: Callable[[Tensors], Tensor]) -> Callable[[Tensors], Tensor]:
    def real(t: Tensors) -> Tensor:
        value = fn(t)
        return value.real if value.is_complex() else value

    return real


def _precisely(fn: Callable[[Tensors], Tensors], space: Space, t: Tensors) -> Tensors:
    """Compute ``fn(t)`` without autocast, with tensors that it has halved in precision converted back."""
    with without_autocast():
        return fn(tree_map(lambda a: single(a, torch_dtype(space)), t))


def _adjoint(op: TorchOperator) -> TorchOperator:
    return op.adjoint


def sample_ndims(space: Space) -> Any:
    """Count the axes of one sample, per tensor: an int, or a nested tuple of ints."""
    return len(space_shape(space)) if is_stacked(space) else tuple(sample_ndims(s) for s in space.spaces)


def append_axes(step: Step, ndims: Any) -> Any:
    """Append axes to a per-sample `step` so that it multiplies samples; one copy per tensor, numbers stay."""
    if isinstance(ndims, tuple):
        return tuple(append_axes(step, n) for n in ndims)
    if isinstance(step, Tensor) and step.ndim > 0:
        return step.reshape(step.shape + (1,) * ndims)
    return step
