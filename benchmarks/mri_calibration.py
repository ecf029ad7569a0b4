r"""Coverage of posterior intervals in MRI: whether they hold the truth as often as they say.

    python benchmarks/mri_calibration.py           # 12 slices of the held-out subject
    python benchmarks/mri_calibration.py --quick   # two slices, to see that it works

For the z of the joint maximum, x given z and y is Gaussian with precision AᵀA / σ² + Λ(z), with Λ that of an
isotropic, a diagonal or a SUPN decoder, and is sampled exactly. Central intervals for a pixel should hold the true
grey value in 50, 80 and 95 % of the cases; likewise those of means over 4 x 4 and 16 x 16 pixels, which depend on the
correlations. The uncertainty of z is not in these intervals, and the slices are those of a subject, and a scanner, that
no model has seen.

Slices and data are those of ``mri_spokes.py``. Counted is the inside of the head, since the background is dark in all
images. The table goes to docs/mri_calibration.md, the numbers to docs/mri_calibration.json, the figure to
docs/mri_calibration.png.

References
----------
M. Duff, I. J. A. Simpson, M. J. Ehrhardt, N. D. F. Campbell (2023), VAEs with structured image covariance applied to
compressed sensing MRI, Phys. Med. Biol. 68, arXiv:2210.14586.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from _coverage import CURVE, LEVELS, Calibration, calibration, coverage_panel, head
from _mri import Measured, Setting, generator, measure, test_slices
from _mri_generative import Joint
from _study import arguments, figure, folder, markdown, picture, plus_minus, save, skipped_without_data, write
from torch import Tensor

BLOCKS = (1, 4, 16)
SETTINGS = (Setting(10, 0.0125), Setting(30, 0.0125), Setting(30, 0.05))
COLOURS = {"isotropic": "#38a169", "diagonal": "#d69e2e", "SUPN": "#c53030"}


class Posterior(NamedTuple):
    """Mean ``(B, n, m)`` and draws ``(S, B, n, m)`` of a posterior."""

    mean: Tensor
    samples: Tensor


Sampler = Callable[[Measured], Posterior]


class Row(NamedTuple):
    """One posterior for one setting."""

    blocks: Mapping[int, Calibration]
    posterior: Posterior


def assess(posterior: Posterior, truth: Tensor) -> Row:
    """Compare a posterior with the truth, for blocks of all sizes."""
    inside = head(truth)
    levels = (*LEVELS, *CURVE)
    blocks = {
        size: calibration(truth, posterior.mean, posterior.samples, levels, block=size, inside=inside)
        for size in BLOCKS
    }
    return Row(blocks, posterior)


def table(rows: Mapping[Setting, Mapping[str, Row]]) -> str:
    """Coverage in per cent, mean ± standard deviation over the slices."""
    parts = []
    for setting, of in rows.items():
        lines = []
        for size in BLOCKS:
            for name, row in of.items():
                found = row.blocks[size]
                levels = found.coverage.T[: len(LEVELS)]
                cells = [plus_minus(100 * c, 1, spread=True) for c in levels]
                score = found.score.square().mean().sqrt()
                lines.append([f"{name}, {label(size)}", *cells, f"{found.std.mean():.4f}", f"{score:.2f}"])
        head = ("", *(f"{100 * p:.0f} %" for p in LEVELS), "mean s", "rms (truth - mean) / s")
        parts.append(markdown(head, lines, f"**{setting}**"))
    return "\n\n".join(parts) + "\n"


def label(size: int) -> str:
    """What is in the intervals."""
    return "pixels" if size == 1 else f"means over {size} x {size}"


def draw(rows: Mapping[Setting, Mapping[str, Row]], truth: Tensor, index: int, path: Path) -> None:
    """Draw coverage against the nominal probability, and errors beside standard deviations of one slice."""
    whole = figure(12, 3.7 * len(rows))
    parts = whole.subfigures(len(rows), 1, squeeze=False)[:, 0]
    for part, (setting, of) in zip(parts, rows.items(), strict=True):
        part.suptitle(str(setting), fontsize=10)
        left, right = part.subfigures(1, 2, width_ratios=(3, 2.2))
        panels = left.subplots(1, len(BLOCKS), sharey=True)
        for ax, size in zip(panels, BLOCKS, strict=True):
            coverage_panel(ax, label(size))
            for name, row in of.items():
                share = row.blocks[size].coverage[:, len(LEVELS) :]
                low, middle, high = share.quantile(share.new_tensor([0.1, 0.5, 0.9]), dim=0).numpy()
                ax.plot(CURVE, middle, color=COLOURS.get(name), label=name)
                ax.fill_between(CURVE, low, high, color=COLOURS.get(name), alpha=0.15, linewidth=0)
        panels[0].set_ylabel("share of truths in the interval", fontsize=8)
        panels[0].legend(fontsize=7, frameon=False)
        pictures = right.subplots(2, len(of), squeeze=False)
        posteriors = [row.posterior for row in of.values()]
        errors = [(mean[index] - truth[index]).abs() for mean, _ in posteriors]
        spreads = [(draws[:, index] - mean[index]).square().mean(0).sqrt() for mean, draws in posteriors]
        top = float(torch.stack(errors).quantile(0.99))
        for column, name in enumerate(of):
            picture(pictures[0, column], errors[column], name, cmap="inferno", vmax=top)
            picture(pictures[1, column], spreads[column], cmap="inferno", vmax=top)
        for row, text in zip(pictures, ("|error|", "standard deviation"), strict=True):
            row[0].set_ylabel(f"{text}, 0 to {top:.2f}", fontsize=7)
    save(whole, path, 80)


def numbers(rows: Mapping[Setting, Mapping[str, Row]]) -> list[dict]:
    """What the table says, as JSON takes it."""
    return [
        {
            "spokes": setting.spokes,
            "noise_std": setting.noise_std,
            "prior": name,
            "block": size,
            "coverage": {
                str(p): round(float(c), 4) for p, c in zip(LEVELS, found.coverage.mean(0), strict=False)
            },
            "std": round(float(found.std.mean()), 5),
            "score": round(float(found.score.square().mean().sqrt()), 3),
        }
        for setting, of in rows.items()
        for name, row in of.items()
        for size, found in row.blocks.items()
    ]


def study(
    samplers: Mapping[str, Sampler], truth: Tensor, settings: tuple[Setting, ...]
) -> dict[Setting, dict[str, Row]]:
    """Assess all posteriors for all settings."""
    rows: dict[Setting, dict[str, Row]] = {}
    for setting in settings:
        data = measure(truth, setting, seed=2)
        rows[setting] = {}
        for name, sampler in samplers.items():
            began = time.perf_counter()
            rows[setting][name] = assess(sampler(data), truth)
            print(f"{name}, {setting}: {time.perf_counter() - began:.0f} s", flush=True)
    return rows


def report(rows: Mapping[Setting, Mapping[str, Row]], truth: Tensor, out: Path) -> None:
    """Write table, numbers and figure."""
    text = table(rows)
    print(text)
    write(out / "mri_calibration.md", text)
    write(out / "mri_calibration.json", numbers(rows))
    draw(rows, truth, len(truth) // 3, out / "mri_calibration.png")


def sampler(name: str, model: str, draws: int, **settings: int) -> Sampler:
    """Draws of x given y and the z of the joint maximum, with the model of that name."""
    joint = Joint(generator(model), name, **settings)

    def sample(data: Measured) -> Posterior:
        posterior = joint.posterior(data)
        return Posterior(posterior.mean, posterior.sample(draws, 0))

    return sample


@skipped_without_data
def main() -> None:
    options = arguments(__doc__, threads=2, output=True)
    count, draws, settings, limits = (
        (2, 4, SETTINGS[:1], {"max_iter": 1}) if options.quick else (12, 40, SETTINGS, {})
    )
    truth = test_slices(count)
    models = {"isotropic": "brain-vae", "diagonal": "brain-diagonal", "SUPN": "brain-supn"}
    samplers = {name: sampler(name, model, draws, **limits) for name, model in models.items()}
    rows = study(samplers, truth, settings)
    report(rows, truth, folder(options))


if __name__ == "__main__":
    main()
