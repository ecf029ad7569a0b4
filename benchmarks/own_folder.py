"""A user's own folder: 200 PNG of ellipses, one command, and whether the prior beats TV on held-out images.

The pictures are written to build/own_folder/SIZE, the prior beside them (a run that was stopped goes on). The last
lines are those of ``genreg train``: log-likelihood, reconstruction, denoising, and tomography with a fan beam of 60
angles against TV with its best weight.
"""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import numpy as np
from _study import arguments
from PIL import Image

from genreg.own_images import PriorSettings, train_prior

COUNT = 200
_FINER = 3  # pixels are means of 3 x 3 samples


def ellipses(size: int, random: np.random.Generator) -> np.ndarray:
    """A body with four to nine brighter or darker ellipses, some of them one upon the other, ``(size, size)``."""
    line = (np.arange(size * _FINER) + 0.5) / (size * _FINER) * 2 - 1
    i, j = np.meshgrid(line, line, indexing="ij")

    def inside(offset: float, least: float, most: float) -> np.ndarray:
        (a, b), (r, s) = random.uniform(-offset, offset, 2), random.uniform(least, most, 2)
        turn = random.uniform(0, np.pi)
        u, v = (
            (i - a) * np.cos(turn) + (j - b) * np.sin(turn),
            (j - b) * np.cos(turn) - (i - a) * np.sin(turn),
        )
        return (u / r) ** 2 + (v / s) ** 2 <= 1

    x = np.zeros_like(i)
    body = inside(0.1, 0.65, 0.9)
    x[body] = random.uniform(0.3, 0.5)
    for _ in range(random.integers(4, 10)):
        x[inside(0.55, 0.05, 0.3) & body] += random.uniform(-0.3, 0.4)
    return x.clip(0, 1).reshape(size, _FINER, size, _FINER).mean((1, 3))


def write(folder: Path, count: int, size: int) -> None:
    """Write pictures of 8 bits."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(17)
    for k in range(count):
        Image.fromarray((255 * ellipses(size, random)).round().astype(np.uint8)).save(folder / f"{k:03d}.png")


def main() -> None:
    options = arguments(
        __doc__,
        {
            "--size": {"type": int, "default": 128, "help": "rows and columns of the pictures"},
            "--minutes": {"type": float, "help": "of the training, in place of its default steps"},
            "--diagonal": {"action": "store_true", "help": "a diagonal precision as well"},
        },
        threads=None,
    )
    size, count = (32, 6) if options.quick else (options.size, COUNT)
    out = Path("build/own_folder-quick" if options.quick else "build/own_folder")
    if options.quick:
        shutil.rmtree(out, ignore_errors=True)
    write(out / str(size), count, size)
    small = {"crop": 32, "channels": (4,), "top_channels": (4,), "head_channels": (4,), "distance": 1}
    began, processor = time.perf_counter(), time.process_time()
    prior = train_prior(
        out / str(size),
        f"ellipses-{size}",
        out=out,
        settings=PriorSettings(**small) if options.quick else PriorSettings(diagonal=options.diagonal),
        minutes=options.minutes,
        resume=True,
        quick=options.quick,
    )
    minutes = (time.perf_counter() - began) / 60, (time.process_time() - processor) / 60
    print(f"{prior.summary()}\n{minutes[0]:.1f} minutes, {minutes[1]:.1f} of processors")


if __name__ == "__main__":
    main()
