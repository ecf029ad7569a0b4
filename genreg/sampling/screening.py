r"""Starting points for chains, chosen among many draws of the prior.

Whether a chain finds the modes that have the mass is decided by where it starts. Draws :math:`z_i \sim N(0, I)` with
the weights :math:`L_i = \exp(-\mathcal{D}(A(G(z_i)); y))` are a sample of the posterior (importance sampling), of few
effective draws if the data say much. Images and predicted data of the draws are the same for all samples of a batch,
so that many are cheap. Points are drawn in proportion to :math:`L_i^\beta`, with the largest :math:`\beta \le 1` at
which as many draws as there are chains count: from the posterior itself where that is possible, otherwise from a
wider density about all of its modes.

From these points minimisers of E are sought. Some are in modes that have no mass, far above the lowest energy: they
are replaced by others of the same sample. The chains that remain are in each mode about as often as that density is,
whatever the energies of the modes: a low but narrow one may have less mass than a wide one.

References
----------
D. B. Rubin (1988), Using the SIR algorithm to simulate posterior distributions, Bayesian Statistics 3.

R. M. Neal (2001), Annealed importance sampling, doi:10.1023/A:1008923215028.
"""

from __future__ import annotations

import torch
from torch import Tensor

from genreg.operators import to_torch, torch_dtype
from genreg.operators.bridge.arguments import integer, seeded_generator
from genreg.operators.bridge.arrays import check_memory
from genreg.operators.bridge.modes import undisturbed
from genreg.sampling.importance import kish_ess
from genreg.sampling.posterior import LatentPosterior

_PIXELS = 2**23  # of the draws that are decoded at once
_DRAWS, _DECODED = 10_000, 2**28  # draws by default, and the pixels of all of them at most
_HALVINGS = 30
# nats for each latent dimension: e⁻² is the volume of a mode seven times as narrow in each of them
_GAP = 2.0


@undisturbed
def screened_starts(
    posterior: LatentPosterior, chains: int, *, draws: int | None = None, iterations: int = 60, seed: int = 0
) -> tuple[Tensor, Tensor]:
    r"""Choose starting points for the chains of every sample among draws of the prior, see the module.

    Parameters
    ----------
    posterior : LatentPosterior
        The density.
    chains : int
        Chains of every sample, at least 1.
    draws : int, optional
        Draws of N(0, I) to choose from, at least `chains`; each is decoded once for all samples. By default 10,000, and
        fewer of large images, 1,024 of 512 x 512 pixels.
    iterations : int
        Iterations of the search for minimisers; with 0 the chains start at the draws.
    seed : int
        Seed of the draws and of the choice.

    Returns
    -------
    z : Tensor
        ``(chains, B, dim Z)``, as `sampling.sample` takes for ``init``.
    evaluations : Tensor
        Evaluations of E and its gradient in the search, ``(chains, B)``; those of the draws do not count.

    Raises
    ------
    ValueError
        If there are fewer draws than chains, or a number is not positive.
    """
    if not isinstance(posterior, LatentPosterior):
        raise TypeError(f"posterior must be a LatentPosterior, got {type(posterior).__name__}")
    chains, iterations = integer(chains, "chains", minimum=1), integer(iterations, "iterations", minimum=0)
    device, G = posterior.fidelity.data.device, posterior.generator
    if draws is None:
        draws = max(chains, min(_DRAWS, _DECODED // G.range.size))
    draws, random = integer(draws, "draws", minimum=chains), seeded_generator(seed)
    check_memory((draws, posterior.batch + G.domain.size), torch_dtype(G.domain), "draws", draws, device)
    z = torch.randn((draws, *G.domain.shape), generator=random, dtype=torch_dtype(G.domain)).to(device)
    log_weight = _tempered(_log_likelihood(posterior, z), chains)
    z = z[(log_weight + _gumbel(log_weight, random)).topk(chains, dim=0).indices]  # without replacement
    if iterations == 0:
        return z, torch.zeros(z.shape[:2], dtype=torch.int64, device=device)
    found, energy, evaluations = posterior.minimise(z, iterations)
    z = finite_or(found, z)
    sound = energy <= energy.amin(0) + _GAP * z.shape[-1]
    # a sound one stays, another is replaced by one that is
    other = torch.where(sound, 0.0, -torch.inf).expand(chains, *sound.shape)
    chosen = (other + _gumbel(other, random)).argmax(1)  # (chains, B)
    own = torch.arange(chains, device=device)[:, None]
    chosen = torch.where(sound, own, chosen)
    return z.gather(0, chosen[..., None].expand_as(z)), evaluations


def finite_or(z: Tensor, other: Tensor) -> Tensor:
    """The latent vectors z, ``(..., dim Z)``, those of `other` where a component is not finite."""
    return torch.where(torch.isfinite(z).all(-1, keepdim=True), z, other)


def _log_likelihood(posterior: LatentPosterior, z: Tensor) -> Tensor:
    """The logarithms of L up to a constant, of n latent vectors for B samples, ``(n, B)``."""
    fidelity = posterior.fidelity
    forward, chunk = to_torch(fidelity.operator), max(1, min(500, _PIXELS // posterior.generator.range.size))
    with torch.no_grad():
        parts = [
            fidelity.misfit(forward(posterior.decode(part))[:, None], **fidelity.per_sample).double()
            for part in z.split(chunk)
        ]
    misfit = torch.cat(parts).nan_to_num(torch.inf)
    return (misfit.amin(0) - misfit).nan_to_num(0.0)


def _gumbel(like: Tensor, random: torch.Generator) -> Tensor:
    """Noise with which the largest log w + noise is a draw in proportion to w."""
    uniform = torch.rand(like.shape, generator=random, dtype=torch.float64).clamp_min(1e-300)
    return (-(-uniform.log()).log()).to(like)


def _tempered(log_weight: Tensor, count: int) -> Tensor:
    """The logarithms, ``(n, B)``, times the largest β up to 1 for which Kish's effective number is `count`."""
    low, high = torch.zeros_like(log_weight[0]), torch.ones_like(log_weight[0])
    beta = high
    for _ in range(_HALVINGS):
        enough = kish_ess((beta * log_weight).softmax(0), 0) >= count
        low, high = torch.where(enough, beta, low), torch.where(enough, high, beta)
        beta = 0.5 * (low + high)
    return low * log_weight
