r"""An ensemble of networks distilled into one that predicts a structured Gaussian, for limited-angle tomography.

    python benchmarks/ensemble_distillation.py           # eight minutes on one core
    python benchmarks/ensemble_distillation.py --quick   # small and short, to see that it works

As Simpson, Vicente and Campbell (arXiv:2203.15485) do for depth images. The task: images of 56 x 56 with a disc, a
rectangle and a bright spot from 15 noisy views within 60 degrees. Each member of the ensemble is a small U-Net from
Tikhonov's reconstruction to the image, trained on its own bootstrap sample of 200 pairs. Two networks of the same size
are fitted by maximum likelihood to what the members make of 1,000 other reconstructions, in log-odds: one with a
diagonal precision, one with a sparse Cholesky factor. On reconstructions that no network has seen:

* RMSE of the predicted image, and the root mean square of its predicted standard deviation;
* AUSE and AURG with RMSE, in 2 % steps, in 1000ths of the grey range, and AUSE relative to the RMSE of the image: does
  the standard deviation find the errors?
* log-likelihoods in nats per image: of the members' outputs, and of the true image. The latter is no draw of the
  ensemble, whose outputs are smooth where it has edges: a structured Gaussian that knows this finds it improbable;
* filled in: given 5 % of the pixels of one member's output, the RMSE with which the others are predicted.

The first row takes mean and variance from the members' outputs themselves, pixel by pixel; its likelihood of these
is in sample. The picture goes to docs/ensemble_distillation.png (build/ if quick); trained networks are kept in
build/ensemble/ and not trained again. The paper reports for depth an AUSE of
1.56 for the structured Gaussian against 5.08 for the diagonal one, and log-likelihoods of 40.6e5 against 1.8e5.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import odl
import torch
from _ensemble import LINK, Sizes, Task, distilled, ensemble, outputs_of, pairs
from _study import arguments, figure, folder, picture, plus_minus, save
from torch import Tensor

from genreg.evaluation import Sparsification, image_moments, log_likelihood, sparsification
from genreg.operators import DiagonalPrecision, Precision, condition, correlation_image

QUICK = Sizes(members=2, training=40, distillation=40, test=6, member_steps=6, steps=8, mean_steps=3)


@dataclass(frozen=True)
class Result:
    """The distribution that a method predicts for every test image, and how good it is."""

    mean: Tensor  # of the log-odds, (N, 56, 56)
    precision: Precision
    image: Tensor  # mean image
    std: Tensor
    curves: Sparsification
    members: Tensor  # log-likelihood of a member's output, (N,)
    truth: Tensor  # log-likelihood of the true image, (N,)
    filled: float

    @classmethod
    @torch.no_grad()
    def of(cls, mean: Tensor, precision: Precision, outputs: Tensor, truth: Tensor) -> "Result":
        """Measure a prediction."""
        image, std = image_moments(mean, precision, link=LINK)
        known = torch.rand(56, 56, generator=torch.Generator().manual_seed(0)) < 0.05
        filled = condition(precision, mean, known, LINK.forward(outputs[:, 0])).mean
        error = (LINK.inverse(filled) - outputs[:, 0])[:, ~known]
        return cls(
            mean=mean,
            precision=precision,
            image=image,
            std=std,
            curves=sparsification(image - truth, std),
            members=log_likelihood(outputs.transpose(0, 1), mean, precision, link=LINK).mean(0),
            truth=log_likelihood(truth, mean, precision, link=LINK),
            filled=error.square().mean().sqrt().item(),
        )


def of_members(outputs: Tensor, truth: Tensor) -> Result:
    """The Gaussian with the members' mean and variance."""
    v = LINK.forward(outputs)
    space = odl.rn((56, 56), dtype="float32")
    return Result.of(v.mean(1), DiagonalPrecision(space, -v.var(1).clamp_min(1e-8).log()), outputs, truth)


def number(t: Tensor, scale: float = 1.0) -> str:
    """Mean over images with its standard error."""
    return plus_minus(scale * t, 0 if abs(float(scale * t.mean())) >= 1000 else 3)


def print_table(results: dict[str, Result], truth: Tensor) -> None:
    columns = ("RMSE", "std", "AUSE", "AUSE / RMSE", "AURG", "LL of members", "LL of truth", "filled in")
    print(f"{'':<18}" + "".join(f"{c:>18}" for c in columns))
    for name, r in results.items():
        rmse, std = ((t.square().mean().sqrt().item()) for t in (r.image - truth, r.std))
        cells = (
            *(f"{rmse:.4f}", f"{std:.4f}"),
            *(number(r.curves.ause, 1000), number(r.curves.ause / r.curves.random)),
            *(number(r.curves.aurg, 1000), number(r.members), number(r.truth), f"{r.filled:.4f}"),
        )
        print(f"{name:<18}" + "".join(f"{c:>18}" for c in cells))


