r"""Train a prior on a folder of images: ``genreg train NAME --images FOLDER``, or ``--config train.toml``.

A configuration has up to three tables, of which everything may be left out; options of the command go before it::

    [data]
    images = "slices"              # folder, relative to the configuration
    key = "reconstruction_rss"     # of the array in npz, mat and h5 files that have several
    range = [-1000.0, 2000.0]      # values that are 0 and 1 of the model; found in the images if left out
    held_out = 0.2                 # share of the files, or of the folders in the folder
    limit = 500                    # files read at most
    strict = true                  # end at the first image that can't be used

    [model]
    crop = 64                      # rows and columns of the crops to train on
    channels = [16, 32, 64]        # see genreg.own_images.PriorSettings for these
    latent_channels = 8
    top_channels = [64]
    top_latent_channels = 8
    head_channels = [16, 32, 48]
    distance = 2

    [training]
    minutes = 10                   # about how long, on this machine; or the steps of both stages,
    steps = 3000                   # which give the same prior everywhere
    precision_steps = 1200
    batch_size = 16
    lr = 2e-3
    patience = 5
    augment = true                 # turned, mirrored and recoloured crops
    diagonal = false               # train a diagonal precision as well, to compare with
    seed = 0
"""

from __future__ import annotations

import argparse
from typing import Any

from genreg.cli.settings import read_training
from genreg.own_images import PriorSettings, train_prior
from genreg.own_images.folder_prior import check_name

_OPTIONS = ("images", "config", "crop", "minutes", "range", "strict")


def given(options: argparse.Namespace) -> list[str]:
    """Return the options for own images that were given, as they are written on the command line."""
    words: list[str] = []
    for name in _OPTIONS:
        value = getattr(options, name)
        if value is None or value is False:
            continue
        values = [] if value is True else value if isinstance(value, list) else [value]
        words += [f"--{name}", *map(str, values)]
    return words


def train_own(options: argparse.Namespace) -> int:
    """Train a prior as the options and their configuration say, and print what it is worth.

    Raises
    ------
    FileNotFoundError, ValueError
        If the configuration or an option is wrong; see `genreg.own_images.train_prior` for the rest.
    """
    check_name(options.name)
    if options.device != "cpu":
        raise ValueError(f"--device must be cpu for your own images, got {options.device!r}")
    tables: dict[str, dict[str, Any]] = {"data": {}, "model": {}, "training": {}}
    if options.config is not None:
        tables = {name: dict(entries) for name, entries in read_training(options.config).items()}
    data, training = tables["data"], tables["training"]
    images = options.images
    if images is None:
        if "images" not in data:
            raise ValueError(f"data.images must name the folder in {options.config}, or give --images FOLDER")
        images = options.config.parent / data["images"]
    settings = {**tables["model"], **training}
    settings |= {name: data[name] for name in ("range", "held_out") if name in data}
    settings |= {
        name: getattr(options, name) for name in ("crop", "range") if getattr(options, name) is not None
    }
    minutes = settings.pop("minutes", None) if options.minutes is None else options.minutes
    settings.pop("minutes", None)
    if minutes is not None and (both := [name for name in ("steps", "precision_steps") if name in settings]):
        raise ValueError(
            f"give minutes or steps, got minutes = {minutes:g} and {both[0]} = {settings[both[0]]}"
        )
    prior = train_prior(
        images,
        options.name,
        out=options.out,
        settings=PriorSettings(**settings),
        minutes=minutes,
        key=data.get("key"),
        limit=data.get("limit"),
        strict=options.strict or data.get("strict", False),
        resume=options.resume,
        quick=options.quick,
    )
    print(f"{prior.summary()}\nWeights: {prior.file}\nPicture: {prior.picture}")
    return 0
