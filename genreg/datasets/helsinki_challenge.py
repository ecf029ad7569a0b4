"""The files of the Helsinki Tomography Challenge 2022: sinograms, geometry and reference segmentations."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from genreg.datasets.fan_beam import (
    DETECTOR_SIZE,
    DETECTORS,
    SOURCE_DETECTOR,
    SOURCE_ORIGIN,
    HTCData,
)
from genreg.operators.bridge.arguments import check_path, integer

_RECORD = "doi:10.5281/zenodo.8041800"


def htc2022(path: str | os.PathLike[str], *, size: int = 512) -> HTCData:
    """Load one disc of the Helsinki Tomography Challenge 2022.

    Parameters
    ----------
    path : str or path
        A file ``htc2022_*_full.mat`` or ``htc2022_*_limited.mat``, or the name of a disc ("ta", "07a",
        "solid_disc"), whose file is looked for in the folder ``htc2022`` of the one named by the environment
        variable ``GENREG_DATA``. The reference segmentation is read from the file ``*_seg.mat`` beside it.
    size : int, optional
        Pixels along each side of `HTCData.space`. The field of view is always that of the references, 512
        pixels of 0.2 mm / 1.3484.

    Returns
    -------
    HTCData
        Sinogram, geometry, space and reference.

    Raises
    ------
    FileNotFoundError
        If there is no such file; the message says where to get the data.
    ValueError
        If the file does not hold the challenge's structure, or its geometry is another one.

    References
    ----------
    Meaney, Silva de Moura, Siltanen (2022), Helsinki Tomography Challenge 2022 open tomographic dataset,
    doi:10.5281/zenodo.8041800 (CC BY 4.0).

    Examples
    --------
    >>> data = genreg.datasets.htc2022("ta", size=128).subset(0, 60)    # doctest: +SKIP
    >>> A = genreg.operators.ray_transform(data.space, data.geometry)   # doctest: +SKIP
    """
    size = integer(size, "size", minimum=1)
    file = _find(path)
    name = (
        file.name.removeprefix("htc2022_").removesuffix(".mat").removesuffix("_full").removesuffix("_limited")
    )
    data = _read(file, ("CtDataFull", "CtDataLimited"))
    parameters = getattr(data, "parameters", None)
    sinogram = np.asarray(getattr(data, "sinogram", None))
    angles = np.asarray(getattr(parameters, "angles", None))
    if sinogram.dtype.kind != "f" or sinogram.ndim != 2 or angles.dtype.kind not in "fiu":
        raise ValueError(f"{file} must hold a 2-D floating-point sinogram and parameters.angles")
    angles = angles.astype(float).ravel()
    if sinogram.shape != (angles.size, DETECTORS) or angles.size < 2:
        raise ValueError(
            f"sinogram in {file} must have the shape (number of angles >= 2, {DETECTORS}), "
            f"got {sinogram.shape} with {angles.size} angles"
        )
    if not np.isfinite(sinogram).all():
        raise ValueError(f"sinogram in {file} must be finite, got NaN or infinite values")
    steps = np.diff(angles)
    if not (steps[0] > 0 and np.allclose(steps, steps[0], atol=1e-6)):
        raise ValueError(
            f"angles in {file} must increase in equal steps, got steps {steps.min()} to {steps.max()}"
        )
    for key, expected in (
        ("distanceSourceOrigin", SOURCE_ORIGIN),
        ("distanceSourceDetector", SOURCE_DETECTOR),
        ("pixelSizePost", DETECTOR_SIZE),
        ("numDetectorsPost", DETECTORS),
    ):
        found = getattr(parameters, key, None)
        if not isinstance(found, (int, float)) or abs(found - expected) > 1e-6:
            raise ValueError(f"parameters.{key} in {file} must be {expected}, got {found}")
    return HTCData(name, torch.from_numpy(sinogram.astype(np.float32)), angles, _reference(file), size)


def _find(path: str | os.PathLike[str]) -> Path:
    """File of a path or of the name of a disc."""
    check_path(path, "path")
    file = Path(path)
    if file.suffix == ".mat":
        candidates = [file]
    else:
        folder = os.environ.get("GENREG_DATA")
        if folder is None:
            raise FileNotFoundError(
                "path must be a .mat file, or the name of a disc with GENREG_DATA set to the data folder, "
                f"got {str(path)!r} and no GENREG_DATA (the files: {_RECORD})"
            )
        candidates = [Path(folder) / "htc2022" / f"htc2022_{path}_{kind}.mat" for kind in ("full", "limited")]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise FileNotFoundError(f"no file {' or '.join(map(str, candidates))}; the data are on Zenodo, {_RECORD}")


def _read(file: Path, keys: tuple[str, ...]) -> Any:
    """Return the variable of a MATLAB file that has one of these names."""
    import scipy.io

    try:
        content = scipy.io.loadmat(file, squeeze_me=True, struct_as_record=False)
    except Exception as error:  # scipy raises many types on damaged files
        raise ValueError(f"{file} must be a readable MATLAB file (version 5), got: {error}") from error
    for key in keys:
        if key in content:
            return content[key]
    found = sorted(k for k in content if not k.startswith("__"))
    raise ValueError(f"{file} must hold the variable {' or '.join(keys)}, got {found}")


def _reference(file: Path) -> Tensor | None:
    stem = file.name.removesuffix(".mat")
    for name in (f"{stem}_recon_fbp_seg.mat", f"{stem.removesuffix('_limited')}_recon_fbp_seg.mat"):
        if (file.parent / name).is_file():
            image = np.asarray(_read(file.parent / name, ("reconFullFbpSeg",)))
            if image.shape != (512, 512):
                raise ValueError(
                    f"reference in {file.parent / name} must be 512 x 512, got shape {image.shape}"
                )
            return torch.from_numpy(image.astype(bool))
    return None
