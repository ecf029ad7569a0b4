r"""Density ratios between data and the images of a generator, from discriminators.

A discriminator D with the logit d tells images x of the data from those that an operator G makes of z ~ N(0, I). It
minimises the cross-entropy

.. math:: \tfrac12 E_x \log(1 + e^{-d(x)}) + \tfrac12 E_z \log(1 + e^{d(G(z))}),

at best with :math:`d = \log(p_{\rm data} / p_G)`, at log 2 where nothing tells them apart. `fit_discriminator`
trains one, `fine_tune` adapts one that was trained for something else (another generator, a Wasserstein distance) to G
in a few steps, and `discriminator_scores` says how good the ratio is. `genreg.latent.DensityRatio` makes a latent term
of it.

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
from typing import Any, Unpack

import odl
from torch import Tensor, nn

from genreg.networks import GAN, Critic
from genreg.operators.bridge.modes import undisturbed
from genreg.training.batches import Sampler
from genreg.training.discriminator import (
    DiscriminatorTrainer,
    Options,
    RatioScores,
    checked_output,
    discriminator_scores,
)
from genreg.training.settings import FROM_KEYWORDS, Bookkeeping, Keywords, Optimisation, with_keywords

__all__ = ["RatioScores", "discriminator_scores", "fine_tune", "fit_discriminator"]


@undisturbed
@with_keywords(batch_size=128, lr=1e-3)
def fit_discriminator(
    D: Critic,
    G: odl.Operator,
    images: Tensor | Sampler,
    *,
    noise_std: float = 0.0,
    validation: Tensor | None = None,
    optimisation: Optimisation = FROM_KEYWORDS,
    bookkeeping: Bookkeeping = FROM_KEYWORDS,
    **keywords: Unpack[Keywords],
) -> dict[str, Any]:
    """Train a discriminator between data and new images of a generator with Adam, in place.

    Parameters
    ----------
    D
        The discriminator, on the device to train on; it is in evaluation mode afterwards.
    G
        The generator, any operator to the space of images. Each step takes as many images of it as of the data.
    noise_std
        Standard deviation of white noise that is added to both kinds of images, see the module docstring.
    validation
        Held-out images of the data; the score has the fields of `RatioScores`.
    """
    options = Options(noise_std=noise_std)
    if not isinstance(D, Critic):
        raise TypeError(
            f"D must be a Critic (genreg.networks.CriticConfig), got {type(D).__name__}; of a GAN it is Critic.of(gan)"
        )
    return DiscriminatorTrainer(D, G, images, optimisation, options, validation).train(bookkeeping)


@undisturbed
@with_keywords(steps=5, batch_size=128, lr=1e-3, schedule="constant", progress=False)
def fine_tune(
    D: nn.Module,
    G: odl.Operator,
    images: Tensor | Sampler,
    *,
    momentum: float = 0.9,
    noise_std: float = 0.0,
    optimisation: Optimisation = FROM_KEYWORDS,
    bookkeeping: Bookkeeping = FROM_KEYWORDS,
    **keywords: Unpack[Keywords],
) -> nn.Module:
    """Adapt a discriminator to a generator by a few steps of stochastic gradient descent.

    The defaults of `steps`, `lr` and `momentum` are those of Liang (2021), "Using deep generative priors for inverse
    problems and Bayesian optimisation".

    Parameters
    ----------
    D
        A discriminator, as for `genreg.latent.DensityRatio`, or a GAN, whose critic is meant.
    G, images, noise_std
        The generator, images of the data and noise, as in `fit_discriminator`.
    momentum
        Momentum of the descent.
    optimisation, bookkeeping
        How to optimise and how to keep the run, `Optimisation` and `Bookkeeping`; or their fields as keywords. Weight
        decay adds to the gradient here.

    Returns
    -------
    torch.nn.Module
        The new discriminator, in evaluation mode, of a GAN a `genreg.networks.Critic`; the given one stays as it is.
    """
    options = Options(noise_std=noise_std, momentum=momentum)
    checked_output(D, G)
    new = copy.deepcopy(Critic.of(D) if isinstance(D, GAN) else D).requires_grad_(True)
    DiscriminatorTrainer(new, G, images, optimisation, options).train(bookkeeping)
    return new
