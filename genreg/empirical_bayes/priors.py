r"""Priors of latent vectors with parameters that are learned from observations.

A prior gives the density :math:`p_\theta(z)` and draws. It learns from the draws of posteriors in two movements:
`accumulate` takes in what a batch of posteriors says about z, `update` moves θ to where all that was taken in is most
likely, :math:`\max_\theta \mathrm{E}\, \mathrm{E}_{q(z \mid y)} \log p_\theta(z)`.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from odl.core.space.base_tensors import TensorSpace
from torch import Tensor, nn
from torch.distributions import Distribution

from genreg.networks.borrowed import seeded
from genreg.operators import torch_device, torch_dtype
from genreg.operators.bridge.arguments import integer, number, seed_number
from genreg.operators.bridge.arrays import check_memory


@dataclass(frozen=True)
class PosteriorDraws:
    """What posteriors q(z | y) of N observations say about z.

    Attributes
    ----------
    z : Tensor
        Draws, ``(S, N, p)``.
    gaussian : tuple of Tensor, optional
        Means ``(N, p)`` and covariances, ``(p, p)`` or ``(N, p, p)``, where q is Gaussian.
    """

    z: Tensor
    gaussian: tuple[Tensor, Tensor] | None = None


class Prior(nn.Module):
    """Base of the priors on an ODL space.

    Parameters
    ----------
    space : TensorSpace
        The space Z of the latent vectors, real, with p = dim Z entries. Densities are those of the entries, without
        the weight of the space.

    Raises
    ------
    TypeError
        If the space is none of real vectors or images.
    """

    def __init__(self, space: Any) -> None:
        super().__init__()
        if not isinstance(space, TensorSpace) or not torch_dtype(space).is_floating_point:
            raise TypeError(f"space must be a real tensor space of floating type, got {space!r}")
        self.space = space

    @property
    def size(self) -> int:
        """p, the dimension of Z."""
        return self.space.size

    @abstractmethod
    def log_prob(self, z: Tensor) -> Tensor:
        r""":math:`\log p(z)` of ``(*batch, *Z.shape)``, ``(*batch,)``; differentiable in z."""

    @abstractmethod
    def sample(self, n: int, *, seed: int) -> Tensor:
        """Draws ``(n, *Z.shape)``."""

    @abstractmethod
    def moments(self) -> tuple[Tensor, Tensor]:
        """Mean ``(p,)`` and covariance ``(p, p)``, for coordinates to work in."""

    @abstractmethod
    def accumulate(self, drawn: PosteriorDraws, share: float) -> None:
        """Take in posteriors of some observations.

        Parameters
        ----------
        drawn : PosteriorDraws
            What they say.
        share : float
            Part of the memory that they fill, in (0, 1].
        """

    @abstractmethod
    def update(self, n: int, *, sparse: bool = True) -> dict[str, float]:
        """Move the parameters to where what was absorbed is most likely.

        Parameters
        ----------
        n : int
            Number of observations in all.
        sparse : bool
            Whether parameters are set to zero where the observations are as likely with it, for priors that do so.

        Returns
        -------
        dict of str to float
            What changed, for the history.
        """

    def forget(self) -> None:
        """Forget what was absorbed."""

    def begin(self, rough: Tensor, covariance: Tensor, *, seed: int) -> None:
        """Start from rough estimates of latent vectors, where nothing else was given to start from.

        Parameters
        ----------
        rough : Tensor
            Posterior means under the moments of the prior as it is, ``(n, p)``.
        covariance : Tensor
            The posterior covariance, ``(p, p)``: without it, directions that the data hardly show would have hardly
            any variance.
        seed : int
            Seed of random numbers.
        """

    @property
    def optimisers(self) -> list[torch.optim.Optimizer]:
        """Optimisers whose state a checkpoint must hold."""
        return []

    def check(self, n: int) -> None:
        """Raise a ValueError where n observations are too few."""

    def to_dict(self) -> dict[str, Any]:
        """What two runs that continue each other must agree on."""
        return {"name": type(self).__name__, "shape": list(self.space.shape)}


class DistributionPrior(Prior):
    r"""A torch distribution with learnable parameters, learned by gradient steps.

    Parameters
    ----------
    space : TensorSpace
        The space Z.
    model : torch.nn.Module
        Called without arguments it gives a `torch.distributions.Distribution` of vectors, with ``event_shape`` (p,),
        that depends on its parameters: for example a lazy distribution of zuko. It is on the device of the space.
    lr : float
        Step size of Adam.
    steps : int
        Its steps in an update, on the draws of the batch that was absorbed last; after `forget`, on all draws.

    Raises
    ------
    TypeError, ValueError
        If the model gives no distribution of such vectors or has no parameters, or a number is not positive.
    """

    def __init__(self, space: Any, model: nn.Module, *, lr: float = 1e-2, steps: int = 5) -> None:
        super().__init__(space)
        if not isinstance(model, nn.Module):
            raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
        self.lr, self.steps = number(lr, "lr", above=0), integer(steps, "steps", minimum=1)
        self.model = model.to(torch_device(space), torch_dtype(space))
        weights = [p for p in self.model.parameters() if p.requires_grad]
        if not weights:
            raise ValueError(
                f"model must have parameters that can be learned, got {type(model).__name__} without any"
            )
        found = self.model()
        if not isinstance(found, Distribution):
            raise TypeError(f"model() must be a torch Distribution, got {type(found).__name__}")
        if tuple(found.event_shape) != (self.size,) or tuple(found.batch_shape):
            raise ValueError(
                f"model() must be a distribution of one vector with {self.size} entries, got event_shape "
                f"{tuple(found.event_shape)} and batch_shape {tuple(found.batch_shape)}; "
                "torch.distributions.Independent makes vectors of independent entries"
            )
        self._optimiser = torch.optim.Adam(weights, lr=self.lr)
        self._accumulated: list[Tensor] = []
        self._collects = False

    def log_prob(self, z: Tensor) -> Tensor:
        r""":math:`\log p(z)`, ``(*batch,)``."""
        return self.model().log_prob(z.flatten(z.ndim - self.space.ndim))

    @torch.no_grad()
    def sample(self, n: int, *, seed: int) -> Tensor:
        """Draws ``(n, *Z.shape)``."""
        n, seed = integer(n, "n", minimum=1), seed_number(seed)
        check_memory((n, self.size), torch_dtype(self.space), "n", n)
        with seeded(seed, torch_device(self.space)):
            return self.model().sample((n,)).reshape(n, *self.space.shape)

    def moments(self) -> tuple[Tensor, Tensor]:
        """Mean and covariance, of draws."""
        z = self.sample(100 * self.size, seed=0).flatten(1).double()
        return z.mean(0), torch.cov(z.T).reshape(self.size, self.size)

    def accumulate(self, drawn: PosteriorDraws, share: float) -> None:
        """Keep the draws of a batch, in the place of those before, or after `forget` beside them."""
        kept = self._accumulated if self._collects else []
        self._accumulated = [*kept, drawn.z.detach().flatten(0, 1)]

    def forget(self) -> None:
        """Forget the draws, and keep all from here to the next update."""
        self._accumulated, self._collects = [], True

    @torch.enable_grad()
    def update(self, n: int, *, sparse: bool = True) -> dict[str, float]:
        """Take steps of Adam on the negative log-density of the draws."""
        z = torch.cat(self._accumulated)
        self._collects = False
        for _ in range(self.steps):
            self._optimiser.zero_grad()
            loss = -self.model().log_prob(z).mean()
            loss.backward()
            self._optimiser.step()
        return {"prior_loss": loss.item()}

    @property
    def optimisers(self) -> list[torch.optim.Optimizer]:
        """The optimiser of the parameters."""
        return [self._optimiser]

    def to_dict(self) -> dict[str, Any]:
        """What two runs that continue each other must agree on."""
        return super().to_dict() | {"model": type(self.model).__name__, "lr": self.lr, "steps": self.steps}
