"""Generators in other units: rescaled images and data give the rescaled result."""

import copy
import pickle

import odl
import pytest
import torch

from genreg import Generator, HardConstraint, JointPrior, load_generator, reconstruct, to_torch
from genreg.networks import DenseConfig, FullyConvolutionalConfig, GanConfig, StructuredConfig
from genreg.operators import derivative_test, gaussian_measurements

from ...refusals import refuses

SHAPE = (4, 6)
X = odl.uniform_discr([0, 0], [2, 3], SHAPE, dtype="float64")
UNITS = {"scale": 1800.0, "offset": -1000.0}
DENSE = DenseConfig(
    image_shape=SHAPE, latent_dim=3, encoder=(5,), decoder=(5,), activation="tanh", maximum=None
)
MODELS = {
    "isotropic": DENSE,
    "diagonal": StructuredConfig(mean=DENSE, channels=(4,), distance=0),
    "structured": StructuredConfig(mean=DENSE, channels=(4,), distance=1),
    "any size": StructuredConfig(
        mean=FullyConvolutionalConfig(image_shape=(8, 8), channels=(3, 4), latent_channels=2),
        channels=(4,),
        distance=1,
    ),
}


def pair(kind):
    """The generator of a model, and that in other units."""
    model = MODELS[kind].build().double()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name != "log_gamma":
                p.add_(0.1 * torch.randn(p.shape, generator=generator, dtype=p.dtype))
    return Generator(model, X), Generator(model, X, **UNITS)


def draw(*shape, seed=1):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def other(x):
    return UNITS["offset"] + UNITS["scale"] * x


@pytest.mark.parametrize("kind", MODELS)
def test_mean_precision_and_encoder(kind):
    G, H = pair(kind)
    z, r, s = draw(2, *G.domain.shape), draw(2, *SHAPE), UNITS["scale"]
    a, b = G.decode(z), H.decode(z)
    torch.testing.assert_close(b.mean, other(a.mean))
    torch.testing.assert_close(b.precision.quadratic(s * r), a.precision.quadratic(r))
    shift = 2 * r[0].numel() * torch.tensor(s, dtype=torch.float64).log()
    torch.testing.assert_close(b.precision.logdet() + shift, a.precision.logdet() + 0 * shift)
    assert H.std == pytest.approx(s * G.std) and (H.scale, H.offset) == (1800.0, -1000.0)
    torch.testing.assert_close(H.encode(other(a.mean)), G.encode(a.mean))
    for mine, plain in zip(
        H.model.encode_distribution(other(a.mean)), G.model.encode_distribution(a.mean), strict=True
    ):
        torch.testing.assert_close(mine, plain)
    torch.testing.assert_close(H.sample(3, seed=2), other(G.sample(3, seed=2)))
    derivative_test(H)
    for again in (pickle.loads(pickle.dumps(H)), copy.deepcopy(H)):
        assert torch.equal(to_torch(again)(z), to_torch(H)(z))


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("regulariser", [HardConstraint, JointPrior])
def test_reconstructions(kind, regulariser):
    """Data in the other units have the image in these units, and the same latent vector."""
    G, H = pair(kind)
    A = gaussian_measurements(X, 12, seed=0)
    x = G.decode(draw(2, *G.domain.shape)).mean
    y = to_torch(A)(x) + 0.1 * draw(2, 12, seed=3)
    constant = to_torch(A)(torch.full((1, *SHAPE), UNITS["offset"], dtype=torch.float64))
    options = {"lam": 1.0, "tol": 1e-6, "max_iter": 100, "progress": False}
    a = reconstruct(A, y, regulariser(G), noise_std=0.1, **options)
    b = reconstruct(
        A, constant + UNITS["scale"] * y, regulariser(H), noise_std=UNITS["scale"] * 0.1, **options
    )
    torch.testing.assert_close(b.image, other(a.image), rtol=1e-4, atol=1e-4 * UNITS["scale"])
    torch.testing.assert_close(b.blocks["z"], a.blocks["z"], rtol=1e-3, atol=1e-3)


def test_what_a_model_has_not_its_other_units_have_not():
    model = GanConfig(generator=DENSE).build()
    H = Generator(model, odl.rn(SHAPE, dtype="float32"), scale=2.0)
    assert not H.has_encoder and not H.structured
    x = draw(2, *SHAPE).float()
    torch.testing.assert_close(H.model.discriminate(2 * x), model.discriminate(x))


def test_shipped_weights():
    G = load_generator("shapes-vae")
    H = load_generator("shapes-vae", range=G.range, scale=0.02)
    z = draw(1, *G.domain.shape).float()
    torch.testing.assert_close(H.decode(z).mean, 0.02 * G.decode(z).mean)
    assert H.card == G.card


@refuses(
    ({"scale": 0.0}, ValueError, "scale must be positive"),
    ({"scale": -1}, ValueError, "scale must be positive"),
    ({"scale": "HU"}, TypeError, "scale must be a number"),
    ({"offset": float("nan")}, ValueError, "offset must be .*finite"),
)
def test_what_is_refused(units):
    Generator(DENSE.build(), X, **units)
