r"""What all data fidelities have in common: values, Riesz gradient and lowering of :math:`\mathcal{D}(A(x); y)`."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, overload

import odl
import torch
from odl.functionals import Functional
from torch import Tensor

from genreg.operators.bridge.arrays import array, fitting
from genreg.operators.bridge.caller_data import Kind, as_kind, is_element, to_batch
from genreg.operators.bridge.lowered import TorchFunctional
from genreg.operators.bridge.modes import undisturbed
from genreg.operators.bridge.protocols import Space, own_keywords
from genreg.operators.bridge.spaces import to_element, to_tensor
from genreg.operators.bridge.translation import lower, to_torch
from genreg.operators.bridge.weights import riesz
from genreg.operators.linear.least_squares import rough_reconstruction


class Fidelity(Functional):
    r"""Base of the data fidelities, functionals :math:`x \mapsto \mathcal{D}(A(x); y)`.

    In torch it has one value for every sample of the data, ``(B,)``; on ODL elements it can be called where
    the data are those of one sample.

    Parameters
    ----------
    A : odl.Operator
        Forward operator X -> Y, linear or not.
    y : ODL element of Y, Tensor or array
        Data; a tensor or an array (or nested lists) may have a leading batch axis, ``(B, *Y.shape)``.

    Attributes
    ----------
    operator : odl.Operator
        A.
    data : Tensor
        y, ``(B, *Y.shape)``.
    batched : bool
        Whether the data were given with a batch axis.
    kind : str
        What the data were given as: "element", "tensor" or "array", see `genreg.operators.bridge.caller_data.Kind`.

    Raises
    ------
    TypeError, ValueError
        If `A` is no operator, or `y` does not fit its range or is not finite.
    """

    operator: odl.Operator
    data: Tensor
    batched: bool
    kind: Kind

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "__init__" in vars(cls):
            cls.__init__ = undisturbed(cls.__init__)  # type: ignore[method-assign]  # ODL has no hook for it

    def __init__(self, A: odl.Operator, y: Any) -> None:
        if not isinstance(A, odl.Operator):
            raise TypeError(f"A must be an ODL operator, got {type(A).__name__}")
        super().__init__(space=A.domain, linear=False)
        self.operator = A
        batch = to_batch(y, {"y": A.range}, "y")
        self.data = batch.blocks["y"]
        self.batched = batch.batched
        self.kind = batch.kind

    def given_back(self, space: Space, value: Tensor) -> Any:
        """A result of every sample, ``(B, *space.shape)``, as the caller's kind of data: without B for one sample."""
        return as_kind(self.kind, space, value if self.batched else value[0])

    @property
    @abstractmethod
    def per_sample(self) -> Mapping[str, Tensor]:
        """Data and parameters of every sample, the arguments of `misfit`; the leading axis is B."""

    @abstractmethod
    @own_keywords
    def misfit(self, Ax: Tensor, *, y: Tensor, **parameters: Tensor) -> Tensor:
        r"""Evaluate :math:`\mathcal{D}(Ax; y)` for every sample.

        Parameters
        ----------
        Ax : Tensor
            What x predicts, ``(*batch, B, *Y.shape)``.
        y : Tensor
            Data, ``(B, *Y.shape)``.
        **parameters : Tensor
            The rest of `per_sample`, for the same samples.

        Returns
        -------
        Tensor
            ``(*batch, B)``.
        """

    @property
    def offers(self) -> frozenset[str]:
        """What solvers can use: a ``"gradient"``, a ``"curvature"``, and whether it is ``"quadratic"``."""
        return frozenset({"gradient"})

    def require(self, need: str, by: str) -> None:
        """Raise NotImplementedError unless this fidelity offers what a solver or regulariser needs."""
        if need not in self.offers:
            asked = (
                "quadratic fidelity (Gaussian noise)" if need == "quadratic" else f"fidelity with a {need}"
            )
            raise NotImplementedError(f"{by} needs a {asked}, got {self!r}")

    @own_keywords
    def curvature(self, Ax: Tensor, *, y: Tensor, **parameters: Tensor) -> Tensor:
        r"""Second derivative of :math:`\mathcal{D}(\cdot; y)` in every datum, 0 where it is negative.

        Parameters
        ----------
        Ax, y, **parameters : Tensor
            As for `misfit`, ``(B, *Y.shape)``.

        Returns
        -------
        Tensor
            One for every datum, which broadcasts to the data, or for every sample, ``(B,)``.

        Raises
        ------
        NotImplementedError
            If ``"curvature"`` is not among what it `offers`.
        """
        raise NotImplementedError(f"{self!r} has no curvature")

    @property
    def curvature_bound(self) -> Tensor | None:
        """The largest curvature for any prediction, ``(B,)``; None where it has no bound or none is known."""
        return None

    @property
    @abstractmethod
    def level(self) -> Tensor:
        """What `discrepancy` is expected to be at the true image, ``(B,)``."""

    @property
    def expected(self) -> Tensor:
        """What the value is expected to be at the true image, ``(B,)``; NaN where the noise is not known."""
        return self.level

    def discrepancy(self, x: Tensor) -> Tensor:
        """What the discrepancy principle compares with `level`, ``(B,)``: the value unless the class says otherwise.

        Parameters
        ----------
        x : Tensor
            Images, ``(B, *X.shape)``.
        """
        with torch.no_grad():
            return to_torch(self)(x)

    @property
    def log_normaliser(self) -> Tensor:
        """What the value lacks of the negative log-likelihood of the data, ``(B,)``; 0 where that is not known."""
        return torch.zeros_like(self.data.real.flatten(1)[:, 0])

    @abstractmethod
    def take(self, index: Tensor) -> Fidelity:
        """Return the fidelity for the data of the samples in `index`."""

    @abstractmethod
    def on_data(self) -> TorchFunctional:
        r"""Return :math:`\mathcal{D}(\cdot; y)` as a functional on Y, with its prox where there is one.

        For solvers that treat A as an operator of its own.
        """

    def rough(self) -> Tensor:
        """Return a rough reconstruction to start from, ``(B, *X.shape)``: a few steps of least squares."""
        return rough_reconstruction(self.operator, self.data)

    def _check_single(self) -> None:
        if len(self.data) > 1:
            raise ValueError(
                f"a fidelity with a batch of {len(self.data)} data has no single value; lower it with to_torch, "
                "or give it the data of one sample"
            )

    def _call(self, x: Any) -> float:
        self._check_single()
        with torch.no_grad():
            return float(to_torch(self)(to_tensor(x)[None]))

    @property
    def gradient(self) -> odl.Operator:
        r"""Riesz gradient :math:`A'(x)^* \nabla \mathcal{D}(A(x)) / w_Y`, with autograd's :math:`\nabla`."""
        return _FidelityGradient(self)


