r"""Denoisers as regularisers: regularisation by denoising, and plug-and-play.

Both look for a fixed point, not for the minimum of a functional, unless the denoiser is of a special kind. With the
fidelity f and gradients in the inner product of X:

=================================  ==========================================================
`RegularisationByDenoising`        :math:`\nabla f(x) + \lambda\,(x - D(x)) = 0`
`PlugAndPlay`                      :math:`x = D(x - \nabla f(x) / \lambda)`
=================================  ==========================================================

A denoiser for noise of standard deviation σ that is a posterior mean has :math:`D(x) - x = \sigma^2 \nabla \log
p_\sigma(x)` (Tweedie), and one that is a MAP estimate is the prox of :math:`-\sigma^2 \log p`: in both cases
:math:`\lambda = 1 / \sigma^2`, over the weight of X, is the weight of a prior, about which the principles of parameter
choice search.
"""

from __future__ import annotations

from typing import Any

import odl
import torch
from torch import Tensor, nn

from genreg.operators import NetworkFunctional, to_torch, weight
from genreg.operators.bridge.arguments import number
from genreg.operators.bridge.protocols import StackedSpace
from genreg.operators.fidelity import Fidelity, GaussianFidelity
from genreg.operators.linear.conjugate_gradient import inner
from genreg.operators.proximal.weighted import largest, noisy_data_prox
from genreg.regularisers.base import posed
from genreg.regularisers.image_networks import ImageNetwork
from genreg.regularisers.images import OnImages
from genreg.solvers import DenoisingProblem, plug_and_play, red
from genreg.solvers.problem.objective import Blocks


class _Denoiser(ImageNetwork):
    """A denoiser on images of the space, which keeps its last images: a solver asks for the same ones twice."""

    def __init__(
        self, module: nn.Module, space: StackedSpace, noise_std: float | None, scale: float, offset: float
    ) -> None:
        super().__init__(module, space, scale, offset)
        self.noise_std = None if noise_std is None else number(noise_std, "noise_std", above=0)
        found = self.tried("forward", *self._level(), wanted="as many images")
        one = (1, *self.shape) if self.one_channel else self.shape
        if tuple(found.shape) != (2, *one):
            raise ValueError(f"module must return images of the shape {one}, got {tuple(found.shape[1:])}")
        self._last: tuple[Tensor, Tensor] | None = None

    def _level(self) -> tuple[Tensor, ...]:
        """The standard deviation of the noise in units of the network, where it is asked for."""
        return (
            ()
            if self.noise_std is None
            else (torch.tensor(self.noise_std / self.scale, dtype=torch.float64),)
        )

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """D(x) of images ``(B, *shape)``."""
        if self._last is None or self._last[0].dtype != x.dtype or not torch.equal(self._last[0], x):
            t = self.to_network(x)
            found = self.called("forward", t, *(a.expand(len(t)).to(t) for a in self._level()))
            self._last = x.clone(), self.from_network(found, x)
        return self._last[1]

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_last": None}


class _Energy(nn.Module):
    """w/2 <x, x - D(x)>, with the gradient w (x - D(x)) that it has for homogeneous D with symmetric Jacobians."""

    def __init__(self, denoiser: _Denoiser, w: float) -> None:
        super().__init__()
        self.denoiser, self.w = denoiser, w

    def forward(self, x: Tensor) -> Tensor:
        slope = self.w * inner(x, (x - self.denoiser(x)).detach())
        return 0.5 * slope.detach() + (slope - slope.detach())


class _OfDenoiser(OnImages):
    """What both have: the denoiser, the problem of fixed points, and a λ of the right order."""

    _first = "rough"
    _equation: bool

    def __init__(
        self,
        denoiser: nn.Module,
        space: StackedSpace,
        *,
        noise_std: float | None = None,
        scale: float = 1.0,
        offset: float = 0.0,
    ) -> None:
        self.denoise = _Denoiser(denoiser, space, noise_std, scale, offset)
        self.noise_std, self.scale, self.offset_of_images = (
            self.denoise.noise_std,
            self.denoise.scale,
            self.denoise.offset,
        )
        energy = _Energy(self.denoise, float(weight(space)))
        super().__init__(space, NetworkFunctional(energy, space))

    def problem(self, fidelity: Fidelity, lam: Tensor, **parameters: Tensor) -> DenoisingProblem:
        """The problem, with an exact step of the fidelity where that is Gaussian and its operator linear.

        Raises
        ------
        ValueError
            If λ is zero, or so small that the exact step is singular.
        NotImplementedError
            If the fidelity is not differentiable.
        """
        fidelity.require("gradient", type(self).__name__)
        if not bool((lam > 0).all()):
            raise ValueError(f"lam must be positive for {type(self).__name__}, got {float(lam.min()):g}")
        forward, A, X = to_torch(fidelity.operator), fidelity.operator, self.domain
        step, equation = None, self._equation
        if isinstance(fidelity, GaussianFidelity) and A.is_linear:
            variance = fidelity.inverse_variance
            step = noisy_data_prox(A, variance)
            try:
                step.check(lam * float(weight(X)) / largest(variance))
            except ValueError as error:
                raise ValueError(
                    f"lam must be larger for an exact step in {X.dtype_identifier}, got {float(lam.min()):g}; for a "
                    "search give lam_range, or the space double precision"
                ) from error

        def smooth(blocks: Blocks, lam: Tensor, **data: Tensor) -> Tensor:
            x = blocks["x"]
            misfit = fidelity.misfit(forward(x), **data)
            return misfit + lam * self.value(x) if equation else misfit

        made = DenoisingProblem(
            smooth,
            {"x": X},
            per_sample={**fidelity.per_sample, "lam": lam},
            denoise=self.denoise,
            data_prox=step,
            equation=equation,
        )
        return made.pickled_as(posed, self, fidelity, lam, {})

    def lam_scale(self, fidelity: Fidelity, blocks: Blocks, **parameters: Tensor) -> Tensor:
        """1 / (w σ²) with the σ of the denoiser; of a blind one what makes fidelity and λ <x, x - D(x)> / 2 equal."""
        if self.noise_std is None:
            return self._balance(fidelity, self.value(fidelity.rough()))
        return torch.full_like(fidelity.expected, 1 / (float(weight(self.domain)) * self.noise_std**2))

    def __repr__(self) -> str:
        name = type(self.denoise.module).__name__
        return f"{type(self).__name__}({name}, {self.domain!r}, noise_std={self.noise_std})"


