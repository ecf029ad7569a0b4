"""The numbers of an evaluation as plain lists and dictionaries."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from genreg.evaluation.distribution import MeanDiscrepancy
from genreg.evaluation.reconstruction import deciles
from genreg.evaluation.sbc import Calibration

if TYPE_CHECKING:
    from genreg.evaluation.suite import Evaluation

__all__ = ["lines", "quantiles", "to_dict"]


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


def lines(e: Evaluation) -> list[str]:
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


def to_dict(e: Evaluation) -> dict[str, Any]:
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
