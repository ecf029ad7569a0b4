"""Images from a folder of image files, all at once or drawn as a training needs them."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import KW_ONLY, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from genreg.operators.bridge.arguments import (
    check_path,
    integer,
    integers,
    number,
    seed_number,
    seeded_generator,
)
from genreg.operators.bridge.arrays import check_memory
from genreg.operators.bridge.keywords import documented_like

_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")


@dataclass(frozen=True)
class ImageFolder:
    """The image files of a folder as a sampler for `genreg.training.fit`, read when they are drawn.

    An image is turned as its camera noted, cut to its middle, and reduced to `size` by Pillow's bicubic filter,
    which spans as many pixels as one of the result covers (antialiasing). Transparency is dropped. At any
    time only the images of one call are in memory, whatever the size of the folder.

    Calling ``folder(n, seed=s)`` draws n images at random: different ones if the folder has as many, else with
    repetitions. The same seed draws the same images.

    Parameters
    ----------
    path : str or Path
        The folder. Files named ``*.png``, ``*.jpg``, ``*.jpeg``, ``*.bmp``, ``*.tif``, ``*.tiff`` and
        ``*.webp`` are found in it and in the folders inside it, without hidden ones, in the order of their
        names.
    size : int or tuple of int
        Side, or rows and columns, of the images returned.
    colour : bool
        Whether images are ``(3, rows, columns)``, red, green and blue; otherwise grey, ``(rows, columns)``.
    crop : int or tuple of int, optional
        Side, or rows and columns, of the part in the middle of a file's image that is kept, of the
        proportions of `size` and no smaller. By default the largest part of these proportions.
    limit : int, optional
        Number of files taken, the first ones; all of them by default.
    flip : bool
        Whether images drawn are mirrored, left to right, with probability one half (`load` never does).
    workers : int
        Number of threads that read files.
    files : tuple of str
        Names of the files relative to `path`; found there by default.

    Raises
    ------
    FileNotFoundError
        If there is no such folder or it has no image files.
    TypeError, ValueError
        If another argument is of the wrong type or out of range.

    Notes
    -----
    A file that can't be read, or whose image is smaller than `crop` (or than `size` without one), is an error
    that names the file. It is not passed over: a model would otherwise be trained on other images than its
    card says.
    """

    path: str | os.PathLike[str]
    size: int | tuple[int, int]
    _: KW_ONLY
    colour: bool = True
    crop: int | tuple[int, int] | None = None
    limit: int | None = None
    flip: bool = False
    workers: int = 1
    files: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_path(self.path, "path")
        size = _pair("size", self.size)
        if self.crop is not None:
            crop = _pair("crop", self.crop)
            if crop[0] * size[1] != crop[1] * size[0] or crop[0] < size[0]:
                raise ValueError(
                    f"crop must have the proportions of size and be no smaller, got {self.crop} and {self.size}"
                )
        for name in ("limit", "workers"):
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, integer(value, name, minimum=1))
        folder = Path(self.path)
        if not folder.is_dir():
            raise FileNotFoundError(f"path must be a folder of images, got {os.fspath(self.path)!r}")
        files = self.files or _found(folder)
        if not files:
            raise FileNotFoundError(
                f"path must be a folder of images ({', '.join(_SUFFIXES)}), got {os.fspath(self.path)!r}, "
                "which has none"
            )
        object.__setattr__(self, "files", tuple(files)[: self.limit])

    def __len__(self) -> int:
        return len(self.files)

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Shape of one image, as the configurations of `genreg.networks` take it."""
        size = _pair("size", self.size)
        return (3, *size) if self.colour else size

    def __call__(self, n: int, *, seed: int) -> Tensor:
        """Draw ``(n, *image_shape)`` images, float32 in [0, 1]."""
        n, random = integer(n, "n", minimum=1), seeded_generator(seed)
        check_memory((n, *self.image_shape), torch.float32, "n", n)
        if n <= len(self):
            drawn = torch.randperm(len(self), generator=random)[:n]
        else:
            drawn = torch.randint(len(self), (n,), generator=random)
        images = self.load(drawn.tolist())
        if self.flip:
            mirrored = torch.rand(n, generator=random, dtype=torch.float32) < 0.5
            images[mirrored] = images[mirrored].flip(-1)
        return images

    def load(self, indices: Iterable[int] | None = None) -> Tensor:
        """Read images.

        Parameters
        ----------
        indices : iterable of int, optional
            Their places in `files`; all of them by default.

        Returns
        -------
        Tensor
            ``(n, *image_shape)``, float32 in [0, 1].

        Raises
        ------
        IndexError
            If there is no such place.
        ValueError
            If a file can't be read or its image is too small; the message names it.
        """
        names = self.files if indices is None else [self.files[i] for i in indices]
        images = torch.empty((len(names), *self.image_shape), dtype=torch.float32)

        def place(k: int) -> None:
            images[k] = self._read(Path(self.path) / names[k])

        if self.workers == 1:
            for k in range(len(names)):
                place(k)
        else:
            with ThreadPoolExecutor(self.workers) as pool:
                try:
                    for _ in pool.map(place, range(len(names))):
                        pass
                except BaseException:
                    pool.shutdown(cancel_futures=True)
                    raise
        return images.div_(255)

    def subset(self, indices: Iterable[int]) -> ImageFolder:
        """Return the folder with the files at these places of `files` only."""
        chosen = tuple(self.files[i] for i in indices)
        if not chosen:
            raise ValueError("indices must name at least one file, got none")
        return replace(self, files=chosen, limit=None)

    def split(self, held_out: int | float, *, seed: int = 0) -> tuple[ImageFolder, ImageFolder]:
        """Split the files into two parts, by their names: the same files fall into the same part everywhere.

        The files are ordered by a hash of the seed and of their name relative to the folder, and the first
        ones are held out.

        Parameters
        ----------
        held_out : int or float
            Number of files held out, or their share, in (0, 1); at least one file is left on either side.
        seed : int
            Another seed is another split.

        Returns
        -------
        training, validation : ImageFolder
            The files of both in the order of their names; the validation images are never mirrored.

        Raises
        ------
        ValueError
            If a part would be empty.
        """
        share = number(held_out, "held_out", above=0)
        count = round(share * len(self)) if share < 1 else integer(held_out, "held_out")
        if not 1 <= count < len(self):
            raise ValueError(
                f"held_out must leave at least one of {len(self)} files on either side, got {held_out!r}"
            )
        order = by_hash(self.files, seed_number(seed))
        validation, training = self.subset(sorted(order[:count])), self.subset(sorted(order[count:]))
        return training, replace(validation, flip=False)

    def _read(self, file: Path) -> Tensor:
        """Return the image of a file, from 0 to 255."""
        size = _pair("size", self.size)
        try:
            with Image.open(file) as opened:
                image = _converted(ImageOps.exif_transpose(opened), self.colour)
        except Exception as error:  # every format has its own exceptions for damaged files
            raise ValueError(f"image {file} can't be read: {error}") from error
        given = (image.height, image.width)
        least = size if self.crop is None else _pair("crop", self.crop)
        if given[0] < least[0] or given[1] < least[1]:
            raise ValueError(
                f"image {file} must have at least {least[0]} x {least[1]} pixels, got {given[0]} x {given[1]}"
            )
        height, width = float(least[0]), float(least[1])
        if self.crop is None:
            scale = min(g / s for g, s in zip(given, size, strict=True))
            height, width = min(scale * size[0], given[0]), min(scale * size[1], given[1])
        top, left = int((given[0] - height) // 2), int((given[1] - width) // 2)
        # cut first, for the filter would look beyond its box
        part = image.crop((left, top, left + math.ceil(width), top + math.ceil(height)))
        small = part.resize((size[1], size[0]), Image.Resampling.BICUBIC, box=(0, 0, width, height))
        pixels = torch.from_numpy(np.array(small, np.float32)).clamp_(0, 255)
        return pixels.movedim(-1, 0) if pixels.ndim == 3 else pixels.expand(self.image_shape)


@documented_like(ImageFolder)
def image_folder(
    path: str | os.PathLike[str],
    size: int | tuple[int, int],
    *,
    colour: bool = True,
    crop: int | tuple[int, int] | None = None,
    limit: int | None = None,
    workers: int = 1,
) -> Tensor:
    """Read all images of a folder; for one that does not fit the memory there is `ImageFolder`.

    Returns
    -------
    Tensor
        ``(N, 3, rows, columns)``, or ``(N, rows, columns)`` if not in colour, float32 in [0, 1], in the order of
        the names.

    Raises
    ------
    TypeError, ValueError
        If a file can't be read or is too small, or an argument is of the wrong type or out of range.
    """
    return ImageFolder(path, size, colour=colour, crop=crop, limit=limit, workers=workers).load()


def _pair(name: str, value: int | Sequence[int]) -> tuple[int, int]:
    if np.ndim(value):
        rows, columns = integers(value, name, count=2, minimum=1)
        return rows, columns
    return (integer(value, name, minimum=1),) * 2


def _found(folder: Path) -> list[str]:
    """Names, relative to a folder, of all image files in it that are not hidden, sorted."""
    names = []
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        chosen = [name for name in files if name.lower().endswith(_SUFFIXES) and not name.startswith(".")]
        names += [Path(parent, name).relative_to(folder).as_posix() for name in chosen]
    return sorted(names)


def _converted(image: Image.Image, colour: bool) -> Image.Image:
    """Return an image of mode RGB or L, or F from 0 to 255 where a channel has 16 bits."""
    if image.mode.startswith("I;16"):
        return Image.fromarray(np.asarray(image, np.float32) * (255 / 65535))
    if image.mode in ("I", "F"):
        raise ValueError(f"it must have 8 or 16 bits a channel, got Pillow's mode {image.mode}")
    if image.mode == "P":  # a palette may hold transparent colours
        image = image.convert("RGBA")
    return image.convert("RGB" if colour else "L")


def by_hash(names: Sequence[str], seed: int) -> list[int]:
    """Return the places of names, ordered by a hash of the seed and of each: the same everywhere."""
    return sorted(range(len(names)), key=lambda k: hashlib.sha256(f"{seed}/{names[k]}".encode()).digest())
