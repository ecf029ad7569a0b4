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

import dataclasses
import os
from typing import Any

import torch

from genreg.empirical_bayes.encoder_training import Run, Settings
from genreg.empirical_bayes.encoders.coordinates import coordinates, encoder_inputs
from genreg.empirical_bayes.encoders.families import EncoderConfig, FullCovariance
from genreg.empirical_bayes.encoders.linearised import is_sufficient
from genreg.empirical_bayes.priors import Prior
from genreg.empirical_bayes.result import EmpiricalBayes, check_observations
from genreg.networks.borrowed import seeded
from genreg.operators.bridge.arrays import check_memory
from genreg.operators.bridge.modes import undisturbed
from genreg.operators.fidelity import Fidelity
from genreg.solvers.checkpoints import digest
from genreg.training.batches import Batches
from genreg.training.engine import drive
from genreg.training.settings import check_run

__all__ = ["fit"]


@undisturbed
def fit(
    fidelity: Fidelity,
    prior: Prior,
    encoder: EncoderConfig | None = None,
    *,
    steps: int = 6000,
    n_critic: int = 30,
    dense: int = 30,
    batch_size: int = 128,
    draws: int = 4,
    lr: float = 3e-3,
    schedule: str = "cosine",
    warmup: int = 0,
    clip: float | None = None,
    ema: float | None = None,
    memory: int | None = None,
    seed: int = 0,
    validation: Fidelity | None = None,
    validate_every: int = 1000,
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_seconds: float = 120.0,
    resume: bool = False,
    progress: bool = True,
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
    steps
        Number of steps of the encoder.
    n_critic
        Its steps for every movement of the prior.
    dense
        Movements of a graphical model before its graph is sought.
    batch_size, draws
        Observations in a step, and draws of each.
    lr, schedule, warmup
        Largest learning rate, its course ("cosine", "one-cycle" or "constant") and steps of its linear rise.
    clip, ema
        Bound on the norm of the gradient, or None; decay of the moving average of the encoder's weights that is the
        result, or None.
    memory
        Number of observations that the running moment of a graphical model remembers; all n where None. The size of
        a batch makes it the moment of a batch.
    seed
        Seed of the encoder's weights, batches and draws.
    validation
        Held-out observations, for the history and the score.
    validate_every
        Number of steps between validations.
    checkpoint, checkpoint_seconds
        File for checkpoints, written at Ctrl-C as well, and the seconds between them. One of an earlier run is refused,
        not replaced.
    resume
        Continue from `checkpoint` where that file exists: the result is exactly that of an uninterrupted run on the
        same observations from the same prior.
    progress
        Whether to show a progress bar.

    Returns
    -------
    EmpiricalBayes
        With the prior that was given and the encoder, both trained. At the end the prior learns once more, from all
        observations.

    Raises
    ------
    ImportError
        If scikit-learn, or zuko for a flow, is missing.
    TypeError
        If an argument has the wrong type.
    ValueError
        If the operator does not act on the space of the prior, there are fewer observations than unknowns and no λ, a
        number is out of range, or the checkpoint belongs to another run.
    FloatingPointError
        If the bound becomes non-finite.
    """
    settings = Settings(
        steps=steps,
        n_critic=n_critic,
        dense=dense,
        batch_size=batch_size,
        draws=draws,
        lr=lr,
        schedule=schedule,
        warmup=warmup,
        clip=clip,
        ema=ema,
        memory=memory,
        seed=seed,
    )
    check_run(resume, checkpoint, validate_every, checkpoint_seconds)
    check_observations(fidelity, prior)
    like, size = fidelity.data, (settings.batch_size, settings.draws, prior.size)
    check_memory(size, like.real.dtype, "batch_size times draws", size[0] * size[1], like.device)
    if validation is not None:
        check_observations(validation, prior)
    config = FullCovariance() if encoder is None else encoder
    if not isinstance(config, EncoderConfig):
        raise TypeError(
            f"encoder must be an EncoderConfig such as FullCovariance(), got {type(config).__name__}"
        )
    n = len(fidelity.data)
    prior.check(n)
    affine, seen = coordinates(fidelity, prior)
    rough = affine(encoder_inputs(fidelity, affine, seen, scores_only=True))
    prior.begin(rough, affine.basis @ affine.basis.T, seed=seed)
    affine, seen = coordinates(fidelity, prior)
    inputs = encoder_inputs(fidelity, affine, seen, scores_only=is_sufficient(fidelity))
    with seeded(settings.seed_of(0)):
        network = config.build(affine, inputs)
    run = Run(network, prior, fidelity, inputs, settings)
    result = EmpiricalBayes(prior, network, {})

    def measure() -> dict[str, float]:
        if validation is None:
            return dict(run.last)
        with run.averaged():
            elbo = result.elbo(validation, draws=draws, seed=seed).mean().item()
        return run.last | {"elbo": elbo}

    def data() -> dict[str, Any]:
        return {
            "observations": digest(fidelity.data),
            "validation": digest(None if validation is None else validation.data),
            "operator, noise or prior at the start": torch.cat((affine.basis.flatten(), network.shift)),
            "parameters of the prior at the start": torch.cat(
                [t.flatten().double() for t in prior.state_dict().values()]
            ),
        }

    drive(
        run,
        Batches(torch.arange(n, device=inputs.device), settings, inputs),
        data=data,
        measure=measure,
        validate_every=validate_every,
        checkpoint=checkpoint,
        checkpoint_seconds=checkpoint_seconds,
        resume=resume,
        progress=progress,
        device=inputs.device,
    )
    run.consolidate()
    result.card.update(
        encoder=config.to_dict(),
        prior=prior.to_dict(),
        training=dataclasses.asdict(settings),
        history=run.history,
    )
    if validation is not None:
        result.card["score"] = {"elbo": result.elbo(validation, seed=seed).mean().item()}
    return result
