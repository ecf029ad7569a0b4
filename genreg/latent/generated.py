r"""Functionals of the generated image G(z)."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import odl
import torch
from odl.functionals import Functional
from torch import Tensor, nn

from genreg.networks.discriminator_output import DiscriminatorOutput
from genreg.operators import (
    NetworkFunctional,
    TorchFunctional,
    lower,
    to_tensor,
    to_torch,
    torch_device,
    torch_dtype,
)
from genreg.operators.bridge.arguments import number
from genreg.operators.bridge.protocols import StackedSpace
from genreg.operators.lowering.building_blocks import weighted_sum
from genreg.operators.lowering.fields import sum_of_squares
from genreg.operators.lowering.splitting import is_smooth, summed, terms


class _OfImage(Functional):
    """A differentiable functional of z ↦ G(z), from a module that gives one number for every image."""

    def __init__(self, G: odl.Operator, module: nn.Module) -> None:
        super().__init__(G.domain, linear=False)
        self.G = G
        self.functional = NetworkFunctional(module, G.range) * G

    def _call(self, z: Any) -> float:
        return self.functional(z)

    @property
    def gradient(self) -> odl.Operator:
        """Riesz gradient, by the chain rule."""
        return self.functional.gradient


@lower.register(_OfImage)
def _(op: _OfImage) -> TorchFunctional:
    return TorchFunctional(to_torch(op.functional).fn, op.domain, name=type(op).__name__)


def take_apart(latent: Functional, G: odl.Operator) -> tuple[TorchFunctional | None, TorchFunctional | None]:
    """Return the smooth terms of a latent functional, those of z and those of G(z), as functionals of z and of x.

    Who has G(z) already evaluates the latter without decoding again.
    """
    of_z, of_x = [], []
    for scale, term in terms(latent):
        if isinstance(term, _OfImage) and term.G is G:
            of_x.append((scale, to_torch(term.functional.left)))
        elif is_smooth(term):
            of_z.append((scale, to_torch(term)))
    return summed(of_z, G.domain) if of_z else None, summed(of_x, G.range) if of_x else None


class ImageVariation(_OfImage):
    r"""Isotropic total variation of the generated image, smoothed to be differentiable.

    .. math:: \int_\Omega \sqrt{|\nabla G(z)|_2^2 + \varepsilon^2}

    with forward differences divided by the cell size, none across the boundary, and the sum weighted by the
    cell volume, as in `genreg.TotalVariation`. With TV the total variation itself, the value lies between TV
    and TV + ε|Ω|; a constant image has the value ε|Ω|.

    Parameters
    ----------
    G : odl.Operator
        The generator Z -> X, with X a `uniform_discr`.
    smoothing : float
        The parameter ε > 0, in units of the image per unit of length: gradients well above it count by
        their length, those below by their square.

    Raises
    ------
    TypeError
        If G is no operator to a `uniform_discr`, or `smoothing` no number.
    ValueError
        If `smoothing` is not positive and finite.

    References
    ----------
    L. I. Rudin, S. Osher, E. Fatemi (1992), Nonlinear total variation based noise removal algorithms,
    doi:10.1016/0167-2789(92)90242-F.
    R. Acar, C. R. Vogel (1994), Analysis of bounded variation penalty methods for ill-posed problems,
    doi:10.1088/0266-5611/10/6/003.
    """

    def __init__(self, G: odl.Operator, smoothing: float) -> None:
        if not isinstance(G, odl.Operator) or not hasattr(G.range, "partition"):
            raise TypeError(f"G must be an ODL operator to a discretised function space, got {G!r}")
        self.smoothing = number(smoothing, "smoothing", above=0)
        super().__init__(G, _SmoothVariation(G.range, self.smoothing))

    def __repr__(self) -> str:
        return f"ImageVariation({self.G!r}, smoothing={self.smoothing:g})"


class _SmoothVariation(nn.Module):
    """Images ``(B, *X.shape)`` to their smoothed total variation ``(B,)``."""

    def __init__(self, X: StackedSpace, smoothing: float) -> None:
        super().__init__()
        self.differences = to_torch(odl.Gradient(X, method="forward", pad_mode="symmetric"))
        self.integral = weighted_sum(X)
        self.axis = -1 - len(X.shape)
        self.square = smoothing**2
        self.made_of = X, smoothing

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), self.made_of

    def forward(self, x: Tensor) -> Tensor:
        return self.integral((sum_of_squares(self.differences(x), self.axis) + self.square).sqrt())


class _OfDiscriminator(_OfImage):
    """A functional of what a network says about the generated image."""

    def __init__(self, G: odl.Operator, D: nn.Module, then: Callable[[Tensor], Tensor]) -> None:
        if not isinstance(G, odl.Operator) or not hasattr(G.range, "dtype"):
            raise TypeError(f"G must be an ODL operator to a tensor or function space, got {G!r}")
        dtype, device = torch_dtype(G.range), torch_device(G.range)
        if isinstance(D, nn.Module) and any(p.dtype != dtype or p.device != device for p in D.parameters()):
            D = copy.deepcopy(D).to(device=device, dtype=dtype)
        output = DiscriminatorOutput(D, tuple(G.range.shape)).eval()
        self._said = output.check(to_tensor(G(G.domain.zero()))[None])
        self.D = D
        super().__init__(G, _Then(output, then))


class _Then(nn.Module):
    """The output of a discriminator, and a function of it."""

    def __init__(self, output: DiscriminatorOutput, then: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.output, self.then = output, then

    def forward(self, x: Tensor) -> Tensor:
        return self.then(self.output(x))


def _log_fake(logit: Tensor) -> Tensor:
    return -nn.functional.softplus(logit)


def _log_fake_of_probability(real: Tensor) -> Tensor:
    return torch.log1p(-real.clamp(max=1 - torch.finfo(real.dtype).eps / 2))


class Discriminator(_OfDiscriminator):
    r"""What a discriminator holds against the generated image, :math:`\log(1 - D(G(z)))`.

    D(x) is the probability that x is real, so the value falls to minus infinity where D is convinced and
    rises to 0 where it is not. With the logit :math:`\ell` of that probability it is :math:`-\log(1 +
    e^\ell)`, which is what is computed where `D` returns logits. The critic of a Wasserstein GAN, whose
    output is large for real images, serves as well: its value enters as the logit.

    Parameters
    ----------
    G : odl.Operator
        The generator Z -> X.
    D : torch.nn.Module
        Maps images ``(B, *X.shape)`` to ``(B,)`` or ``(B, 1)``, by ``D.discriminate(x)`` where there is such
        a method. It is put in evaluation mode and its parameters are frozen. If X has another data type or
        device, a converted copy is used.
    logits : bool
        Whether `D` returns logits; otherwise it returns probabilities, which are rounded down to the largest
        number below 1 to keep the value finite.

    Raises
    ------
    TypeError
        If G is no operator to a tensor space, or D no module.
    ValueError
        If D is for images of another size, does not return one number for each image, or returns what can't
        be a probability.

    References
    ----------
    I. J. Goodfellow et al. (2014), Generative adversarial nets, arXiv:1406.2661.
    R. A. Yeh, C. Chen, T. Y. Lim, A. G. Schwing, M. Hasegawa-Johnson, M. N. Do (2017), Semantic image
    inpainting with deep generative models, arXiv:1607.07539.
    M. Arjovsky, S. Chintala, L. Bottou (2017), Wasserstein GAN, arXiv:1701.07875.
    """

    def __init__(self, G: odl.Operator, D: nn.Module, *, logits: bool = True) -> None:
        super().__init__(G, D, _log_fake if logits else _log_fake_of_probability)
        self.logits = logits
        if not logits and not 0 <= self._said <= 1:
            raise ValueError(
                f"D must return probabilities in [0, 1] with logits=False, got {self._said:g}; for logits or "
                "a critic leave logits=True"
            )

    def __repr__(self) -> str:
        return f"Discriminator({self.G!r}, {type(self.D).__name__}, logits={self.logits})"


class DensityRatio(_OfDiscriminator):
    r"""The logarithm of a density ratio at the generated image, :math:`-d(G(z))`.

    d is the logit of a discriminator between images from the data (d > 0) and from G. The best there is has

    .. math:: d(x) = \log \frac{p_{\rm data}(x)}{p_G(x)},

    so that :math:`\exp(-\tfrac12 \|z\|^2 + d(G(z)))`, the prior times the ratio, is a density of latent vectors
    whose images are distributed like the data. In a `genreg.sampling.LatentPosterior` that is the latent term
    ``0.5 * StandardNormal(G.domain) + DensityRatio(G, D)``; a factor below 1 before the ratio tempers a
    discriminator that is too sure. `genreg.training.fit_discriminator` trains discriminators for any generator.

    The critic of a Wasserstein GAN is no logit: trained for a distance between images, it bounds the slope of d
    but says nothing of a ratio, and its scale is that of the images. It may stand here, as it does in the first
    of the papers below, but the density that results is not that of the data; `genreg.training.fine_tune`
    takes one as the start of a discriminator.

    Parameters
    ----------
    G : odl.Operator
        The generator Z -> X.
    D : torch.nn.Module
        Maps images ``(B, *X.shape)`` to logits ``(B,)`` or ``(B, 1)``, by ``D.discriminate(x)`` where there is
        such a method. It is put in evaluation mode and its parameters are frozen. If X has another data type or
        device, a converted copy is used.

    Raises
    ------
    TypeError
        If G is no operator to a tensor space, or D no module.
    ValueError
        If D is for images of another size, or does not return one number for each image.

    References
    ----------
    T. Che, R. Zhang, J. Sohl-Dickstein, H. Larochelle, L. Paull, Y. Cao, Y. Bengio (2020), Your GAN is secretly
    an energy-based model and you should use discriminator driven latent sampling, arXiv:2003.06060.
    A. F. Ansari, M. L. Ang, H. Soh (2021), Refining deep generative models via discriminator gradient flow,
    arXiv:2012.00780.
    """

    def __init__(self, G: odl.Operator, D: nn.Module) -> None:
        super().__init__(G, D, torch.neg)

    def __repr__(self) -> str:
        return f"DensityRatio({self.G!r}, {type(self.D).__name__})"
