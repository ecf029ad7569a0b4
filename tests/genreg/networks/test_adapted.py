"""Autoencoders of other libraries: of MONAI and diffusers where these are there, and what is called like them."""

import copy
import pickle
from types import SimpleNamespace

import numpy as np
import odl
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from genreg import Generator, HardConstraint, JointPrior, reconstruct, to_torch, training, weights
from genreg.networks import AdaptedConfig, Autoencoder, StructuredConfig, adapt
from genreg.operators import derivative_test, dot_test, gaussian_measurements


class Halves(nn.Module):
    """Two convolutions that halve or double an image, with attention in between as in latent diffusion."""

    def __init__(self, channels=1, latent_channels=2, dimensions=2):
        super().__init__()
        convolution = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dimensions - 1]
        transposed = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)[dimensions - 1]
        self.down = convolution(channels, 2 * latent_channels, 2, stride=2)
        self.norm = nn.GroupNorm(1, latent_channels)
        self.up = transposed(latent_channels, channels, 2, stride=2)

    def moments(self, x):
        mean, log_variance = self.down(x).chunk(2, dim=1)
        return 3.0 * mean + 0.7, (0.5 * log_variance - 1.0).exp()

    def image(self, z):
        t = (0.3 * z).flatten(2).mT[:, None]
        t = F.scaled_dot_product_attention(t, t, t)[:, 0].mT.unflatten(2, z.shape[2:])
        return self.up(self.norm(z + t))


class LikeMonai(Halves):
    """``encode`` returns mean and standard deviation, ``forward`` draws a z in any mode."""

    def encode(self, x):
        return self.moments(x)

    def decode(self, z):
        return self.image(z)

    def forward(self, x):
        mean, std = self.encode(x)
        return self.decode(mean + std * torch.randn_like(std)), mean, std


class LikeDiffusers(Halves):
    """Objects with ``latent_dist`` and ``sample``, and a configuration."""

    def __init__(self, channels=3, **config):
        super().__init__(channels)
        self.config = SimpleNamespace(in_channels=channels, **config)

    def encode(self, x, return_dict=True):
        mean, std = self.moments(x)
        return SimpleNamespace(latent_dist=SimpleNamespace(mean=mean, std=std))

    def decode(self, z, return_dict=True):
        return SimpleNamespace(sample=self.image(z))


class Points(Halves):
    """Tensors, as a plain convolutional autoencoder has them."""

    def encode(self, x):
        return self.moments(x)[0]

    def decode(self, z):
        return self.image(z)


class Tiny(Points):
    def encode(self, x):
        return SimpleNamespace(latents=super().encode(x))


def monai():
    nets = pytest.importorskip("monai.networks.nets")
    return nets.AutoencoderKL(
        spatial_dims=2,
        num_res_blocks=1,
        channels=(4, 8),
        attention_levels=(False, True),
        latent_channels=2,
        norm_num_groups=2,
    )


