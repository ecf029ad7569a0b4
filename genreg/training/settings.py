"""The settings that every training has, and the checks of its files."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from genreg.operators.bridge.arguments import check_path, choice, flag, integer, number, seed_number

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
        fields = dataclasses.fields(self)
        found = {field.name: getattr(self, field.name) for field in fields}
        optional = {field.name for field in fields if "None" in str(field.type)}
        for name in (*self.positive, *self.non_negative):
            if found[name] is None and name in optional:
                continue
            if name == "seed":
                found[name] = seed_number(found[name])
            elif name in self.integers:
                found[name] = integer(found[name], name, minimum=int(name in self.positive))
            elif name in self.positive:
                found[name] = number(found[name], name, above=0)
            else:
                found[name] = number(found[name], name, minimum=0)
        if self.ema is not None:
            found["ema"] = number(self.ema, "ema", minimum=0, below=1)
        for name, value in found.items():  # as Python has them, for cards and checkpoints
            object.__setattr__(self, name, value.item() if isinstance(value, np.generic) else value)
        choice(self.schedule, "schedule", sorted(SCHEDULES))

    def rate(self, step: int) -> float:
        """Return the learning rate of a step."""
        ramp = min(1.0, (step + 1) / self.warmup) if self.warmup else 1.0
        return self.lr * ramp * SCHEDULES[self.schedule](step / self.steps)

    def seed_of(self, step: int) -> int:
        """Return the seed of a step: a run has no random state apart from the number of the step."""
        words = np.random.SeedSequence([self.seed, step]) if self.seed < 2**32 else self._sequence(step)
        return self._seed(words)

    def images_of(self, batch: int) -> int:
        """Return the seed of the images of a batch; not that of a step, or noise would come from the same numbers."""
        return self._seed(self._sequence(batch, 1))

    def _sequence(self, *key: int) -> np.random.SeedSequence:
        return np.random.SeedSequence(self.seed, spawn_key=key)

    @staticmethod
    def _seed(sequence: np.random.SeedSequence) -> int:
        return int(sequence.generate_state(1, np.uint64)[0] >> 1)


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
    resume = flag(resume, "resume")
    integer(validate_every, "validate_every", minimum=1)
    number(checkpoint_seconds, "checkpoint_seconds", minimum=0, infinite=True)
    if checkpoint is None:
        if resume:
            raise ValueError("resume needs the file to resume from: give checkpoint")
        return
    check_path(checkpoint, "checkpoint")
    check_files(resume, checkpoint)
