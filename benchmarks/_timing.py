"""Timing by interleaved repeats: the machines are shared, so only ratios from one run mean anything."""

import statistics
import time
from collections.abc import Callable

__all__ = ["interleaved"]


def interleaved(
    functions: dict[str, Callable[[], object]],
    repeats: int,
    inner: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
    """Median seconds of one call of every function, over `repeats` rounds of `inner` calls of each, after a warm-up."""
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
