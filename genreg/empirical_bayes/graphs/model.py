r"""Gaussian graphical models, and mixtures of them, as priors.

.. math:: p(z) = \sum_{k=1}^K w_k\, N(z; m_k, \Lambda_k^{-1})

with sparse precisions: where :math:`\Lambda_{ij} = 0`, the entries i and j of z are independent given all others. The
zeros make a graph, which is learned with the rest.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from genreg.empirical_bayes.graphs.image_models import ConstantImage, GaussianImage
from genreg.empirical_bayes.graphs.lasso import GraphicalLasso
from genreg.empirical_bayes.graphs.sufficient_statistics import Statistics, mixture_of
from genreg.empirical_bayes.priors import PosteriorDraws, Prior
from genreg.generator import Generator
from genreg.operators import DenseCholeskyPrecision, torch_device, torch_dtype
from genreg.operators.bridge.arguments import choice, integer, seeded_generator
from genreg.operators.bridge.arrays import check_memory
from genreg.regularisers import JointPrior

_LEAST = 1e-3  # weight that a component keeps
_DENSE = GraphicalLasso(lam=0.0, refit=False)


class GaussianGraphicalModel(Prior):
    r"""A Gaussian with a sparse precision, or a mixture of K of them.

    Parameters
    ----------
    space : TensorSpace
        The space Z.
    components : int
        K.
    mean : "zero" or "learned"
        Whether the means :math:`m_k` stay zero.
    precision : Tensor, optional
        The precisions to start from, ``(p, p)`` or ``(K, p, p)``, the identity by default. A mixture without them
        starts from the components that `empirical_bayes.fit` finds in rough estimates of z.
    means, weights : Tensor, optional
        The means ``(K, p)`` and weights ``(K,)`` to start from, likewise.
    estimator : GraphicalLasso, optional
        How a sparse precision is found from a second moment, by default `GraphicalLasso` with its parameter by BIC.

    Raises
    ------
    TypeError, ValueError
        If the space is not real, an argument is not one of these, has another shape or is not finite, a precision is
        not symmetric and positive definite, or weights are not positive.
    """

    weights: Tensor
    means: Tensor
    matrices: Tensor
    factor: Tensor
    chosen: Tensor
    seen: Tensor

    def __init__(
        self,
        space: Any,
        components: int = 1,
        *,
        mean: str = "zero",
        precision: Tensor | None = None,
        means: Tensor | None = None,
        weights: Tensor | None = None,
        estimator: GraphicalLasso | None = None,
    ) -> None:
        super().__init__(space)
        components = integer(components, "components", minimum=1)
        choice(mean, "mean", ("zero", "learned"))
        estimator = GraphicalLasso() if estimator is None else estimator
        if not isinstance(estimator, GraphicalLasso):
            raise TypeError(f"estimator must be a GraphicalLasso, got {type(estimator).__name__}")
        if mean == "zero" and means is not None:
            raise ValueError("means must not be given where mean is 'zero'")
        self.components, self.mean, self.estimator = components, mean, estimator
        K, p = components, self.size
        check_memory((K, p, p), torch.float64, "components", components)
        device = torch_device(space)
        double: dict[str, Any] = {"dtype": torch.float64, "device": device}
        matrices = torch.eye(p, **double) if precision is None else precision
        if isinstance(matrices, Tensor) and matrices.ndim == 2:
            matrices = matrices.expand(K, *matrices.shape)
        centres = torch.zeros(K, p, **double) if means is None else _checked(means, "means", (K, p))
        shares = torch.ones(K, **double) if weights is None else _checked(weights, "weights", (K,))
        if not bool((shares > 0).all()):
            raise ValueError(f"weights must be positive, got {shares.tolist()}")
        # whether precisions or means were given, or learned, to start from: part of the state
        given = precision is not None or means is not None
        self.register_buffer("chosen", torch.tensor(given, device=device))
        shapes: dict[str, tuple[int, ...]] = {"weights": (K,), "means": (K, p), "matrices": (K, p, p)}
        for name, shape in shapes.items():
            self.register_buffer(name, torch.empty(shape, **double))
        self.register_buffer("factor", torch.empty(K, p, p, dtype=torch_dtype(space), device=device))
        self.register_buffer("seen", torch.zeros((), **double))  # share of the memory that is filled
        shapes = {"first": (K, p), "second": (K, p, p), "explained": (K, p, p)}
        for name in Statistics._fields:
            self.register_buffer(f"running_{name}", torch.zeros(shapes.get(name, (K,)), **double))
        if isinstance(matrices, Tensor) and tuple(matrices.shape) != (K, p, p):
            raise ValueError(
                f"precision must have the shape ({p}, {p}) or ({K}, {p}, {p}), got {tuple(matrices.shape)}"
            )
        self.assign(shares, centres, matrices, "precision")

    def assign(self, weights: Tensor, means: Tensor, matrices: Tensor, name: str = "matrices") -> None:
        """Set the weights ``(K,)``, which are normalised, the means ``(K, p)`` and the precisions ``(K, p, p)``.

        Raises
        ------
        ValueError
            If a precision is not symmetric and positive definite.
        """
        factor = DenseCholeskyPrecision.of(self.space, matrices, name).parameters["factor"]
        self.factor = factor.to(self.factor)
        self.weights = (weights / weights.sum()).to(self.weights)
        self.means = means.to(self.means)
        # a copy: an expanded one could not be loaded into
        self.matrices = matrices.detach().to(self.matrices).clone()

    @property
    def precision(self) -> DenseCholeskyPrecision:
        """Λ as an operator on Z, for K > 1 a batch of the K."""
        return DenseCholeskyPrecision(self.space, self.factor if self.components > 1 else self.factor[0])

    def edges(self, component: int = 0) -> Tensor:
        """The graph of a component, boolean ``(p, p)``, without its diagonal."""
        return (self.matrices[component] != 0).fill_diagonal_(False)

    def log_probs(self, z: Tensor) -> Tensor:
        r""":math:`\log w_k + \log N(z; m_k, \Lambda_k^{-1})`, ``(*batch, K)``."""
        centred = z.flatten(z.ndim - self.space.ndim).unsqueeze(-2) - self.means.to(z)  # (*batch, K, p)
        precision = DenseCholeskyPrecision(self.space, self.factor)
        return precision.log_density(centred.unflatten(-1, self.space.shape)) + self.weights.log().to(z)

    def log_prob(self, z: Tensor) -> Tensor:
        r""":math:`\log p(z)`, ``(*batch,)``."""
        return self.log_probs(z).logsumexp(-1)

    @torch.no_grad()
    def sample(self, n: int, *, seed: int) -> Tensor:
        """Draws ``(n, *Z.shape)``."""
        n, generator = integer(n, "n", minimum=1), seeded_generator(seed)
        check_memory((n, self.components, self.size), self.factor.dtype, "n", n)
        k = torch.multinomial(self.weights.cpu(), n, replacement=True, generator=generator).to(
            self.means.device
        )
        draws = DenseCholeskyPrecision(self.space, self.factor).sample(n, generator).flatten(2)  # (n, K, p)
        chosen = draws[torch.arange(n, device=k.device), k] + self.means[k].to(draws)
        return chosen.reshape(n, *self.space.shape)

    def moments(self) -> tuple[Tensor, Tensor]:
        """Mean ``(p,)`` and covariance ``(p, p)``."""
        mean = self.weights @ self.means
        within = torch.linalg.inv(self.matrices)
        off = self.means - mean
        return mean, torch.einsum("k,kij->ij", self.weights, within) + (off.T * self.weights) @ off

    def statistics(self, drawn: PosteriorDraws) -> Statistics:
        """Expected sufficient statistics of posteriors, in closed form where these are Gaussian and K = 1."""
        if self.components == 1 and drawn.gaussian is not None:
            mean, covariance = drawn.gaussian
            covariance = covariance.reshape(-1, 1, self.size, self.size)
            return Statistics.of_gaussians(mean.new_ones(len(mean), 1), mean[:, None], covariance)
        z = drawn.z.detach()
        with torch.no_grad():
            return Statistics.of_draws(z, self.log_probs(z.unflatten(-1, self.space.shape)).softmax(-1))

    def accumulate(self, drawn: PosteriorDraws, share: float) -> None:
        """Take posteriors into the running averages of the sufficient statistics."""
        self.accumulate_statistics(self.statistics(drawn), share)

    def accumulate_statistics(self, statistics: Statistics, share: float) -> None:
        """Take sufficient statistics into the running averages; early ones count as much as later ones."""
        self.seen = torch.clamp(self.seen + share, max=1.0)
        for name, value in self.running.lerp(statistics, share / float(self.seen))._asdict().items():
            setattr(self, f"running_{name}", value)

    def forget(self) -> None:
        """Forget the running averages: the next statistics take their place."""
        self.seen = torch.zeros_like(self.seen)

    @property
    def running(self) -> Statistics:
        """The running averages."""
        return Statistics(*(getattr(self, f"running_{name}") for name in Statistics._fields))

    def update(self, n: int, *, sparse: bool = True) -> dict[str, float]:
        """Find weights, means and precisions for the running averages.

        Parameters
        ----------
        n : int
            Number of observations in all.
        sparse : bool
            Whether a graph is sought; without, and with enough observations, the precisions are the inverses of the
            second moments.

        Returns
        -------
        dict of str to float
            Number of edges of all components, the largest λ, and "dropped": what the edges that this movement has
            dropped are worth to the criterion, less those that are new, in nats for one observation. Where λ is found
            by the criterion, the mean log p(y) of an exact posterior falls by no more than that.
        """
        running = self.running
        lives = running.weight >= _LEAST  # a component that nothing comes from stays as it is
        running = running._replace(weight=running.weight.clamp_min(_LEAST))
        means = torch.where(lives[:, None], running.first / running.weight[:, None], self.means)
        if self.mean == "zero":
            means = torch.zeros_like(means)
        second, explained = running.moments(means)
        second = torch.where(lives[:, None, None], second, torch.linalg.inv(self.matrices))
        worth = running.worth(n, second, explained).tolist()
        found, matrices, dropped = [], list(self.matrices), 0.0
        for k in lives.nonzero().flatten().tolist():
            estimator = self.estimator if sparse or n * running.weight[k] < self.size else _DENSE
            # without a penalty it is enough that second moments have all ranks, as those of posteriors have
            count = max(worth[k], self.size) if estimator.lam == 0 else worth[k]
            before = self.edges(k)
            found.append(estimator(second[k], count, before))
            matrices[k] = found[-1].matrix
            if estimator.lam != 0:  # without a penalty edges cost nothing, and the evidence does not fall
                price = estimator.price(worth[k], self.size) / (2 * worth[k])
                dropped += float(running.weight[k]) * price * (int(before.sum()) / 2 - found[-1].edges)
        self.assign(running.weight, means, torch.stack(matrices))
        self.chosen.fill_(True)
        edges = float(sum(f.edges for f in found))
        return {"edges": edges, "lam": max(f.lam for f in found), "dropped": dropped}

    def begin(self, rough: Tensor, covariance: Tensor, *, seed: int) -> None:
        """Start a mixture from a mixture of the rough estimates, by scikit-learn, and learned means from their mean."""
        self.forget()
        if not self.chosen and self.components > 1:
            found = mixture_of(rough, covariance, self.components, seed)
            means = found.means if self.mean == "learned" else torch.zeros_like(self.means)
            self.assign(found.weights, means, found.matrices)
        elif not self.chosen and self.mean == "learned":
            self.assign(self.weights, rough.double().mean(0, keepdim=True), self.matrices)

    def check(self, n: int) -> None:
        """Raise a ValueError where n observations are too few."""
        self.estimator.check(n, self.size)

    def joint_prior(self) -> JointPrior:
        r"""The negative logarithm of this density as a regulariser, but for a constant.

        It is :math:`\tfrac12 \|x - m\|_\Lambda^2`, a `JointPrior` of images in the place of z, with its own latent
        vector, of one entry, that says nothing.
        For other means G, ``JointPrior(G, prior.precision)``.
        """
        return JointPrior(Generator(ConstantImage(self._single_mean()), self.space), self.precision)

    def generator(self) -> Generator:
        r"""The linear generator :math:`G(e) = m + L^{-T} e`, so that G(e) has this density for e ~ N(0, I)."""
        return Generator(GaussianImage(self._single_mean(), self.precision), self.space)

    def _single_mean(self) -> Tensor:
        if self.components > 1:
            raise ValueError(f"the prior must have one component, got a mixture of {self.components}")
        return self.means[0].to(self.factor).reshape(self.space.shape)

    def to_dict(self) -> dict[str, Any]:
        """What two runs that continue each other must agree on."""
        e = self.estimator
        return super().to_dict() | {
            "components": self.components,
            "mean": self.mean,
            "estimator": [e.lam, e.refit, e.gamma],
        }


def _checked(value: Any, name: str, shape: tuple[int, ...]) -> Tensor:
    if not isinstance(value, Tensor) or not value.is_floating_point():
        raise TypeError(f"{name} must be a real tensor {shape}, got {type(value).__name__}")
    if tuple(value.shape) != shape or not bool(torch.isfinite(value).all()):
        raise ValueError(f"{name} must be finite, of the shape {shape}, got the shape {tuple(value.shape)}")
    return value.detach()
