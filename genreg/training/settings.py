"""What every training is told: how to optimise (`Optimisation`), and how its run is kept (`Bookkeeping`).

Both can be given as objects, or field by field as keywords: `with_keywords` lets a training take either.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ParamSpec, TypedDict, TypeVar

import numpy as np

from genreg.operators.bridge.arguments import check_path, choice, flag, integer, number, seed_number
from genreg.operators.bridge.keywords import documented_like, refuse_unknown, show_keywords

P = ParamSpec("P")
T = TypeVar("T")


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


def limited(default: Any = dataclasses.MISSING, **limits: float) -> Any:
    """Return a field of a `Checked` dataclass: a number within the limits that `integer` and `number` take."""
    return dataclasses.field(default=default, metadata=limits)


@dataclass(frozen=True, kw_only=True)
class Checked:
    """Base of the dataclasses whose `limited` fields are checked, and held as Python's own numbers.

    Raises
    ------
    TypeError, ValueError
        If a field has the wrong type or is out of range.
    """

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            name, value = field.name, getattr(self, field.name)
            if field.metadata and not (value is None and "None" in str(field.type)):
                check: Callable[..., Any] = integer if str(field.type).startswith("int") else number
                value = check(value, name, **field.metadata)
            object.__setattr__(self, name, value.item() if isinstance(value, np.generic) else value)


@documented_like(Checked)
@dataclass(frozen=True, kw_only=True)
class Optimisation(Checked):
    """How a training optimises.

    Parameters
    ----------
    steps : int
        Number of steps.
    batch_size : int
        Number of images, or pairs or observations, in a step.
    lr : float
        Learning rate that the schedule multiplies.
    schedule : str
        "cosine" (to zero), "one-cycle" (up in the first 30 %, then down to zero) or "constant".
    warmup : int
        Number of first steps over which the rate also rises linearly.
    weight_decay : float
        Decoupled weight decay.
    clip : float, optional
        Bound on the norm of the gradient; none where None.
    ema : float, optional
        Decay of an exponential moving average of the weights, which is the result; none where None. The running means
        and variances of batch normalisation are averaged alike.
    keep_best : bool
        Whether the result is the weights that had the best score on the held-out data, of all entries of the history,
        instead of the last. Needs held-out data and a training whose score tells better from worse.
    patience : int, optional
        Entries of the history in a row without a better score after which the training ends, as it over-fits, with the
        best weights; none where None.
    seed : int
        Seed of all random numbers: batches, noise, latent samples, dropout. Different seeds share none, and the same
        seed gives the same result on one device and number of threads. Initial weights of a model that is given are
        the caller's.
    """

    steps: int = limited(minimum=1)
    batch_size: int = limited(minimum=1)
    lr: float = limited(above=0)
    schedule: str = "cosine"
    warmup: int = limited(0, minimum=0)
    weight_decay: float = limited(0.0, minimum=0)
    clip: float | None = limited(None, above=0)
    ema: float | None = limited(None, minimum=0, below=1)
    keep_best: bool = False
    patience: int | None = limited(None, minimum=1)
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        flag(self.keep_best, "keep_best")
        object.__setattr__(self, "seed", seed_number(self.seed))
        choice(self.schedule, "schedule", sorted(SCHEDULES))

    @property
    def judged(self) -> bool:
        """Whether the best weights are looked for."""
        return self.keep_best or self.patience is not None

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


@dataclass(frozen=True, kw_only=True)
class Bookkeeping(Checked):
    """How the run of a training is kept: its history, its checkpoint, what it shows.

    Parameters
    ----------
    validate_every : int, optional
        Number of steps between entries of the history; a twentieth of the steps where None.
    checkpoint : str or path, optional
        File in which the state of the run is kept, at Ctrl-C as well; one of an earlier run is refused, not replaced.
    checkpoint_seconds : float
        Seconds between checkpoints; 0 for one after every step. There is one at the end.
    resume : bool
        Whether to continue from `checkpoint` where that file exists, and to begin there otherwise: the result is
        exactly that of an uninterrupted run. The file knows its run: another architecture, other settings, training or
        held-out data are refused, and what is damaged. The weights that the model begins with do not matter.
    progress : bool
        Whether to show a progress bar.

    Raises
    ------
    TypeError, ValueError
        If a field has the wrong type or is out of range, or there is no file to resume from.
    """

    validate_every: int | None = limited(1000, minimum=1)
    checkpoint: str | os.PathLike[str] | None = None
    checkpoint_seconds: float = limited(120.0, minimum=0, infinite=True)
    resume: bool = False
    progress: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        flag(self.resume, "resume")
        if self.checkpoint is not None:
            check_path(self.checkpoint, "checkpoint")
        elif self.resume:
            raise ValueError("resume needs the file to resume from: give checkpoint")


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


class Keywords(TypedDict, total=False):
    """The fields of `Optimisation` and `Bookkeeping` as keywords, and what else the trainings have in common.

    Parameters
    ----------
    images
        Images ``(N, *image_shape)`` from which each step draws its batch, every image once an epoch; or a function
        ``sampler(n, *, seed)`` that makes new ones, which is called with a different seed each time.
    validation
        Held-out images ``(N, *image_shape)`` for the history and the score.
    optimisation, bookkeeping
        How to optimise and how to keep the run, `Optimisation` and `Bookkeeping`; or their fields as keywords.

    Returns
    -------
    dict
        A JSON-able card: "architecture", "training" (the settings), "history" (step, training loss and scores at each
        validation) and, with `validation`, "score".

    Raises
    ------
    TypeError, ValueError, FileExistsError, FloatingPointError, KeyboardInterrupt
        If an argument has the wrong type; if data have the wrong shape or non-finite values, a number is out of
        range, or the checkpoint can't be read or belongs to a run with other settings, data or architecture; if
        the checkpoint exists and the run does not resume; if the loss or a weight becomes non-finite; at Ctrl-C,
        with a checkpoint at the step that was done, where there is a file for it.
    """

    steps: int
    batch_size: int
    lr: float
    schedule: str
    warmup: int
    weight_decay: float
    clip: float | None
    ema: float | None
    keep_best: bool
    patience: int | None
    seed: int
    validate_every: int | None
    checkpoint: str | os.PathLike[str] | None
    checkpoint_seconds: float
    resume: bool
    progress: bool


FROM_KEYWORDS: Any = None
"""Default of the arguments ``optimisation`` and ``bookkeeping`` of a training: they are made of keywords."""

_SHARED: dict[str, type[Checked]] = {"optimisation": Optimisation, "bookkeeping": Bookkeeping}


def with_keywords(**defaults: Any) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Let a training take its ``optimisation`` and ``bookkeeping`` as objects, or their fields as keywords.

    The function that is decorated gets both as objects. Its signature and docstring show all keywords; its own
    ``**keywords: Unpack[Keywords]`` is there for type checkers alone, nothing arrives in it.

    Parameters
    ----------
    **defaults
        What fields are for this training where they are not given as keywords. Objects are taken as they are.

    Raises
    ------
    TypeError
        If a keyword is not known, an object is of another type, or one is given beside its own fields.
    FileExistsError
        If the checkpoint exists and the run does not resume.
    """

    def decorate(fit: Callable[P, T]) -> Callable[P, T]:
        fields = {name: inspect.signature(kind).parameters for name, kind in _SHARED.items()}

        @functools.wraps(fit)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            refuse_unknown(wrapped, kwargs)
            for name, kind in _SHARED.items():
                given = {key: kwargs.pop(key) for key in fields[name] if key in kwargs}
                found = kwargs.get(name)
                if found is None:
                    kwargs[name] = kind(**{k: v for k, v in defaults.items() if k in fields[name]} | given)
                elif not isinstance(found, kind):
                    raise TypeError(
                        f"{name} must be a genreg.training.{kind.__name__}, got {type(found).__name__}"
                    )
                elif given:
                    raise TypeError(
                        f"give {name} or its fields as keywords, not both, got {', '.join(given)}"
                    )
            bookkeeping = kwargs["bookkeeping"]
            if bookkeeping.checkpoint is not None:
                check_files(bookkeeping.resume, bookkeeping.checkpoint)
            return fit(*args, **kwargs)

        own = [p for keywords in fields.values() for p in keywords.values()]
        shown = [p.replace(default=defaults.get(p.name, p.default)) for p in own]
        show_keywords(wrapped, shown, Keywords, *_SHARED.values())
        return wrapped

    return decorate
