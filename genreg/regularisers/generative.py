r"""Regularisers made of a generator G: solutions in, near, or sparsely off its range.

With a latent term s, by default :math:`\|z\|_2^2`, and the norms of the image space X,

==================  ========  ================  ========================================================
class               blocks    image             value
==================  ========  ================  ========================================================
HardConstraint      z         G(z)              s(z)                                  (eq. 18)
RelaxedConstraint   x, z      x                 :math:`\|G(z) - x\|^2 + \mu s(z)`     (eq. 19)
SparseDeviation     u, z      G(z) + u          :math:`\|u\|_1 + \mu s(z)`            (eq. 20), or TV(u)
==================  ========  ================  ========================================================

References
----------
M. Duff, N. D. F. Campbell, M. J. Ehrhardt (2021), Regularising inverse problems with generative machine
learning models, arXiv:2107.11191.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import odl
import torch
from odl.functionals import Functional
from torch import Tensor

from genreg.generator import Generator
from genreg.latent.generated import take_apart
from genreg.operators import TorchFunctional, to_torch, torch_dtype, weight
from genreg.operators.bridge.protocols import OdlOperator, Space
from genreg.operators.fidelity import Fidelity
from genreg.operators.lowering.splitting import split
from genreg.regularisers.base import Regulariser, posed
from genreg.regularisers.marginal import RangeMarginal
from genreg.solvers import Objective, SaddlePoint, palm, quasi_newton
from genreg.solvers.generative.latent import first_codes, latent_curvature
from genreg.solvers.problem.objective import Blocks, Curvature

_STARTS = ("encoder", "random", "zero")


class Generative(Regulariser):
    """A generator with a latent term, split into its smooth and its proximable part."""

    lengths: Mapping[str, float] = {"z": 1.0}  # of the prior N(0, I)

    def __init__(self, G: Generator, domain: Space, image: odl.Operator, latent: Functional | None) -> None:
        super().__init__(space=domain, linear=False)
        self.generator = G
        operator: OdlOperator = G
        self.generate = to_torch(operator)
        self.image = image
        self.latent = odl.functionals.L2NormSquared(G.domain) if latent is None else latent
        if not isinstance(self.latent, Functional) or self.latent.domain != G.domain:
            raise ValueError(
                f"latent must be an ODL functional on the latent space {G.domain!r}, got {latent!r}"
            )
        self.latent_smooth, self.latent_prox = split(self.latent)

    def latent_value(self, z: Tensor) -> Tensor:
        """The smooth part of the latent term, ``(B,)``."""
        return 0.0 * z.sum(-1) if self.latent_smooth is None else self.latent_smooth(z)

    def latent_starts(
        self, fidelity: Fidelity, init: str, restarts: int, generator: torch.Generator
    ) -> Tensor:
        """Latent vectors to start from, ``(B, restarts, dim Z)``, see the classes."""
        G = self.generator
        if init not in _STARTS:
            raise ValueError(f"init must be 'encoder', 'random', 'zero' or blocks, got {init!r}")
        z = torch.randn(
            (len(fidelity.data), restarts, *G.domain.shape),
            generator=generator,
            dtype=torch_dtype(G.domain),
            device=fidelity.data.device,
        )
        if init == "zero":
            z[:, 0] = 0
        elif init == "encoder":
            if not G.has_encoder:
                raise ValueError(f"init must be 'random', 'zero' or blocks: {G!r} has no encoder")
            z[:, 0] = first_codes(G, fidelity)
        return z

    @property
    def default_start(self) -> str:
        """The encoder where there is one, otherwise zero."""
        return "encoder" if self.generator.has_encoder else "zero"

    def __repr__(self) -> str:
        mu = "".join(f", {name}={value}" for name, value in self.parameters.items())
        return f"{type(self).__name__}({self.generator!r}{mu})"


class HardConstraint(Generative):
    r"""Solutions in the range of a generator: image G(z), value s(z), by default :math:`\|z\|_2^2` (eq. 18).

    The reconstruction is :math:`G(\hat z)` with :math:`\hat z \in \arg\min_z \mathcal{D}(A(G(z))) + \lambda
    s(z)`. For the Gaussian fidelity, λ = ½ and z ~ N(0, I) that is the maximum a posteriori estimate of z.

    Starting points: ``"encoder"`` encodes a rough reconstruction, further restarts are drawn from N(0, I);
    ``"random"`` draws all of them; ``"zero"`` starts at z = 0, the mode of the prior, with restarts drawn. The
    default is the encoder where the model has one, otherwise zero.

    Problems are solved by `solvers.quasi_newton` (with ‖z‖² and a fidelity that has a curvature, Gaussian or of
    counts, `solvers.gauss_newton` takes them too, and needs fewer steps), neither of which makes a matrix where the
    latent space has more than 256 dimensions; by `solvers.palm` where the latent term has a part with a prox only.

    Parameters
    ----------
    G : Generator
        The generator Z -> X.
    latent : Functional, optional
        s, any ODL functional on Z, see `genreg.latent`.

    References
    ----------
    A. Bora, A. Jalal, E. Price, A. G. Dimakis (2017), Compressed sensing using generative models,
    arXiv:1703.03208.
    """

    blocks = ("z",)

    def __init__(self, G: Generator, latent: Functional | None = None) -> None:
        check_generator(G)
        super().__init__(G, G.domain, G, latent)
        self._squared = isinstance(self.latent, odl.functionals.L2NormSquared)
        self.solver = quasi_newton if self.latent_prox is None else palm

    def smooth(self, blocks: Blocks, **parameters: float | Tensor) -> Tensor:
        """The smooth part of s(z)."""
        return self.latent_value(blocks["z"])

    def proximable(self, **parameters: float | Tensor) -> dict[str, TorchFunctional]:
        """The proximable part of s(z)."""
        return {} if self.latent_prox is None else {"z": self.latent_prox}

    def start(
        self, fidelity: Fidelity, init: str | None, restarts: int, generator: torch.Generator
    ) -> Blocks:
        """See the class."""
        z = self.latent_starts(fidelity, init or self.default_start, restarts, generator)
        return {"z": z.flatten(0, 1)}

    def problem(self, fidelity: Fidelity, lam: Tensor, **parameters: Tensor) -> Objective | SaddlePoint:
        """The problem, see `Regulariser.problem`; for ‖z‖² and a fidelity with a curvature with its own.

        `solvers.gauss_newton` solves it then. Latent terms of G(z) take it from the fidelity.
        """
        objective = super().problem(fidelity, lam, **parameters)
        if not isinstance(objective, Objective):
            return objective
        of_z, of_x = take_apart(self.latent, self.generator)
        if of_x is not None:
            forward, of_image = to_torch(fidelity.operator), of_x

            def smooth(blocks: Blocks, lam: Tensor, **given: Tensor) -> Tensor:
                z = blocks["z"]
                x = self.generate(z)
                s = of_image(x) if of_z is None else of_z(z) + of_image(x)
                return fidelity.misfit(forward(x), **given) + lam * s

            objective = replace(objective, smooth=smooth)
        if "curvature" in fidelity.offers and self._squared:
            curvature = latent_curvature(to_torch(fidelity.operator), self.generate, fidelity)
            scale = 2 * float(weight(self.generator.domain))

            def of_block(blocks: Blocks, *, lam: Tensor, **given: Tensor) -> Curvature:
                return curvature(blocks, weight=scale * lam, **given)

            objective = replace(objective, curvature={"z": of_block})
        return objective.pickled_as(posed, self, fidelity, lam, parameters)

    @property
    def marginal(self) -> Functional:
        """s(z) with G(z) = x, and infinite off the range of G."""
        return RangeMarginal(self)


def check_generator(G: Generator) -> None:
    """Raise TypeError unless `G` is a generator."""
    if not isinstance(G, Generator):
        raise TypeError(f"G must be a genreg.Generator, got {type(G).__name__}")
