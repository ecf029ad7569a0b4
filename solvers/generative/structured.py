r"""The joint posterior of image and latent vector for a decoder with a precision of its own for every z (SUPN).

With a decoder :math:`p(x \mid z) = N(\mu(z), \Lambda(z)^{-1})`, a standard normal z and Gaussian noise,

.. math:: J(x, z) = \frac{1}{2 \sigma^2} \|A x - y\|^2 + w \left( \frac12 \|x - \mu(z)\|^2_{\Lambda(z)}
          - \frac12 \log\det\Lambda(z) + \frac12 \|z\|^2 \right)

is the negative logarithm of the posterior up to a constant (w = 1). As in `genreg.solvers.generative.isotropic`,
which has one precision for all z, x is eliminated: the *profile* φ(z) = J(x*(z), z) has the gradient
:math:`\nabla_z J(x, z)` at x = x*(z), the mean of `GaussianPosterior`.

The profile is large where densities are: at latent vectors of images with small variances, however little probability
these have. Integrated over x instead, the same density is, up to a constant,

.. math:: -\log \int e^{-J(x, z)} dx = \varphi(z) + \frac12 \log\det P(z) , \qquad
          P(z) = A^H A / \sigma^2 + w \Lambda(z) ,

the *marginal* of z, with w = 1 that of :math:`p(z \mid y)`; then the log-determinants together are the information
that the data carry about the image (`genreg.operators.precision.information`). Given z, x*(z) is the mean of the image.

References
----------
M. Duff, I. Simpson, M. J. Ehrhardt, N. D. F. Campbell (2023), VAEs with structured image covariance applied to
compressed sensing MRI, Phys. Med. Biol. 68, arXiv:2210.14586.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import odl
import torch
from torch import Tensor

from genreg.operators import GaussianPosterior, Precision, to_torch, torch_dtype
from genreg.operators.bridge.protocols import Space
from genreg.operators.fidelity.base import trailing
from genreg.operators.fidelity.gaussian import squares
from genreg.operators.linear.conjugate_gradient import inner
from genreg.operators.precision.information import InformationGain
from genreg.solvers.generative.profiled import Profiled
from genreg.solvers.problem.objective import Blocks, Objective


@dataclass(frozen=True, kw_only=True)
class StructuredProblem(Profiled):
    """The objective J(x, z) of a batch, made by `of`.

    Attributes
    ----------
    smooth, spaces, proximable, curvature, lengths, offset
        Those of an `Objective`: J itself, of the blocks x and z.
    per_sample : dict of str to Tensor
        y, ``(B, *Y.shape)``; inverse_variance (1/σ²), ``(B,)``, or one for every datum, which broadcasts to y; and
        weight (w), ``(B,)``.
    operator : odl.Operator
        A.
    decode : callable
        ``decode(z)`` has the attributes ``mean``, ``(B, *X.shape)``, and ``precision``, a `Precision`.
    tol : float, optional
        Error of x while z moves, in posterior standard deviations, see `GaussianPosterior`; by default 0.01 in single
        precision (which changes J by at most tol² N / 2) and 1e-8 in double. The image at
        the end has the precision of `GaussianPosterior`.
    information : InformationGain, optional
        Where it is given, the profile is the marginal.
    """

    operator: odl.Operator
    decode: Callable[[Tensor], Any]
    tol: float | None = None
    information: InformationGain | None = None

    @classmethod
    def of(
        cls,
        A: odl.Operator,
        decode: Callable[[Tensor], Any],
        latent: Space,
        tol: float | None = None,
        information: InformationGain | None = None,
        /,
        **per_sample: Tensor,
    ) -> StructuredProblem:
        """The problem for an operator, a decoder with its latent space, and data and parameters of every sample."""
        forward = to_torch(A)

        def value(blocks: Blocks, y: Tensor, inverse_variance: Tensor, weight: Tensor) -> Tensor:
            x, z = blocks["x"], blocks["z"]
            decoded = decode(z)
            prior = negative_log_prior(x - decoded.mean, decoded.precision, z)
            return squares(forward(x), y=y, inverse_variance=inverse_variance) + weight * prior

        def offset(blocks: Blocks, weight: Tensor, **data: Tensor) -> Tensor:
            return -0.5 * weight * decode(blocks["z"]).precision.logdet()

        spaces = {"x": A.domain, "z": latent}
        made = cls(
            value,
            spaces,
            per_sample=per_sample,
            lengths={"z": 1.0},
            offset=offset,
            operator=A,
            decode=decode,
            tol=tol,
            information=information,
        )
        again = functools.partial(StructuredProblem.of, **per_sample)
        return made.pickled_as(again, A, decode, latent, tol, information)

    def posterior(self, z: Tensor, **per_sample: Tensor) -> GaussianPosterior:
        r""":math:`p(x \mid z, y)` for latent vectors, ``(B, *Z.shape)``, of some or, by default, all samples."""
        with torch.no_grad():
            decoded = self.decode(z)
            return self._posterior(decoded.mean, decoded.precision, **(per_sample or self.per_sample))

    def _posterior(
        self,
        mean: Tensor,
        precision: Precision,
        tol: float | None = None,
        /,
        *,
        y: Tensor,
        inverse_variance: Tensor,
        weight: Tensor,
        **rest: Tensor,
    ) -> GaussianPosterior:
        scale = inverse_variance / trailing(weight, inverse_variance)
        return GaussianPosterior(self.operator, y, mean, precision, scale, tol=tol)

    def image(self, z: Tensor, **per_sample: Tensor) -> Tensor:
        """The minimiser x*(z) for some or, by default, all samples."""
        return self.posterior(z, **per_sample).mean

    def profile(self) -> Objective:
        """φ or the marginal, an objective of z. Every evaluation seeks the image from μ(z), so that z alone counts."""
        forward = to_torch(self.operator)
        single = torch_dtype(self.operator.domain).to_real() == torch.float32
        tol = (0.01 if single else 1e-8) if self.tol is None else self.tol

        def value(blocks: Blocks, y: Tensor, inverse_variance: Tensor, weight: Tensor) -> Tensor:
            z = blocks["z"]
            decoded = self.decode(z)
            mean, precision = decoded.mean, decoded.precision
            given = {"y": y, "inverse_variance": inverse_variance, "weight": weight}
            with torch.no_grad():
                u = self._posterior(mean.detach(), precision.detach(), tol, **given).correction
                misfit = squares(forward(mean + u), y=y, inverse_variance=inverse_variance)
            u = u + (mean.detach() - mean)  # x* stays as it is, to first order
            profile = misfit + weight * negative_log_prior(u, precision, z)
            return profile + self._volume(precision, inverse_variance, weight)

        def offset(blocks: Blocks, y: Tensor, inverse_variance: Tensor, weight: Tensor) -> Tensor:
            precision = self.decode(blocks["z"]).precision
            return self._volume(precision, inverse_variance, weight) - 0.5 * weight * precision.logdet()

        return Objective(
            value, {"z": self.spaces["z"]}, per_sample=self.per_sample, lengths=self.lengths, offset=offset
        ).pickled_as(StructuredProblem.profile, self)

    def _volume(self, precision: Precision, inverse_variance: Tensor, weight: Tensor) -> Tensor | float:
        """What the integral over x adds to the profile: log det P / 2, up to a constant."""
        if self.information is None:
            return 0.0
        gain = self.information(precision, inverse_variance / trailing(weight, inverse_variance))
        return gain + 0.5 * precision.logdet()


def negative_log_prior(u: Tensor, precision: Precision, z: Tensor) -> Tensor:
    r""":math:`\frac12 u^T \Lambda u - \frac12 \log\det\Lambda + \frac12 \|z\|^2`, ``(B,)``, for u = x - μ(z)."""
    return 0.5 * (precision.quadratic(u) - precision.logdet() + inner(z, z))
