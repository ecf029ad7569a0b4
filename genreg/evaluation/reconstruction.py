r"""How near the range of a generator comes to given images.

For every image x the problem is :math:`z^* \in \arg\min_z \|G(z) - x\|_2^2`, solved by descent from several
starting points; :math:`G(z^*)` is the best approximation found.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm import tqdm

from genreg.evaluation.inputs import checked
from genreg.evaluation.metrics import l1_error, nrmse, psnr, ssim
from genreg.generator import Generator
from genreg.operators import torch_device, torch_dtype
from genreg.operators.bridge.arguments import integer, number, seeded_generator
from genreg.operators.bridge.arrays import check_memory
from genreg.operators.bridge.modes import undisturbed
from genreg.solvers import Objective, Solution, quasi_newton
from genreg.solvers.problem.objective import Blocks

_NEGLIGIBLE = 1e-4  # NRMSE about which a descent need not go on


@dataclass(frozen=True)
class RangeFit:
    r"""Test images and the best approximations found in the range of a generator.

    Attributes
    ----------
    truth, images : Tensor
        x and :math:`G(z^*)`, ``(B, n, m)``.
    z : Tensor
        :math:`z^*`, ``(B, latent_dim)``.
    converged : Tensor
        Whether the descent met the tolerance, ``(B,)``.
    by_encoder : Tensor
        Whether the start chosen is the encoder's point, ``(B,)``.
    starts : int
        Starting points of every image.
    encoder_nrmse : Tensor or None
        NRMSE of the images encoded and decoded, without descent, ``(B,)``.
    data_range : float
        The range of grey values of PSNR and SSIM.
    nrmse, psnr, ssim, l1 : Tensor
        The errors, ``(B,)``, see `genreg.evaluation`.
    """

    truth: Tensor
    images: Tensor
    z: Tensor
    converged: Tensor
    by_encoder: Tensor
    starts: int
    encoder_nrmse: Tensor | None
    data_range: float
    nrmse: Tensor
    psnr: Tensor
    ssim: Tensor
    l1: Tensor

    @property
    def scores(self) -> dict[str, Tensor]:
        """The errors of every image by their names."""
        return {"NRMSE": self.nrmse, "PSNR": self.psnr, "SSIM": self.ssim, "l1 error": self.l1}


@undisturbed
def fit_range(
    G: Generator,
    images: Tensor,
    *,
    restarts: int = 2,
    seed: int = 0,
    data_range: float = 1.0,
    max_iter: int = 120,
    tol: float = 1e-4,
    batch_size: int = 250,
    progress: bool = True,
) -> RangeFit:
    r"""Find the nearest images in the range of G by descent on :math:`\|G(z) - x\|_2^2`.

    Every image is approached from the encoder's point, where there is an encoder, and from draws of N(0, I).
    After a quarter of the iterations the best start of every image is chosen, and followed to the end. All
    descents of a chunk of images are one batch of `solvers.quasi_newton`. What is found is a local minimiser at best,
    so the errors are upper bounds of the distance to the range.

    Parameters
    ----------
    G : Generator
        The model.
    images : Tensor
        x, ``(B, *G.range.shape)``.
    restarts : int
        Random starting points of every image, besides the encoder's.
    seed : int
        Seed of the random starting points.
    data_range : float
        The range of grey values, for PSNR and SSIM.
    max_iter : int
        Iterations of every image, those of the choice included.
    tol : float
        Tolerance of the descent, see the solver; relative to the squared distance, or to that of an NRMSE of
        1e-4 where the distance is less.
    batch_size : int
        Descents in one batch at most.
    progress : bool
        Show a progress bar.

    Returns
    -------
    RangeFit

    Raises
    ------
    ValueError
        If there is no starting point, or the images do not fit.
    """
    if not isinstance(G, Generator):
        raise TypeError(f"G must be a genreg.Generator, got {type(G).__name__}")
    max_iter, tol = integer(max_iter, "max_iter", minimum=0), number(tol, "tol", minimum=0)
    batch_size, images = integer(batch_size, "batch_size", minimum=1), checked("images", images, G)
    data_range = number(data_range, "data_range", above=0, maximum=1e100)
    first = [G.encode] if G.has_encoder else []
    restarts, random = integer(restarts, "restarts", minimum=1 - len(first)), seeded_generator(seed)
    starts = len(first) + restarts
    check_memory((starts, G.range.size), torch_dtype(G.range), "restarts", restarts)
    images = images.to(device=torch_device(G.domain), dtype=torch_dtype(G.domain))
    found = []
    for x in tqdm(
        images.split(max(1, batch_size // starts)), desc="range", disable=not progress, leave=False
    ):
        draws = torch.randn((len(x), restarts, *G.domain.shape), generator=random, dtype=x.dtype).to(x.device)
        z = torch.cat([*(encode(x)[:, None] for encode in first), draws], 1)  # (B, starts, latent_dim)
        found.append(_descend(G, x, z, max_iter, tol))
    z, best, converged = (torch.cat(parts) for parts in zip(*found, strict=True))
    with torch.no_grad():
        nearest = torch.cat([G.decode(part).mean for part in z.split(batch_size)])
        coded = [G.decode(G.encode(x)).mean for x in images.split(batch_size)] if G.has_encoder else None
    return RangeFit(
        truth=images,
        images=nearest,
        z=z,
        converged=converged,
        by_encoder=(best == 0) if G.has_encoder else torch.zeros_like(converged),
        starts=starts,
        encoder_nrmse=None if coded is None else nrmse(torch.cat(coded), images),
        data_range=data_range,
        nrmse=nrmse(nearest, images),
        psnr=psnr(nearest, images, data_range=data_range),
        ssim=ssim(nearest, images, data_range=data_range),
        l1=l1_error(nearest, images),
    )


def _descend(G: Generator, x: Tensor, z: Tensor, max_iter: int, tol: float) -> tuple[Tensor, Tensor, Tensor]:
    """The best z of every image, ``(B, latent_dim)``, the number of its start, and whether it converged."""
    count, starts = z.shape[:2]
    best = torch.zeros(count, dtype=torch.int64, device=x.device)
    if starts > 1:
        first = _solve(G, x.repeat_interleave(starts, 0), z.flatten(0, 1), max_iter // 4, tol)
        value = first.value.view(count, starts)
        best = torch.where(value.isfinite(), value, math.inf).argmin(1)
        z = first.blocks["z"].view_as(z)
        max_iter -= max_iter // 4
    rows = torch.arange(count, device=x.device)
    last = _solve(G, x, z[rows, best], max_iter, tol)
    return last.blocks["z"], best, last.converged


def _solve(G: Generator, x: Tensor, z: Tensor, max_iter: int, tol: float) -> Solution:
    # A constant does not move the minimiser, but the tolerance is relative to the value, which may go to zero.
    least = _NEGLIGIBLE**2 * x.square().flatten(1).sum(1)

    def distance(blocks: Blocks, x: Tensor, least: Tensor) -> Tensor:
        return (G.decode(blocks["z"]).mean - x).square().flatten(1).sum(1) + least

    objective = Objective(distance, {"z": G.domain}, per_sample={"x": x, "least": least})
    return quasi_newton(objective, {"z": z}, max_iter=max_iter, tol=tol, progress=False)


def deciles(errors: Tensor) -> Tensor:
    r"""Numbers of the images at the 0, 10, ..., 100 % quantiles of the error.

    The image at the quantile q of B images is that of rank :math:`\mathrm{round}(q (B - 1))`, counted from 0.

    Parameters
    ----------
    errors : Tensor
        ``(B,)``.

    Returns
    -------
    Tensor
        Eleven indices, from the smallest error to the largest.
    """
    ranks = (torch.linspace(0, 1, 11, dtype=torch.float64) * (len(errors) - 1)).round().long()
    return errors.argsort(stable=True)[ranks.to(errors.device)]
