"""Regularisers of the image made of an encoder or a flow."""

from __future__ import annotations

import odl
from torch import Tensor, nn

from genreg.generator import Generator
from genreg.operators import (
    NetworkFunctional,
    NetworkOperator,
)
from genreg.operators.bridge.arguments import flag
from genreg.operators.bridge.keywords import documented_like
from genreg.operators.bridge.protocols import FlowLike, StackedSpace
from genreg.regularisers.images import OnImages, check_space
from genreg.solvers import gradient_descent
from genreg.solvers.problem.objective import Blocks


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


def _encoder(G: Generator) -> NetworkOperator:
    if not isinstance(G, Generator):
        raise TypeError(f"G must be a genreg.Generator, got {type(G).__name__}")
    return G.encoder
