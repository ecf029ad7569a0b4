"""What a prior of own images is worth: scores on images it never saw, a picture, and all that in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import odl
import torch

from genreg.datasets.mixed_images import MixedImages
from genreg.generator import Generator
from genreg.networks import Autoencoder
from genreg.own_images.comparison import central_parts
from genreg.own_images.stages import ended
from genreg.training.gaussian_likelihood import likelihood
from genreg.training.model_scores import evaluate

_SCORED = 20  # images at most


def scores(models: Mapping[str, Autoencoder], images: MixedImages) -> dict[str, Any]:
    """Measure models on whole images, in the units of the model.

    Parameters
    ----------
    models : mapping of str to Autoencoder
        Models with the same encoder and mean.
    images : MixedImages
        Held-out images; twenty of them are taken.

    Returns
    -------
    dict
        Means over images: "psnr" of the reconstructions in dB; "nats", by the name of the model the log-likelihood of a
        pixel at the mean of q(z | x), "nats_sampled" and "elbo" at a draw, see `genreg.training.likelihood`; "whitened"
        of the last model. And "images", their number.
    """
    count = min(_SCORED, len(images))
    chosen = [images.images[k * len(images) // count] for k in range(count)]
    found: dict[str, Any] = {}
    for name, model in models.items():
        each = [likelihood(model.at(tuple(x.shape)), x[None]) for x in chosen]
        for score in ("nats", "nats_sampled", "elbo", "whitened"):
            found.setdefault(score, {})[name] = float(np.mean([one[score] for one in each]))
    psnr = [evaluate(model.at(tuple(x.shape)), x[None])["psnr"] for x in chosen]
    return {"psnr": float(np.mean(psnr)), **found, "images": count}


def picture(model: Autoencoder, images: MixedImages, *, seed: int = 0) -> Any:
    """Draw held-out images, their reconstructions, and samples of the prior with and without what the mean leaves open.

    Returns
    -------
    matplotlib.figure.Figure
    """
    from genreg.plotting import image_grid

    x = central_parts(images)
    G = Generator(model, odl.rn(tuple(x.shape[1:]), dtype="float32"))
    random = torch.Generator().manual_seed(seed)
    z = torch.randn((len(x), *G.domain.shape), generator=random)
    with torch.no_grad():
        decoded = G.decode(z)
        reconstructed = G.decode(G.encode(x)).mean
    assert decoded.precision is not None
    draws = decoded.mean + decoded.precision.sample(1, generator=random)[0]
    rows = {"held out": x, "reconstruction": reconstructed, "sample, mean": decoded.mean, "sample": draws}
    return image_grid(rows, vmin=0.0, vmax=1.0)


def summary(card: Mapping[str, Any]) -> str:
    """Return what a card says, in a few lines."""
    data, units, score, stages = (card[key] for key in ("data", "units", "score", "stages"))
    low, high = units["offset"], units["offset"] + units["scale"]
    skipped = f", {len(data['skipped'])} skipped" if data["skipped"] else ""
    measured = "that chose the weights" if data["test_chose_weights"] else "that nothing was chosen by"
    lines = [
        *["a quick run, to see that it works: the figures say nothing"] * card["quick"],
        f"{card['name']}: {data['training']} images to train on, {data['held_out']} to choose weights by{skipped}; "
        f"measured on {score['images']} {measured}",
        f"units: {low:.6g} to {high:.6g} of the files are 0 to 1 of the model",
        *(f"{stage}: {ended(stages[stage])}" for stage in stages),
        f"standard deviation of a pixel given z: {units['scale'] * stages['mean']['gamma']:.4g} on held-out images "
        f"({units['scale'] * stages['mean']['learned_gamma']:.4g} in training)",
        f"reconstruction of held-out images: {score['psnr']:.2f} dB",
        "log-likelihood of held-out images, nats a pixel: "
        + ", ".join(f"{name} {value:.3f}" for name, value in score["nats"].items()),
    ]
    nats = score["nats"]
    if nats["SUPN"] <= max(value for name, value in nats.items() if name != "SUPN"):
        lines.append(
            "The structured precision is no better than a simpler one on held-out images: "
            f"JointPrior(G, beta={(units['scale'] * stages['mean']['gamma']) ** -2:.6g}) is the isotropic one"
        )
    verdict = _verdict(card["comparison"])
    return "\n".join([*lines, *(verdict[:-1] if card["quick"] else verdict)])


def _verdict(comparison: Mapping[str, Any]) -> list[str]:
    """Whether the prior beats TV, by a failed reconstruction never."""
    problems = {name: entry for name, entry in comparison.items() if isinstance(entry, Mapping)}
    lost = [name for name, e in problems.items() if e["prior"] is None or e["prior"] <= e["tv"]]
    lines = []
    for name, entry in problems.items():
        found = [_reached(label, own, comparison["images"]) for label, own in entry["estimates"].items()]
        lines.append(f"{name}: {', '.join(found)}; TV with its best weight {entry['tv']:.2f} dB")
    if not lost:
        by = " and ".join(sorted({entry["best"] for entry in problems.values()}))
        return [*lines, f"This prior beats TV on your held-out images (by {by})."]
    if len(lost) == len(problems):
        last = (
            "This prior does not beat TV on your held-out images: use TV, or train longer or on more images."
        )
    else:
        won = " and ".join(f"{name} (by {e['best']})" for name, e in problems.items() if name not in lost)
        last = f"This prior beats TV on your held-out images in {won}, not in {' and '.join(lost)}."
    return [*lines, last]


def _reached(label: str, estimate: Mapping[str, Any], images: int) -> str:
    """The words for one estimate."""
    if estimate["psnr"] is None:
        return f"{label} failed"
    unfinished = f"{estimate['unfinished']} of {images} images not converged"
    notes = [unfinished] * bool(estimate["unfinished"]) + ["with warnings"] * bool(estimate["warnings"])
    return f"{label} {estimate['psnr']:.2f} dB" + (f" ({', '.join(notes)})" if notes else "")
