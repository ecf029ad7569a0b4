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

from genreg.operators import TorchFunctional, lower, to_tensor, to_torch, torch_dtype
from genreg.operators.bridge.arguments import integer, number, seed_number
from genreg.operators.bridge.modes import normal, undisturbed
from genreg.operators.fidelity import GaussianFidelity
from genreg.regularisers.base import Regulariser
from genreg.regularisers.differentiable import Gradient
from genreg.solvers import Objective, palm, quasi_newton
from genreg.solvers.problem.objective import Blocks


class Marginal(Functional):
    r"""The functional :math:`R_G(x) = \min_z R(x, z)` on the image space, with its envelope gradient.

    The inner problem is solved for every evaluation, as one batch: from the encoding of x where the generator
    has an encoder, else from zero, and from `restarts` - 1 draws of N(0, I), the same for every image; the smallest
    value wins. So the value is a function of x alone, whatever was evaluated before. It is that of a local minimum,
    and differentiable where the best of them is unique.

    Parameters
    ----------
    regulariser : RelaxedConstraint or SparseDeviation
        R. For `SparseDeviation` u = x - G(z).
    restarts : int
        Starting points of the inner problem.
    max_iter, tol : int, float, optional
        Those of the inner solver. By default tol is 1e-6, and 1e-4 in single precision, whose gradients are not
        exact enough for less.
    smoothing : float, optional
        ε > 0 that replaces every :math:`|t|` by :math:`\sqrt{t^2 + \epsilon^2} - \epsilon`, in the units of
        the image (of its gradient, for total variation): for z is a minimum of a sum of absolute values, which
        has no gradient in x otherwise. By default 0.01, for total variation in an image from one pixel to the next.
    seed : int
        Seed of the drawn starting points.

    Raises
    ------
    ValueError
        If `restarts` or `smoothing` is not positive.
    """

    def __init__(
        self,
        regulariser: Regulariser,
        *,
        restarts: int = 1,
        max_iter: int = 200,
        tol: float | None = None,
        smoothing: float | None = None,
        seed: int = 0,
    ) -> None:
        restarts, seed = integer(restarts, "restarts", minimum=1), seed_number(seed)
        X = regulariser.generator.range
        if smoothing is None:
            of_gradient = getattr(regulariser, "sparsity", None) == "tv"
            smoothing = 1e-2 / float(min(X.cell_sides)) if of_gradient else 1e-2
        if tol is None:
            tol = 1e-4 if torch_dtype(X).to_real() == torch.float32 else 1e-6
        smoothing = number(smoothing, "smoothing", above=0)
        max_iter, tol = integer(max_iter, "max_iter", minimum=0), number(tol, "tol", minimum=0)
        super().__init__(space=X, linear=False)
        self.regulariser = regulariser
        self.restarts, self.max_iter, self.tol = restarts, max_iter, tol
        self.smoothing, self.seed = smoothing, seed

    @undisturbed
    def minimiser(self, x: Tensor) -> Tensor:
        """z* for images ``(B, *X.shape)``, ``(B, dim Z)``."""
        R, count = self.regulariser, len(x)
        x = normal(x.detach())
        starts, runs = self._starts(x), self.restarts
        parameters = R.parameters_of(x.new_zeros(count))
        rows = torch.arange(count, device=x.device).repeat_interleave(runs)

        def smooth(blocks: Blocks, x: Tensor, **parameters: Tensor) -> Tensor:
            return R.at_image(x, blocks["z"], smoothing=self.smoothing, **parameters)

        per_sample = {name: p[rows] for name, p in {"x": x, **parameters}.items()}
        of_runs = {name: p[rows] for name, p in parameters.items()}
        proximable = {"z": R.latent_prox.scaled(of_runs["mu"])} if R.latent_prox is not None else {}
        problem = Objective(smooth, {"z": R.generator.domain}, proximable, per_sample, lengths=R.lengths)
        solve = palm if proximable else quasi_newton
        found = solve(
            problem, {"z": starts.flatten(0, 1)}, max_iter=self.max_iter, tol=self.tol, progress=False
        )
        return found.best(runs).blocks["z"]

    def _starts(self, x: Tensor) -> Tensor:
        G = self.regulariser.generator
        generator = torch.Generator(x.device).manual_seed(self.seed)
        shape = (self.restarts, *G.domain.shape)
        drawn = torch.randn(shape, generator=generator, dtype=torch_dtype(G.domain), device=x.device)
        z = drawn.expand(len(x), *shape).clone()
        z[:, 0] = G.encode(x) if G.has_encoder else 0.0
        return z

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

    def __init__(self, hard: Regulariser, *, rtol: float = 1e-3) -> None:
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

    @undisturbed
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
