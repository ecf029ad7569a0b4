r"""Training of structured precisions, and the likelihood of held-out images.

A structured model, p(x | z) = N(x; G(z), Λ(z)^-1) with Λ = L L', is trained in two stages: first encoder and mean with
one standard deviation for all pixels (`genreg.training.fit`), then, by `fit_precision`, the head that predicts L, with
encoder and mean as they are. The second stage minimises the mean over images x of

    -log N(x; G(z), Λ(z)^-1) + w/2 sum_{p, k} a_k(p)^2,    z ~ q(z | x),

with a the coefficients of `genreg.networks.Structured` and w the precision of an optional Gaussian prior on them. A
third stage, ``joint=True``, goes on with all weights and the Kullback-Leibler term, so with the evidence lower bound.

A head can only learn how large residuals are from images for which they are as large as for unseen ones. Give it
images that the mean was not trained on, where there are few.

References
----------
G. Dorta, S. Vicente, L. Agapito, N. D. F. Campbell, I. Simpson (2018), Structured uncertainty prediction networks,
CVPR, arXiv:1802.07079.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Unpack

import torch
from torch import Tensor, nn

from genreg.networks import Structured
from genreg.operators import SparseCholeskyPrecision
from genreg.operators.bridge.modes import undisturbed
from genreg.solvers.checkpoints import digest
from genreg.training.batches import Sampler
from genreg.training.engine import Trainer
from genreg.training.gaussian_likelihood import (
    fit_gamma,
    likelihood,
    log_likelihoods,
    posterior,
    precision_of,
)
from genreg.training.optimisers import running_statistics
from genreg.training.settings import (
    FROM_KEYWORDS,
    Bookkeeping,
    Checked,
    Keywords,
    Optimisation,
    limited,
    with_keywords,
)

__all__ = [
    "Options",
    "PrecisionTrainer",
    "fit_gamma",
    "fit_precision",
    "likelihood",
    "log_likelihoods",
    "precision_of",
]


@dataclass(frozen=True, kw_only=True)
class Options(Checked):
    """What determines the result beside the optimisation, see `fit_precision`."""

    joint: bool = False
    sampled: bool = True
    weight_prior: float = limited(0.0, minimum=0)
    kl_weight: float = limited(1.0, minimum=0)


class PrecisionTrainer(Trainer):
    """A structured model whose head, or all of it, is in training."""

    scored: ClassVar[tuple[str, ...]] = ("nats", "nats_sampled", "elbo", "whitened")
    criterion: ClassVar[tuple[str, int] | None] = ("nats_sampled", -1)
    module: Structured
    options: Options

    @property
    def _part(self) -> nn.Module:
        return self.module if self.options.joint else self.module.head

    def trained(self) -> list[nn.Parameter]:
        """Return the parameters of the head, or all but gamma."""
        return [p for name, p in self._part.named_parameters() if name != "log_gamma"]

    def followed(self) -> list[Tensor]:
        """Return the weights, and the statistics of what is trained."""
        return [*self.weights, *running_statistics(self._part)]

    def begin(self) -> None:
        """Put what is trained in training mode."""
        super().begin()
        for part in (self.module.encoder, self.module.decoder):
            part.train(self.options.joint)

    def objective(self, x: Tensor) -> Tensor:
        """Return the mean objective of a batch of images."""
        model, options = self.module, self.options
        with torch.set_grad_enabled(options.joint):
            z, divergence = posterior(model, x, options.sampled)
            mean = model.decode(z)
        precision = precision_of(model, mean)
        value = -precision.log_density(x - mean).mean()
        if options.joint:
            value = value + options.kl_weight * divergence.mean()
        if options.weight_prior and isinstance(precision, SparseCholeskyPrecision):
            a = model.coefficients(precision.log_diag, precision.weights)
            value = value + 0.5 * options.weight_prior * a.square().sum() / len(x)
        return value

    def loss(self, batch: Tensor) -> Tensor:
        """Return the objective of a batch."""
        try:
            return self.objective(batch)
        except ValueError as error:  # a precision refuses parameters that are not finite
            raise FloatingPointError(
                f"the precision of step {self.step} fails: {error}; {self.remedy}, lr is {self.optimisation.lr}"
            ) from error

    def score(self) -> dict[str, float]:
        """Return the likelihood of the held-out images."""
        return likelihood(self.module, self.held_out)

    def data(self) -> dict[str, Any]:
        """Return what a checkpoint knows the images by, and the part of the model that stays as it is."""
        state = {} if self.options.joint else self.module.state_dict()
        fixed = {name: t for name, t in state.items() if not name.startswith("head.")}
        return super().data() | {"encoder and mean": digest(fixed)}


@undisturbed
@with_keywords(batch_size=32, lr=1e-3)
def fit_precision(
    model: Structured,
    images: Tensor | Sampler,
    *,
    joint: bool = False,
    sampled: bool = True,
    weight_prior: float = 0.0,
    kl_weight: float = 1.0,
    validation: Tensor | None = None,
    optimisation: Optimisation = FROM_KEYWORDS,
    bookkeeping: Bookkeeping = FROM_KEYWORDS,
    **keywords: Unpack[Keywords],
) -> dict[str, Any]:
    """Train the precision of a structured model with Adam, in place; it is in evaluation mode afterwards.

    Parameters
    ----------
    model
        The model, on the device to train on; usually what `StructuredConfig.grow` made of a trained mean.
    joint
        Whether encoder and mean are trained as well, by the evidence lower bound; at a lower rate, such as 1e-4.
    sampled
        Whether z is drawn from q(z | x); its mean is taken where False, and for models that are not variational.
    weight_prior
        Precision of the Gaussian prior on each coefficient a.
    kl_weight
        Weight of the Kullback-Leibler term of joint training.
    validation
        Held-out images ``(N, *image_shape)`` for `likelihood`.
    """
    options = Options(
        joint=bool(joint), sampled=bool(sampled), weight_prior=weight_prior, kl_weight=kl_weight
    )
    if not isinstance(model, Structured):
        raise TypeError(
            f"model must be a Structured autoencoder, got {type(model).__name__}; "
            "StructuredConfig(mean=model.config).grow(model) makes one"
        )
    return PrecisionTrainer.fit(model, images, validation, optimisation, options, bookkeeping)
