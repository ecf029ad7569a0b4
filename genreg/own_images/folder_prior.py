"""From a folder of images to a prior: what ``genreg train NAME --images FOLDER`` does."""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genreg import weights
from genreg.datasets.mixed_images import MixedImages, read_images
from genreg.networks import Autoencoder, Structured
from genreg.operators.bridge.arguments import check_path, flag, number
from genreg.operators.bridge.modes import undisturbed
from genreg.own_images.comparison import compare
from genreg.own_images.outcome import picture, scores, summary
from genreg.own_images.settings import PriorSettings
from genreg.own_images.stages import Crops, steps_within, train_mean, train_precision
from genreg.recipes import RECIPES
from genreg.solvers.checkpoints import atomically, digest, refuse_other
from genreg.training.settings import check_files


@dataclass(frozen=True)
class OwnPrior:
    """A prior that has been trained.

    Attributes
    ----------
    file : Path
        The safetensors file, which `genreg.load_generator` reads; its images are in the units of the files that it was
        made of.
    picture : Path
        Held-out images, their reconstructions and samples, a PNG.
    card : dict
        Data, settings, scores and the comparison with TV.
    """

    file: Path
    picture: Path
    card: Mapping[str, Any]

    def summary(self) -> str:
        """Return what the card says, in a few lines; whether the prior beats TV in the last ones."""
        return summary(self.card)


@undisturbed
def train_prior(
    images: str | os.PathLike[str] | MixedImages,
    name: str,
    *,
    out: str | os.PathLike[str] = "runs",
    settings: PriorSettings | None = None,
    minutes: float | None = None,
    key: str | None = None,
    limit: int | None = None,
    strict: bool = False,
    resume: bool = False,
    quick: bool = False,
    progress: bool = True,
) -> OwnPrior:
    """Train a prior for grey images of any size, and measure it on held-out images.

    Encoder and mean of a fully convolutional variational autoencoder are trained on random crops, then a sparse
    Cholesky factor of the precision (SUPN). The weights that are best on held-out images are kept, a training that
    over-fits ends, and γ and the scale of the precision are those of held-out residuals. Half of the held-out images
    have no part in that: on these the prior is scored, and compared with TV.

    Parameters
    ----------
    images : str, path or MixedImages
        A folder of images, which `genreg.datasets.read_images` reads, or images that have been read.
    name : str
        Name of the prior: of its files in `out`.
    out : str or path
        Folder for ``NAME.safetensors``, its card ``NAME.json``, the picture ``NAME.png``, and, until the run is
        complete, ``NAME.run.json`` and checkpoints, written every two minutes.
    settings : PriorSettings, optional
        How to train; by default `PriorSettings` as it is.
    minutes : float, optional
        In place of ``settings.steps`` and ``settings.precision_steps``: about how long both stages may take on this
        machine. Their steps are chosen by timing a few, and are on the card: with these in `settings`, the same prior
        comes out again. (Reading and measuring take a few minutes more.)
    key, limit, strict
        Those of `genreg.datasets.read_images`.
    resume : bool
        Whether to go on from the checkpoints in `out`, if there are some; the result is that of an uninterrupted run.
    quick : bool
        Whether to take a few steps only, to try things out; the card says so.
    progress : bool
        Whether to show progress bars.

    Returns
    -------
    OwnPrior
        The prior, its card and summary.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or is out of range, `name` is that of a shipped model, no images can be used,
        or the run to resume had other settings or images.
    FileNotFoundError
        If there is no such folder, or no image in it.
    FileExistsError
        If there are such weights already, or a run that is not complete and `resume` is not set.
    KeyboardInterrupt
        At Ctrl-C, with a checkpoint.

    Warns
    -----
    UserWarning
        If images were skipped.
    """
    check_name(name)
    check_path(out, "out")
    settings = PriorSettings() if settings is None else settings
    if not isinstance(settings, PriorSettings):
        raise TypeError(f"settings must be PriorSettings, got {type(settings).__name__}")
    if minutes is not None:
        minutes = number(minutes, "minutes", above=0)
    quick, resume = flag(quick, "quick"), flag(resume, "resume")
    files = {kind: Path(out) / f"{name}.{kind}" for kind in ("safetensors", "json", "png", "run.json")}
    stages = ("mean", "precision", *["diagonal"] * settings.diagonal)
    checkpoints = {stage: Path(out) / f"{name}.{stage}_checkpoint" for stage in stages}
    if files["safetensors"].exists():
        raise FileExistsError(
            f"weights {files['safetensors']} are there already: move them away, or name another"
        )
    check_files(resume, files["run.json"], *checkpoints.values())

    if not isinstance(images, MixedImages):
        images = read_images(
            images, smallest=settings.crop, key=key, limit=limit, strict=strict, progress=progress
        )
    settings, minutes = (settings.quick(), None) if quick else (settings, minutes)
    parts = _parts(images, settings)
    data = _described(images, *parts)
    scale, offset = _units(parts[0], settings)
    training, held_out, test = (part.mapped(scale, offset) for part in parts)
    crops = Crops.of(training, held_out, settings)
    settings = _planned(files["run.json"], settings, minutes, data["digest"], crops, resume)

    files_of = {
        stage: {"checkpoint": file, "resume": resume, "progress": progress}
        for stage, file in checkpoints.items()
    }
    mean, mean_card = train_mean(crops, settings, **files_of["mean"])
    models: dict[str, Structured] = {}
    cards: dict[str, Any] = {"mean": mean_card}
    for stage in stages[1:]:
        distance = settings.distance if stage == "precision" else 0
        models[stage], cards[stage] = train_precision(
            mean, crops, settings, distance=distance, **files_of[stage]
        )
    card = {
        "name": name,
        "quick": quick,
        "data": data,
        "units": {"scale": scale, "offset": offset},
        "settings": dataclasses.asdict(settings),
        "stages": cards,
    }
    model = models["precision"]
    kinds: dict[str, Autoencoder] = {"isotropic": mean, **models}
    card["score"] = scores({"SUPN" if kind == "precision" else kind: m for kind, m in kinds.items()}, test)
    card["comparison"] = compare(model, test, quick=quick, seed=settings.seed)
    figure = picture(model, test, seed=settings.seed)
    atomically(files["png"], lambda part: figure.savefig(part, dpi=130, format="png"))
    file, _ = weights.save(files["safetensors"], model, card)
    for done in (files["run.json"], *checkpoints.values()):
        done.unlink(missing_ok=True)
    return OwnPrior(file, files["png"], weights.read_card(file))


