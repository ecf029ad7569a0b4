r"""Training of denoisers: least squares on images with white noise of many strengths.

`fit_denoiser` minimises the mean over images x, noise n ~ N(0, I) and σ, uniform in a range, of

.. math:: \|D(x + \sigma n, \sigma) - x\|^2 / d,

with d the number of pixels, whose minimiser is the posterior mean.

References
----------
K. Zhang, W. Zuo, Y. Chen, D. Meng, L. Zhang (2017), Beyond a Gaussian denoiser: residual learning of deep CNN for image
denoising, arXiv:1608.03981.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Unpack

import torch
from torch import Tensor

from genreg.networks import Denoiser
from genreg.networks.borrowed import evaluating
from genreg.operators.bridge.modes import undisturbed
from genreg.training.batches import Sampler
from genreg.training.engine import Trainer
from genreg.training.settings import (
    FROM_KEYWORDS,
    Bookkeeping,
    Checked,
    Keywords,
    Optimisation,
    limited,
    with_keywords,
)

_PART = 64  # images that are denoised at a time outside of training


@dataclass(frozen=True, kw_only=True)
class Options(Checked):
    """What determines the result beside the optimisation, see `fit_denoiser`."""

    noise_min: float = limited(0.0, minimum=0)
    noise_max: float = limited(0.2, above=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.noise_min <= self.noise_max:
            raise ValueError(
                f"noise_min must be at most noise_max, {self.noise_max:g}, got {self.noise_min:g}"
            )

    def levels(self, share: Tensor) -> Tensor:
        """Return the σ at these shares of the range."""
        return self.noise_min + (self.noise_max - self.noise_min) * share


class DenoiserTrainer(Trainer):
    """A denoiser in training."""

    scored: ClassVar[tuple[str, ...]] = ("psnr", "mse")
    criterion: ClassVar[tuple[str, int] | None] = ("mse", 1)
    module: Denoiser
    options: Options

    def errors(self, x: Tensor, noise: Tensor, share: Tensor) -> Tensor:
        """Return the mean squared error of every image, ``(B,)``, with noise at these shares of the range of σ."""
        sigma = self.options.levels(share)
        found = self.module(x + sigma.view(-1, *(1,) * (x.ndim - 1)) * noise, sigma)
        return (found - x).square().flatten(1).mean(1)

    def loss(self, batch: Tensor) -> Tensor:
        """Return the mean squared error of a batch."""
        return self.errors(batch, torch.randn_like(batch), torch.rand_like(batch.flatten(1)[:, 0])).mean()

    @torch.no_grad()
    def score(self) -> dict[str, float]:
        """Return the errors of held-out images, with the same noise every time and σ evenly in the range."""
        x: Tensor = self.held_out
        random = torch.Generator().manual_seed(0)
        noise = torch.randn(x.shape, generator=random, dtype=x.dtype).to(x.device)
        share = (torch.arange(len(x), dtype=x.dtype, device=x.device) + 0.5) / len(x)
        with evaluating(self.module):
            parts = zip(*(t.split(_PART) for t in (x, noise, share)), strict=True)
            mse = torch.cat([self.errors(*part) for part in parts]).double()
        return {"psnr": (-10 * mse.clamp_min(1e-12).log10()).mean().item(), "mse": mse.mean().item()}


@undisturbed
@with_keywords(batch_size=16, lr=1e-3, clip=1.0)
def fit_denoiser(
    model: Denoiser,
    images: Tensor | Sampler,
    *,
    noise_min: float = 0.0,
    noise_max: float = 0.2,
    validation: Tensor | None = None,
    optimisation: Optimisation = FROM_KEYWORDS,
    bookkeeping: Bookkeeping = FROM_KEYWORDS,
    **keywords: Unpack[Keywords],
) -> dict[str, object]:
    """Train a denoiser with Adam, in place; it is in evaluation mode afterwards.

    Parameters
    ----------
    model
        The denoiser, on the device to train on, for images of the size of those given; it serves all.
    images
        Images ``(N, *image_shape)``, or a function ``sampler(n, *, seed)``, as in `genreg.training.fit`.
    noise_min, noise_max
        Smallest and largest σ, in units of the images; the defaults are for images with the range 1.
    validation
        Held-out images ``(N, *image_shape)``.
    optimisation, bookkeeping
        How to optimise and how to keep the run, `Optimisation` and `Bookkeeping`; or their fields as keywords.

    Returns
    -------
    dict
        A JSON-able card: "architecture", "training" (the settings), "history" and, with `validation`, "score":
        ``psnr``, the mean over images of -10 log10(mse) in dB (data range 1), and ``mse``, the mean squared error per
        pixel, both over the range of σ.

    Raises
    ------
    TypeError, ValueError, FileExistsError, FloatingPointError, KeyboardInterrupt
        As `genreg.training.fit`.
    """
    options = Options(noise_min=noise_min, noise_max=noise_max)
    if not isinstance(model, Denoiser):
        raise TypeError(f"model must be a genreg.networks.Denoiser, got {type(model).__name__}")
    return DenoiserTrainer.fit(model, images, validation, optimisation, options, bookkeeping)
