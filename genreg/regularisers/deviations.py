"""Solutions near the range of a generator, or sparsely off it: eq. (19) and (20) of `generative`."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import odl
import torch
from odl.functionals import Functional
from torch import Tensor

from genreg.generator import Generator
from genreg.operators import TorchFunctional, to_torch, weight
from genreg.operators.bridge import spaces
from genreg.operators.bridge.arguments import choice
from genreg.operators.bridge.complex_parts import squared_modulus
from genreg.operators.bridge.keywords import documented_like
from genreg.operators.bridge.product import product_space
from genreg.operators.fidelity import Fidelity
from genreg.operators.lowering.total_variation import total_variation
from genreg.regularisers.base import checked_parameter
from genreg.regularisers.generative import Generative, HardConstraint, check_generator
from genreg.regularisers.marginal import Marginal
from genreg.solvers import QuasiNewton, ipalm, lbfgs
from genreg.solvers.algorithms.limited_memory import Substitution
from genreg.solvers.problem.objective import Blocks


class _Deviating(Generative):
    """Image and latent vector as two blocks, the first a deviation from G(z)."""

    def __init__(self, G: Generator, mu: float | Tensor, latent: Functional | None, name: str) -> None:
        check_generator(G)
        self.parameters = {"mu": checked_parameter(mu, "mu")}
        self.blocks = (name, "z")
        domain = product_space(G.range, G.domain)
        image = odl.ComponentProjection(domain, 0)
        if name == "u":
            image = image + G * odl.ComponentProjection(domain, 1)
        super().__init__(G, domain, image, latent)

    @property
    def mu(self) -> float | Tensor:
        """μ, the weight of the latent term."""
        return self.parameters["mu"]

    def start(
        self, fidelity: Fidelity, init: str | None, restarts: int, generator: torch.Generator
    ) -> Blocks:
        """See the class."""
        init = init or "hard"
        kind = self.default_start if init == "hard" else init
        z = self.latent_starts(fidelity, kind, restarts, generator).flatten(0, 1)
        if init == "hard":
            rows = torch.arange(len(fidelity.data), device=z.device).repeat_interleave(restarts)
            hard = HardConstraint(self.generator, self.latent)
            problem = hard.problem(fidelity.take(rows), z.new_full((len(z),), 0.5))
            z = hard.solver(problem, {"z": z}, max_iter=50, tol=1e-3, progress=False).blocks["z"]
        first = self.blocks[0]
        with torch.no_grad():
            x = self.generate(z)
        return {first: x if first == "x" else torch.zeros_like(x), "z": z}

    def lam_scale(self, fidelity: Fidelity, blocks: Blocks, **parameters: Tensor) -> Tensor:
        """Make both terms equal at a rough reconstruction and the z of the start, see `Regulariser.balanced`."""
        x, z = fidelity.rough(), blocks["z"]
        with torch.no_grad():
            first = x if self.blocks[0] == "x" else x - self.generate(z)
        return self.balanced(fidelity, {self.blocks[0]: first, "z": z}, **parameters)

    def proximable(self, *, mu: float | Tensor, **parameters: float | Tensor) -> dict[str, TorchFunctional]:
        """The proximable part of μ s(z)."""
        return {} if self.latent_prox is None else {"z": self.latent_prox.scaled(mu)}

    @property
    def marginal(self) -> Functional:
        r""":math:`R_G(x) = \min_z R(x, z)`, with the envelope gradient; see `genreg.regularisers.marginal`."""
        return Marginal(self)


def deviation_for_image(generate: Callable[[Tensor], Tensor]) -> Substitution:
    """Map between x and the deviation x - G(z), the variable that solvers find easier, as `solvers.lbfgs` takes it."""
    return functools.partial(_shifted, generate, 1), functools.partial(_shifted, generate, -1)


def _shifted(generate: Callable[[Tensor], Tensor], sign: int, v: Blocks) -> Blocks:
    return {"x": v["x"] + sign * generate(v["z"]), "z": v["z"]}


class RelaxedConstraint(_Deviating):
    r"""Solutions near the range of a generator: image x, value :math:`\|G(z) - x\|_X^2 + \mu s(z)` (eq. 19).

    The norm is that of the space X, so on a `uniform_discr` the sum of squares carries the cell volume.

    Starting points: ``"hard"`` (the default) is the maximum a posteriori solution of `HardConstraint`, reached
    from each of its starting points; ``"encoder"``, ``"random"`` and ``"zero"`` are those of
    `HardConstraint` as they are. In all of them x = G(z).

    Problems are solved by `solvers.lbfgs` in the variables x - G(z) and z; by `solvers.ipalm` where the latent
    term has a part with a prox only.

    Parameters
    ----------
    G : Generator
        The generator Z -> X.
    mu : float or Tensor
        μ >= 0, or one for every sample, ``(B,)``.
    latent : Functional, optional
        s, any ODL functional on Z, see `genreg.latent`; by default :math:`\|z\|_2^2`.
    """

    def __init__(self, G: Generator, mu: float | Tensor, *, latent: Functional | None = None) -> None:
        super().__init__(G, mu, latent, "x")
        self.norm = to_torch(odl.functionals.L2NormSquared(G.range))
        self.solver = ipalm
        if self.latent_prox is None:
            self.solver = functools.partial(lbfgs, substitution=deviation_for_image(self.generate))

    def smooth(self, blocks: Blocks, *, mu: float | Tensor, **parameters: float | Tensor) -> Tensor:
        r""":math:`\|G(z) - x\|^2 + \mu s(z)`, s its smooth part."""
        x, z = blocks["x"], blocks["z"]
        return self.norm(self.generate(z) - x) + mu * self.latent_value(z)

    def at_image(self, x: Tensor, z: Tensor, *, mu: float | Tensor, smoothing: float) -> Tensor:
        """Smooth part of R as a function of image and latent vector; nothing needs smoothing."""
        return self.smooth({"x": x, "z": z}, mu=mu)


@documented_like(RelaxedConstraint)
class SparseDeviation(_Deviating):
    r"""Solutions sparsely off the range: image G(z) + u, value :math:`\|u\|_1 + \mu s(z)` (eq. 20).

    With ``sparsity="tv"`` (section 5.3) the first term is the isotropic total variation of u,
    :math:`\| |\nabla u|_2 \|_1`. The norms are those of the space X. Problems are solved by `solvers.ipalm`: u moves
    by its prox (that of total variation is computed by some inner iterations), z by quasi-Newton steps where the
    latent term is smooth.

    Starting points are those of `RelaxedConstraint`, with u = 0.

    Parameters
    ----------
    sparsity : {"l1", "tv"}
        What is small: u itself or its gradient.

    References
    ----------
    M. Dhar, A. Grover, S. Ermon (2018), Modeling sparse deviations for compressed sensing using generative
    models, arXiv:1807.01442.
    """

    def __init__(
        self,
        G: Generator,
        mu: float | Tensor,
        *,
        sparsity: str = "l1",
        latent: Functional | None = None,
    ) -> None:
        choice(sparsity, "sparsity", ("l1", "tv"))
        super().__init__(G, mu, latent, "u")
        if sparsity == "tv" and not hasattr(G.range, "partition"):
            raise TypeError(f"the range of G must be a uniform_discr for sparsity='tv', got {G.range!r}")
        self.sparsity = sparsity
        self.solver = ipalm
        if self.latent_prox is None:
            self.solver = functools.partial(ipalm, updates={"z": QuasiNewton()})

    def norm(self) -> TorchFunctional:
        """The first term, a functional of u; that of total variation keeps its dual field between proxes."""
        X = self.generator.range
        return total_variation(X) if self.sparsity == "tv" else to_torch(odl.functionals.L1Norm(X))

    def smooth(self, blocks: Blocks, *, mu: float | Tensor, **parameters: float | Tensor) -> Tensor:
        """The smooth part of μ s(z)."""
        return mu * self.latent_value(blocks["z"])

    def proximable(self, *, mu: float | Tensor, **parameters: float | Tensor) -> dict[str, TorchFunctional]:
        """The norm of u, and the proximable part of μ s(z)."""
        return {"u": self.norm(), **super().proximable(mu=mu)}

    def at_image(self, x: Tensor, z: Tensor, *, mu: float | Tensor, smoothing: float) -> Tensor:
        r"""R with u = x - G(z), as a function of image and latent vector, smoothed.

        Every :math:`|t|` becomes :math:`\sqrt{t^2 + \epsilon^2} - \epsilon`.
        """
        X, u = self.generator.range, x - self.generate(z)
        square: Any = squared_modulus(u)
        if self.sparsity == "tv":
            derivative = to_torch(odl.Gradient(X, method="forward", pad_mode="symmetric"))
            square = sum(squared_modulus(part) for part in spaces.split(derivative.range, derivative(u)))
        size = (square + smoothing**2).sqrt() - smoothing
        return float(weight(X)) * size.flatten(1).sum(1) + mu * self.latent_value(z)
