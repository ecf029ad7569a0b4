import dataclasses
import json

import pytest
import torch

from genreg.networks import (
    ARCHITECTURES,
    GAN,
    ConvConfig,
    DenseConfig,
    DuffConfig,
    GanConfig,
    GridConfig,
    RegionsConfig,
    build,
)

from ...refusals import refuses

SMALL = [
    DenseConfig(image_shape=(6, 5), latent_dim=3, encoder=(7,), decoder=(8, 9)),
    DenseConfig(image_shape=(6, 5), latent_dim=3, variational=False, maximum=None, activation="silu"),
    ConvConfig(image_shape=(8, 12), latent_dim=4, channels=(2, 3), hidden=5),
    ConvConfig(image_shape=(16, 16), latent_dim=4, channels=(2, 3, 4), hidden=5, decoder=(6,), maximum=0.5),
    RegionsConfig(
        image_shape=(9, 8), latent_dim=3, encoder=(4,), decoder=(5,), regions=3, rank=2, maximum=0.5
    ),
    DuffConfig.mnist(),
    DuffConfig.shapes(variational=False),
]
names = [f"{c.name}-{c.image_shape[0]}" for c in SMALL]


@pytest.mark.parametrize("config", SMALL, ids=names)
@pytest.mark.parametrize("batch", [1, 7])
def test_shapes_of_outputs(config, batch):
    model = config.build().eval()
    x = torch.rand(batch, *config.image_shape)
    z = model.encode(x)
    assert z.shape == (batch, config.latent_dim)
    assert model.decode(z).shape == x.shape
    assert torch.equal(model(x), model.decode(z))
    assert (model.image_shape, model.latent_dim) == (config.image_shape, config.latent_dim)
    assert model.log_gamma.shape == ()
    if config.variational:
        mean, std = model.encode_distribution(x)
        assert torch.equal(mean, z) and std.shape == z.shape and (std > 0).all()
    else:
        with pytest.raises(TypeError, match="variational"):
            model.encode_distribution(x)


@pytest.mark.parametrize("config", SMALL, ids=names)
def test_build_makes_the_same_model_from_the_json_of_a_card(config):
    model = build(json.loads(json.dumps(config.to_dict())))
    assert model.config == config
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.latent_dim = 2


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")  # by torch.func.jvp
@pytest.mark.parametrize("config", SMALL[:5], ids=names[:5])
def test_decoders_differentiate_under_func_transforms(config):
    model = config.build().double().eval()
    z, dz, w = torch.randn(3, *model.encode(torch.rand(2, *config.image_shape).double()).shape).double()
    x, dx = torch.func.jvp(model.decode, (z,), (dz,))
    (g,) = torch.func.vjp(model.decode, z)[1](x)
    assert torch.isclose((dx * x).sum(), (dz * g).sum(), rtol=1e-10)
    one_by_one = torch.func.vmap(lambda t: model.decode(t[None])[0])(w)
    assert torch.allclose(one_by_one, model.decode(w), atol=1e-12)


@pytest.mark.parametrize("config", SMALL[3:5], ids=names[3:5])
def test_the_image_lies_between_zero_and_the_maximum(config):
    model = config.build()
    x = model.decode(50 * torch.randn(100, config.latent_dim))
    assert x.min() >= 0 and x.max() <= 0.5


def parameters(module):
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(
    ("config", "last"),
    [
        (DuffConfig.mnist(dense_output=True), 28 * 28 * 64 * 28 * 28 + 28 * 28),  # 39 million
        (DuffConfig.shapes(dense_output=True), 28 * 28 * 64 * 56 * 56 + 56 * 56),  # 157 million
        (DuffConfig.shapes(), 64 * 9 * 4 + 4),
        (DuffConfig.mnist(), 64 * 9 + 1),
    ],
)
def test_parameter_counts_of_the_paper(config, last):
    with torch.device("meta"):
        model = config.build()
    conv = 16 * 64 + 64 + 2 * (16 * 64 * 64 + 64)
    side, latent = config.image_shape[0] // 4, config.latent_dim
    assert parameters(model.encoder) == conv + 64 * side**2 * 2 * latent + 2 * latent
    dense = 25 * latent + 25 + 25 * 49 + 49 if config.dense else 49 * latent + 49
    assert parameters(model.decoder) == dense + conv + last


