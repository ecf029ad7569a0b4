r"""Density ratios between data and the images of a generator, from discriminators.

A discriminator D with the logit d tells images x of the data from those that an operator G makes of z ~ N(0, I). It
minimises the cross-entropy

.. math:: \tfrac12 E_x \log(1 + e^{-d(x)}) + \tfrac12 E_z \log(1 + e^{d(G(z))}),

at best with :math:`d = \log(p_{\rm data} / p_G)`, at log 2 where nothing tells them apart. `fit` trains one,
`fine_tune` adapts one that was trained for something else (another generator, a Wasserstein distance) to G in a few
steps, and `scores` says how good the ratio is. `genreg.latent.DensityRatio` makes a latent term of it.

The images of G are its means, since it is at G(z) that the term is evaluated. They lie on a surface of dimension
dim Z, the data hardly ever, so that there is no ratio of densities, and a discriminator grows the surer the longer it
is trained. With ``noise_std`` = s, white noise of that standard deviation is added to the data *and* to the images
of G: the ratio is that of both densities smoothed, which exists everywhere, and the best d is finite.

References
----------
I. J. Goodfellow et al. (2014), Generative adversarial nets, arXiv:1406.2661.

T. Che et al. (2020), Your GAN is secretly an energy-based model and you should use discriminator driven latent
sampling, arXiv:2003.06060.

C. K. Sønderby, J. Caballero, L. Theis, W. Shi, F. Huszár (2017), Amortised MAP inference for image super-resolution,
arXiv:1610.04490 (noise on both sides).
"""

from __future__ import annotations

import copy
import dataclasses
import math
import os
from typing import Any

import odl
import torch
from torch import Tensor, nn

from genreg.networks import GAN, Critic
from genreg.networks.borrowed import evaluating
from genreg.operators.bridge.arguments import integer, number, seeded_generator
from genreg.operators.bridge.modes import undisturbed
from genreg.sampling.importance import kish_ess, self_normalised
from genreg.training.batches import Sampler, checked
from genreg.training.discriminator import Made, Run, Settings, cross_entropy, train, verdict_on
from genreg.training.settings import check_run

__all__ = ["RatioScores", "discriminator_scores", "fine_tune", "fit_discriminator"]

_PART = 1000  # images judged at a time outside of training


@dataclasses.dataclass(frozen=True)
class RatioScores:
    r"""How well :math:`e^{d}` serves as the density ratio, on images that D was not trained on.

    Attributes
    ----------
    cross_entropy : float
        Mean of -log of the probability given to what an image is, in nats; log 2 = 0.693 is a toss of a coin.
    accuracy : float
        Share of images told right, mean of both kinds.
    ratio_mean : float
        Mean of exp d over images of G, which is 1 for a density ratio.
    inverse_ratio_mean : float
        Mean of exp(-d) over images of the data, which is 1 for a density ratio.
    effective_share : float
        Effective number of the images of G under the weights exp d, as a share of their number: 1 where G is as good
        as the data, near 0 where few of its images resemble data. Small ones make `ratio_mean` uncertain.
    divergence : float
        Donsker and Varadhan's lower bound of the Kullback-Leibler divergence KL(data, G) in nats, mean of d over
        the data less the logarithm of `ratio_mean`.
    """

    cross_entropy: float
    accuracy: float
    ratio_mean: float
    inverse_ratio_mean: float
    effective_share: float
    divergence: float


