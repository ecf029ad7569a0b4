"""Pictures of images and their errors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from genreg.operators import to_tensor
from genreg.solvers.door import is_element

__all__ = ["image_grid"]


def _as_images(images: Any) -> np.ndarray:
    """Images as an array ``(B, n, m)``."""
    if is_element(images):
        images = to_tensor(images)
    array = images.detach().cpu().numpy() if isinstance(images, torch.Tensor) else np.asarray(images)
    array = np.abs(array) if np.iscomplexobj(array) else array
    if array.ndim not in (2, 3):
        raise ValueError(f"images must have the shape (n, m) or (B, n, m), got {array.shape}")
    return array[None] if array.ndim == 2 else array


def image_grid(
    rows: Mapping[str, Any],
    *,
    errors: bool = False,
    columns: int = 8,
    vmin: float = 0.0,
    vmax: float | None = None,
    error_max: float | None = None,
    titles: Mapping[str, list[str]] | None = None,
    **imshow: Any,
) -> Any:
    """Draw rows of images; the first row is the reference for the errors drawn below every other row.

    Parameters
    ----------
    rows : dict of str to ODL element, Tensor or array
        Label and images, ``(n, m)`` or ``(B, n, m)``, of every row.
    errors : bool
        Draw the differences from the first row too.
    columns : int
        Images drawn at most.
    vmin, vmax : float
        Grey values of black and white; the maximum of the first row by default.
    error_max : float, optional
        Errors are drawn from -error_max to error_max; half of the grey range by default.
    titles : dict of str to list of str, optional
        Titles of the images of a row.
    **imshow
        Passed to matplotlib's ``imshow``.

    Returns
    -------
    matplotlib.figure.Figure
    """
    from matplotlib.figure import Figure

    images = {label: _as_images(item)[:columns] for label, item in rows.items()}
    first = next(iter(images.values()))
    vmax = float(first.max()) if vmax is None else vmax
    error_max = 0.5 * (vmax - vmin) if error_max is None else error_max
    lines = []
    for k, (label, stack) in enumerate(images.items()):
        lines.append((label, stack, {"vmin": vmin, "vmax": vmax, "cmap": "gray"}))
        if errors and k:
            lines.append(("error", stack - first, {"vmin": -error_max, "vmax": error_max, "cmap": "RdBu_r"}))
    count = max(len(stack) for stack in images.values())
    figure = Figure(figsize=(1.35 * count + 0.6, 1.45 * len(lines)), layout="constrained")
    axes = figure.subplots(len(lines), count, squeeze=False)
    for line, (label, stack, style) in zip(axes, lines, strict=True):
        for ax in line:
            ax.set(xticks=[], yticks=[])
            ax.set_axis_off()
        for k, (ax, image) in enumerate(zip(line, stack, strict=False)):
            ax.set_axis_on()
            ax.imshow(image, **{**style, "interpolation": "nearest", **imshow})
            if titles and k < len(titles.get(label, [])):
                ax.set_title(titles[label][k], fontsize=7, pad=2)
        line[0].set_ylabel(label, fontsize=8)
    return figure
