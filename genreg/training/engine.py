"""What every training has in common: its state, checkpoints, the loop, the card."""

from __future__ import annotations

import dataclasses
import math
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from genreg.networks.borrowed import reseed, returned_on_failure, seeded
from genreg.solvers.checkpoints import (
    atomically,
    digest,
    interruptible,
    load_state,
    not_finite,
    refuse_other,
    save_state,
)
from genreg.training.batches import Batches, Source, held_out_images
from genreg.training.best_weights import BestWeights
from genreg.training.optimisers import adamw, restore, running_statistics
from genreg.training.settings import Bookkeeping, Checked, Optimisation

__all__ = ["KIND", "Trainer", "atomically"]

KIND = "training"  # of state that checkpoints hold
_ENTRIES = 20  # of the history, unless told otherwise


class Trainer:
    """A model in training with all that a checkpoint holds; subclasses say what is minimised.

    Every random number of a step comes from torch's generator seeded with ``optimisation.seed_of(step)``, so a
    checkpoint holds no generator: the number of the step says it all.

    Parameters
    ----------
    model
        The model.
    optimisation
        How to optimise.
    batches
        The data: ``batches(k)`` is the k-th batch of the run.
    options
        What else determines the result.
    held_out
        Held-out data.
    """

    remedy: ClassVar[str] = "lower lr or set clip"
    scored: ClassVar[tuple[str, ...]] = ()
    """What of the entry of the history to which the weights belong is the score on the card."""
    criterion: ClassVar[tuple[str, int] | None] = None
    """The score by which weights are the best, and 1 where less is better, -1 where more is."""

    def __init__(
        self,
        model: nn.Module,
        optimisation: Optimisation,
        batches: Source,
        options: Checked,
        held_out: Any = None,
    ) -> None:
        self.module, self.optimisation, self.options = model, optimisation, options
        self.batches, self.held_out = batches, held_out
        self.weights = self.trained()
        self.settings = dataclasses.asdict(optimisation) | dataclasses.asdict(options)
        self.optimisers = self.make_optimisers()
        self._averaged = self.followed()
        self.average = [p.detach().clone() for p in self._averaged] if optimisation.ema is not None else []
        self.step = 0
        self.last: dict[str, float] = {}  # figures of the history that do not change in every step
        self.history: list[dict[str, Any]] = []
        self.best: BestWeights | None = None
        if optimisation.judged:
            if self.criterion is None or held_out is None:
                lacking = (
                    "held-out data" if self.criterion else "a training whose score tells better from worse"
                )
                raise ValueError(
                    f"keep_best and patience need {lacking}, which {type(self).__name__} has not"
                )
            self.best = BestWeights(*self.criterion, optimisation.patience)
        self._infinite = set(not_finite(model.state_dict()))
        self._known: dict[str, Any] = {}

    @classmethod
    def fit(
        cls,
        model: Any,
        images: Any,
        validation: Any,
        optimisation: Optimisation,
        options: Checked,
        how: Bookkeeping,
    ) -> dict[str, Any]:
        """Train a model of images on some, or on a sampler, all of them checked, and return the card."""
        batches, held_out = Batches.checked(images, model, optimisation), held_out_images(validation, model)
        return cls(model, optimisation, batches, options, held_out).train(how)

    def trained(self) -> list[nn.Parameter]:
        """Return the parameters that are trained; by default all."""
        return list(self.module.parameters())

    def make_optimisers(self) -> list[torch.optim.Optimizer]:
        """Return the optimisers that take the steps; by default `adamw` on the weights."""
        return [adamw(self.weights, self.optimisation)]

    def followed(self) -> list[Tensor]:
        """Return what the moving average is of; by default the weights and the statistics of batch normalisation."""
        return [*self.weights, *running_statistics(self.module)]

    def begin(self) -> None:
        """Put the model in the modes and flags of the training, before its first step."""
        self.module.train()

    def loss(self, batch: Any) -> Tensor:
        """Return the scalar that a step on a batch lowers."""
        raise NotImplementedError

    def advance(self) -> dict[str, Tensor]:
        """Take one step and return its losses."""
        batch = self.batches(self.step)
        self.set_rates()
        return {"train_loss": self.descend(self.loss(batch), self.optimisers[0], self.weights)}

    def set_rates(self) -> None:
        """Give the optimisers the learning rate of this step, times the factor that a group of parameters has."""
        for group in (group for optimiser in self.optimisers for group in optimiser.param_groups):
            group["lr"] = group.get("factor", 1.0) * self.optimisation.rate(self.step)

    def descend(
        self,
        value: Tensor,
        optimiser: torch.optim.Optimizer,
        weights: list[nn.Parameter],
        *,
        alone: bool = False,
    ) -> Tensor:
        """Take a step of the optimiser along the gradient of a loss, its norm bounded; return the loss.

        Gradients of other parameters of the model are left as they are where `alone`.
        """
        optimiser.zero_grad()
        value.backward(inputs=weights if alone else None)
        if self.optimisation.clip is not None:
            nn.utils.clip_grad_norm_(weights, self.optimisation.clip)
        optimiser.step()
        return value.detach()

    def stepped(self) -> None:
        """Count a step, and update the average."""
        self.step += 1
        if self.optimisation.ema is not None:
            decay = min(self.optimisation.ema, self.step / (self.step + 9.0))
            torch._foreach_lerp_(self.average, [p.detach() for p in self._averaged], 1.0 - decay)

    def measure(self) -> dict[str, float]:
        """Return what the history shows: the scores with the averaged weights, where there are some."""
        if self.held_out is None:
            return {}
        with self.averaged():
            return self.score()

    def score(self) -> dict[str, float]:
        """Return how good the model is on the held-out data."""
        raise NotImplementedError

    def _validate(self, losses: dict[str, float]) -> None:
        """Add an entry to the history, and keep its weights where they are the best so far."""
        self.history.append({"step": self.step, **losses, **self.measure()})
        if self.best is not None:
            with self.averaged():
                self.best.judge(self.history[-1], self.module)

    @property
    def overfits(self) -> bool:
        """Whether the training is to end, as the score has not become better for long."""
        return self.best is not None and self.best.overfits(self.history)

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
        """Leave the model in evaluation mode with the best or the averaged weights, where there are some."""
        self._hold(self.average)
        if self.best is not None:
            self.module.load_state_dict(self.best.weights)
        self.module.eval()

    @torch.no_grad()
    def _hold(self, values: list[Tensor]) -> None:
        for p, value in zip(self._averaged, values, strict=bool(values)):
            p.copy_(value)

    def train(self, bookkeeping: Bookkeeping) -> dict[str, Any]:
        """Take all steps, from the checkpoint where asked to, and return the card.

        The modes and flags of the model are as before where this raises, and its flags in any case.

        Raises
        ------
        ValueError
            If the checkpoint belongs to another run or can't be read.
        FloatingPointError
            If a loss is found to be non-finite at a validation or a checkpoint, or the weights are at a checkpoint or
            the end.
        KeyboardInterrupt
            At Ctrl-C, after the end of the step and a checkpoint, where there is one.
        """
        steps, device = self.optimisation.steps, self.weights[0].device
        every = bookkeeping.validate_every or max(1, steps // _ENTRIES)
        file = None if bookkeeping.checkpoint is None else Path(bookkeeping.checkpoint)
        hidden = not bookkeeping.progress
        with returned_on_failure(self.module), interruptible(file is not None) as interrupted:
            self.begin()
            if file is not None:
                self._known = self.data()
                if bookkeeping.resume and file.exists():
                    self.load(file)
                elif bookkeeping.resume and not hidden:
                    tqdm.write(f"There is no checkpoint {file}: the training starts anew.", sys.stderr)
            bar = tqdm(total=steps, initial=self.step, desc="train", disable=hidden, mininterval=1.0)
            saved = time.monotonic()
            with bar, seeded(None, device):
                while self.step < steps and not self.overfits:
                    reseed(self.optimisation.seed_of(self.step), device)
                    values = self.advance()
                    self.stepped()
                    bar.update()
                    last, stops = self.step == steps, interrupted()
                    validates = self.step % every == 0 or last
                    due = last or stops or time.monotonic() - saved >= bookkeeping.checkpoint_seconds
                    if not (validates or (file is not None and due)):
                        continue
                    losses = self.check_losses(values, self.step)
                    if validates:
                        self._validate(losses)
                        due = due or self.overfits
                        shown = list(self.history[-1].items())[1:5]
                        bar.set_postfix({key: f"{number:.4g}" for key, number in shown})
                    if file is not None and due:
                        self.save(file)
                        saved = time.monotonic()
                    if stops:
                        break
            if interrupted():
                raise KeyboardInterrupt(
                    f"interrupted after step {self.step} of {steps}, which {file} holds: resume=True goes on"
                )
            if self.overfits and self.best is not None and not hidden:
                tqdm.write(
                    f"The training ends after step {self.step} of {steps}: it over-fits since step "
                    f"{self.best.step}, whose weights are kept.",
                    sys.stderr,
                )
            self.check_finite()
            self.finish()
        return self.card()

    def card(self) -> dict[str, Any]:
        """Return the JSON-able card of a training that is done."""
        training = {k: list(v) if isinstance(v, tuple) else v for k, v in self.settings.items()}
        card = {**self.described(), "training": training, "history": self.history}
        if self.best is not None:
            card["kept_step"] = self.best.step
        if self.held_out is not None and self.scored:
            kept = self.step if self.best is None else self.best.step
            entry = next(entry for entry in self.history if entry["step"] == kept)
            card["score"] = {name: entry[name] for name in self.scored if name in entry}
        return card

    def described(self) -> dict[str, Any]:
        """Return what is in training, for cards and checkpoints."""
        config: Any = self.module.config
        return {"architecture": config.to_dict()}

    def data(self) -> dict[str, Any]:
        """Return what of the data a checkpoint and a run must agree on (see `genreg.solvers.checkpoints`)."""
        return {"images": self.batches.identity(), "validation": digest(self.held_out)}

    def _identity(self) -> dict[str, Any]:
        return {**self.settings, **self.described(), **self._known}

    def save(self, path: Path) -> None:
        """Write a checkpoint, whole or not at all.

        Raises
        ------
        FloatingPointError
            If weights are not finite; the file stays as it was.
        """
        self.check_finite()
        state = {
            "identity": self._identity(),
            "step": self.step,
            "model": self.module.state_dict(),
            "optimisers": [optimiser.state_dict() for optimiser in self.optimisers],
            "average": self.average,
            "history": self.history,
            "last": self.last,
            "best": None if self.best is None else self.best.state(),
        }
        save_state(path, state, KIND)

    def load(self, path: Path) -> None:
        """Continue from a checkpoint.

        Raises
        ------
        ValueError
            If the file can't be read, holds values that are not finite, or belongs to a run with another
            architecture, other settings or other data.
        """
        state = load_state(path, KIND)
        refuse_other(path, state["identity"], self._identity())
        held = {**state["model"], "optimisers": state["optimisers"], "average": state["average"]}
        if bad := self._not_finite(held):
            raise ValueError(f"checkpoint {path} can't be used: {bad[0]} is not finite")
        self.module.load_state_dict(state["model"])
        for optimiser, values in zip(self.optimisers, state["optimisers"], strict=True):
            restore(optimiser, values)
        self.average = [
            value.to(mine.device) for value, mine in zip(state["average"], self.average, strict=True)
        ]
        self.history, self.last = state["history"], state["last"]
        if self.best is not None:
            self.best.restore(state["best"])
        self.step = state["step"]

    def check_losses(self, values: dict[str, Tensor], step: int) -> dict[str, float]:
        """Return the losses of a step as numbers, or raise a FloatingPointError where one is not finite."""
        losses = {key: value.item() for key, value in values.items()}
        for key, number in losses.items():
            if not math.isfinite(number):
                raise FloatingPointError(
                    f"{key.replace('_', ' ')} is {number} at step {step}: {self.remedy}, "
                    f"lr is {self.optimisation.lr}"
                )
        return losses

    def check_finite(self) -> None:
        """Raise a FloatingPointError where weights are not finite."""
        if bad := self._not_finite({**self.module.state_dict(), "average": self.average}):
            raise FloatingPointError(
                f"{len(bad)} of the weights ({bad[0]}) are not finite after step {self.step}: {self.remedy}, "
                f"lr is {self.optimisation.lr}"
            )

    def _not_finite(self, state: dict[str, Any]) -> list[str]:
        """Names of values that are not finite, but for those that never were, such as masks of minus infinity."""
        return [name for name in not_finite(state) if name not in self._infinite]