def test_parameter_count_of_the_dense_vae():
    model = DenseConfig(image_shape=(28, 28), latent_dim=8).build()
    assert parameters(model.encoder) == 784 * 512 + 512 + 512 * 512 + 512 + 512 * 16 + 16
    assert parameters(model.decoder) == 8 * 512 + 512 + 512 * 512 + 512 + 512 * 784 + 784


@refuses(
    ({"name": "magic"}, "architecture name must be one of"),
    ({}, "got None"),
    ({"name": "dense", "image_shape": [4, 4]}, "latent_dim"),
    ({"name": "dense", "image_shape": [4, 4], "latent_dim": 2, "depth": 3}, "depth"),
    ({"name": "dense", "image_shape": [4], "latent_dim": 2}, "image_shape must be two positive integers"),
    (
        {"name": "dense", "image_shape": [4, 4], "latent_dim": 0},
        "latent_dim must be a positive integer, got 0",
    ),
    ({"name": "dense", "image_shape": [4, 4], "latent_dim": 2, "activation": "x"}, "activation must be"),
    ({"name": "dense", "image_shape": [4, 4], "latent_dim": 2, "maximum": -1.0}, "maximum must be positive"),
    ({"name": "conv", "image_shape": [28, 28], "latent_dim": 2}, "divisible by .* = 8, got \\(28, 28\\)"),
    error=ValueError,
)
def test_bad_configurations(config):
    build(config)


def test_every_architecture_is_listed():
    assert {"dense", "conv", "regions", "duff", "gan"} <= set(ARCHITECTURES)


# generative adversarial networks


@pytest.mark.parametrize("config", SMALL, ids=names)
@pytest.mark.parametrize("batch", [1, 7])
def test_a_gan_is_one_decoder_and_another_encoder(config, batch):
    gan = GanConfig(generator=config)
    model = gan.build().eval()
    assert isinstance(model, GAN) and not hasattr(model, "encode")
    assert (model.image_shape, model.latent_dim) == (config.image_shape, config.latent_dim)
    z = torch.randn(batch, config.latent_dim)
    x = model.decode(z)
    assert x.shape == (batch, *config.image_shape) and torch.equal(model(z), x)
    assert model.discriminate(x).shape == (batch,)
    assert torch.equal(model.discriminate(x)[:1], model.discriminate(x[:1])) or batch > 1
    again = build(json.loads(json.dumps(gan.to_dict())))
    assert again.config == gan and again.config.critic.latent_dim == 1
    again.load_state_dict(model.state_dict())
    assert torch.equal(again.eval().decode(z), x)


def test_parameter_count_of_the_papers_gan():
    with torch.device("meta"):
        model = GanConfig(generator=DuffConfig.shapes(dense_output=True)).build()
        vae = DuffConfig.shapes(dense_output=True).build()
    assert parameters(model.decoder) == parameters(vae.decoder)
    conv = 16 * 64 + 64 + 2 * (16 * 64 * 64 + 64)
    assert parameters(model.critic) == conv + 64 * 14**2 + 1


@refuses(
    ({"generator": "dense"}, TypeError, "generator must be a configuration of an autoencoder .* got str"),
    ({"generator": GanConfig(generator=SMALL[0])}, TypeError, "generator must be .* got GanConfig"),
    ({"critic": 3}, TypeError, "critic must be a configuration of an autoencoder .* got int"),
    ({"critic": SMALL[0]}, ValueError, r"critic must have latent_dim 1, .*, got 3, True and \(6, 5\)"),
    (
        {"critic": DenseConfig(image_shape=(5, 6), latent_dim=1, variational=False)},
        ValueError,
        r"image_shape \(6, 5\), got 1, False and \(5, 6\)",
    ),
    ({"generator": {"name": "magic"}}, ValueError, "architecture name must be one of .* got 'magic'"),
)
def test_bad_gans(change):
    GanConfig(**{"generator": SMALL[0]} | change)


def test_a_grid_generator_needs_a_critic_of_its_own():
    grid = GridConfig(image_shape=(16, 16), latent_dim=8, encoder=(2, 4, 4), decoder=(2, 4, 4))
    with pytest.raises(ValueError, match="latent_dim"):
        GanConfig(generator=grid)
    critic = DenseConfig(image_shape=(16, 16), latent_dim=1, variational=False, encoder=(4,))
    model = GanConfig(generator=grid, critic=critic).build()
    assert model.discriminate(model.decode(torch.randn(2, 8))).shape == (2,)
