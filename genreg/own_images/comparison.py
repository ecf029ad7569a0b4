r"""A prior against total variation, on held-out images: denoising, and tomography from few angles.

All reconstruct the same noisy data. TV has the weight with the best mean PSNR on these very images, and their bounds,
which nobody has without the truth. The prior is a density, so the weights of its estimates follow from it; of these the
best one counts.
"""

from __future__ import annotations

import importlib.util
import math
import warnings
from collections.abc import Iterator
from typing import Any

import odl
import torch
from torch import Tensor

from genreg.datasets.mixed_images import MixedImages
from genreg.evaluation.metrics import psnr
from genreg.generator import Generator
from genreg.networks import Autoencoder
from genreg.operators import ray_transform, to_torch
from genreg.reconstruction.parameter_sweep import sweep
from genreg.reconstruction.variational import reconstruct
from genreg.regularisers import HardConstraint, JointPrior, Regulariser, TotalVariation
from genreg.solvers import Status

IMAGES, SIDE = 4, 96  # at most
ANGLES = 60
_NOISE = {"denoising": 0.1, "tomography": 0.01}  # relative to the largest datum of an image of ones
_MORE = 6  # times that the range of weights of TV is extended
_ITERATIONS = {"TV": 500, "prior": 100}
_OF_SOLVERS = (RuntimeWarning, UserWarning)  # torch has deprecations of its own
_QUICK_SIDE = 16
_QUICK = {"TV": 5, "prior": 2}


def compare(model: Autoencoder, images: MixedImages, *, quick: bool = False, seed: int = 0) -> dict[str, Any]:
    """Compare a prior with TV.

    Parameters
    ----------
    model : Autoencoder
        The model, of images of any size.
    images : MixedImages
        Held-out images in the units of the model; the middle of four of them is taken, 96 x 96 pixels at most.
    quick : bool
        Whether to take one image of 16 x 16 pixels and iterate a few times only, to see that it works.
    seed : int
        Seed of the noise.

    Returns
    -------
    dict
        By the name of the problem ("tomography" only where the ASTRA toolbox is installed): "tv", its mean PSNR in dB
        with the range 1 of the model; "lam", its weight; "noise_std"; "estimates", by their names the mean "psnr" of
        those by the prior, None where it failed, the number "unfinished" that did not converge, and the "warnings" of
        its solver; "prior" and "best", PSNR and name of the best of them. Then "images" and "side", number and size.
    """
    truth = central_parts(images, _QUICK_SIDE)[:1] if quick else central_parts(images)
    X = odl.uniform_discr([0, 0], truth.shape[1:], tuple(truth.shape[1:]), dtype="float32")
    estimates = _estimates(Generator(model, X))
    bounds = {
        "lower": min(float(x.min()) for x in images.images),
        "upper": max(float(x.max()) for x in images.images),
    }
    iterations = _QUICK if quick else _ITERATIONS
    results: dict[str, Any] = {}
    for k, (name, A) in enumerate(_problems(X)):
        clean = to_torch(A)(truth)
        noise_std = _NOISE[name] * float(to_torch(A)(torch.ones_like(truth[:1])).max())
        random = torch.Generator().manual_seed(seed + k)
        y = clean + noise_std * torch.randn(clean.shape, generator=random)
        found = {
            label: _reached(A, y, prior, lam, noise_std, truth, iterations["prior"])
            for label, (prior, lam) in estimates.items()
        }
        best = max(
            found, key=lambda label: -math.inf if found[label]["psnr"] is None else found[label]["psnr"]
        )
        tv, lam = _best_variation(A, y, TotalVariation(X, **bounds), noise_std, truth, iterations["TV"])
        results[name] = {
            "tv": tv,
            "lam": lam,
            "noise_std": noise_std,
            "prior": found[best]["psnr"],
            "best": best,
            "estimates": found,
        }
    return {**results, "images": len(truth), "side": min(truth.shape[1:])}


