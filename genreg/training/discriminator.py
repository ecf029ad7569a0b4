"""Discriminators between data and the images of a generator: their training, and how well they tell them apart."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, ClassVar

import odl
import torch
from torch import Tensor, nn

from genreg.networks import Critic
from genreg.networks.borrowed import evaluating
from genreg.networks.discriminator_output import DiscriminatorOutput
from genreg.operators import to_torch, torch_device, torch_dtype
from genreg.operators.bridge.arguments import integer, number, seeded_generator
from genreg.sampling.importance import kish_ess, self_normalised
from genreg.training.batches import Batches, checked, held_out_images
from genreg.training.engine import Trainer
from genreg.training.optimisers import adamw
from genreg.training.settings import Checked, Optimisation, limited

_PART = 1000  # images judged at a time outside of training


@dataclass(frozen=True, kw_only=True)
class Options(Checked):
    """What determines the result beside the optimisation, see `genreg.training.fit_discriminator`."""

    noise_std: float = limited(0.0, minimum=0)
    momentum: float | None = None  # of gradient descent; Adam where None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.momentum is not None and not 0 <= self.momentum < 1:
            raise ValueError(f"momentum must lie in [0, 1), got {self.momentum}")


class GeneratedImages:
    """Images of G for new z, in the data type and on the device of a network, with the noise that all images get."""

    def __init__(self, G: Any, like: Tensor, noise_std: float) -> None:
        self.fn, self.Z, self.like, self.noise_std = to_torch(G), G.domain, like, noise_std

    @torch.no_grad()
    def __call__(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw n images, from torch's global generator where none is given."""
        z = _normal((n, *self.Z.shape), torch_dtype(self.Z), torch_device(self.Z), generator)
        return self.noisy(self.fn(z).to(self.like), generator)

    def noisy(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Add the noise that data and images of G have in common."""
        if not self.noise_std:
            return x
        return x + self.noise_std * _normal(tuple(x.shape), x.dtype, x.device, generator)


def _normal(
    shape: tuple[int, ...], dtype: torch.dtype, device: torch.device, generator: torch.Generator | None
) -> Tensor:
    source = device if generator is None else generator.device
    return torch.randn(shape, generator=generator, dtype=dtype, device=source).to(device)


@dataclass(frozen=True)
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


class DiscriminatorTrainer(Trainer):
    """A discriminator in training."""

    scored: ClassVar[tuple[str, ...]] = tuple(field.name for field in dataclasses.fields(RatioScores))
    criterion: ClassVar[tuple[str, int] | None] = ("cross_entropy", 1)
    options: Options

    def __init__(
        self,
        D: nn.Module,
        G: odl.Operator,
        images: Any,
        optimisation: Optimisation,
        options: Options,
        validation: Any = None,
    ) -> None:
        self.G, self.output = G, checked_output(D, G)
        held_out = held_out_images(validation, self.output)
        self.generated = GeneratedImages(G, next(D.parameters()), options.noise_std)
        batches = Batches.checked(images, self.output, optimisation)
        super().__init__(D, optimisation, batches, options, held_out)

    def make_optimisers(self) -> list[torch.optim.Optimizer]:
        """Return Adam, or gradient descent with momentum."""
        how, momentum = self.optimisation, self.options.momentum
        if momentum is None:
            return [adamw(self.weights, how, fused=False)]
        return [torch.optim.SGD(self.weights, lr=how.lr, momentum=momentum, weight_decay=how.weight_decay)]

    def begin(self) -> None:
        """Let all weights be trained."""
        super().begin()
        self.module.requires_grad_(True)

    def loss(self, batch: Tensor) -> Tensor:
        """Return the cross-entropy of as many images of the data as of G."""
        fake = self.generated(len(batch))
        on_real, on_fake = self.output(torch.cat((self.generated.noisy(batch), fake))).chunk(2)
        return cross_entropy(on_real, on_fake)

    def score(self) -> dict[str, float]:
        """Return how well held-out images are told from those of G."""
        noise_std, seed = self.options.noise_std, self.optimisation.seed
        found = discriminator_scores(self.module, self.G, self.held_out, noise_std=noise_std, seed=seed)
        return dataclasses.asdict(found)

    def described(self) -> dict[str, Any]:
        """Return the architecture, of a module without a configuration its class."""
        known = isinstance(self.module, Critic)
        return super().described() if known else {"architecture": type(self.module).__name__}

    def data(self) -> dict[str, Any]:
        """Return what a checkpoint knows both kinds of images by."""
        few = self.generated(4, torch.Generator().manual_seed(0))
        return super().data() | {"images of G": few}


def cross_entropy(on_real: Tensor, on_fake: Tensor) -> Tensor:
    """Return the mean of -log of the probability given to what images are, from logits."""
    softplus = nn.functional.softplus
    return 0.5 * (softplus(-on_real).mean() + softplus(on_fake).mean())


def checked_output(D: Any, G: Any) -> DiscriminatorOutput:
    """Return what judges images of G, after a look at one of them."""
    if not isinstance(G, odl.Operator) or not hasattr(G.range, "dtype"):
        raise TypeError(f"G must be an ODL operator to a tensor or function space, got {G!r}")
    output = DiscriminatorOutput(D, tuple(G.range.shape))
    if next(output.parameters(), None) is None:
        raise ValueError(f"D must have parameters, got {type(D).__name__} without any")
    with evaluating(D):
        output.eval().check(
            GeneratedImages(G, next(output.parameters()), 0.0)(1, torch.Generator().manual_seed(0))
        )
    return output


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
        As in `fit_discriminator`: what D was trained with.
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
    output = checked_output(D, G)
    x = checked(images, output, "images")
    n = len(x) if draws is None else integer(draws, "draws", minimum=1)
    noise_std, generator = number(noise_std, "noise_std", minimum=0), seeded_generator(seed)
    made = GeneratedImages(G, x, noise_std)
    sizes = [min(_PART, n - first) for first in range(0, n, _PART)]
    with evaluating(D):
        real = torch.cat([output(made.noisy(part, generator)) for part in x.split(_PART)]).double()
        fake = torch.cat([output(made(size, generator)) for size in sizes]).double()
    ratio = fake.exp().mean()
    return RatioScores(
        cross_entropy=cross_entropy(real, fake).item(),
        accuracy=0.5 * ((real > 0).double().mean() + (fake <= 0).double().mean()).item(),
        ratio_mean=ratio.item(),
        inverse_ratio_mean=(-real).exp().mean().item(),
        effective_share=(kish_ess(self_normalised(fake, 0), 0) / n).item(),
        divergence=(real.mean() - fake.logsumexp(0) + math.log(n)).item(),
    )
