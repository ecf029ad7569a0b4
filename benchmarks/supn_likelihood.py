r"""Held-out likelihood of structured, diagonal and isotropic precisions, with the same encoder and mean.

    python benchmarks/supn_likelihood.py           # a minute on one core; draws docs/supn_{samples,correlations}.png
    python benchmarks/supn_likelihood.py --quick   # a few images, draws into build/

Every model says x | z ~ N(G(z), Λ(z)^-1). Within a data set G and the encoder are the same arrays (checked), and Λ is
1/γ² (the best γ for the images of the head's training), diag(λ(z)), or L(z) L(z)' with a sparse L. "nats" is
log N(x; G(z), Λ(z)^-1) per pixel at the mean z of q(z | x), "drawn" that at a draw, "ELBO" is a lower bound on log p(x)
per pixel, with its standard error over images. "whitened" is the mean of (L'(x - G(z)))², 1 where the precision is
calibrated. "oracle" is the isotropic precision with the γ that is best for the images it is measured on.

The first figure shows images, their means and samples of p(x | z), in the manner of Dorta et al. (2018),
arXiv:1802.07079; the second the correlations of some pixels with the pixels around them.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from _digits import digits
from _study import arguments, figure, folder, picture, save, skipped_without_data
from torch import Tensor

from genreg import weights
from genreg.datasets import brain_slices
from genreg.networks import Autoencoder
from genreg.operators import correlation_image
from genreg.recipes.brain import test_images, validation_images
from genreg.training import fit_gamma, log_likelihoods, precision_of

KINDS = ("isotropic", "diagonal", "SUPN")
SLICES = (60, 84, 104, 150)  # of the child, from the top of the head down, for the figures
PIXELS = ((64, 64), (30, 50), (75, 40), (100, 75))


@dataclass(frozen=True)
class Case:
    """A data set with its three models."""

    title: str
    names: tuple[str, str, str]
    images: Callable[[], Tensor]


CASES = (
    Case("MNIST, test set", ("mnist-vae", "mnist-diagonal", "mnist-supn"), lambda: digits(10000)),
    Case(
        "brain, slabs of the adult that no training saw",
        ("brain-vae", "brain-diagonal", "brain-supn"),
        validation_images,
    ),
    Case("brain, the child", ("brain-vae", "brain-diagonal", "brain-supn"), test_images),
)


def loaded(names: tuple[str, ...]) -> list[Autoencoder]:
    """The models, of which encoder and mean decoder are the same."""
    models: list[Any] = [weights.load(name)[0] for name in names]
    for model in models[1:]:
        for part in ("encoder", "decoder"):
            one, other = (getattr(m, part).state_dict() for m in (models[0], model))
            assert all(torch.equal(one[key], other[key]) for key in one), "the means are not the same"
    return models


def row(label: str, model: Autoencoder, x: Tensor) -> Tensor:
    """Print the likelihood of images; return it for each image in nats per pixel."""
    size = x[0].numel()
    at_mean, drawn = log_likelihoods(model, x), log_likelihoods(model, x, sampled=True)
    nats = at_mean["log_likelihood"] / size
    elbo = (drawn["log_likelihood"] - drawn["kl"]) / size
    error = elbo.std() / len(x) ** 0.5 if len(x) > 1 else torch.tensor(0.0)
    print(
        f"{label:>12}  {nats.mean():8.4f}  {drawn['log_likelihood'].mean() / size:8.4f}  {elbo.mean():8.4f}"
        f"  {error:8.4f}  {at_mean['whitened'].mean():8.3f}"
    )
    return elbo


def table(case: Case, limit: int | None) -> None:
    """Print the table of a data set, and by how much each precision beats the one before."""
    x = case.images()[:limit]
    print(f"\n{case.title}, {len(x)} images")
    print(f"{'':>12}  {'nats':>8}  {'drawn':>8}  {'ELBO':>8}  {'s.e.':>8}  {'whitened':>8}")
    models = loaded(case.names)
    elbos = [row(kind, model, x) for kind, model in zip(KINDS, models, strict=True)]
    oracle = copy.deepcopy(models[0])
    fit_gamma(oracle, x)
    row("oracle", oracle, x)
    for kind, before, one, other in zip(KINDS[1:], KINDS, elbos[1:], elbos, strict=False):
        gain = one - other
        print(
            f"{kind} over {before}: {gain.mean():.4f} nats per pixel, on {(gain > 0).double().mean():.1%} of the images"
        )


def samples(x: Tensor, models: list[Autoencoder], seed: int) -> list[Tensor]:
    """Images, means, and one sample of every precision."""
    with torch.no_grad():
        mean = models[0].decode(models[0].encode(x))
        drawn = []
        for model in models:
            precision = precision_of(model, mean)
            random = torch.Generator().manual_seed(seed)
            batched = bool(precision.batch)  # the isotropic one is the same for all images
            noise = precision.sample(1, random)[0] if batched else precision.sample(len(x), random)
            drawn.append(mean + noise)
    return [x, mean, *drawn]


def draw_samples(file: Path, dpi: int) -> None:
    """Draw images, means and samples of digits and of the child's slices."""
    images, subjects = brain_slices()
    child = images[subjects == 2]
    blocks = [
        samples(child[list(SLICES)], loaded(CASES[2].names), seed=0),
        samples(digits(len(SLICES)), loaded(CASES[0].names), seed=0),
    ]
    titles = ["image", "mean G(z)", "isotropic", "diagonal", "SUPN"]
    whole = figure(15, 1.58 * len(SLICES))
    axes = whole.subplots(len(SLICES), 10)
    for block, columns in enumerate(blocks):
        for j, (title, column) in enumerate(zip(titles, columns, strict=True)):
            for i, image in enumerate(column):
                picture(axes[i, 5 * block + j], image, "" if i else title, size=10)
    save(whole, file, dpi)


def draw_correlations(file: Path, dpi: int, reach: int = 10) -> None:
    """Draw the correlations of some pixels of one of the child's slices."""
    images, subjects = brain_slices()
    x = images[subjects == 2][SLICES[2]][None]
    model = loaded(CASES[2].names)[2]
    with torch.no_grad():
        mean = model.decode(model.encode(x))
        precision = precision_of(model, mean).take(0)
        whole = figure(15, 2.9)
        axes = whole.subplots(1, 2 + len(PIXELS))
        picture(axes[0], x[0], "image", size=10)
        picture(axes[1], mean[0], "mean", size=10)
        for k, (i, j) in enumerate(PIXELS):
            for axis in axes[:2]:
                axis.plot(j, i, "o", mfc="none", mec="#d9822b")
                axis.annotate(str(k + 1), (j + 3, i), color="#d9822b", fontsize=8)
            correlation = correlation_image(precision, (i, j))
            part = correlation[i - reach : i + reach + 1, j - reach : j + reach + 1]
            extent = (j - reach - 0.5, j + reach + 0.5, i + reach + 0.5, i - reach - 0.5)
            style = {"cmap": "RdBu_r", "vmin": -1, "extent": extent}
            shown = picture(axes[2 + k], part, f"correlation with {k + 1}", size=10, **style)
    whole.colorbar(shown, ax=axes[-1], fraction=0.05)
    save(whole, file, dpi)


@skipped_without_data
def main() -> None:
    options = arguments(__doc__, output=True)
    for case in CASES:
        table(case, 5 if options.quick else None)
    out, dpi = folder(options), 20 if options.quick else 130
    draw_samples(out / "supn_samples.png", dpi)
    draw_correlations(out / "supn_correlations.png", dpi)


if __name__ == "__main__":
    main()
