"""What every training has in common: its state, checkpoints, the loop."""

from __future__ import annotations

import dataclasses
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from genreg.networks.borrowed import reseed, returned_on_failure, seeded
from genreg.solvers.checkpoints import (
    atomically,
    interruptible,
    load_state,
    not_finite,
    refuse_other,
    save_state,
)
from genreg.training.settings import Plan

__all__ = ["KIND", "State", "atomically", "drive", "running_statistics"]

KIND = "training"  # of state that checkpoints hold


class State:
    """A model in training with all that a checkpoint holds; subclasses say what a step is.

    Every random number of a step comes from torch's generator seeded with ``settings.seed_of(step)``, so a
    checkpoint holds no generator: the number of the step says it all.

    Parameters
    ----------
    model
        The model.
    settings
        Settings of the run.
    optimisers
        The optimisers that take its steps.
    averaged
        The parameters, and the statistics of batch normalisation (`running_statistics`), of which a moving
        average is kept where ``settings.ema`` says so.
    """

    remedy: ClassVar[str] = "lower lr"

    def __init__(
        self,
        model: nn.Module,
        settings: Plan,
        optimisers: list[torch.optim.Optimizer],
        averaged: Sequence[Tensor],
    ) -> None:
        self.settings = settings
        self.step = 0
        self.data: dict[str, Any] = {}  # what of the data a checkpoint must agree with
        self.last: dict[str, float] = {}  # figures of the history that do not change in every step
        self.history: list[dict[str, Any]] = []
        self.optimisers = optimisers
        self.average = [p.detach().clone() for p in averaged] if settings.ema is not None else []
        self.module = model
        self._infinite = set(not_finite(model.state_dict()))
        self._averaged = averaged

    def begin(self) -> None:
        """Put the model in the modes and flags of the training, before its first step."""
        self.module.train()

    def advance(self, images: Callable[[int], Any]) -> dict[str, Tensor]:
        """Take one step and return its losses; ``images(k)`` is the k-th batch of the run."""
        raise NotImplementedError

    def _descend(
        self, value: Tensor, optimiser: torch.optim.Optimizer, weights: list[nn.Parameter], clip: float | None
    ) -> dict[str, Tensor]:
        """Take a step of the optimiser along the gradient of a scalar loss, its norm bounded; return the loss."""
        optimiser.zero_grad()
        value.backward()
        if clip is not None:
            nn.utils.clip_grad_norm_(weights, clip)
        optimiser.step()
        self._stepped()
        return {"train_loss": value.detach()}

    def _stepped(self) -> None:
        """Count a step, and update the average."""
        self.step += 1
        if self.settings.ema is not None:
            decay = min(self.settings.ema, self.step / (self.step + 9.0))
            torch._foreach_lerp_(self.average, [p.detach() for p in self._averaged], 1.0 - decay)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Let the model hold the averaged weights, where there are some."""
        current = [p.detach().clone() for p in self._averaged] if self.average else []
        self._hold(self.average)
        try:
            yield
        finally:
            self._hold(current)

    def finish(self) -> None:
        """Leave the model in evaluation mode with the averaged weights, where there are some."""
        self._hold(self.average)
        self.module.eval()

    @torch.no_grad()
    def _hold(self, values: list[Tensor]) -> None:
        for p, value in zip(self._averaged, values, strict=bool(values)):
            p.copy_(value)

    def _identity(self) -> dict[str, Any]:
        """What a checkpoint and a run must agree on, beside the data."""
        return dataclasses.asdict(self.settings) | {"architecture": self.module.config.to_dict()}  # type: ignore

    def save(self, path: Path) -> None:
        """Write a checkpoint, whole or not at all.

        Raises
        ------
        FloatingPointError
            If weights are not finite; the file stays as it was.
        """
        self.check_finite()
        save_state(path, {"identity": {**self._identity(), **self.data}, **self._state()}, KIND)

    def _state(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "model": self.module.state_dict(),
            "optimisers": [optimiser.state_dict() for optimiser in self.optimisers],
            "average": self.average,
            "history": self.history,
            "last": self.last,
        }

    def check_finite(self) -> None:
        """Raise a FloatingPointError where weights are not finite."""
        if bad := self._not_finite({**self.module.state_dict(), "average": self.average}):
            raise FloatingPointError(
                f"{len(bad)} of the weights ({bad[0]}) are not finite after step {self.step}: {self.remedy}, "
                f"lr is {self.settings.lr}"
            )

    def _not_finite(self, state: dict[str, Any]) -> list[str]:
        """Names of values that are not finite, but for those that never were, such as masks of minus infinity."""
        return [name for name in not_finite(state) if name not in self._infinite]

    def load(self, path: Path) -> None:
        """Continue from a checkpoint.

        Raises
        ------
        ValueError
            If the file can't be read, holds values that are not finite, or belongs to a run with another
            architecture, other settings or other data.
        """
        state = load_state(path, KIND)
        refuse_other(path, state["identity"], {**self._identity(), **self.data})
        held = {**state["model"], "optimisers": state["optimisers"], "average": state["average"]}
        if bad := self._not_finite(held):
            raise ValueError(f"checkpoint {path} can't be used: {bad[0]} is not finite")
        self.module.load_state_dict(state["model"])
        for optimiser, values in zip(self.optimisers, state["optimisers"], strict=True):
            _restore(optimiser, values)
        self.average = [
            value.to(mine.device) for value, mine in zip(state["average"], self.average, strict=True)
        ]
        self.history, self.last = state["history"], state["last"]
        self.step = state["step"]


def _restore(optimiser: torch.optim.Optimizer, values: dict[str, Any]) -> None:
    """Load the state of an optimiser, averages in the memory format of their parameters.

    The fused Adam pairs the entries of a parameter with those of its averages as they lie in memory.
    """
    optimiser.load_state_dict(values)
    for p, state in optimiser.state.items():
        for name, value in state.items():
            if isinstance(value, Tensor) and value.shape == p.shape:
                state[name] = torch.empty_like(p, dtype=value.dtype).copy_(value)


def running_statistics(module: nn.Module) -> list[Tensor]:
    """Return the running means and variances of all batch normalisation layers of a module.

    They follow the weights of the last few steps (momentum 0.1), so beside averaged weights they belong to
    another network: they have to be averaged alike. Measured after 1,000 steps with ema=0.99 of a small
    `StridedConfig` on coloured discs: 23.46 dB on held-out images, as good as with statistics taken anew from
    50 batches (23.45 dB), while those of the last steps give 23.14 dB.
    """
    layers = [m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    pairs = [(layer.running_mean, layer.running_var) for layer in layers]
    return [t for pair in pairs for t in pair if t is not None]


def drive(
    run: State,
    images: Callable[[int], Any],
    *,
    data: Callable[[], dict[str, Any]],
    measure: Callable[[], dict[str, float]],
    validate_every: int,
    checkpoint: str | os.PathLike[str] | None,
    checkpoint_seconds: float,
    resume: bool,
    progress: bool,
    device: torch.device,
) -> None:
    """Take all steps of a run, from its checkpoint where asked to, and fill its history.

    The modes and flags of the model are as before where this raises, and its flags in any case. ``data()`` returns
    what of the data a checkpoint and a run must agree on (see `genreg.solvers.checkpoints`).

    Raises
    ------
    ValueError
        If the checkpoint belongs to another run or can't be read.
    FloatingPointError
        If a loss is found to be non-finite at a validation or a checkpoint, or the weights are at a checkpoint or the
        end.
    KeyboardInterrupt
        At Ctrl-C, after the end of the step and a checkpoint, where there is one.
    """
    steps = run.settings.steps
    file = None if checkpoint is None else Path(checkpoint)
    with returned_on_failure(run.module), interruptible(file is not None) as interrupted:
        run.begin()
        if file is not None:
            run.data = data()
            if resume and file.exists():
                run.load(file)
            elif resume and progress:
                tqdm.write(f"There is no checkpoint {file}: the training starts anew.", sys.stderr)
        bar = tqdm(total=steps, initial=run.step, desc="train", disable=not progress, mininterval=1.0)
        saved = time.monotonic()
        with bar, seeded(None, device):
            while run.step < steps:
                reseed(run.settings.seed_of(run.step), device)
                values = run.advance(images)
                bar.update()
                last, stops = run.step == steps, interrupted()
                validates = run.step % validate_every == 0 or last
                due = last or stops or time.monotonic() - saved >= checkpoint_seconds
                saves = file is not None and due
                if not (validates or saves):
                    continue
                losses = {key: value.item() for key, value in values.items()}
                for key, number in losses.items():
                    if not math.isfinite(number):
                        raise FloatingPointError(
                            f"{key.replace('_', ' ')} is {number} at step {run.step}: {run.remedy}, "
                            f"lr is {run.settings.lr}"
                        )
                if validates:
                    run.history.append({"step": run.step, **losses, **measure()})
                    shown = list(run.history[-1].items())[1:5]
                    bar.set_postfix({key: f"{number:.4g}" for key, number in shown})
                if file is not None and due:
                    run.save(file)
                    saved = time.monotonic()
                if stops:
                    break
        if interrupted():
            raise KeyboardInterrupt(
                f"interrupted after step {run.step} of {steps}, which {file} holds: resume=True goes on"
            )
        run.check_finite()
        run.finish()
