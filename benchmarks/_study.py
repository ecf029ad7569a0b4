"""What all benchmarks share: the command line, timing, tables, kept results, figures.

A script reads its command line by `arguments`; each takes ``--quick`` and ``--threads``. A `main` with
`skipped_without_data` says so where a data set is missing. The figures, tables and numbers of a whole run go to docs/,
those of a quick or a partial one to build/, see `folder`.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import os
import shutil
import statistics
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

__all__ = [
    "Rows",
    "arguments",
    "atomically",
    "figure",
    "folder",
    "interleaved",
    "kept",
    "light",
    "markdown",
    "mean_and_error",
    "normal",
    "picture",
    "plus_minus",
    "report",
    "save",
    "skipped_without_data",
    "write",
]


def arguments(
    doc: str | None,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    *,
    threads: int | None = 1,
    output: bool = False,
) -> argparse.Namespace:
    """Read the command line.

    Parameters
    ----------
    doc : str
        Docstring of the script, for ``--help``.
    options : dict of str to dict, optional
        More arguments: the name of each, and what ``add_argument`` takes beside it.
    threads : int, optional
        Threads of torch unless ``--threads`` says otherwise; None for those that torch takes.
    output : bool
        Whether there is ``--output``, a folder, for `folder`.
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that it works")
    parser.add_argument("--threads", type=int, default=threads, help="threads of torch")
    if output:
        parser.add_argument("--output", type=Path, help="folder of figures, tables and numbers")
    for name, settings in (options or {}).items():
        parser.add_argument(name, **settings)
    found = parser.parse_args()
    if found.threads is not None:
        torch.set_num_threads(found.threads)
    return found


def folder(options: argparse.Namespace, *, whole: bool = True) -> Path:
    """Where results go: ``--output``, else docs/ for a whole run and build/ for a quick or a partial one."""
    return options.output or Path("docs" if whole and not options.quick else "build")


def skipped_without_data(main: Callable[[], None]) -> Callable[[], None]:
    """Decorate a `main` that needs a data set: where there is none it says so and ends."""

    @functools.wraps(main)
    def run() -> None:
        try:
            main()
        except FileNotFoundError as error:
            if error.errno is not None:  # of the system: not a data set, but a file that should be there
                raise
            print(f"skipped: {error}")

    return run


