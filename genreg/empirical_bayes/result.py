"""What an empirical Bayes fit returns: a prior, and an encoder for observations old and new."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from genreg.empirical_bayes.encoders.coordinates import encoder_inputs
from genreg.empirical_bayes.encoders.densities import ApproximatePosterior
from genreg.empirical_bayes.encoders.families import Encoder
from genreg.empirical_bayes.encoders.linearised import Linearised, is_sufficient
from genreg.empirical_bayes.priors import Prior
from genreg.networks.borrowed import evaluating, seeded
from genreg.operators import to_torch
from genreg.operators.bridge.arguments import integer, seed_number
from genreg.operators.fidelity import Fidelity

_PART = 1000  # observations treated at a time outside of training


def evidence_terms(
    posterior: ApproximatePosterior, prior: Prior, fidelity: Fidelity, draws: int
) -> tuple[Tensor, Tensor]:
    r"""Draws z of posteriors, ``(draws, N, p)``, and :math:`\log p(y, z) - \log q(z \mid y)` of them, ``(draws, N)``.

    Their mean estimates the evidence lower bound (ELBO) of every observation.
    """
    z, log_q = posterior.draw(draws)
    images = z.unflatten(-1, prior.space.shape)
    likelihood = -to_torch(fidelity)(images) - fidelity.log_normaliser
    return z, likelihood + prior.log_prob(images) - log_q


@dataclass(frozen=True)
class Inferred:
    """Mean and standard deviation of the latent vectors of observations, as their data were given.

    Attributes
    ----------
    mean : ODL element or Tensor
        Posterior means: an element of Z, or ``Z.shape`` or ``(n, *Z.shape)``.
    std : ODL element or Tensor
        Posterior standard deviations, as `mean`.
    """

    mean: Any
    std: Any


@dataclass(frozen=True)
class EmpiricalBayes:
    """A prior that was learned from observations, with an encoder that approximates the posterior.

    Attributes
    ----------
    prior : Prior
        The prior, with the parameters that were found.
    encoder : Encoder
        The network.
    card : dict
        JSON-able: "encoder", "prior", "training" (the settings), "history" and, with `validation`, "score".
    """

    prior: Prior
    encoder: Encoder
    card: dict[str, Any] = field(repr=False)

    @torch.no_grad()
    def infer(self, fidelity: Fidelity, *, draws: int = 100, seed: int = 0) -> Inferred:
        """Return means and standard deviations of the latent vectors.

        Parameters
        ----------
        fidelity : Fidelity
            Observations by the operator of the fit, with noise of the same kind.
        draws : int
            Draws of every observation, at least two, where the encoder's density is not Gaussian.
        seed : int
            Their seed.

        Returns
        -------
        Inferred
            Of every observation.

        Raises
        ------
        TypeError, ValueError
            If the fidelity does not fit, or `draws` is no such number.
        """
        check_draws(draws, 2)
        parts = []
        for _, posterior in self._posteriors(fidelity, seed):
            if posterior.gaussian is not None:
                mean, covariance = posterior.gaussian
                parts.append((mean, covariance.diagonal(dim1=-2, dim2=-1).sqrt().expand(mean.shape)))
            else:
                z, _ = posterior.draw(draws)
                parts.append((z.mean(0), z.std(0)))
        mean, std = (torch.cat(part) for part in zip(*parts, strict=True))
        return Inferred(self._as_data(mean, fidelity), self._as_data(std, fidelity))

    @torch.no_grad()
    def sample(self, fidelity: Fidelity, n: int, *, seed: int) -> Tensor:
        """Independent draws of the encoder's densities, ``(n, observations, *Z.shape)``.

        Parameters
        ----------
        fidelity : Fidelity
            Observations, as for `infer`.
        n : int
            Draws of each.
        seed : int
            Their seed.
        """
        check_draws(n, 1, "n")
        # noise comes in pairs of opposites, the first of all of them first
        parts = [posterior.draw(2 * n)[0][:n] for _, posterior in self._posteriors(fidelity, seed)]
        return torch.cat(parts, 1).unflatten(-1, self.prior.space.shape)

    @torch.no_grad()
    def elbo(
        self, fidelity: Fidelity, *, draws: int = 100, seed: int = 0, importance: bool = False
    ) -> Tensor:
        r"""Lower bounds of the evidence :math:`\log p(y)` of every observation, in nats, ``(n,)``.

        .. math:: \mathrm{E}_q [\log p(y, z) - \log q(z \mid y)] \qquad\text{or}\qquad
            \mathrm{E}_q \log \tfrac{1}{S} \sum_s p(y, z_s) / q(z_s \mid y)

        Parameters
        ----------
        fidelity : Fidelity
            Observations, as for `infer`.
        draws : int
            S, draws of every observation.
        seed : int
            Their seed.
        importance : bool
            Whether to return the second, tighter bound, by importance weights (Burda, Grosse and Salakhutdinov 2016,
            arXiv:1509.00519).
        """
        check_draws(draws, 1)
        parts = []
        for part, posterior in self._posteriors(fidelity, seed):
            _, terms = evidence_terms(posterior, self.prior, part, draws)
            parts.append(terms.logsumexp(0) - torch.tensor(draws).log() if importance else terms.mean(0))
        return torch.cat(parts)

    def _posteriors(self, fidelity: Any, seed: int) -> Iterator[tuple[Fidelity, ApproximatePosterior]]:
        """The observations in parts, each with its approximate posterior, under seeded random numbers."""
        check_observations(fidelity, self.prior)
        if self.encoder.scores_only and not self._same_noise(fidelity):
            raise ValueError(
                "fidelity must have the noise that the encoder was trained with, the same for all observations, and a "
                "linear operator"
            )
        affine = self.encoder.affine
        seen = Linearised(fidelity.operator, affine.centre.reshape(self.prior.space.shape))
        index = torch.arange(len(fidelity.data), device=fidelity.data.device)
        with evaluating(self.encoder), seeded(seed_number(seed), index.device):
            for rows in index.split(_PART):
                part = fidelity.take(rows)
                inputs = encoder_inputs(part, affine, seen, scores_only=self.encoder.scores_only)
                if inputs.shape[1] != len(self.encoder.shift):
                    raise ValueError(
                        "fidelity must have data and noise of the kind that the encoder was trained on, got "
                        f"{inputs.shape[1]} features in the place of {len(self.encoder.shift)}"
                    )
                yield part, self.encoder(inputs)

    def _same_noise(self, fidelity: Fidelity) -> bool:
        """Whether an encoder that sees scores only knows the noise."""
        if not is_sufficient(fidelity):
            return False
        found, known = fidelity.inverse_variance, self.encoder.affine.noise
        return found.shape[1:] == known.shape[1:] and torch.allclose(found, known.expand_as(found), atol=0)

    def _as_data(self, z: Tensor, fidelity: Fidelity) -> Any:
        return fidelity.given_back(self.prior.space, z.unflatten(-1, self.prior.space.shape))


def check_draws(count: Any, least: int, name: str = "draws") -> None:
    """Raise a ValueError unless this is a number of draws."""
    integer(count, name, minimum=least)


def check_observations(fidelity: Any, prior: Any) -> None:
    """Raise an error unless these are observations of latent vectors of the prior."""
    if not isinstance(fidelity, Fidelity):
        raise TypeError(f"fidelity must be a genreg Fidelity, got {type(fidelity).__name__}")
    if not isinstance(prior, Prior):
        raise TypeError(f"prior must be a genreg.empirical_bayes.Prior, got {type(prior).__name__}")
    if fidelity.domain != prior.space:
        raise ValueError(
            f"A must act on the space of the prior, {prior.space!r}, got one on {fidelity.domain!r}"
        )
