"""What the benchmarks of adaptive measurements share: errors by round, tables, curves and pictures."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from _study import arguments, figure, kept, light, markdown, mean_and_error, picture, plus_minus, save
from torch import Tensor

import genreg
from genreg import adaptive, sampling

__all__ = [
    "Course",
    "adapted",
    "computed",
    "count_stopped",
    "draw_curves",
    "numbers",
    "read",
    "rows_of",
    "table",
]

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
    stopped : int
        Chains that diverged or stuck, of all images and rounds.
    seconds : float
        Processor time.
    """

    chosen: Tensor
    error: Tensor
    variance: Tensor
    mean: Tensor
    stopped: int
    seconds: float = 0.0

    @property
    def psnr(self) -> Tensor:
        """In dB for the range [0, 1]."""
        return -10 * self.error.log10()


def read(
    doc: str | None, policies: Sequence[str], more: Mapping[str, Mapping[str, Any]] | None = None
) -> argparse.Namespace:
    """The command line of a benchmark of these policies."""
    some = {"nargs": "+", "choices": list(policies), "default": list(policies), "help": "only these"}
    fresh = {"action": "store_true", "help": "compute again what is kept in build/"}
    return arguments(doc, {"--policies": some, "--fresh": fresh, **(more or {})}, output=True)


def count_stopped(status: Tensor) -> int:
    """Chains that did not take all their steps as they should."""
    return int((status != sampling.ChainStatus.COMPLETED).sum())


def adapted(
    problem: adaptive.Candidates,
    policy: adaptive.Policy,
    effort: Any,
    G: genreg.Generator,
    x: Tensor,
    *,
    restart: str,
    shown: int,
) -> Course:
    """Measure what a policy chooses of images ``(B, n, m)``."""
    found = adaptive.adaptive_measurements(
        problem,
        policy,
        effort.rounds,
        effort.k,
        G=G,
        kernel=sampling.MALA(),
        chains=effort.chains,
        steps=effort.steps,
        restart=restart,
        seed=effort.seed,
        progress=False,
    )
    variance = found.std.square().flatten(2).mean(2)
    return Course(found.chosen, found.error(x), variance, found.mean[:shown], count_stopped(found.status))


def computed(make: Callable[[], Course], file: Path, settings: Mapping[str, Any], fresh: bool) -> Course:
    """A course, from its file where it is there with the same settings."""

    def compute() -> dict[str, Any]:
        began = time.process_time()
        course = make()
        return {**vars(course), "seconds": time.process_time() - began}

    return Course(**kept(file, settings, compute, fresh=fresh))


def _json(values: Tensor) -> dict[str, list[float]]:
    mean, error = mean_and_error(values)
    return {"mean": mean.tolist(), "standard_error": error.tolist()}


def numbers(effort: Any, courses: Mapping[str, Course], against: Sequence[str]) -> dict[str, Any]:
    """All numbers of the courses, JSON-able; differences are paired, image by image."""
    out: dict[str, Any] = {}
    for name, course in courses.items():
        out[name] = {
            "mse": _json(course.error),
            "psnr": _json(course.psnr),
            "posterior_variance": course.variance.mean(0).tolist(),
            "seconds": round(course.seconds, 1),
            "stopped_chains": course.stopped,
        }
        for other in against:
            if other in courses and other != name:
                out[name][f"mse_minus_{other}"] = _json(course.error - courses[other].error)
    return {"effort": asdict(effort), "policies": out}


def table(title: str, courses: Mapping[str, Course], rounds: Sequence[int], unit: str, k: int) -> str:
    """Errors after some rounds, and where each policy is below random and equispaced choices."""
    rows = []
    for name, course in courses.items():
        error, psnr = 1e3 * course.error, course.psnr.mean(0)
        rows.append([name, *(f"{plus_minus(error[:, r])} ({psnr[r]:.2f})" for r in rounds)])
    lines = [markdown((title, *(f"{k * r} {unit}" for r in rounds)), rows)]
    for name, course in courses.items():
        for other in ("random", "equispaced"):
            if name in ("random", other) or other not in courses:
                continue
            difference = 1e3 * (course.error - courses[other].error)
            above = (difference.mean(0)[1:] >= 0).nonzero().flatten().tolist()
            where = "in every round" if not above else f"in all rounds but {[r + 1 for r in above]}"
            at = ", ".join(plus_minus(difference[:, r]) for r in rounds)
            lines.append(f"{name} minus {other}, paired × 1000: {at}; below it {where}")
    stopped = ", ".join(
        f"{name} {course.stopped} ({course.seconds:.0f} s)" for name, course in courses.items()
    )
    lines.append(f"stopped chains and processor time: {stopped}")
    return "\n".join(lines)


Drawn = Callable[[Any], None]
"""Draws a row of pictures into a subfigure."""


def rows_of(
    truth: Tensor,
    courses: Mapping[str, Course],
    title: str,
    shown: int,
    after: Sequence[int],
    unit: str,
    mark: Callable[[Any, str, Tensor], None],
    **style: Any,
) -> list[tuple[str, Drawn]]:
    """Rows of pictures for `draw_curves`: the first images, and their posterior means after some rounds.

    ``mark(ax, name, chosen)`` draws what a policy has measured until then, ``(rounds, k)``.
    """

    def row(image: int) -> Drawn:
        def draw(part: Any) -> None:
            first, *others = part.subplots(1, 1 + len(courses) * len(after))
            picture(first, truth[image], "truth", size=7, **style)
            for ax, (name, r) in zip(others, ((n, r) for n in courses for r in after), strict=True):
                chosen = courses[name].chosen[image, :r]
                picture(ax, courses[name].mean[image, r], f"{name}\n{chosen.numel()} {unit}", size=6, **style)
                mark(ax, name, chosen)

        return draw

    return [("" if image else title, row(image)) for image in range(min(shown, len(truth)))]


def draw_curves(
    panels: Mapping[str, Mapping[str, Course]],
    k: int,
    label: str,
    rows: Sequence[tuple[str, Drawn]],
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
    from matplotlib.ticker import MaxNLocator

    whole = figure(9.6, 3.6 + 1.35 * len(rows))
    top, *bottom = whole.subfigures(1 + len(rows), 1, height_ratios=[3.6, *[1.35] * len(rows)])
    axes = top.subplots(1, len(panels), squeeze=False)[0]
    for ax, (title, courses) in zip(axes, panels.items(), strict=True):
        for name, course in courses.items():
            at = k * torch.arange(course.error.shape[1])
            mean, error = mean_and_error(course.error)
            ax.plot(at, mean, "o-", markersize=2.5, linewidth=1.4, color=COLOURS[name], label=name)
            ax.fill_between(at, mean - error, mean + error, color=COLOURS[name], alpha=0.2, linewidth=0)
        ax.set_yscale("log")
        ax.set_title(title, fontsize=10)
        ax.set_xlabel(label)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 3, 5, 10]))
        light(ax, which="both")
    axes[0].set_ylabel("mean squared error ± standard error")
    axes[-1].legend(fontsize=8, frameon=False)
    for part, (title, draw) in zip(bottom, rows, strict=True):
        if title:
            part.suptitle(title, fontsize=9, x=0.01, ha="left")
        draw(part)
    save(whole, file, 120)
