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

import argparse
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from _coverage import Calibration, calibration, head
from _mri import Measured, Setting, measure, space, test_slices
from _mri_generative import Joint
from torch import Tensor

import genreg

LEVELS = (0.5, 0.8, 0.95)
CURVE = tuple(k / 20 for k in range(1, 20))
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
        lines = [
            f"**{setting}**",
            "",
            "| | " + " | ".join(f"{100 * p:.0f} %" for p in LEVELS) + " | mean s | rms (truth - mean) / s |",
            "|---" * (len(LEVELS) + 3) + "|",
        ]
        for size in BLOCKS:
            what = "pixels" if size == 1 else f"means over {size} x {size}"
            for name, row in of.items():
                found = row.blocks[size]
                cells = [
                    f"{100 * c.mean():.1f} ± {100 * c.std():.1f}" for c in found.coverage.T[: len(LEVELS)]
                ]
                score = found.score.square().mean().sqrt()
                lines.append(
                    f"| {name}, {what} | " + " | ".join(cells) + f" | {found.std.mean():.4f} | {score:.2f} |"
                )
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def draw(rows: Mapping[Setting, Mapping[str, Row]], truth: Tensor, index: int, path: Path) -> None:
    """Draw coverage against the nominal probability, and errors beside standard deviations of one slice."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 3.7 * len(rows)), layout="constrained")
    for part, (setting, of) in zip(
        figure.subfigures(len(rows), 1, squeeze=False)[:, 0], rows.items(), strict=True
    ):
        part.suptitle(str(setting), fontsize=10)
        left, right = part.subfigures(1, 2, width_ratios=(3, 2.2))
        panels = left.subplots(1, len(BLOCKS), sharey=True)
        for ax, size in zip(panels, BLOCKS, strict=True):
            ax.plot((0, 1), (0, 1), color="#a0aec0", linewidth=0.8)
            for name, row in of.items():
                share = row.blocks[size].coverage[:, len(LEVELS) :]
                low, middle, high = share.quantile(share.new_tensor([0.1, 0.5, 0.9]), dim=0).numpy()
                ax.plot(CURVE, middle, color=COLOURS.get(name), label=name)
                ax.fill_between(CURVE, low, high, color=COLOURS.get(name), alpha=0.15, linewidth=0)
            ax.set_title("pixels" if size == 1 else f"means over {size} x {size}", fontsize=9)
            ax.set(
                xlim=(0, 1),
                ylim=(0, 1),
                aspect="equal",
                xticks=(0, 0.5, 0.8, 0.95),
                yticks=(0, 0.5, 0.8, 0.95),
            )
            ax.tick_params(labelsize=7)
            ax.set_xlabel("nominal", fontsize=8)
            ax.grid(alpha=0.25, linewidth=0.5)
        panels[0].set_ylabel("share of truths in the interval", fontsize=8)
        panels[0].legend(fontsize=7, frameon=False)
        pictures = right.subplots(2, len(of), squeeze=False)
        errors = [(row.posterior.mean[index] - truth[index]).abs() for row in of.values()]
        spreads = [
            (row.posterior.samples[:, index] - row.posterior.mean[index]).square().mean(0).sqrt()
            for row in of.values()
        ]
        top = float(torch.stack(errors).quantile(0.99))
        for column, name in enumerate(of):
            pictures[0, column].imshow(errors[column].numpy(), cmap="inferno", vmin=0, vmax=top)
            pictures[1, column].imshow(spreads[column].numpy(), cmap="inferno", vmin=0, vmax=top)
            pictures[0, column].set_title(name, fontsize=8)
        for row, text in zip(pictures, ("|error|", "standard deviation"), strict=True):
            row[0].set_ylabel(f"{text}, 0 to {top:.2f}", fontsize=7)
        for ax in pictures.flat:
            ax.set(xticks=[], yticks=[])
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=80)


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


def write(rows: Mapping[Setting, Mapping[str, Row]], truth: Tensor, out: Path) -> None:
    """Write table, numbers and figure."""
    out.mkdir(parents=True, exist_ok=True)
    text = table(rows)
    print(text)
    (out / "mri_calibration.md").write_text(text, encoding="utf-8")
    (out / "mri_calibration.json").write_text(json.dumps(numbers(rows), indent=1) + "\n", encoding="utf-8")
    draw(rows, truth, len(truth) // 3, out / "mri_calibration.png")


def sampler(name: str, model: str, draws: int, **settings: int) -> Sampler:
    """Draws of x given y and the z of the joint maximum, with the model of that name."""
    joint = Joint(genreg.load_generator(model, range=space(128, 128)), name, **settings)

    def sample(data: Measured) -> Posterior:
        posterior = joint.posterior(data)
        return Posterior(posterior.mean, posterior.sample(draws, 0))

    return sample


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    count, draws, settings, limits = (
        (2, 4, SETTINGS[:1], {"max_iter": 1}) if options.quick else (12, 40, SETTINGS, {})
    )
    try:
        truth = test_slices(count)
    except FileNotFoundError as error:
        print(f"skipped: {error}")
        return
    models = {"isotropic": "brain-vae", "diagonal": "brain-diagonal", "SUPN": "brain-supn"}
    samplers = {name: sampler(name, model, draws, **limits) for name, model in models.items()}
    rows = study(samplers, truth, settings)
    write(rows, truth, Path("build/mri/quick" if options.quick else "docs"))


if __name__ == "__main__":
    main()
