r"""Magnetic resonance imaging with few radial spokes: learned priors, TV and a supervised network on brain slices.

    python benchmarks/mri_spokes.py                       # all methods: about an hour of one core
    python benchmarks/mri_spokes.py --methods TV "joint, SUPN"
    python benchmarks/mri_spokes.py --quick               # two slices, to see that it works

20 slices of 128 x 128 pixels spread over the held-out subject, gridded radial samples on 10 to 80 spokes, noise of
standard deviation σ = 0.0125 and 0.05 in real and imaginary part, see `_mri`. All methods get the same data, and all
images are cut to [0, 1] before they are scored. Models and network are trained on another person from another scanner,
with random deformations and contrasts; parameters are chosen on 6 slices of that person that were held out.

* zero-filled: the transpose of A applied to the data.
* Tikhonov (squared norm of the gradient), TV with 0 ≤ x ≤ 1: λ by the best mean PSNR on those 6 slices, for
  every setting. "TV, best λ": by that of the test slices themselves, which nobody knows; what TV could reach.
* range-constrained (Bora et al. 2017): min_z ‖A G(z) - y‖² / (2σ²) + λ ‖z‖², λ chosen likewise.
* weights optimised (Narnhofer et al. 2019): after that with λ = 5, z and the weights of G, a number of steps chosen
  likewise.
* joint, isotropic, diagonal, SUPN: min over x and z of ‖A x - y‖² / (2σ²) - log p(x given z) + ‖z‖² / 2 with a
  precision of p(x given z) of that structure; the three models have the same mean G. Nothing is chosen.
* unrolled, supervised: a small variational network trained at 30 spokes and σ = 0.0125, see
  `_unrolled`; its training (8 minutes of one core) is not in the time.

Images are kept in build/mri, and computed again with ``--fresh``; the tables go to docs/mri_spokes.md, all numbers to
docs/mri_spokes.json, the figures to docs/mri_spokes.png and docs/mri_spokes_images.png.

References
----------
M. Duff, I. J. A. Simpson, M. J. Ehrhardt, N. D. F. Campbell (2023), VAEs with structured image covariance applied to
compressed sensing MRI, Phys. Med. Biol. 68, arXiv:2210.14586 (figures 15 to 17).
"""

from __future__ import annotations

import functools
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from _mri import FULL, QUICK, Measured, Result, Setting, Sizes, generator, measure, test_slices, tuning_slices
from _mri_baselines import Method, Supervised, ZeroFilled, tikhonov, total_variation
from _mri_generative import Joint, RangeConstrained, WeightOptimised
from _mri_report import as_json, draw_curves, draw_images, margins, tables
from _study import arguments, folder, kept, skipped_without_data, write

SHOWN = (Setting(10, 0.0125), Setting(30, 0.05))
OURS = "joint, SUPN"
ORACLE = "TV, best λ"


def methods(sizes: Sizes, cache: Path) -> dict[str, Callable[[], Method]]:
    """How to make the methods, in the order of the tables."""
    turns = {"max_iter": 2} if sizes.quick else {}

    def constrained() -> RangeConstrained:
        quick = {"lams": (0.5,), "max_iter": 2} if sizes.quick else {}
        return RangeConstrained(generator("brain-supn"), **quick)

    def joint(model: str, name: str) -> Callable[[], Method]:
        return lambda: Joint(generator(model), name, **turns)

    steps = {"steps": 2, "every": 1} if sizes.quick else {}
    return {
        "zero-filled": ZeroFilled,
        "Tikhonov": lambda: tikhonov(sizes),
        "TV": lambda: total_variation(sizes),
        ORACLE: lambda: total_variation(sizes),
        "range-constrained": constrained,
        "weights optimised": lambda: WeightOptimised(replace(constrained(), lams=(5.0,)), **steps),
        "joint, isotropic": joint("brain-vae", "joint, isotropic"),
        "joint, diagonal": joint("brain-diagonal", "joint, diagonal"),
        OURS: joint("brain-supn", OURS),
        "unrolled, supervised": lambda: Supervised(cache / "unrolled.pt", sizes),
    }


