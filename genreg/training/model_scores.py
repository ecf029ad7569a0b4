"""Scores of trained autoencoders, and the normalisation of their latent space."""

import math

import torch
from torch import Tensor, nn

from genreg.generator import Generator
from genreg.networks import GAN, AdaptedConfig, Autoencoder, GridConfig
from genreg.networks.adapted import standardise
from genreg.networks.borrowed import evaluating
from genreg.networks.latent_grid import normalise
from genreg.operators.bridge.arguments import integer, seeded_generator
from genreg.training.batches import in_units_of_model
from genreg.training.settings import SCHEDULES


@torch.no_grad()
def evaluate(model: Autoencoder, images: Tensor, *, batch_size: int = 500) -> dict[str, float]:
    """Measure how well a model reconstructs images by encoding and decoding.

    Parameters
    ----------
    model
        The model; it is evaluated in evaluation mode and left in the mode it had.
    images
        Images ``(N, *image_shape)`` on the device of the model.
    batch_size
        Number of images in one batch.

    Returns
    -------
    dict
        ``psnr``, the mean over images of -10 log10(mse) in dB (data range 1); ``mse``, the mean squared error
        per pixel; ``loss``, the objective of `fit` with weight 1, with z at the mean of q and the mean of the
        divergences. For a variational model also ``kl``, the mean divergence in nats.
    """
    errors, divergences = [], []
    with evaluating(model):
        for x in images.split(batch_size):
            if model.variational:
                mean, std = model.encode_distribution(x)
            else:
                mean, std = model.encode(x), None
            errors.append((model.decode(mean) - x).square().flatten(1).mean(1))
            if std is not None:
                divergences.append((0.5 * (mean.square() + std.square() - 1) - std.log()).sum(1))
    mse = torch.cat(errors).double()
    log_gamma = model.log_gamma.item()
    value = images[0].numel() * (log_gamma + 0.5 * mse.mean().item() * math.exp(-2 * log_gamma))
    scores = {
        "psnr": (-10 * mse.clamp_min(1e-12).log10()).mean().item(),
        "mse": mse.mean().item(),
        "loss": value,
    }
    if divergences:
        scores["kl"] = torch.cat(divergences).double().mean().item()
        scores["loss"] += scores["kl"]
    return scores


@torch.no_grad()
def latent_statistics(model: Autoencoder, images: Tensor) -> dict[str, list[float]]:
    """Return mean and standard deviation of the aggregate posterior, the mixture of q(z | x) over images.

    For a model that fits its prior they are near 0 and 1. Without a distribution the codes E(x) are counted.

    Parameters
    ----------
    model
        The model, in evaluation mode.
    images
        Images ``(N, *image_shape)``, at least two, on the device of the model.

    Returns
    -------
    dict
        ``mean`` and ``std``, lists of ``latent_dim`` numbers; for a variational model also ``posterior_std``,
        the root of the mean variance of q(z | x).
    """
    if not model.variational:
        codes = torch.cat([model.encode(x) for x in images.split(500)])
        return {"mean": codes.mean(0).tolist(), "std": codes.std(0).tolist()}
    mean, std = (torch.cat(t) for t in zip(*map(model.encode_distribution, images.split(500)), strict=True))
    variance = std.square().mean(0)
    return {
        "mean": mean.mean(0).tolist(),
        "std": (mean.var(0) + variance).sqrt().tolist(),
        "posterior_std": variance.sqrt().tolist(),
    }


