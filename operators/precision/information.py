r"""The information that data carry about a Gaussian image, as log-determinants.

With :math:`x \sim N(\mu, \Lambda^{-1})`, :math:`\Lambda = L L^T`, and data :math:`y = A x + \varepsilon` with noise of
covariance R,

.. math:: I(x; y) = \frac12 \log\det\bigl(I + L^{-1} A^H R^{-1} A L^{-T}\bigr)
          = \frac12 \log\det P - \frac12 \log\det\Lambda ,

is their mutual information in nats, P the precision of x given y. It does not depend on the units of image or data, and
is what a posterior density lacks when x is maximised over instead of integrated out.

For small problems it is computed exactly: the matrix :math:`R^{-1/2} A L^{-T}` has the same non-zero singular values on
either side, so the smaller of its two Gram matrices is factorised. For others it is estimated by stochastic Lanczos
quadrature: :math:`\log\det M = E\, n^T (\log M)\, n` for probes n of independent signs, and :math:`n^T (\log M)\, n =
\|n\|^2 (\log T)_{11}` for the tridiagonal matrix T that k steps of Lanczos' iteration make of M from n / ‖n‖. The
probes are the same for all images and at all times, so that the estimate is a smooth function of Λ; its gradient is
that of these very steps, not another estimate.

References
----------
S. Ubaru, J. Chen, Y. Saad (2017), Fast estimation of tr(f(A)) via stochastic Lanczos quadrature,
doi:10.1137/16M1104974.

N. Krämer, P. Moreno-Muñoz, H. Roy, S. Hauberg (2024), Gradients of functions of large matrices, NeurIPS,
arXiv:2405.17277.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import odl
import torch
from torch import Tensor
from torch.autograd import Function

from genreg.operators.bridge.arguments import integer, seed_number, seeded_generator
from genreg.operators.bridge.spaces import torch_device, torch_dtype
from genreg.operators.lowering.building_blocks import euclidean_pair
from genreg.operators.precision.base import Precision

_EXACT = (
    2**18
)  # entries of the matrix of an image up to which its factorisation takes no longer than an estimate
_PIXELS = 2**15  # of all probes together: what one leaves open falls with the root of their number


class InformationGain:
    r"""The mutual information :math:`I(x; y)` of an image and its data, for the precisions that an image may have.

    Differentiable in the parameters of the precision.

    Parameters
    ----------
    A : odl.Operator
        Linear operator X -> Y with an adjoint, X real; complex images are images of two channels.
    exact : bool, optional
        Whether to factorise a matrix, which takes the memory of ``Y.size`` images for every sample; by default where
        ``X.size * Y.size`` is at most 2¹⁸ (complex data count twice).
    probes : int, optional
        Number of probes of the estimate; its standard error falls with the root of it. By default 8, and fewer for
        more than 4096 pixels, 2 at least: many pixels average themselves.
    steps : int
        Steps of Lanczos' iteration.
    seed : int
        Seed of the probes.

    Raises
    ------
    TypeError, ValueError, NotImplementedError
        If A is not linear with an adjoint, or a number is not a positive integer.
    """

    def __init__(
        self,
        A: odl.Operator,
        *,
        exact: bool | None = None,
        probes: int | None = None,
        steps: int = 20,
        seed: int = 0,
    ) -> None:
        if not isinstance(A, odl.Operator) or not A.is_linear:
            raise TypeError(f"A must be a linear ODL operator, got {A!r}")
        self.operator = A
        if probes is None:
            probes = min(8, max(2, _PIXELS // A.domain.size))
        self.probes, self.steps = integer(probes, "probes", minimum=1), integer(steps, "steps", minimum=1)
        self.seed = seed_number(seed)
        self._forward, self._transpose = euclidean_pair(A)
        self._complex = torch_dtype(A.range).is_complex
        data = A.range.size * (2 if self._complex else 1)
        self.exact = data * A.domain.size <= _EXACT if exact is None else bool(exact)
        """Whether the matrix is factorised."""

    def __reduce__(self) -> tuple[Any, ...]:
        settings = {name: getattr(self, name) for name in ("exact", "probes", "steps", "seed")}
        return functools.partial(type(self), **settings), (self.operator,)

    def __call__(self, precision: Precision, inverse_variance: Tensor) -> Tensor:
        """I(x; y) in nats, ``(B,)``.

        Parameters
        ----------
        precision : Precision
            Λ, one for every sample or one for all.
        inverse_variance : Tensor
            1/σ², ``(B,)``, or one for every datum, which broadcasts to the data ``(B, *Y.shape)``; for complex data σ
            is that of the real and of the imaginary part.
        """
        weights = inverse_variance.reshape(*inverse_variance.shape, *(1,) * self._missing(inverse_variance))
        if self.exact:
            return self._factorised(precision, weights)
        return self._quadratic_forms(precision, weights).mean(0) / 2

    def standard_error(self, precision: Precision, inverse_variance: Tensor) -> Tensor:
        """The standard error of the estimate in nats, ``(B,)``; zero where it is exact, infinite with one probe."""
        with torch.no_grad():
            if self.exact:
                return torch.zeros_like(self(precision, inverse_variance))
            weights = inverse_variance.reshape(
                *inverse_variance.shape, *(1,) * self._missing(inverse_variance)
            )
            forms = self._quadratic_forms(precision, weights) / 2
            if len(forms) == 1:
                return torch.full_like(forms[0], math.inf)
            return forms.std(0) / math.sqrt(len(forms))

    def _missing(self, inverse_variance: Tensor) -> int:
        return max(1 + len(self.operator.range.shape) - inverse_variance.ndim, 0)

    @functools.cached_property
    def _rows(self) -> Tensor:
        """The rows of A, for complex data those of its real and of its imaginary part, ``(parts, *Y, *X)``."""
        X, Y = self.operator.domain, self.operator.range
        unit = torch.eye(Y.size, dtype=torch_dtype(Y), device=torch_device(Y)).reshape(Y.size, *Y.shape)
        with torch.no_grad():
            parts = [self._transpose(unit * phase) for phase in ((1, 1j) if self._complex else (1,))]
        return torch.stack(parts).reshape(len(parts), *Y.shape, *X.shape)

    def _factorised(self, precision: Precision, weights: Tensor) -> Tensor:
        X, Y = self.operator.domain, self.operator.range
        data = tuple(range(1, 1 + len(Y.shape)))
        roots = weights.sqrt().movedim(0, -1)  # (*Y, B), where an axis may have the length one
        roots = roots.reshape(*roots.shape, *(1,) * len(X.shape))
        rows = roots * self._rows.unsqueeze(len(data) + 1)  # (parts, *Y, B, *X)
        white = precision.uncolour(rows.flatten(0, len(data)))  # (m, B, *X)
        matrix = white.flatten(2).movedim(0, 1)  # (B, m, N)
        gram = matrix @ matrix.mT if matrix.shape[1] <= matrix.shape[2] else matrix.mT @ matrix
        gram.diagonal(dim1=-2, dim2=-1).add_(1)
        factor, info = torch.linalg.cholesky_ex(gram)
        half = factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        return torch.where(info == 0, half, torch.nan)

    def _quadratic_forms(self, precision: Precision, weights: Tensor) -> Tensor:
        """Estimates of the log-determinant, ``(probes, B)``."""
        X = self.operator.domain

        def action(v: Tensor) -> Tensor:
            image = precision.colour(v)
            return v + precision.uncolour(self._transpose(weights * self._forward(image)))

        generator = seeded_generator(self.seed)
        signs = torch.randint(2, (self.probes, 1, *X.shape), generator=generator)
        start = (2 * signs - 1).to(dtype=torch_dtype(X), device=torch_device(X))
        start = start.expand(-1, len(weights), *X.shape) / math.sqrt(X.size)
        axes, steps = tuple(range(2, start.ndim)), min(self.steps, X.size)
        diagonal, beside = _tridiagonal(action, start, steps, axes)
        return X.size * _LogOfTridiagonal.apply(diagonal, beside)  # type: ignore[no-untyped-call]


def _tridiagonal(action: Any, start: Tensor, steps: int, axes: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Diagonal ``(*batch, k)`` and what is beside it, ``(*batch, k - 1)``, of Lanczos' T for unit vectors `start`.

    All vectors are orthogonalised against all former ones. Where the space of Krylov is exhausted, T goes on with the
    identity, of which nothing else knows.
    """

    def inner(a: Tensor, b: Tensor) -> Tensor:
        return (a * b).sum(axes, keepdim=True)

    least = torch.finfo(start.dtype).eps ** 0.5
    v, basis = start, [start]
    alive = torch.ones_like(inner(v, v), dtype=torch.bool)
    diagonal: list[Tensor] = []
    beside: list[Tensor] = []
    scale = torch.zeros_like(inner(v, v))
    for k in range(steps):
        w = action(v)
        a = inner(v, w)
        diagonal.append(torch.where(alive, a, 1))
        if k == steps - 1:
            break
        for u in basis:
            w = w - inner(u, w) * u
        square = inner(w, w)
        scale = torch.maximum(scale, a.detach().abs())
        alive = alive & (square > (least * scale) ** 2)
        b = torch.where(alive, square, 1).sqrt()
        v = torch.where(alive, w / b, 0)
        beside.append(torch.where(alive, b, 0))
        basis.append(v)
    batch = start.ndim - len(axes)
    between = [t.flatten(batch - 1).squeeze(-1) if t.ndim > batch else t for t in (*diagonal, *beside)]
    shaped = [t.reshape(start.shape[:batch]) for t in between]
    first, second = torch.stack(shaped[:steps], -1), shaped[steps:]
    return first, torch.stack(second, -1) if second else first[..., :0]


