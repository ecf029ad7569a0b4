"""Synthetic acrylic discs with holes, like those of the Helsinki Tomography Challenge 2022."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from genreg.operators.bridge.arguments import integer, number, seed_number
from genreg.operators.bridge.arrays import check_memory

DISC_RADIUS = 34.87
"""Radius of the acrylic discs in mm, fitted to the projections of the solid disc (nominal diameter 70 mm)."""

DISC_ATTENUATION = 0.0363
"""Effective attenuation of acrylic per mm: the value 1 in the images stands for it."""

FIELD_OF_VIEW = 512 * 0.2 / (553.74 / 410.66)
"""Side of the square field of view in mm (512 pixels of the challenge's reference segmentations)."""

_WALL = 1.2  # least material between two holes and between a hole and the rim, mm
_POINTS = 96  # vertices of a contour


def discs_with_holes(n: int, *, seed: int, size: int = 64, jitter: float = 1.5, first: int = 0) -> Tensor:
    """Random acrylic discs with holes.

    Each image shows a disc of 70 mm diameter in a field of view of 75.9 mm, that of the challenge's 512 x
    512 references. It has none to twenty holes: circles, ellipses, convex and concave polygons with
    rounded corners, slots, arcs, stars and smooth irregular blobs, scattered without touching, or the
    cells of a Voronoi diagram separated by walls. In some discs all holes share one family of shapes or
    are stretched in one direction.

    Parameters
    ----------
    n : int
        Number of images, at least 1.
    seed : int
        Seed of the random numbers. Image ``i`` depends on ``seed`` and ``i`` only.
    size : int, optional
        Pixels along each side, 16 to 512.
    jitter : float, optional
        The centre of a disc is off the middle of the field of view by up to this many mm along each axis;
        0 to 3. The default is as far as the challenge's discs are off.
    first : int, optional
        Number of the first image: ``discs_with_holes(n, seed=s, first=k)`` are the images k to k + n - 1 of
        a longer draw.

    Returns
    -------
    Tensor
        float32, shape ``(n, size, size)``. A value is the fraction of a pixel's area that is acrylic, in
        [0, 1]; times `DISC_ATTENUATION` it is the attenuation per mm.

    Raises
    ------
    ValueError
        If an argument is out of range.
    TypeError
        If ``n``, ``seed``, ``size`` or ``first`` is not an integer.

    References
    ----------
    Meaney, Silva de Moura, Siltanen (2022), Helsinki Tomography Challenge 2022 open tomographic dataset,
    doi:10.5281/zenodo.8041800.

    Examples
    --------
    >>> import genreg
    >>> genreg.datasets.discs_with_holes(3, seed=0, size=64).shape
    torch.Size([3, 64, 64])
    """
    n, first, seed = integer(n, "n", minimum=1), integer(first, "first", minimum=0), seed_number(seed)
    size, jitter = (
        integer(size, "size", minimum=16, maximum=512),
        number(jitter, "jitter", minimum=0, maximum=3),
    )
    check_memory((n, size, size), torch.float32, "n", n)
    images = np.empty((n, size, size), dtype=np.float32)
    for i in range(n):
        rng = np.random.default_rng((seed, first + i))
        centre = jitter * complex(*rng.uniform(-1.0, 1.0, 2))
        images[i] = _rasterise(centre, _layout(rng), size)
    return torch.from_numpy(images)


def _rasterise(centre: complex, holes: list[np.ndarray], size: int) -> np.ndarray:
    """Area fractions of the disc minus its holes; contours in mm relative to the disc's centre."""
    from PIL import Image, ImageDraw

    factor = -(-512 // size) if size < 256 else 4  # supersampling
    m = size * factor
    canvas = Image.new("L", (m, m), 0)
    draw = ImageDraw.Draw(canvas)
    rim = DISC_RADIUS * np.exp(2j * np.pi * np.arange(256) / 256)
    for contour, fill in [(rim, 255), *((h, 0) for h in holes)]:
        # the centre of pixel k is the coordinate k of PIL
        draw.polygon(_vertices((contour + centre) / FIELD_OF_VIEW * m + (m - 1) / 2 * (1 + 1j)), fill=fill)
    coverage = np.asarray(canvas.reduce(factor) if factor > 1 else canvas, dtype=np.float32)
    return coverage / 255.0


def _vertices(contour: np.ndarray) -> list[tuple[float, float]]:
    return list(zip(contour.real.tolist(), contour.imag.tolist(), strict=True))


def _layout(rng: np.random.Generator) -> list[np.ndarray]:
    """Contours of all holes of one disc: complex arrays in mm, relative to the disc's centre."""
    kind = rng.random()
    if kind < 0.02:
        return []
    return _voronoi(rng) if kind < 0.27 else _scatter(rng)


def _scatter(rng: np.random.Generator) -> list[np.ndarray]:
    """Holes at random places, each kept if it leaves a wall to those before it."""
    from PIL import Image, ImageDraw

    grid = 192
    scale = grid / (2 * DISC_RADIUS)
    taken = np.zeros((grid, grid), dtype=bool)
    wanted = int(rng.integers(1, 15)) if rng.random() < 0.85 else int(rng.integers(12, 21))
    radius = rng.uniform(3.0, 9.5) if wanted < 9 else rng.uniform(2.5, 6.5)
    family = _SHAPES[rng.integers(len(_SHAPES))] if rng.random() < 0.5 else None
    stretch = _stretch(rng) if rng.random() < 0.4 else None
    wall = rng.uniform(_WALL, 3.0)
    holes: list[np.ndarray] = []
    for _ in range(5 * wanted):
        if len(holes) == wanted:
            break
        r = float(np.clip(radius * rng.lognormal(0.0, 0.25), 1.8, 14.0))
        shape = family if family is not None else _SHAPES[rng.integers(len(_SHAPES))]
        contour = r * shape(rng)
        contour = stretch(contour) if stretch is not None else contour * np.exp(2j * np.pi * rng.random())
        place = (DISC_RADIUS - 3.0) * np.sqrt(rng.random()) * np.exp(2j * np.pi * rng.random())
        contour = contour + place
        if np.abs(contour).max() > DISC_RADIUS - wall:
            continue
        middle = contour.mean()
        reach = np.abs(contour - middle).mean()
        grown = middle + (contour - middle) * (1.0 + wall / reach)
        stamp = Image.new("1", (grid, grid), 0)
        ImageDraw.Draw(stamp).polygon(_vertices(grown * scale + (grid - 1) / 2 * (1 + 1j)), fill=1)
        cover = np.asarray(stamp)
        if (taken & cover).any():
            continue
        taken |= cover
        holes.append(contour)
    return holes


def _voronoi(rng: np.random.Generator) -> list[np.ndarray]:
    """Cells of a Voronoi diagram, clipped to the disc and shrunk by half a wall; some are left solid."""
    wanted = int(rng.integers(5, 22))
    radius = rng.uniform(0.6, 0.92) * DISC_RADIUS
    spacing = 1.1 * radius / np.sqrt(wanted)
    seeds: list[complex] = []
    for _ in range(40 * wanted):
        p = radius * np.sqrt(rng.random()) * np.exp(2j * np.pi * rng.random())
        if all(abs(p - q) > spacing for q in seeds):
            seeds.append(p)
        if len(seeds) == wanted:
            break
    half_wall = rng.uniform(0.7, 2.4)
    rounding = rng.uniform(0.2, 1.0)
    solid = rng.choice([0.0, 0.15, 0.4])
    bound = min(radius * rng.uniform(1.0, 1.15), DISC_RADIUS - _WALL)
    rays = np.exp(2j * np.pi * np.arange(_POINTS) / _POINTS)
    holes = []
    for i, c in enumerate(seeds):
        if rng.random() < solid:
            continue
        reach = -np.real(c * rays.conj()) + np.sqrt(bound**2 - abs(c) ** 2 + np.real(c * rays.conj()) ** 2)
        for j, d in enumerate(seeds):
            if j != i:
                normal = (d - c) / abs(d - c)
                cosine = np.real(rays * normal.conjugate())
                limit = abs(d - c) / 2 - half_wall
                reach = np.where(cosine > 1e-3, np.minimum(reach, limit / np.maximum(cosine, 1e-3)), reach)
        if reach.min() > 1.0:
            holes.append(c + _rounded(reach * rays, rounding))
    return holes


def _stretch(rng: np.random.Generator) -> Callable[[np.ndarray], np.ndarray]:
    """Stretch along one direction, area kept."""
    ratio, direction = np.sqrt(rng.uniform(1.2, 2.4)), np.exp(1j * np.pi * rng.random())

    def apply(contour: np.ndarray) -> np.ndarray:
        turned = contour * np.conj(direction)
        return direction * (turned.real * ratio + 1j * turned.imag / ratio)

    return apply


def _resampled(vertices: np.ndarray) -> np.ndarray:
    """Points at equal arc length on the closed polygon."""
    closed = np.append(vertices, vertices[0])
    length = np.concatenate([[0.0], np.cumsum(np.abs(np.diff(closed)))])
    at = np.linspace(0.0, length[-1], _POINTS, endpoint=False)
    return np.interp(at, length, closed.real) + 1j * np.interp(at, length, closed.imag)


def _rounded(vertices: np.ndarray, radius: float) -> np.ndarray:
    """Polygon whose corners are rounded by a Gaussian of standard deviation ``radius`` along the contour."""
    contour = _resampled(vertices)
    step = np.abs(np.diff(np.append(contour, contour[0]))).mean()
    frequency = np.fft.fftfreq(_POINTS)
    return np.fft.ifft(np.fft.fft(contour) * np.exp(-2.0 * (np.pi * frequency * radius / step) ** 2))


def _ellipse(rng: np.random.Generator) -> np.ndarray:
    ratio = np.sqrt(rng.uniform(1.0, 2.5)) if rng.random() < 0.5 else 1.0
    t = 2 * np.pi * np.arange(_POINTS) / _POINTS
    return ratio * np.cos(t) + 1j / ratio * np.sin(t)


def _polygon(rng: np.random.Generator) -> np.ndarray:
    """Three to seven corners, convex or nearly so, regular or not."""
    k = int(rng.integers(3, 8))
    irregular = rng.choice([0.0, 0.35, 0.8])
    t = 2 * np.pi * (np.arange(k) + irregular * rng.uniform(-0.5, 0.5, k)) / k
    r = 1.15 * (1 + irregular * rng.uniform(-0.35, 0.2, k))
    return _rounded(r * np.exp(1j * t), rng.uniform(0.02, 0.2))


def _quadrilateral(rng: np.random.Generator) -> np.ndarray:
    """Rectangles, trapezia and slanted quadrilaterals."""
    ratio = np.sqrt(rng.uniform(1.0, 3.5))
    corners = np.array([-1 - 1j, 1 - 1j, 1 + 1j, -1 + 1j])
    if rng.random() < 0.7:
        corners = corners + rng.uniform(-0.4, 0.4, 4) + 1j * rng.uniform(-0.4, 0.4, 4)
    return _rounded(0.9 * (ratio * corners.real + 1j * corners.imag / ratio), rng.uniform(0.02, 0.2))


def _star(rng: np.random.Generator) -> np.ndarray:
    k = int(rng.integers(3, 8))
    inner = rng.uniform(0.4, 0.75)
    r = np.where(np.arange(2 * k) % 2 == 0, 1.25, 1.25 * inner)
    r = r * rng.uniform(0.85, 1.15, 2 * k)
    return _rounded(r * np.exp(1j * np.pi * np.arange(2 * k) / k), rng.uniform(0.03, 0.15))


def _blob(rng: np.random.Generator) -> np.ndarray:
    t = 2 * np.pi * np.arange(_POINTS) / _POINTS
    k = np.arange(2, 7)
    amplitude = rng.normal(0.0, 0.35, k.size) / k
    phase = 2 * np.pi * rng.random(k.size)
    r = 1 + (amplitude[:, None] * np.cos(k[:, None] * t + phase[:, None])).sum(0)
    return np.maximum(r, 0.3) * np.exp(1j * t)


def _slot(rng: np.random.Generator) -> np.ndarray:
    """Straight or bent slot with round ends."""
    half, width = rng.uniform(1.0, 2.2), rng.uniform(0.35, 0.6)
    bend = rng.uniform(0.3, 1.4) * rng.choice([-1, 1]) if rng.random() < 0.5 else 0.0
    s = np.linspace(-1, 1, 17)
    if bend:
        middle = half / bend * (np.exp(1j * bend * s) - 1) * -1j
        normal = 1j * np.exp(1j * bend * s)
    else:
        middle, normal = half * s + 0j, np.full(17, 1j)
    cap = np.exp(1j * np.linspace(np.pi / 2, -np.pi / 2, 9)[1:-1])
    right = middle[-1] + width * (-1j * normal[-1]) * cap
    left = middle[0] + width * (1j * normal[0]) * cap
    contour = np.concatenate([middle + width * normal, right, (middle - width * normal)[::-1], left])
    return _resampled(contour - contour.mean())


def _concave(rng: np.random.Generator) -> np.ndarray:
    """L, T, cross and dart shapes."""
    a = rng.uniform(0.35, 0.6)
    b, c = rng.uniform(0.7, 1.2, 2)
    kind = rng.integers(4)
    if kind == 0:
        corners = [
            -b - 1j * c,
            b - 1j * c,
            b + 1j * (a - c),
            a - b + 1j * (a - c),
            a - b + 1j * c,
            -b + 1j * c,
        ]
    elif kind == 1:
        corners = [-b + 1j * c, -b + 1j * (c - a), -a / 2 + 1j * (c - a), -a / 2 - 1j * c]
        corners += [a / 2 - 1j * c, a / 2 + 1j * (c - a), b + 1j * (c - a), b + 1j * c]
    elif kind == 2:
        w = 0.7 * a
        corners = [b + 1j * w, w + 1j * w, w + 1j * c, -w + 1j * c, -w + 1j * w, -b + 1j * w]
        corners += [-x for x in corners]
    else:
        corners = [1.3 + 0j, -0.9 + 1j * b, -0.4 * a + 0j, -0.9 - 1j * c]
    return _rounded(np.array(corners), rng.uniform(0.03, 0.15))


_SHAPES = (
    _ellipse,
    _ellipse,
    _polygon,
    _polygon,
    _quadrilateral,
    _quadrilateral,
    _blob,
    _blob,
    _slot,
    _star,
    _concave,
)
