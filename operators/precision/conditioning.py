r"""A Gaussian image given some of its pixels.

For :math:`x \sim N(\mu, \Lambda^{-1})`, known pixels K and the others U,

.. math:: x_U \mid x_K = a \ \sim\ N\bigl(\mu_U - \Lambda_{UU}^{-1} \Lambda_{UK} (a - \mu_K),\ \Lambda_{UU}^{-1}\bigr) .

A draw is the mean plus the solution of :math:`\Lambda_{UU}\, e = (L u)_U` with white noise u, whose right-hand side has
the covariance :math:`\Lambda_{UU}`, so that the distribution is exact. Systems are solved by a sparse factorisation of
:math:`\Lambda_{UU}` or, since :math:`\Lambda_{UU} = L_{UU} L_{UU}^T + L_{UK} L_{UK}^T`, by conjugate gradients with
the triangular preconditioner :math:`L_{UU}`.

References
----------
G. Papandreou, A. Yuille (2010), Gaussian sampling by local perturbations, NIPS 23.

H. Rue, L. Held (2005), Gaussian Markov random fields: theory and applications, section 2.3.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse.linalg
import torch
from torch import Tensor

from genreg.operators.bridge.arguments import choice, integer, number
from genreg.operators.bridge.arrays import boolean_mask
from genreg.operators.bridge.spaces import check_tensor, torch_device, torch_dtype
from genreg.operators.precision.base import Precision, white_noise
from genreg.operators.precision.complex_images import real_images
from genreg.operators.precision.whitened_solve import whitened_solve

_DIRECT = 2**14  # unknown pixels up to which a factorisation takes about a second


class Conditional:
    r"""The Gaussian :math:`p(x \mid x_K = a)`, made by `condition`.

    Parameters
    ----------
    mean : Tensor
        Its mean, with a at the known pixels, ``(*batch, *shape)``.
    solver : object
        Solves with the precision of the unknown pixels: the attribute ``precision`` and the method ``solve``.
    """

    mean: Tensor

    def __init__(self, mean: Tensor, solver: _Direct | _Iterative) -> None:
        self.mean, self._solver = mean, solver

    @torch.no_grad()
    def sample(self, n: int, generator: torch.Generator | int | None = None) -> Tensor:
        """Draws, ``(n, *batch, *shape)``, with a at the known pixels.

        Parameters
        ----------
        n : int
            Draws of every sample.
        generator : torch.Generator or int, optional
            Random numbers, or their seed; torch's global generator where None.
        """
        precision = self._solver.precision
        batch = tuple(self.mean.shape[: self.mean.ndim - precision.domain.ndim])
        noise = precision.unwhiten(white_noise(precision.domain, n, batch, generator))
        return self.mean + self._solver.solve(noise)


@torch.no_grad()
def condition(
    precision: Precision,
    mean: Tensor,
    known: Any,
    values: Tensor,
    *,
    method: str | None = None,
    tol: float = 1e-4,
    max_iter: int = 1000,
) -> Conditional:
    r"""Condition :math:`x \sim N(\mu, \Lambda^{-1})` on some of its pixels.

    Nothing is recorded for differentiation.

    Parameters
    ----------
    precision : Precision
        Λ, batched or not.
    mean : Tensor
        μ, ``(*batch, *shape)``.
    known : Tensor or array
        Which pixels are known, boolean, of the shape of an image or one that broadcasts to it, such as ``(n, m)``
        for all channels.
    values : Tensor
        Images ``(*batch, *shape)`` with the values a at the known pixels; other pixels are ignored.
    method : {"direct", "cg"}, optional
        A factorisation of :math:`\Lambda_{UU}` for every sample of the precision, exact up to rounding; or conjugate
        gradients. By default the former up to 16384 unknown pixels.
    tol : float
        For "cg": root mean square error of a mean or a draw, in standard deviations of the conditional Gaussian,
        :math:`\sqrt{e^T \Lambda_{UU} e / N}`.
    max_iter : int
        For "cg": iterations at most.

    Returns
    -------
    Conditional
        With its `mean` and `sample`.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type, shape or device, or a value at a known pixel is not finite.

    Warns
    -----
    RuntimeWarning
        If conjugate gradients end before they reach `tol`.
    """
    precision = real_images(precision)
    if method is not None:
        choice(method, "method", ("direct", "cg"))
    tol, max_iter = number(tol, "tol", above=0), integer(max_iter, "max_iter", minimum=1)
    space = precision.domain
    known = boolean_mask(known, tuple(space.shape), "known", empty=True).to(torch_device(space))
    batches = [check_tensor(t, space, name) for t, name in ((mean, "mean"), (values, "values"))]
    try:
        batch = np.broadcast_shapes(precision.batch, *batches)
    except ValueError:
        raise ValueError(
            f"precision, mean and values must have batches that broadcast, got {precision.batch}, {batches[0]} and "
            f"{batches[1]}"
        ) from None
    start = torch.where(known, values, mean).to(torch_dtype(space)).expand(*batch, *space.shape)
    if not bool(torch.isfinite(start).all()):
        raise ValueError("mean, and values at the known pixels, must be finite, got entries that are not")
    if method is None:
        method = "direct" if int((~known).sum()) <= _DIRECT else "cg"
    solver = (
        _Direct(precision, ~known) if method == "direct" else _Iterative(precision, ~known, tol, max_iter)
    )
    return Conditional(start - solver.solve(precision.forward(start - mean)), solver)


class _Direct:
    """Solves with a factorisation for every sample of a precision."""

    def __init__(self, precision: Precision, unknown: Tensor) -> None:
        self.precision, self._unknown = precision, unknown
        self._place = np.flatnonzero(unknown.numpy(force=True))
        parts = [precision.take(k) for k in range(*precision.batch)] if precision.batch else [precision]
        blocks = [part.to_scipy().astype(np.float64)[self._place][:, self._place] for part in parts]
        self._factors = [
            # symmetric and positive definite, so that pivots can be taken from the diagonal
            scipy.sparse.linalg.splu(
                block.tocsc(), "MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True}
            )
            for block in blocks
            if len(self._place)
        ]

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.precision, self._unknown)  # SuperLU's factors cannot be pickled

    def solve(self, b: Tensor) -> Tensor:
        """Solve with the unknown pixels of images, and give zeros at the others."""
        space = self.precision.domain
        right = b.reshape(-1, len(self._factors), space.size) if self._factors else b  # (S, B or 1, N)
        out = torch.zeros_like(right)
        for k, factor in enumerate(self._factors):
            found = factor.solve(right[:, k, self._place].T.double().numpy(force=True))
            out[:, k, self._place] = torch.from_numpy(found.T).to(out)
        return out.reshape(b.shape)


class _Iterative:
    """Solves by conjugate gradients, whitened by the factor of the unknown pixels."""

    def __init__(self, precision: Precision, unknown: Tensor, tol: float, max_iter: int) -> None:
        self.precision, self._unknown = precision, unknown
        self._restricted = precision.restrict(unknown)
        self._tol, self._max_iter = tol, max_iter

    def _rest(self, x: Tensor) -> Tensor:
        """Multiply by Λ_UU - L_UU L_UU^T = L_UK L_UK^T."""
        return self._unknown * self.precision.unwhiten(
            ~self._unknown * self.precision.whiten(self._unknown * x)
        )

    def solve(self, b: Tensor) -> Tensor:
        """Solve with the unknown pixels of images, and give zeros at the others."""
        return whitened_solve(
            self._restricted, self._rest, self._unknown * b, tol=self._tol, max_iter=self._max_iter
        )[0]
