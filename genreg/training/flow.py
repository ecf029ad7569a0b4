r"""Training of normalising flows on images, by maximum likelihood.

A flow is a bijection of images x and latent vectors z ~ N(0, I), so it gives every image a density,

    log p(x) = -||z||^2 / 2 - d log(2 pi) / 2 + log |det dz/dx|,

of which `fit_flow` maximises the mean over images. Images have finitely many grey values, at which a density
could grow without bound; noise as wide as a grey value is added to them in training (dequantisation).

Any other flow serves in `genreg.FlowPrior` as well: a torch module with ``to_latent(x) -> (z, log_abs_det)``,
from images ``(B, n, m)`` to ``(B, d)`` and ``(B,)``; with ``decode(z)`` and ``latent_dim`` it is a model for
`genreg.Generator`. `genreg.weights.save` and `genreg.weights.load` keep the flows of this module in files.

References
----------
L. Theis, A. van den Oord, M. Bethge (2016), A note on the evaluation of generative models, arXiv:1511.01844.
C. Durkan, A. Bekasov, I. Murray, G. Papamakarios (2019), Neural spline flows, arXiv:1906.04032.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor

from genreg.networks import Flow, FlowConfig
from genreg.networks.borrowed import seeded
from genreg.operators.bridge.modes import undisturbed
from genreg.solvers.checkpoints import digest
from genreg.training.batches import Batches, checked
from genreg.training.engine import State, drive
from genreg.training.settings import Plan, check_run

__all__ = ["NOISES", "Flow", "FlowConfig", "fit_flow"]

NOISES: dict[str, float] = {"uniform": 1 / 12, "gaussian": 1.0}
"""Kinds of noise, with the variance of one of width 1."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Settings(Plan):
    positive: ClassVar[tuple[str, ...]] = (*Plan.positive, "clip")
    non_negative: ClassVar[tuple[str, ...]] = (*Plan.non_negative, "weight_decay", "dequantise")

    weight_decay: float
    clip: float | None
    dequantise: float
    noise: str

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.noise not in NOISES:
            raise ValueError(f"noise must be one of {sorted(NOISES)}, got {self.noise!r}")

    def dequantised(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Add the noise, from torch's global generator unless another is given."""
        if self.dequantise == 0:
            return x
        draw = torch.randn if self.noise == "gaussian" else torch.rand
        noise = draw(x.shape, generator=generator, dtype=x.dtype, device=x.device)
        return x + self.dequantise * (noise if self.noise == "gaussian" else noise - 0.5)


class _Run(State):
    """A flow in training."""

    remedy: ClassVar[str] = "lower lr or set clip"
    settings: _Settings

    def __init__(self, flow: Flow, settings: _Settings) -> None:
        self.flow = flow
        self.weights = list(flow.parameters())
        self.optimiser = torch.optim.AdamW(
            self.weights, lr=settings.lr, weight_decay=settings.weight_decay, fused=True
        )
        super().__init__(flow, settings, [self.optimiser], self.weights)

    def advance(self, images: Callable[[int], Tensor]) -> dict[str, Tensor]:
        """Take one step of Adam on a batch and return its loss."""
        self.optimiser.param_groups[0]["lr"] = self.settings.rate(self.step)
        value = -self.flow.log_prob(self.settings.dequantised(images(self.step))).mean()
        return self._descend(value, self.optimiser, self.weights, self.settings.clip)


@undisturbed
def fit_flow(
    images: Tensor,
    *,
    steps: int,
    transforms: int = 3,
    hidden: tuple[int, ...] = (128, 128),
    bins: int = 8,
    whitening: str = "full",
    batch_size: int = 128,
    lr: float = 1e-3,
    schedule: str = "cosine",
    warmup: int = 0,
    weight_decay: float = 0.0,
    clip: float | None = 10.0,
    ema: float | None = None,
    dequantise: float = 1 / 255,
    noise: str = "uniform",
    seed: int = 0,
    validation: Tensor | None = None,
    validate_every: int = 1000,
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_seconds: float = 120.0,
    resume: bool = False,
    progress: bool = True,
) -> Flow:
    """Train a normalising flow with Adam on images, in their data type and on their device.

    Parameters
    ----------
    images
        Training images ``(N, n, m)``.
    steps
        Number of steps.
    transforms, hidden, bins, whitening
        The architecture, see `genreg.networks.FlowConfig`. The whitening is that of the images with the noise.
    batch_size
        Images in a step.
    lr, schedule, warmup
        Largest learning rate, its course ("cosine", "one-cycle" or "constant") and steps of its linear rise.
    weight_decay, clip, ema
        Decoupled weight decay; bound on the norm of the gradient, or None; decay of the moving average of the
        weights that is the result, or None.
    dequantise, noise
        Noise added to the images: "uniform" in an interval of this width around 0, or "gaussian" with this
        standard deviation. The default suits images of 256 grey values in [0, 1]; 0 adds none.
    seed
        Seed of all random numbers. The same seed gives the same result on one device and number of threads.
    validation
        Held-out images ``(N, n, m)``; noise is added to them as well, always the same.
    validate_every
        Number of steps between validations.
    checkpoint
        File in which the state of the run is kept, at Ctrl-C as well; one of an earlier run is refused, not replaced.
    checkpoint_seconds
        Seconds between checkpoints; 0 for one after every step. There is one at the end.
    resume
        Whether to continue from `checkpoint` where that file exists: the result is exactly that of an
        uninterrupted run on the same images.
    progress
        Whether to show a progress bar.

    Returns
    -------
    Flow
        In evaluation mode. ``flow.card`` holds "architecture", "training" (the settings), "history" (step and
        losses) and, with `validation`, "score": the mean negative log-likelihood in nats per image.

    Raises
    ------
    ImportError
        If zuko is missing.
    TypeError
        If an argument has the wrong type.
    ValueError
        If images have the wrong shape or non-finite values or do not vary in every direction, a number is out
        of range, or the checkpoint belongs to a run with other settings.
    FloatingPointError
        If the loss becomes non-finite.
    """
    settings = _Settings(
        steps=steps,
        batch_size=batch_size,
        lr=lr,
        schedule=schedule,
        warmup=warmup,
        weight_decay=weight_decay,
        clip=clip,
        ema=ema,
        dequantise=dequantise,
        noise=noise,
        seed=seed,
    )
    check_run(resume, checkpoint, validate_every, checkpoint_seconds)
    if not isinstance(images, Tensor) or not images.is_floating_point():
        kind = images.dtype if isinstance(images, Tensor) else type(images).__name__
        raise TypeError(f"images must be a floating point tensor, got {kind}")
    if images.ndim != 3:
        raise ValueError(f"images must have the shape (N, rows, columns), got {tuple(images.shape)}")
    rows, columns = images.shape[1:]
    config = FlowConfig(
        image_shape=(rows, columns),
        transforms=transforms,
        hidden=hidden,
        bins=bins,
        whitening=whitening,
    )
    with seeded(settings.seed_of(0)):
        flow = config.build().to(images)
    images = checked(images, flow, "images")
    held_out = None if validation is None else checked(validation, flow, "validation")
    flow.whiten(images, NOISES[noise] * dequantise**2)
    run = _Run(flow, settings)

    def measure() -> dict[str, float]:
        if held_out is None:
            return {}
        generator = torch.Generator(images.device).manual_seed(settings.seed_of(0))
        noisy = settings.dequantised(held_out, generator)
        with run.averaged(), torch.no_grad():
            values = torch.cat([flow.log_prob(part) for part in noisy.split(batch_size)])
        return {"nll": -values.mean().item()}

    source = Batches(images, settings, images)
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
        device=images.device,
    )
    flow.card = {
        "architecture": config.to_dict(),
        "training": dataclasses.asdict(settings),
        "history": run.history,
    }
    if held_out is not None:
        flow.card["score"] = {"nll": run.history[-1]["nll"]}
    return flow
