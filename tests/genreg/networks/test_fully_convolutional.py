"""Fully convolutional models: one set of weights for images of any size, and what is far away makes no difference."""

import copy
import math

import odl
import pytest
import torch

from genreg import Generator, JointPrior, load_generator, reconstruct, to_torch, training, weights
from genreg.networks import DenseConfig, FullyConvolutionalConfig, StructuredConfig, build
from genreg.operators import derivative_test, dot_test

from ...refusals import refuses

SMALL = {"channels": (3, 4), "latent_channels": 2}
TOP = {"top_channels": (3,), "top_latent_channels": 2}
KINDS = {
    "one level": SMALL,
    "two levels": SMALL | TOP,
    "points": SMALL | TOP | {"variational": False},
    "channels": SMALL | {"image_shape": (2, 24, 16)},
}
QUICK = {"steps": 3, "batch_size": 4, "lr": 1e-2, "progress": False}


def config(kind, **more):
    return FullyConvolutionalConfig(**{"image_shape": (16, 16), **KINDS[kind], **more})


def random(model, seed=0):
    """The model with random weights, none zero, in double precision."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.double().parameters():
            fan = max(p[0].numel(), 1) if p.ndim else 1
            p.copy_(torch.randn(p.shape, generator=generator, dtype=p.dtype) * 0.7 / math.sqrt(fan))
    return model.eval()


def draw(*shape, seed=1):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(16, 16), (24, 40), (13, 21), (5, 3)])
def test_any_size(kind, size):
    """Codes and images have the shapes that the model says; two models share their weights."""
    model = random(config(kind).build())
    other = model.at((*model.image_shape[:-2], *size))
    assert other.image_shape[-2:] == size and other.variational == model.variational
    x = draw(2, *other.image_shape)
    z = other.encode(x)
    assert z.shape == (2, other.latent_dim) and other.decode(z).shape == x.shape
    if model.variational:
        mean, std = other.encode_distribution(x)
        assert torch.equal(mean, z) and std.shape == z.shape and (std > 0).all()
    assert {p.data_ptr() for p in other.parameters()} == {p.data_ptr() for p in model.parameters()}
    assert other.state_dict().keys() == model.state_dict().keys()
    assert model.image_shape[-2:] == config(kind).image_size  # which is as it was
    assert model.at(model.image_shape) is model


@pytest.mark.parametrize("kind", ["one level", "two levels"])
def test_a_large_image_equals_its_tiles(kind):
    """Up to the receptive field: encoder and decoder give for a part of the image what they give for all of it."""
    model = random(config(kind).build())
    whole, part = model.at((16, 224)), model.at((16, 160))
    x = draw(1, 16, 224)
    z, cut = whole.encode(x), part.encode(x[..., 64:])  # 64 is a multiple of the total factor, 8
    columns, at = {4: 64 // 4, 8: 64 // 8}, []
    for sizes in (whole.config, part.config):
        levels = [(sizes.latent_channels, *sizes.latent_size)]
        if kind == "two levels":
            levels.append((sizes.top_latent_channels, *sizes.top_size))
        at.append(levels)
    parts = [
        [
            level.unflatten(1, shape)
            for level, shape in zip(code.split([math.prod(s) for s in shapes], 1), shapes, strict=True)
        ]
        for code, shapes in zip((z, cut), at, strict=True)
    ]
    for factor, a, b in zip((4, 8), *parts, strict=False):
        margin = 64 // factor  # more than the receptive field of the encoder
        torch.testing.assert_close(
            a[..., columns[factor] + margin :], b[..., margin:], rtol=1e-12, atol=1e-12
        )
    pieces = [level[..., columns[factor] :] for factor, level in zip((4, 8), parts[0], strict=False)]
    tile = part.decode(torch.cat([piece.flatten(1) for piece in pieces], 1))
    torch.testing.assert_close(whole.decode(z)[..., 64 + 64 :], tile[..., 64:], rtol=1e-12, atol=1e-12)
    assert not torch.allclose(whole.decode(z)[..., 64:72], tile[..., :8])  # near the cut they differ


@pytest.mark.parametrize("distance", [0, 2])
def test_structured_at_any_size(distance, tmp_path):
    """Mean, precision and derivatives at sides that nothing divides; saved weights serve every space."""
    structured = StructuredConfig(
        mean=config("two levels"), channels=(4, 4), distance=distance, bounds=(-1, 1), limit=0.2
    )
    model = random(structured.build())
    assert build(structured.to_dict()).config == structured
    weights.save(tmp_path / "any.safetensors", copy.deepcopy(model).float(), {"name": "any"})
    X = odl.uniform_discr([0, 0], [13, 22], (13, 11), dtype="float64")
    G = Generator(model, X)
    assert G.domain.size == structured.at((13, 11)).latent_dim
    derivative_test(G)
    z = draw(2, *G.domain.shape)
    decoded = G.decode(z)
    assert decoded.mean.shape == (2, 13, 11)
    dot_test(decoded.precision.take(0))
    found = load_generator(tmp_path / "any.safetensors", range=odl.rn((9, 30), dtype="float32"))
    assert found.range.shape == (9, 30) and found.structured
    rec = reconstruct(
        odl.IdentityOperator(X),
        decoded.mean,
        JointPrior(G),
        noise_std=0.1,
        lam=1.0,
        max_iter=2,
        progress=False,
    )
    assert torch.isfinite(rec.image).all() and rec.image.shape == (2, 13, 11)


def test_a_converted_generator_leaves_the_model():
    model = config("two levels").build()
    before = copy.deepcopy(model.state_dict())
    G = Generator(model, odl.rn((20, 12)))
    assert {p.dtype for p in G.model.parameters()} == {torch.float64}
    assert to_torch(G)(draw(1, *G.domain.shape)).dtype == torch.float64
    assert all(torch.equal(before[name], p) for name, p in model.state_dict().items())


def test_latent_images_are_white_at_first():
    """The top level says nothing yet: an untrained decoder of two levels is that of one."""
    model = config("two levels").build().double()
    z = draw(3, model.latent_dim)
    other = torch.cat((z[:, : model.config.white_dim], draw(3, model.latent_dim - model.config.white_dim)), 1)
    assert torch.equal(model.decode(z), model.decode(other))


def test_trained_on_crops():
    x = torch.rand(8, 16, 16, generator=torch.Generator().manual_seed(0))
    model = config("two levels").build()
    card = training.fit(model, x, **QUICK)
    assert card["architecture"] == model.config.to_dict()
    head = StructuredConfig(mean=model.config, channels=(4,), distance=1).grow(model)
    training.fit_precision(head, x, **QUICK)
    assert head.at((21, 34)).decode_all(torch.zeros(1, head.at((21, 34)).latent_dim))[0].shape == (1, 21, 34)


@refuses(
    (lambda: config("one level", latent_dim=7), "latent_dim must be 32 for images of .16, 16., or left out"),
    (lambda: config("one level", latent_channels=0), "latent_channels must be a positive integer"),
    (lambda: config("one level", channels=(3, -1)), r"channels\[1\] must be a positive integer, got -1"),
    (lambda: config("channels").build().at((3, 24, 16)), "channels of those of the model"),
    (lambda: config("one level").build().at((2, 24, 16)), "channels of those of the model"),
    (lambda: config("one level").build().at((0, 16)), "image_shape must be"),
    (
        lambda: DenseConfig(image_shape=(4, 4), latent_dim=2).build().at((5, 5)),
        "makes images of the shape .4, 4. only, got .5, 5.",
    ),
    (
        lambda: Generator(DenseConfig(image_shape=(4, 4), latent_dim=2).build(), odl.rn((5, 5))),
        "makes 4 x 4 images, range is 5 x 5",
    ),
    error=ValueError,
)
def test_what_is_refused(make):
    make()
