r"""What lowering gives: operators and functionals on batches of tensors, between ODL spaces."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, Self

from torch import Tensor

from genreg.operators.bridge.modes import autocast_is_on, single, without_autocast
from genreg.operators.bridge.spaces import Tensors, is_stacked, space_shape, torch_dtype, tree_map

__all__ = ["Remade", "Step", "TorchFunctional", "TorchOperator", "sample_ndims", "spread"]

Step = float | Tensor  # a number, or one number per sample: (*batch,)


class Remade:
    """What pickles and copies as the call that made it: functions made inside functions cannot be pickled."""

    _recipe: tuple[Callable[..., Any], tuple[Any, ...]] | None = None

    def made_by(self, make: Callable[..., Any], *args: Any) -> Self:
        """Remember that ``make(*args)`` gives this object, unless it remembers a call already."""
        if self._recipe is None:
            object.__setattr__(self, "_recipe", (make, args))  # as for a frozen dataclass
        return self

    def __reduce_ex__(self, protocol: Any) -> Any:
        return super().__reduce_ex__(protocol) if self._recipe is None else self._recipe


class TorchOperator(Remade):
    r"""An operator on batches of tensors, between two ODL spaces.

    What `to_torch` gives, and everything made of it, can be pickled and copied: it is lowered again.

    Parameters
    ----------
    fn : callable
        Maps tensor(s) of the domain to tensor(s) of the range, for any leading batch axes.
    domain, range : odl spaces
        The spaces; they fix the trailing axes.
    adjoint : TorchOperator or callable, optional
        The adjoint in the weighted inner products of the two spaces, :math:`(w_Y / w_X)\, J^T`, or a
        function without arguments that makes it when it is first needed. Without it the operator counts as
        nonlinear.

    Attributes
    ----------
    fn : callable
        The bare function, for composition.
    """

    def __init__(
        self,
        fn: Callable[[Tensors], Tensors],
        domain: Any,
        range: Any,
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
        domain: Any,
        range: Any,
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
        if self._recipe is not None:  # else both are pickled by their attributes, of which each is one
            self._adjoint.made_by(_adjoint, self)
        return self._adjoint

    def __repr__(self) -> str:
        return f"TorchOperator({self.domain!r} -> {self.range!r})"


class TorchFunctional(Remade):
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
        The same with the values of ODL, complex where those are. Products and quotients, multiples by complex
        numbers and whatever else is composed of values take these: a product of real parts is another number.
    """

    def __init__(
        self,
        fn: Callable[[Tensors], Tensor],
        domain: Any,
        prox: Callable[[Tensors, Step], Tensors] | None = None,
        conj_prox: Callable[[Tensors, Step, Step], Tensors] | None = None,
        name: str = "functional",
        take: Callable[[Tensor], TorchFunctional] | None = None,
    ) -> None:
        self.values = fn
        self.fn = _real_part_of(fn)
        self.domain = domain
        self.name = name
        self._take = take
        self._ndims = sample_ndims(domain)
        self._prox = prox
        self._conj_prox = conj_prox
        if prox is None and conj_prox is not None:
            self._prox = self._prox_by_moreau
        if prox is not None and conj_prox is None:
            self._conj_prox = self._conj_prox_by_moreau

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
        ).made_by(TorchFunctional.scaled, self, lam)

    def take(self, index: Tensor) -> TorchFunctional:
        """Return the functional for the samples `index` of a batch; itself if it has no data per sample."""
        return self if self._take is None else self._take(index).made_by(TorchFunctional.take, self, index)

    def _conj_prox_by_moreau(self, t: Tensors, step: Step, scale: Step) -> Tensors:
        s = spread(step, self._ndims)
        inner = self._prox(tree_map(operator.truediv, t, s), scale / step)
        return tree_map(lambda a, b, c: a - c * b, t, inner, s)

    def _prox_by_moreau(self, t: Tensors, step: Step) -> Tensors:
        s = spread(step, self._ndims)
        inner = self._conj_prox(tree_map(operator.truediv, t, s), 1.0 / step, 1.0)
        return tree_map(lambda a, b, c: a - c * b, t, inner, s)

    def __repr__(self) -> str:
        return f"TorchFunctional({self.name} on {self.domain!r})"


def _real_part_of(fn: Callable[[Tensors], Tensor]) -> Callable[[Tensors], Tensor]:
    def real(t: Tensors) -> Tensor:
        value = fn(t)
        return value.real if value.is_complex() else value

    return real


def _precisely(fn: Callable[[Tensors], Tensors], space: Any, t: Tensors) -> Tensors:
    """``fn(t)`` without autocast, and without what it did to `t` before."""
    with without_autocast():
        return fn(tree_map(lambda a: single(a, torch_dtype(space)), t))


def _adjoint(op: TorchOperator) -> TorchOperator:
    return op.adjoint


def sample_ndims(space: Any) -> Any:
    """Count the axes of one sample, per tensor: an int, or a nested tuple of ints."""
    return len(space_shape(space)) if is_stacked(space) else tuple(sample_ndims(s) for s in space.spaces)


def spread(step: Step, ndims: Any) -> Any:
    """Append axes to a per-sample `step` so that it multiplies samples; one copy per tensor, numbers stay."""
    if isinstance(ndims, tuple):
        return tuple(spread(step, n) for n in ndims)
    if isinstance(step, Tensor) and step.ndim > 0:
        return step.reshape(step.shape + (1,) * ndims)
    return step