class _LogOfTridiagonal(Function):
    """(log T)₁₁ of positive definite tridiagonal matrices; its derivative is safe where eigenvalues coincide."""

    @staticmethod
    def forward(ctx: Any, diagonal: Tensor, beside: Tensor) -> Tensor:  # type: ignore[override]
        T = torch.diag_embed(diagonal.double())
        T = T + torch.diag_embed(beside.double(), 1) + torch.diag_embed(beside.double(), -1)
        finite = torch.isfinite(T).all(-1).all(-1)[..., None, None]
        values, vectors = torch.linalg.eigh(torch.where(finite, T, torch.eye(T.shape[-1]).to(T)))
        values = values.clamp(min=torch.finfo(diagonal.dtype).eps)
        ctx.save_for_backward(values, vectors, finite)
        found = (vectors[..., 0, :].square() * values.log()).sum(-1)
        return torch.where(finite[..., 0, 0], found, torch.nan).to(diagonal.dtype)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        values, vectors, finite = ctx.saved_tensors
        a, b = values[..., :, None], values[..., None, :]
        # divided differences of the logarithm (Daleckii and Krein), as log1p(t) / t / b for t = a / b - 1
        t = a / b - 1
        near = t.abs() < 1e-6
        slope = (
            torch.where(near, 1 - t / 2, torch.log1p(torch.where(near, 1, t)) / torch.where(near, 1, t)) / b
        )
        first = vectors[..., 0, :]
        inside = slope * first[..., :, None] * first[..., None, :]
        G = vectors @ inside @ vectors.mT * torch.where(finite, g[..., None, None], torch.nan)
        G = G.to(g.dtype)
        return G.diagonal(dim1=-2, dim2=-1), 2 * G.diagonal(1, dim1=-2, dim2=-1)
