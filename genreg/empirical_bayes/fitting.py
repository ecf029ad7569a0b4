r"""Empirical Bayes by an amortised variational posterior: the prior of latent vectors from observations alone.

Observations :math:`y_1, \dots, y_n` of latent vectors :math:`z_i \sim p_\theta` have a known likelihood. An encoder
:math:`q_\varphi(z \mid y)` and the prior maximise, in turns, the evidence lower bound

.. math:: \frac1n \sum_i \mathrm{E}_{q_\varphi(z \mid y_i)} \bigl[\log p(y_i \mid z) + \log p_\theta(z)
          - \log q_\varphi(z \mid y_i)\bigr] \le \frac1n \sum_i \log p_\theta(y_i) :

`n_critic` steps of Adam on φ, with draws of q, then one movement of θ, which for a Gaussian graphical model is the
graphical lasso of a running second moment. With a q that can be the posterior this is the expectation maximisation
algorithm with an approximate first step (`expectation_maximisation` has the exact one).

References
----------
J. Wang (2019), Solving inverse problems by VAE-like approaches, slides.

D. P. Kingma, M. Welling (2014), Auto-encoding variational Bayes, arXiv:1312.6114.

R. M. Neal, G. E. Hinton (1998), A view of the EM algorithm that justifies incremental, sparse, and other variants,
doi:10.1007/978-94-011-5014-9_12.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Unpack

import torch
from torch import Tensor, nn

from genreg.empirical_bayes.encoders.coordinates import coordinates, encoder_inputs
from genreg.empirical_bayes.encoders.families import EncoderConfig, FullCovariance
from genreg.empirical_bayes.encoders.linearised import is_sufficient
from genreg.empirical_bayes.priors import PosteriorDraws, Prior
from genreg.empirical_bayes.result import EmpiricalBayes, check_observations, evidence_terms
from genreg.networks.borrowed import seeded
from genreg.operators.bridge.arrays import check_memory
from genreg.operators.bridge.modes import undisturbed
from genreg.operators.fidelity import Fidelity
from genreg.solvers.checkpoints import digest
from genreg.training.batches import Batches
from genreg.training.engine import Trainer
from genreg.training.optimisers import adamw
from genreg.training.settings import (
    FROM_KEYWORDS,
    Bookkeeping,
    Checked,
    Keywords,
    Optimisation,
    limited,
    with_keywords,
)


@dataclass(frozen=True, kw_only=True)
class Options(Checked):
    """What determines the result beside the optimisation, see `fit`."""

    n_critic: int = limited(30, minimum=1)
    draws: int = limited(4, minimum=1)
    dense: int = limited(30, minimum=0)
    memory: int | None = limited(None, minimum=1)


class EmpiricalBayesTrainer(Trainer):
    """An encoder and a prior in training on observations, whose indices the batches are."""

    criterion: ClassVar[tuple[str, int] | None] = ("elbo", -1)
    options: Options

    def __init__(
        self,
        result: EmpiricalBayes,
        fidelity: Fidelity,
        inputs: Tensor,
        optimisation: Optimisation,
        options: Options,
        held_out: Fidelity | None,
    ) -> None:
        self.result, self.fidelity, self.inputs = result, fidelity, inputs
        self.encoder, self.prior = result.encoder, result.prior
        self.rows = torch.arange(len(inputs), device=inputs.device)
        # a checkpoint holds them together
        both = nn.ModuleDict({"encoder": self.encoder, "prior": self.prior})
        super().__init__(both, optimisation, Batches(self.rows, optimisation, inputs), options, held_out)
        self._start = {
            "operator, noise or prior at the start": torch.cat(
                (self.encoder.affine.basis.flatten(), self.encoder.shift)
            ),
            "parameters of the prior at the start": torch.cat(
                [t.flatten().double() for t in self.prior.state_dict().values()]
            ),
        }

    def trained(self) -> list[nn.Parameter]:
        """Return the parameters of the encoder."""
        return list(self.encoder.parameters())

    def make_optimisers(self) -> list[torch.optim.Optimizer]:
        """Return Adam for the encoder, and the optimisers of the prior."""
        return [adamw(self.weights, self.optimisation, fused=False), *self.prior.optimisers]

    def followed(self) -> list[Tensor]:
        """Return the parameters of the encoder."""
        return [*self.weights]

    def advance(self) -> dict[str, Tensor]:
        """Take one step of Adam on the encoder, and after every n_critic of them one of the prior."""
        index, options, step = self.batches(self.step), self.options, self.step + 1
        self.optimisers[0].param_groups[0]["lr"] = self.optimisation.rate(self.step)
        posterior = self.encoder(self.inputs[index])
        z, terms = evidence_terms(posterior, self.prior, self.fidelity.take(index), options.draws)
        losses = {"train_loss": self.descend(-terms.mean(), self.optimisers[0], self.weights)}
        memory = len(self.rows) if options.memory is None else options.memory
        self.prior.accumulate(PosteriorDraws(z.detach(), posterior.gaussian), min(1.0, len(index) / memory))
        if step % options.n_critic == 0:
            self.check_losses(losses, step)
            self.last = self.prior.update(len(self.rows), sparse=step > options.dense * options.n_critic)
        return losses

    def measure(self) -> dict[str, float]:
        """Return the figures of the last movement of the prior, and the bound of held-out observations."""
        return self.last | super().measure()

    def score(self) -> dict[str, float]:
        """Return the mean bound of held-out observations."""
        draws, seed = self.options.draws, self.optimisation.seed
        return {"elbo": self.result.elbo(self.held_out, draws=draws, seed=seed).mean().item()}

    def described(self) -> dict[str, Any]:
        """Return what is in training."""
        return {"encoder": self.encoder.config.to_dict(), "prior": self.prior.to_dict()}

    def data(self) -> dict[str, Any]:
        """Return digests of the observations, and where the training began."""
        held_out = None if self.held_out is None else self.held_out.data
        return {"observations": digest(self.fidelity.data), "validation": digest(held_out), **self._start}

    @torch.no_grad()
    def consolidate(self) -> None:
        """Learn the prior from what the encoder says of all observations."""
        self.prior.forget()
        with seeded(self.optimisation.seed_of(self.optimisation.steps), self.rows.device):
            for index in self.rows.split(self.optimisation.batch_size):
                posterior = self.encoder(self.inputs[index])
                z, _ = posterior.draw(self.options.draws)
                self.prior.accumulate(PosteriorDraws(z, posterior.gaussian), len(index) / len(self.rows))
        self.last = self.prior.update(len(self.rows))


@undisturbed
@with_keywords(steps=6000, batch_size=128, lr=3e-3)
def fit(
    fidelity: Fidelity,
    prior: Prior,
    encoder: EncoderConfig | None = None,
    *,
    n_critic: int = 30,
    dense: int = 30,
    draws: int = 4,
    memory: int | None = None,
    validation: Fidelity | None = None,
    optimisation: Optimisation = FROM_KEYWORDS,
    bookkeeping: Bookkeeping = FROM_KEYWORDS,
    **keywords: Unpack[Keywords],
) -> EmpiricalBayes:
    """Learn a prior, in place, and an encoder from observations.

    Parameters
    ----------
    fidelity
        The observations: the negative log-likelihood of n data, `genreg.GaussianFidelity` or another, of any operator
        A on the space of the prior.
    prior
        The prior to start from: a `GaussianGraphicalModel` (or a mixture), or a `DistributionPrior`.
    encoder
        The kind of posterior: `FullCovariance` (the default), `MeanField` or `InverseAutoregressive`.
    n_critic
        Steps of the encoder for every movement of the prior.
    dense
        Movements of a graphical model before its graph is sought.
    draws
        Draws of each observation in a step.
    memory
        Number of observations that the running moment of a graphical model remembers; all n where None. The size of
        a batch makes it the moment of a batch.
    validation
        Held-out observations, for the history and the score.
    optimisation, bookkeeping
        How to optimise the encoder and how to keep the run, `genreg.training.Optimisation` and
        `genreg.training.Bookkeeping`; or their fields as keywords. The seed is that of its first weights, too.

    Returns
    -------
    EmpiricalBayes
        With the prior that was given and the encoder, both trained. At the end the prior learns once more, from all
        observations.

    Raises
    ------
    ImportError
        If scikit-learn, or zuko for a flow, is missing.
    ValueError
        If the operator does not act on the space of the prior, or there are fewer observations than unknowns and no λ.
    """
    options = Options(n_critic=n_critic, draws=draws, dense=dense, memory=memory)
    check_observations(fidelity, prior)
    like, size = fidelity.data, (optimisation.batch_size, options.draws, prior.size)
    check_memory(size, like.real.dtype, "batch_size times draws", size[0] * size[1], like.device)
    if validation is not None:
        check_observations(validation, prior)
    config = FullCovariance() if encoder is None else encoder
    if not isinstance(config, EncoderConfig):
        raise TypeError(
            f"encoder must be an EncoderConfig such as FullCovariance(), got {type(config).__name__}"
        )
    prior.check(len(fidelity.data))
    affine, seen = coordinates(fidelity, prior)
    rough = affine(encoder_inputs(fidelity, affine, seen, scores_only=True))
    prior.begin(rough, affine.basis @ affine.basis.T, seed=optimisation.seed)
    affine, seen = coordinates(fidelity, prior)
    inputs = encoder_inputs(fidelity, affine, seen, scores_only=is_sufficient(fidelity))
    with seeded(optimisation.seed_of(0)):
        network = config.build(affine, inputs)
    result = EmpiricalBayes(prior, network, {})
    trainer = EmpiricalBayesTrainer(result, fidelity, inputs, optimisation, options, validation)
    result.card.update(trainer.train(bookkeeping))
    trainer.consolidate()
    if validation is not None:
        result.card["score"] = {"elbo": result.elbo(validation, seed=optimisation.seed).mean().item()}
    return result
