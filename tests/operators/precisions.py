"""The precisions that the tests of this folder run on, each with its matrix built entry by entry."""

import math

import numpy as np
import odl
import torch

from genreg.operators import (
    DenseCholeskyPrecision,
    DiagonalPrecision,
    IsotropicPrecision,
    SparseCholeskyPrecision,
)

# channels (None: images without that axis), shape of an image, distance, dilation
SPARSE = {
    "d0": (None, (3, 4), 0, 1),
    "d1": (None, (4, 5), 1, 1),
    "d2": (None, (5, 4), 2, 1),
    "d4": (None, (6, 5), 4, 1),
    "dilated": (None, (5, 4), 1, 2),
    "dilations": (None, (4, 5), 1, (1, 2)),
    "one channel": (1, (3, 4), 1, 1),
    "two channels": (2, (4, 3), 1, 1),
    "three channels": (3, (4, 3), 1, (1, 2)),
    "channels only": (3, (2, 2), 0, 1),
    "coupled": (2, (4, 3), 1, 1),
    "coupled, dilations": (3, (3, 4), 1, (1, 2)),
}
COUPLED = {"coupled", "coupled, dilations"}
NAMES = ["isotropic", "diagonal", "dense", *SPARSE]


def later(distance, dilation):
    """Offsets of the later pixels, written out."""
    factors = (dilation,) if isinstance(dilation, int) else dilation
    square = [(a, b) for a in range(-distance, distance + 1) for b in range(-distance, distance + 1)]
    return sorted({(f * a, f * b) for f in factors for a, b in square if a > 0 or (a == 0 and b > 0)})


def positive_diagonal(matrix):
    """The matrix with exponentials on its diagonal."""
    return torch.where(torch.eye(matrix.shape[-1], dtype=torch.bool), matrix.exp(), matrix)


class Case:
    """A space, parameters, and how the precision and the factor are made of them."""

    def __init__(self, name, batch=(), weighted=False, dtype="float64"):
        channels, image, self.distance, self.dilation = SPARSE.get(name, (None, (3, 4), 0, 1))
        shape = image if channels is None else (channels, *image)
        if weighted:
            self.space = odl.uniform_discr([0] * len(shape), [0.3] * len(shape), shape, dtype=dtype)
        else:
            self.space = odl.rn(shape, dtype=dtype)
        generator = torch.Generator().manual_seed(len(name))
        draw = lambda *s: torch.randn((*batch, *s), dtype=torch.float64, generator=generator)  # noqa: E731
        self.channels, count = channels or 1, len(later(self.distance, self.dilation))
        self.coupled = name in COUPLED
        entries = self.channels * count + self.channels * (self.channels - 1) // 2
        if self.coupled:
            entries += self.channels * (self.channels - 1) * count
        self.parameters = {
            "isotropic": lambda: (draw().exp(),),
            "diagonal": lambda: (0.6 * draw(*shape),),
            "dense": lambda: (positive_diagonal(0.3 * draw(math.prod(shape), math.prod(shape))),),
        }.get(name, lambda: (0.3 * draw(*shape), 0.3 * draw(entries, *image)))()
        self.name, self.batch, self.shape, self.size = name, batch, shape, math.prod(shape)

    def make(self, *parameters):
        """The precision of the parameters, by default of the own ones."""
        parameters = parameters or self.parameters
        kinds = {
            "isotropic": IsotropicPrecision,
            "diagonal": DiagonalPrecision,
            "dense": DenseCholeskyPrecision,
        }
        if self.name in kinds:
            return kinds[self.name](self.space, *parameters)
        return SparseCholeskyPrecision(
            self.space,
            *parameters,
            distance=self.distance,
            dilation=self.dilation,
            coupled=self.coupled,
        )

    def images(self, *lead, seed=0):
        """Random images ``(*lead, *batch, *shape)``."""
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(*lead, *self.batch, *self.shape, dtype=torch.float64, generator=generator)

    def factor(self):
        """L, ``(*batch, N, N)``, built by a loop over its entries."""
        flat = [p.reshape(math.prod(self.batch), *p.shape[len(self.batch) :]) for p in self.parameters]
        matrices = [self._factor(*(p[b] for p in flat)) for b in range(len(flat[0]))]
        return torch.stack(matrices).reshape(*self.batch, self.size, self.size)

    def _factor(self, first, weights=None):
        if self.name == "isotropic":
            return first.sqrt() * torch.eye(self.size, dtype=torch.float64)
        if self.name == "dense":
            return first.tril()
        if weights is None:
            return (0.5 * first).exp().flatten().diag()
        place = np.arange(self.size).reshape(self.channels, *self.shape[-2:])
        n, m = self.shape[-2:]
        L = first.flatten().exp().diag()
        k, every = 0, range(self.channels)
        joined = [(c, c) for c in every]
        joined += [(c, o) for c in every for o in every if c != o] if self.coupled else []
        for c, other in joined:
            for a, b in later(self.distance, self.dilation):
                for i, j in np.ndindex(n, m):
                    if i + a < n and 0 <= j + b < m:
                        L[place[other, i + a, j + b], place[c, i, j]] = weights[k, i, j]
                k += 1
        for c in range(self.channels):
            for other in range(c + 1, self.channels):
                for i, j in np.ndindex(n, m):
                    L[place[other, i, j], place[c, i, j]] = weights[k, i, j]
                k += 1
        return L
