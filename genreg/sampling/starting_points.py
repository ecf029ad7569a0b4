r"""Where chains start."""

from __future__ import annotations

import torch
from torch import Tensor

from genreg.operators import check_tensor, torch_dtype
from genreg.operators.bridge.arguments import choice
from genreg.operators.bridge.arrays import array, check_finite, fitting
from genreg.operators.bridge.modes import undisturbed
from genreg.sampling.posterior import LatentPosterior
from genreg.sampling.random_numbers import RandomNumbers
from genreg.sampling.screening import finite_or, screened_starts

STARTS = ("prior", "posterior", "map", "screened")


@undisturbed
def starts(
    posterior: LatentPosterior,
    init: str | Tensor,
    chains: int,
    random: RandomNumbers,
    *,
    map_iterations: int = 100,
) -> tuple[Tensor, Tensor]:
    r"""Latent vectors to start from.

    Parameters
    ----------
    posterior : LatentPosterior
        The density.
    init : str or Tensor
        ``"prior"``: draws of N(0, I). ``"posterior"``: draws of the encoder's distribution for a rough
        reconstruction. ``"map"``: minimisers of E, sought from draws of the encoder, or of the prior where there
        is none, from one for each chain; of those that were found for a sample, the chains take some with
        probabilities in proportion to :math:`e^{-E}`, as one in a mode without mass would stay there.
        ``"screened"``: minimisers sought from draws of the prior that were chosen by what the data say of them, see
        `screened_starts`. Where an encoder or a search leaves a chain without a finite point, as for data far beyond
        those it was trained on, the chain starts at a draw of the prior. A tensor or an array: one for every sample,
        ``(B, dim Z)`` (for one sample an ODL element of Z, too), or for every chain, ``(chains, B, dim Z)``.
    chains : int
        Chains of every sample.
    random : RandomNumbers
        RandomNumbers numbers.
    map_iterations : int
        Iterations of the search for minimisers.

    Returns
    -------
    z : Tensor
        ``(chains, B, dim Z)``.
    evaluations : Tensor
        Evaluations of E and its gradient that were spent on every chain, ``(chains, B)``.

    Raises
    ------
    ValueError
        If `init` is none of these, or the model has no encoder.
    """
    G, data = posterior.generator, posterior.fidelity.data
    shape = (chains, posterior.batch, *G.domain.shape)
    like = torch.empty(shape, dtype=torch_dtype(G.domain), device=data.device)
    spent = torch.zeros(shape[:2], dtype=torch.int64, device=data.device)
    if not isinstance(init, str):
        given = fitting(array(init, "init"), "init", like.dtype)
        check_tensor(given, G.domain, "init")
        single = shape[2:] if posterior.batch == 1 else shape  # of one sample, as `reconstruct` gives it
        if given.shape not in (shape, shape[1:], single):
            raise ValueError(f"init must have the shape {shape[1:]} or {shape}, got {tuple(given.shape)}")
        check_finite(given, "init", samples=-2 if given.ndim > 1 else None)
        return given.expand(shape).to(like).clone(), spent
    choice(init, "init", STARTS)
    if init == "posterior" and not G.has_encoder:
        raise ValueError(f"init must be 'prior', 'map' or a tensor: {G!r} has no encoder")
    if init == "screened":
        seed = int(random.uniform(like.new_zeros(1, dtype=torch.float64)) * 2**52)
        return screened_starts(posterior, chains, iterations=map_iterations, seed=seed)
    z = random.normal(like)
    if init != "prior" and G.has_encoder:
        z = finite_or(_encoded(posterior, z), z)
    if init == "map":
        return _modes(posterior, z, random, map_iterations)
    return z, spent


def _encoded(posterior: LatentPosterior, noise: Tensor) -> Tensor:
    """Draws of q(z | x) for a rough reconstruction x; its mean where the encoder says no more."""
    image = posterior.fidelity.rough()
    G = posterior.generator
    if not getattr(G.model, "variational", False):
        return G.encode(image).expand_as(noise).clone()
    mean, std = G.encode_distribution(image)
    return mean + std * noise


def _modes(
    posterior: LatentPosterior, z: Tensor, random: RandomNumbers, iterations: int
) -> tuple[Tensor, Tensor]:
    found, energy, evaluations = posterior.minimise(z, iterations)
    z = finite_or(found, z)
    chains, batch = energy.shape
    # few digits, all of them used
    logits = (energy.amin(0) - energy).nan_to_num(nan=-torch.inf, neginf=-torch.inf)
    # Gumbel's trick: the largest of log p + noise is a draw from p
    noise = -(-random.uniform(energy.expand(chains, chains, batch)).log()).log()
    chosen = (logits + noise).argmax(1)  # (chains, B)
    return z.gather(0, chosen[..., None].expand_as(z)), evaluations
