"""The fidelity of Gaussian noise."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import odl
import torch
from torch import Tensor

from genreg.operators.bridge.arrays import array
from genreg.operators.bridge.caller_data import is_element, per_sample_number
from genreg.operators.bridge.lowered import TorchFunctional
from genreg.operators.bridge.translation import to_torch
from genreg.operators.bridge.weights import weight
from genreg.operators.fidelity.base import Fidelity, per_datum, trailing
from genreg.operators.linear.conjugate_gradient import inner
from genreg.operators.linear.least_squares import rough_reconstruction


def squares(Ax: Tensor, *, y: Tensor, inverse_variance: Tensor) -> Tensor:
    r"""Evaluate :math:`\sum_i |Ax_i - y_i|^2 / (2 \sigma_i^2)` for every sample.

    Parameters
    ----------
    Ax : Tensor
        ``(*batch, B, *Y.shape)``.
    y : Tensor
        ``(B, *Y.shape)``.
    inverse_variance : Tensor
        1 / σ², ``(B,)``, or one for every datum, which broadcasts to y.

    Returns
    -------
    Tensor
        ``(*batch, B)``.
    """
    r = Ax - y
    square = r.abs().square() if r.is_complex() else r.square()
    if inverse_variance.ndim > 1:
        return 0.5 * (inverse_variance * square).flatten(r.ndim - y.ndim + 1).sum(-1)
    return 0.5 * inverse_variance * square.flatten(r.ndim - y.ndim + 1).sum(-1)


class GaussianFidelity(Fidelity):
    r"""The fidelity :math:`\sum_i |A(x)_i - y_i|^2 / (2 \sigma_i^2)` of Gaussian noise.

    The sum is the plain one over the samples of the data, without the weight of the data space: σ is the standard
    deviation of the noise of one sample, and the negative log-likelihood is this functional up to a constant.
    Complex noise has the standard deviation σ in its real and in its imaginary part.

    σ may differ between the data, as in penalised weighted least squares for tomography, and be infinite where
    nothing was measured: such data have no influence, whatever finite value y has there.

    For *white* noise, one σ for all data of a sample, the discrepancy is ‖A(x) - y‖² and Morozov's level for it
    dim(Y) σ². Otherwise the discrepancy is the sum of the squares in units of their variances, :math:`\sum_i |A(x)_i
    - y_i|^2 / \sigma_i^2`, and its level the number of the data measured. A complex number counts as two real ones.

    Parameters
    ----------
    A : odl.Operator
        Forward operator X -> Y, linear or not.
    y : ODL element of Y, Tensor or array
        Data; a tensor or an array may have a leading batch axis, ``(B, *Y.shape)``. A functional with a batch of data
        has one value for every sample in torch, and cannot be called on a single ODL element.
    noise_std : float, Tensor, array or ODL element of Y
        σ > 0, a number or one for every sample, ``(B,)`` (also where Y has this shape); or one for every datum,
        ``Y.shape`` or ``(B, *Y.shape)``, where axes of length 1 broadcast: +inf is a datum that was not measured, and
        so is an entry that is masked in a masked array of NumPy.

    Attributes
    ----------
    noise_std, inverse_variance : Tensor
        σ and 1 / σ², ``(B,)`` for white noise, otherwise ``(B, *Y.shape)``, where axes may have length 1.

    Raises
    ------
    TypeError, ValueError
        If `y` does not fit the range of `A` or is not finite, or `noise_std` is not positive or does not fit `y`.
    """

    def __init__(self, A: odl.Operator, y: Any, noise_std: Any) -> None:
        super().__init__(A, y)
        self.noise_std = _checked(noise_std, self.data)
        self.inverse_variance = self.noise_std**-2

    @property
    def white(self) -> bool:
        """Whether all data of a sample have one σ."""
        return self.inverse_variance.ndim == 1

    @property
    def per_sample(self) -> Mapping[str, Tensor]:
        """The data y and 1 / σ²."""
        return {"y": self.data, "inverse_variance": self.inverse_variance}

    def misfit(self, Ax: Tensor, *, y: Tensor, inverse_variance: Tensor) -> Tensor:
        r"""Evaluate :math:`\sum_i |Ax_i - y_i|^2 / (2 \sigma_i^2)` for every sample, ``(*batch, B)``."""
        return squares(Ax, y=y, inverse_variance=inverse_variance)

    @property
    def offers(self) -> frozenset[str]:
        """A gradient and a curvature; it is quadratic in what x predicts."""
        return frozenset({"gradient", "curvature", "quadratic"})

    def curvature(self, Ax: Tensor, *, y: Tensor, inverse_variance: Tensor) -> Tensor:
        """1 / σ², as it is given."""
        return inverse_variance

    @property
    def curvature_bound(self) -> Tensor:
        """The largest 1 / σ² of every sample, ``(B,)``."""
        return self.inverse_variance.flatten(1).amax(1) if not self.white else self.inverse_variance

    @property
    def level(self) -> Tensor:
        """Morozov's level, the number of real numbers measured, for white noise times σ², ``(B,)``."""
        parts = 2 if self.data.is_complex() else 1
        if self.white:
            return math.prod(self.data.shape[1:]) * parts * self.noise_std**2
        measured = (self.inverse_variance > 0).expand(self.data.shape).flatten(1)
        return parts * measured.sum(1).to(self.inverse_variance.dtype)

    @property
    def expected(self) -> Tensor:
        """Half the number of real numbers measured, ``(B,)``."""
        return 0.5 * (self.level * self.inverse_variance if self.white else self.level)

    @property
    def log_normaliser(self) -> Tensor:
        r""":math:`\sum_i \tfrac12 \log 2 \pi \sigma_i^2` of what was measured, ``(B,)``, twice that if complex."""
        parts = 2 if self.data.is_complex() else 1
        terms = 0.5 * torch.log(2 * math.pi / self.inverse_variance)
        if self.white:
            return parts * math.prod(self.data.shape[1:]) * terms
        measured = torch.where(self.inverse_variance > 0, terms, 0.0)
        return parts * measured.expand(self.data.shape).flatten(1).sum(1)

    def residual(self, x: Tensor) -> Tensor:
        """Sum of squares ‖A(x) - y‖² of the data measured, for every sample, ``(B,)``."""
        with torch.no_grad():
            r = to_torch(self.operator)(x) - self.data
            r = r if self.white else torch.where(self.inverse_variance > 0, r, 0)
            return inner(r, r)

    def discrepancy(self, x: Tensor) -> Tensor:
        """What `level` is compared with, ``(B,)``: ‖A(x) - y‖² for white noise, otherwise with every term over σ²."""
        return self.residual(x) if self.white else 2 * super().discrepancy(x)

    def rough(self) -> Tensor:
        """Return a rough reconstruction to start from, ``(B, *X.shape)``: a few steps of weighted least squares."""
        if self.white:
            return super().rough()
        largest = self.curvature_bound
        weight = self.inverse_variance / trailing(torch.where(largest > 0, largest, 1.0), self.data)
        return rough_reconstruction(self.operator, self.data, weight=weight)

    def take(self, index: Tensor) -> GaussianFidelity:
        """Return the fidelity for the data of the samples in `index`."""
        taken = copy.copy(self)  # what has been checked is not checked again
        taken.data, taken.batched, taken.kind = self.data[index], True, "tensor"
        taken.noise_std, taken.inverse_variance = self.noise_std[index], self.inverse_variance[index]
        return taken

    def on_data(self) -> TorchFunctional:
        r"""Return the fidelity as a functional of A(x), with its prox.

        In the inner product of Y with weight w, the prox of step s is :math:`(w q + s y / \sigma^2) / (w + s
        / \sigma^2)` for every datum.
        """
        Y, y, precision = self.operator.range, self.data, self.inverse_variance
        w = weight(Y)

        def over_weight(step: float | Tensor) -> Tensor:
            return trailing(step, y) * trailing(precision, y) / w

        def prox(q: Tensor, step: float | Tensor) -> Tensor:
            scaled = over_weight(step)
            return torch.addcmul(q, scaled, y).div_(1 + scaled)

        def conj_prox(q: Tensor, step: float | Tensor, scale: float | Tensor) -> Tensor:
            strength = over_weight(scale)
            step = trailing(step, y)
            return (q - step * y) * (strength / (strength + step))

        return TorchFunctional(
            lambda q: self.misfit(q, y=y, inverse_variance=precision),
            Y,
            prox=prox,
            conj_prox=conj_prox,
            name="GaussianFidelity",
            take=lambda index: self.take(index).on_data(),
        ).pickled_as(GaussianFidelity.on_data, self)

    def __repr__(self) -> str:
        sigma = f"<{tuple(self.noise_std.shape)}>"
        if self.white:
            sigma = str(self.noise_std[0].item() if len(self.noise_std) == 1 else self.noise_std.tolist())
        return f"GaussianFidelity({self.operator!r}, noise_std={sigma})"


def _checked(noise_std: Any, data: Tensor) -> Tensor:
    """Return σ as ``(B,)``, or as a tensor that broadcasts to the data where it differs between those of a sample.

    Raises
    ------
    TypeError, ValueError
        If it is no number, has another shape, is not positive or NaN, or is infinite in place of a shape of the data.
    """
    if isinstance(noise_std, np.ma.MaskedArray):  # a masked datum is one that was not measured
        noise_std = np.ma.filled(noise_std.astype(float), np.inf)
    given = array(noise_std, "noise_std", complex=False, wanted="a number or a tensor (B,)")
    if not is_element(noise_std) and tuple(given.shape) in ((), (len(data),)):
        return per_sample_number(noise_std, "noise_std", data)
    sigma = per_datum(noise_std, "noise_std", data, infinite=True)
    if not bool((sigma > 0).all()):
        raise ValueError(f"noise_std must be positive, got {sigma.min().item():g}")
    one = all(n == 1 for n in sigma.shape[1:]) and bool(torch.isfinite(sigma).all())
    return sigma.flatten() if one else sigma
