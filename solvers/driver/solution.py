"""What a solver returns: one `Solution`, with a `Status` for every sample."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from genreg.solvers.driver.advised import Advised


class Status(Advised):
    """How a sample ended; `advice` says what the user can do about it."""

    RUNNING = 0, "The sample has not been finished: call the solver again with these blocks as init."
    CONVERGED = 1, "The residual met the tolerance: nothing to do."
    MAX_ITER = 2, "The iterations were used up: raise max_iter or tol, or start nearer (init)."
    STALLED = (
        3,
        "No step lowered the objective any more: the result is as good as the precision allows; "
        "use float64 or a larger tol if that is not enough.",
    )
    NON_FINITE = (
        4,
        "The objective was not finite at the start or for every step tried: check the data, the "
        "operator and the initial point of this sample.",
    )
    STOPPED = 5, "The callback ended the run: call the solver again with these blocks as init to go on."
    LEVEL_NOT_REACHED = (
        6,
        "No parameter tried brings the residual down to the noise level: the prior cannot explain the "
        "data this well, or the solver was not given the iterations to (max_iter). The smallest residual "
        "found is returned; allow deviations from the range of the generator, use more restarts, or check noise_std.",
    )
    LEVEL_NOT_EXCEEDED = (
        7,
        "The residual is below the noise level for the largest parameter tried: raise the upper "
        "end of lam_range, or check noise_std.",
    )
    NO_CORNER = (
        8,
        "The L-curve has no corner among the parameters tried: widen the grid or make it finer, "
        "or choose the parameter by Morozov's principle.",
    )


@dataclass(frozen=True)
class Solution:
    """The result of a solver, for one sample or a batch.

    Attributes
    ----------
    blocks : dict of str to Tensor or ODL element
        The unknowns, of the kind the initial point was: ``(B, *shape)`` tensors or ODL elements.
    value : Tensor
        Objective, shape ``(B,)``; ``()`` for a single sample, and so are all that follow.
    status : Tensor
        Integer tensor of `Status` members.
    iterations : Tensor
        Steps taken until the sample ended.
    operator_calls : Tensor
        Evaluations of the objective with its gradient (line-search trials included), or, in `pdhg`,
        pairs of forward and adjoint application.
    time : float
        Wall-clock seconds of the whole batch.
    history : dict of str to Tensor
        ``value``, ``residual`` and what the solver adds, each ``(iterations + 1, B)``; a sample that has
        ended keeps its last entry.
    image : Tensor or ODL element, optional
        The image the blocks stand for, where the caller knows it.
    """

    blocks: dict[str, Any]
    value: Tensor
    status: Tensor
    iterations: Tensor
    operator_calls: Tensor
    time: float
    history: Mapping[str, Tensor] = field(default_factory=dict)
    image: Any = None

    def best(self, restarts: int) -> Solution:
        """The best of every `restarts` neighbouring samples of a batch of tensors, with all their operator calls.

        Parameters
        ----------
        restarts : int
            Number of starting points of a sample.
        """
        if restarts == 1:
            return self
        groups = self.value.nan_to_num(torch.inf).view(-1, restarts)
        index = groups.argmin(1) + restarts * torch.arange(len(groups), device=groups.device)
        return replace(
            self,
            blocks={name: v[index] for name, v in self.blocks.items()},
            value=self.value[index],
            status=self.status[index],
            iterations=self.iterations[index],
            operator_calls=self.operator_calls.view(-1, restarts).sum(1),
            history={name: h[:, index] for name, h in self.history.items()},
        )

    @property
    def converged(self) -> Tensor:
        """Whether each sample met the tolerance."""
        return self.status == Status.CONVERGED

    def advice(self) -> str:
        """How many samples ended in which way, and what to do about it."""
        return Status.summary(self.status)
