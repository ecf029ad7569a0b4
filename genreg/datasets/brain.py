"""Axial T1-weighted slices of two brains, magnitude images for training priors of magnetic resonance imaging."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

_NAME = "brain_axial_128.npz"
_SOURCES = (
    "it is made from the T1-weighted series of github.com/datalad/example-dicom-structural (subject 1, PDDL) and "
    "github.com/FNNDSC/SAG-anon (subject 2, MIT), resliced to axial slices of 128 x 128 pixels: `images` (slices, "
    "128, 128) of bytes and `subject` (slices,)"
)


def brain_slices(root: str | os.PathLike[str] | None = None) -> tuple[Tensor, Tensor]:
    """Read the axial slices of the two brains.

    There are only two people, an adult (1) and a child (2), and neighbouring slices are alike: hold out one of the
    people, not a random choice of slices, and claim nothing about other scanners or people.

    Parameters
    ----------
    root : str or path, optional
        Folder with the file ``brain_axial_128.npz``; by default ``$GENREG_DATA/mri``.

    Returns
    -------
    images : Tensor
        float32, ``(504, 128, 128)``, grey values / 255, in [0, 1]; rows from front to back.
    subjects : Tensor
        int64, ``(504,)``: 1 for the 280 slices of the adult, 2 for the 224 of the child.

    Raises
    ------
    FileNotFoundError
        If there is no such file; the message says what it is made from.
    ValueError
        If the file is damaged or holds something else.
    """
    if root is None:
        data = os.environ.get("GENREG_DATA")
        if not data:
            raise FileNotFoundError(
                f"root must be a folder with the file {_NAME} unless GENREG_DATA is set, got neither; {_SOURCES}"
            )
        root = Path(data) / "mri"
    path = Path(root) / _NAME
    if not path.is_file():
        raise FileNotFoundError(
            f"root must be a folder with the file {_NAME}, got {os.fspath(root)!r}; {_SOURCES}"
        )
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            images, subjects = archive["images"], archive["subject"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} must be an npz file with `images` and `subject`: {error}") from error
    if images.dtype != np.uint8 or images.shape[1:] != (128, 128) or subjects.shape != images.shape[:1]:
        raise ValueError(
            f"{path} must hold images (slices, 128, 128) of bytes and one subject for each, got {images.dtype} "
            f"{images.shape} and {subjects.shape}"
        )
    return torch.from_numpy(images).float().div_(255), torch.from_numpy(subjects.astype(np.int64))