def range_error(
    model: Autoencoder | GAN,
    images: Tensor,
    *,
    steps: int = 1000,
    lr: float = 0.02,
    restarts: int | None = None,
    seed: int = 0,
) -> dict[str, float]:
    """Measure how near to images the range of the decoder comes, by descent in the latent space.

    Minimises ||G(z) - x||^2 for each image by Adam from z = E(x), or from several z ~ N(0, I), with a rate
    that falls to zero, and keeps each image's best value.

    Parameters
    ----------
    model
        The model, in evaluation mode.
    images
        Images ``(N, *image_shape)`` on the device of the model, one batch.
    steps
        Number of steps.
    lr
        First step size.
    restarts
        Number of starting points drawn from N(0, I) for each image; where None, the code of the image, for
        models with an encoder.
    seed
        Seed of the starting points.

    Returns
    -------
    dict
        ``range_psnr``, the mean over images of -10 log10(mse) in dB (data range 1), and ``range_mse``.

    Raises
    ------
    ValueError
        If `restarts` is not positive, or None for a model without an encoder.
    """
    if restarts is None and not isinstance(model, Autoencoder):
        raise ValueError("restarts must be given for a model without an encoder, got None")
    if restarts is not None:
        restarts = integer(restarts, "restarts", minimum=1)
    random = seeded_generator(seed)
    best = torch.full((len(images),), math.inf, dtype=images.dtype, device=images.device)
    for _ in range(restarts or 1):  # one after the other: more images at once are no faster on a CPU
        if restarts is None:
            z = model.encode(images).detach()  # type: ignore[operator]
        else:
            z = torch.randn(len(images), model.latent_dim, generator=random, dtype=images.dtype)
        z = z.to(images.device).requires_grad_()
        optimiser = torch.optim.Adam([z], lr=lr)
        for step in range(steps + 1):
            optimiser.param_groups[0]["lr"] = lr * SCHEDULES["cosine"](step / steps)
            errors = (model.decode(z) - images).square().flatten(1).mean(1)
            best = torch.minimum(best, errors.detach())
            (z.grad,) = torch.autograd.grad(errors.sum(), z)
            optimiser.step()
    best = best.double()
    psnr = (-10 * best.clamp_min(1e-12).log10()).mean().item()
    return {"range_psnr": psnr, "range_mse": best.mean().item()}


@torch.no_grad()
def whiten(model: Autoencoder | Generator, images: Tensor) -> None:
    """Normalise the codes of images by an affine change of the latent space, in place; G(E(x)) is unchanged.

    The codes of an autoencoder have a mean m and a covariance L L'; the new encoder is L^{-1}(E(x) - m) and
    the new decoder G(L z + m), so that the codes have the mean 0 and the covariance I and the penalty ||z||^2
    is meaningful. For a variational model L is the diagonal matrix of the standard deviations of the
    aggregate posterior (see `latent_statistics`), which keeps q(z | x) diagonal. The change is absorbed in
    the encoder's last layer and the decoder's first. A model of another library (`genreg.networks.adapt`) has one mean
    and one standard deviation for each channel of its latent images.

    Parameters
    ----------
    model
        A model whose encoder ends and whose decoder begins with a dense layer, a grid autoencoder, for which L is
        always diagonal, or one of another library; or a generator of one, which then is whitened.
    images
        Images ``(N, *image_shape)``, in the units of the model or the generator. For dense layers on the device of the
        model, with N above the latent dimension.

    Raises
    ------
    TypeError
        If these layers are of another kind.
    ValueError
        If a channel of latent images is the same for all images.
    """
    if isinstance(model, Generator) or isinstance(model.config, AdaptedConfig):
        model, images, _ = in_units_of_model(model, images)
    if isinstance(model.config, AdaptedConfig):
        standardise(model, images)
        return
    if isinstance(model.config, GridConfig):
        normalise(model, images)
        return
    last = list(model.encoder.modules())[-1]
    first = next(m for m in model.decoder.modules() if not list(m.children()))
    if not (isinstance(last, nn.Linear) and isinstance(first, nn.Linear)):
        raise TypeError("whiten needs a model with dense layers next to the latent space")
    dim = model.latent_dim
    with evaluating(model):
        codes = torch.cat([model.encoder(x) for x in images.split(500)]).double()
    means = codes[:, :dim]
    covariance = torch.cov(means.T)
    if model.variational:
        covariance = torch.diag(covariance.diagonal() + (2 * codes[:, dim:]).exp().mean(0))
        last.bias[dim:] -= 0.5 * covariance.diagonal().log().to(last.bias.dtype)
    mean, factor = means.mean(0), torch.linalg.cholesky(covariance)
    first.bias.add_((first.weight.double() @ mean).to(first.bias.dtype))
    first.weight.copy_(first.weight.double() @ factor)
    last.weight[:dim] = _solve(factor, last.weight[:dim]).to(last.weight.dtype)
    last.bias[:dim] = _solve(factor, (last.bias[:dim] - mean)[:, None])[:, 0].to(last.bias.dtype)


def _solve(factor: Tensor, matrix: Tensor) -> Tensor:
    return torch.linalg.solve_triangular(factor, matrix.double(), upper=False)
