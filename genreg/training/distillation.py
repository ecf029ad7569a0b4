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

from dataclasses import dataclass
from typing import Any, ClassVar, Unpack

import torch
from torch import Tensor

from genreg.networks import GaussianRegressor, GaussianRegressorConfig
from genreg.networks.borrowed import evaluating
from genreg.operators.bridge.modes import undisturbed
from genreg.solvers.checkpoints import digest
from genreg.training.batches import Batches, checked
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

__all__ = ["GaussianRegressor", "GaussianRegressorConfig", "Options", "RegressorTrainer", "distil"]

_PART = 64  # images predicted at a time outside of training


@dataclass(frozen=True, kw_only=True)
class Options(Checked):
    """What determines the result beside the optimisation, see `distil`."""

    mean_steps: int = limited(0, minimum=0)


class RegressorTrainer(Trainer):
    """A regressor in training on pairs of an image and M images; the batches are indices of them."""

    remedy: ClassVar[str] = "lower lr or clip"
    scored: ClassVar[tuple[str, ...]] = ("negative_log_density",)
    criterion: ClassVar[tuple[str, int] | None] = ("negative_log_density", 1)
    module: GaussianRegressor
    options: Options

    def __init__(
        self,
        model: GaussianRegressor,
        optimisation: Optimisation,
        pairs: tuple[Tensor, Tensor],
        options: Options,
        held_out: tuple[Tensor, Tensor] | None,
    ) -> None:
        self.pairs = pairs
        index = torch.arange(len(pairs[0]), device=pairs[0].device)
        super().__init__(model, optimisation, Batches(index, optimisation, index), options, held_out)

    def objective(self, x: Tensor, y: Tensor, mean_first: bool = False) -> Tensor:
        """Return the mean objective of a batch, for one pixel; y is ``(B, M, n, m)``."""
        v = self.module.link.forward(y.transpose(0, 1))
        if mean_first:
            return 0.5 * (v - self.module(x)[0]).square().mean()
        mean, precision = self.module.predict(x)
        return -precision.log_density(v - mean).mean() / mean[0].numel()

    def loss(self, batch: Tensor) -> Tensor:
        """Return the objective of the pairs with these indices."""
        inputs, outputs = self.pairs
        return self.objective(inputs[batch], outputs[batch], self.step < self.options.mean_steps)

    @torch.no_grad()
    def score(self) -> dict[str, float]:
        """Return the mean objective of held-out pairs."""
        inputs, outputs = self.held_out
        parts = zip(inputs.split(_PART), outputs.split(_PART), strict=True)
        with evaluating(self.module):
            total = sum(self.objective(x, y) * len(x) for x, y in parts)
        return {"negative_log_density": float(total) / len(inputs)}

    def data(self) -> dict[str, Any]:
        """Return digests of all images."""
        inputs, outputs = self.pairs
        return {"inputs": digest(inputs), "outputs": digest(outputs), "validation": digest(self.held_out)}


@undisturbed
@with_keywords(batch_size=32, lr=1e-3, clip=1.0)
def distil(
    model: GaussianRegressor,
    inputs: Tensor,
    outputs: Tensor,
    *,
    mean_steps: int = 0,
    validation: tuple[Tensor, Tensor] | None = None,
    optimisation: Optimisation = FROM_KEYWORDS,
    bookkeeping: Bookkeeping = FROM_KEYWORDS,
    **keywords: Unpack[Keywords],
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
        What its M members make of them, ``(N, M, n, m)``; or one image for each input, ``(N, n, m)``. An input comes
        into a step with all its M outputs.
    mean_steps
        Number of first steps in which only the mean is fitted, by least squares in the values of the link; the
        precision is near 1 until then.
    validation
        Held-out inputs and outputs; the score is the mean negative log-density of g(y) in nats for one pixel.
    optimisation, bookkeeping
        How to optimise and how to keep the run, `Optimisation` and `Bookkeeping`; or their fields as keywords. `clip`
        bounds the gradient of the objective for one pixel.
    """
    options = Options(mean_steps=mean_steps)
    if not isinstance(model, GaussianRegressor):
        raise TypeError(f"model must be a GaussianRegressor, got {type(model).__name__}")
    pairs = _pairs(model, inputs, outputs, "inputs", "outputs")
    held_out = None
    if validation is not None:
        if not isinstance(validation, tuple) or len(validation) != 2:
            raise TypeError(f"validation must be a tuple (inputs, outputs), got {type(validation).__name__}")
        held_out = _pairs(model, *validation, "the inputs of validation", "the outputs of validation")
    return RegressorTrainer(model, optimisation, pairs, options, held_out).train(bookkeeping)


def _pairs(
    model: GaussianRegressor, inputs: Any, outputs: Any, of_inputs: str, of_outputs: str
) -> tuple[Tensor, Tensor]:
    """Return inputs ``(N, n, m)`` and outputs ``(N, M, n, m)`` that fit the model and each other."""
    inputs = checked(inputs, model, of_inputs)
    if isinstance(outputs, Tensor) and outputs.ndim == inputs.ndim:
        outputs = outputs.unsqueeze(1)
    members = outputs.shape[1] if isinstance(outputs, Tensor) and outputs.ndim == 4 else 0
    flat = outputs.flatten(0, 1) if members else outputs
    flat = checked(flat, model, of_outputs)
    if members == 0 or len(flat) != members * len(inputs):
        raise ValueError(
            f"{of_outputs} must have the shape ({len(inputs)}, M, {', '.join(map(str, model.image_shape))}), "
            f"got {tuple(outputs.shape)}"
        )
    return inputs, flat.unflatten(0, (len(inputs), members))
