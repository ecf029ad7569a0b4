r"""Marginals: regularisers of the image alone, the latent vector minimised out.

.. math:: R_G(x) = \min_z R(x, z), \qquad \nabla R_G(x) = \nabla_x R(x, z^*(x)),

where z* is the minimiser. The second formula (the envelope theorem) needs no derivative of z*.

References
----------
J. M. Danskin (1966), The theory of max-min, with applications, doi:10.1137/0114053.
"""

from __future__ import annotations

from typing import Any

import odl
import torch
from odl.functionals import Functional
from torch import Tensor

from genreg.fidelity import GaussianFidelity
from genreg.operators import TorchFunctional, lower, to_tensor, to_torch, torch_dtype
from genreg.operators.arguments import integer, number, seed_number
from genreg.regularisers.base import Gradient
from genreg.solvers import Objective, palm, quasi_newton
from genreg.solvers.objective import Blocks

__all__ = ["Marginal", "RangeMarginal"]


class Marginal(Functional):
    r"""The functional :math:`R_G(x) = \min_z R(x, z)` on the image space, with its envelope gradient.

    The inner problem is solved for every evaluation, as one batch: from the encoding of x where the generator
    has an encoder, else from zero, from `restarts` - 1 draws of N(0, I), and from the solution of the last
    evaluation with as many images; the smallest value wins. The value is that of a local minimum, and
    differentiable where the best of them is unique.

    Parameters
    ----------
    regulariser : RelaxedConstraint or SparseDeviation
        R. For `SparseDeviation` u = x - G(z).
    restarts : int
        Starting points of the inner problem.
    max_iter, tol : int, float
        Those of the inner solver.
    smoothing : float
        ε > 0 that replaces every :math:`|t|` by :math:`\sqrt{t^2 + \epsilon^2} - \epsilon`, in the units of
        the image (of its gradient, for total variation): for z is a minimum of a sum of absolute values, which
        has no gradient in x otherwise.
    seed : int
        Seed of the drawn starting points.

    Raises
    ------
    ValueError
        If `restarts` or `smoothing` is not positive.
    """

    def __init__(
        self,
        regulariser: Any,
        *,
        restarts: int = 1,
        max_iter: int = 500,
        tol: float = 1e-6,
        smoothing: float = 1e-2,
        seed: int = 0,
    ) -> None:
        restarts, smoothing = (
            integer(restarts, "restarts", minimum=1),
            number(smoothing, "smoothing", above=0),
        )
        max_iter, tol = integer(max_iter, "max_iter", minimum=0), number(tol, "tol", minimum=0)
        seed = seed_number(seed)
        super().__init__(space=regulariser.generator.range, linear=False)
        self.regulariser = regulariser
        self.restarts, self.max_iter, self.tol = restarts, max_iter, tol
        self.smoothing, self.seed = smoothing, seed
        self._last: Tensor | None = None

    def minimiser(self, x: Tensor) -> Tensor:
        """z* for images ``(B, *X.shape)``, ``(B, dim Z)``."""
        R, count = self.regulariser, len(x)
        x = x.detach()
        starts = self._starts(x)
        runs = starts.shape[1]
        parameters = R.parameters_of(x.new_zeros(count))
        rows = torch.arange(count, device=x.device).repeat_interleave(runs)

        def smooth(blocks: Blocks, x: Tensor, **parameters: Tensor) -> Tensor:
            return R.at_image(x, blocks["z"], smoothing=self.smoothing, **parameters)

        per_sample = {name: p[rows] for name, p in {"x": x, **parameters}.items()}
        of_runs = {name: p[rows] for name, p in parameters.items()}
        proximable = {"z": R.latent_prox.scaled(of_runs["mu"])} if R.latent_prox is not None else {}
        problem = Objective(smooth, {"z": R.generator.domain}, proximable, per_sample)
        solve = palm if proximable else quasi_newton
        options = {"max_iter": self.max_iter, "tol": self.tol, "progress": False}
        solution = solve(problem, {"z": starts.flatten(0, 1)}, **options)
        best = solution.value.nan_to_num(torch.inf).view(count, runs).argmin(1)
        z = solution.blocks["z"].unflatten(0, (count, runs))[torch.arange(count, device=x.device), best]
        self._last = z
        return z

    def _starts(self, x: Tensor) -> Tensor:
        G = self.regulariser.generator
        generator = torch.Generator(x.device).manual_seed(self.seed)
        shape = (len(x), self.restarts, *G.domain.shape)
        z = torch.randn(shape, generator=generator, dtype=torch_dtype(G.domain), device=x.device)
        z[:, 0] = G.encode(x) if G.has_encoder else 0.0
        warm = self._last is not None and len(self._last) == len(x)
        return torch.cat([z, self._last[:, None]], 1) if warm else z

    def _call(self, x: Any) -> float:
        return float(to_torch(self)(to_tensor(x)).detach())

    @property
    def gradient(self) -> Gradient:
        """Riesz gradient, by autograd at the minimiser."""
        return Gradient(self)

    def __repr__(self) -> str:
        return f"{self.regulariser!r}.marginal"


@lower.register(Marginal)
def _(op: Marginal) -> TorchFunctional:
    R, shape = op.regulariser, op.domain.shape

    def value(x: Tensor) -> Tensor:
        batch = x.shape[: x.ndim - len(shape)]
        x = x.reshape(-1, *shape)
        z = op.minimiser(x)
        parameters = R.parameters_of(x.new_zeros(len(x)))
        total = R.at_image(x, z, smoothing=op.smoothing, **parameters)
        if R.latent_prox is not None:
            total = total + parameters["mu"] * R.latent_prox(z)
        return total.reshape(batch)

    return TorchFunctional(value, op.domain, name="Marginal")


class RangeMarginal(Functional):
    r"""The marginal of a hard constraint: s(z) where G(z) = x, infinite where no z gives x.

    z is sought by least squares, :math:`\min_z \|G(z) - x\|`, from one starting point of the hard constraint. The
    functional is infinite next to every point of the range, so it has no gradient: the marginal of
    `RelaxedConstraint` is its differentiable relative.

    Parameters
    ----------
    hard : HardConstraint
        The hard constraint.
    rtol : float
        Relative distance :math:`\|G(z) - x\| / \|x\|` within which x counts as in the range.
    """

    def __init__(self, hard: Any, *, rtol: float = 1e-3) -> None:
        super().__init__(space=hard.generator.range, linear=False)
        self.hard, self.rtol = hard, rtol

    def _call(self, x: Any) -> float:
        return float(to_torch(self)(to_tensor(x)))

    def __repr__(self) -> str:
        return f"{self.hard!r}.marginal"


@lower.register(RangeMarginal)
def _(op: RangeMarginal) -> TorchFunctional:
    hard, shape, identity = op.hard, op.domain.shape, odl.IdentityOperator(op.domain)
    latent = to_torch(hard)

    def value(x: Tensor) -> Tensor:
        batch = x.shape[: x.ndim - len(shape)]
        fidelity = GaussianFidelity(identity, x.detach().reshape(-1, *shape), 1.0)
        start = hard.start(fidelity, None, 1, torch.Generator(x.device))
        problem = hard.problem(fidelity, x.new_zeros(len(fidelity.data)))
        z = hard.solver(problem, start, tol=1e-6, progress=False).blocks["z"]
        with torch.no_grad():
            distance = fidelity.residual(hard.generate(z))
            inside = distance <= op.rtol**2 * fidelity.data.flatten(1).square().sum(1)
            return torch.where(inside, latent(z), torch.inf).reshape(batch)

    return TorchFunctional(value, op.domain, name="RangeMarginal")