def check_name(name: Any) -> None:
    """Refuse a name that is no file's, or that of a model which the package trains by a recipe.

    Raises
    ------
    TypeError, ValueError
        If it is one.
    """
    if not isinstance(name, str):
        raise TypeError(f"name must be a string, got {type(name).__name__}")
    if name in RECIPES or name in weights.shipped():
        raise ValueError(f"name must not be that of a shipped recipe where images are given, got {name!r}")
    if not re.fullmatch(r"\w[\w.-]*", name) or name.endswith((".safetensors", ".json")):
        raise ValueError(f"name must be letters, digits, '-', '_' and '.', without a suffix, got {name!r}")


def _parts(images: MixedImages, settings: PriorSettings) -> tuple[MixedImages, MixedImages, MixedImages]:
    """Images to train on, to choose weights by, and to measure with; the latter two are the same where there is one."""
    training, rest = images.split(settings.held_out, seed=settings.seed)
    if len(rest) == 1:
        return training, rest, rest
    held_out, test = rest.split(0.5, seed=settings.seed + 1)
    return training, held_out, test


def _units(training: MixedImages, settings: PriorSettings) -> tuple[float, float]:
    """Scale and offset of the images."""
    if settings.range is None:
        return training.affine()
    low, high = settings.range
    return high - low, low


def _described(
    images: MixedImages, training: MixedImages, held_out: MixedImages, test: MixedImages
) -> dict[str, Any]:
    """What the images are, for the card."""
    sizes = sorted({tuple(x.shape) for x in images.images})
    return {
        "images": len(images),
        "groups": len(set(images.groups)),
        "training": len(training),
        "held_out": len(held_out),
        "test": len(test),
        "test_images": list(test.names),
        "test_chose_weights": test is held_out,
        "smallest": list(min(sizes)),
        "largest": list(max(sizes)),
        "skipped": dict(images.skipped),
        "digest": digest(*images.images),
    }


def _planned(
    file: Path, settings: PriorSettings, minutes: float | None, data: str, crops: Crops, resume: bool
) -> PriorSettings:
    """Return the settings with the steps of the run, which the file keeps: they stay those it began with."""
    asked = dataclasses.asdict(settings)
    if resume and file.exists():
        run = json.loads(file.read_text(encoding="utf-8"))
        steps = {key: run["settings"][key] for key in ("steps", "precision_steps")}
        if minutes is not None:
            settings = dataclasses.replace(settings, **steps)
        found = {**run["settings"], "minutes": run["minutes"], "images": run["images"]}
        asked = {**dataclasses.asdict(settings), "minutes": minutes, "images": data}
        refuse_other(file, found, json.loads(json.dumps(asked)), name="run")
        return settings
    if minutes is not None:
        settings = steps_within(minutes, crops, settings)
    run = {"settings": dataclasses.asdict(settings), "minutes": minutes, "images": data}
    atomically(file, lambda part: part.write_text(json.dumps(run, indent=2) + "\n", encoding="utf-8"))
    return settings
