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

from dataclasses import dataclass
from typing import ClassVar, Unpack

import torch
from torch import Tensor

from genreg.networks import Flow, FlowConfig
from genreg.networks.borrowed import seeded
from genreg.operators.bridge.arguments import choice
from genreg.operators.bridge.modes import undisturbed
from genreg.training.batches import Batches, held_out_images
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

__all__ = ["NOISES", "Flow", "FlowConfig", "FlowTrainer", "Options", "fit_flow"]

NOISES: dict[str, float] = {"uniform": 1 / 12, "gaussian": 1.0}
"""Kinds of noise, with the variance of one of width 1."""


@dataclass(frozen=True, kw_only=True)
class Options(Checked):
    """What determines the result beside the architecture and the optimisation, see `fit_flow`."""

    dequantise: float = limited(1 / 255, minimum=0)
    noise: str = "uniform"

    def __post_init__(self) -> None:
        super().__post_init__()
        choice(self.noise, "noise", sorted(NOISES))

    def dequantised(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Add the noise, from torch's global generator unless another is given."""
        if self.dequantise == 0:
            return x
        draw = torch.randn if self.noise == "gaussian" else torch.rand
        noise = draw(x.shape, generator=generator, dtype=x.dtype, device=x.device)
        return x + self.dequantise * (noise if self.noise == "gaussian" else noise - 0.5)


class FlowTrainer(Trainer):
    """A flow in training."""

    scored: ClassVar[tuple[str, ...]] = ("nll",)
    criterion: ClassVar[tuple[str, int] | None] = ("nll", 1)
    module: Flow
    options: Options

    def loss(self, batch: Tensor) -> Tensor:
        """Return the mean negative log-likelihood of a batch with noise."""
        return -self.module.log_prob(self.options.dequantised(batch)).mean()

    @torch.no_grad()
    def score(self) -> dict[str, float]:
        """Return the mean negative log-likelihood of the held-out images, always with the same noise."""
        generator = torch.Generator(self.held_out.device).manual_seed(self.optimisation.seed_of(0))
        noisy = self.options.dequantised(self.held_out, generator)
        parts = [self.module.log_prob(part) for part in noisy.split(self.optimisation.batch_size)]
        return {"nll": -torch.cat(parts).mean().item()}


@undisturbed
@with_keywords(batch_size=128, lr=1e-3, clip=10.0)
def fit_flow(
    images: Tensor,
    *,
    transforms: int = 3,
    hidden: tuple[int, ...] = (128, 128),
    bins: int = 8,
    whitening: str = "full",
    dequantise: float = 1 / 255,
    noise: str = "uniform",
    validation: Tensor | None = None,
    optimisation: Optimisation = FROM_KEYWORDS,
    bookkeeping: Bookkeeping = FROM_KEYWORDS,
    **keywords: Unpack[Keywords],
) -> Flow:
    """Train a normalising flow with Adam on images, in their data type and on their device.

    Parameters
    ----------
    images
        Training images ``(N, n, m)``.
    transforms, hidden, bins, whitening
        The architecture, see `genreg.networks.FlowConfig`. The whitening is that of the images with the noise.
    dequantise, noise
        Noise added to the images: "uniform" in an interval of this width around 0, or "gaussian" with this
        standard deviation. The default suits images of 256 grey values in [0, 1]; 0 adds none.
    validation
        Held-out images ``(N, n, m)``; noise is added to them as well, always the same.

    Returns
    -------
    Flow
        In evaluation mode. ``flow.card`` holds "architecture", "training" (the settings), "history" (step and
        losses) and, with `validation`, "score": the mean negative log-likelihood in nats per image.

    Raises
    ------
    ImportError
        If zuko is missing.
    ValueError
        If images do not vary in every direction.
    """
    options = Options(dequantise=dequantise, noise=noise)
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
    with seeded(optimisation.seed_of(0)):
        flow = config.build().to(images)
    batches = Batches.checked(images, flow, optimisation)
    held_out = held_out_images(validation, flow)
    flow.whiten(images, NOISES[options.noise] * options.dequantise**2)
    flow.card = FlowTrainer(flow, optimisation, batches, options, held_out).train(bookkeeping)
    return flow