def central_parts(images: MixedImages, most: int = SIDE) -> Tensor:
    """Return the middle of a few images, all of one size, ``(B, side, side)``, `most` at most."""
    count = min(IMAGES, len(images))
    chosen = [images.images[k * len(images) // count] for k in range(count)]
    side = min(most, *(min(x.shape) for x in chosen))
    corners = [[(n - side) // 2 for n in x.shape] for x in chosen]
    return torch.stack([x[i : i + side, j : j + side] for x, (i, j) in zip(chosen, corners, strict=True)])


def _estimates(G: Generator) -> dict[str, tuple[Regulariser, float]]:
    """The estimates by which the prior is judged, with their weights.

    The maximum of the density of the latent vector, with the image integrated out; and that with the image in the range
    of G, whose logarithm is -1/2 ||z||^2.
    """
    return {
        "JointPrior": (JointPrior(G, estimate="marginal"), 1.0),
        "HardConstraint": (HardConstraint(G), 0.5),
    }


def _reached(
    A: odl.Operator,
    y: Tensor,
    prior: Regulariser,
    lam: float,
    noise_std: float,
    truth: Tensor,
    max_iter: int,
) -> dict[str, Any]:
    """How near an estimate comes to the truth, and how its solver ended."""
    with warnings.catch_warnings(record=True) as caught:
        for kind in _OF_SOLVERS:
            warnings.simplefilter("always", kind)
        found = reconstruct(A, y, prior, noise_std=noise_std, lam=lam, max_iter=max_iter, progress=False)
    reached = float(psnr(found.image, truth, data_range=1.0).mean())
    done = (found.status == Status.CONVERGED) | (found.status == Status.STALLED)
    return {
        "psnr": reached if math.isfinite(reached) else None,
        "unfinished": int((~done).sum()),
        "warnings": sorted({str(w.message) for w in caught if w.category in _OF_SOLVERS}),
    }


def _problems(X: odl.DiscretizedSpace) -> Iterator[tuple[str, odl.Operator]]:
    yield "denoising", odl.IdentityOperator(X)
    if importlib.util.find_spec("astra") is not None:
        yield "tomography", ray_transform(X, _fan_beam(X), cache=False)


def _fan_beam(X: odl.DiscretizedSpace) -> Any:
    """A full turn of a fan beam, source and detector two and one sides of the image away from its middle."""
    from odl.applications import tomo

    side = X.shape[0]
    source, detector = 2.0 * side, 1.0 * side
    reach = side / math.sqrt(2)  # of the image, from its middle
    half = (source + detector) * math.tan(math.asin(reach / source))
    centre = tuple(X.partition.mid_pt)
    return tomo.FanBeamGeometry(
        odl.uniform_partition(0, 2 * math.pi, ANGLES),
        odl.uniform_partition(-half, half, math.ceil(1.5 * side)),
        src_radius=source,
        det_radius=detector,
        translation=centre,
    )


def _best_variation(
    A: odl.Operator, y: Tensor, variation: TotalVariation, noise_std: float, truth: Tensor, max_iter: int
) -> tuple[float, float]:
    """The best mean PSNR by TV and its weight, from a grid that grows until its best is not at an end."""
    probe = torch.randn(truth[:1].shape, generator=torch.Generator().manual_seed(0))
    column = float(to_torch(A)(probe).norm() / probe.norm())  # of A, on average: how well a pixel is measured
    scores: dict[float, float] = {}

    def best_of(places: set[float]) -> float:
        """The best place so far, of k in the weights column / noise_std * 2^k."""
        if new := sorted(places - scores.keys()):
            study = sweep(
                A,
                y,
                variation,
                lam=[column / noise_std * 2.0**k for k in new],
                noise_std=noise_std,
                reference=truth,
                data_range=1.0,
                max_iter=max_iter,
                keep_images=False,
                progress=False,
            )
            assert study.psnr is not None
            scores.update(zip(new, study.psnr.mean((0, 1)).tolist(), strict=True))
        return max(scores, key=scores.__getitem__)

    best = best_of({-1.0, 0.0, 1.0})
    for _ in range(_MORE):
        if best not in (min(scores), max(scores)):
            break
        best = best_of({best - 1.0, best + 1.0})
    best = best_of({best - 0.5, best + 0.5})
    return scores[best], column / noise_std * 2.0**best
