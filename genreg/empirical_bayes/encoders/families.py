r"""Encoders: networks that map what is known of an observation to an approximate posterior of its latent vector.

An encoder works in the coordinates :math:`z = z_0 + B u` in which the posterior at the start is white,
:math:`B B^T = (H + \Sigma_0^{-1})^{-1}` with the curvature H of the data (`linearised`) and the covariance
:math:`\Sigma_0` of the prior. There :math:`B^T s`, with the score s, is the posterior mean at the start for a linear A
and Gaussian noise. The encoder adds to it

.. math:: m = B^T s + V c + \mathrm{MLP}(c)

with the features c: the scores, whitened, and where these do not say all that an observation does, the data and the
noise themselves. V and the last layer begin at zero. So training starts from a good place, and its problem is well
conditioned however badly A is.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from genreg.empirical_bayes.encoders.coordinates import Affine
from genreg.empirical_bayes.encoders.densities import ApproximatePosterior, Diagonal, Full, Transformed
from genreg.networks.config import CardEntry
from genreg.operators.bridge.arguments import integer, integers
from genreg.operators.bridge.keywords import documented_like

# Relative variance below which a direction of the scores says nothing, and deviation below which a feature does not.
_FLOOR = 1e-6


class Encoder(nn.Module):
    """A network from features of observations to posteriors, made by `EncoderConfig.build`.

    Parameters
    ----------
    config : EncoderConfig
        The kind of posterior and the architecture.
    affine : Affine
        The coordinates.
    inputs : Tensor
        :math:`B^T s` and further features of the observations to train on, ``(n, p + d)``, which set the scales.
    """

    shift: Tensor
    whitening: Tensor

    def __init__(self, config: EncoderConfig, affine: Affine, inputs: Tensor) -> None:
        super().__init__()
        self.config, self.affine = config, affine
        p, d = affine.basis.shape[0], inputs.shape[1]
        self.size = p
        shift, whitening = _whitening(inputs.double(), p)
        self.register_buffer("shift", shift.to(inputs))
        self.register_buffer("whitening", whitening.to(inputs))
        like: dict[str, Any] = {"dtype": inputs.dtype, "device": inputs.device}
        self.linear = nn.Linear(d, p).to(**like)
        layers: list[nn.Module] = []
        widths = [d, *config.hidden]
        for before, after in itertools.pairwise(widths):
            layers += [nn.Linear(before, after), nn.SiLU()]
        self.trunk = nn.Sequential(*layers).to(**like)
        self.entries = nn.Parameter(config.initial(affine))
        outputs = p + (len(self.entries) if config.amortised else 0)
        self.head = nn.Linear(widths[-1], outputs).to(**like) if config.hidden or config.amortised else None
        for layer in (self.linear, self.head):
            if layer is not None:
                nn.init.zeros_(layer.weight)
                nn.init.zeros_(layer.bias)
        self.flow = nn.ModuleList(config.layers(p, widths[-1])).to(**like)

    @property
    def scores_only(self) -> bool:
        """Whether the features are scores alone."""
        return len(self.shift) == self.size

    def forward(self, inputs: Tensor) -> ApproximatePosterior:
        """Return the posteriors of the latent vectors of observations from `inputs`, ``(N, p + d)``."""
        c = (inputs - self.shift) @ self.whitening
        hidden = self.trunk(c)
        mean, entries = inputs[:, : self.size] + self.linear(c), self.entries
        if self.head is not None:
            out = self.head(hidden)
            mean = mean + out[:, : self.size]
            if self.config.amortised:
                entries = entries + out[:, self.size :]
        return self.config.posterior(self.affine, mean, entries, [layer(hidden) for layer in self.flow])


@dataclass(frozen=True, kw_only=True)
class EncoderConfig(CardEntry):
    """What all encoders have.

    Parameters
    ----------
    hidden
        Widths of the hidden layers; none gives means that are linear in the features.
    amortised
        Whether the covariance depends on the observation. For linear observations of a Gaussian with the same noise
        it does not.

    Raises
    ------
    ValueError
        If a width is not positive.
    """

    hidden: tuple[int, ...] = (128,)
    amortised: bool = False

    def __post_init__(self) -> None:
        hidden = integers(self.hidden, "hidden", minimum=1) if len(self.hidden) else ()
        object.__setattr__(self, "hidden", hidden)

    def initial(self, affine: Affine) -> Tensor:
        """The numbers of the covariance to start from, flat."""
        raise NotImplementedError

    def layers(self, p: int, context: int) -> list[nn.Module]:
        """Layers of a flow, for p components and an observation of `context` features; none in general."""
        return []

    def posterior(
        self, affine: Affine, mean: Tensor, entries: Tensor, flow: list[Any]
    ) -> ApproximatePosterior:
        """The posteriors with means ``(N, p)`` in the coordinates u, and numbers of the covariance, for each or all."""
        raise NotImplementedError

    def build(self, affine: Affine, inputs: Tensor) -> Encoder:
        """Return an encoder that starts as the posterior, or the nearest of its kind, under the prior at the start."""
        return Encoder(self, affine, inputs)


@dataclass(frozen=True, kw_only=True)
class MeanField(EncoderConfig):
    """Independent components of z, the encoder of the usual variational autoencoder.

    Parameters
    ----------
    hidden, amortised
        As for all encoders: widths of the hidden layers, and whether the covariance depends on the observation.
    """

    name: ClassVar[str] = "mean-field"

    def initial(self, affine: Affine) -> Tensor:
        """Logarithms of the standard deviations nearest to N(., B Bᵀ), by the diagonal of its precision."""
        precision = torch.linalg.inv(affine.basis @ affine.basis.T).diagonal()
        return -0.5 * precision.log()

    def posterior(
        self, affine: Affine, mean: Tensor, entries: Tensor, flow: list[Any]
    ) -> ApproximatePosterior:
        """Independent Gaussians."""
        return Diagonal(affine(mean), entries)


@documented_like(MeanField)
@dataclass(frozen=True, kw_only=True)
class FullCovariance(EncoderConfig):
    """Gaussians with a full covariance, which can be exact for linear observations of a Gaussian."""

    name: ClassVar[str] = "full-covariance"

    def initial(self, affine: Affine) -> Tensor:
        """The lower triangle of L, row by row, with the logarithm of the diagonal: zero, for L = I."""
        p = len(affine.centre)
        return affine.centre.new_zeros(p * (p + 1) // 2)

    def posterior(
        self, affine: Affine, mean: Tensor, entries: Tensor, flow: list[Any]
    ) -> ApproximatePosterior:
        """Gaussians."""
        return Full(affine, mean, _lower(entries, len(affine.centre)))


@dataclass(frozen=True, kw_only=True)
class InverseAutoregressive(FullCovariance):
    r"""Inverse autoregressive flows of noise, under a Gaussian with a full covariance.

    Every layer is :math:`t_i \mapsto \sigma_i t_i + \mu_i`, or a monotone spline of :math:`t_i`, with parameters that
    a masked network computes from :math:`t_1, \dots, t_{i-1}` and the observation, the order of the components
    reversed from layer to layer. Its Jacobian is triangular, its log-determinant :math:`\sum_i \log \sigma_i`. Draws
    cost one pass. The layers are those of the library zuko (the extra ``bayes``) and begin as the identity.

    Parameters
    ----------
    hidden, amortised
        As for all encoders; the covariance is that of the Gaussian. The flow sees the last hidden layer.
    transforms
        Number of layers.
    flow_hidden
        Widths of the hidden layers of the masked networks.
    bins
        Pieces of the splines; 0 for affine layers.

    Raises
    ------
    ValueError
        If a number is out of range.

    References
    ----------
    D. P. Kingma, T. Salimans, R. Jozefowicz, X. Chen, I. Sutskever, M. Welling (2016), Improved variational inference
    with inverse autoregressive flow, arXiv:1606.04934.
    """

    name: ClassVar[str] = "inverse-autoregressive"

    hidden: tuple[int, ...] = (128, 128)
    transforms: int = 3
    flow_hidden: tuple[int, ...] = (128, 128)
    bins: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "flow_hidden", integers(self.flow_hidden, "flow_hidden", minimum=1))
        integer(self.transforms, "transforms"), integer(self.bins, "bins")
        if self.transforms < 1 or self.bins < 0 or self.bins == 1:
            raise ValueError(
                f"transforms must be positive and bins 0 or at least 2, got {self.transforms} and {self.bins}"
            )

    def layers(self, p: int, context: int) -> list[nn.Module]:
        """Return the layers of the flow, which begin as the identity."""
        try:
            from zuko.flows.autoregressive import MaskedAutoregressiveTransform
            from zuko.transforms import MonotonicRQSTransform
        except ImportError as error:
            raise ImportError(
                "an inverse autoregressive flow needs zuko (the extra genreg[bayes]), which is not installed"
            ) from error
        spline: dict[str, Any] = {}
        if self.bins:
            spline = {
                "univariate": MonotonicRQSTransform,
                "shapes": [(self.bins,), (self.bins,), (self.bins - 1,)],
            }
        order = torch.arange(p)
        made = []
        for k in range(self.transforms):
            layer = MaskedAutoregressiveTransform(
                p,
                context,
                order=order if k % 2 == 0 else order.flip(0),
                hidden_features=self.flow_hidden,
                activation=nn.SiLU,
                **spline,
            )
            nn.init.zeros_(layer.hyper[-1].weight)
            nn.init.zeros_(layer.hyper[-1].bias)
            made.append(layer)
        return made

    def posterior(
        self, affine: Affine, mean: Tensor, entries: Tensor, flow: list[Any]
    ) -> ApproximatePosterior:
        """Flows of noise under Gaussians."""
        from zuko.transforms import ComposedTransform

        return Transformed(affine, mean, _lower(entries, len(affine.centre)), ComposedTransform(*flow))


def _lower(entries: Tensor, p: int) -> Tensor:
    """A lower triangular matrix from its entries row by row, the logarithms of those on the diagonal."""
    rows, columns = torch.tril_indices(p, p, device=entries.device)
    raw = entries.new_zeros(*entries.shape[:-1], p, p)
    raw[..., rows, columns] = entries
    return raw.tril(-1) + torch.diag_embed(raw.diagonal(dim1=-2, dim2=-1).exp())


def _whitening(inputs: Tensor, p: int) -> tuple[Tensor, Tensor]:
    """Mean of features, and the matrix that whitens the first p and scales the others to variance 1."""
    shift = inputs.mean(0)
    centred = inputs - shift
    values, vectors = torch.linalg.eigh(centred[:, :p].T @ centred[:, :p] / len(inputs))
    values = values.clamp_min(_FLOOR * float(values.max().clamp_min(1e-30)))
    std = centred[:, p:].square().mean(0).sqrt()
    varies = std > _FLOOR * shift[p:].abs()  # rounding does not count
    scale = torch.where(varies, 1 / std.clamp_min(1e-30), 0.0)
    # the symmetric root: eigenvectors alone have signs, or turn with the last digits where eigenvalues are equal
    return shift, torch.block_diag(vectors / values.sqrt() @ vectors.T, scale.diag())
