"""What an evaluation has measured, and its numbers as plain lists and dictionaries."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from genreg.evaluation.distribution import EarthMover, MeanDiscrepancy
from genreg.evaluation.latent import PriorFit
from genreg.evaluation.reconstruction import RangeFit, deciles
from genreg.evaluation.sbc import Calibration
from genreg.evaluation.slopes import Smoothness


@dataclass(frozen=True)
class Measurements:
    """The results of all criteria for one generator.

    Attributes
    ----------
    name : str
        Name of the model.
    card : dict
        Its card, where it has one.
    settings : dict
        Seed and sizes.
    seconds : dict of str to float
        Time of every part.
    reconstruction : RangeFit
        Test images and their nearest images in the range.
    earth_mover : EarthMover
        Distance of generated from test images.
    mmd : MeanDiscrepancy
        Test whether generated and test images have one distribution.
    mmd_reference : MeanDiscrepancy or None
        The same for reference and test images, where two sets of real images should pass.
    codes : str
        Where the encodings come from, in words.
    prior : PriorFit
        Encodings against the prior.
    scales : tuple of float
        Scales s of z ~ N(0, s² I).
    far : Tensor
        Images of these, ``(len(scales), count, n, m)``.
    far_distance : tuple of float
        Median distance of the images of each scale from the nearest test image, relative to the same for the
        reference images (absolute where there are none).
    corners, interpolation : Tensor
        Four test images, and the images between their encodings, ``(steps, steps, n, m)``.
    calibration, calibration_clean : Calibration or None
        Calibration of the encoder on images of the model with and without its noise; None where the model has
        no distribution to calibrate.
    smoothness : Smoothness
        Slopes of the generator.
    """

    name: str
    card: dict[str, Any]
    settings: dict[str, Any]
    seconds: dict[str, float]
    reconstruction: RangeFit
    earth_mover: EarthMover
    mmd: MeanDiscrepancy
    mmd_reference: MeanDiscrepancy | None
    codes: str
    prior: PriorFit
    scales: tuple[float, ...]
    far: Tensor
    far_distance: tuple[float, ...]
    corners: Tensor
    interpolation: Tensor
    calibration: Calibration | None
    calibration_clean: Calibration | None
    smoothness: Smoothness

    def to_dict(self) -> dict[str, Any]:
        """All numbers, in a dictionary that JSON can represent; what is not finite is None."""
        return to_dict(self)


def quantiles(values: Tensor) -> dict[str, float]:
    """Mean, standard deviation, and the 5, 50 and 95 % quantiles."""
    values = values.double().flatten().cpu()
    low, median, high = (float(torch.quantile(values, q)) for q in (0.05, 0.5, 0.95))
    return {
        "mean": float(values.mean()),
        "std": float(values.std()),
        "5 %": low,
        "median": median,
        "95 %": high,
    }


def lines(e: Measurements) -> list[str]:
    """The main numbers in words, a line for each criterion."""
    fit, d = e.reconstruction, e.earth_mover
    median = {name: float(values.median()) for name, values in fit.scores.items()}
    relative = "" if d.relative is None else f", {d.relative:.3f} of that between real images"
    said = [
        f"{e.name}: {len(fit.z)} test images",
        f"range: median NRMSE {median['NRMSE']:.4f}, PSNR {median['PSNR']:.2f} dB, SSIM {median['SSIM']:.4f}",
        f"distribution: EMD {d.raw:.4g}{relative}; MMD² {e.mmd.value:.3g}, p = {e.mmd.p_value:.3g}",
        f"latent space: KL from the prior {e.prior.divergence:.3g} nats, ‖z‖ p = {e.prior.radius_p:.3g}",
        f"smoothness: largest singular value {float(e.smoothness.singular_values[:, 0].median()):.3g} (median), "
        f"Lipschitz constant at least {e.smoothness.lipschitz:.3g}",
    ]
    if e.calibration is not None:
        level = e.calibration.levels[-1]
        share = float(e.calibration.coverage[-1].mean())
        said.append(f"calibration: {level:.0%} intervals hold {share:.1%} of the true z")
    return said


def to_dict(e: Measurements) -> dict[str, Any]:
    """Return all numbers of an evaluation, JSON-able; what is not finite becomes None."""
    fit, prior, slopes = e.reconstruction, e.prior, e.smoothness
    numbers = {
        "model": e.name,
        "settings": e.settings,
        "seconds": e.seconds,
        "reconstruction": {
            "summary": {name: quantiles(values) for name, values in fit.scores.items()},
            "NRMSE at deciles": fit.nrmse[deciles(fit.nrmse)],
            "NRMSE by the encoder alone": None if fit.encoder_nrmse is None else quantiles(fit.encoder_nrmse),
            "converged": float(fit.converged.double().mean()),
            "best start is the encoder's": float(fit.by_encoder.double().mean()),
            "starts": fit.starts,
            "per image": dict(fit.scores),
        },
        "earth mover's distance": vars(e.earth_mover),
        "mmd": _mmd(e.mmd),
        "mmd of reference images": None if e.mmd_reference is None else _mmd(e.mmd_reference),
        "latent space": {
            "codes": e.codes,
            "mean": prior.mean,
            "covariance": prior.covariance,
            "divergence from the prior": prior.divergence,
            "mahalanobis": quantiles(prior.mahalanobis),
            "mahalanobis KS statistic": prior.radius_statistic,
            "mahalanobis p": prior.radius_p,
            "projections": prior.projections,
            "KS statistic": prior.ks_statistic,
            "KS p": prior.ks_p,
            "normality p": prior.shape_p,
        },
        "far from the prior": dict(zip((f"{s:g}" for s in e.scales), e.far_distance, strict=True)),
        "calibration": None if e.calibration is None else _calibration(e.calibration),
        "calibration without noise": (
            None if e.calibration_clean is None else _calibration(e.calibration_clean)
        ),
        "smoothness": {
            "singular values, median by rank": slopes.singular_values.median(0).values,
            "largest singular value": quantiles(slopes.singular_values[:, 0]),
            "condition number": quantiles(slopes.singular_values[:, 0] / slopes.singular_values[:, -1]),
            "Lipschitz constant, at least": slopes.lipschitz,
            "secants": quantiles(slopes.secants),
        },
    }
    return _plain(numbers)


def _mmd(item: MeanDiscrepancy) -> dict[str, Any]:
    return {key: value for key, value in vars(item).items() if key != "null"}


def _calibration(item: Calibration) -> dict[str, Any]:
    return {key: value for key, value in vars(item).items() if key != "pit"}


def _plain(item: Any) -> Any:
    if isinstance(item, Tensor):
        item = item.tolist()
    if isinstance(item, dict):
        return {key: _plain(value) for key, value in item.items()}
    if isinstance(item, list | tuple):
        return [_plain(value) for value in item]
    return None if isinstance(item, float) and not math.isfinite(item) else item
