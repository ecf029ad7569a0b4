r"""Projected gradient descent onto the range of a generator.

.. math:: x \leftarrow P_G(x - \tau \nabla f(x)), \qquad f(x) = \mathcal{D}(A(x); y)
          = \tfrac{1}{2 \sigma^2} \|A(x) - y\|_2^2 \text{ by default,}

where :math:`P_G(w) = G(\arg\min_z \|G(z) - w\|^2)` is found by an inner solve, or replaced by G(E(w)) with a
learned encoder E. Every sample has its own step, and moves only if f falls.

References
----------
V. Shah, C. Hegde (2018), Solving linear inverse problems using GAN priors: an algorithm with provable
guarantees, arXiv:1802.08406.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Unpack

import odl
import torch
from torch import Tensor

from genreg.operators import TorchOperator, to_torch, weight
from genreg.operators.bridge.arguments import choice, integer, number, seeded_generator
from genreg.operators.bridge.arrays import check_memory
from genreg.operators.bridge.caller_data import Batch
from genreg.operators.bridge.keywords import takes
from genreg.operators.bridge.modes import undisturbed
from genreg.operators.bridge.protocols import GeneratorLike
from genreg.operators.linear.conjugate_gradient import inner
from genreg.operators.linear.norm import operator_norm
from genreg.solvers.algorithms.descent import gauss_newton
from genreg.solvers.driver.loop import run
from genreg.solvers.driver.monitor import Stopping, stopping
from genreg.solvers.driver.solution import Solution
from genreg.solvers.generative.isotropic import projection
from genreg.solvers.generative.latent import OfGenerator, entered, first_latents, has_encoder, leave
from genreg.solvers.problem.objective import Objective
from genreg.solvers.problem.state import State, where
from genreg.solvers.updates.base import TrialStep, Update
from genreg.solvers.updates.line_search import Backtracking

Projection = Callable[[Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]
"""Maps w and the last z to z⁺, G(z⁺), and the evaluations it took."""


@undisturbed
@takes(OfGenerator, Stopping, max_iter=200, tol=1e-4, progress=True)
def projected_gradient(
    A: odl.Operator,
    y: Any,
    G: GeneratorLike,
    *,
    projection: Literal["solve", "encoder"] = "solve",
    step: float | None = None,
    inner_iterations: int = 20,
    restarts: int = 1,
    seed: int = 0,
    **keywords: Unpack[OfGenerator],
) -> Solution:
    r"""Minimise :math:`\|A(x) - y\|^2 / (2 \sigma^2)`, or another fidelity, over the range of G.

    By projected gradient descent, see the module.

    Parameters
    ----------
    G : odl.Operator
        Generator Z -> X; for the encoder with an attribute ``has_encoder`` and a method ``encode(x)`` that maps
        tensors ``(B, *X.shape)`` to ``(B, *Z.shape)``.
    noise_std : float, Tensor, array or ODL element of Y, optional
        σ > 0, one for every sample, ``(B,)``, or for every datum, see `GaussianFidelity`; by default 1.
    projection : {"solve", "encoder"}
        How to project: by an inner latent solve, started from the last z, or by the encoder.
    step : float, optional
        First τ. By default :math:`\sigma^2 / \|A\|^2` in the Euclidean norms, with the smallest σ of a sample, where A
        is linear and the noise Gaussian, else such that the first step minimises f along its gradient, to second order.
        τ doubles after a success and halves after a failure.
    tol : float
        A sample has converged when :math:`\tfrac{\tau_0}{\tau} \|x^+ - x\| \le tol \|x\|`, with τ₀ the first step.
    inner_iterations : int
        Largest number of Levenberg-Marquardt steps of an inner solve.
    restarts : int
        Starts of every inner solve: the last z, and draws from N(0, I).
    seed : int
        Seed of these draws.

    Returns
    -------
    Solution
        Blocks ``"x"`` and ``"z"``, and ``image``, which is x = G(z). ``operator_calls`` counts the evaluations of f
        and those of G in the inner solves together. A sample whose projection is too inexact to lower f
        further ends as stalled.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type, shape, dtype, device or sign, or is not finite; if the encoder is
        asked for and there is none.
    NotImplementedError
        If the fidelity has no gradient.
    """
    if keywords["noise_std"] is None and keywords["fidelity"] is None:
        keywords["noise_std"] = 1.0
    fidelity = entered(A, y, G, keywords, need="gradient", by="projected_gradient")
    choice(projection, "projection", ("solve", "encoder"))
    if projection == "encoder" and not has_encoder(G):
        raise ValueError(f"projection='encoder' needs a generator with an encoder, got {G!r}")
    inner_iterations = integer(inner_iterations, "inner_iterations", minimum=1)
    restarts, generator = integer(restarts, "restarts", minimum=1), seeded_generator(seed)
    check_memory((restarts, len(fidelity.data), A.domain.size), fidelity.data.dtype, "restarts", restarts)
    if step is not None:
        step = number(step, "step", above=0)

    z = first_latents(G, fidelity, keywords["init"])
    forward, generate = to_torch(A), to_torch(G)
    with torch.no_grad():
        batch = Batch({"x": generate(z), "z": z}, dict, True)

    def misfit(blocks: Mapping[str, Tensor], **data: Tensor) -> Tensor:
        return fidelity.misfit(forward(blocks["x"]), **data)

    objective = Objective(misfit, {"x": A.domain, "z": G.domain}, per_sample=fidelity.per_sample)
    bound = fidelity.curvature_bound
    if step is not None:
        first = torch.full_like(fidelity.level, step)
    elif A.is_linear and bound is not None:
        norm_sq = operator_norm(A) ** 2 * float(weight(A.domain)) / float(weight(A.range))
        first = 1 / (torch.where(bound > 0, bound, 1.0) * norm_sq)
    else:
        first = None
    if projection == "encoder":
        project = _by_encoder(G, generate)
    else:
        project = _by_solve(generate, inner_iterations, restarts, generator)
    solution = run(
        objective,
        batch,
        {"x": _Projected(project, first)},
        description="projected gradient",
        **stopping(keywords),
    )
    return leave(fidelity, G, solution, solution.blocks["x"], **solution.blocks)


def _by_encoder(G: GeneratorLike, generate: TorchOperator) -> Projection:
    def project(w: Tensor, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        code = G.encode(w)
        return code, generate(code), torch.zeros(len(w), dtype=torch.int64, device=w.device)

    return project


def _by_solve(
    generate: TorchOperator, max_iter: int, restarts: int, generator: torch.Generator
) -> Projection:
    def project(w: Tensor, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        drawn = torch.randn((restarts - 1, *z.shape), generator=generator, dtype=z.dtype).to(z.device)
        starts = torch.cat((z[None], drawn)).transpose(0, 1).flatten(0, 1)  # (B * restarts, *Z.shape)
        several = w.repeat_interleave(restarts, 0)
        ones = w.new_ones(len(several))
        problem = projection(generate, several, 2 * ones, 0 * ones)
        found = gauss_newton(problem, {"z": starts}, max_iter=max_iter, tol=1e-6, progress=False)
        best = found.best(restarts)
        return best.blocks["z"], generate(best.blocks["z"]), best.operator_calls

    return project


@dataclass(frozen=True)
class _Projected(Update):
    """A gradient step in x, projected; z follows."""

    project: Projection
    first: Tensor | None
    line_search: Backtracking = field(default_factory=lambda: Backtracking(max_trials=20))

    def first_step(self, gradient: Tensor, reach: Tensor) -> Tensor:
        """First step sizes, ``(B,)``."""
        return self.line_search.first_step(gradient, reach) if self.first is None else self.first

    def first_memory(self, gradient: Tensor, reach: Tensor) -> Tensor:
        """The first step size, as a unit of the later ones, ``(B, 1)``."""
        return self.first_step(gradient, reach)[:, None]

    def __call__(self, objective: Objective, state: State, block: str) -> State:
        """One trial for every sample."""
        search, tau, unit = self.line_search, state.steps[block], state.memory[block]
        x, gradient = state.blocks[block], state.gradients[block]
        with torch.no_grad():
            z, point, calls = self.project(
                x - tau.view(-1, *(1,) * (x.ndim - 1)) * gradient, state.blocks["z"]
            )
        trial = TrialStep.of(objective, state, block, point)
        d = trial.step
        slope, change, step_sq = inner(gradient, d), inner(trial.gradient_change, d), inner(d, d)
        lowered = state.smooth - 1e-4 * step_sq / tau
        accepted = search.accept(state.smooth, trial.smooth, lowered, slope, change, -2 * slope)
        steps = torch.where(accepted, tau * search.grow, tau * search.shrink)
        moved = trial.result(accepted, steps, unit, step_sq)
        tiny = torch.finfo(step_sq.dtype).tiny
        size = inner(x, x).sqrt().clamp_min(tiny)
        residual = unit[:, 0] / tau * step_sq.sqrt() / size
        return replace(
            moved,
            blocks={**moved.blocks, "z": where(accepted, z, state.blocks["z"])},
            residuals={block: torch.where(accepted, residual, state.residuals[block])},
            calls=moved.calls + calls,
        )
