"""The settings that every training has, and the checks of its files."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

__all__ = ["SCHEDULES", "Plan", "check_files", "check_run"]


def _one_cycle(t: float) -> float:
    return 0.04 + 0.96 * (0.5 - 0.5 * math.cos(math.pi * t / 0.3)) if t < 0.3 else _cosine((t - 0.3) / 0.7)


def _cosine(t: float) -> float:
    return 0.5 + 0.5 * math.cos(math.pi * t)


SCHEDULES: dict[str, Callable[[float], float]] = {
    "cosine": _cosine,
    "one-cycle": _one_cycle,
    "constant": lambda t: 1.0,
}
"""Factor of the learning rate as a function of the share of the steps done."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The settings that every run has; subclasses add to them and to the names that are checked."""

    integers: ClassVar[tuple[str, ...]] = ("steps", "batch_size", "warmup", "seed")
    positive: ClassVar[tuple[str, ...]] = ("steps", "batch_size", "lr")
    non_negative: ClassVar[tuple[str, ...]] = ("warmup", "seed")

    steps: int
    batch_size: int
    lr: float
    schedule: str
    warmup: int
    ema: float | None
    seed: int

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            if isinstance(value := getattr(self, field.name), np.generic):
                object.__setattr__(self, field.name, value.item())
        for name in (*self.positive, *self.non_negative):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
                raise TypeError(f"{name} must be a number, got {type(value).__name__}")
        for name in self.integers:
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int):
                raise TypeError(f"{name} must be an int, got {type(value).__name__}")
        for name in self.positive:
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"{name} must be positive and finite, got {value}")
        for name in self.non_negative:
            value = getattr(self, name)
            if not 0 <= value < math.inf:
                raise ValueError(f"{name} must be non-negative and finite, got {value}")
        if self.ema is not None and not 0 <= self.ema < 1:
            raise ValueError(f"ema must lie in [0, 1), got {self.ema}")
        if self.schedule not in SCHEDULES:
            raise ValueError(f"schedule must be one of {sorted(SCHEDULES)}, got {self.schedule!r}")

    def rate(self, step: int) -> float:
        """Return the learning rate of a step."""
        ramp = min(1.0, (step + 1) / self.warmup) if self.warmup else 1.0
        return self.lr * ramp * SCHEDULES[self.schedule](step / self.steps)

    def seed_of(self, step: int) -> int:
        """Return the seed of a step: a run has no random state apart from the number of the step."""
        return self._seed(step)

    def images_of(self, batch: int) -> int:
        """Return the seed of the images of a batch; not that of a step, or noise would come from the same numbers."""
        return self._seed(batch, 1)

    def _seed(self, *key: int) -> int:
        return int(np.random.SeedSequence(self.seed, spawn_key=key).generate_state(1, np.uint64)[0] >> 1)


def check_files(resume: bool, *checkpoints: str | os.PathLike[str]) -> None:
    """Refuse to overwrite what an earlier run has left.

    Raises
    ------
    FileExistsError
        If there is such a file and the run does not resume.
    """
    for checkpoint in checkpoints:
        if Path(checkpoint).exists() and not resume:
            raise FileExistsError(
                f"checkpoint {checkpoint} is there already: go on with that run by resume=True (--resume on the "
                "command line), or move the file away, or name another"
            )


def check_run(resume: bool, checkpoint: Any, validate_every: Any, checkpoint_seconds: Any) -> None:
    """Check how often a run validates and saves, and its file.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or is out of range, or there is no file to resume from.
    FileExistsError
        If the checkpoint exists and the run does not resume.
    """
    if isinstance(validate_every, bool) or not isinstance(validate_every, int | np.integer):
        raise TypeError(f"validate_every must be an int, got {type(validate_every).__name__}")
    if validate_every < 1:
        raise ValueError(f"validate_every must be at least 1, got {validate_every}")
    if isinstance(checkpoint_seconds, bool) or not isinstance(checkpoint_seconds, Real):
        raise TypeError(f"checkpoint_seconds must be a number, got {type(checkpoint_seconds).__name__}")
    if not checkpoint_seconds >= 0:
        raise ValueError(f"checkpoint_seconds must be non-negative, got {checkpoint_seconds}")
    if checkpoint is None:
        if resume:
            raise ValueError("resume needs the file to resume from: give checkpoint")
        return
    if not isinstance(checkpoint, str | os.PathLike):
        raise TypeError(f"checkpoint must be a path, got {type(checkpoint).__name__}")
    check_files(resume, checkpoint)
