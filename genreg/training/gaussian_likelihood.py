"""The precision of images given z, and the likelihood of images under it."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from genreg.generator import Generator
from genreg.networks import Autoencoder, Structured
from genreg.networks.borrowed import evaluating, seeded
from genreg.networks.factor import precision_with, space_of
from genreg.operators import IsotropicPrecision, Precision
from genreg.operators.bridge.arguments import seed_number
from genreg.operators.bridge.keywords import documented_like
from genreg.training.batches import in_units_of_model

_LOG_SCALES, _TOLERANCE = (-1.5, 1.5), 2e-3  # of the factor of a precision


def precision_of(model: Autoencoder, mean: Tensor) -> Precision:
    """Return the precision of images given z, from the mean images at z.

    Parameters
    ----------
    model
        A structured model, or another autoencoder: then it is isotropic, 1/gamma^2.
    mean
        Mean images G(z), ``(B, *image_shape)``.

    Returns
    -------
    Precision
        Batched for a structured model; on ``odl.rn(image_shape)`` with the data type and device of `mean`.
    """
    if not isinstance(model, Structured):
        return IsotropicPrecision(space_of(mean), (-2 * model.log_gamma).exp().to(mean))
    config = model.config
    return precision_with(*model.factor_of(mean), config.distance, config.dilation, config.coupled)


def posterior(model: Autoencoder, x: Tensor, sampled: bool) -> tuple[Tensor, Tensor]:
    """Return latent vectors of images, and their Kullback-Leibler divergences ``(B,)``.

    Parameters
    ----------
    model
        The model; where it is not variational, z = E(x) and the divergences are zero.
    x
        Images ``(B, *image_shape)``.
    sampled
        Whether z is a draw from q(z | x), by torch's global generator, or its mean.
    """
    if not model.variational:
        return model.encode(x), x.new_zeros(len(x))
    mean, std = model.encode_distribution(x)
    divergence = (0.5 * (mean.square() + std.square() - 1) - std.log()).sum(1)
    return torch.addcmul(mean, std, torch.randn_like(mean)) if sampled else mean, divergence


@torch.no_grad()
def log_likelihoods(
    model: Autoencoder, images: Tensor, *, sampled: bool = False, seed: int = 0, batch_size: int = 32
) -> dict[str, Tensor]:
    """Measure the likelihood of each image, in evaluation mode and at the precision of the weights, without autocast.

    Parameters
    ----------
    model
        The model; it is left in the mode it had.
    images
        Images ``(N, *image_shape)`` on the device of the model.
    sampled
        Whether z is drawn from q(z | x), or its mean.
    seed
        Seed of the draws.
    batch_size
        Number of images in one batch.

    Returns
    -------
    dict
        Tensors ``(N,)``: ``log_likelihood``, log N(x; G(z), Λ(z)^-1) in nats; ``kl``, the divergence of q(z | x) from
        the prior in nats; ``whitened``, the mean over pixels of (L'(x - G(z)))^2, which is near 1 where the precision
        is calibrated; ``squared_error``, the mean over pixels of (x - G(z))^2.
    """
    parts = []
    device = images.device
    exact = torch.autocast(device.type, enabled=False)
    with evaluating(model), exact, seeded(seed_number(seed), device):
        for x in images.split(batch_size):
            z, divergence = posterior(model, x, sampled)
            mean = model.decode(z)
            precision, r = precision_of(model, mean), x - mean
            whitened = precision.whiten(r).square().flatten(1).mean(1)
            parts.append((precision.log_density(r), divergence, whitened, r.square().flatten(1).mean(1)))
    names = ("log_likelihood", "kl", "whitened", "squared_error")
    return {name: torch.cat(t).double() for name, t in zip(names, zip(*parts, strict=True), strict=True)}


def likelihood(model: Autoencoder, images: Tensor, *, seed: int = 0) -> dict[str, float]:
    """Measure how probable images are, in nats per entry of an image (pixel, for grey ones).

    Parameters
    ----------
    model
        The model: a structured one, or an autoencoder with its gamma.
    images
        Images ``(N, *image_shape)`` on the device of the model.
    seed
        Seed of the draws from q(z | x).

    Returns
    -------
    dict
        Means over images: ``nats``, log N(x; G(z), Λ(z)^-1) at the mean z of q(z | x), divided by the number of
        entries; ``nats_sampled``, that at one draw from q(z | x); ``elbo``, the latter less the Kullback-Leibler
        divergence, a lower bound on log p(x), again for one entry; ``whitened``, see `log_likelihoods`, at the mean.
        The density is that of continuous grey values with the range 1.
    """
    size = images[0].numel()
    at_mean = log_likelihoods(model, images)
    drawn = log_likelihoods(model, images, sampled=True, seed=seed)
    return {
        "nats": at_mean["log_likelihood"].mean().item() / size,
        "nats_sampled": drawn["log_likelihood"].mean().item() / size,
        "elbo": (drawn["log_likelihood"] - drawn["kl"]).mean().item() / size,
        "whitened": at_mean["whitened"].mean().item(),
    }


@documented_like(log_likelihoods)
@torch.no_grad()
def fit_gamma(
    model: Autoencoder | Generator, images: Tensor, *, sampled: bool = True, seed: int = 0
) -> float:
    """Set gamma to the value under which images are most likely, the root of the mean squared residual.

    Parameters
    ----------
    model
        The model, whose ``log_gamma`` changes, or a generator of one.
    images
        Images ``(N, *image_shape)`` that the model was not trained on, in the units of the model or the generator.
    sampled
        Whether z is drawn from q(z | x), or its mean.
    seed
        Seed of the draws.

    Returns
    -------
    float
        Gamma, in the units of the images.

    Raises
    ------
    TypeError, ValueError
        If the model is no autoencoder, the images do not fit it, or the residual is zero.
    """
    model, images, scale = in_units_of_model(model, images)
    before = model.log_gamma.detach().clone()
    model.log_gamma.nan_to_num_()  # a density needs one; the residuals do not depend on it
    error = log_likelihoods(model, images, sampled=sampled, seed=seed)["squared_error"].mean().item()
    if not error > 0:
        model.log_gamma.copy_(before)
        raise ValueError(f"images must differ from their reconstructions, got a squared residual of {error}")
    model.log_gamma.fill_(0.5 * math.log(error))
    return scale * math.sqrt(error)


@torch.no_grad()
def fit_scale(model: Structured, images: Tensor, *, sampled: bool = True, seed: int = 0) -> float:
    """Scale the precision of a structured model so that images are most likely, by a search in one variable.

    Of the factors c L, without bounds of its log-diagonal, the most likely one has whitened residuals (L'(x - G(z)))^2
    of mean 1. Where the diagonal is at its bounds, c changes the other pixels alone.

    Parameters
    ----------
    model
        The model, whose head changes.
    images
        Images ``(N, *image_shape)`` on the device of the model, better not those of the training: of these, residuals
        are smaller than of others.
    sampled
        Whether z is drawn from q(z | x), or its mean.
    seed
        Seed of the draws.

    Returns
    -------
    float
        c, below 1 where the precision was too large.
    """
    from scipy.optimize import minimize_scalar

    at = 0.0

    def set_to(log_c: float) -> None:
        nonlocal at
        model.scale_factor(math.exp(log_c - at))
        at = log_c

    def negative(log_c: float) -> float:
        set_to(log_c)
        found = log_likelihoods(model, images, sampled=sampled, seed=seed)["log_likelihood"]
        return -found.mean().item() / images[0].numel()

    unchanged = negative(0.0)
    found = minimize_scalar(negative, bounds=_LOG_SCALES, method="bounded", options={"xatol": _TOLERANCE})
    set_to(float(found.x) if found.fun < unchanged else 0.0)
    return math.exp(at)
