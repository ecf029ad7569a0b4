"""Grey images of several sizes from a folder of files of several formats."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from genreg.datasets.folder import by_hash
from genreg.datasets.image_files import IMAGE_SUFFIXES, UnusableError, is_image_file, patient_of, read_slices
from genreg.operators.bridge.arguments import (
    check_path,
    flag,
    integer,
    number,
    seed_number,
)
from genreg.operators.bridge.arrays import check_memory

_LISTED = 10  # skipped files that a message names with their reasons
_QUANTILES = (0.001, 0.999)
_PIXELS = 2_000_000  # for the quantiles, of all images together
_BEYOND = 1.0  # by how many ranges images may go beyond theirs


@dataclass(frozen=True, eq=False)
class MixedImages:
    """Grey images, each of its own size.

    Attributes
    ----------
    images : tuple of Tensor
        float32, ``(rows, columns)`` each.
    names : tuple of str
        The file of every image, relative to the folder, and its slice where the file has several.
    groups : tuple of str
        What a split keeps together: the first folder inside the folder, such as that of a patient; where there is none,
        the patient whom a DICOM file names, or the file.
    skipped : dict of str to str
        What could not be used, and why.
    """

    images: tuple[Tensor, ...]
    names: tuple[str, ...]
    groups: tuple[str, ...]
    skipped: Mapping[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.images)

    def take(self, indices: Sequence[int]) -> MixedImages:
        """Return some of the images."""
        own: dict[str, Any] = {
            name: tuple(getattr(self, name)[k] for k in indices) for name in ("images", "names", "groups")
        }
        return replace(self, **own)

    def split(self, held_out: float, *, seed: int = 0) -> tuple[MixedImages, MixedImages]:
        """Hold out a share of the groups, by their names: the same ones fall into the same part everywhere.

        A single group, such as one volume, is cut in its order: neighbouring slices are nearly the same image, so the
        last ones are held out.

        Parameters
        ----------
        held_out : float
            Share of the groups, in (0, 1); at least one is left on either side.
        seed : int
            Another seed is another split, of several groups.

        Returns
        -------
        training, held_out : MixedImages

        Raises
        ------
        ValueError
            If there is one image only.
        """
        share, seed = number(held_out, "held_out", above=0, below=1), seed_number(seed)
        if len(self) < 2:
            raise ValueError(f"images must be at least two to hold one out, got {len(self)}")
        names = sorted(set(self.groups))
        if len(names) == 1:
            first = len(self) - _share(share, len(self))
            return self.take(range(first)), self.take(range(first, len(self)))
        chosen = {names[k] for k in by_hash(names, seed)[: _share(share, len(names))]}
        outside = [k for k, group in enumerate(self.groups) if group in chosen]
        inside = [k for k, group in enumerate(self.groups) if group not in chosen]
        return self.take(inside), self.take(outside)

    def affine(self) -> tuple[float, float]:
        """Return scale s and offset a so that (x - a) / s is in [0, 1] but for 1 of 1,000 pixels at either end.

        Raises
        ------
        ValueError
            If nearly all pixels have the same value.
        """
        step = max(1, sum(x.numel() for x in self.images) // _PIXELS)
        pixels = np.concatenate([x.flatten()[::step].numpy() for x in self.images])
        low, high = np.quantile(pixels, _QUANTILES).tolist()
        if not high > low:
            raise ValueError(
                f"images must differ from a constant, got {low:g} in nearly all pixels; give their range"
            )
        return high - low, low

    def mapped(self, scale: float, offset: float) -> MixedImages:
        """Return the images (x - offset) / scale, cut to [-1, 2], so that a few extreme pixels don't matter."""
        images = tuple(((x - offset) / scale).clamp(-_BEYOND, 1.0 + _BEYOND) for x in self.images)
        return replace(self, images=images)


