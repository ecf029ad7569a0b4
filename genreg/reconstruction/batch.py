"""Images × parameters × restarts as one batch."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import odl
import torch
from torch import Tensor

from genreg.operators import to_torch
from genreg.operators.bridge.arguments import seeded_generator
from genreg.operators.bridge.arrays import check_memory
from genreg.operators.bridge.caller_data import finite_or_zero, to_batch
from genreg.operators.fidelity import Fidelity
from genreg.operators.fidelity.entry import fidelity_of
from genreg.regularisers import Regulariser
from genreg.solvers import Solution, Trial
from genreg.solvers.problem.objective import Blocks, block_spaces, pack


def checked_fidelity(
    A: odl.Operator,
    y: Any,
    noise_std: float | Tensor | None,
    fidelity: Fidelity | Callable[[odl.Operator, Any], Fidelity] | None,
    regulariser: Regulariser,
) -> Fidelity:
    """Return the fidelity of data given in one of the ways of `reconstruct`.

    Raises
    ------
    TypeError, ValueError
        If the arguments do not fit each other.
    """
    fidelity = fidelity_of(A, y, noise_std, fidelity)
    if A.domain != regulariser.image.range:
        raise ValueError(
            f"A and regulariser must share the image space, got {A.domain!r} and {regulariser.image.range!r}"
        )
    regulariser.parameters_of(fidelity.data.real.flatten(1)[:, 0])
    return fidelity


def starting_points(
    fidelity: Fidelity, regulariser: Regulariser, init: Any, restarts: int, seed: int | None
) -> Blocks:
    """Starting points ``(B, restarts, *shape)``; given blocks are the first of them.

    Raises
    ------
    TypeError, ValueError
        If `init` does not fit the blocks, `seed` is none, or `restarts` is so large that the problems do not fit into
        memory.
    """
    data, spaces = fidelity.data, block_spaces(regulariser.domain, regulariser.blocks)
    generator = seeded_generator(0 if seed is None else seed, data.device)
    kind = init if isinstance(init, str) else None
    count = len(data)
    size = sum(space.size for space in spaces.values()) + regulariser.image.range.size + data[0].numel()
    check_memory((count, restarts, size), data.dtype, "restarts", restarts, data.device)
    starts = {
        name: v.unflatten(0, (count, restarts))
        for name, v in regulariser.start(fidelity, kind, restarts, generator).items()
    }
    if init is not None and kind is None:
        given = to_batch(init, spaces).blocks
        for name, v in given.items():
            if len(v) not in (1, count):
                raise ValueError(f"init[{name!r}] must have a batch of 1 or {count}, got {len(v)}")
            starts[name][:, 0] = v
    return starts


class BatchedSolve:
    """Solves images × values of λ × restarts as one batch and keeps the best restart.

    Parameters
    ----------
    fidelity : Fidelity
        The data, B samples.
    regulariser : Regulariser
        R.
    solver : callable
        ``solver(problem, init)``.
    starts : dict of str to Tensor
        Starting points, ``(B, restarts, *shape)``.
    parameters : dict of str to Tensor, optional
        All parameters of R for every sample, ``(B,)``, by default its own.
    absolute : collection of str
        Those parameters that are given as the weight of their term in the objective, λ times the parameter of R,
        so that the term does not change with λ; it is no part of the penalty then, but of the misfit.
    """

    def __init__(
        self,
        fidelity: Fidelity,
        regulariser: Regulariser,
        solver: Callable[..., Solution],
        starts: Blocks,
        parameters: Mapping[str, Tensor] | None = None,
        absolute: Collection[str] = (),
    ) -> None:
        self.fidelity, self.regulariser, self.solver = fidelity, regulariser, solver
        self.starts = starts
        self.restarts = next(iter(starts.values())).shape[1]
        if parameters is None:
            parameters = regulariser.parameters_of(fidelity.data.real.flatten(1)[:, 0])
        self.parameters, self.absolute = parameters, absolute
        self.history: Mapping[str, Tensor] = {}

    def lam_scale(self) -> Tensor:
        """A λ of the right order for every sample, ``(B,)``, see `Regulariser.lam_scale`."""
        first = {name: v[:, 0] for name, v in self.starts.items()}
        return self.regulariser.lam_scale(self.fidelity, first, **self.parameters)

    def __call__(self, samples: Tensor, lam: Tensor, init: Blocks | None) -> Trial:
        """Solve with the parameters ``lam``, ``(b, K)``; a warm start ``(b, K, *shape)`` needs no restarts."""
        b, K = lam.shape
        R = self.restarts if init is None else 1
        if init is None:
            init = {name: v[samples, None].expand(-1, K, *v.shape[1:]) for name, v in self.starts.items()}
            init = {name: v.flatten(1, 2) for name, v in init.items()}
        rows = samples.repeat_interleave(K * R)
        lams = lam.flatten().repeat_interleave(R)
        parameters = {name: p[rows] for name, p in self.parameters.items()}
        parameters |= {name: parameters[name] / lams for name in self.absolute}
        problem = self.regulariser.problem(self.fidelity.take(rows), lams, **parameters)
        solution = self.solver(problem, finite_or_zero({name: v.flatten(0, 1) for name, v in init.items()}))
        self.history = solution.history
        best = solution.best(R)
        with torch.no_grad():
            image = to_torch(self.regulariser.image)(pack(self.regulariser.domain, best.blocks))
            residual = self.fidelity.take(rows[::R]).discrepancy(image)
            penalised = {name: p[::R] for name, p in parameters.items()}
            penalised |= {name: torch.zeros_like(penalised[name]) for name in self.absolute}
            penalty = self.regulariser.value_of(best.blocks, **penalised)

        def table(value: Tensor) -> Tensor:
            return value.unflatten(0, (b, K))

        return Trial(
            blocks={name: table(v) for name, v in best.blocks.items()},
            residual=table(residual),
            value=table(best.value),
            penalty=table(penalty),
            status=table(best.status),
            iterations=table(best.iterations),
        )
