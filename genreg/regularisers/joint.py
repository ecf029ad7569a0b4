r"""The joint prior of image and latent vector, for joint posterior maximisation (JPMAP)."""

from __future__ import annotations

from typing import Any

import odl
import torch
from odl.functionals import Functional
from torch import Tensor

from genreg.fidelity import Fidelity, GaussianFidelity
from genreg.generator import Generator
from genreg.regularisers.base import checked_parameter
from genreg.regularisers.deviations import deviation_for_image
from genreg.regularisers.generative import Generative, check_generator
from genreg.regularisers.marginal import Marginal
from genreg.solvers import LevenbergMarquardt, Objective, SaddlePoint, Solution, lbfgs
from genreg.solvers.joint import JointProblem
from genreg.solvers.jpmap import maximise, proposing
from genreg.solvers.objective import Blocks
from genreg.solvers.updates import Update

__all__ = ["JointPrior"]

_TURNS = 5  # in which the encoder proposes


class JointPrior(Generative):
    r"""The negative logarithm of the joint prior density of image x and latent vector z, up to a constant.

    .. math:: R(x, z) = \frac{\beta}{2} \|x - G(z)\|^2 + \frac12 \|z\|^2 , \qquad \beta = 1 / \gamma^2 ,

    is :math:`-\log p(x \mid z) - \log p(z)` for a decoder :math:`p(x \mid z) = N(G(z), \gamma^2 I)`, with the plain
    Euclidean norm of the pixels, as the densities have it. With a Gaussian fidelity and λ = 1, ``fidelity + R`` is
    the negative logarithm of the joint posterior.

    For a linear forward operator and Gaussian noise, x is eliminated exactly and z moves as in
    `solvers.jpmap`, with the encoder's proposals where there is an encoder; otherwise problems are solved by
    `solvers.lbfgs` in the variables x - G(z) and z.

    Starting points: ``"encoder"`` (the default where the model has one) encodes a rough reconstruction, ``"random"``
    draws from N(0, I), ``"zero"`` starts at z = 0; further restarts are drawn. In all of them x = G(z).

    Parameters
    ----------
    G : Generator
        The generator Z -> X.
    beta : float or Tensor, optional
        β > 0, or one for every sample, ``(B,)``; by default 1/γ² with the γ that the model has learned.

    Raises
    ------
    TypeError, ValueError
        If G is no generator, β is not positive, or it is not given and the model has no γ.

    References
    ----------
    M. González, A. Almansa, P. Tan (2021), Solving inverse problems by joint posterior maximization with
    autoencoding prior, arXiv:2103.01648.
    """

    blocks = ("x", "z")

    def __init__(self, G: Generator, beta: float | Tensor | None = None) -> None:
        check_generator(G)
        if beta is None:
            if G.std is None:
                raise ValueError(
                    f"beta must be given: the model of G has learned no standard deviation, {G!r}"
                )
            beta = G.std**-2
        if not bool((torch.as_tensor(checked_parameter(beta, "beta")) > 0).all()):
            raise ValueError(f"beta must be positive, got {beta}")
        self.parameters = {"beta": beta}
        domain = odl.ProductSpace(G.range, G.domain)
        half_square = 0.5 * odl.functionals.L2NormSquared(G.domain)
        super().__init__(G, domain, odl.ComponentProjection(domain, 0), half_square)
        self.solver = self._solve

    @property
    def beta(self) -> float | Tensor:
        """β, the precision of a pixel given z."""
        return self.parameters["beta"]

    def smooth(self, blocks: Blocks, *, beta: float | Tensor, **parameters: float | Tensor) -> Tensor:
        """R(x, z)."""
        x, z = blocks["x"], blocks["z"]
        u = (x - self.generate(z)).flatten(x.ndim - len(self.generator.range.shape))
        return 0.5 * beta * u.square().sum(-1) + self.latent_value(z)

    def at_image(self, x: Tensor, z: Tensor, *, beta: float | Tensor, smoothing: float) -> Tensor:
        """R as a function of image and latent vector; nothing needs smoothing."""
        return self.smooth({"x": x, "z": z}, beta=beta)

    def start(
        self, fidelity: Fidelity, init: str | None, restarts: int, generator: torch.Generator
    ) -> Blocks:
        """See the class."""
        z = self.latent_starts(fidelity, init or self.default_start, restarts, generator).flatten(0, 1)
        with torch.no_grad():
            return {"x": self.generate(z), "z": z}

    @property
    def marginal(self) -> Functional:
        r""":math:`R_G(x) = \min_z R(x, z)`, with the envelope gradient β (x - G(z)) over the weight of X."""
        return Marginal(self)

    def _solve(self, problem: Any, init: Any, **settings: Any) -> Solution:
        """Solve a problem of this regulariser, see the class."""
        if not isinstance(problem, JointProblem):
            return lbfgs(problem, init, substitution=deviation_for_image(self.generate), **settings)
        encode = self.generator.encode if self.generator.has_encoder else None

        def update(problem: JointProblem) -> Update:
            return proposing(problem, encode, "fast", _TURNS, None) if encode else LevenbergMarquardt()

        return maximise(problem, init, update=update, **settings)

    def problem(self, fidelity: Fidelity, lam: Tensor, **parameters: Tensor) -> Objective | SaddlePoint:
        """The problem, see `Regulariser.problem`; a `JointProblem` for Gaussian noise and a linear operator."""
        if (
            not isinstance(fidelity, GaussianFidelity)
            or not fidelity.operator.is_linear
            or not bool((lam > 0).all())
        ):
            return super().problem(fidelity, lam, **parameters)
        beta = (self.parameters_of(lam) | parameters)["beta"]
        return JointProblem.of(
            fidelity.operator, self.generator, **fidelity.per_sample, beta=lam * beta, weight=lam
        )
