r"""Samples of the joint posterior of image and latent vector, :math:`p(x, z \mid y)`.

Given z the image is Gaussian, and drawn exactly (`operators.GaussianPosterior`). Given the image, z moves by a step of
the Metropolis-adjusted Langevin algorithm. Alone, this alternation (Gibbs) mixes slowly: an image holds its latent
vector fast, and the other way round. So z takes a second step in each iteration with the *white* image

.. math:: \varepsilon = L(z)^T (x - \mu(z)) \sim N(0, I)

held fixed instead of x, so that x follows z. The logarithm of its target is
:math:`-\tfrac{1}{2 \sigma^2} \|A (\mu(z) + L(z)^{-T} \varepsilon) - y\|^2 - \tfrac12 \|z\|^2`. Where the data say
little this step goes far, where they say much the other one does; both leave the posterior invariant (interweaving).

With a prior of ``estimate="marginal"`` z moves by Hamiltonian dynamics on :math:`p(z \mid y)` itself, x integrated out
(a collapsed sampler), which holds nothing fixed. An iteration then costs some ten times as much and goes much farther.
Where the log-determinant of that density is estimated, with fixed random numbers, so is the law of the draws.

References
----------
G. O. Roberts, R. L. Tweedie (1996), Exponential convergence of Langevin distributions and their discrete
approximations, doi:10.2307/3318418.

J. S. Liu (1994), The collapsed Gibbs sampler in Bayesian computations, doi:10.1080/01621459.1994.10476829.

Y. Yu, X.-L. Meng (2011), To center or not to center: that is not the question, doi:10.1198/jcgs.2011.203main.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from genreg.operators.bridge.arguments import flag, integer, number, seed_number
from genreg.operators.bridge.arrays import check_memory
from genreg.operators.bridge.caller_data import to_batch
from genreg.operators.bridge.modes import undisturbed
from genreg.operators.fidelity import GaussianFidelity
from genreg.regularisers import JointPrior
from genreg.sampling.adaptation import Coordinates
from genreg.sampling.joint_posterior import JointPosterior
from genreg.sampling.kernels.gibbs import Gibbs
from genreg.sampling.random_numbers import RandomNumbers
from genreg.sampling.run import Chains, Plan, check_seconds
from genreg.sampling.samples import JointSamples
from genreg.sampling.storage import refuse_not_finite, restored
from genreg.solvers.checkpoints import digest, resumable

__all__ = ["JointSamples", "gibbs"]


@undisturbed
def gibbs(
    prior: JointPrior,
    fidelity: GaussianFidelity,
    z: Tensor,
    *,
    draws: int = 100,
    burn_in: int = 100,
    thin: int = 1,
    chains: int = 1,
    interweave: bool = True,
    step: float = 1.0,
    seed: int = 0,
    checkpoint: str | Path | None = None,
    resume: bool = False,
    max_seconds: float | None = None,
    progress: bool = True,
) -> JointSamples:
    r"""Draw images and latent vectors from their joint posterior, see the module.

    The chains run as those of `sample` do. During the burn-in the step sizes adapt, for every sample and kind of step,
    to an acceptance of 57 % (70 % on the marginal density); then they are kept. The steps are scaled by the standard
    deviations that a variational encoder gives to z.

    Parameters
    ----------
    prior : JointPrior
        :math:`p(x \mid z) p(z)`; its ``estimate`` says how z moves, see the module.
    fidelity : GaussianFidelity
        The data of a linear operator, B samples.
    z : Tensor
        Where the chains start, ``(B, dim Z)``, finite, for example at the maximum of the posterior,
        ``rec.blocks["z"]``.
    draws : int
        Number of draws to keep of every chain.
    burn_in : int
        Iterations before the first of them.
    thin : int
        Iterations for each of them.
    chains : int
        Chains of every sample; those after the first start where z has been disturbed by N(0, I/100).
    interweave : bool
        Whether z takes the second kind of step as well; nothing on the marginal density.
    step : float
        First size of the steps, in units of the encoder's standard deviations.
    seed : int
        Seed of all random numbers.
    checkpoint : str or Path, optional
        New file that receives the state about every minute and at the end.
    resume : bool
        Go on from the checkpoint, with the same arguments otherwise, exactly as the run would have gone on; `draws` may
        be more than they were. Where there is no such file yet the run starts from the beginning.
    max_seconds : float, optional
        Wall-clock time, after which the draws so far are returned.
    progress : bool
        Show a progress bar.

    Returns
    -------
    JointSamples
        `Samples` with the images: mean and standard deviation of their draws, and, where `JointSamples.x` is asked for,
        the draws. A chain whose image, latent vector or density is not finite is stopped, with a status of its own; the
        others go on.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type, shape or sign, `z` is not finite, or the checkpoint to resume from is
        damaged or was made with other arguments.
    FileExistsError
        If the checkpoint exists and `resume` is false.
    """
    draws, burn_in = integer(draws, "draws", minimum=1), integer(burn_in, "burn_in", minimum=0)
    thin, chains = integer(thin, "thin", minimum=1), integer(chains, "chains", minimum=1)
    step, seed = number(step, "step", above=0), seed_number(seed)
    interweave = flag(interweave, "interweave")
    if not isinstance(prior, JointPrior):
        raise TypeError(f"prior must be a JointPrior, got {type(prior).__name__}")
    prior.posterior(fidelity, z)  # refuses what does not fit
    z = to_batch(z, {"z": prior.generator.domain}, "z").blocks["z"]
    check_seconds(max_seconds)
    count, device = len(z), z.device
    check_memory((chains, count, prior.generator.range.size), z.dtype, "chains", chains, device)
    check_memory((draws, chains, count, z.shape[1]), z.dtype, "draws", draws, device)
    settings: dict[str, Any] = {"burn_in": burn_in, "thin": thin, "chains": chains}
    settings |= {"interweave": interweave, "step": step, "seed": seed}
    posterior, kernel = JointPosterior(prior, fidelity), Gibbs(interweave, prior.estimate == "marginal")

    def identity() -> Mapping[str, Any]:
        return {**posterior.identity(), "z": digest(z), **settings}

    file, saved = resumable.begin(checkpoint, resume, "Gibbs sampling of images", identity, progress=progress)
    steps = burn_in + draws * thin
    if saved is not None:
        state = restored(saved)
        refuse_not_finite(state, "checkpoint")
        integer(draws, "draws", minimum=max(state["turn"] - burn_in, 0) // thin)
        run = Chains.restored(posterior, state, kernel, steps)
    else:
        random = RandomNumbers(seed, device)
        plan = Plan(
            steps,
            burn_in,
            thin,
            chains,
            metric="identity",
            step_given=True,
            denoise=False,
            screened=True,
            seed=seed,
        )
        starts = z.expand(chains, *z.shape).clone()
        starts[1:] += 0.1 * random.normal(starts[1:])
        spent = torch.zeros(starts.shape[:2], dtype=torch.int64, device=device)
        run = Chains(posterior, kernel, plan, random, starts, spent)
        sizes = torch.full((len(kernel.moves), 1), step, dtype=z.dtype, device=device)
        run.begin(starts, sizes, Coordinates(torch.zeros_like(z), posterior.deviation(z)))
    samples = run.go(max_seconds=max_seconds, file=file, progress=progress)
    assert isinstance(samples, JointSamples)
    return samples
