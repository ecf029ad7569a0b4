r"""The joint posterior of image and latent vector, and its profile.

With a decoder :math:`p(x \mid z) = N(G(z), \beta^{-1} I)`, a standard normal z and Gaussian noise,

.. math:: J(x, z) = \frac{1}{2 \sigma^2} \|A x - y\|^2 + \frac{\beta}{2} \|x - G(z)\|^2 + \frac{w}{2} \|z\|^2

is the negative logarithm of the posterior up to a constant (w = 1). For a fixed z it is quadratic in x, with the
minimiser x*(z), so that it is enough to minimise the *profile*

.. math:: \varphi(z) = \min_x J(x, z) = J(x^*(z), z), \qquad
          \nabla \varphi(z) = \beta J_G^T (G(z) - x^*(z)) + w z .

An alternation between x and z moves z against a fixed x, and needs the more turns the larger βσ² is; a step for the
profile lets x follow. Its Gauss-Newton matrix is :math:`J_G^T K J_G + w I` with
:math:`K = \beta I - \beta^2 (A^T A / \sigma^2 + \beta I)^{-1}`. For β → ∞ it is that of the hard constraint x = G(z).

References
----------
M. González, A. Almansa, P. Tan (2021), Solving inverse problems by joint posterior maximization with autoencoding
prior, arXiv:2103.01648.

G. H. Golub, V. Pereyra (2003), Separable nonlinear least squares: the variable projection method and its
applications, doi:10.1088/0266-5611/19/2/201.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace

import odl
import torch
from torch import Tensor

from genreg.operators import DataProx, TorchOperator, to_torch
from genreg.operators.bridge.jacobians import columns, linearise
from genreg.operators.fidelity.gaussian import squares
from genreg.operators.linear.conjugate_gradient import inner
from genreg.operators.proximal.weighted import in_units_of_noise, largest, noisy_data_prox
from genreg.solvers.generative.latent import latent_objective, real, scaled_curvature
from genreg.solvers.generative.profiled import Profiled
from genreg.solvers.problem.objective import Blocks, Curvature, Objective


@dataclass(frozen=True, kw_only=True)
class JointProblem(Profiled):
    """The objective J(x, z) of a batch, made by `of`.

    Attributes
    ----------
    smooth, spaces, proximable, curvature, lengths, offset
        Those of an `Objective`: J itself, of the blocks x and z.
    per_sample : dict of str to Tensor
        y, ``(B, *Y.shape)``; inverse_variance (1/σ²), ``(B,)``, or one for every datum, which broadcasts to y; beta
        and weight (w), ``(B,)``.
    generate : TorchOperator
        G.
    x_step : DataProx
        The exact step in x; with one σ for every datum, by conjugate gradients.
    """

    generate: TorchOperator
    x_step: DataProx

    @classmethod
    def of(cls, A: odl.Operator, G: odl.Operator, **per_sample: Tensor) -> JointProblem:
        """The problem for an operator, a generator, and data and parameters of every sample.

        Raises
        ------
        TypeError, ValueError, NotImplementedError
            If A is not a linear operator with an adjoint, or its x-step is singular for some β.
        """
        generate, forward, inverse_variance = to_torch(G), to_torch(A), per_sample["inverse_variance"]
        step = noisy_data_prox(A, inverse_variance)
        step.check(per_sample["beta"] / largest(inverse_variance))

        def value(
            blocks: Blocks, y: Tensor, inverse_variance: Tensor, beta: Tensor, weight: Tensor
        ) -> Tensor:
            x, z = blocks["x"], blocks["z"]
            misfit, u = squares(forward(x), y=y, inverse_variance=inverse_variance), x - generate(z)
            return misfit + 0.5 * (beta * inner(u, u) + weight * inner(z, z))

        return cls(
            value,
            {"x": A.domain, "z": G.domain},
            per_sample=per_sample,
            lengths={"z": 1.0},
            generate=generate,
            x_step=step,
        ).pickled_as(functools.partial(JointProblem.of, **per_sample), A, G)

    def with_beta(self, beta: Tensor) -> JointProblem:
        """The problem with another β of every sample."""
        changed = replace(self, per_sample={**self.per_sample, "beta": beta})
        return changed.pickled_as(JointProblem.with_beta, self, beta)

    def gap(self, z: Tensor) -> Tensor:
        r"""Squared distance :math:`\|x^*(z) - G(z)\|^2`, ``(B,)``."""
        with torch.no_grad():
            u = self._correction(self.generate(z), **self.per_sample)
        return inner(u, u)

    def image(self, z: Tensor, **per_sample: Tensor) -> Tensor:
        """The minimiser x*(z) for some or, by default, all samples."""
        given = per_sample or self.per_sample
        with torch.no_grad():
            mean = self.generate(z)
            return mean + self._correction(mean, **given)

    def _correction(
        self, mean: Tensor, *, y: Tensor, inverse_variance: Tensor, beta: Tensor, **rest: Tensor
    ) -> Tensor:
        """x*(z) - G(z) for a mean G(z)."""
        step, root, shift = in_units_of_noise(self.x_step, inverse_variance, beta)
        return step.correction(mean, root * y, shift)

    def profile(self) -> Objective:
        """φ, an objective of the block z, with its curvature."""
        forward = to_torch(self.x_step.operator)

        def value(
            blocks: Blocks, y: Tensor, inverse_variance: Tensor, beta: Tensor, weight: Tensor
        ) -> Tensor:
            z = blocks["z"]
            mean = self.generate(z)
            with torch.no_grad():
                u = self._correction(mean, y=y, inverse_variance=inverse_variance, beta=beta)
                misfit = squares(forward(mean + u), y=y, inverse_variance=inverse_variance)
                fixed = misfit + 0.5 * beta * inner(u, u)
            slope = -beta * inner(u, mean)  # of the envelope: x follows z without changing J to first order
            return fixed + (slope - slope.detach()) + 0.5 * weight * inner(z, z)

        return Objective(
            value,
            {"z": self.spaces["z"]},
            per_sample=self.per_sample,
            curvature={"z": self._curvature},
            lengths=self.lengths,
        ).pickled_as(JointProblem.profile, self)

    def _curvature(
        self, blocks: Blocks, *, inverse_variance: Tensor, beta: Tensor, weight: Tensor, **data: Tensor
    ) -> Curvature:
        """The Gauss-Newton matrix of the profile."""
        z = blocks["z"]
        step, _, shift = in_units_of_noise(self.x_step, inverse_variance, beta)
        linear = functools.cache(lambda: linearise(self.generate, z)[1:])

        def gram() -> Tensor:
            J = columns(self.generate, z)  # (n, B, *X.shape)
            return torch.einsum("ibk,jbk->bij", real(J), real(step.reduced(J, shift)))

        def product(p: Tensor) -> Tensor:
            push, pull = linear()
            return pull(step.reduced(push(p), shift))

        return scaled_curvature(gram, product, largest(inverse_variance), weight)

    def latent(self, x: Tensor, **per_sample: Tensor) -> Objective:
        r"""J(x, ·) for a fixed image: :math:`\frac{\beta}{2} \|x - G(z)\|^2 + \frac{w}{2} \|z\|^2`, a projection."""
        return projection(self.generate, x, per_sample["beta"], per_sample["weight"])


def projection(generate: TorchOperator, x: Tensor, beta: Tensor, weight: Tensor) -> Objective:
    r"""The objective :math:`\frac{\beta}{2} \|x - G(z)\|^2 + \frac{w}{2} \|z\|^2` of z, with its curvature.

    Parameters
    ----------
    generate : TorchOperator
        G.
    x : Tensor
        Images, ``(B, *X.shape)``.
    beta, weight : Tensor
        β and w of every sample, ``(B,)``.
    """
    identity = to_torch(odl.IdentityOperator(generate.range))
    return latent_objective(identity, generate, y=x, inverse_variance=beta, weight=weight)
