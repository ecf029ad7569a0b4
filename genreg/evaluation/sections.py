"""The sections of the report, as HTML; `image` has the embedded figures by name."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from typing import Any

import torch

from genreg.evaluation.result import Measurements, quantiles


def reconstruction(e: Measurements, image: dict[str, str]) -> str:
    """How near the range comes to the test images."""
    fit = e.reconstruction
    rows = [(name, *quantiles(values).values()) for name, values in fit.scores.items()]
    if fit.encoder_nrmse is not None:
        rows.append(("NRMSE of G(E(x)), no descent", *quantiles(fit.encoder_nrmse).values()))
    starts = "the encoder's point and " if fit.encoder_nrmse is not None else ""
    best = float(fit.by_encoder.double().mean())
    ends = f"The encoder's point was the best start for {best:.0%} of the images. " if starts else ""
    return (
        "<p>For every test image x the nearest image G(z*) in the range, z* ∈ arg min ‖G(z) − x‖², by "
        f"quasi-Newton or gradient descent from {starts}{e.settings['random starts per image']} draws of the "
        f"prior. {ends}The descent met its tolerance for {float(fit.converged.double().mean()):.0%} and ended at the "
        "limit of its iterations, or where no step helped any more, for the others. What is found is an upper "
        "bound of the distance to the range.</p>"
        + _table(("", "mean", "std", "5 %", "median", "95 %"), rows)
        + "<p class='note'>NRMSE = ‖G(z*) − x‖₂ / ‖x‖₂, with the Euclidean norm of the true image; PSNR and SSIM "
        f"with data range {fit.data_range:g} (dB; Gaussian window, σ = 1.5); l1 error = ‖G(z*) − x‖₁ / pixels.</p>"
        + image["histograms"]
        + "<p>The images at the 0, 10, …, 100 % quantiles of NRMSE, which stands below the nearest image, and the "
        "difference.</p>" + image["deciles"]
    )


def distribution(e: Measurements, image: dict[str, str]) -> str:
    """Generated against test images."""
    d = e.earth_mover
    rows: list[tuple[str, float | None]] = [("EMD(generated, test)", d.raw), ("per pixel", d.per_pixel)]
    if d.reference is not None:
        rows += [
            ("EMD(reference, test)", d.reference),
            ("EMD(generated, test) / EMD(reference, test)", d.relative),
        ]
    kernels = [
        (f"σ = {sigma:.3g}", value, p, *_nth(e, k))
        for k, (sigma, value, p) in enumerate(
            zip(e.mmd.bandwidths, e.mmd.values, e.mmd.p_values, strict=True)
        )
    ]
    kernels.append(("mean of the kernels", e.mmd.value, e.mmd.p_value, *_nth(e, None)))
    head = ["kernel", "generated: MMD²", "p"] + (["reference: MMD²", "p"] if e.mmd_reference else [])
    return (
        f"<p>Earth mover's distance between {d.images} generated and {d.images} test images: exact optimal "
        "transport with uniform weights and the squared Euclidean distance as ground metric, in squared grey "
        "values summed over the pixels. Two finite sets of real images have a distance too, which is the "
        "reference: a perfect generator reaches the ratio 1, up to chance; below 1 is no better than 1, images "
        "that vary less than real ones, or blurred ones, get there.</p>"
        + _table(("", "value"), rows)
        + image["earth-mover"]
        + "<p>Maximum mean discrepancy: unbiased estimate of MMD² with Gaussian kernels at multiples of the median "
        "distance, and p-value of a permutation test (Gretton et al. 2012). A small p says that the two sets have "
        "different distributions.</p>" + _table(head, kernels) + image["mmd"]
    )


def _nth(e: Measurements, k: int | None) -> tuple[Any, ...]:
    if (real := e.mmd_reference) is None:
        return ()
    return (real.value, real.p_value) if k is None else (real.values[k], real.p_values[k])


def latent(e: Measurements, image: dict[str, str]) -> str:
    """Encodings against the prior."""
    prior = e.prior
    d = len(prior.mean)
    variances = torch.linalg.eigvalsh(prior.covariance)
    rows = [
        ("norm of the mean (prior: 0)", float(prior.mean.norm())),
        ("smallest variance of a direction (prior: 1)", float(variances[0])),
        ("largest variance of a direction (prior: 1)", float(variances[-1])),
        ("KL divergence of N(mean, covariance) from the prior [nats]", prior.divergence),
        ("median Mahalanobis distance ‖z‖", float(prior.mahalanobis.median())),
        (f"p: ‖z‖² chi-squared with {d} degrees of freedom", prior.radius_p),
    ]
    planes = [
        (
            f"{k + 1}, axis {axis + 1}",
            *(float(t[k, axis]) for t in (prior.ks_statistic, prior.ks_p, prior.shape_p)),
        )
        for k in range(len(prior.projections))
        for axis in range(2)
    ]
    return (
        f"<p>Encodings of the test images: {html.escape(e.codes)}. For a model that fits, they follow the prior "
        "N(0, I). Finite tests with many images find the smallest deviation: look at the statistic, the largest "
        "distance between the distribution functions, as well as at p.</p>"
        + _table(("", "value"), rows)
        + "<p>Projections on random planes, the same for all models of this latent dimension and seed; the circles "
        "hold 50, 90 and 99 % of N(0, I). Right: the density of ‖z‖ and that of the prior.</p>"
        + image["prior"]
        + _table(
            ("plane", "KS statistic against N(0, 1)", "p", "p of normality (D'Agostino, Pearson)"), planes
        )
    )


def far(e: Measurements, image: dict[str, str]) -> str:
    """Images far from the prior."""
    unit = " / that of reference images" if e.earth_mover.reference is not None else ""
    rows = [(f"s = {s:g}", value) for s, value in zip(e.scales, e.far_distance, strict=True)]
    return (
        "<p>Images of z ~ N(0, s² I); a column belongs to one direction of the latent space.</p>"
        + image["far"]
        + _table(("", f"median distance from the nearest test image{unit}"), rows)
    )


def interpolation(image: dict[str, str]) -> str:
    """Between four test images."""
    return (
        "<p>Bilinear interpolation between the points z* of four test images, which are shown at the sides; "
        "framed: their nearest images in the range.</p>" + image["interpolation"]
    )


def smoothness(e: Measurements, image: dict[str, str]) -> str:
    """Slopes of the generator."""
    values, secants = e.smoothness.singular_values, e.smoothness.secants
    named = {
        "largest singular value": values[:, 0],
        "smallest singular value": values[:, -1],
        "condition number": values[:, 0] / values[:, -1],
        "secant": secants,
    }
    return (
        f"<p>Singular values of the Jacobian dG/dz at {len(values)} draws of the prior, and the slopes "
        "‖G(z) − G(z′)‖ / ‖z − z′‖ of as many pairs. The Lipschitz constant of G is at least "
        f"{e.smoothness.lipschitz:.4g}.</p>"
        + _table(
            ("", "mean", "std", "5 %", "median", "95 %"),
            [(k, *quantiles(v).values()) for k, v in named.items()],
        )
        + image["smoothness"]
    )


def calibration(e: Measurements, image: dict[str, str]) -> str:
    """Calibration of the encoder."""
    if e.calibration is None or e.calibration_clean is None:
        return "<p>Not done: the model has no encoder with a distribution q(z | x) and a standard deviation γ.</p>"
    items = {"x = G(z) + γ ε": e.calibration, "x = G(z)": e.calibration_clean}
    rows = [
        (
            name,
            item.p_value,
            float(item.ks_statistic.max()),
            float(item.bias.abs().max()),
            float(item.spread.median()),
            *(float(c) for c in item.coverage.mean(1)),
        )
        for name, item in items.items()
    ]
    levels = [f"{level:.0%} interval" for level in e.calibration.levels]
    weight = e.card.get("training", {}).get("kl_weight", 1.0)
    tempered = (
        f" The model was trained with the weight {weight:g} of the divergence, for which q is not the posterior."
        if weight != 1
        else ""
    )
    return (
        "<p>Simulation-based calibration (Talts et al. 2018): z ~ N(0, I), x = G(z) + γ ε; the transform "
        "Φ((z − mean) / std) under q(z | x) = N(mean, diag(std²)) is uniform if q is the posterior. An encoder "
        "trained on clean images has not seen the noise; without it (second case) no posterior is defined, and "
        "what counts is whether the intervals hold the true z. A spread above 1 means that q is too narrow. On "
        "real test images this check is impossible, for their true z does not exist."
        + tempered
        + "</p>"
        + _table(
            ("", "p (Bonferroni)", "largest KS statistic", "largest bias", "median spread", *levels), rows
        )
        + image["calibration"]
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    cells = "".join(f"<th>{html.escape(h)}</th>" for h in head)
    lines = ("".join(f"<td>{html.escape(_number(c))}</td>" for c in row) for row in rows)
    return f"<table><tr>{cells}</tr>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>"


def _number(item: Any) -> str:
    return f"{item:.4g}" if isinstance(item, float) else "–" if item is None else str(item)


def settings(e: Measurements) -> str:
    """Settings, times and the card."""
    card = {key: value for key, value in e.card.items() if key != "history"}
    return (
        _table(("setting", ""), list(e.settings.items()))
        + _table(("part", "seconds"), [(part, f"{s:.1f}") for part, s in e.seconds.items()])
        + f"<pre>{html.escape(json.dumps(card, indent=2, ensure_ascii=False, default=str))}</pre>"
    )
