"""Regularisers of the image made of an encoder, a flow, or any network with a value or a gradient."""

from __future__ import annotations

import numpy as np
import odl
import torch
from torch import Tensor, nn

from genreg.generator import Generator
from genreg.operators import (
    NetworkFunctional,
    NetworkOperator,
)
from genreg.operators.bridge.arguments import described, flag
from genreg.operators.bridge.keywords import documented_like
from genreg.operators.bridge.protocols import FlowLike, StackedSpace
from genreg.operators.linear.conjugate_gradient import inner
from genreg.regularisers.image_networks import ImageNetwork
from genreg.regularisers.images import OnImages, check_space
from genreg.solvers import gradient_descent, lbfgs
from genreg.solvers.problem.objective import Blocks

_NODES = 8  # of the quadrature that finds values from gradients


class AutoencoderResidual(OnImages):
    r"""The distance from an image to its reconstruction, :math:`\|x - G(E(x))\|_X^2`.

    Parameters
    ----------
    G : Generator
        A generator with an encoder E.

    References
    ----------
    D. Obmann, J. Schwab, M. Haltmeier (2020), Deep synthesis network for regularizing inverse problems,
    doi:10.1088/1361-6420/abc7cd; H. Li, J. Schwab, S. Antholzer, M. Haltmeier (2020), NETT: solving inverse
    problems with deep neural networks, doi:10.1088/1361-6420/ab6d57.
    """

    solver = staticmethod(gradient_descent)
    _first = "rough"

    def __init__(self, G: Generator) -> None:
        E, X = _encoder(G), G.range
        self.generator = G
        super().__init__(X, odl.functionals.L2NormSquared(X) * (odl.IdentityOperator(X) - G * E))

    def __repr__(self) -> str:
        return f"AutoencoderResidual({self.generator!r})"


@documented_like(AutoencoderResidual)
class EncoderNorm(OnImages):
    r"""The size of the latent vector of an image, :math:`\|E(x)\|_2^2`."""

    solver = staticmethod(gradient_descent)
    _first = "rough"

    def __init__(self, G: Generator) -> None:
        E = _encoder(G)
        self.generator = G
        super().__init__(G.range, odl.functionals.L2NormSquared(E.range) * E)

    def __repr__(self) -> str:
        return f"EncoderNorm({self.generator!r})"


class _FlowValue(nn.Module):
    """The value of `FlowPrior` for images ``(B, *shape)``, ``(B,)``."""

    flow: FlowLike

    def __init__(self, flow: FlowLike, determinant: bool) -> None:
        super().__init__()
        self.flow = flow
        self.determinant = determinant

    def forward(self, x: Tensor) -> Tensor:
        z, log_det = self.flow.to_latent(x)
        size = z.flatten(1).square().sum(1)
        return size - 2 * log_det if self.determinant else size


class FlowPrior(OnImages):
    r"""The size of the latent vector of an image in a normalising flow, :math:`\|G^{-1}(x)\|_2^2`.

    A flow is a bijective generator, so every image has a latent vector. With ``determinant=True`` the value is
    :math:`\|G^{-1}(x)\|_2^2 - 2 \log |\det \partial G^{-1}(x)|`: twice the negative log-density of the image,
    up to a constant.

    Parameters
    ----------
    flow : torch.nn.Module
        With ``to_latent(x) -> (z, log_abs_det)``, ``(B, *shape)`` to ``(B, dim)`` and ``(B,)``; for example one
        that `genreg.training.fit_flow` has trained.
    space : ODL space
        The image space X.
    determinant : bool
        Include the determinant.

    References
    ----------
    M. Asim, M. Daniels, O. Leong, A. Ahmed, P. Hand (2020), Invertible generative models for inverse problems:
    mitigating representation error and dataset bias, arXiv:1905.11672.
    """

    solver = staticmethod(gradient_descent)
    _first = "rough"

    def __init__(self, flow: FlowLike, space: StackedSpace, *, determinant: bool = False) -> None:
        check_space(space)
        if not isinstance(flow, nn.Module) or not hasattr(flow, "to_latent"):
            raise TypeError(
                f"flow must be a torch.nn.Module with a method to_latent, got {type(flow).__name__}"
            )
        self.flow, determinant = flow, flag(determinant, "determinant")
        super().__init__(space, NetworkFunctional(_FlowValue(flow, determinant), space))
        if determinant:
            self.offset = self._log_determinant

    def _log_determinant(self, blocks: Blocks) -> Tensor:
        """The part of R that the unit of the images adds to."""
        return -2 * self.flow.to_latent(blocks["x"])[1]

    def __repr__(self) -> str:
        return f"FlowPrior({type(self.flow).__name__}, {self.domain!r})"


