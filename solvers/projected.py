r"""Projected gradient descent onto the range of a generator.

.. math:: x \leftarrow P_G(x - \tau \nabla f(x)), \qquad f(x) = \tfrac{1}{2 \sigma^2} \|A(x) - y\|_2^2,

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
from typing import Any, Literal

import odl
import torch
from torch import Tensor

from genreg.operators import to_element, to_torch, torch_dtype, weight
from genreg.operators.norm import operator_norm
from genreg.solvers.descent import gradient_descent, quasi_newton
from genreg.solvers.door import Door, enter, is_element
from genreg.solvers.driver import Callback, run
from genreg.solvers.krylov import rough_reconstruction
from genreg.solvers.line_search import Backtracking, inner
from genreg.solvers.objective import Objective
from genreg.solvers.solution import Solution
from genreg.solvers.state import State, where
from genreg.solvers.updates import TrialStep

__all__ = ["projected_gradient"]

_DENSE_HESSIAN = 256  # latent dimension up to which the inner solve is a quasi-Newton method

Projection = Callable[[Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]
"""Maps w and the last z to z⁺, G(z⁺), and the evaluations it took."""


def projected_gradient(
    A: odl.Operator,
    y: Any,
    G: Any,
    *,
    noise_std: float | Tensor = 1.0,
    projection: Literal["solve", "encoder"] = "solve",
    init: Any = None,
    step: float | None = None,
    max_iter: int = 200,
    tol: float = 1e-4,
    inner_iterations: int = 20,
    restarts: int = 1,
    seed: int = 0,
    callback: Callback | None = None,
    progress: bool = True,
) -> Solution:
    r"""Minimise :math:`\|A(x) - y\|^2 / (2 \sigma^2)` over the range of G by projected gradient descent.

    Parameters
    ----------
    A : odl.Operator
        Forward operator X -> Y, linear or not.
    y : ODL element of Y, or Tensor
        Data; a tensor may have a leading batch axis, ``(B, *Y.shape)``.
    G : odl.Operator
        Generator Z -> X; for the encoder with an attribute ``has_encoder`` and a method ``encode(x)`` that maps
        tensors ``(B, *X.shape)`` to ``(B, *Z.shape)``.
    noise_std : float or Tensor
        σ > 0, or one for every sample, ``(B,)``.
    projection : {"solve", "encoder"}
        How to project: by an inner latent solve, started from the last z, or by the encoder.
    init : ODL element of Z or Tensor, optional
        First z. By default the code of a rough reconstruction where G has an encoder, otherwise zero.
    step : float, optional
        First τ. By default :math:`\sigma^2 / \|A\|^2` in the Euclidean norms where A is linear, else such that the
        first step has length 1. τ doubles after a success and halves after a failure.
    max_iter : int
        Accepted steps.
    tol : float
        A sample has converged when :math:`\tfrac{\tau_0}{\tau} \|x^+ - x\| \le tol \|x\|`, with τ₀ the first step.
    inner_iterations : int
        Largest number of quasi-Newton steps of an inner solve (of gradient steps with more than 256 latent
        dimensions).
    restarts : int
        Starts of every inner solve: the last z, and draws from N(0, I).
    seed : int
        Seed of these draws.
    callback : callable, optional
        Called with an `Iterate` after every iteration; a true answer ends the run.
    progress : bool
        Show a progress bar.

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
    """
    if not isinstance(A, odl.Operator) or not isinstance(G, odl.Operator):
        name, given = ("G", G) if isinstance(A, odl.Operator) else ("A", A)
        raise TypeError(f"{name} must be an ODL operator, got {type(given).__name__}")
    if G.range != A.domain:
        raise ValueError(f"G must map to the domain of A, {A.domain!r}, got {G.range!r}")
    if projection not in ("solve", "encoder"):
        raise ValueError(f"projection must be 'solve' or 'encoder', got {projection!r}")
    encoder = getattr(G, "has_encoder", False)
    if projection == "encoder" and not encoder:
        raise ValueError(f"projection='encoder' needs a generator with an encoder, got {G!r}")
    for argument, count in (("inner_iterations", inner_iterations), ("restarts", restarts)):
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise ValueError(f"{argument} must be a positive integer, got {count!r}")
    if step is not None and not step > 0:
        raise ValueError(f"step must be positive, got {step}")

    data = enter(y, {"y": A.range}, "y")
    target = data.blocks["y"]
    sigma = torch.as_tensor(noise_std, dtype=target.real.dtype, device=target.device)
    if sigma.ndim > 1 or (sigma.ndim == 1 and len(sigma) != len(target)):
        raise ValueError(
            f"noise_std must be a number or have the shape ({len(target)},), got {tuple(sigma.shape)}"
        )
    if not bool(((sigma > 0) & torch.isfinite(sigma)).all()):
        raise ValueError(f"noise_std must be positive and finite, got {noise_std}")

    z = _first_latent(A, target, G, init, encoder)
    forward, generate = to_torch(A), to_torch(G)
    with torch.no_grad():
        door = Door({"x": generate(z), "z": z}, _leave(A, G, data, is_element(y)), data.batched)

    def fidelity(blocks: Mapping[str, Tensor], y: Tensor, precision: Tensor) -> Tensor:
        r = forward(blocks["x"]) - y
        return 0.5 * precision * inner(r, r)

    objective = Objective(
        fidelity,
        {"x": A.domain, "z": G.domain},
        per_sample={"y": target, "precision": sigma.expand(len(target)) ** -2},
    )
    if step is None and A.is_linear:
        norm_sq = operator_norm(A) ** 2 * float(weight(A.domain)) / float(weight(A.range))
        first = sigma.square().expand(len(target)) / norm_sq
    else:
        first = None if step is None else torch.full_like(sigma.expand(len(target)), step)
    if projection == "encoder":
        project = _by_encoder(G, generate)
    else:
        project = _by_solve(G, generate, inner_iterations, restarts, seed)
    solution = run(
        objective,
        door,
        {"x": _Projected(project, first)},
        max_iter=max_iter,
        tol=tol,
        callback=callback,
        progress=progress,
        description="projected gradient",
    )
    return replace(solution, image=solution.blocks["x"])


def _first_latent(A: odl.Operator, y: Tensor, G: Any, init: Any, encoder: bool) -> Tensor:
    if init is None:
        if encoder:
            return G.encode(rough_reconstruction(A, y))
        return torch.zeros((len(y), *G.domain.shape), dtype=torch_dtype(G.domain), device=y.device)
    z = enter(init["z"] if isinstance(init, Mapping) and "z" in init else init, {"z": G.domain}).blocks["z"]
    if len(z) != len(y):
        raise ValueError(f"init must have the batch size of y, {len(y)}, got {len(z)}")
    return z


def _leave(A: odl.Operator, G: odl.Operator, data: Door, elements: bool) -> Callable[..., dict[str, Any]]:
    spaces = {"x": A.domain, "z": G.domain}

    def leave(result: Mapping[str, Tensor]) -> dict[str, Any]:
        out = {name: data.per_sample(value) for name, value in result.items()}
        return {name: to_element(spaces[name], value) for name, value in out.items()} if elements else out

    return leave


def _by_encoder(G: Any, generate: Any) -> Projection:
    def project(w: Tensor, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        code = G.encode(w)
        return code, generate(code), torch.zeros(len(w), dtype=torch.int64, device=w.device)

    return project


def _by_solve(G: Any, generate: Any, max_iter: int, restarts: int, seed: int) -> Projection:
    solver = quasi_newton if G.domain.size <= _DENSE_HESSIAN else gradient_descent
    generator = torch.Generator().manual_seed(seed)

    def distance(blocks: Mapping[str, Tensor], w: Tensor) -> Tensor:
        r = generate(blocks["z"]) - w
        return inner(r, r)

    def project(w: Tensor, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        drawn = torch.randn((restarts - 1, *z.shape), generator=generator, dtype=z.dtype).to(z.device)
        starts = torch.cat((z[None], drawn)).flatten(0, 1)  # (restarts * B, *Z.shape)
        problem = Objective(
            distance, {"z": G.domain}, per_sample={"w": w.repeat(restarts, *(1,) * (w.ndim - 1))}
        )
        found = solver(problem, {"z": starts}, max_iter=max_iter, tol=1e-6, progress=False)
        values = found.value.view(restarts, -1)
        best = values.nan_to_num(torch.inf).argmin(0) * len(z) + torch.arange(len(z), device=z.device)
        code = found.blocks["z"][best]
        return code, generate(code), found.operator_calls.view(restarts, -1).sum(0)

    return project


@dataclass(frozen=True)
class _Projected:
    """A gradient step in x, projected; z follows."""

    project: Projection
    first: Tensor | None
    line_search: Backtracking = field(default_factory=lambda: Backtracking(max_trials=20))

    def first_step(self, gradient: Tensor) -> Tensor:
        """First step sizes, ``(B,)``."""
        return self.line_search.first_step(gradient) if self.first is None else self.first

    def first_memory(self, gradient: Tensor) -> Tensor:
        """The first step size, as a unit of the later ones, ``(B, 1)``."""
        return self.first_step(gradient)[:, None]

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
        slope, change, step_sq = inner(gradient, d), inner(trial.bend, d), inner(d, d)
        lowered = state.smooth - 1e-4 * step_sq / tau
        accepted = search.accept(state.smooth, trial.smooth, lowered, change, -2 * slope)
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
