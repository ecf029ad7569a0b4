r"""Training of Wasserstein GANs with a gradient penalty.

A generator G and a critic D play for the Wasserstein distance between the distribution of images x and that
of G(z), z ~ N(0, I). The critic minimises

    E D(G(z)) - E D(x) + mu E (||grad D(h)|| - 1)^2,    h = t x + (1 - t) G(z),    t ~ U(0, 1),

where ||.|| is the Euclidean norm over all pixels of an image and every pair (x, z) has its own t; the
generator minimises -E D(G(z)). A step is some steps of the critic, each on new images, and one of the
generator. There is no encoder: the latent vector of an image is found by descent
(`genreg.training.range_error` with restarts).

References
----------
I. Gulrajani, F. Ahmed, M. Arjovsky, V. Dumoulin, A. Courville, "Improved training of Wasserstein GANs", 2017.
arXiv:1704.00028.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor

from genreg.networks import GAN
from genreg.networks.borrowed import evaluating
from genreg.operators.bridge.modes import undisturbed
from genreg.solvers.checkpoints import digest
from genreg.training.batches import Batches, Sampler, checked, checked_source
from genreg.training.engine import State, drive, running_statistics
from genreg.training.model_scores import range_error
from genreg.training.settings import Plan, check_run

__all__ = ["fit_gan", "gradient_penalty"]

_WATCHED = 32  # held-out images whose range error the history shows


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(Plan):
    """What determines the result of a run, apart from model and images; stored in checkpoints and cards."""

    integers: ClassVar[tuple[str, ...]] = (*Plan.integers, "critic_steps")
    positive: ClassVar[tuple[str, ...]] = (*Plan.positive, "critic_steps")
    non_negative: ClassVar[tuple[str, ...]] = (*Plan.non_negative, "penalty")

    betas: tuple[float, float]
    penalty: float
    critic_steps: int

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas must be two numbers in [0, 1), got {self.betas}")


def gradient_penalty(model: GAN, real: Tensor, fake: Tensor) -> Tensor:
    """Return the mean over a batch of (||grad D(h)|| - 1)^2, h between real and fake; differentiable.

    Parameters
    ----------
    model
        The model whose critic D is meant.
    real, fake
        Images ``(B, n, m)``. One share t per pair is drawn from torch's global generator.

    Returns
    -------
    Tensor
        A scalar.
    """
    one_each = (len(real),) + (1,) * (real.ndim - 1)
    t = torch.rand(one_each, device=real.device, dtype=real.dtype)
    h = torch.lerp(fake.detach(), real, t).requires_grad_()
    (gradient,) = torch.autograd.grad(model.discriminate(h).sum(), h, create_graph=True)
    return (torch.linalg.vector_norm(gradient.flatten(1), dim=1) - 1.0).square().mean()


class Run(State):
    """A GAN in training; the average is that of the generator's weights."""

    settings: Settings
    remedy: ClassVar[str] = "lower lr or raise penalty"

    def __init__(self, model: GAN, settings: Settings) -> None:
        self.model = model
        self.generator, self.critic = (
            torch.optim.Adam(part.parameters(), lr=settings.lr, betas=settings.betas, fused=True)
            for part in (model.decoder, model.critic)
        )
        decoder = [*model.decoder.parameters(), *running_statistics(model.decoder)]
        super().__init__(model, settings, [self.generator, self.critic], decoder)

    def advance(self, images: Callable[[int], Tensor]) -> dict[str, Tensor]:
        """Take the critic's steps and one of the generator; return the losses of the last."""
        settings = self.settings
        for optimiser in self.optimisers:
            optimiser.param_groups[0]["lr"] = settings.rate(self.step)
        for k in range(settings.critic_steps):
            real = images(settings.critic_steps * self.step + k)
            with torch.no_grad():
                fake = self._fake(real, len(real))
            on_real, on_fake = self.model.discriminate(torch.cat([real, fake])).chunk(2)
            penalty = gradient_penalty(self.model, real, fake)
            distance = on_real.mean() - on_fake.mean()
            self.critic.zero_grad()
            (settings.penalty * penalty - distance).backward()
            self.critic.step()
        weights = list(self.model.decoder.parameters())
        loss = -self.model.discriminate(self._fake(real, settings.batch_size)).mean()
        for p, gradient in zip(weights, torch.autograd.grad(loss, weights), strict=True):
            p.grad = gradient
        self.generator.step()
        self._stepped()
        return {
            "wasserstein": distance.detach(),
            "penalty": penalty.detach(),
            "generator_loss": loss.detach(),
        }

    def _fake(self, like: Tensor, n: int) -> Tensor:
        """Draw images of the generator, ``(n, rows, columns)``."""
        z = torch.randn(n, self.model.latent_dim, device=like.device, dtype=like.dtype)
        return self.model.decode(z).to(like.dtype)


