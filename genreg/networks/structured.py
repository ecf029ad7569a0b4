"""Autoencoders with a second head, which predicts the sparse Cholesky factor of a precision."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from genreg.networks.autoencoder import Autoencoder
from genreg.networks.config import ACTIVATIONS, CardEntry, Config
from genreg.networks.factor import check_head, factor_entries
from genreg.networks.gan import autoencoder_config
from genreg.operators.bridge.arguments import flag
from genreg.operators.precision.stencil import Stencil


class _Residual(nn.Module):
    """x + conv(act(conv(act(x))))."""

    def __init__(self, channels: int, activation: type[nn.Module]) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *(activation(), nn.Conv2d(channels, channels, 3, padding=1)),
            *(activation(), nn.Conv2d(channels, channels, 3, padding=1)),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class _Head(nn.Module):
    """From mean images ``(B, C, n, m)`` to ``(B, outputs, n, m)``: a small U-Net, at half the resolution and below.

    It starts with the same output at all pixels, whatever the image.
    """

    def __init__(
        self, inputs: int, outputs: int, channels: tuple[int, ...], activation: type[nn.Module]
    ) -> None:
        super().__init__()
        pairs = list(itertools.pairwise(channels))
        self.factor = 2 ** len(channels)
        self.first = nn.Sequential(nn.PixelUnshuffle(2), nn.Conv2d(4 * inputs, channels[0], 3, padding=1))
        self.down = nn.ModuleList(
            nn.Sequential(activation(), nn.Conv2d(fine, coarse, 4, stride=2, padding=1))
            for fine, coarse in pairs
        )
        self.body = nn.ModuleList(_Residual(width, activation) for width in channels)
        self.up = nn.ModuleList(
            nn.Sequential(activation(), nn.Conv2d(coarse, 4 * fine, 3, padding=1), nn.PixelShuffle(2))
            for fine, coarse in pairs
        )
        last = nn.Conv2d(channels[0], 4 * outputs, 3, padding=1)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)  # type: ignore[arg-type]
        self.last = nn.Sequential(activation(), last, nn.PixelShuffle(2))

    def forward(self, x: Tensor) -> Tensor:
        rows, columns = x.shape[-2:]
        below, beside = -rows % self.factor, -columns % self.factor
        if below or beside:
            x = F.pad(x, (0, beside, 0, below), mode="replicate")
        levels = [self.first(x)]
        for down in self.down:
            levels.append(down(levels[-1]))
        t = self.body[-1](levels[-1])
        for level in range(len(self.up) - 1, -1, -1):
            t = self.body[level](levels[level] + self.up[level](t))
        return self.last(t)[..., :rows, :columns] if below or beside else self.last(t)


class Structured(Autoencoder):
    r"""An autoencoder whose decoder gives a mean and a precision, p(x | z) = N(x; G(z), (L(z) L(z)')^-1).

    Column p of the lower triangular L has the diagonal entry exp(l_p) and, for the neighbours p + k that follow p
    in raster order, the entries exp(l_p) a_k(p):

        (L' r)_p = exp(l_p) (r_p + sum_k a_k(p) r_{p + k}),

    so that -a(p) are the coefficients by which the residual r = x - G(z) at p is predicted from those at later
    pixels, and exp(-l_p) is the standard deviation of what remains. The log-diagonal l is softly clipped to
    ``config.bounds``, and |a_k| < ``config.limit``.

    Both are functions of z by way of the mean image, l(z) = h(G(z)): where G is nearly one-to-one that loses nothing,
    and a convolutional h carries what it has learned about edges over to other places and images.

    Parameters
    ----------
    mean
        The autoencoder with the encoder and the mean decoder, which become parts of this model.
    head
        Module h that maps ``(B, channels, n, m)`` to ``(B, channels + K, n, m)``, the entries l before clipping and
        a before saturation.
    config
        The architecture.
    """

    config: StructuredConfig

    def __init__(self, mean: Autoencoder, head: nn.Module, config: StructuredConfig) -> None:
        super().__init__(mean.encoder, mean.decoder, config)
        self.log_gamma = mean.log_gamma
        self.head = head
        self._stencil = config.stencil

    @property
    def alignment(self) -> int:
        """Pixels by whose multiples an image may be moved so that the factor moves with it."""
        return 2 ** len(self.config.channels)

    def decode_factor(self, z: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the entries of L(z) for latent vectors ``(B, latent_dim)``.

        Returns
        -------
        log_diag : Tensor
            Logarithms l of the diagonal, ``(B, *image_shape)``, within the bounds.
        weights : Tensor or None
            The other entries by the pixel of their column, ``(B, K, n, m)``, in the order of
            `genreg.operators.neighbourhood`; None for a diagonal precision.
        """
        return self.factor_of(self.decode(z))

    def decode_all(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return the mean image and the two parts of `decode_factor`, with one pass through the mean decoder."""
        mean = self.decode(z)
        return mean, *self.factor_of(mean)

    def factor_of(self, mean: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return what `decode_factor` does, from the mean images ``(B, *image_shape)``."""
        grey = len(self.image_shape) == 2
        out = self.head(mean.unsqueeze(1) if grey else mean).to(mean.dtype)
        log_diag, weights = factor_entries(out, self._stencil, self.config.bounds, self.config.limit)
        return log_diag.squeeze(1) if grey else log_diag, weights

    def coefficients(self, log_diag: Tensor, weights: Tensor) -> Tensor:
        """Return a, ``(B, K, n, m)``, from what `decode_factor` returned."""
        return weights / self._by_column((log_diag.unsqueeze(1) if log_diag.ndim == 3 else log_diag).exp())

    @torch.no_grad()
    def scale_factor(self, c: float) -> None:
        """Let the factor be c L, apart from the soft clip of its log-diagonal; in place, for a head of `grow`."""
        bias: Tensor = self.head.last[1].bias  # type: ignore[index, union-attr, assignment]
        bias[: bias.numel() - 4 * len(self._stencil)] += math.log(c)

    def _by_column(self, t: Tensor) -> Tensor:
        """Return the channels ``(B, C, n, m)`` to which the columns of the entries belong, broadcastable to K."""
        return t if t.shape[1] == 1 else t[:, [term.column for term in self._stencil]]


@dataclass(frozen=True, kw_only=True)
class StructuredConfig(CardEntry):
    """Another autoencoder with a head for the Cholesky factor of the precision.

    The head is a small U-Net on the mean image; see `Structured` for what it predicts.

    Parameters
    ----------
    mean
        Configuration of the autoencoder that has the encoder and the mean, or its dictionary.
    channels
        Channels of the head at 1/2, 1/4, ... of the resolution of the image, which is continued by its last rows and
        columns to sides that are divisible by the factor.
    distance
        d: a pixel is joined to those at most d rows and d columns away. 0 gives a diagonal precision.
    dilation
        Factor of the offsets, or several factors whose neighbourhoods are joined.
    bounds
        Bounds of the log-diagonal: exp(-bounds[1]) is the least standard deviation of a pixel given the later ones.
    limit
        Bound on the size of the coefficients a.
    activation
        Name of the activation of the head; a smooth one makes the precision smooth in z.
    coupled
        Whether L connects different channels of neighbouring pixels, too, see `operators.SparseCholeskyPrecision`: what
        is known of the real part at a pixel then tells of the imaginary part at the next.

    Raises
    ------
    TypeError
        If `mean` is no configuration of an autoencoder.
    ValueError
        If a number is out of range, or the image is smaller than the neighbourhood.

    References
    ----------
    G. Dorta, S. Vicente, L. Agapito, N. D. F. Campbell, I. Simpson (2018), Structured uncertainty prediction networks,
    CVPR, arXiv:1802.07079.

    M. Duff, I. Simpson, M. J. Ehrhardt, N. D. F. Campbell (2023), VAEs with structured image covariance applied to
    compressed sensing MRI, Phys. Med. Biol. 68, arXiv:2210.14586.
    """

    name: ClassVar[str] = "structured"

    mean: Config
    channels: tuple[int, ...] = (16, 32, 48)
    distance: int = 2
    dilation: int | tuple[int, ...] = 1
    bounds: tuple[float, float] = (-5.0, 5.0)
    limit: float = 2.0
    activation: str = "silu"
    coupled: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "mean", autoencoder_config(self.mean, "mean"))
        if getattr(self.mean, "dimensions", 2) != 2:
            raise ValueError(f"mean must make images of two axes, got one for {self.mean.image_shape}")
        self._with_tuples()
        check_head(self, padded=True)
        flag(self.coupled, "coupled")

    @property
    def any_size(self) -> bool:
        """Whether the weights serve images of any size, as those of the mean do."""
        return self.mean.any_size

    @property
    def levels(self) -> tuple[Any, ...]:
        """The latent images of the mean, none where it has none."""
        return getattr(self.mean, "levels", ())

    @property
    def stencil(self) -> Stencil:
        """The neighbours of a pixel that have an entry in its column of L."""
        channels = 1 if len(self.image_shape) == 2 else self.image_shape[0]
        return (
            Stencil.of(channels, self.distance, self.dilation, self.coupled) if self.distance else Stencil()
        )

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Rows and columns of an image; in front of them the channels, where it has some."""
        return self.mean.image_shape

    @property
    def latent_dim(self) -> int:
        """Dimension of the latent space."""
        return self.mean.latent_dim

    @property
    def variational(self) -> bool:
        """Whether the encoder returns a distribution."""
        return self.mean.variational

    def build(self) -> Structured:
        """Return a model with random weights; its precision is isotropic, 1/gamma^2."""
        return self.grow(self.mean.build())

    def grow(self, mean: Autoencoder) -> Structured:
        """Return a model with a trained mean, whose parts it shares, and a new head.

        The head starts at the isotropic precision 1/gamma^2 of `mean` (softly clipped to the bounds).

        Parameters
        ----------
        mean
            A model of the configuration ``self.mean``.

        Raises
        ------
        ValueError
            If it has another configuration, or its γ is not known.
        """
        if mean.config != self.mean:
            raise ValueError(f"mean must be a model with the configuration {self.mean}, got {mean.config}")
        if not mean.log_gamma.is_meta and not torch.isfinite(mean.log_gamma):
            raise ValueError(
                "mean must have a standard deviation γ, which genreg.training.fit_gamma finds from images, got "
                f"log γ = {mean.log_gamma.item()}"
            )
        channels = 1 if len(self.image_shape) == 2 else self.image_shape[0]
        head = _Head(channels, channels + len(self.stencil), self.channels, ACTIVATIONS[self.activation])
        bias: Tensor = head.last[1].bias  # type: ignore[assignment]
        # the pixel shuffle takes four consecutive channels to one
        bias.data[: 4 * channels] = -mean.log_gamma.detach().to(bias.device)
        head.to(mean.log_gamma.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        return Structured(mean, head, self)

    def at(self, image_shape: tuple[int, ...]) -> Self:
        """Return the architecture for images of another size.

        Raises
        ------
        ValueError
            If the image is smaller than the neighbourhood, or has other channels.
        """
        mean: Any = self.mean
        return replace(self, mean=mean.at(image_shape))

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON-able dictionary that `genreg.networks.build` takes."""
        entries = super().to_dict()
        return entries if self.coupled else {k: v for k, v in entries.items() if k != "coupled"}
