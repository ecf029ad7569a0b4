"""The proximal operator of a quadratic data term by conjugate gradients, for any linear operator."""

from __future__ import annotations

import copy
import functools
import math
import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor

from genreg.operators.bridge.arguments import seeded_generator
from genreg.operators.bridge.lowered import Step, append_axes
from genreg.operators.bridge.spaces import Tensors, space_shape, tree_map
from genreg.operators.linear.conjugate_gradient import conjugate_gradients, inner
from genreg.operators.linear.norm import operator_norm, random_tensors
from genreg.operators.proximal.base import DataProx


class ConjugateGradientProx(DataProx):
    r"""The data prox by conjugate gradients on :math:`(A^T A + s)\, c = A^T (y - A p)`.

    Every sample stops by itself, when its relative residual :math:`\|b - (A^T A + s) c\| / \|b\|`,
    :math:`b = A^T (y - A p)`, is at most `tol`. The residual by recursion only ends a cycle; the next one starts
    from the true residual, computed as :math:`A^T (y - A p - A c) - s c`, which is iterative refinement. A sample
    also stops when a cycle no longer halves it: the precision is used up.

    Parameters
    ----------
    A : odl.Operator
        Linear operator X -> Y with an adjoint; Y may be a product space.
    tol : float, optional
        Relative residual; by default 1e-6 in single and 1e-10 in double precision.
    max_iter : int
        Iterations of one solve at most, each with one application of A and one of its transpose.

    Attributes
    ----------
    last_residual : Tensor or None
        Relative residuals of the last solve, ``(*batch,)``.

    Warns
    -----
    RuntimeWarning
        On the first solve that ends with a relative residual above `tol` and above a hundred units of rounding
        (1.2e-5 in single precision): at the cap on iterations, or for want of precision. `last_residual` says
        so of every solve.
    """

    def __init__(self, A: Any, *, tol: float | None = None, max_iter: int = 1000) -> None:
        super().__init__(A)
        eps = torch.finfo(self._real).eps
        self.tol = (1e-6 if self._real == torch.float32 else 1e-10) if tol is None else float(tol)
        self.max_iter = max_iter
        self._accepted = max(self.tol, 1e2 * eps)
        self._warned: list[bool] = []  # shared by what `whitened` returns

    def whitened(self, root: Tensor) -> ConjugateGradientProx:
        """The data prox of A followed by a multiplication with a number >= 0 for every datum.

        Parameters
        ----------
        root : Tensor
            The numbers, ``(B, *Y.shape)``; points and data of this prox are batches ``(*batch, B, ...)``.
        """
        made = copy.copy(self)
        made._forward = lambda x: root * self._forward(x)
        made._transpose = lambda y: self._transpose(root * y)
        return made

    def _correction(self, r: Tensors, shift: Step, guess: Tensor | None) -> Tensor:
        c, self.last_residual = self._solve(r, shift, guess)
        late = self.last_residual > self._accepted
        if not self._warned and bool(late.any()):
            self._warned.append(True)
            warnings.warn(
                f"conjugate gradients ended with a relative residual of {float(self.last_residual[late].max()):.1e} "
                f"> tol = {self.tol:.1e} for {int(late.sum())} of {late.numel()} samples; raise `max_iter` "
                f"({self.max_iter}), the shift sigma^2 beta, or the precision of the space",
                RuntimeWarning,
                stacklevel=4,
            )
        return c

    def _solve(self, r: Tensors, shift: Step, guess: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the solution of (A^T A + shift) c = A^T r and its relative residuals."""
        b = self._transpose(r)
        s = append_axes(shift, self._ndim)
        shapes = [t.shape for t in (b, s, guess) if isinstance(t, Tensor)]
        shape = np.broadcast_shapes(*shapes, space_shape(self.operator.domain))
        batch, flat = shape[: len(shape) - self._ndim], (-1, *shape[len(shape) - self._ndim :])
        b = b.expand(shape).reshape(flat)
        s = (
            append_axes(s.expand(*batch, *(1,) * self._ndim).reshape(-1), self._ndim)
            if isinstance(s, Tensor)
            else s
        )

        def normal(p: Tensor) -> Tensor:
            return self._transpose(self._forward(p.reshape(shape))).reshape(flat) + s * p

        def gradient(c: Tensor) -> Tensor:
            left = tree_map(torch.sub, r, self._forward(c.reshape(shape)))
            return self._transpose(left).reshape(flat) - s * c

        size = _norm(b)
        if guess is None:
            c, g = torch.zeros_like(b), b
        else:
            c = torch.where(_column(size > 0, b), guess.expand(shape).reshape(flat), 0)
            g = gradient(c)
        residual, previous = _norm(g), torch.full_like(size, math.inf)
        target, taken = self.tol * size, 0
        while taken < self.max_iter:
            running = (residual > target) & (residual <= 0.5 * previous)
            if not bool(running.any()):
                break
            cycle = conjugate_gradients(
                normal,
                torch.where(_column(running, b), g, 0),
                lambda step, recursive: _norm(recursive) > 0.5 * target,
                max_iter=self.max_iter - taken,
            )
            new, taken = c + cycle.x, taken + int(cycle.steps.max())
            g_new = gradient(new)
            after = _norm(g_new)
            better = _column(running & (after <= residual), b)
            c, g = torch.where(better, new, c), torch.where(better, g_new, g)
            previous = torch.where(running, residual, previous)
            residual = torch.where(running, torch.minimum(after, residual), residual)
        relative = residual / torch.where(size > 0, size, 1)
        return c.reshape(shape), relative.reshape(batch)

    @functools.cached_property
    def _norm_of_operator(self) -> float:
        return operator_norm(self.operator, weighted=False, rtol=0.1)

    def _least(self, shift: float) -> float:
        """Where A^T A + shift is singular to rounding, try to solve with noise for data: A may be better."""
        least = torch.finfo(self._real).eps * self._norm_of_operator**2
        if shift >= least:
            return 0.0
        noise = random_tensors(self.operator.range, seeded_generator(0))
        with torch.no_grad():
            residual = float(self._solve(noise, shift, None)[1])
        return 0.0 if residual <= self._accepted else least


def _norm(t: Tensor) -> Tensor:
    return inner(t, t).sqrt()


def _column(values: Tensor, like: Tensor) -> Tensor:
    return values.view(-1, *(1,) * (like.ndim - 1))