@undisturbed
def fit_gan(
    model: GAN,
    images: Tensor | Sampler,
    *,
    steps: int,
    batch_size: int = 64,
    lr: float = 1e-4,
    betas: tuple[float, float] = (0.0, 0.9),
    schedule: str = "constant",
    warmup: int = 0,
    penalty: float = 10.0,
    critic_steps: int = 5,
    ema: float | None = None,
    seed: int = 0,
    validation: Tensor | None = None,
    validate_every: int = 1000,
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_seconds: float = 120.0,
    resume: bool = False,
    progress: bool = True,
) -> dict[str, Any]:
    r"""Train a GAN with Adam, in place; the model is in evaluation mode afterwards.

    Parameters
    ----------
    model
        The model, on the device to train on.
    images
        Images ``(N, n, m)`` from which each step of the critic draws its batch, every image once an epoch; or
        a function ``sampler(n, *, seed)`` that makes new ones, called with a different seed each time.
    steps
        Number of steps of the generator.
    batch_size
        Number of images in a step.
    lr
        Learning rate of both networks, which the schedule multiplies.
    betas
        Decay of Adam's averages of the gradient and of its square.
    schedule, warmup
        As in `genreg.training.fit`.
    penalty
        Weight mu of the gradient penalty.
    critic_steps
        Number of steps of the critic in a step.
    ema
        Decay of an exponential moving average of the generator's weights, which the model holds at the end;
        none where None.
    seed
        Seed of all random numbers: batches, latent vectors, interpolation, dropout. The initial weights are
        the caller's. The same seed gives the same result on one device and number of threads.
    validation
        Held-out images ``(N, n, m)`` for the history: the critic's distance on them, and the range error of
        the first 32 by a short descent.
    validate_every
        Number of steps between entries of the history.
    checkpoint, checkpoint_seconds, resume, progress
        As in `genreg.training.fit`.

    Returns
    -------
    dict
        A JSON-able card: "architecture", "training" (the settings) and "history": for each entry "step",
        "wasserstein" (the critic's estimate of the distance on the last batch, in units of the Euclidean norm
        of an image), "penalty" (without its weight) and "generator_loss"; with `validation`
        "validation_wasserstein" and "range_psnr".

    Raises
    ------
    TypeError
        If an argument has the wrong type.
    ValueError
        If images have the wrong shape or non-finite values, a number is out of range, or the checkpoint
        belongs to a run with other settings.
    FloatingPointError
        If a loss becomes non-finite.
    """
    settings = Settings(
        steps=steps,
        batch_size=batch_size,
        lr=lr,
        betas=tuple(float(beta) for beta in betas),  # type: ignore[arg-type]
        schedule=schedule,
        warmup=warmup,
        penalty=penalty,
        critic_steps=critic_steps,
        ema=ema,
        seed=seed,
    )
    check_run(resume, checkpoint, validate_every, checkpoint_seconds)
    if not isinstance(model, GAN):
        raise TypeError(
            f"model must be a GAN (genreg.networks.GanConfig), got {type(model).__name__}; autoencoders are "
            "trained by genreg.training.fit"
        )
    device = next(model.parameters()).device
    images = checked_source(images, model, settings)
    held_out = None if validation is None else checked(validation, model, "validation")
    run = Run(model, settings)

    def measure() -> dict[str, float]:
        if held_out is None:
            return {}
        with run.averaged(), evaluating(model):
            with torch.no_grad():
                distance = (
                    model.discriminate(held_out).mean()
                    - model.discriminate(run._fake(held_out, len(held_out))).mean()
                )
            error = range_error(model, held_out[:_WATCHED], steps=150, lr=0.1, restarts=4)
        return {"validation_wasserstein": distance.item(), "range_psnr": error["range_psnr"]}

    source = Batches(images, settings, next(model.parameters()))
    drive(
        run,
        source,
        data=lambda: {"images": source.identity(), "validation": digest(held_out)},
        measure=measure,
        validate_every=validate_every,
        checkpoint=checkpoint,
        checkpoint_seconds=checkpoint_seconds,
        resume=resume,
        progress=progress,
        device=device,
    )
    return {
        "architecture": model.config.to_dict(),
        "training": dataclasses.asdict(settings) | {"betas": list(settings.betas)},
        "history": run.history,
    }
