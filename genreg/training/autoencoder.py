r"""Training of autoencoders: one loop for every model.

A variational model minimises, over the weights and the decoder's standard deviation gamma, the mean over
images x of

    d log(gamma) + ||x - G(z)||^2 / (2 gamma^2) + beta KL(q(z | x') || N(0, I)),    z ~ q(. | x'),

where d is the number of pixels, beta the weight of the Kullback-Leibler term and x' = x + noise (the
denoising criterion; x' = x without). A model that is not variational has z = E(x') and no last term; the
gradient with respect to the weights is then that of the squared error. In both cases gamma^2 tends to the
mean squared error per pixel, unless `fit` is told to keep gamma.
"""

import dataclasses
import os
from typing import Any

from torch import Tensor

from genreg.networks import Autoencoder
from genreg.operators.bridge.modes import undisturbed
from genreg.solvers.checkpoints import digest
from genreg.training.autoencoder_run import SCHEDULES, Run, Settings, loss
from genreg.training.batches import Batches, Sampler, checked, checked_source
from genreg.training.engine import drive
from genreg.training.model_scores import evaluate, latent_statistics, range_error, whiten
from genreg.training.settings import check_run

__all__ = ["SCHEDULES", "Sampler", "evaluate", "fit", "latent_statistics", "loss", "range_error", "whiten"]


@undisturbed
def fit(
    model: Autoencoder,
    images: Tensor | Sampler,
    *,
    steps: int,
    batch_size: int = 128,
    lr: float = 1e-3,
    schedule: str = "cosine",
    warmup: int = 0,
    kl_weight: float = 1.0,
    kl_warmup: int = 0,
    gamma: float | None = None,
    input_noise: float = 0.0,
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
    r"""Train a model with Adam, in place; the model is in evaluation mode afterwards.

    Parameters
    ----------
    model
        The model, on the device to train on.
    images
        Images ``(N, *image_shape)`` from which each step draws its batch, every image once an epoch; or a function
        ``sampler(n, *, seed)`` that makes new ones, which is called with a different seed in each step.
    steps
        Number of steps of Adam (decoupled weight decay).
    batch_size
        Number of images in a step.
    lr
        Learning rate that the schedule multiplies; log(gamma) has five times that rate.
    schedule
        "cosine" (to zero), "one-cycle" (up in the first 30 %, then down to zero) or "constant".
    warmup
        Number of first steps over which the rate also rises linearly.
    kl_weight
        Weight beta of the Kullback-Leibler term of variational models.
    kl_warmup
        Number of first steps over which that weight rises linearly from zero.
    gamma
        Standard deviation of the decoder to keep; it is learned where None. With the weight beta, gamma =
        sqrt(beta/2) and kl_weight = 1 have the minimisers of ||x - G(z)||^2 + beta KL.
    input_noise
        Standard deviation of the Gaussian noise on the encoder's input (the denoising criterion).
    weight_decay
        Weight decay of AdamW.
    clip
        Bound on the norm of the gradient; none where None.
    ema
        Decay of an exponential moving average of the weights, which the model holds at the end; none where
        None. The running means and variances of batch normalisation are averaged alike.
    seed
        Seed of all random numbers: batches, noise, latent samples, dropout. The initial weights are the
        caller's. The same seed gives the same result on one device and number of threads.
    validation
        Held-out images ``(N, *image_shape)`` for `evaluate`.
    validate_every
        Number of steps between validations.
    checkpoint
        File in which the state of the run is kept, at Ctrl-C as well; one of an earlier run is refused, not replaced.
    checkpoint_seconds
        Seconds between checkpoints; 0 for one after every step. There is one at the end.
    resume
        Whether to continue from `checkpoint` where that file exists, and to begin there otherwise: the result is
        exactly that of an uninterrupted run. The file knows its run: another architecture, other settings, training
        or held-out images are refused, and what is damaged. The weights that the model begins with do not matter.
    progress
        Whether to show a progress bar.

    Returns
    -------
    dict
        A JSON-able card: "architecture", "training" (the settings), "score" (of `evaluate` on `validation`,
        if given) and "history" (step, training loss and scores at each validation).

    Raises
    ------
    TypeError
        If an argument has the wrong type.
    ValueError
        If images have the wrong shape or non-finite values, a number is out of range, or the checkpoint
        can't be read or belongs to a run with other settings, images or architecture.
    FileExistsError
        If `checkpoint` exists and the run does not resume.
    FloatingPointError
        If the loss or a weight becomes non-finite.
    KeyboardInterrupt
        At Ctrl-C, with a checkpoint at the step that was done, where there is a file for it.
    """
    settings = Settings(
        steps=steps,
        batch_size=batch_size,
        lr=lr,
        schedule=schedule,
        warmup=warmup,
        kl_weight=kl_weight,
        kl_warmup=kl_warmup,
        gamma=gamma,
        input_noise=input_noise,
        weight_decay=weight_decay,
        clip=clip,
        ema=ema,
        seed=seed,
    )
    check_run(resume, checkpoint, validate_every, checkpoint_seconds)
    if not isinstance(model, Autoencoder):
        raise TypeError(
            f"model must be an Autoencoder, got {type(model).__name__}; a GAN is trained by "
            "genreg.training.fit_gan"
        )
    device = model.log_gamma.device
    images = checked_source(images, model, settings)
    held_out = None if validation is None else checked(validation, model, "validation")
    run = Run(model, settings)

    def measure() -> dict[str, float]:
        with run.averaged():
            scores = {} if held_out is None else evaluate(model, held_out)
        return scores | {"gamma": model.log_gamma.exp().item()}

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
    card: dict[str, Any] = {
        "architecture": model.config.to_dict(),
        "training": dataclasses.asdict(settings),
        "history": run.history,
    }
    if held_out is not None:
        card["score"] = evaluate(model, held_out)
    return card
