r"""A precision with a sparse Cholesky factor, as structured uncertainty prediction networks (SUPN) predict it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import scipy.sparse
import torch
from odl.core.space.base_tensors import TensorSpace
from torch import Tensor

from genreg.operators.bridge.arguments import flag
from genreg.operators.precision.base import Precision, checked_parameter
from genreg.operators.precision.factor_product import multiply_factor, outer
from genreg.operators.precision.stencil import Stencil, neighbourhood
from genreg.operators.precision.triangular import Entries, solve_factor

__all__ = ["SparseCholeskyPrecision", "neighbourhood", "soft_clip"]


def soft_clip(t: Tensor, bounds: tuple[float, float]) -> Tensor:
    r"""Clip softly, :math:`a + \log(1 + e^{t - a}) - \log(1 + e^{t - b})`: smooth, increasing, with values in (a, b).

    Parameters
    ----------
    t : Tensor
        Any shape.
    bounds : tuple of float
        a < b.

    Returns
    -------
    Tensor
        Of the same shape.

    Raises
    ------
    ValueError
        If a < b does not hold, or one is not finite.
    """
    lower, upper = bounds
    if not -np.inf < lower < upper < np.inf:
        raise ValueError(f"bounds must be two finite, increasing numbers, got {bounds}")
    plus = torch.nn.functional.softplus
    rising = lower + plus(t - lower) - plus(t - upper)
    falling = upper + plus(lower - t) - plus(upper - t)  # the same, without large numbers where t is large
    return torch.where(t < (lower + upper) / 2, rising, falling)


class SparseCholeskyPrecision(Precision):
    r"""A precision :math:`\Lambda = L L^T` whose lower triangular factor connects every pixel to its neighbours.

    In raster order, with the channels of a pixel next to each other, column p of L has its diagonal entry
    :math:`e^{\ell_p}` and the weights :math:`L_{p + k,\, p} = w_k(p)` of the later pixels p + k in a neighbourhood of
    :math:`(2 d + 1)^2` pixels and, for several channels, of the later channels of the same pixel; where it is
    *coupled*, of the other channels of the later pixels, too. So

    .. math:: (L^T r)_p = e^{\ell_p} r_p + \sum_k w_k(p)\, r_{p + k} , \qquad
              \log\det\Lambda = 2 \sum_p \ell_p ,

    and :math:`w_k(p) = 0` wherever p + k is outside of the image. Products and `logdet` cost O(N); so do `sample` and
    `solve`, by sparse triangular solves. All have gradients of any order in ℓ, w and the argument.

    Parameters
    ----------
    space : TensorSpace
        Images, real, ``(n, m)`` or ``(C, n, m)``; two channels for complex images.
    log_diag : Tensor
        ℓ, ``(*space.shape)``, or ``(B, *space.shape)``.
    weights : Tensor
        w, ``(K, n, m)``, or ``(B, K, n, m)``: for each channel the offsets in the order of `neighbourhood`, then the
        pairs (0, 1), (0, 2), ..., (1, 2), ... of channels, so :math:`K = C ((2 d + 1)^2 - 1) / 2 + C (C - 1) / 2`
        without several dilations. Where it is coupled, the offsets for the channels (0, 1), (0, 2), ..., (1, 0), ... of
        column and row come between them, :math:`C (C - 1) ((2 d + 1)^2 - 1) / 2` more.
    distance : int
        d.
    dilation : int or sequence of int
        Factor of the offsets, or several whose neighbourhoods are joined.
    coupled : bool
        Whether different channels of neighbouring pixels are connected, as those of complex images are, whose real and
        imaginary parts a phase mixes.
    bounds : tuple of float, optional
        Bounds to which ℓ is softly clipped, see `soft_clip`.

    Raises
    ------
    TypeError, ValueError
        If the space is not one of real images, the neighbourhood does not fit the image, or a parameter has the wrong
        shape (or number of weights) or is not finite.

    References
    ----------
    G. Dorta, S. Vicente, L. Agapito, N. D. F. Campbell, I. Simpson (2018), Structured uncertainty prediction networks,
    CVPR, arXiv:1802.07079.

    M. Duff, I. Simpson, M. J. Ehrhardt, N. D. F. Campbell (2023), VAEs with structured image covariance applied to
    compressed sensing MRI, Phys. Med. Biol. 68, arXiv:2210.14586.
    """

    def __init__(
        self,
        space: TensorSpace,
        log_diag: Tensor,
        weights: Tensor,
        *,
        distance: int,
        dilation: int | Sequence[int] = 1,
        coupled: bool = False,
        bounds: tuple[float, float] | None = None,
    ) -> None:
        self._check_space(space)
        if space.ndim not in (2, 3):
            raise ValueError(
                f"space must have images (n, m) or (C, n, m) as its elements, got the shape {space.shape}"
            )
        rows, columns = space.shape[-2:]
        channels = 1 if space.ndim == 2 else space.shape[0]
        self.stencil = Stencil.of(channels, distance, dilation, flag(coupled, "coupled"))
        down, right = self.stencil.reach
        if down >= rows or right >= columns:
            raise ValueError(
                f"distance and dilation must leave the neighbourhood smaller than the image {rows} x {columns}, got "
                f"distance={distance} and dilation={dilation}, which reach {max(down, right)} pixels far"
            )
        count = len(self.stencil)
        if isinstance(weights, Tensor) and weights.ndim > 2 and weights.shape[-3] != count:
            raise ValueError(
                f"weights must have {count} entries a pixel, for distance={distance}, dilation={dilation}, "
                f"coupled={coupled} and the images {tuple(space.shape)}, got the shape {tuple(weights.shape)}"
            )
        log_diag = checked_parameter(log_diag, "log_diag", space, tuple(space.shape))
        weights = checked_parameter(weights, "weights", space, (count, rows, columns))
        batch = tuple(log_diag.shape[: -space.ndim])
        if tuple(weights.shape[:-3]) != batch:
            raise ValueError(
                f"log_diag and weights must have the same batch, got the shapes {tuple(log_diag.shape)} and "
                f"{tuple(weights.shape)}"
            )
        if bounds is not None:
            log_diag = soft_clip(log_diag, bounds)
        super().__init__(space, {"log_diag": log_diag, "weights": weights}, batch)
        self._kept: tuple[dict[str, Tensor], list[Any], Entries] = {}, [], Entries()

    @property
    def log_diag(self) -> Tensor:
        """ℓ, the logarithm of the diagonal of L after clipping, ``(*batch, *shape)``."""
        return self.parameters["log_diag"]

    @property
    def weights(self) -> Tensor:
        """w, ``(*batch, K, n, m)``."""
        return self.parameters["weights"]

    @property
    def _entries(self) -> Entries:
        """The matrix of the triangular solves, kept until the parameters change."""
        versions = [None if t.is_inference() else t._version for t in self.parameters.values()]
        if self._kept[0] is not self.parameters or self._kept[1] != versions:
            self._kept = self.parameters, versions, Entries()
        return self._kept[2]

    @property
    def diagonal(self) -> Tensor:
        """The diagonal of L, ``(*batch, *shape)``."""
        return self.log_diag.exp()

    def _channels(self, t: Tensor) -> Tensor:
        """Images with an axis of channels."""
        return t.unsqueeze(-3) if self.domain.ndim == 2 else t

    def _back(self, t: Tensor) -> Tensor:
        return t.squeeze(-3) if self.domain.ndim == 2 else t

    def _factor(self, act: Callable[..., Tensor], t: Tensor, *how: Any) -> Tensor:
        diagonal = self._channels(self.diagonal)
        return self._back(act(diagonal, self.weights, self._channels(t), self.stencil, *how))

    def whiten(self, r: Tensor) -> Tensor:
        r""":math:`L^T r`."""
        return self._factor(multiply_factor, r, True)

    def unwhiten(self, u: Tensor) -> Tensor:
        r""":math:`L u`."""
        return self._factor(multiply_factor, u, False)

    def colour(self, u: Tensor) -> Tensor:
        r""":math:`L^{-T} u`, by a sparse triangular solve."""
        return self._factor(solve_factor, u, True, self._entries)

    def uncolour(self, b: Tensor) -> Tensor:
        r""":math:`L^{-1} b`, by a sparse triangular solve."""
        return self._factor(solve_factor, b, False, self._entries)

    def logdet(self) -> Tensor:
        r""":math:`\log\det\Lambda = 2 \sum_p \ell_p`, of the shape `batch`."""
        return 2 * self.log_diag.sum(self._axes)

    def restrict(self, keep: Tensor) -> SparseCholeskyPrecision:
        r"""The precision whose factor is :math:`L_{UU}` on a set U of pixels, and the identity on the others."""
        inside = self._channels(keep).to(self.weights.dtype)
        return self.with_parameters(
            log_diag=torch.where(keep, self.log_diag, 0),
            weights=self.weights * outer(inside, inside, self.stencil, torch.Size()),
        )

    def factor_to_scipy(self) -> scipy.sparse.csc_array:
        """L as a sparse matrix on images in C order, of a precision that is not batched.

        For several channels it is a permutation of a triangular matrix, since C order has the channels first.
        """
        self._one()
        log_diag = self._channels(self.log_diag).numpy(force=True)
        weights = self.weights.numpy(force=True)
        place = np.arange(log_diag.size).reshape(log_diag.shape)
        rows, columns, entries = [place.ravel()], [place.ravel()], [np.exp(log_diag).ravel()]
        n, m = self.domain.shape[-2:]
        for w, term in zip(weights, self.stencil, strict=True):
            i, j = np.mgrid[:n, :m]
            inside = (i + term.down < n) & (j + term.right >= 0) & (j + term.right < m)
            i, j = i[inside], j[inside]
            rows.append(place[term.row, i + term.down, j + term.right])
            columns.append(place[term.column, i, j])
            entries.append(w[i, j])
        triple = (np.concatenate(entries), (np.concatenate(rows), np.concatenate(columns)))
        return scipy.sparse.coo_array(triple, shape=(place.size, place.size)).tocsc()

    def to_scipy(self) -> scipy.sparse.csc_array:
        r""":math:`\Lambda` as a sparse matrix on images in C order, of a precision that is not batched."""
        L = self.factor_to_scipy()
        return (L @ L.T).tocsc()
