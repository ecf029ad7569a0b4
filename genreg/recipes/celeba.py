"""The images of the recipe "celeba": aligned faces, 178 x 218, from a folder."""

from __future__ import annotations

import os
from pathlib import Path

from torch import Tensor

from genreg.datasets import ImageFolder

_SIZE, _CROP = 64, 108  # the middle of an aligned image is the face, without hair and background
_FILES = 202_599
_ENDS = (162_770, 182_637)  # the data set's own division: training, then validation, then test
_SCORED = 1000


def folder() -> ImageFolder:
    """All faces in ``$GENREG_DATA/celeba``.

    Raises
    ------
    FileNotFoundError
        If there is no such folder or it has no images.
    ValueError
        If it has fewer than three.
    """
    data = os.environ.get("GENREG_DATA")
    path = Path(data or "") / "celeba"
    if not data or not path.is_dir():
        raise FileNotFoundError(
            "the recipe 'celeba' needs the aligned images of CelebA, img_align_celeba/000001.jpg and so on, in the "
            "folder celeba inside the one that the environment variable GENREG_DATA names, "
            + (f"got {path}, which does not exist" if data else "which is not set")
            + "; they are at https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html, for research only"
        )
    images = ImageFolder(path, _SIZE, crop=_CROP, workers=min(8, os.cpu_count() or 1))
    if len(images) < 3:
        raise ValueError(f"the recipe 'celeba' needs at least 3 images, got {len(images)} in {path}")
    return images


def _ends(count: int) -> list[int]:
    """Where validation and test images begin; in the proportions of the data set where files are missing."""
    return [
        min(max(k + 1, round(end / _FILES * count)), count - len(_ENDS) + k) for k, end in enumerate(_ENDS)
    ]


def training_images() -> ImageFolder:
    """Sampler of the training images, which are read as they are drawn."""
    images = folder()
    return images.subset(range(_ends(len(images))[0]))


def held_out(part: int) -> Tensor:
    """First 1,000 validation (0) or test (1) images, ``(N, 3, 64, 64)``."""
    images = folder()
    first, last = [*_ends(len(images)), len(images)][part : part + 2]
    return images.load(range(first, min(last, first + _SCORED)))