class RegularisationByDenoising(_OfDenoiser):
    r"""Regularisation by denoising (RED), :math:`\tfrac12 \langle x, x - D(x) \rangle_X` with the gradient x - D(x).

    The gradient is that of the value where D is homogeneous, D(c x) = c D(x), and its Jacobian symmetric. Where it is
    not, which is the rule for networks, problems are the equation :math:`\nabla f(x) + \lambda (x - D(x)) = 0` still,
    which `solvers.red` solves, and a line search on the value may stall.

    Parameters
    ----------
    denoiser : torch.nn.Module
        D, called as ``D(x, sigma)`` with images ``(B, 1, n, m)``, ``(B, C, n, m)`` or, for genreg's own, ``(B, n, m)``,
        and σ of each, ``(B,)``; for example what `genreg.training.fit_denoiser` has trained. Of a complex image it is
        given both parts.
    space : ODL space
        The image space X.
    noise_std : float, optional
        σ > 0 in units of X; for a denoiser without σ, called as ``D(x)``, None.
    scale, offset : float
        s > 0 and a: the images of X are a + s times those that D was trained on.

    Raises
    ------
    TypeError, ValueError
        If an argument is of another kind or does not fit.

    References
    ----------
    Y. Romano, M. Elad, P. Milanfar (2017), The little engine that could: regularization by denoising (RED),
    arXiv:1611.02862; E. T. Reehorst, P. Schniter (2019), Regularization by denoising: clarifications and new
    interpretations, arXiv:1806.02296.
    """

    solver = staticmethod(red)
    _equation = True


class PlugAndPlay(_OfDenoiser):
    r"""Plug-and-play: a denoiser D in the place of the prox of a regulariser that is not known.

    Problems are the equation :math:`x = D(x - \nabla f(x) / \lambda)`, that of the minima of f + λ R where D is the
    prox of R in X. `solvers.plug_and_play` (ADMM) solves it for a Gaussian fidelity of a linear operator,
    `solvers.plug_and_play_gradient` (proximal gradient descent) for any differentiable one where λ is large. R has no
    value: as a functional it cannot be called, and the value of a reconstruction is that of its fidelity. With
    a network that is not nonexpansive iterations may not converge, which their status says;
    `RegularisationByDenoising` is less sensitive to that.

    Parameters
    ----------
    denoiser : torch.nn.Module
        D, as for `RegularisationByDenoising`.
    space : ODL space
        The image space X.
    noise_std : float, optional
        σ > 0 in units of X; None for a denoiser without σ.
    scale, offset : float
        s > 0 and a: the images of X are a + s times those that D was trained on.

    Raises
    ------
    TypeError, ValueError
        If an argument is of another kind or does not fit.

    References
    ----------
    S. V. Venkatakrishnan, C. A. Bouman, B. Wohlberg (2013), Plug-and-play priors for model based reconstruction,
    doi:10.1109/GlobalSIP.2013.6737048; E. K. Ryu, J. Liu, S. Wang, X. Chen, Z. Wang, W. Yin (2019), Plug-and-play
    methods provably converge with properly trained denoisers, arXiv:1905.05406.
    """

    solver = staticmethod(plug_and_play)
    _equation = False

    def value_of(self, blocks: Blocks, **parameters: float | Tensor) -> Tensor:
        """NaN for every sample: there is no value."""
        return torch.full_like(blocks["x"].real.flatten(1)[:, 0], torch.nan)

    def _call(self, v: Any) -> float:
        raise NotImplementedError(
            f"{self!r} has no value: the regulariser whose prox a denoiser is is not known"
        )

    @property
    def gradient(self) -> odl.Operator:
        """There is none.

        Raises
        ------
        NotImplementedError
            Always.
        """
        raise NotImplementedError(f"{self!r} has no gradient, but a denoiser: solve with plug_and_play")
