r"""All criteria for a generator in one call.

The criteria of Duff, Campbell and Ehrhardt for a generator G and its prior N(0, I), in our words:

* the range of G contains all possible images and only such images, and the prior makes them as frequent as
  they are: `fit_range`, `earth_mover`, `mmd`;
* G is smooth, and the area of the latent space that stands for images is known: `smoothness`,
  `interpolate`, `prior_fit`, `far_from_prior`.

To these `calibration` adds whether the encoder knows how uncertain it is.

References
----------
M. Duff, N. D. F. Campbell, M. J. Ehrhardt (2021), Regularising inverse problems with generative machine
learning models, arXiv:2107.11191, section 4.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from genreg.evaluation.distribution import earth_mover, load_pot, mmd, nearest_distance
from genreg.evaluation.inputs import checked, held_out, load
from genreg.evaluation.latent import encodings, far_from_prior, interpolate, prior_fit
from genreg.evaluation.reconstruction import fit_range
from genreg.evaluation.report import write_report
from genreg.evaluation.result import Measurements
from genreg.evaluation.sbc import Calibration, calibration, can_calibrate
from genreg.evaluation.slopes import smoothness
from genreg.generator import Generator
from genreg.operators.bridge.arguments import seed_number
from genreg.operators.bridge.modes import undisturbed

SCALES = (1.0, 2.0, 5.0, 10.0, 50.0)
LEAST = 20  # images with which the tests of normality make sense


class Evaluation(Measurements):
    """What `evaluate` has measured; its fields are those of `Measurements`."""

    def report(self, path: str | os.PathLike[str]) -> Path:
        """Write one self-contained HTML file with all figures and tables; whole or not at all.

        Parameters
        ----------
        path : str or Path
            Name of the file, ending in .html.

        Returns
        -------
        Path
            The file.

        Raises
        ------
        ValueError
            If the name ends otherwise.
        """
        return write_report(self, Path(path))


@undisturbed
def evaluate(
    G: Generator | str | os.PathLike[str],
    images: Any = None,
    *,
    reference: Any = None,
    count: int = 1000,
    restarts: int | None = None,
    data_range: float = 1.0,
    seed: int = 0,
    quick: bool = False,
    progress: bool = True,
) -> Evaluation:
    """Measure a generative model by the criteria of Duff, Campbell and Ehrhardt, and some more.

    Parameters
    ----------
    G : Generator, str or Path
        The model, the name of shipped weights, or the path of a safetensors file with its card beside it.
    images : Tensor or array, optional
        Test images ``(N, n, m)``, at least 20. By default those of the recipe that the model's name tells.
    reference : Tensor or array, optional
        Other images of the same distribution, which the distance of generated images is compared with. By
        default those of the recipe, and none where `images` are given.
    count : int
        Number of test images; the first ones of those given.
    restarts : int, optional
        Random starting points of the descents in the latent space; by default 2 for a model with an encoder
        and 10 for others (1 and 4 if `quick`).
    data_range : float
        The range of grey values, for PSNR and SSIM.
    seed : int
        Seed of all random numbers.
    quick : bool
        At most 100 images (40 for more than 64 latent dimensions) and fewer draws, to see that it works.
    progress : bool
        Show progress bars.

    Returns
    -------
    Evaluation
        Its method ``report`` writes an HTML report, ``to_dict`` gives the numbers.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type, shape or sign, or there are no images for the model.
    FileNotFoundError
        If there are no such weights, or the images are to be downloaded and can't be.
    ImportError
        If POT is not installed.
    """
    load_pot()  # found missing at the start, not after minutes
    G = G if isinstance(G, Generator) else load(G)
    name = str(G.card.get("name", type(G.model).__name__))
    seeds = [int(s) for s in np.random.SeedSequence(seed_number(seed)).generate_state(10)]
    dim = math.prod(G.domain.shape)
    count = min(count, 100 if dim <= 64 else 40) if quick else count
    if images is None:
        found = held_out(name, count, seed=seeds[0])
        images, other = (None if t is None else G.offset + G.scale * t for t in found)
        reference = other if reference is None else reference
    test = checked("images", images, G)[:count]
    reference = None if reference is None else checked("reference", reference, G)[:count]
    if len(test) < LEAST:
        raise ValueError(f"images and count must be at least {LEAST}, got {len(test)}")
    if dim < 2:
        raise ValueError("G must have at least two latent dimensions, got 1")
    if restarts is None:
        restarts = (1 if quick else 2) if G.has_encoder else (4 if quick else 10)

    clock = _Clock(progress)
    with clock("reconstruction"):
        steps = 40 if quick else 120
        fit = fit_range(
            G,
            test,
            restarts=restarts,
            seed=seeds[1],
            data_range=data_range,
            max_iter=steps,
            progress=progress,
        )
    with clock("earth mover's distance"):
        generated = G.sample(len(test), seed=seeds[2])
        transport = earth_mover(generated, test, reference)
    with clock("mean discrepancy"):
        permutations = 200 if quick else 1000
        discrepancy = mmd(generated, test, permutations=permutations, seed=seeds[3])
        real = None if reference is None else mmd(reference, test, permutations=permutations, seed=seeds[3])
    with clock("latent space"):
        codes, source = (
            encodings(G, test, seed=seeds[4])
            if G.has_encoder
            else (fit.z, f"descent on ‖G(z) - x‖² from {restarts} random starts (the model has no encoder)")
        )
        prior = prior_fit(codes, seed=seed)
        far = far_from_prior(G, scales=SCALES, seed=seeds[5])
        usual = 1.0 if reference is None else float(nearest_distance(reference, test).median())
        distances = tuple(float(nearest_distance(row, test).median()) / (usual or 1.0) for row in far)
        between = interpolate(G, fit.z[:4])
    calibrations: list[Calibration | None] = [None, None]
    with clock("calibration"):
        if can_calibrate(G):
            draws = 250 if quick else 2000
            calibrations = [calibration(G, draws=draws, noise=s, seed=seeds[6]) for s in (1.0, 0.0)]
    with clock("smoothness"):
        points = min(20, max(2, 200 // dim)) if quick else min(200, max(4, 20_000 // dim))
        slopes = smoothness(G, points=points, seed=seeds[7])
    clock.close()
    return Evaluation(
        name=name,
        card=dict(G.card),
        settings={
            "seed": seed,
            "quick": quick,
            "test images": len(test),
            "reference images": 0 if reference is None else len(reference),
            "random starts per image": restarts,
            "iterations of the descent": steps,
            "permutations": permutations,
            "calibration draws": 0 if calibrations[0] is None else draws,
            "Jacobians": points,
            "data range": data_range,
        },
        seconds=clock.seconds,
        reconstruction=fit,
        earth_mover=transport,
        mmd=discrepancy,
        mmd_reference=real,
        codes=source,
        prior=prior,
        scales=SCALES,
        far=far,
        far_distance=distances,
        corners=test[:4],
        interpolation=between,
        calibration=calibrations[0],
        calibration_clean=calibrations[1],
        smoothness=slopes,
    )


class _Clock:
    """Progress and time of the parts."""

    def __init__(self, progress: bool) -> None:
        self.seconds: dict[str, float] = {}
        self.bar = tqdm(total=6, disable=not progress, leave=False)

    @contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        self.bar.set_description(part)
        began = time.perf_counter()
        yield
        self.seconds[part] = time.perf_counter() - began
        self.bar.update()

    def close(self) -> None:
        self.bar.close()
