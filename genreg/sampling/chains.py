r"""Sampling of latent posteriors by many Markov chains for many images at once."""

from __future__ import annotations

import secrets
import time
from pathlib import Path
from typing import Any, TypedDict, Unpack

from torch import Tensor

from genreg.operators.bridge.arguments import choice, described, flag, integer, seed_number
from genreg.operators.bridge.arrays import check_memory
from genreg.operators.bridge.caller_data import per_sample_number
from genreg.operators.bridge.keywords import takes
from genreg.operators.bridge.modes import undisturbed
from genreg.sampling.adaptation import METRICS, Coordinates
from genreg.sampling.kernels.metropolis import HMC, MALA, ULA, Kernel
from genreg.sampling.posterior import LatentPosterior, Posterior
from genreg.sampling.random_numbers import RandomNumbers
from genreg.sampling.run import Chains, Plan, check_seconds
from genreg.sampling.samples import Samples
from genreg.sampling.starting_points import starts
from genreg.sampling.storage import refuse_not_finite, refuse_other_posterior, restored, state_file

_KEPT = 1000  # draws of a chain, unless thin says otherwise
_DENSE = 2048  # latent dimensions up to which coordinates are a matrix by default


@undisturbed
def sample(
    posterior: LatentPosterior,
    kernel: Kernel | None = None,
    *,
    chains: int = 4,
    steps: int = 1000,
    burn_in: int | None = None,
    thin: int | None = None,
    step: float | Tensor | None = None,
    init: str | Tensor | Samples = "map",
    metric: str | None = None,
    denoise: bool = False,
    map_iterations: int = 100,
    max_seconds: float | None = None,
    checkpoint: str | Path | None = None,
    seed: int | None = None,
    progress: bool = True,
) -> Samples:
    r"""Draw latent vectors from :math:`p(z \mid y) \propto \exp(-E(z))`, for all samples of a batch.

    In the warm-up every image learns a step size at which the kernel accepts as many proposals as it should, and
    coordinates in which the posterior is about standard normal (`metric`); then both are kept. Kernels without a test
    take a step size in proportion to one over the largest curvature that the chains of an image meet.

    The memory needed does not grow with the number of steps: images enter running means and variances, and of each
    chain no more than 1,000 latent vectors are kept, unless `thin` is given.

    Parameters
    ----------
    posterior : LatentPosterior
        The density.
    kernel : Kernel, optional
        See `genreg.sampling.kernels`; by default `HMC`.
    chains : int
        Chains of every sample.
    steps : int
        Iterations of every chain, the warm-up included.
    burn_in : int, optional
        Iterations of the warm-up, whose draws do not count; by default half of them all.
    thin : int, optional
        Iterations for every draw that is kept.
    step : float or Tensor, optional
        First step size h, or one for every sample, ``(B,)``, see `genreg.sampling.kernels`. Kernels without a test
        keep it.
    init : str, Tensor, array or Samples
        Where the chains start, see `sampling.starts`; or samples of a similar posterior with as many chains,
        whose last points, step sizes and coordinates are taken over.
    metric : str, optional
        Coordinates that the warm-up learns: ``"dense"``, ``"diagonal"``, or ``"identity"`` for none. A dense one has
        (dim Z)² numbers for each sample: by default it is taken up to 2,048 latent dimensions, and a diagonal beyond.
    denoise : bool
        Keep :math:`z - h \nabla E(z)` (in the coordinates of the chain) in the place of z, by Tweedie's formula the
        expectation of a latent vector of which z is a copy with noise of variance h, to undo the noise of the last
        step of an unadjusted kernel.
    map_iterations : int
        Iterations of the search for minimisers of E where `init` is ``"map"`` or ``"screened"``.
    max_seconds : float, optional
        Wall-clock time, after which the draws so far are returned; `resume` goes on.
    checkpoint : str or Path, optional
        New file that receives the state about every minute and at the end, from which `resume` goes on.
    seed : int, optional
        Seed of all random numbers; without it one is drawn, see `Samples.seed`.
    progress : bool
        Show a progress bar.

    Returns
    -------
    Samples
        A chain that diverges is stopped, with a status of its own; the others go on.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type, shape or value, or no chain starts at a finite energy.
    FileExistsError
        If the checkpoint exists.

    References
    ----------
    B. Carpenter et al. (2017), Stan: a probabilistic programming language, doi:10.18637/jss.v076.i01 (the warm-up).

    B. Efron (2011), Tweedie's formula and selection bias, doi:10.1198/jasa.2011.tm11181.
    """
    if not isinstance(posterior, LatentPosterior):
        raise TypeError(f"posterior must be a LatentPosterior, got {type(posterior).__name__}")
    kernel = HMC() if kernel is None else kernel
    if isinstance(kernel, type) or not callable(getattr(kernel, "step", None)):
        raise TypeError(f"kernel must be a kernel such as HMC(), got {described(kernel)}")
    chains, steps = integer(chains, "chains", minimum=1), integer(steps, "steps", minimum=1)
    map_iterations, denoise = integer(map_iterations, "map_iterations", minimum=1), flag(denoise, "denoise")
    burn_in = steps // 2 if burn_in is None else integer(burn_in, "burn_in", minimum=0)
    if burn_in >= steps:
        raise ValueError(f"burn_in must be smaller than steps, {steps}, got {burn_in}")
    thin = -(-(steps - burn_in) // _KEPT) if thin is None else integer(thin, "thin", minimum=1)
    if thin > steps - burn_in:
        raise ValueError(f"thin must be at most steps - burn_in, {steps - burn_in}, got {thin}")
    if metric is None:
        metric = "dense" if posterior.generator.domain.size <= _DENSE else "diagonal"
    choice(metric, "metric", METRICS)
    seed = secrets.randbits(32) if seed is None else seed_number(seed)
    check_seconds(max_seconds)
    data, G = posterior.fidelity.data, posterior.generator
    check_memory((chains, posterior.batch, G.range.size), data.real.dtype, "chains", chains, data.device)
    kept = (-(-(steps - burn_in) // thin), chains, posterior.batch, G.domain.size)
    check_memory(kept, data.real.dtype, "steps / thin", -(-steps // thin), data.device)
    file = None if checkpoint is None else state_file(checkpoint, posterior)
    if file is not None:
        file.refuse_existing("go on with that run by genreg.sampling.resume")
    size = None if step is None else per_sample_number(step, "step", data)
    coordinates, screened = None, not isinstance(init, str) or init == "screened"
    start = time.perf_counter()
    random = RandomNumbers(seed, data.device)
    if isinstance(init, Samples):
        if init.last.shape[:2] != (chains, posterior.batch):
            raise ValueError(
                f"init must have {chains} chains of {posterior.batch} samples, got {tuple(init.last.shape[:2])}"
            )
        tensors = init.state["tensors"]
        coordinates = Coordinates(tensors["coordinates.mean"], tensors["coordinates.factor"])
        size = init.step if size is None and init.state["kernel"] == kernel else size
        screened, init = init.screened, init.last
    z, spent = starts(posterior, init, chains, random, map_iterations=map_iterations)
    plan = Plan(steps, burn_in, thin, chains, metric, step is not None, denoise, screened, seed)
    run = Chains(posterior, kernel, plan, random, z, spent)
    run.begin(z, size, coordinates)
    if not bool(run.started.any()):
        raise ValueError(
            "init must have a finite energy, got none in any chain of any sample: check data and noise_std, and "
            "whether their units are those of the generator"
        )
    run.seconds = time.perf_counter() - start
    return run.go(max_seconds=max_seconds, file=file, progress=progress)


class Chained(TypedDict, total=False):
    """What `langevin` hands to `sample`."""

    chains: int
    steps: int
    burn_in: int | None
    step: float | Tensor | None
    init: str | Tensor | Samples
    seed: int | None
    thin: int | None
    denoise: bool
    map_iterations: int
    max_seconds: float | None
    checkpoint: str | Path | None
    progress: bool


@undisturbed
@takes(Chained, sample, chains=4, steps=1000, init="map", denoise=False, map_iterations=100, progress=True)
def langevin(
    posterior: LatentPosterior,
    *,
    adjusted: bool = True,
    metric: str | None = None,
    **keywords: Unpack[Chained],
) -> Samples:
    """Draw latent vectors by Langevin's diffusion: `sample` with `MALA`, or with `ULA` in the coordinates of z.

    Parameters
    ----------
    adjusted : bool
        Whether steps are tested (Metropolis); without, and with ``step=0.01``, this is the sampler of the report by
        Liang (2021).
    metric : str, optional
        See `sample`; by default ``"identity"`` without the test.
    """
    kernel = MALA() if flag(adjusted, "adjusted") else ULA()
    metric = metric or (None if adjusted else "identity")
    return sample(posterior, kernel, metric=metric, **keywords)


@undisturbed
def resume(
    posterior: Posterior,
    saved: Samples | str | Path,
    *,
    steps: int | None = None,
    kernel: Kernel | None = None,
    max_seconds: float | None = None,
    checkpoint: str | Path | None = None,
    progress: bool = True,
) -> Samples:
    """Go on with a run, exactly as it would have gone on without an end.

    Parameters
    ----------
    posterior : LatentPosterior
        The density of the run; of a run of `gibbs`, the `posterior` of its samples.
    saved : Samples, str or Path
        What the run returned, or the file that `Samples.save` or a checkpoint has written.
    steps : int, optional
        Iterations in all, the old ones included; by default as many as had been planned.
    kernel : Kernel, optional
        The kernel, needed only where it is not one of `genreg.sampling` and the state comes from a file.
    max_seconds, checkpoint, progress
        See `sample`; the time of the first part counts, and the checkpoint may be `saved`.

    Returns
    -------
    Samples
        All draws, the old ones included.

    Raises
    ------
    ValueError
        If the state belongs to a posterior of other data, noise, operator, generator or latent prior, or was made with
        another kernel; if the file is damaged, or holds points that are not finite; or if `steps` is below the number
        of iterations taken.
    FileNotFoundError
        If there is no such file.
    FileExistsError
        If the checkpoint is another file that exists.
    """
    if isinstance(saved, Samples):
        shape, has = (posterior.batch, *posterior.generator.domain.shape), tuple(saved.last.shape)
        if has[1:] != shape:
            raise ValueError(f"saved must be a run of chains ({has[0]}, {shape[0]}, {shape[1]}), got {has}")
        refuse_other_posterior(saved.posterior, posterior)
        state: Any = saved.state
    else:
        state = restored(state_file(saved, posterior, name="saved").load())
    refuse_not_finite(state)
    if steps is not None:
        steps = integer(steps, "steps", minimum=state["turn"])
    check_seconds(max_seconds)
    run = Chains.restored(posterior, state, kernel, steps)
    file = None if checkpoint is None else state_file(checkpoint, posterior)
    if file is not None and (isinstance(saved, Samples) or file.path.resolve() != Path(saved).resolve()):
        file.refuse_existing("go on with the run in it")
    return run.go(max_seconds=max_seconds, file=file, progress=progress)