def diffusers():
    library = pytest.importorskip("diffusers")
    return library.AutoencoderKL(
        block_out_channels=(4, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=2,
        norm_num_groups=2,
    )


MODELS = {
    "like MONAI": LikeMonai,
    "like diffusers": LikeDiffusers,
    "points": Points,
    "tiny": Tiny,
    "MONAI": monai,
    "diffusers": diffusers,
}
CLOSE = {"rtol": 1e-10, "atol": 1e-12}


def made(name):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return MODELS[name]().double()


def images(n, *shape, seed=0):
    return torch.rand(n, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def latent_image(model, x):
    """What a user of the library gets."""
    found = model.encode(x)
    found = found[0] if isinstance(found, tuple) else found
    found = getattr(found, "latents", found)
    return found.latent_dist.mean if hasattr(found, "latent_dist") else found


@pytest.mark.parametrize("name", MODELS)
def test_a_generator_is_the_model_in_units_of_the_images(name):
    model = made(name)
    X = odl.uniform_discr([0, 0], [3, 2], (6, 4))
    G = Generator(model, X, scale=2000.0, offset=-1000.0)
    x = images(2, 6, 4)
    state = torch.get_rng_state()
    z, channels = G.encode(2000 * x - 1000), G.model.config.channels
    assert z.shape == (2, G.domain.size) == (2, 2 * 3 * 2) and torch.equal(torch.get_rng_state(), state)
    with torch.no_grad():
        c = latent_image(model, x[:, None].expand(-1, channels, -1, -1))
        back = model.decode(c)
        back = getattr(back, "sample", back).mean(1)
    torch.testing.assert_close(G.decode(z).mean, 2000 * back - 1000, **CLOSE)
    for i in range(2):
        torch.testing.assert_close(G.decode(z[i : i + 1]).mean[0], G.decode(z).mean[i], **CLOSE)
    factor = 0.18215 if name == "diffusers" else 1.0
    torch.testing.assert_close(z, factor * c.flatten(1), **CLOSE)
    assert G.std is None and G.decode(z).precision is None and not model.training


@pytest.mark.parametrize("name", MODELS)
def test_derivatives_forwards_and_backwards(name):
    """Attention has no forward derivative on the CPU, nor has group normalisation after it."""
    G = Generator(made(name), odl.uniform_discr([0, 0], [1, 2], (4, 4)))
    z = G.domain.element(images(1, G.domain.size)[0].numpy())
    derivative_test(G, z)
    dot_test(G.derivative(z))
    derivative_test(G.encoder, G(z))


@pytest.mark.parametrize("name", ["like MONAI", "like diffusers", "MONAI", "diffusers"])
@pytest.mark.parametrize("shape", [(5, 4), (1, 4, 7), (3, 5, 5)])
def test_any_size_and_number_of_channels(name, shape):
    model = made(name)
    if shape[0] == 3 and "MONAI" in name:
        with pytest.raises(ValueError, match=r"image_shape must have 1 or 1 channels for .*, got 3"):
            Generator(model, odl.rn(shape))
        return
    G, x = Generator(model, odl.rn(shape)), images(2, *shape)
    rows, columns = (side + side % 2 for side in shape[-2:])
    larger = x[
        ..., [*range(shape[-2]), *[shape[-2] - 1] * (rows - shape[-2])], :
    ]  # its last rows and columns again
    larger = larger[..., [*range(shape[-1]), *[shape[-1] - 1] * (columns - shape[-1])]]
    other = Generator(model, odl.rn(larger.shape[1:]))
    z = G.encode(x)
    torch.testing.assert_close(z, other.encode(larger), **CLOSE)
    cut = other.decode(z).mean[..., : shape[-2], : shape[-1]]
    torch.testing.assert_close(G.decode(z).mean, cut, **CLOSE)
    again = G.model.at(tuple(larger.shape[1:]))
    torch.testing.assert_close(again.decode(z), other.decode(z).mean, **CLOSE)


@pytest.mark.parametrize("dimensions", [1, 3])
def test_signals_and_volumes(dimensions):
    shape = (5, 3, 4)[:dimensions]
    G = Generator(LikeMonai(dimensions=dimensions).double(), odl.rn(shape))
    assert G.decode(G.encode(images(2, *shape))).mean.shape == (2, *shape)
    if dimensions == 3:
        training.fit_gamma(G, images(2, *shape))
        with pytest.raises(ValueError, match=r"mean must make images of two axes, got one for \(5, 3, 4\)"):
            StructuredConfig(mean=G.model.config)


@pytest.mark.parametrize("name", ["like MONAI", "like diffusers", "points", "MONAI", "diffusers"])
def test_latent_vectors_are_standardised_in_the_units_of_the_generator(name):
    G = Generator(made(name), odl.rn((6, 5)), scale=3.0, offset=1.0)
    x = 3 * images(20, 6, 5) + 1
    z = G.encode(x)
    image, element = G.decode(z).mean, G.domain.element(z[0].numpy())
    before = G(element).asarray()
    training.whiten(G, x)
    codes, config = G.encode(x), G.model.config
    torch.testing.assert_close(G.decode(codes).mean, image, rtol=1e-9, atol=1e-9)
    assert np.abs(G(element).asarray() - before).max() > 1e-3  # a value that was kept is not given again
    mean = codes.unflatten(1, (config.latent_channels, -1))
    variance = mean.square().mean((0, 2))
    if config.variational:
        std = G.model.model.encode_distribution((x - 1) / 3)[1].unflatten(1, (config.latent_channels, -1))
        variance = variance + std.square().mean((0, 2))
    torch.testing.assert_close(mean.mean((0, 2)), torch.zeros(2, dtype=torch.float64), rtol=0, atol=1e-9)
    torch.testing.assert_close(variance, torch.ones(2, dtype=torch.float64))


def test_what_diffusers_knows_about_its_latent_images():
    x = images(2, 3, 4, 4)
    c = latent_image(LikeDiffusers().double(), x)

    def codes(**config):
        torch.manual_seed(0)
        model = LikeDiffusers(**config).double()
        return adapt(model, (3, 4, 4)).encode(x), latent_image(model, x)

    for config, shift, scale in (
        ({"scaling_factor": 0.2, "shift_factor": 0.1}, 0.1, 5.0),
        ({"scaling_factor": 0.2, "shift_factor": None}, 0.0, 5.0),
        # Playground v2.5: the factor is the deviation that its diffusion wants, not 1
        (
            {"scaling_factor": 0.5, "latents_mean": [1.0, 2.0], "latents_std": [3.0, 4.0]},
            [1.0, 2.0],
            [3.0, 4.0],
        ),
    ):
        z, c = codes(**config)
        shift, scale = (torch.tensor(v, dtype=torch.float64).reshape(-1, 1, 1) for v in (shift, scale))
        torch.testing.assert_close(z, ((c - shift) / scale).flatten(1), **CLOSE)
    with pytest.raises(
        ValueError, match="one standard deviation of the latent images for each of its 2 channels, got 3"
    ):
        codes(latents_std=[1.0, 2.0, 3.0])


@pytest.mark.parametrize("name", ["like MONAI", "like diffusers", "MONAI", "diffusers"])
def test_the_deviation_of_a_pixel_comes_from_held_out_images(name):
    G, x = Generator(made(name), odl.rn((6, 5)), scale=3.0), 3 * images(8, 6, 5)
    gamma = training.fit_gamma(G, x, sampled=False)
    error = (G.decode(G.encode(x)).mean - x).square().mean().sqrt().item()
    assert gamma == pytest.approx(error, rel=1e-12) == pytest.approx(G.std, rel=1e-12)
    assert JointPrior(G).parameters["beta"] == pytest.approx(error**-2)
    assert training.fit_gamma(G, x[:, None]) > 0  # with the axis of one channel


@pytest.mark.parametrize("name", ["like MONAI", "like diffusers", "MONAI", "diffusers"])
def test_a_structured_precision_is_trained_on_the_frozen_mean(name):
    mean = adapt(made(name).float(), (8, 6))
    x = images(12, 8, 6).float()
    config = StructuredConfig(mean=mean.config, channels=(4,), distance=1)
    with pytest.raises(ValueError, match=r"mean must have a standard deviation γ, which .*fit_gamma finds"):
        config.grow(mean)
    training.fit_gamma(mean, x)
    model = config.grow(mean)
    frozen = copy.deepcopy(mean.state_dict())
    card = training.fit_precision(
        model, x, steps=20, batch_size=6, lr=1e-2, validation=x, validate_every=10, progress=False
    )
    assert card["history"][-1]["nats"] > training.likelihood(mean, x)["nats"]
    assert all(
        torch.equal(t, frozen[key]) for key, t in mean.state_dict().items() if "num_batches" not in key
    )
    G = Generator(model, odl.rn((7, 9), dtype="float32"), scale=2.0)  # another size
    precision = G.decode(torch.zeros(2, G.domain.size)).precision
    assert G.structured and precision.quadratic(torch.ones(2, 7, 9)).shape == (2,)
    with pytest.raises(ValueError, match="model must be one that genreg builds"):
        weights.save("nowhere", model, {})


@pytest.mark.parametrize("name", ["like diffusers", "MONAI", "diffusers"])
def test_reconstruction_by_the_discrepancy_principle(name):
    X = odl.uniform_discr([0, 0], [1, 1], (4, 6))
    A, G = gaussian_measurements(X, 20, seed=0), Generator(made(name), X)
    training.fit_gamma(G, images(4, 4, 6))
    y = to_torch(A)(G.decode(0.5 * images(2, G.domain.size)).mean)
    y = y + 0.2 * torch.randn(y.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    options = {"noise_std": 0.3, "progress": False}
    rec = reconstruct(A, y, HardConstraint(G), lam="morozov", max_iter=10, **options)
    assert bool((rec.discrepancy <= 1.0).all())
    joint = reconstruct(A, y, JointPrior(G), lam=1.0, max_iter=3, **options)
    assert torch.isfinite(joint.image).all()


@pytest.mark.parametrize("name", ["like MONAI", "MONAI", "diffusers"])
def test_models_go_through_pickle_and_keep_their_data_type(name):
    model = made(name).float()
    G = Generator(model, odl.rn((4, 5)))  # in double precision: a copy
    assert next(model.parameters()).dtype == torch.float32 and G.model.log_gamma.dtype == torch.float64
    z = images(2, G.domain.size)
    back = pickle.loads(pickle.dumps(G)) if name != "like MONAI" else copy.deepcopy(G)
    torch.testing.assert_close(back.decode(z).mean, G.decode(z).mean, rtol=0, atol=0)
    assert back.model.encoder.model is back.model.decoder.model


class Flat(Points):
    def encode(self, x):
        return super().encode(x).flatten(1)


class Odd(Points):
    def encode(self, x):
        return super().encode(x)[..., :-1]


class Wide(Points):
    def decode(self, z):
        return super().decode(z).repeat(1, 2, 1, 1)


class Words(Points):
    def encode(self, x):
        return "mean"


class Said(Points):
    def decode(self, z):
        return ["image"]


class Strict(Points):
    def encode(self, x):
        raise ValueError("sides of 7 only")


X = odl.rn((4, 4), dtype="float32")


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: Generator(Flat(), X),
            ValueError,
            r"latent_dim must be given, or the model .* returns \(1, 2048\)",
        ),
        (lambda: Generator(Odd(), X), ValueError, r"sides smaller by a whole factor.* \(1, 2, 32, 31\)"),
        (
            lambda: Generator(Wide(), X),
            ValueError,
            r"must decode images of \(1, 1, 64, 64\), got \(1, 2, 64, 64\)",
        ),
        (lambda: Generator(Words(), X), TypeError, "encode that returns a tensor, .* got str"),
        (
            lambda: Generator(Said(), X),
            TypeError,
            "decode that returns a tensor or an object with sample, got list",
        ),
        (
            lambda: Generator(Strict(), X),
            ValueError,
            r"must encode images of the shape \(1, 1, 64, 64\).* says: sides of 7 only",
        ),
        (
            lambda: Generator(Points(), odl.rn(4)),
            ValueError,
            r"image_shape must be 2 sides for .*, got \(4,\)",
        ),
        (lambda: adapt(nn.Linear(2, 2), (4, 4)), TypeError, "the methods encode and decode, got Linear"),
        (lambda: adapt("vae", (4, 4)), TypeError, "model must be a torch.nn.Module .* got str"),
        (lambda: adapt(Points(), (0, 4)), ValueError, "must be a positive integer, got 0"),
        (lambda: adapt(Points(), (4, 4)).at((2, 4, 4)), ValueError, "1 or 1 channels"),
        (
            lambda: adapt(Points(), (4, 4)).at((1, 4, 4)),
            ValueError,
            "must have the channels of those of the model",
        ),
        (lambda: adapt(Points(), (4, 4)).config.build(), NotImplementedError, "made by its own library"),
        (lambda: JointPrior(Generator(Points(), X)), ValueError, "beta must be given"),
        (
            lambda: training.whiten(Generator(Points(), X), torch.zeros(3, 4, 4)),
            ValueError,
            r"different codes in every channel, got the same in \[0, 1\]",
        ),
        (
            lambda: training.whiten(Generator(Points(), X), torch.zeros(3, 4, 5)),
            ValueError,
            r"images must have the shape",
        ),
        (
            lambda: training.fit(adapt(Points(), (4, 4)), torch.zeros(3, 4, 4), steps=1),
            ValueError,
            "gamma must be given for a model that has none",
        ),
        (lambda: training.fit_gamma(Points(), torch.zeros(3, 4, 4)), TypeError, "genreg.networks.adapt"),
        (
            lambda: AdaptedConfig(
                image_shape=(4, 4),
                latent_dim=7,
                model="M",
                dimensions=2,
                channels=1,
                latent_channels=2,
                factor=2,
            ),
            ValueError,
            "latent_dim must be 8 for images",
        ),
    ],
)
def test_bad_arguments(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_an_adapted_model_is_an_autoencoder_in_the_mode_of_the_library():
    model = Points().train()
    found = adapt(model, (4, 4))
    assert isinstance(found, Autoencoder) and found.training and model.training
    assert adapt(Points().eval(), (4, 4)).training is False
