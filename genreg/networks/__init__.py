r"""Autoencoders: a decoder G from the latent space to images, and an encoder E back.

A model is a Gaussian with the mean G(z) and one standard deviation gamma for all pixels,

    p(x | z) = N(x; G(z), gamma^2 I),    p(z) = N(0, I),    q(z | x) = N(z; E(x), diag(s(x))^2),

where s(x) exists for a variational model only. Grey images are tensors ``(B, n, m)`` without a channel axis,
colour images ``(B, 3, n, m)``, both in [0, 1]; latent vectors are ``(B, latent_dim)``. Architectures are frozen
dataclasses with a method ``build``; `build` makes a model from the dictionary that a card of trained weights
stores. A `Structured` model has the inverse of L(z) L(z)', with a sparse L, in the place of gamma^2 I. A `GAN` has
the decoder of one autoencoder and, as its critic, the encoder of another; a `Critic` is such an encoder by itself. A
`GaussianRegressor` maps an image to a Gaussian of images, a `Denoiser` one with noise to one without. `with_phase`
makes a model of complex images of one of magnitudes, `adapt` autoencoders of those of other libraries.
"""

from collections.abc import Callable, Mapping
from typing import Any

from genreg.networks.adapted import AdaptedConfig, adapt
from genreg.networks.autoencoder import Architecture, Autoencoder
from genreg.networks.critic import Critic, CriticConfig
from genreg.networks.denoiser import Denoiser, DenoiserConfig
from genreg.networks.dense_and_convolutional import ConvConfig, DenseConfig
from genreg.networks.duff import DuffConfig
from genreg.networks.flow import Flow, FlowConfig
from genreg.networks.fully_convolutional import FullyConvolutionalConfig
from genreg.networks.gan import AUTOENCODERS, GAN, GanConfig, from_dict
from genreg.networks.gaussian_regressor import GaussianRegressor, GaussianRegressorConfig
from genreg.networks.latent_grid import GridConfig
from genreg.networks.phase import Phased, with_phase
from genreg.networks.regions import RegionsConfig
from genreg.networks.strided import StridedConfig
from genreg.networks.structured import Structured, StructuredConfig

__all__ = [
    "ARCHITECTURES",
    "GAN",
    "AdaptedConfig",
    "Architecture",
    "Autoencoder",
    "ConvConfig",
    "Critic",
    "CriticConfig",
    "Denoiser",
    "DenoiserConfig",
    "DenseConfig",
    "DuffConfig",
    "Flow",
    "FlowConfig",
    "FullyConvolutionalConfig",
    "GanConfig",
    "GaussianRegressor",
    "GaussianRegressorConfig",
    "GridConfig",
    "Phased",
    "RegionsConfig",
    "StridedConfig",
    "Structured",
    "StructuredConfig",
    "adapt",
    "build",
    "with_phase",
]

ARCHITECTURES: dict[
    str,
    Callable[
        ..., Architecture | CriticConfig | DenoiserConfig | FlowConfig | GanConfig | GaussianRegressorConfig
    ],
] = {
    **AUTOENCODERS,
    StructuredConfig.name: StructuredConfig,
    FlowConfig.name: FlowConfig,
    GanConfig.name: GanConfig,
    GaussianRegressorConfig.name: GaussianRegressorConfig,
    CriticConfig.name: CriticConfig,
    DenoiserConfig.name: DenoiserConfig,
}


def build(config: Mapping[str, Any]) -> Autoencoder | Critic | Denoiser | Flow | GAN | GaussianRegressor:
    """Build a model with random weights from the "architecture" entry of a card.

    Parameters
    ----------
    config
        Mapping with the key "name" and the fields of that architecture, as its ``to_dict`` returns it.

    Returns
    -------
    Autoencoder, Critic, Denoiser, Flow, GAN or GaussianRegressor
        The model, in training mode.

    Raises
    ------
    ValueError
        If the name is unknown, or a field is unknown, missing or out of range.
    """
    return from_dict(config, ARCHITECTURES).build()
