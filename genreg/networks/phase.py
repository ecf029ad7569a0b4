r"""Complex images from models of magnitudes, with an unknown smooth phase."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn

from genreg.operators.bridge.arguments import integer, number
from genreg.operators.precision.stencil import neighbourhood

_TURN = 2 * math.pi  # standard deviation of the constant, with which every phase is as likely as any other
_REFINEMENTS = 2  # fits to the phase that is left, once it has no wraps


class _Polynomials(nn.Module):
    r"""Products of Legendre polynomials, :math:`P_j(u) P_k(v)` on :math:`[-1, 1]^2`, times the deviations of the phase.

    Attributes
    ----------
    basis : Tensor
        ``(P, n, m)``, the constant first, then by degree.
    """

    basis: Tensor

    def __init__(self, size: tuple[int, int], order: int, std: float) -> None:
        super().__init__()
        rows, columns = (_legendre(n, order) for n in size)
        degrees = [(j, d - j) for d in range(order + 1) for j in range(d + 1)]
        scales = [std / (j + k) if j + k else _TURN for j, k in degrees]
        terms = [s * rows[j][:, None] * columns[k] for s, (j, k) in zip(scales, degrees, strict=True)]
        self.register_buffer("basis", torch.stack(terms), persistent=False)

    def forward(self, c: Tensor) -> Tensor:
        """The phases ``(B, n, m)`` of coefficients ``(B, P)``."""
        return torch.tensordot(c, self.basis, 1)

    def fit(self, x: Tensor) -> Tensor:
        r"""The coefficients ``(B, P)`` of complex images ``(B, n, m)``, by weighted least squares without unwrapping.

        First the differences of neighbours, :math:`\arg x_{p+1} \bar x_p`, which have no wraps where the phase is
        smooth, then, twice, the phase that is left.
        """
        x = x / x.abs().flatten(1).amax(1).clamp_min(torch.finfo(x.abs().dtype).tiny)[:, None, None]
        slopes = self.basis[1:]
        parts = [
            (
                x.narrow(axis, 1, x.shape[axis] - 1) * x.narrow(axis, 0, x.shape[axis] - 1).conj(),
                slopes.diff(dim=axis),
            )
            for axis in (1, 2)
        ]
        c = _least_squares(
            torch.cat([s.flatten(1) for _, s in parts], 1),
            torch.cat([d.angle().flatten(1) for d, _ in parts], 1),
            torch.cat([d.abs().flatten(1) for d, _ in parts], 1),
        )
        c = torch.cat([torch.zeros_like(c[:, :1]), c], 1)
        left = self._turned_back(x, c)
        turn = (left * left.abs()).sum((1, 2)).angle() / _TURN
        c = torch.cat([turn[:, None], c[:, 1:]], 1)
        for _ in range(_REFINEMENTS):
            left = self._turned_back(x, c).flatten(1)
            c = c + _least_squares(self.basis.flatten(1), left.angle(), left.abs().square())
        return torch.cat([c[:, :1] - c[:, :1].round(), c[:, 1:]], 1)

    def _turned_back(self, x: Tensor, c: Tensor) -> Tensor:
        return x * torch.polar(torch.ones_like(x.real), -self(c))


def _legendre(n: int, order: int) -> list[Tensor]:
    """The polynomials of the degrees 0 to `order` at the centres of n pixels of [-1, 1], float64."""
    u = (2 * torch.arange(n, dtype=torch.float64) + 1) / n - 1
    values = [torch.ones_like(u), u]
    for d in range(1, order):
        values.append(((2 * d + 1) * u * values[d] - d * values[d - 1]) / (d + 1))
    return values


def _least_squares(matrix: Tensor, right: Tensor, weights: Tensor) -> Tensor:
    """Minimise the mean of w (c M - r)^2 plus a little c^2, for rows ``(P, N)`` and ``(B, N)``: ``(B, P)``."""
    gram = torch.einsum("pn,bn,qn->bpq", matrix, weights, matrix)
    size = gram.diagonal(dim1=1, dim2=2).mean(1)
    ridge = 1e-6 * torch.where(size > 0, size, 1.0)[:, None, None]
    eye = torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device)
    return torch.linalg.solve(gram + ridge * eye, (weights * right) @ matrix.T)


@dataclass(frozen=True)
class _Reach:
    """What a structured model says of the stencil of its factor."""

    distance: int
    dilation: int | tuple[int, ...]
    coupled: bool = True


class Phased(nn.Module):
    r"""A model of magnitudes as one of complex images, :math:`x = G(z) e^{i \varphi(c)}`, with latent vectors (z, c).

    .. math:: \varphi(c) = 2 \pi c_{00} + \sum_{1 \le j + k \le \text{order}} \frac{\text{std}}{j + k}\, c_{jk}
              P_j(u) P_k(v), \qquad c \sim N(0, I),

    with Legendre polynomials on :math:`[-1, 1]^2`. So all phases are equally likely for the image as a whole (to 1e-8),
    and data that a scanner returns with another constant phase have the same image with that phase.

    Given the latent vector, the image is circular about its mean: turned back by φ, its real and its imaginary part are
    independent, both with the precision that the model has for magnitudes. The imaginary part stands for what a
    polynomial does not describe. Of a factor L of the model it follows that

    .. math:: (L^H r)_p = e^{\ell_p} r_p + \sum_k w_k(p) e^{i (\varphi_p - \varphi_{p + k})} r_{p + k} ,

    a sparse factor that is coupled, see `operators.SparseCholeskyPrecision`.

    Made by `with_phase`. The encoder fits the phase, and encodes the real part of what is left.

    Parameters
    ----------
    model : torch.nn.Module
        The model of magnitudes, ``(B, n, m)``.
    order, std
        See `with_phase`.
    """

    variational = False

    def __init__(self, model: Any, order: int, std: float) -> None:
        super().__init__()
        self.model, self.order, self.std = model, order, std
        self.phase = _Polynomials(tuple(model.image_shape), order, std)
        like = next(model.parameters(), None)
        if like is not None:
            self.phase.to(device=like.device, dtype=like.dtype)

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Two channels, rows and columns."""
        return (2, *self.model.image_shape)

    @property
    def latent_dim(self) -> int:
        """Dimension of (z, c)."""
        return self.model.latent_dim + len(self.phase.basis)

    @property
    def any_size(self) -> bool:
        """Whether there is the model for images of any other size, see `at`."""
        return getattr(self.model, "any_size", False)

    def at(self, image_shape: tuple[int, ...]) -> Self:
        """Return the model for images of another size ``(2, n, m)``, with the same weights.

        Raises
        ------
        ValueError
            If images have not two channels, or the model makes one size only.
        """
        if len(image_shape) != 3 or image_shape[0] != 2:
            raise ValueError(f"image_shape must be (2, n, m), real and imaginary part, got {image_shape}")
        return type(self)(self.model.at(image_shape[1:]), self.order, self.std)

    @property
    def log_gamma(self) -> Tensor:
        """Logarithm of the standard deviation of each part, as that of the magnitudes."""
        return self.model.log_gamma

    def parts(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return the latent vectors of the model, and the phases ``(B, n, m)``."""
        own, c = z.split((self.model.latent_dim, len(self.phase.basis)), 1)
        return own, self.phase(c)

    def decode(self, z: Tensor) -> Tensor:
        """Return the mean images ``(B, 2, n, m)`` of latent vectors ``(B, latent_dim)``."""
        own, phase = self.parts(z)
        m = self.model.decode(own)
        return torch.stack((m * phase.cos(), m * phase.sin()), 1)

    def encode(self, x: Tensor) -> Tensor:
        """Return the latent vectors ``(B, latent_dim)`` of images ``(B, 2, n, m)``."""
        given = torch.complex(*x.unbind(1))
        c = self.phase.fit(given)
        phase = self.phase(c)
        magnitude = given.real * phase.cos() + given.imag * phase.sin()
        return torch.cat((self.model.encode(magnitude), c), 1)


class _StructuredPhased(Phased):
    """The same, with a precision that depends on the latent vector."""

    def __init__(self, model: Any, order: int, std: float) -> None:
        super().__init__(model, order, std)
        self.config = _Reach(model.config.distance, model.config.dilation)
        self._offsets = neighbourhood(model.config.distance, model.config.dilation)

    def decode_factor(self, z: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return log-diagonal ``(B, 2, n, m)`` and weights ``(B, K, n, m)`` of the factor; None for a diagonal one."""
        own, phase = self.parts(z)
        log_diag, w = self.model.decode_factor(own)
        log_diag = torch.stack((log_diag, log_diag), 1)
        if w is None:
            return log_diag, None
        turn = phase.unsqueeze(1) - _shifted(phase, self._offsets)
        along, across = w * turn.cos(), w * turn.sin()
        return log_diag, torch.cat((along, along, -across, across, torch.zeros_like(w[:, :1])), 1)


def _shifted(phase: Tensor, offsets: list[tuple[int, int]]) -> Tensor:
    """Images ``(B, n, m)`` at later pixels, ``(B, K, n, m)``, anything beyond the border."""
    down, right = (max(abs(k[axis]) for k in offsets) for axis in (0, 1))
    n, m = phase.shape[-2:]
    padded = nn.functional.pad(phase, (right, right, 0, down))
    return torch.stack([padded[:, a : a + n, right + b : right + b + m] for a, b in offsets], 1)


def with_phase(model: nn.Module, *, order: int = 4, std: float = 2.0) -> Phased:
    r"""Make a model of complex images of one of magnitudes, whose phase is unknown and smooth.

    The coefficients of the phase are the last entries of the latent vector, white like the others, so that every
    regulariser and sampler takes the generator: ``Generator(with_phase(model), space)`` on a complex space.

    Parameters
    ----------
    model : torch.nn.Module
        A model of images ``(n, m)`` with an encoder, such as `weights.load` returns; perhaps structured.
    order : int
        Largest degree of the polynomials, so that there are (order + 1) (order + 2) / 2 of them.
    std : float
        Standard deviation of the coefficients of degree 1, in radians; those of degree d are d times smaller.

    Returns
    -------
    Phased
        The model; it shares the weights.

    Raises
    ------
    TypeError, ValueError
        If the model has no decoder and encoder of images ``(n, m)``, order is no positive integer, or std not positive.
    """
    order, std = integer(order, "order", minimum=1), number(std, "std", above=0)
    if not isinstance(model, nn.Module) or not (hasattr(model, "decode") and hasattr(model, "encode")):
        raise TypeError(f"model must be a module with decode and encode, got {type(model).__name__}")
    shape = tuple(getattr(model, "image_shape", ()))
    if len(shape) != 2:
        raise ValueError(f"model must make images (n, m) of magnitudes, got the shape {shape}")
    kind = _StructuredPhased if hasattr(model, "decode_factor") else Phased
    return kind(model, order, std)