class _NetworkValue(nn.Module):
    """R of images ``(B, *shape)``, ``(B,)``, with the gradient that the network offers where it offers one."""

    def __init__(self, network: ImageNetwork, value: str | None, gradient: str | None) -> None:
        super().__init__()
        self.network, self.value, self.gradient = network, value, gradient

    def forward(self, x: Tensor) -> Tensor:
        network, t = self.network, self.network.to_network(x)
        if self.gradient is None:
            total = _summed(network.called(str(self.value), t))
        else:
            with torch.no_grad():
                g = network.called(self.gradient, t)
                total = self._integral(t) if self.value is None else _summed(network.called(self.value, t))
            slope = inner(t, g)
            total = total + (slope - slope.detach())
        return total.view(2, len(x)).sum(0) if x.is_complex() else total

    def _integral(self, t: Tensor) -> Tensor:
        """The integral of <g(s t), t> over s in [0, 1], ``(B,)``."""
        nodes, weights = np.polynomial.legendre.leggauss(_NODES)
        parts = [
            0.5 * w * inner(self.network.called(str(self.gradient), (0.5 + 0.5 * s) * t), t)
            for s, w in zip(nodes.tolist(), weights.tolist(), strict=True)
        ]
        return torch.stack(parts).sum(0)


def _summed(found: Tensor) -> Tensor:
    """The sum of what a network says of every image, ``(B,)``."""
    return found.flatten(1).sum(1) if found.ndim > 1 else found


class LearnedRegulariser(OnImages):
    r"""A network R with a number for every image, such as an energy, a field of experts, or a critic.

    Parameters
    ----------
    module : torch.nn.Module
        R, called with images ``(B, 1, n, m)``, ``(B, C, n, m)`` or, where it has an ``image_shape``, of that shape. It
        is given both parts of a complex image, whose values are added.
    space : ODL space
        The image space X.
    value : str, optional
        Name of the method with the values, by default the call of the module: ``(B,)``, or more numbers for each image,
        such as an energy of every pixel, which are added. With None they are found from the gradient, see Notes.
    gradient : str, optional
        Name of a method with the gradients, images as it is given them; by default they are found by differentiation.
    scale, offset : float
        s > 0 and a: the images of X are a + s times those that R was trained on.

    Raises
    ------
    TypeError, ValueError
        If an argument is of another kind or does not fit.

    Notes
    -----
    A network that is a gradient g has, up to a constant, the values :math:`\int_0^1 \langle g(t x), x \rangle\,dt`,
    computed by Gauss-Legendre quadrature with 8 nodes, so with 8 more calls. Where g is no gradient, as for most
    denoisers, no functional has it, and `RegularisationByDenoising` takes D = I - g.

    References
    ----------
    E. Kobler, A. Effland, K. Kunisch, T. Pock (2020), Total deep variation for linear inverse problems,
    arXiv:2001.05005; A. Goujon, S. Neumayer, P. Bohra, S. Ducotterd, M. Unser (2023), A neural-network-based convex
    regularizer for inverse problems, arXiv:2211.12461.
    """

    solver = staticmethod(lbfgs)
    _first = "rough"

    def __init__(
        self,
        module: nn.Module,
        space: StackedSpace,
        *,
        value: str | None = "forward",
        gradient: str | None = None,
        scale: float = 1.0,
        offset: float = 0.0,
    ) -> None:
        network = ImageNetwork(module, space, scale, offset)
        if value is None and gradient is None:
            raise ValueError("value or gradient must name a method of the module, got None for both")
        for argument, name in (("value", value), ("gradient", gradient)):
            if not (name is None or isinstance(name, str)):
                raise TypeError(f"{argument} must be the name of a method, got {described(name)}")
        if value is not None and (found := network.tried(value, wanted="one number for each")).shape[:1] != (
            2,
        ):
            raise ValueError(
                f"module must return one number for each image, got {tuple(found.shape)} for two"
            )
        if gradient is not None:
            found = network.tried(gradient, wanted="as many images")
            shape = (2, *((1,) if network.one_channel else ()), *space.shape)
            if tuple(found.shape) != shape:
                raise ValueError(
                    f"module must return gradients of the shape {shape}, got {tuple(found.shape)}"
                )
        self.scale, self.offset_of_images = network.scale, network.offset
        super().__init__(space, NetworkFunctional(_NetworkValue(network, value, gradient), space))

    def __repr__(self) -> str:
        return f"LearnedRegulariser({type(self.functional.module.network.module).__name__}, {self.domain!r})"


def _encoder(G: Generator) -> NetworkOperator:
    if not isinstance(G, Generator):
        raise TypeError(f"G must be a genreg.Generator, got {type(G).__name__}")
    return G.encoder
