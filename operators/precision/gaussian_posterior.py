r"""The posterior of an image with a Gaussian prior, measured linearly with Gaussian noise.

With :math:`y = A x + \varepsilon`, white noise of variance σ², and :math:`x \sim N(\mu, \Lambda^{-1})`,

.. math:: x \mid y \sim N(\hat x, P^{-1}), \qquad P = A^H A / \sigma^2 + \Lambda, \qquad
          \hat x = \mu + P^{-1} A^H (y - A \mu) / \sigma^2 .

Systems with P are solved by conjugate gradients in the whitened variable :math:`w = L^T x` of the prior, where the
matrix is :math:`I + L^{-1} A^H A L^{-T} / \sigma^2 \ge I`. So the norm of a residual there bounds the error of x in the
norm of P, that is in posterior standard deviations, whatever the scaling of the problem.

References
----------
G. Papandreou, A. Yuille (2010), Gaussian sampling by local perturbations, NIPS 23.

C. Gilavert, S. Moussaoui, J. Idier (2015), Efficient Gaussian sampling for solving large-scale inverse problems using
MCMC, doi:10.1109/TSP.2014.2367457.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import odl
import torch
from torch import Tensor

from genreg.operators.bridge.arguments import integer, seeded_generator
from genreg.operators.bridge.arrays import check_memory
from genreg.operators.bridge.lowered import append_axes
from genreg.operators.bridge.modes import undisturbed
from genreg.operators.bridge.spaces import torch_dtype
from genreg.operators.lowering.building_blocks import euclidean_pair
from genreg.operators.precision.base import Precision
from genreg.operators.precision.whitened_solve import whitened_solve


class GaussianPosterior:
    r"""The Gaussian :math:`p(x \mid y)` of every sample of a batch.

    Nothing is recorded for differentiation.

    Parameters
    ----------
    A : odl.Operator
        Linear operator X -> Y with an adjoint, X real, or complex with a `ComplexPrecision`.
    y : Tensor
        Data, ``(B, *Y.shape)``.
    prior_mean : Tensor
        μ, ``(B, *X.shape)``.
    precision : Precision
        Λ, one for every sample or one for all.
    inverse_variance : float or Tensor
        1/σ², ``(B,)`` or a number, or one for every datum, which broadcasts to y; for complex data σ is that of the
        real and of the imaginary part.
    tol : float, optional
        Root mean square error of a solution, in posterior standard deviations :math:`\sqrt{e^T P e / N}`, at most; by
        default 1e-3 in single and 1e-8 in double precision.
    max_iter : int
        Iterations of one solve at most.
    start : Tensor, optional
        An estimate of the mean, ``(B, *X.shape)``, by default μ; where it is not finite, μ is taken.

    Raises
    ------
    TypeError, ValueError, NotImplementedError
        If A is not linear with an adjoint, X not the space of the precision, or a tensor has another shape.

    Warns
    -----
    RuntimeWarning
        If a solve ends at `max_iter` before it reaches `tol`; `last_error` tells of every solve.
    """

    last_error: Tensor | None = None
    """Bounds on the errors of the last solve, in posterior standard deviations, ``(*batch,)``."""

    def __init__(
        self,
        A: odl.Operator,
        y: Tensor,
        prior_mean: Tensor,
        precision: Precision,
        inverse_variance: float | Tensor,
        *,
        tol: float | None = None,
        max_iter: int = 1000,
        start: Tensor | None = None,
    ) -> None:
        if not isinstance(A, odl.Operator) or not A.is_linear:
            raise TypeError(f"A must be a linear ODL operator, got {A!r}")
        if not isinstance(precision, Precision):
            raise TypeError(f"precision must be a Precision, got {type(precision).__name__}")
        if A.domain != precision.domain:
            raise ValueError(
                f"A and precision must share the image space, got {A.domain!r} and {precision.domain!r}"
            )
        for name, value, space in (("y", y, A.range), ("prior_mean", prior_mean, A.domain)):
            if tuple(value.shape) != (len(y), *space.shape):
                raise ValueError(f"{name} must be (B, *{space.shape}), got {tuple(value.shape)}")
        self.operator, self.y, self.prior_mean = A, y, prior_mean
        self.precision, self.inverse_variance = precision, inverse_variance
        single = torch_dtype(A.domain).to_real() == torch.float32
        self.tol = (1e-3 if single else 1e-8) if tol is None else float(tol)
        self.max_iter = max_iter
        self._start = start
        self._ndim = len(A.domain.shape)
        self._forward, self._transpose = euclidean_pair(A)

    def __reduce__(self) -> tuple[Any, ...]:
        again = functools.partial(type(self), tol=self.tol, max_iter=self.max_iter, start=self._start)
        return again, (self.operator, self.y, self.prior_mean, self.precision, self.inverse_variance)

    def _back(self, t: Tensor, power: float = 1.0) -> Tensor:
        """A^H t / σ^(2 power)."""
        dtype = self.prior_mean.dtype.to_real()
        factor = torch.as_tensor(self.inverse_variance, dtype=dtype, device=t.device) ** power
        if factor.ndim > 1:  # one for every datum
            return self._transpose(factor * t)
        return append_axes(factor, self._ndim) * self._transpose(t)

    @functools.cached_property
    @undisturbed
    @torch.no_grad()
    def correction(self) -> Tensor:
        r""":math:`\hat x - \mu`, to its own relative precision, ``(B, *X.shape)``."""
        b = self._back(self.y - self._forward(self.prior_mean))
        if self._start is None:
            return self.solve(b)
        guess = self._start - self.prior_mean
        guess = torch.where(torch.isfinite(guess), guess, 0)
        return guess + self.solve(b - self.times(guess))

    @property
    def mean(self) -> Tensor:
        r""":math:`\hat x`, ``(B, *X.shape)``."""
        return self.prior_mean + self.correction

    @undisturbed
    @torch.no_grad()
    def sample(self, n: int, generator: torch.Generator | int | None = None) -> Tensor:
        r"""Draws of x given y, ``(n, B, *X.shape)``, by perturbation of a right-hand side.

        :math:`P^{-1} (A^H \varepsilon_1 / \sigma + L \varepsilon_2)` with white noise in data and image has the
        covariance :math:`P^{-1} P P^{-1} = P^{-1}`: the law is exact up to `tol`.

        Parameters
        ----------
        n : int
            Draws of every sample.
        generator : torch.Generator or int, optional
            Random numbers, or their seed; torch's global generator where None.
        """
        n = integer(n, "n", minimum=1)
        check_memory((n, *self.prior_mean.shape), self.prior_mean.dtype, "n", n, self.prior_mean.device)
        if generator is not None:
            generator = seeded_generator(generator, name="generator")

        def white(like: Tensor) -> Tensor:
            source = like.device if generator is None else generator.device
            noise = torch.randn((n, *like.shape), generator=generator, dtype=like.dtype, device=source)
            return noise.to(like.device) * (math.sqrt(2) if like.is_complex() else 1)  # σ is that of a part

        image = white(self.prior_mean)
        b = self._back(white(self.y), 0.5) + self.precision.unwhiten(image)
        return self.mean + self.solve(b)

    def std(self, n: int = 100, generator: torch.Generator | int | None = None) -> Tensor:
        r"""Standard deviations of the pixels from n draws, ``(B, *X.shape)``, each to :math:`1 / \sqrt{2 n}`.

        Those of complex images are :math:`\sqrt{E |x - \hat x|^2}`, of both parts together.
        """
        return (self.sample(n, generator) - self.mean).abs().square().mean(0).sqrt()

    @undisturbed
    @torch.no_grad()
    def times(self, x: Tensor) -> Tensor:
        """P x, ``(*batch, *X.shape)``, the last batch axis that of the samples."""
        return self._information(x) + self.precision.forward(x)

    def _information(self, x: Tensor) -> Tensor:
        """A^H A x / σ²."""
        return self._back(self._forward(x))

    @undisturbed
    @torch.no_grad()
    def solve(self, b: Tensor) -> Tensor:
        """P^{-1} b, ``(*batch, *X.shape)``, the last batch axis that of the samples."""
        found, self.last_error = whitened_solve(
            self.precision, self._information, b, tol=self.tol, max_iter=self.max_iter
        )
        return found

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.operator!r}, {self.precision!r})"