class _FidelityGradient(odl.Operator):
    def __init__(self, fidelity: Fidelity) -> None:
        super().__init__(fidelity.domain, fidelity.domain, linear=False)
        self.fidelity = fidelity

    def _call(self, x: Any) -> Any:  # ODL looks at its arguments, which a decorator hides
        return self._at(x)

    @undisturbed
    def _at(self, x: Any) -> Any:
        fidelity, A = self.fidelity, self.fidelity.operator
        fidelity._check_single()
        with torch.enable_grad():
            Ax = to_tensor(A(x))[None].clone().requires_grad_()
            (g,) = torch.autograd.grad(fidelity.misfit(Ax, **fidelity.per_sample).sum(), Ax)
        return A.derivative(x).adjoint(to_element(A.range, riesz(A.range, g[0])))


@lower.register(Fidelity)
def _(op: Fidelity) -> TorchFunctional:
    A, per_sample, axes = to_torch(op.operator).fn, op.per_sample, op.data.ndim - 1

    def value(x: Tensor) -> Tensor:
        Ax = A(x)
        if Ax.ndim == axes:  # a sample without batch axis
            return op.misfit(Ax[None], **per_sample)[0]
        return op.misfit(Ax, **per_sample)

    return TorchFunctional(
        value, op.domain, name=type(op).__name__, take=lambda index: to_torch(op.take(index))
    )


def per_datum(value: Any, name: str, data: Tensor, *, infinite: bool = False) -> Tensor:
    """Return a parameter of the data as a tensor that broadcasts to `data`, its first axis that of the samples.

    Parameters
    ----------
    value : float, Tensor, array or ODL element of Y
        A number, ``(B,)``, ``Y.shape`` or ``(B, *Y.shape)``; axes of the latter two may have length 1.
    name : str
        Name of the argument in error messages.
    data : Tensor
        ``(B, *Y.shape)``.
    infinite : bool
        Whether +inf is allowed.

    Raises
    ------
    TypeError
        If it holds no real numbers.
    ValueError
        If the shape is another one or has two meanings, or a value is not finite in the type of the data.
    """
    source = array(value, name, complex=False).to(data.device)
    tensor = source.to(data.real.dtype)
    count, shape = data.shape[0], tuple(data.shape[1:])
    of_samples = tensor.ndim == 1 and len(tensor) == count
    if of_samples and count > 1 and shape == (count,) and not is_element(value):
        raise ValueError(
            f"{name} of shape ({count},) may be one for every sample or one for every datum: give it the shape "
            f"({count}, 1) or (1, {count})"
        )
    if tensor.ndim == 0 or (of_samples and not (len(shape) == 1 and is_element(value))):
        tensor = tensor.reshape(-1, *(1,) * len(shape))
    elif tensor.ndim == len(shape):
        tensor = tensor[None]
    pairs = zip(tensor.shape, data.shape, strict=False)
    if tensor.ndim != data.ndim or any(n not in (1, m) for n, m in pairs):
        raise ValueError(
            f"{name} must be a number or have the shape ({count},), {shape} or {(count, *shape)}, got "
            f"{tuple(source.shape)}"
        )
    allowed = torch.isfinite(source) | (source == math.inf) if infinite else torch.isfinite(source)
    if not bool(allowed.all()):
        kinds = "finite or +inf, got {} NaN or -inf" if infinite else "finite, got {} NaN or infinite"
        raise ValueError(f"{name} must be {kinds.format(int((~allowed).sum()))} values")
    fitting(source, name, tensor.dtype)
    return tensor.expand(count, *tensor.shape[1:])


@overload
def trailing(value: Tensor, data: Tensor) -> Tensor: ...
@overload
def trailing(value: float | Tensor, data: Tensor) -> float | Tensor: ...
def trailing(value: float | Tensor, data: Tensor) -> float | Tensor:
    """Append axes to a parameter of every sample, ``(B,)``, so that it multiplies `data`.

    Numbers stay, and so do parameters of every datum.
    """
    if isinstance(value, Tensor) and 0 < value.ndim < data.ndim:
        return value.view(-1, *(1,) * (data.ndim - 1))
    return value
