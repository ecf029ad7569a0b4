"""What the benchmarks of adaptive measurements share: errors by round, tables, curves and pictures."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from genreg import sampling

__all__ = ["Course", "computed", "count_stopped", "draw_curves", "numbers", "table"]

COLOURS = {
    "variance": "#D55E00",
    "information gain": "#0072B2",
    "epsilon-greedy": "#009E73",
    "equispaced": "#CC79A7",
    "random": "#555555",
}


@dataclass(frozen=True)
class Course:
    """How the error fell with the measurements that one policy chose.

    Attributes
    ----------
    chosen : Tensor
        Groups measured, ``(B, rounds, k)``.
    error : Tensor
        Mean squared error of the posterior mean before the first round and after each, ``(B, rounds + 1)``.
    variance : Tensor
        Posterior variance of a pixel, mean over the image, likewise.
    mean : Tensor
        Posterior means of the first images, ``(n, rounds + 1, *X.shape)``.
    seconds : float
        Processor time.
    stopped : int
        Chains that diverged or stuck, of all images and rounds.
    """

    chosen: Tensor
    error: Tensor
    variance: Tensor
    mean: Tensor
    seconds: float
    stopped: int

    @property
    def psnr(self) -> Tensor:
        """In dB for the range [0, 1]."""
        return -10 * self.error.log10()


def count_stopped(status: Tensor) -> int:
    """Chains that did not take all their steps as they should."""
    return int((status != sampling.ChainStatus.COMPLETED).sum())


def computed(make: Callable[[], Course], file: Path, settings: Mapping[str, Any], fresh: bool) -> Course:
    """A course, from its file where it is there with the same settings."""
    if file.is_file() and not fresh:
        kept = torch.load(file, weights_only=True)
        if kept.pop("settings") == dict(settings):
            return Course(**kept)
    began = time.process_time()
    course = make()
    course = Course(**{**vars(course), "seconds": time.process_time() - began})
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.save({**vars(course), "settings": dict(settings)}, file)
    return course


def _mean(values: Tensor) -> dict[str, list[float]]:
    """Mean over the images and its standard error, for every round."""
    return {
        "mean": values.mean(0).tolist(),
        "standard_error": (values.std(0) / len(values) ** 0.5).tolist(),
    }


def numbers(courses: Mapping[str, Course], against: tuple[str, ...]) -> dict[str, Any]:
    """All numbers of the courses, JSON-able; differences are paired, image by image."""
    out: dict[str, Any] = {}
    for name, course in courses.items():
        out[name] = {
            "mse": _mean(course.error),
            "psnr": _mean(course.psnr),
            "posterior_variance": course.variance.mean(0).tolist(),
            "seconds": round(course.seconds, 1),
            "stopped_chains": course.stopped,
        }
        for other in against:
            if other in courses and other != name:
                out[name][f"mse_minus_{other}"] = _mean(course.error - courses[other].error)
    return out


def table(title: str, courses: Mapping[str, Course], rounds: tuple[int, ...], unit: str, k: int) -> str:
    """Errors after some rounds, and where each policy is below random and equispaced choices."""
    heads = "".join(f" {k * r} {unit} |" for r in rounds)
    lines = [f"| {title} |{heads}", "|---|" + "---|" * len(rounds)]
    for name, course in courses.items():
        root = len(course.error) ** 0.5
        cells = "".join(
            f" {1e3 * course.error[:, r].mean():.2f} ± {1e3 * course.error[:, r].std() / root:.2f}"
            f" ({course.psnr[:, r].mean():.2f}) |"
            for r in rounds
        )
        lines.append(f"| {name} |{cells}")
    for name, course in courses.items():
        for other in ("random", "equispaced"):
            if name in ("random", other) or other not in courses:
                continue
            difference = 1e3 * (course.error - courses[other].error)
            mean, error = difference.mean(0), difference.std(0) / len(difference) ** 0.5
            above = (mean[1:] >= 0).nonzero().flatten().tolist()
            where = "in every round" if not above else f"in all rounds but {[r + 1 for r in above]}"
            at = ", ".join(f"{mean[r]:.2f} ± {error[r]:.2f}" for r in rounds)
            lines.append(f"{name} minus {other}, paired × 1000: {at}; below it {where}")
    stopped = ", ".join(
        f"{name} {course.stopped} ({course.seconds:.0f} s)" for name, course in courses.items()
    )
    lines.append(f"stopped chains and processor time: {stopped}")
    return "\n".join(lines)


def draw_curves(
    panels: Mapping[str, Mapping[str, Course]],
    k: int,
    label: str,
    rows: Sequence[tuple[str, Callable[[Any], None]]],
    file: Path,
) -> None:
    """Draw errors by number of measurements, mean ± standard error, above rows of pictures.

    Parameters
    ----------
    panels : dict of str to dict of str to Course
        A plot each.
    k : int
        Measurements in a round.
    label : str
        What is measured.
    rows : sequence of tuple of str and callable
        A row of pictures each: its title, and what draws it into the subfigure given.
    file : Path
        Where the picture goes.
    """
    import matplotlib.pyplot as plt
    from matplotlib.ticker import MaxNLocator

    figure = plt.figure(figsize=(9.6, 3.6 + 1.35 * len(rows)), layout="constrained")
    top, *bottom = figure.subfigures(1 + len(rows), 1, height_ratios=[3.6, *[1.35] * len(rows)])
    axes = top.subplots(1, len(panels), squeeze=False)[0]
    for ax, (title, courses) in zip(axes, panels.items(), strict=True):
        for name, course in courses.items():
            at = k * torch.arange(course.error.shape[1])
            mean, error = course.error.mean(0), course.error.std(0) / len(course.error) ** 0.5
            ax.plot(at, mean, "o-", markersize=2.5, linewidth=1.4, color=COLOURS[name], label=name)
            ax.fill_between(at, mean - error, mean + error, color=COLOURS[name], alpha=0.2, linewidth=0)
        ax.set_yscale("log")
        ax.set_title(title, fontsize=10)
        ax.set_xlabel(label)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 3, 5, 10]))
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(alpha=0.25, which="both")
    axes[0].set_ylabel("mean squared error ± standard error")
    axes[-1].legend(fontsize=8, frameon=False)
    for part, (title, draw) in zip(bottom, rows, strict=True):
        if title:
            part.suptitle(title, fontsize=9, x=0.01, ha="left")
        draw(part)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=120)
    plt.close(figure)
