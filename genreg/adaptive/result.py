"""What adaptive measurements return."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from genreg.operators import check_tensor
from genreg.operators.bridge.arrays import array
from genreg.sampling import ChainStatus, Samples


@dataclass(frozen=True)
class AdaptiveResult:
    """What was measured, and what was known after each round.

    For data without a batch axis all have none, and images are ODL elements where the data were one.

    Attributes
    ----------
    chosen : Tensor
        Numbers of the groups measured in every round, ``(B, rounds, k)``.
    mean, std : Tensor or ODL element
        Posterior mean and standard deviation of the image before the first round and after each one, ``(B, rounds +
        1, *X.shape)``, or elements of the space :math:`X^{rounds + 1}`.
    best : Tensor or None
        The largest datum measured until the end of each round (of a group its mean), ``(B, rounds)``; None for
        complex data.
    status : Tensor
        `ChainStatus` of every chain, ``(B, rounds + 1, chains)``.
    samples : Samples
        The posterior in the end; its fidelity holds all that was measured.
    seed : int
        Seed of the random numbers.
    """

    chosen: Tensor
    mean: Any
    std: Any
    best: Tensor | None
    status: Tensor
    samples: Samples
    seed: int

    def error(self, truth: Any) -> Tensor:
        """Mean squared error of the posterior mean before the first round and after each one.

        Parameters
        ----------
        truth : Tensor or ODL element
            The true images, as the data were given.

        Returns
        -------
        Tensor
            ``(B, rounds + 1)``.

        Raises
        ------
        ValueError
            If `truth` is of another shape.
        """
        X = self.samples.posterior.generator.range
        means, x = array(self.mean, "mean"), array(truth, "truth")
        batch = check_tensor(x, X, "truth", any_device=True)
        pixels = len(X.shape)
        if batch != tuple(means.shape[: means.ndim - pixels - 1]):
            raise ValueError(
                f"truth must be images of the shape {tuple(means.shape[: -pixels - 1]) + X.shape}, got {tuple(x.shape)}"
            )
        square = (means - x.to(means).unsqueeze(-pixels - 1)).abs().square()
        return square.flatten(-pixels).mean(-1)

    def advice(self) -> str:
        """How many chains ended in which way in all rounds, and what to do about it."""
        return ChainStatus.summary(self.status)