@undisturbed
def fit_discriminator(
    D: Critic,
    G: odl.Operator,
    images: Tensor | Sampler,
    *,
    steps: int,
    batch_size: int = 128,
    lr: float = 1e-3,
    schedule: str = "cosine",
    warmup: int = 0,
    weight_decay: float = 0.0,
    noise_std: float = 0.0,
    ema: float | None = None,
    seed: int = 0,
    validation: Tensor | None = None,
    validate_every: int = 1000,
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_seconds: float = 120.0,
    resume: bool = False,
    progress: bool = True,
) -> dict[str, Any]:
    """Train a discriminator between data and new images of a generator with Adam, in place.

    Parameters
    ----------
    D
        The discriminator, on the device to train on; it is in evaluation mode afterwards.
    G
        The generator, any operator to the space of images.
    images
        Images ``(N, *image_shape)`` of the data, every one once an epoch, or a function ``sampler(n, *, seed)``.
    steps, batch_size
        Number of steps; number of images of the data, and of G, in each.
    lr, schedule, warmup
        Largest learning rate, its course ("cosine", "one-cycle" or "constant") and steps of its linear rise.
    weight_decay
        Decoupled weight decay.
    noise_std
        Standard deviation of white noise that is added to both kinds of images, see the module docstring.
    ema
        Decay of the moving average of the weights that is the result, or None.
    seed
        Seed of batches, latent vectors and noise; the initial weights are the caller's.
    validation
        Held-out images of the data for the history and the score.
    validate_every
        Number of steps between validations.
    checkpoint, checkpoint_seconds, resume, progress
        As in `genreg.training.fit`.

    Returns
    -------
    dict
        A JSON-able card: "architecture", "training" (the settings), "history" and, with `validation`, "score": the
        fields of `RatioScores`.

    Raises
    ------
    TypeError
        If an argument has the wrong type.
    ValueError
        If images have the wrong shape, are empty or not finite, a number is out of range, or the checkpoint belongs to
        another run.
    FloatingPointError
        If the loss becomes non-finite.
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
        noise_std=noise_std,
        momentum=None,
    )
    check_run(resume, checkpoint, validate_every, checkpoint_seconds)
    if not isinstance(D, Critic):
        raise TypeError(
            f"D must be a Critic (genreg.networks.CriticConfig), got {type(D).__name__}; of a GAN it is Critic.of(gan)"
        )
    verdict = verdict_on(D, G)
    held_out = None if validation is None else checked(validation, verdict, "validation")
    run = Run(D, verdict, Made(G, next(D.parameters()), noise_std), settings)

    def measure() -> dict[str, float]:
        with run.averaged():
            found = (
                None
                if held_out is None
                else discriminator_scores(D, G, held_out, noise_std=noise_std, seed=seed)
            )
        return {} if found is None else dataclasses.asdict(found)

    train(run, images, held_out, measure, validate_every, checkpoint, checkpoint_seconds, resume, progress)
    card: dict[str, Any] = {
        "architecture": D.config.to_dict(),
        "training": dataclasses.asdict(settings),
        "history": run.history,
    }
    if held_out is not None:
        entry = run.history[-1]
        card["score"] = {field.name: entry[field.name] for field in dataclasses.fields(RatioScores)}
    return card


@undisturbed
def fine_tune(
    D: nn.Module,
    G: odl.Operator,
    images: Tensor | Sampler,
    *,
    steps: int = 5,
    batch_size: int = 128,
    lr: float = 1e-3,
    momentum: float = 0.9,
    noise_std: float = 0.0,
    seed: int = 0,
) -> nn.Module:
    """Adapt a discriminator to a generator by a few steps of stochastic gradient descent.

    The defaults of `steps`, `lr` and `momentum` are those of Liang (2021), "Using deep generative priors for inverse
    problems and Bayesian optimisation".

    Parameters
    ----------
    D
        A discriminator, as for `genreg.latent.DensityRatio`, or a GAN, whose critic is meant.
    G, images
        The generator and images of the data, as in `fit`.
    steps, batch_size, lr, momentum
        Number of steps, images of either kind in a step, constant learning rate, and momentum.
    noise_std, seed
        As in `fit`.

    Returns
    -------
    torch.nn.Module
        The new discriminator, in evaluation mode, of a GAN a `genreg.networks.Critic`; the given one stays as it is.

    Raises
    ------
    TypeError, ValueError, FloatingPointError
        As `fit`.
    """
    settings = Settings(
        steps=steps,
        batch_size=batch_size,
        lr=lr,
        schedule="constant",
        warmup=0,
        ema=None,
        seed=seed,
        weight_decay=0.0,
        noise_std=noise_std,
        momentum=momentum,
    )
    verdict_on(D, G)
    new = copy.deepcopy(Critic.of(D) if isinstance(D, GAN) else D).requires_grad_(True)
    run = Run(new, verdict_on(new, G), Made(G, next(new.parameters()), noise_std), settings)
    train(run, images, None, dict, steps, None, 0.0, False, False)
    return new


@torch.no_grad()
def discriminator_scores(
    D: nn.Module,
    G: odl.Operator,
    images: Tensor,
    *,
    draws: int | None = None,
    noise_std: float = 0.0,
    seed: int = 0,
) -> RatioScores:
    """Return how well a discriminator tells held-out images from those of a generator, and weighs them.

    Parameters
    ----------
    D, G
        The discriminator and the generator, as for `genreg.latent.DensityRatio`.
    images
        Images of the data, ``(N, *image_shape)``, that D was not trained on.
    draws
        Number of new images of G; as many as there are of the data where None.
    noise_std
        As in `fit`: what D was trained with.
    seed
        Seed of the latent vectors and the noise.

    Returns
    -------
    RatioScores
        Means over the images of either kind.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type, images the wrong shape, or a number is out of range.
    """
    verdict = verdict_on(D, G)
    x = checked(images, verdict, "images")
    n = len(x) if draws is None else integer(draws, "draws", minimum=1)
    noise_std, generator = number(noise_std, "noise_std", minimum=0), seeded_generator(seed)
    made = Made(G, x, noise_std)
    sizes = [min(_PART, n - first) for first in range(0, n, _PART)]
    with evaluating(D):
        real = torch.cat([verdict(made.noisy(part, generator)) for part in x.split(_PART)]).double()
        fake = torch.cat([verdict(made(size, generator)) for size in sizes]).double()
    ratio = fake.exp().mean()
    return RatioScores(
        cross_entropy=cross_entropy(real, fake).item(),
        accuracy=0.5 * ((real > 0).double().mean() + (fake <= 0).double().mean()).item(),
        ratio_mean=ratio.item(),
        inverse_ratio_mean=(-real).exp().mean().item(),
        effective_share=(kish_ess(self_normalised(fake, 0), 0) / n).item(),
        divergence=(real.mean() - fake.logsumexp(0) + math.log(n)).item(),
    )
