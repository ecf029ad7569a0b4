"""The record of a continuation with a growing β."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from genreg.solvers.checkpoints import moved
from genreg.solvers.driver.solution import Solution, Status


class Stages:
    """The results of all stages so far, and the β of the next one.

    Attributes
    ----------
    z, value, gap, status, iterations, calls
        Of every sample after its last stage.
    beta : Tensor
        β, ``(B,)``.
    running : Tensor
        The samples that have not ended.
    moved, before : Tensor
        The last step of log β, and log gap before it, ``(B,)``.
    betas, gaps : list of Tensor
        β and gap of every stage.
    """

    def __init__(self, z: Tensor, beta: Tensor) -> None:
        self.z, self.beta = z.clone(), beta.clone()
        self.running = torch.arange(len(z), device=z.device)
        self.value, self.gap = torch.full_like(beta, torch.nan), torch.full_like(beta, torch.inf)
        self.status = torch.full_like(beta, Status.MAX_ITER, dtype=torch.int64)
        self.iterations, self.calls = torch.zeros_like(self.status), torch.zeros_like(self.status)
        self.moved, self.before = torch.zeros_like(beta), torch.zeros_like(beta)
        self.betas: list[Tensor] = []
        self.gaps: list[Tensor] = []

    @property
    def stages(self) -> int:
        """Number of stages so far."""
        return len(self.betas)

    def add(
        self, stage: Solution, gap: Tensor, epsilon: Tensor, step: Callable[[Tensor, Tensor, Tensor], Tensor]
    ) -> None:
        """Write a stage of the running samples down, and raise β of those whose gap is above ε."""
        index, first = self.running, not self.stages
        self.z[index], self.value[index], self.gap[index] = stage.blocks["z"], stage.value, gap
        self.iterations[index] += stage.iterations
        self.calls[index] += stage.operator_calls
        self.betas.append(self.beta.clone())
        self.gaps.append(self.gap.clone())
        stopped = bool((stage.status == Status.STOPPED).any())
        ended = (gap <= epsilon[index]) | (stage.status == Status.NON_FINITE)
        self.status[index[ended]] = stage.status[ended]
        if stopped:
            self.status[index[~ended]] = Status.STOPPED
            ended = torch.ones_like(ended)
        self.running, gap = index[~ended], gap[~ended]
        slope = (gap.log() - self.before[self.running]) / self.moved[self.running]
        slope = torch.full_like(gap, -2.0) if first else slope.nan_to_num(-2.0).clamp(-2.0, -0.5)
        log_step = step(gap, epsilon[self.running], slope)
        self.before[self.running], self.moved[self.running] = gap.log(), log_step
        self.beta[self.running] *= log_step.exp()

    def snapshot(self) -> dict[str, Any]:
        """What a file keeps."""
        return dict(vars(self))

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Undo `snapshot`."""
        vars(self).update(moved(saved, self.z.device))

    def solution(self, seconds: float) -> Solution:
        """All of it."""
        return Solution(
            blocks={"z": self.z},
            value=self.value,
            status=self.status,
            iterations=self.iterations,
            operator_calls=self.calls,
            time=seconds,
            history={"beta": torch.stack(self.betas), "gap": torch.stack(self.gaps)},
        )
