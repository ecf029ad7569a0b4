r"""Training of structured precisions, and the likelihood of held-out images.

A structured model, p(x | z) = N(x; G(z), Λ(z)^-1) with Λ = L L', is trained in two stages: first encoder and mean with
one standard deviation for all pixels (`genreg.training.fit`), then, by `fit_precision`, the head that predicts L, with
encoder and mean as they are. The second stage minimises the mean over images x of

    -log N(x; G(z), Λ(z)^-1) + w/2 sum_{p, k} a_k(p)^2,    z ~ q(z | x),

with a the coefficients of `genreg.networks.Structured` and w the precision of an optional Gaussian prior on them. A
third stage, ``joint=True``, goes on with all weights and the Kullback-Leibler term, so with the evidence lower bound.

A head can only learn how large residuals are from images for which they are as large as for unseen ones. Give it
images that the mean was not trained on, where there are few.

References
----------
G. Dorta, S. Vicente, L. Agapito, N. D. F. Campbell, I. Simpson (2018), Structured uncertainty prediction networks,
CVPR, arXiv:1802.07079.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from genreg.networks import Structured
from genreg.operators import SparseCholeskyPrecision
from genreg.operators.bridge.modes import undisturbed
from genreg.solvers.checkpoints import digest
from genreg.training.batches import Batches, Sampler, checked, checked_source
from genreg.training.engine import State, drive, running_statistics
from genreg.training.gaussian_likelihood import (
    fit_gamma,
    likelihood,
    log_likelihoods,
    posterior,
    precision_of,
)
from genreg.training.settings import Plan, check_run

__all__ = ["fit_gamma", "fit_precision", "likelihood", "log_likelihoods", "precision_of"]


@dataclass(frozen=True, kw_only=True)
class PrecisionSettings(Plan):
    """What determines the result of a run, apart from model and images; stored in checkpoints and cards."""

    positive: ClassVar[tuple[str, ...]] = (*Plan.positive, "clip")
    non_negative: ClassVar[tuple[str, ...]] = (
        *Plan.non_negative,
        *("weight_prior", "weight_decay", "kl_weight"),
    )

    joint: bool
    sampled: bool
    weight_prior: float
    kl_weight: float
    weight_decay: float
    clip: float | None


class PrecisionRun(State):
    """A structured model whose head, or all of it, is in training."""

    remedy: ClassVar[str] = "lower lr or set clip"
    settings: PrecisionSettings

    def __init__(self, model: Structured, settings: PrecisionSettings) -> None:
        self.model = model
        trained: nn.Module = model if settings.joint else model.head
        self.weights = [p for name, p in trained.named_parameters() if name != "log_gamma"]
        self.optimiser = torch.optim.AdamW(
            self.weights, lr=settings.lr, weight_decay=settings.weight_decay, fused=True
        )
        super().__init__(model, settings, [self.optimiser], [*self.weights, *running_statistics(trained)])

    def objective(self, x: Tensor) -> Tensor:
        """Return the mean objective of a batch of images."""
        model, settings = self.model, self.settings
        with torch.set_grad_enabled(settings.joint):
            z, divergence = posterior(model, x, settings.sampled)
            mean = model.decode(z)
        precision = precision_of(model, mean)
        value = -precision.log_density(x - mean).mean()
        if settings.joint:
            value = value + settings.kl_weight * divergence.mean()
        if settings.weight_prior and isinstance(precision, SparseCholeskyPrecision):
            a = model.coefficients(precision.log_diag, precision.weights)
            value = value + 0.5 * settings.weight_prior * a.square().sum() / len(x)
        return value

    def advance(self, images: Callable[[int], Tensor]) -> dict[str, Tensor]:
        """Take one step of Adam on a batch and return its loss."""
        settings, x = self.settings, images(self.step)
        for part in (self.model.encoder, self.model.decoder):
            part.train(settings.joint)
        for group in self.optimiser.param_groups:
            group["lr"] = settings.rate(self.step)
        try:
            value = self.objective(x)
        except ValueError as error:  # a precision refuses parameters that are not finite
            raise FloatingPointError(
                f"the precision of step {self.step} fails: {error}; {self.remedy}, lr is {settings.lr}"
            ) from error
        return self._descend(value, self.optimiser, self.weights, settings.clip)


@undisturbed
def fit_precision(
    model: Structured,
    images: Tensor | Sampler,
    *,
    steps: int,
    batch_size: int = 32,
    lr: float = 1e-3,
    schedule: str = "cosine",
    warmup: int = 0,
    joint: bool = False,
    sampled: bool = True,
    weight_prior: float = 0.0,
    kl_weight: float = 1.0,
    weight_decay: float = 0.0,
    clip: float | None = None,
    ema: float | None = None,
    seed: int = 0,
    validation: Tensor | None = None,
    validate_every: int = 1000,
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_seconds: float = 120.0,
    resume: bool = False,
    progress: bool = True,
) -> dict[str, Any]:
    """Train the precision of a structured model with Adam, in place; it is in evaluation mode afterwards.

    Parameters
    ----------
    model
        The model, on the device to train on; usually what `StructuredConfig.grow` made of a trained mean.
    images
        Images ``(N, *image_shape)``, or a function ``sampler(n, *, seed)``, as in `genreg.training.fit`.
    steps, batch_size, lr, schedule, warmup, weight_decay, clip, ema, seed
        As in `genreg.training.fit`.
    joint
        Whether encoder and mean are trained as well, by the evidence lower bound; at a lower rate, such as 1e-4.
    sampled
        Whether z is drawn from q(z | x); its mean is taken where False, and for models that are not variational.
    weight_prior
        Precision of the Gaussian prior on each coefficient a.
    kl_weight
        Weight of the Kullback-Leibler term of joint training.
    validation
        Held-out images ``(N, *image_shape)`` for `likelihood`.
    validate_every, checkpoint, checkpoint_seconds, resume, progress
        As in `genreg.training.fit`.

    Returns
    -------
    dict
        A JSON-able card: "architecture", "training" (the settings), "score" (of `likelihood` on `validation`, if given)
        and "history" (step, training loss and scores at each validation).

    Raises
    ------
    TypeError
        If an argument has the wrong type.
    ValueError
        If images have the wrong shape or non-finite values, a number is out of range, or the checkpoint
        belongs to a run with other settings.
    FloatingPointError
        If the loss becomes non-finite.
    """
    settings = PrecisionSettings(
        steps=steps,
        batch_size=batch_size,
        lr=lr,
        schedule=schedule,
        warmup=warmup,
        joint=bool(joint),
        sampled=bool(sampled),
        weight_prior=weight_prior,
        kl_weight=kl_weight,
        weight_decay=weight_decay,
        clip=clip,
        ema=ema,
        seed=seed,
    )
    check_run(resume, checkpoint, validate_every, checkpoint_seconds)
    if not isinstance(model, Structured):
        raise TypeError(
            f"model must be a Structured autoencoder, got {type(model).__name__}; "
            "StructuredConfig(mean=model.config).grow(model) makes one"
        )
    images = checked_source(images, model, settings)
    held_out = None if validation is None else checked(validation, model, "validation")
    run = PrecisionRun(model, settings)

    def measure() -> dict[str, float]:
        with run.averaged():
            return {} if held_out is None else likelihood(model, held_out)

    source = Batches(images, settings, next(model.parameters()))
    fixed = {} if joint else {k: t for k, t in model.state_dict().items() if not k.startswith("head.")}
    drive(
        run,
        source,
        data=lambda: {
            "images": source.identity(),
            "validation": digest(held_out),
            "encoder and mean": digest(fixed),
        },
        measure=measure,
        validate_every=validate_every,
        checkpoint=checkpoint,
        checkpoint_seconds=checkpoint_seconds,
        resume=resume,
        progress=progress,
        device=model.log_gamma.device,
    )
    card: dict[str, Any] = {
        "architecture": model.config.to_dict(),
        "training": dataclasses.asdict(settings),
        "history": run.history,
    }
    if held_out is not None:
        card["score"] = likelihood(model, held_out)
    return card
