r"""Generators: trained models as ODL operators from the latent space to images, :math:`G: Z \to X`."""

from __future__ import annotations

import copy
import functools
import math
from pathlib import Path
from typing import Any, cast

import odl
import torch
from odl.core.space.base_tensors import TensorSpace
from torch import Tensor, nn

from genreg import weights
from genreg.networks.adapted import adapt
from genreg.networks.affine import Affine
from genreg.networks.foreign import has_latent_images
from genreg.networks.mean_codes import MeanDecoder, MeanEncoder
from genreg.networks.predicted_precision import Decoded, factor_like, real_space
from genreg.networks.tiled import Tiled
from genreg.operators import (
    NetworkOperator,
    Precision,
    torch_device,
    torch_dtype,
)
from genreg.operators.bridge.arguments import described, integer, seeded_generator
from genreg.operators.bridge.arrays import check_memory
from genreg.operators.bridge.complex_parts import to_channels
from genreg.operators.bridge.modes import undisturbed, without_autocast
from genreg.operators.bridge.protocols import StackedSpace
from genreg.operators.precision.complex_images import isotropic_precision


class Generator(NetworkOperator):
    r"""A trained decoder as an ODL operator :math:`G: Z \to X`, with its encoder where it has one.

    ``G(z)``, ``G.derivative(z)`` and its ``adjoint`` are those of an ODL operator; `decode` and `encode` work
    on batches of tensors. The model is put in evaluation mode and its parameters are frozen. If the space has
    another data type or device than the model, a converted copy is used.

    Parameters
    ----------
    model : torch.nn.Module
        With ``decode(z)`` (or a plain decoder, called as it is) from ``(B, latent_dim)`` to ``(B,
        *range.shape)`` or ``(B, 1, *range.shape)``; optionally ``encode(x)`` back, and the logarithm
        ``log_gamma`` of the decoder's standard deviation. A structured model has ``decode_factor(z)``, too:
        logarithmic diagonal and weights of the factor L of the precision, see `SparseCholeskyPrecision`. Or an
        autoencoder of MONAI or diffusers, whose latent variables are images, see `genreg.networks.adapt`.
    range : ODL space
        The image space X, for example a `uniform_discr`, with a first axis of channels for colour images:
        ``odl.rn((3, n, m))``; of any size for fully convolutional models. On a complex space, such as a `uniform_discr`
        with ``dtype="complex64"``, the two channels of the model are real and imaginary part. Images are in the model's
        units, [0, 1] for the shipped models.
    latent_dim : int, optional
        dim Z, where the model has no attribute of that name.
    scale, offset : float
        s > 0 and a: the images of G are a + s times those of the model, for images in Hounsfield units, in 1/mm, or of
        any scale of k-space. Encoder, γ, precision, and the critic of a GAN go with them. Complex images, whose phase
        is arbitrary, have no offset.
    tile : int, optional
        For large images and fully convolutional models: decode and encode by tiles of this side in pixels, with margins
        as wide as the model sees. Values and gradients are the same up to rounding; the memory of the network is that
        of one tile, and a gradient costs one more pass through the decoder, see `genreg.networks.tiled`.

    Raises
    ------
    TypeError
        If `model` is no module or `range` no tensor space.
    ValueError
        If the latent dimension is unknown or not positive, the model's images do not fit the space, complex images are
        given an offset, or the model cannot be taken by tiles.
    """

    module: MeanDecoder

    @undisturbed
    def __init__(
        self,
        model: nn.Module,
        range: StackedSpace,
        *,
        latent_dim: int | None = None,
        scale: float = 1.0,
        offset: float = 0.0,
        tile: int | None = None,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
        if not isinstance(range, TensorSpace):
            raise TypeError(f"range must be an ODL tensor or function space, got {described(range)}")
        if latent_dim is None and has_latent_images(model):
            model = adapt(model, tuple(range.shape))
        model = _fitted(model, range, f"the model {type(model).__name__} makes")
        if not (torch_dtype(range).is_floating_point or torch_dtype(range).is_complex):
            raise TypeError(f"range must be a real or complex space of floating type, got {range!r}")
        dim = getattr(model, "latent_dim", None) if latent_dim is None else latent_dim
        if dim is None:
            raise ValueError(f"latent_dim must be given: {type(model).__name__} has no such attribute")
        dim = integer(dim, "latent_dim", minimum=1)
        of_parts = torch_dtype(range).is_complex
        dtype, device = torch_dtype(range).to_real(), torch_device(range)
        check_memory((dim,), dtype, "latent_dim", dim)
        parameter = next(iter(model.parameters()), None)
        if parameter is not None and (parameter.dtype != dtype or parameter.device != device):
            model = copy.deepcopy(model).to(device=device, dtype=dtype)
        if of_parts and offset != 0.0:
            raise ValueError(f"offset must be 0 for complex images, got {offset}")
        if tile is not None:
            model = Tiled(model, tile)
        if scale != 1.0 or offset != 0.0:
            model = Affine(model, scale, offset)
        domain = odl.rn(dim, dtype=_identifier(dtype), impl=range.impl, device=range.device)
        super().__init__(MeanDecoder(model, tuple(range.shape), of_parts), domain, range)

        self.card: dict[str, Any] = {}
        self._factor = factor_like(self.model, range)

    @property
    def model(self) -> nn.Module:
        """The model, in evaluation mode."""
        return self.module.model

    @property
    def has_encoder(self) -> bool:
        """Whether the model can encode images."""
        return hasattr(self.model, "encode")

    @property
    def std(self) -> float | None:
        """Standard deviation γ of a pixel given z that the model has learned, or None."""
        std = float(torch.as_tensor(getattr(self.model, "log_gamma", torch.nan)).exp())
        return None if math.isnan(std) else std

    @property
    def scale(self) -> float:
        """s, by which the images are larger than those of the model."""
        return getattr(self.model, "scale", 1.0)

    @property
    def offset(self) -> float:
        """a, what the images have in the place of the model's zero."""
        return getattr(self.model, "offset", 0.0)

    @property
    def structured(self) -> bool:
        """Whether the precision of an image depends on z, as that of SUPN does."""
        return self._factor is not None

    def decode(self, z: Tensor) -> Decoded:
        """The distribution of the image given z, ``(B, latent_dim)``; differentiable in z."""
        mean = self.module(z)
        return Decoded(mean, functools.partial(self._precision, z, mean))

    def _precision(self, z: Tensor, mean: Tensor) -> Precision | None:
        if self._factor is None:
            return None if self.std is None else isotropic_precision(self.range, self.std**-2)
        model: Any = self.model
        with without_autocast():
            if hasattr(model, "factor_of"):  # what z says, it says by way of the mean
                mean = to_channels(mean) if mean.is_complex() else mean
                log_diag, weights = model.factor_of(mean.reshape(len(z), *model.image_shape))
            else:
                log_diag, weights = model.decode_factor(z)
        log_diag = log_diag.reshape(len(z), *real_space(self.range).shape)
        if weights is None:
            return self._factor.with_parameters(log_precision=2 * log_diag)
        return self._factor.with_parameters(log_diag=log_diag, weights=weights)

    def encode(self, x: Tensor) -> Tensor:
        """Mean latent vectors ``(B, latent_dim)`` of images ``(B, *range.shape)``.

        Raises
        ------
        NotImplementedError
            If the model has no encoder.
        """
        if not self.has_encoder:
            raise NotImplementedError(
                f"the model {type(self.model).__name__} has no encoder (a method encode)"
            )
        with torch.no_grad():
            return self._mean_encoder()(x)

    def encode_distribution(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of q(z | x), ``(B, latent_dim)``, for images ``(B, *range.shape)``.

        Raises
        ------
        NotImplementedError
            If the model is not variational.
        """
        if not getattr(self.model, "variational", False):
            raise NotImplementedError(f"the model {type(self.model).__name__} is not variational")
        model: Any = self.model
        with torch.no_grad(), without_autocast():
            return model.encode_distribution(self._mean_encoder().of_model(x))

    def _mean_encoder(self) -> MeanEncoder:
        return MeanEncoder(self.model, tuple(self.range.shape), self.module.of_parts)

    @property
    def encoder(self) -> NetworkOperator:
        """The encoder E: X -> Z (its mean) as an ODL operator.

        Raises
        ------
        ValueError
            If the model has no encoder.
        """
        if not self.has_encoder:
            raise ValueError(f"G must have an encoder (a method encode of its model), got {self!r}")
        return NetworkOperator(self._mean_encoder(), self.range, self.domain)

    def sample(self, n: int, *, seed: int) -> Tensor:
        """Mean images ``(n, *range.shape)`` of n draws of z ~ N(0, I)."""
        n, generator = integer(n, "n", minimum=1), seeded_generator(seed)
        check_memory((n, *self.range.shape), torch_dtype(self.range), "n", n, torch_device(self.range))
        z = torch.randn((n, *self.domain.shape), generator=generator, dtype=torch_dtype(self.domain))
        with torch.no_grad():
            return self.module(z.to(torch_device(self.domain)))

    def __repr__(self) -> str:
        return f"Generator({type(self.model).__name__}, {self.domain!r} -> {self.range!r})"


def _fitted(model: nn.Module, space: StackedSpace, makes: str) -> nn.Module:
    """Return the model for the images of a space, the same where it makes them or does not know their shape.

    Raises
    ------
    ValueError
        If it makes other images, and not those of any size.
    """
    wanted = tuple(real_space(space).shape)
    shape = tuple(getattr(model, "image_shape", wanted))
    if wanted in (shape, shape[1:] if shape[0] == 1 else shape):
        return model
    if torch_dtype(space).is_complex and len(shape) == 2:
        raise ValueError(
            f"{makes} images of magnitudes, range is complex: networks.with_phase gives such a model a phase"
        )
    if getattr(model, "any_size", False):
        return cast(nn.Module, model.at(wanted))  # type: ignore[operator]
    given, asked = (" x ".join(map(str, s)) for s in (shape, wanted))
    parts = ", of real and imaginary parts" if torch_dtype(space).is_complex else ""
    raise ValueError(f"{makes} {given} images, range is {asked}{parts}")


def _identifier(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


@undisturbed
def load_generator(
    name_or_path: str | Path,
    range: StackedSpace | None = None,
    *,
    scale: float | None = None,
    offset: float | None = None,
    tile: int | None = None,
) -> Generator:
    """Load a trained generator that comes with the package, or from a file.

    Parameters
    ----------
    name_or_path : str or Path
        Name of shipped weights (``"shapes-vae"``, ``"shapes-ae"``, ``"shapes-gan"``, ``"mnist-vae"``,
        ``"mnist-ae"``, ``"mnist-gan"``, ``"mnist-vae-dense"``, ``"gradients-2-vae"``, ``"gradients-4-vae"``,
        ``"disc-vae"``, ``"brain-vae"``; with a diagonal or structured precision ``"mnist-diagonal"``,
        ``"mnist-supn"``, ``"brain-diagonal"``, ``"brain-supn"``, and for any size ``"brain-supn-any"`` and
        ``"brain-supn-complex"``), or the path of a ``.safetensors`` file with its card beside it, as
        `genreg.weights.save` writes it.
    range : ODL space, optional
        The image space X; its shape must be that of the model's images, or is any for a fully convolutional model. By
        default a `uniform_discr` of that shape from the origin with pixels of size 1, ``uniform_discr([0, 0], shape,
        shape, dtype="float32")``, complex for a model of two channels.
    scale, offset : float, optional
        Units of the images, see `Generator`; by default those on the card, of the files that a prior of own images was
        made of (`genreg.own_images.train_prior`), and otherwise 1 and 0.
    tile : int, optional
        Decode and encode by tiles, see `Generator`.

    Returns
    -------
    Generator
        ``G.card`` holds the card: data, architecture, training settings and scores.

    Raises
    ------
    FileNotFoundError, ValueError
        If the weights are unknown, missing, truncated or altered, or the images do not fit the space.
    """
    model: nn.Module
    model, card = weights.load(name_or_path)
    if range is None:
        shape = tuple(getattr(model, "image_shape", ()))
        if not shape:
            raise ValueError(f"range must be given: the weights {name_or_path} make no images")
        of_parts = len(shape) == 3 and shape[0] == 2
        shape = shape[1:] if of_parts else shape
        range = odl.uniform_discr(
            [0] * len(shape), shape, shape, dtype="complex64" if of_parts else "float32"
        )
    elif hasattr(range, "shape") and not isinstance(range, odl.ProductSpace):
        model = _fitted(model, range, f"weights {name_or_path} make")
    units = {"scale": 1.0, "offset": 0.0} | card.get("units", {})
    units |= {key: value for key, value in (("scale", scale), ("offset", offset)) if value is not None}
    G = Generator(model, range, tile=tile, **units)
    G.card = card
    return G
