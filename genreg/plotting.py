"""Pictures of images and their errors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from genreg.operators.bridge.arrays import array
from genreg.operators.bridge.caller_data import is_element

__all__ = ["as_images", "as_pictures", "draw_images", "image_grid", "mosaic"]


def as_images(images: Any, name: str = "images") -> np.ndarray:
    """Images as an array ``(B, n, m)``; of complex ones the magnitude.

    Parameters
    ----------
    images : ODL element, Tensor or array
        ``(n, m)`` or ``(B, n, m)``.
    name : str
        Name of the argument in error messages.

    Returns
    -------
    numpy.ndarray

    Raises
    ------
    TypeError, ValueError
        If it holds no numbers, or the shape is another one.
    """
    found = _array(images, name)
    if found.ndim not in (2, 3):
        raise ValueError(f"{name} must have the shape (n, m) or (B, n, m), got {found.shape}")
    return found[None] if found.ndim == 2 else found


def as_pictures(images: Any) -> np.ndarray:
    """Grey or colour images as an array ``(B, n, m)`` or ``(B, 3, n, m)``.

    Parameters
    ----------
    images : ODL element, Tensor or array
        ``(n, m)``, ``(B, n, m)`` or ``(B, 1 or 3, n, m)``. An element is one sample: if it has the shape ``(3, n,
        m)`` it is one image of red, green and blue, while a tensor of that shape is three grey images.

    Returns
    -------
    numpy.ndarray

    Raises
    ------
    ValueError
        If the shape is another one.
    """
    array = _array(images)
    if is_element(images) and array.ndim == 3 and array.shape[0] == 3:
        array = array[None]
    if array.ndim != 4:
        return as_images(array)
    if array.shape[1] not in (1, 3):
        raise ValueError(
            f"images must have the shape (n, m), (B, n, m) or (B, 1 or 3, n, m), got {array.shape}"
        )
    return array[:, 0] if array.shape[1] == 1 else array


def _array(images: Any, name: str = "images") -> np.ndarray:
    found = array(images, name).numpy(force=True)
    return np.abs(found) if np.iscomplexobj(found) else found


def mosaic(images: Any, *, gap: int = 2) -> np.ndarray:
    """Lay rows and columns of images out as one, which is drawn much faster than a grid of axes.

    Parameters
    ----------
    images : Tensor or array
        ``(rows, columns, n, m)``.
    gap : int
        Pixels between images; they are NaN.

    Returns
    -------
    numpy.ndarray
        ``(rows * (n + gap) - gap, columns * (m + gap) - gap)``.

    Raises
    ------
    ValueError
        If the shape is another one.
    """
    array = images.numpy(force=True) if isinstance(images, torch.Tensor) else np.asarray(images)
    if array.ndim != 4:
        raise ValueError(f"images must have the shape (rows, columns, n, m), got {array.shape}")
    rows, columns, n, m = array.shape
    padded = np.pad(array, [(0, 0), (0, 0), (0, gap), (0, gap)], constant_values=np.nan)
    joint = padded.swapaxes(1, 2).reshape(rows * (n + gap), columns * (m + gap))
    return joint[: rows * (n + gap) - gap, : columns * (m + gap) - gap]


def image_grid(rows: Mapping[str, Any], **options: Any) -> Any:
    """Draw rows of images in a figure of their own.

    Parameters
    ----------
    rows : dict of str to ODL element, Tensor or array
        Label and images of every row, in the shapes of `as_pictures`.
    **options
        Those of `draw_images`.

    Returns
    -------
    matplotlib.figure.Figure
    """
    from matplotlib.figure import Figure

    count = max(len(as_pictures(item)[: options.get("columns", 8)]) for item in rows.values())
    lines = 2 * len(rows) - 1 if options.get("errors") else len(rows)
    across, down = (lines, count) if options.get("transposed") else (count, lines)
    figure = Figure(figsize=(1.35 * across + 0.6, 1.45 * down), layout="constrained")
    draw_images(figure, rows, **options)
    return figure


def draw_images(
    figure: Any,
    rows: Mapping[str, Any],
    *,
    errors: bool = False,
    columns: int = 8,
    vmin: float = 0.0,
    vmax: float | None = None,
    error_max: float | None = None,
    titles: Mapping[str, list[str]] | None = None,
    transposed: bool = False,
    **imshow: Any,
) -> None:
    """Draw rows of images; the first row is the reference for the errors drawn after every other row.

    Parameters
    ----------
    figure : matplotlib Figure or SubFigure
        Where to draw.
    rows : dict of str to ODL element, Tensor or array
        Label and images of every row, in the shapes of `as_pictures`.
    errors : bool
        Draw the differences from the first row too; of colour images in colour, grey where there are none.
    columns : int
        Images drawn at most.
    vmin, vmax : float
        Values of black and white, in colour of every channel; the maximum of the first row by default.
    error_max : float, optional
        Errors are drawn from -error_max to error_max; half of the grey range by default.
    titles : dict of str to list of str, optional
        Titles of the images of a row.
    transposed : bool
        Lay the rows out as columns.
    **imshow
        Passed to matplotlib's ``imshow``.
    """
    images = {label: as_pictures(item)[:columns] for label, item in rows.items()}
    first = next(iter(images.values()))
    vmax = float(first.max()) if vmax is None else vmax
    error_max = 0.5 * (vmax - vmin) if error_max is None else error_max
    lines = []
    for k, (label, stack) in enumerate(images.items()):
        lines.append((label, stack, {"vmin": vmin, "vmax": vmax, "cmap": "gray"}))
        if errors and k:
            lines.append(("error", stack - first, {"vmin": -error_max, "vmax": error_max, "cmap": "RdBu_r"}))
    count = max(len(stack) for stack in images.values())
    grid = figure.subplots(*((count, len(lines)) if transposed else (len(lines), count)), squeeze=False)
    for ax in grid.flat:
        ax.set_axis_off()
    for line, (label, stack, style) in zip(grid.T if transposed else grid, lines, strict=True):
        for k, (ax, image) in enumerate(zip(line, stack, strict=False)):
            ax.set_axis_on()
            ax.set(xticks=[], yticks=[])
            options = {**style, "interpolation": "nearest", **imshow}
            if image.ndim == 3:
                image = (np.moveaxis(image, 0, -1) - options["vmin"]) / (options["vmax"] - options["vmin"])
            ax.imshow(image.clip(0, 1) if image.ndim == 3 else image, **options)
            if titles and k < len(titles.get(label, [])):
                ax.set_xlabel(titles[label][k], fontsize=7, labelpad=2)
        if transposed:
            line[0].set_title(label, fontsize=8)
        else:
            line[0].set_ylabel(label, fontsize=8)