def draw(results: dict[str, Result], inputs: Tensor, truth: Tensor, outputs: Tensor, file: Path) -> None:
    """Draw inputs, members, draws and standard deviations of some test images, curves, and a correlation image."""
    count = min(3, len(inputs))
    structured, diagonal, own = results["SUPN, d = 2"], results["diagonal"], results["ensemble, by pixel"]
    draws = {
        name: LINK.inverse(r.mean[:count] + r.precision.take(slice(count)).sample(2, 1).detach())
        for name, r in (("SUPN", structured), ("diagonal", diagonal))
    }
    grey: dict[str, Any] = {}
    heat = {"cmap": "magma", "vmin": 0, "vmax": float(structured.std[:count].max())}
    columns = [
        ("Tikhonov", inputs, grey),
        ("truth", truth, grey),
        *((f"member {k + 1}", outputs[:, k], grey) for k in range(2)),
        ("SUPN, mean", structured.image, grey),
        *(("SUPN, draw", draws["SUPN"][k], grey) for k in range(2)),
        *(("diagonal, draw", draws["diagonal"][k], grey) for k in range(2)),
        *(
            (f"std, {name}", r.std, heat)
            for name, r in (("members", own), ("SUPN", structured), ("diagonal", diagonal))
        ),
        ("|error| of SUPN", (structured.image - truth).abs(), {**heat, "vmax": 0.5}),
    ]
    whole = figure(1.12 * len(columns), 1.2 * count + 3.3)
    top, bottom = whole.subfigures(2, 1, height_ratios=[1.2 * count, 3.3])
    for line, axes in enumerate(top.subplots(count, len(columns), squeeze=False)):
        for ax, (label, images, style) in zip(axes, columns, strict=True):
            picture(ax, images[line], "" if line else label, size=7.5, interpolation="nearest", **style)
    left, *right = bottom.subplots(1, 4, width_ratios=[1.7, 1, 1, 1])
    for name, colour in zip(results, ("#718096", "#d9822b", "#2b6cb0"), strict=True):
        r = results[name].curves
        left.plot(100 * r.fraction, r.error.mean(0), color=colour, label=name)
        left.plot(100 * r.fraction, r.oracle.mean(0), color=colour, linewidth=0.8, linestyle=":")
    left.axhline(
        structured.curves.random.mean(), color="black", linewidth=0.8, linestyle="--", label="random"
    )
    left.set_xlabel("pixels removed [%]", fontsize=8)
    left.set_ylabel("RMSE of the others", fontsize=8)
    left.set_title("Sparsification (dotted: by the true errors)", fontsize=8.5)
    left.legend(fontsize=7.5, loc="upper right", bbox_to_anchor=(1, 0.85), framealpha=1)
    left.tick_params(labelsize=7)
    left.spines[["top", "right"]].set_visible(False)
    for k, ax in enumerate(right[:count]):
        pixel = divmod(int(structured.std[k].argmax()), 56)
        shown = correlation_image(structured.precision.take(k), pixel)
        style = {"cmap": "RdBu_r", "vmin": -1, "interpolation": "nearest"}
        picture(ax, shown, "SUPN: correlations of a pixel", **style)
    save(whole, file, 130)


def main() -> None:
    options = arguments(__doc__, output=True)
    sizes = QUICK if options.quick else Sizes()
    cache = Path("build/ensemble-quick" if options.quick else "build/ensemble")
    if options.quick:
        shutil.rmtree(cache, ignore_errors=True)
    task = Task()
    members = ensemble(sizes, *pairs(task, sizes.training, 1, cache), cache)
    unlabelled = pairs(task, sizes.distillation, 2, cache)[0]
    told = outputs_of(members, unlabelled)
    inputs, truth = pairs(task, sizes.test, 3, cache)
    outputs = outputs_of(members, inputs)

    results = {"ensemble, by pixel": of_members(outputs, truth)}
    for name, distance in (("diagonal", 0), ("SUPN, d = 2", 2)):
        model = distilled(distance, sizes, unlabelled, told, cache)
        with torch.no_grad():
            results[name] = Result.of(*model.predict(inputs), outputs, truth)
    rmse = (outputs - truth[:, None]).square().mean((0, 2, 3)).sqrt()
    print(
        f"{sizes.members} members with RMSE {rmse.min():.4f} to {rmse.max():.4f} on {sizes.test} images "
        f"(Tikhonov {(inputs - truth).square().mean().sqrt():.4f})"
    )
    print_table(results, truth)
    gain = results["SUPN, d = 2"].members - results["diagonal"].members
    print(
        f"SUPN over diagonal, log-likelihood of a member's output: {number(gain)} nats per image, "
        f"more likely in {100 * (gain > 0).float().mean():.0f} % of the images"
    )
    draw(results, inputs, truth, outputs, folder(options) / "ensemble_distillation.png")


if __name__ == "__main__":
    main()