def read_images(
    folder: str | os.PathLike[str],
    *,
    smallest: int = 1,
    key: str | None = None,
    limit: int | None = None,
    strict: bool = False,
    progress: bool = True,
) -> MixedImages:
    """Read the grey images of a folder and of the folders inside it, all into memory.

    Formats and units are those of `genreg.datasets.image_files`: pictures (png, jpg, bmp, webp), TIFF, arrays (npy,
    npz, mat, h5), NIfTI and DICOM; a volume is the stack of its slices. Hidden files are left out.

    Parameters
    ----------
    folder : str or path
        The folder.
    smallest : int
        Rows and columns that an image must have at least.
    key : str, optional
        Name of the array in npz, mat and h5 files that have several.
    limit : int, optional
        Read at most so many files, in the order of their names.
    strict : bool
        Whether an image that can't be used is an error. By default it is skipped: one that is damaged, in colour or
        complex, too small, constant, or not finite.
    progress : bool
        Whether to show a progress bar.

    Returns
    -------
    MixedImages
        In the order of the names.

    Raises
    ------
    FileNotFoundError
        If there is no such folder, or no image file in it.
    ValueError
        If no image can be used, or, with `strict`, one can't; or if they don't fit the memory.
    ImportError
        If the library for a format is not installed.

    Warns
    -----
    UserWarning
        Once, if something was skipped; the message counts and names it.
    """
    check_path(folder, "folder")
    path = Path(folder)
    smallest, strict = integer(smallest, "smallest", minimum=1), flag(strict, "strict")
    if limit is not None:
        limit = integer(limit, "limit", minimum=1)
    if not path.is_dir():
        raise FileNotFoundError(f"folder must be a folder of images, got {os.fspath(folder)!r}")
    files = _found(path)[:limit]
    if not files:
        raise FileNotFoundError(
            f"folder must have images ({', '.join(IMAGE_SUFFIXES)}), got {os.fspath(folder)!r}, which has none"
        )
    images: list[Tensor] = []
    names: list[str] = []
    groups: list[str] = []
    skipped: dict[str, str] = {}
    total = 0
    for file in tqdm(files, desc="read", disable=not progress, leave=False):
        first, *inside = file.parts
        found = list(_usable(path / file, file.as_posix(), key, smallest, skipped))
        group = f"{first}/" if inside else (patient_of(path / file) if found else None) or first
        for name, x in found:
            images.append(x)
            total += x.numel()
            names.append(name)
            groups.append(group)
        if strict and skipped:
            name, reason = next(iter(skipped.items()))
            raise ValueError(f"image {name} in {os.fspath(folder)} can't be used: {reason}")
        check_memory((total,), torch.float32, "folder", os.fspath(folder))
    if not images:
        raise ValueError(f"folder must have images that can be used, got none: {_listed(skipped)}")
    if skipped:
        warnings.warn(
            f"{len(skipped)} of {len(skipped) + len(images)} images in {os.fspath(folder)} can't be used and were "
            f"skipped: {_listed(skipped)}",
            UserWarning,
            stacklevel=2,
        )
    return MixedImages(tuple(images), tuple(names), tuple(groups), skipped)


def _usable(
    file: Path, name: str, key: str | None, smallest: int, skipped: dict[str, str]
) -> Iterator[tuple[str, Tensor]]:
    """The slices of a file that can be used, with their names; the others are noted."""
    try:
        stack = read_slices(file, key=key)
    except UnusableError as error:
        skipped[name] = str(error)
        return
    count, rows, columns = stack.shape
    if not count or min(rows, columns) < smallest:
        skipped[name] = f"it must have at least {smallest} x {smallest} pixels, got {rows} x {columns}"
        return
    for k, x in enumerate(stack):
        own = f"{name}, slice {k}" if count > 1 else name
        if bad := int((~np.isfinite(x)).sum()):
            skipped[own] = f"it has {bad} NaN or infinite pixels"
        elif x.min() == x.max():
            skipped[own] = f"all its pixels are {x.min():g}"
        else:
            yield own, torch.from_numpy(x)


def _found(folder: Path) -> list[Path]:
    """All image files in a folder that are not hidden, relative to it, in the order of their names."""
    found = []
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        paths = [Path(parent, name) for name in files if not name.startswith(".")]
        found += [path.relative_to(folder) for path in paths if is_image_file(path)]
    return sorted(found, key=lambda path: path.as_posix())


def _listed(skipped: Mapping[str, str]) -> str:
    shown = [f"{name} ({reason})" for name, reason in list(skipped.items())[:_LISTED]]
    more = len(skipped) - len(shown)
    return "; ".join(shown) + (f"; and {more} more" if more else "")


def _share(share: float, count: int) -> int:
    return min(max(1, round(share * count)), count - 1)
