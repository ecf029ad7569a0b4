r"""The joint prior of image and latent vector, for joint posterior maximisation (JPMAP)."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any, Literal, get_args

import odl
import torch
from odl.functionals import Functional
from torch import Tensor

from genreg.generator import Generator
from genreg.networks.predicted_precision import Decoded
from genreg.operators import GaussianPosterior, Precision, data_prox
from genreg.operators.bridge.arguments import choice
from genreg.operators.bridge.caller_data import to_batch
from genreg.operators.bridge.complex_parts import squared_modulus
from genreg.operators.bridge.product import product_space
from genreg.operators.fidelity import Fidelity, GaussianFidelity
from genreg.operators.precision.complex_images import isotropic_precision
from genreg.operators.precision.information import InformationGain
from genreg.operators.proximal.iterative import ConjugateGradientProx
from genreg.regularisers.base import checked_parameter
from genreg.regularisers.deviations import deviation_for_image
from genreg.regularisers.generative import Generative, check_generator
from genreg.regularisers.marginal import Marginal
from genreg.solvers import Objective, SaddlePoint, Solution, lbfgs
from genreg.solvers.generative.isotropic import JointProblem
from genreg.solvers.generative.profiled import Profiled, maximise_profile
from genreg.solvers.generative.structured import StructuredProblem, negative_log_prior
from genreg.solvers.problem.objective import Blocks

Estimate = Literal["joint", "marginal"]

_ELIMINATED = 2**16  # pixels up to which the image is eliminated by conjugate gradients, at every step in z


class JointPrior(Generative):
    r"""The negative logarithm of the joint prior density of image x and latent vector z, up to a constant.

    .. math:: R(x, z) = \frac{\beta}{2} \|x - G(z)\|^2 + \frac12 \|z\|^2 , \qquad \beta = 1 / \gamma^2 ,

    is :math:`-\log p(x \mid z) - \log p(z)` for a decoder :math:`p(x \mid z) = N(G(z), \gamma^2 I)`. For a structured
    model, of which each z has its own precision (diagonal, or with a sparse Cholesky factor as in SUPN), it is

    .. math:: R(x, z) = \frac12 \|x - G(z)\|^2_{\Lambda(z)} - \frac12 \log\det\Lambda(z) + \frac12 \|z\|^2 .

    Any `Precision` may be given instead of what the model has learned; then :math:`\Lambda(z) = \Lambda` for all z.

    Sums are those over pixels, without the weight of X, as the densities have them. With a Gaussian fidelity and λ =
    1, ``fidelity + R`` is the negative logarithm of the joint posterior.

    For a linear forward operator and Gaussian noise, x is eliminated exactly, by `operators.data_prox` or, with a
    structured model, a given Λ, or one σ for every datum, by conjugate gradients. The encoder, where there is one,
    proposes z; then z moves as in `solvers.jpmap`, with a structured model or a given Λ by `solvers.quasi_newton`.
    Other problems, and those with images of more than 256 x 256 pixels where conjugate gradients would be needed at
    every step in z, are solved by `solvers.lbfgs` in the variables x - G(z) and z.

    Two estimates of z. ``"joint"`` maximises the density of x and z together. A density is large where the variances
    of the image are small, however little probability there is: under much noise or with few data this maximum runs
    off to latent vectors of smooth images. ``"marginal"`` maximises :math:`p(z \mid y)`, x integrated out,

    .. math:: \min_z\ \frac12 \|y - A \mu(z)\|^2_{S(z)^{-1}} + \frac12 \log\det S(z) + \frac12 \|z\|^2 , \qquad
              S(z) = \sigma^2 I + A \Lambda(z)^{-1} A^H ,

    and x is the mean of the image given z and y. Where Λ is the same for all z both are the same. The log-determinant
    is exact for small problems, otherwise estimated with fixed random numbers, see
    `operators.precision.information`. λ tempers the prior, with :math:`\lambda R` in place of R before x is integrated
    out. On digits with `mnist-supn` it lowers the error of compressed sensing from 50 measurements to a third, and from
    100 by a quarter (``benchmarks/marginal_estimate.py``), for up to three times the time.

    Starting points: ``"encoder"`` (the default where the model has one) encodes a rough reconstruction, ``"random"``
    draws from N(0, I), ``"zero"`` starts at z = 0; further restarts are drawn. In all of them x = G(z).

    Parameters
    ----------
    G : Generator
        The generator Z -> X.
    beta : float, Tensor or Precision, optional
        β > 0, or one for every sample, ``(B,)``; or Λ on the range of G, not batched, the same for all z and all
        samples. By default the precision that the model has learned, whose place it takes, that of a Λ(z) as well.
    estimate : {"joint", "marginal"}
        Which density is maximised in z; "marginal" needs Gaussian noise, a linear operator and λ > 0.

    Raises
    ------
    TypeError, ValueError
        If G is no generator, β is not positive, Λ is batched or on another space, neither is given and the model
        has no γ, or the estimate is no known one.

    References
    ----------
    M. González, A. Almansa, P. Tan (2021), Solving inverse problems by joint posterior maximization with
    autoencoding prior, arXiv:2103.01648.

    M. Duff, I. Simpson, M. J. Ehrhardt, N. D. F. Campbell (2023), VAEs with structured image covariance applied to
    compressed sensing MRI, Phys. Med. Biol. 68, arXiv:2210.14586.
    """

    blocks = ("x", "z")

    def __init__(
        self,
        G: Generator,
        beta: float | Tensor | Precision | None = None,
        *,
        estimate: Estimate = "joint",
    ) -> None:
        check_generator(G)
        choice(estimate, "estimate", get_args(Estimate))
        self.estimate = estimate
        """Which density of z is maximised."""
        self.precision: Precision | None = None
        """Λ, where it is given."""
        if isinstance(beta, Precision):
            _check_precision(beta, G)
            self.precision, beta = beta, None
        self.structured = self.precision is not None or (beta is None and G.structured)
        """Whether the precision is that of a structured model, or a given Λ."""
        if beta is None and not self.structured:
            if G.std is None:
                raise ValueError(
                    f"beta must be given: the model of G has learned no standard deviation, {G!r}"
                )
            beta = G.std**-2
        if beta is not None and not bool((torch.as_tensor(checked_parameter(beta, "beta")) > 0).all()):
            raise ValueError(f"beta must be positive, got {beta}")
        self.parameters = {} if beta is None else {"beta": beta}
        domain = product_space(G.range, G.domain)
        half_square = 0.5 * odl.functionals.L2NormSquared(G.domain)
        super().__init__(G, domain, odl.ComponentProjection(domain, 0), half_square)
        self.solver = self._solve
        if self.structured:
            self.offset = self._log_determinant

    def _log_determinant(self, blocks: Blocks) -> Tensor:
        """The part of R that the unit of the images adds to."""
        return -0.5 * self._given(blocks["z"])[1].logdet()

    @property
    def beta(self) -> float | Tensor | None:
        """β, the precision of a pixel given z; None of a structured model or a given Λ."""
        return self.parameters.get("beta")

    def decode(self, z: Tensor) -> Decoded:
        r"""The Gaussian :math:`p(x \mid z)` of this prior, for latent vectors ``(B, dim Z)``; differentiable in z."""
        decoded = self.generator.decode(z)
        if self.precision is not None:
            return replace(decoded, make_precision=functools.partial(getattr, self, "precision"))
        if self.structured:
            return decoded
        beta = torch.as_tensor(self.beta, dtype=z.dtype, device=z.device)
        made = functools.partial(isotropic_precision, self.generator.range, beta)
        return replace(decoded, make_precision=made)

    def _given(self, z: Tensor) -> tuple[Tensor, Precision]:
        """Mean and precision of the image, given z; this prior is made of no model without a precision."""
        decoded = self.decode(z)
        assert decoded.precision is not None
        return decoded.mean, decoded.precision

    def take(self, index: Tensor) -> JointPrior:
        """The prior of some samples, where β is given for every sample."""
        beta = self.beta
        if not isinstance(beta, Tensor) or beta.ndim == 0:
            return self
        return JointPrior(self.generator, beta[index], estimate=self.estimate)

    def smooth(
        self, blocks: Blocks, *, beta: float | Tensor | None = None, **parameters: float | Tensor
    ) -> Tensor:
        """R(x, z)."""
        x, z = blocks["x"], blocks["z"]
        if beta is None:
            flat = z.reshape(-1, *self.generator.domain.shape)
            mean, precision = self._given(flat)
            return negative_log_prior(x.reshape(mean.shape) - mean, precision, flat).reshape(z.shape[:-1])
        u = (x - self.generate(z)).flatten(x.ndim - len(self.generator.range.shape))
        return 0.5 * beta * squared_modulus(u).sum(-1) + self.latent_value(z)

    def at_image(self, x: Tensor, z: Tensor, *, smoothing: float, **parameters: float | Tensor) -> Tensor:
        """R as a function of image and latent vector; nothing needs smoothing."""
        return self.smooth({"x": x, "z": z}, **parameters)

    def start(
        self, fidelity: Fidelity, init: str | None, restarts: int, generator: torch.Generator
    ) -> Blocks:
        """See the class."""
        z = self.latent_starts(fidelity, init or self.default_start, restarts, generator).flatten(0, 1)
        with torch.no_grad():
            return {"x": self.generate(z), "z": z}

    @property
    def marginal(self) -> Functional:
        r""":math:`R_G(x) = \min_z R(x, z)`, with the envelope gradient, β (x - G(z)) over the weight of X."""
        return Marginal(self)

    def _solve(self, problem: Objective, init: Any, **settings: Any) -> Solution:
        """Solve a problem of this regulariser, see the class."""
        if not isinstance(problem, Profiled):
            return lbfgs(problem, init, substitution=deviation_for_image(self.generate), **settings)
        G = self.generator
        return maximise_profile(problem, init, G.encode if G.has_encoder else None, **settings)

    def problem(self, fidelity: Fidelity, lam: Tensor, **parameters: Tensor) -> Objective | SaddlePoint:
        """The problem, see `Regulariser.problem`; it offers a profile for Gaussian noise and a linear operator."""
        A, G = fidelity.operator, self.generator
        if "quadratic" not in fidelity.offers or not A.is_linear or not bool((lam > 0).all()):
            if self.estimate == "marginal":
                raise NotImplementedError(
                    "estimate must be 'joint' unless the noise is Gaussian, the forward operator linear and λ > 0: "
                    f"otherwise the image can't be integrated out, got {fidelity!r}"
                )
            return super().problem(fidelity, lam, **parameters)
        if not self._eliminates(fidelity):
            return super().problem(fidelity, lam, **parameters)
        if self.structured:
            # with the same Λ for all z log det P is a constant
            varies = self.estimate == "marginal" and self.precision is None
            information = InformationGain(A) if varies else None
            return StructuredProblem.of(
                A, self.decode, G.domain, None, information, **fidelity.per_sample, weight=lam
            )
        beta = (self.parameters_of(lam) | parameters)["beta"]
        return JointProblem.of(A, G, **fidelity.per_sample, beta=lam * beta, weight=lam)

    def _eliminates(self, fidelity: Fidelity) -> bool:
        """Whether x is eliminated: the images are of moderate size, there is a closed form, or nothing else will do."""
        if fidelity.operator.domain.size <= _ELIMINATED or self.estimate == "marginal":
            return True
        if self.structured or fidelity.per_sample["inverse_variance"].ndim > 1:
            return False
        return not isinstance(data_prox(fidelity.operator), ConjugateGradientProx)

    def posterior(self, fidelity: GaussianFidelity, z: Tensor) -> GaussianPosterior:
        r"""The Gaussian :math:`p(x \mid z, y)` of the image, given latent vectors ``(B, dim Z)`` and the data.

        Parameters
        ----------
        fidelity : GaussianFidelity
            The data, of a linear operator, B samples.
        z : ODL element of Z, Tensor or array
            Latent vectors, for example ``rec.blocks["z"]`` of a reconstruction; of one sample without a batch axis.

        Returns
        -------
        GaussianPosterior
            Its mean is the image that belongs to z; ``sample`` and ``std`` show what data and prior leave open.

        Raises
        ------
        TypeError, ValueError
            If the fidelity is not that of Gaussian noise with a linear operator on the images of G, or z is of
            another shape.
        """
        if not isinstance(fidelity, GaussianFidelity):
            raise TypeError(f"fidelity must be a GaussianFidelity, got {type(fidelity).__name__}")
        count, G = len(fidelity.data), self.generator
        latent = to_batch(z, {"z": G.domain}, "z").blocks["z"]
        if len(latent) != count:
            raise ValueError(f"z must have the shape {(count, *G.domain.shape)}, got {tuple(latent.shape)}")
        with torch.no_grad():
            mean, precision = self._given(latent)
        return GaussianPosterior(fidelity.operator, fidelity.data, mean, precision, fidelity.inverse_variance)


def _check_precision(precision: Precision, G: Generator) -> None:
    """Raise ValueError unless the precision is one of the images of G, the same for all samples."""
    if precision.domain != G.range:
        raise ValueError(
            f"beta must be a precision on the range of G, {G.range!r}, got one on {precision.domain!r}"
        )
    if precision.batch:
        raise ValueError(
            f"beta must be a precision that is not batched, got a batch of {precision.batch[0]}; "
            "take one of its samples by `take`"
        )
