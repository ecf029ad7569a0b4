"""The training of regressors from images to Gaussian images: settings, objective, one step, the run."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from genreg.networks import GaussianRegressor
from genreg.networks.borrowed import evaluating
from genreg.operators.bridge.modes import undisturbed
from genreg.solvers.checkpoints import digest
from genreg.training.batches import Batches, checked
from genreg.training.engine import State, drive
from genreg.training.settings import Plan, check_run

__all__ = ["Run", "Settings", "fit"]

_SCORE = "negative_log_density"
_PART = 64  # images predicted at a time outside of training


@dataclass(frozen=True, kw_only=True)
class Settings(Plan):
    """What determines the result of a run, apart from model and images; stored in checkpoints and cards."""

    integers: ClassVar[tuple[str, ...]] = (*Plan.integers, "mean_steps")
    positive: ClassVar[tuple[str, ...]] = (*Plan.positive, "clip")
    non_negative: ClassVar[tuple[str, ...]] = (*Plan.non_negative, "weight_decay", "mean_steps")

    weight_decay: float
    clip: float | None
    mean_steps: int


class Run(State):
    """A regressor in training on pairs of an image and M images."""

    remedy: ClassVar[str] = "lower lr or clip"
    settings: Settings

    def __init__(self, model: GaussianRegressor, inputs: Tensor, outputs: Tensor, settings: Settings) -> None:
        self.model, self.inputs, self.outputs = model, inputs, outputs
        self.weights = list(model.parameters())
        self.optimiser = torch.optim.AdamW(
            self.weights, lr=settings.lr, weight_decay=settings.weight_decay, fused=True
        )
        super().__init__(model, settings, [self.optimiser], self.weights)

    def objective(self, x: Tensor, y: Tensor, mean_first: bool = False) -> Tensor:
        """Return the mean objective of a batch, for one pixel; y is ``(B, M, n, m)``."""
        v = self.model.link.forward(y.transpose(0, 1))
        if mean_first:
            return 0.5 * (v - self.model(x)[0]).square().mean()
        mean, precision = self.model.predict(x)
        return -precision.log_density(v - mean).mean() / mean[0].numel()

    def advance(self, images: Callable[[int], Tensor]) -> dict[str, Tensor]:
        """Take one step of Adam on a batch and return its loss."""
        index = images(self.step)
        self.optimiser.param_groups[0]["lr"] = self.settings.rate(self.step)
        mean_first = self.step < self.settings.mean_steps
        value = self.objective(self.inputs[index], self.outputs[index], mean_first)
        return self._descend(value, self.optimiser, self.weights, self.settings.clip)

    @torch.no_grad()
    def score(self, inputs: Tensor, outputs: Tensor) -> float:
        """Return the mean objective of held-out pairs."""
        with evaluating(self.model):
            total = [
                self.objective(x, y) * len(x)
                for x, y in zip(inputs.split(_PART), outputs.split(_PART), strict=True)
            ]
        return float(sum(total)) / len(inputs)


@undisturbed
def fit(
    model: GaussianRegressor,
    inputs: Tensor,
    outputs: Tensor,
    validation: tuple[Tensor, Tensor] | None,
    settings: Settings,
    validate_every: int,
    checkpoint: str | os.PathLike[str] | None,
    checkpoint_seconds: float,
    resume: bool,
    progress: bool,
) -> dict[str, Any]:
    """Train a regressor and return its card."""
    check_run(resume, checkpoint, validate_every, checkpoint_seconds)
    if not isinstance(model, GaussianRegressor):
        raise TypeError(f"model must be a GaussianRegressor, got {type(model).__name__}")
    inputs, outputs = _pairs(model, inputs, outputs, "inputs", "outputs")
    held_out = None
    if validation is not None:
        if not isinstance(validation, tuple) or len(validation) != 2:
            raise TypeError(f"validation must be a tuple (inputs, outputs), got {type(validation).__name__}")
        held_out = _pairs(model, *validation, "the inputs of validation", "the outputs of validation")
    run = Run(model, inputs, outputs, settings)

    def measure() -> dict[str, float]:
        with run.averaged():
            return {} if held_out is None else {_SCORE: run.score(*held_out)}

    drive(
        run,
        Batches(torch.arange(len(inputs), device=inputs.device), settings, inputs),
        data=lambda: {"inputs": digest(inputs), "outputs": digest(outputs), "validation": digest(held_out)},
        measure=measure,
        validate_every=validate_every,
        checkpoint=checkpoint,
        checkpoint_seconds=checkpoint_seconds,
        resume=resume,
        progress=progress,
        device=inputs.device,
    )
    card: dict[str, Any] = {
        "architecture": model.config.to_dict(),
        "training": dataclasses.asdict(settings),
        "history": run.history,
    }
    if held_out is not None:
        card["score"] = {_SCORE: run.history[-1][_SCORE]}
    return card


def _pairs(
    model: GaussianRegressor, inputs: Any, outputs: Any, of_inputs: str, of_outputs: str
) -> tuple[Tensor, Tensor]:
    """Return inputs ``(N, n, m)`` and outputs ``(N, M, n, m)`` that fit the model and each other."""
    inputs = checked(inputs, model, of_inputs)
    if isinstance(outputs, Tensor) and outputs.ndim == inputs.ndim:
        outputs = outputs.unsqueeze(1)
    members = outputs.shape[1] if isinstance(outputs, Tensor) and outputs.ndim == 4 else 0
    flat = outputs.flatten(0, 1) if members else outputs
    flat = checked(flat, model, of_outputs)
    if members == 0 or len(flat) != members * len(inputs):
        raise ValueError(
            f"{of_outputs} must have the shape ({len(inputs)}, M, {', '.join(map(str, model.image_shape))}), "
            f"got {tuple(outputs.shape)}"
        )
    return inputs, flat.unflatten(0, (len(inputs), members))
