"""Autoencoders whose latent space is a grid."""

import pytest
import torch

from genreg.networks import ConvConfig, GridConfig, build
from genreg.networks.latent_grid import normalise

from ...refusals import refuses

GRID = GridConfig(
    image_shape=(8, 8), latent_dim=8, encoder=(8, 8), decoder=(8, 8), encoder_blocks=1, decoder_blocks=1
)


@pytest.mark.parametrize("variational", [True, False])
def test_grid_autoencoder(variational):
    config = GridConfig(
        image_shape=(16, 24), latent_dim=18, variational=variational, encoder=(8, 8, 8), decoder=(4, 4, 8)
    )
    model = build(config.to_dict())
    x = torch.rand(3, 16, 24)
    assert model.encode(x).shape == (3, 18)
    assert model.encoder(x).shape == (3, 36 if variational else 18)
    decoded = model(x)
    assert decoded.shape == x.shape
    assert 0 <= decoded.min() <= decoded.max() <= 1


@pytest.mark.parametrize("variational", [True])
def test_codes_of_the_encoder_are_split_into_mean_and_deviation(variational):
    torch.manual_seed(0)
    model = GRID.build()
    mean, std = model.encode_distribution(torch.rand(2, 8, 8))
    assert mean.shape == std.shape == (2, 8)
    assert (std > 0).all()


def test_a_change_of_one_code_changes_its_neighbourhood_only():
    torch.manual_seed(0)
    model = GridConfig(
        image_shape=(64, 64), latent_dim=256, encoder=(4, 4), decoder=(4, 4), decoder_blocks=0
    ).build()
    z = torch.zeros(2, 256)
    z[1, 0] = 1.0
    change = (model.decode(z)[1] - model.decode(z)[0]).abs()
    assert change[:16, :16].max() > 0
    assert change[32:, :].max() == 0
    assert change[:, 32:].max() == 0


@pytest.mark.parametrize("variational", [True, False])
def test_normalised_codes(variational):
    torch.manual_seed(0)
    model = build(GRID.to_dict() | {"variational": variational}).double()
    x = torch.rand(400, 8, 8, dtype=torch.float64) ** 2
    before = model(x)
    normalise(model, x[:200])
    normalise(model, x)
    assert (model(x) - before).abs().max() < 1e-12
    z = model.encode(x)
    variance = z.var(0)
    if variational:
        variance = variance + model.encode_distribution(x)[1].square().mean(0)
    assert z.mean(0).abs().max() < 1e-6
    assert (variance - 1).abs().max() < 1e-6
    with pytest.raises(TypeError, match="model must be a grid autoencoder, got one of ConvConfig"):
        normalise(ConvConfig(image_shape=(8, 8), latent_dim=4, channels=(8,), hidden=32).build(), x)


@refuses(
    ({"image_shape": (8, 6)}, r"image_shape must be divisible by 2 \*\* len\(encoder\) = 4, got \(8, 6\)"),
    ({"latent_dim": 7}, "latent_dim must be a multiple of the number of patches"),
    ({"decoder": (8,)}, "encoder and decoder must have equally many entries"),
    ({"encoder_blocks": -1}, "encoder_blocks must not be negative, got -1"),
    error=ValueError,
)
def test_bad_configurations(changes):
    build(GRID.to_dict() | changes)
