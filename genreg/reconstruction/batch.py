"""Images × parameters × restarts as one batch."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Mapping
from typing import Any

import odl
import torch
from torch import Tensor

from genreg.operators import to_torch
from genreg.operators.bridge.arguments import seeded_generator
from genreg.operators.bridge.arrays import check_memory
from genreg.operators.bridge.door import enter, usable
from genreg.operators.fidelity import Fidelity, GaussianFidelity
from genreg.regularisers import Regulariser
from genreg.solvers import Solution, Trial
from genreg.solvers.problem.objective import Blocks, block_spaces, pack

__all__ = ["BatchedSolve", "checked_fidelity", "starting_points"]


def checked_fidelity(
    A: odl.Operator, y: Any, noise_std: float | Tensor | None, fidelity: Any, regulariser: Regulariser
) -> Fidelity:
    """Return the fidelity of data given in one of the ways of `reconstruct`.

    Raises
    ------
    TypeError, ValueError
        If the arguments do not fit each other.
    """
    given = isinstance(fidelity, Fidelity)
    if fidelity is None:
        if noise_std is None:
            raise TypeError("noise_std must be given, the standard deviation of the noise, or a fidelity")
        fidelity = GaussianFidelity(A, y, noise_std)
    elif noise_std is not None:
        raise TypeError("noise_std belongs to the Gaussian fidelity: give either noise_std or fidelity")
    elif not given:
        fidelity = fidelity(A, y) if callable(fidelity) else fidelity
        if not isinstance(fidelity, Fidelity):
            raise TypeError(
                f"fidelity must be a genreg fidelity, or make one of (A, y), got {type(fidelity).__name__}"
            )
    if fidelity.operator != A:
        raise ValueError(f"fidelity must have the operator A, {A!r}, got {fidelity.operator!r}")
    if given and y is not None:
        fidelity = _of_data(fidelity, y)
    if A.domain != regulariser.image.range:
        raise ValueError(
            f"A and regulariser must share the image space, got {A.domain!r} and {regulariser.image.range!r}"
        )
    regulariser.parameters_of(fidelity.data.real.flatten(1)[:, 0])
    return fidelity


def _of_data(fidelity: Fidelity, y: Any) -> Fidelity:
    """Return a fidelity that gives results back as `y` was given; ValueError unless `y` are its data."""
    door = enter(y, {"y": fidelity.operator.range}, "y")
    data = door.blocks["y"].to(fidelity.data.device)
    if not torch.equal(data, fidelity.data):
        raise ValueError(
            f"y must be the data of the fidelity, {tuple(fidelity.data.shape)}, got others, {tuple(data.shape)}: give "
            "those, or in the place of a fidelity a function (A, y) that makes one"
        )
    found = copy.copy(fidelity)
    found.batched, found.kind = door.batched, door.kind
    return found


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
        given = enter(init, spaces).blocks
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
        data = self.fidelity.take(rows)
        lams = lam.flatten().repeat_interleave(R)
        parameters = {name: p[rows] for name, p in self.parameters.items()}
        parameters |= {name: parameters[name] / lams for name in self.absolute}
        problem = self.regulariser.problem(data, lams, **parameters)
        solution = self.solver(problem, usable({name: v.flatten(0, 1) for name, v in init.items()}))
        self.history = solution.history

        with torch.no_grad():
            domain = self.regulariser.domain
            image = to_torch(self.regulariser.image)(pack(domain, solution.blocks))
            residual = data.discrepancy(image)
            penalised = parameters | {name: torch.zeros_like(lams) for name in self.absolute}
            penalty = self.regulariser.value_of(solution.blocks, **penalised)
        best = solution.value.nan_to_num(torch.inf).view(b * K, R).argmin(1)

        def pick(value: Tensor) -> Tensor:
            chosen = value.unflatten(0, (b * K, R))[torch.arange(b * K, device=value.device), best]
            return chosen.unflatten(0, (b, K))

        return Trial(
            blocks={name: pick(v) for name, v in solution.blocks.items()},
            residual=pick(residual),
            value=pick(solution.value),
            penalty=pick(penalty),
            status=pick(solution.status),
            iterations=pick(solution.iterations),
        )
