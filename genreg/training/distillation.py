r"""Distillation of ensembles of networks: one network that predicts the distribution of what the members would say.

M networks map an image x to images y_1(x), ..., y_M(x). A `genreg.networks.GaussianRegressor` with parameters θ is
fitted to them by maximum likelihood through a link g: `distil` minimises the mean over x of

    -(1/M) sum_j log N(g(y_j(x)); mean(x), (L(x) L(x)')^-1),

with a sparse Cholesky factor L, or a diagonal one for distance 0. It takes inputs alone, no true images, and one
prediction costs one network instead of M; the precision gives draws, a density, and conditional distributions.

With ``mean_steps=steps`` the mean alone is trained, by least squares: with true images for outputs, such networks are
the members of an ensemble.

References
----------
I. J. A. Simpson, S. Vicente, N. D. F. Campbell (2022), Learning structured Gaussians to approximate deep ensembles,
CVPR, arXiv:2203.15485.

B. Lakshminarayanan, A. Pritzel, C. Blundell (2017), Simple and scalable predictive uncertainty estimation using deep
ensembles, NeurIPS, arXiv:1612.01474.
"""

from __future__ import annotations

import os
from typing import Any

from torch import Tensor

from genreg.networks import GaussianRegressor, GaussianRegressorConfig
from genreg.operators.bridge.modes import undisturbed
from genreg.training.regression import Settings, fit

__all__ = ["GaussianRegressor", "GaussianRegressorConfig", "distil"]


@undisturbed
def distil(
    model: GaussianRegressor,
    inputs: Tensor,
    outputs: Tensor,
    *,
    steps: int,
    batch_size: int = 32,
    lr: float = 1e-3,
    schedule: str = "cosine",
    warmup: int = 0,
    mean_steps: int = 0,
    weight_decay: float = 0.0,
    clip: float | None = 1.0,
    ema: float | None = None,
    seed: int = 0,
    validation: tuple[Tensor, Tensor] | None = None,
    validate_every: int = 1000,
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_seconds: float = 120.0,
    resume: bool = False,
    progress: bool = True,
) -> dict[str, Any]:
    """Fit a regressor to the outputs of an ensemble by maximum likelihood with Adam, in place.

    Parameters
    ----------
    model
        The regressor, on the device to train on; it is in evaluation mode afterwards.
    inputs
        Inputs of the ensemble, ``(N, n, m)``; best others than those that its members were trained on, on which they
        agree more than on new ones.
    outputs
        What its M members make of them, ``(N, M, n, m)``; or one image for each input, ``(N, n, m)``.
    steps
        Number of steps.
    batch_size
        Number of inputs in a step, each with all its M outputs.
    lr, schedule, warmup
        Largest learning rate, its course ("cosine", "one-cycle" or "constant") and steps of its linear rise.
    mean_steps
        Number of first steps in which only the mean is fitted, by least squares in the values of the link; the
        precision is near 1 until then.
    weight_decay, clip, ema
        Decoupled weight decay; bound on the norm of the gradient of the objective for one pixel, or None; decay of the
        moving average of the weights that is the result, or None.
    seed
        Seed of the batches; the initial weights are the caller's.
    validation
        Held-out inputs and outputs.
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
    dict
        A JSON-able card: "architecture", "training" (the settings), "history" and, with `validation`, "score": the
        mean negative log-density of g(y) in nats for one pixel.

    Raises
    ------
    TypeError
        If an argument has the wrong type.
    ValueError
        If images have the wrong shape, are empty or not finite, a number is out of range, or the checkpoint belongs to
        another run.
    FloatingPointError
        If the objective becomes non-finite.
    """
    settings = Settings(
        steps=steps,
        batch_size=batch_size,
        lr=lr,
        schedule=schedule,
        warmup=warmup,
        ema=ema,
        seed=seed,
        weight_decay=weight_decay,
        clip=clip,
        mean_steps=mean_steps,
    )
    options = (validate_every, checkpoint, checkpoint_seconds, resume, progress)
    return fit(model, inputs, outputs, validation, settings, *options)
