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

from dataclasses import dataclass
from typing import Any, ClassVar, Unpack

import torch
from torch import Tensor, nn

from genreg.networks import GAN
from genreg.networks.borrowed import evaluating
from genreg.operators.bridge.modes import undisturbed
from genreg.training.batches import Sampler
from genreg.training.engine import Trainer
from genreg.training.model_scores import range_error
from genreg.training.optimisers import adamw, running_statistics
from genreg.training.settings import (
    FROM_KEYWORDS,
    Bookkeeping,
    Checked,
    Keywords,
    Optimisation,
    limited,
    with_keywords,
)

_WATCHED = 32  # held-out images whose range error the history shows


@dataclass(frozen=True, kw_only=True)
class Options(Checked):
    """What determines the result beside the optimisation, see `fit_gan`."""

    betas: tuple[float, float] = (0.0, 0.9)
    penalty: float = limited(10.0, minimum=0)
    critic_steps: int = limited(5, minimum=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "betas", tuple(float(beta) for beta in self.betas))
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


class GanTrainer(Trainer):
    """A GAN in training; the average is that of the generator's weights."""

    remedy: ClassVar[str] = "lower lr or raise penalty"
    module: GAN
    options: Options

    def trained(self) -> list[nn.Parameter]:
        """Return the parameters of the generator; those of the critic are beside."""
        self.judging = list(self.module.critic.parameters())
        return list(self.module.decoder.parameters())

    def make_optimisers(self) -> list[torch.optim.Optimizer]:
        """Return Adam for the generator and for the critic."""
        betas = self.options.betas
        return [adamw(p, self.optimisation, betas=betas) for p in (self.weights, self.judging)]

    def followed(self) -> list[Tensor]:
        """Return the weights and statistics of the generator."""
        return [*self.weights, *running_statistics(self.module.decoder)]

    def advance(self) -> dict[str, Tensor]:
        """Take the critic's steps and one of the generator; return the losses of the last."""
        options, (of_generator, of_critic) = self.options, self.optimisers
        self.set_rates()
        for k in range(options.critic_steps):
            real = self.batches(options.critic_steps * self.step + k)
            with torch.no_grad():
                fake = self._fake(real, len(real))
            on_real, on_fake = self.module.discriminate(torch.cat([real, fake])).chunk(2)
            penalty = gradient_penalty(self.module, real, fake)
            distance = on_real.mean() - on_fake.mean()
            self.descend(options.penalty * penalty - distance, of_critic, self.judging)
        loss = -self.module.discriminate(self._fake(real, self.optimisation.batch_size)).mean()
        return {
            "wasserstein": distance.detach(),
            "penalty": penalty.detach(),
            "generator_loss": self.descend(loss, of_generator, self.weights, alone=True),
        }

    def _fake(self, like: Tensor, n: int) -> Tensor:
        """Draw images of the generator, ``(n, rows, columns)``."""
        z = torch.randn(n, self.module.latent_dim, device=like.device, dtype=like.dtype)
        return self.module.decode(z).to(like.dtype)

    def score(self) -> dict[str, float]:
        """Return the critic's distance of held-out images, and how near the range comes to the first of them."""
        model, held_out = self.module, self.held_out
        with evaluating(model):
            with torch.no_grad():
                fake = self._fake(held_out, len(held_out))
                distance = model.discriminate(held_out).mean() - model.discriminate(fake).mean()
            error = range_error(model, held_out[:_WATCHED], steps=150, lr=0.1, restarts=4)
        return {"validation_wasserstein": distance.item(), "range_psnr": error["range_psnr"]}


@undisturbed
@with_keywords(batch_size=64, lr=1e-4, schedule="constant")
def fit_gan(
    model: GAN,
    images: Tensor | Sampler,
    *,
    betas: tuple[float, float] = (0.0, 0.9),
    penalty: float = 10.0,
    critic_steps: int = 5,
    validation: Tensor | None = None,
    optimisation: Optimisation = FROM_KEYWORDS,
    bookkeeping: Bookkeeping = FROM_KEYWORDS,
    **keywords: Unpack[Keywords],
) -> dict[str, Any]:
    r"""Train a GAN with Adam, in place; the model is in evaluation mode afterwards.

    Parameters
    ----------
    model
        The model, on the device to train on.
    betas
        Decay of Adam's averages of the gradient and of its square.
    penalty
        Weight mu of the gradient penalty.
    critic_steps
        Number of steps of the critic in a step.
    validation
        Held-out images ``(N, n, m)`` for the history: the critic's distance on them, and the range error of
        the first 32 by a short descent.
    optimisation, bookkeeping
        How to optimise and how to keep the run, `Optimisation` and `Bookkeeping`; or their fields as keywords. A step
        is one of the generator, of whose weights alone there is a moving average.

    Returns
    -------
    dict
        A JSON-able card: "architecture", "training" (the settings) and "history": for each entry "step",
        "wasserstein" (the critic's estimate of the distance on the last batch, in units of the Euclidean norm
        of an image), "penalty" (without its weight) and "generator_loss"; with `validation`
        "validation_wasserstein" and "range_psnr".
    """
    options = Options(betas=betas, penalty=penalty, critic_steps=critic_steps)
    if not isinstance(model, GAN):
        raise TypeError(
            f"model must be a GAN (genreg.networks.GanConfig), got {type(model).__name__}; autoencoders are "
            "trained by genreg.training.fit"
        )
    return GanTrainer.fit(model, images, validation, optimisation, options, bookkeeping)