def interleaved(
    functions: Mapping[str, Callable[[], object]],
    repeats: int,
    inner: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
    """Median seconds of one call of every function, over `repeats` rounds of `inner` calls of each, after a warm-up.

    The machines are shared, so only ratios from one run mean anything.
    """
    times: dict[str, list[float]] = {name: [] for name in functions}
    for function in functions.values():
        function()
    for _ in range(repeats):
        for name, function in functions.items():
            start = clock()
            for _ in range(inner):
                function()
            times[name].append((clock() - start) / inner)
    return {name: statistics.median(values) for name, values in times.items()}


def normal(shape: Sequence[int], seed: int) -> Tensor:
    """Standard normal numbers of one seed."""
    return torch.randn(tuple(shape), generator=torch.Generator().manual_seed(seed))


def mean_and_error(values: Tensor) -> tuple[Tensor, Tensor]:
    """Mean over the first axis, that of the images, and its standard error."""
    return values.mean(0), values.std(0) / len(values) ** 0.5


def plus_minus(values: Tensor, digits: int = 2, *, spread: bool = False, sign: str = "") -> str:
    """Mean ± standard error of some values, or with `spread` their standard deviation; `sign` "+" shows both signs."""
    mean, error = (values.mean(), values.std()) if spread else mean_and_error(values)
    return f"{float(mean):{sign}.{digits}f} ± {float(error):.{digits}f}"


def markdown(head: Sequence[str], rows: Iterable[Iterable[str]], title: str = "") -> str:
    """A table, below a title where there is one; without a line break at the end."""
    lines = [f"| {' | '.join(cells)} |" for cells in (head, *rows)]
    lines.insert(1, "|---" * len(head) + "|")
    return "\n".join([title, "", *lines] if title else lines)


@contextlib.contextmanager
def atomically(file: Path) -> Iterator[Path]:
    """A file to write to that takes the place of `file` at the end: a reader sees all of it or nothing."""
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    yield temporary
    temporary.replace(file)


def kept(
    file: Path, settings: Mapping[str, Any], compute: Callable[[], Mapping[str, Any]], *, fresh: bool = False
) -> dict[str, Any]:
    """What ``compute()`` gives by name, from the file where it is there with the same settings.

    Parameters
    ----------
    file : Path
        Tensors, numbers and texts, as `torch.save` writes them.
    settings : dict
        All that the result depends on and the name of the file does not say.
    compute : callable
        Called where there is no such result, or with `fresh`; its result is written at once.
    """
    if file.is_file() and not fresh:
        found = torch.load(file, weights_only=True)
        if found.pop("settings", None) == dict(settings):
            return found
    found = dict(compute())
    with atomically(file) as target:
        torch.save({**found, "settings": dict(settings)}, target)
    return found


class Rows(list[dict[str, Any]]):
    """Rows of a table in a JSON file, which is written again with each new one.

    Parameters
    ----------
    file : Path
        The file; what is in it already is taken over.
    key : tuple of str
        The entries by which a row is known: ``(value, ...) in rows`` asks for them.
    """

    def __init__(self, file: Path, key: Sequence[str]) -> None:
        super().__init__(json.loads(file.read_text()) if file.is_file() else [])
        self.file, self.key = file, key

    def __contains__(self, values: object) -> bool:
        return any(tuple(row[name] for name in self.key) == values for row in self)

    def add(self, row: dict[str, Any]) -> None:
        """Append a row, and write all of them."""
        self.append(row)
        with atomically(self.file) as target:
            target.write_text(json.dumps(self))


def write(file: Path, content: Any) -> None:
    """Write a text, or what JSON takes, for which the name ends in .json."""
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix == ".json":
        content = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
    file.write_text(content, encoding="utf-8")


def report(
    name: str,
    parts: Collection[str],
    key: Sequence[str],
    compute: Callable[[str, Rows], None],
    table: Callable[[Sequence[dict]], str],
    draw: Callable[[Sequence[dict], Path], None],
    options: argparse.Namespace,
    *,
    only: str | None = None,
) -> None:
    """Compute the parts that are wanted, and write table, numbers and figure once all are there.

    The rows of a part are kept in build/, those of a quick run are not; ``compute(part, rows)`` adds what is missing.
    """
    cache = Path("build") / (f"{name}-quick" if options.quick else name)
    if options.quick:
        shutil.rmtree(cache, ignore_errors=True)
    kept_rows = {part: Rows(cache / f"{part}.json", key) for part in parts}
    for part, rows in kept_rows.items():
        if only in (None, part):
            compute(part, rows)
    if not all(rows.file.is_file() for rows in kept_rows.values()):
        return
    rows = [row for rows in kept_rows.values() for row in rows]
    out = folder(options)
    write(out / f"{name}.md", table(rows))
    lines = ",\n".join(json.dumps(_shortened(row)) for row in rows)
    (out / f"{name}.json").write_text(f"[\n{lines}\n]\n")
    draw(rows, out / f"{name}.png")


def _shortened(value: Any) -> Any:
    """The same with numbers of four digits, to be stored as JSON."""
    if isinstance(value, dict):
        return {name: _shortened(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_shortened(item) for item in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


def figure(width: float, height: float) -> Any:
    """An empty figure of a size in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def picture(ax: Any, image: Tensor, title: str = "", *, size: float = 8, **style: Any) -> Any:
    """Draw an image without ticks, in grey from 0 to 1 unless `style` says otherwise; `size` is that of the title."""
    ax.set(xticks=[], yticks=[])
    if title:
        ax.set_title(title, fontsize=size)
    return ax.imshow(image.numpy(), **{"cmap": "gray", "vmin": 0, "vmax": 1, **style})


def light(ax: Any, **grid: Any) -> None:
    """Take the upper and the right spine away and draw a faint grid."""
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(alpha=0.25, **grid)


def save(figure: Any, file: Path, dpi: int) -> None:
    """Write a figure, and say where."""
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=dpi)
    print(f"figure: {file}")
