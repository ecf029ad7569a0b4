r"""Sensitivity maps of receive coils, estimated from the measured centre of k-space.

The image :math:`x` is seen by coil c as :math:`S_c x`. Maps are determined up to a factor common to all coils in every
pixel; here :math:`\sum_c |S_c|^2 = 1` where there is signal, and zero elsewhere. The phase depends on the method:

* "low-resolution" maps include the smooth phase of the image, so that the image is nearly real and positive, as priors
  of magnitude images require;
* ESPIRiT's maps have the phase of the first coil removed, and the image keeps its phase relative to that coil.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from genreg.operators.bridge.arguments import choice, integer, integers, number
from genreg.operators.bridge.arrays import array, boolean_mask
from genreg.operators.mri.fourier import centred_fft2
from genreg.operators.mri.kspace_masks import central

_METHODS = ("low-resolution", "espirit")
_LEAST = 4  # entries along each axis of a centre from which coils can be told apart


def coil_maps(
    kspace: ArrayLike | Tensor,
    *,
    calibration: int | tuple[int, int] | None = None,
    method: Literal["low-resolution", "espirit"] = "low-resolution",
    threshold: float = 0.05,
) -> Tensor:
    r"""Estimate sensitivity maps from the fully sampled centre of k-space.

    Parameters
    ----------
    kspace : array or Tensor
        Complex, ``(C, n, m)``, zero where it was not measured, with the frequency zero at ``[n // 2, m // 2]``.
    calibration : int or tuple of int, optional
        Rows and columns of the centre that is used. All of it must have been measured. By default the largest such
        centre, see `calibration_region`.
    method : {"low-resolution", "espirit"}
        "low-resolution": the images of the coils from the centre, tapered by a Hann window, divided by their root
        sum of squares. "espirit": the eigenvectors that the calibration data determine, by sigpy (``genreg[mri]``),
        on the largest centred square.
    threshold : float
        Pixels are seen, for "low-resolution", where the root sum of squares is at least this fraction of its
        maximum; for "espirit" where the largest eigenvalue is at least one minus this fraction.

    Returns
    -------
    Tensor
        Complex maps ``(C, n, m)`` of the precision of `kspace`, on the CPU, for `fourier_sampling` and `nufft`.

    Raises
    ------
    TypeError
        If `kspace` is not complex, or `calibration` holds no integers.
    ValueError
        If `kspace` is of another shape, not finite or zero throughout; if the centre was not measured or is smaller
        than 4 x 4; if `method` is unknown or `threshold` not between 0 and 1.
    ImportError
        If sigpy is needed and not installed.

    References
    ----------
    K. P. Pruessmann, M. Weiger, M. B. Scheidegger, P. Boesiger (1999). SENSE: sensitivity encoding for fast MRI.
    Magnetic Resonance in Medicine 42(5), 952-962. (maps from images of low resolution)

    M. Uecker et al. (2014). ESPIRiT, an eigenvalue approach to autocalibrating parallel MRI: where SENSE meets GRAPPA.
    Magnetic Resonance in Medicine 71(3), 990-1001. doi:10.1002/mrm.24751
    """
    choice(method, "`method`", _METHODS)
    threshold = number(threshold, "`threshold`", minimum=0, below=1)
    k = _checked(kspace)
    measured = (k != 0).any(0)
    size = calibration_region(measured) if calibration is None else _sizes(calibration, measured)
    if min(size) < _LEAST:
        raise ValueError(
            f"`calibration` must have at least {_LEAST} x {_LEAST} entries to tell the coils apart, "
            f"got {size[0]} x {size[1]}"
        )
    return _espirit(k, min(size), threshold) if method == "espirit" else _low_resolution(k, size, threshold)


def calibration_region(mask: ArrayLike | Tensor) -> tuple[int, int]:
    """Return rows and columns of the largest centred rectangle of k-space that is measured entirely.

    Parameters
    ----------
    mask : array or Tensor of bool
        ``(n, m)``, True where k-space is measured, with the frequency zero at ``[n // 2, m // 2]``. A region of r rows
        takes those from ``n // 2 - r // 2``.

    Returns
    -------
    tuple of int
        The rectangle of the largest area, the squarest of several; ``(0, 0)`` if the frequency zero is not measured.

    Raises
    ------
    TypeError
        If `mask` is not boolean.
    ValueError
        If it has not two axes, or is False throughout.
    """
    shape = tuple(np.shape(mask))
    if len(shape) != 2:
        raise ValueError(f"`mask` must have the shape (n, m), got {shape}")
    there = boolean_mask(mask, shape, "`mask`").numpy(force=True)
    best, columns = (0, 0), shape[1]
    for rows in range(1, shape[0] + 1):
        while columns and not there[central(shape, (rows, columns))].all():
            columns -= 1
        if (rows * columns, min(rows, columns)) > (best[0] * best[1], min(best)):
            best = rows, columns
    return best


def _checked(kspace: Any) -> Tensor:
    k = array(kspace, "`kspace`").cpu().resolve_conj()
    if not k.is_complex():
        raise TypeError(f"`kspace` must be complex, got {k.dtype}")
    if k.ndim != 3 or not k.numel():
        raise ValueError(f"`kspace` must have the shape (C, n, m), got {tuple(k.shape)}")
    if not bool(torch.isfinite(k).all()):
        raise ValueError("`kspace` must be finite, got NaN or infinite samples")
    if not bool(k.any()):
        raise ValueError("`kspace` must hold measured samples, got zero throughout")
    return k


def _sizes(calibration: Any, measured: Tensor) -> tuple[int, int]:
    if np.ndim(calibration):
        pair = integers(calibration, "`calibration`", count=2)
    else:
        pair = (integer(calibration, "`calibration`"),) * 2
    n, m = measured.shape
    if not (1 <= pair[0] <= n and 1 <= pair[1] <= m):
        raise ValueError(f"`calibration` must be between 1 and the size of k-space, ({n}, {m}), got {pair}")
    share = float(measured[central((n, m), pair)].double().mean())
    if share < 1:
        raise ValueError(
            f"`calibration` must be a centre of k-space that was measured entirely, got {pair[0]} x {pair[1]}, "
            f"of which {100 * share:.1f} % were; the largest is {calibration_region(measured)}"
        )
    return pair[0], pair[1]


def _low_resolution(k: Tensor, size: tuple[int, int], threshold: float) -> Tensor:
    # symmetric about the frequency zero, and zero beyond the first of the region
    rows, columns = (
        torch.hann_window(2 * (w // 2) + 3, periodic=False, dtype=k.dtype.to_real())[1 : 1 + w] for w in size
    )
    window = torch.zeros(k.shape[1:], dtype=rows.dtype)
    window[central(k.shape, size)] = torch.outer(rows, columns)
    images = centred_fft2(k * window, inverse=True)
    total = images.abs().square().sum(0).sqrt()
    seen = (total > 0) & (total >= threshold * total.max())
    return torch.where(seen, images / torch.where(seen, total, 1), 0)


def _espirit(k: Tensor, width: int, threshold: float) -> Tensor:
    try:
        from sigpy.mri.app import EspiritCalib
    except ImportError:
        raise ImportError("method=\"espirit\" needs sigpy: pip install 'genreg[mri]'") from None
    crop = 1.0 - threshold
    maps = EspiritCalib(k.numpy(force=True), calib_width=width, crop=crop, show_pbar=False).run()
    return torch.from_numpy(np.array(maps)).to(k.dtype)