def computed(
    make: Callable[[], Method],
    test: dict[Setting, Measured],
    tuning: dict[Setting, Measured],
    cache: Path,
    fresh: bool,
) -> dict[Setting, Result]:
    """The results of one method, from its folder where they are there."""
    found, method = {}, functools.cache(make)
    for setting, data in test.items():

        def solve(setting: Setting = setting, data: Measured = data) -> dict[str, Any]:
            parameters = method().tune(tuning[setting])
            began = time.perf_counter()
            images, note = method().solve(data, parameters)
            seconds = (time.perf_counter() - began) / len(images)
            result = Result(images.detach().clamp(0, 1), seconds, parameters, note)
            score = result.scores(data.x)
            print(
                f"{method().name}, {setting}: {score['psnr'].mean():.2f} dB, SSIM {score['ssim'].mean():.3f}, "
                f"{seconds:.2g} s per slice {parameters} {note}",
                flush=True,
            )
            return vars(result)

        file = cache / f"{setting.spokes}-{setting.noise_std:g}.pt"
        found[setting] = Result(**kept(file, {"shape": tuple(data.x.shape)}, solve, fresh=fresh))
    return found


def run(sizes: Sizes, names: list[str], cache: Path, out: Path, *, fresh: bool) -> None:
    began = time.perf_counter()
    truth, tuned_on = test_slices(sizes.test), tuning_slices(sizes.tuning)
    test = {setting: measure(truth, setting, seed=2) for setting in sizes.settings}
    tuning = {setting: measure(tuned_on, setting, seed=1) for setting in sizes.settings}
    results: dict[str, dict[Setting, Result]] = {}
    for name, make in methods(sizes, cache).items():
        if name not in names:
            continue
        results[name] = computed(
            make, test, test if name == ORACLE else tuning, cache / name.replace(", ", "-"), fresh
        )

    scores = {name: {s: r.scores(truth) for s, r in of.items()} for name, of in results.items()}
    columns: dict[str, dict[str, dict]] = defaultdict(dict)
    for name, of in results.items():
        for field in ("seconds", "parameters", "note"):
            columns[field][name] = {s: getattr(r, field) for s, r in of.items()}
    text = tables(scores, columns["seconds"], sizes)
    if OURS in scores and len(scores) > 1:
        text += "\n" + margins(scores, sizes, OURS)
    write(out / "mri_spokes.md", text)
    numbers = as_json(scores, columns["seconds"], columns["parameters"], columns["note"])
    write(out / "mri_spokes.json", numbers)
    print(text)
    draw_curves(scores, sizes, out / "mri_spokes.png")
    shown = [setting for setting in SHOWN if setting in test]
    pictured = {name: of for name, of in results.items() if name not in ("Tikhonov", ORACLE)}
    draw_images(pictured, truth, shown, len(truth) // 3, out / "mri_spokes_images.png")
    print(f"{time.perf_counter() - began:.0f} s; tables and figures in {out}")


@skipped_without_data
def main() -> None:
    every = list(methods(QUICK, Path()))
    rows = {"nargs": "+", "choices": every, "metavar": "NAME", "default": every, "help": "rows of the tables"}
    fresh = {"action": "store_true", "help": "compute again what is in build/mri"}
    options = arguments(__doc__, {"--methods": rows, "--fresh": fresh}, threads=2, output=True)
    out = folder(options, whole=options.methods == every)
    if options.quick:
        with tempfile.TemporaryDirectory() as scratch:
            run(QUICK, options.methods, Path(scratch), out, fresh=True)
    else:
        run(FULL, options.methods, Path("build/mri"), out, fresh=options.fresh)


if __name__ == "__main__":
    main()
