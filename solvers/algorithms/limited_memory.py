r"""Limited-memory BFGS over all blocks together, batched: for smooth objectives of images and latent vectors.

The blocks of a sample are one vector w, each divided by its unit of length ℓ (see `Objective`), so that the result
does not depend on the units of the blocks. A step is that of `genreg.solvers.updates.limited_memory`, with a scale of
its own of every block: blocks of different scale need no tuning.

References
----------
D. C. Liu, J. Nocedal (1989), On the limited memory BFGS method for large scale optimization,
doi:10.1007/BF01589116.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Unpack

import odl
import torch
from odl.functionals import Functional
from torch import Tensor

from genreg.operators.bridge.arguments import check_callable, integer
from genreg.operators.bridge.arrays import check_memory
from genreg.operators.bridge.caller_data import Batch, to_batch
from genreg.operators.bridge.keywords import takes
from genreg.operators.bridge.modes import undisturbed
from genreg.solvers.algorithms.descent import Descent
from genreg.solvers.driver.loop import run
from genreg.solvers.driver.monitor import Iterate, Stopping
from genreg.solvers.driver.solution import Solution
from genreg.solvers.problem.capabilities import check_offers
from genreg.solvers.problem.objective import Blocks, Objective, lowered
from genreg.solvers.problem.state import evaluate, starting_lengths
from genreg.solvers.updates.limited_memory import LimitedMemory
from genreg.solvers.updates.line_search import Backtracking, searching

Substitution = tuple[Callable[[Blocks], Blocks], Callable[[Blocks], Blocks]]


@undisturbed
@takes(Descent, Stopping, max_iter=500, tol=1e-4, progress=True)
def lbfgs(
    objective: Objective | Functional,
    init: Any,
    *,
    memory: int = 10,
    substitution: Substitution | None = None,
    **keywords: Unpack[Descent],
) -> Solution:
    r"""Minimise a smooth objective over all its blocks at once by limited-memory BFGS.

    Parameters
    ----------
    tol : float
        A sample has converged when :math:`\|\nabla H(w)\| (1 + \|w\|) / |H(w)|` is at most this, every block of w in
        its unit of length, see `Objective`.
    memory : int
        Steps remembered, m.
    substitution : pair of callables, optional
        φ and its inverse, which map dicts of tensors with the names and shapes of the blocks: w is moved, and
        v = φ(w) are the blocks; the lengths are those of v at the start. The deviation u = x - G(z) from the range
        of a generator, for instance, is a far better variable than x: ``φ(w) = {"x": w["x"] + G(w["z"]), "z":
        w["z"]}``.
    line_search : Backtracking, optional
        Its first step, `shrink`, `slack` and `max_trials` are used.
    """
    memory, callback = integer(memory, "memory", minimum=1), keywords["callback"]
    check_callable(callback, "callback", "of an Iterate")
    objective = lowered(objective, init)
    check_offers(objective, "lbfgs", "smooth")
    batch = to_batch(init, objective.spaces)
    layout = _Layout(batch.blocks, substitution)
    size, like = sum(layout.sizes), next(iter(batch.blocks.values()))
    check_memory((len(like), 2 * memory, size), like.real.dtype, "memory", memory, like.device)
    units = layout.units(objective, batch.blocks)

    def smooth(blocks: Blocks, unit: Tensor, **per_sample: Tensor) -> Tensor:
        return objective.smooth(layout.unpack(blocks["w"], unit), **per_sample)

    def offset(blocks: Blocks, unit: Tensor, **per_sample: Tensor) -> Tensor:
        assert objective.offset is not None
        return objective.offset(layout.unpack(blocks["w"], unit), **per_sample)

    def watch(iterate: Iterate) -> Any:
        assert callback is not None
        with torch.no_grad():
            blocks = layout.unpack(iterate.blocks["w"], units[iterate.samples])
            return callback(replace(iterate, blocks=blocks))

    def leave(result: Mapping[str, Tensor]) -> dict[str, Any]:
        with torch.no_grad():
            return batch.as_given(layout.unpack(result["w"], units))

    with torch.no_grad():
        start = layout.pack(substitution[1](batch.blocks) if substitution else batch.blocks, units)
    single = odl.rn(start.shape[1], dtype=str(start.dtype).removeprefix("torch."))
    problem = Objective(
        smooth,
        {"w": single},
        per_sample={**objective.per_sample, "unit": units},
        offset=None if objective.offset is None else offset,
    )
    return run(
        problem,
        Batch({"w": start}, leave, batch.batched),
        {"w": LimitedMemory(layout.sizes, memory, searching(keywords["line_search"], Backtracking()))},
        max_iter=keywords["max_iter"],
        tol=keywords["tol"],
        callback=watch if callback else None,
        progress=keywords["progress"],
        description="L-BFGS",
    )


class _Layout:
    """Blocks as one real vector of every sample, each in its unit of length, and back."""

    def __init__(self, blocks: Blocks, substitution: Substitution | None) -> None:
        self.shapes = {name: (v.shape[1:], v.is_complex()) for name, v in blocks.items()}
        self.sizes = tuple(math.prod(shape) * (2 if cx else 1) for shape, cx in self.shapes.values())
        self.substitution = substitution

    def units(self, objective: Objective, blocks: Blocks) -> Tensor:
        """The unit of length of every block, ``(B, number of blocks)``; 1 where nothing has a length."""
        _, gradients, scale, _ = evaluate(objective, blocks)
        lengths = [starting_lengths(objective, blocks, gradients, name, scale)[1] for name in self.shapes]
        units = torch.stack(lengths, 1)
        return torch.where(torch.isfinite(units) & (units > 0), units, 1.0)

    def pack(self, blocks: Blocks, units: Tensor) -> Tensor:
        parts = (torch.view_as_real(v) if v.is_complex() else v for v in blocks.values())
        return torch.cat([v.flatten(1) / units[:, k, None] for k, v in enumerate(parts)], 1)

    def unpack(self, w: Tensor, units: Tensor) -> Blocks:
        blocks = {}
        scaled = (part * units[:, k, None] for k, part in enumerate(w.split(self.sizes, 1)))
        for part, (name, (shape, is_complex)) in zip(scaled, self.shapes.items(), strict=True):
            if is_complex:
                blocks[name] = torch.view_as_complex(part.reshape(len(w), *shape, 2))
            else:
                blocks[name] = part.reshape(len(w), *shape)
        return self.substitution[0](blocks) if self.substitution else blocks
