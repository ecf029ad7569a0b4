import pytest
import torch

from genreg.networks import ConvConfig, GridConfig
from genreg.training.amortised_encoder import fit_encoder

from ...refusals import refuses

GRID = GridConfig(
    image_shape=(8, 8), latent_dim=8, encoder=(8, 8), decoder=(8, 8), encoder_blocks=1, decoder_blocks=1
)


def blurred_squares(n, *, seed):
    """Squares in one of four corners; the rough reconstruction is an average over rows and columns."""
    random = torch.Generator().manual_seed(seed)
    x = torch.zeros(n, 8, 8)
    corner = torch.randint(4, (n,), generator=random)
    for image, c in zip(x, corner.tolist(), strict=True):
        image[4 * (c // 2) : 4 * (c // 2) + 4, 4 * (c % 2) : 4 * (c % 2) + 4] = 1
    rough = 0.5 * x.mean(1, keepdim=True) + 0.5 * x.mean(2, keepdim=True)
    return x, rough.expand(n, 8, 8).clone()


def test_encoder_learns_to_read_rough_reconstructions():
    torch.manual_seed(0)
    model = ConvConfig(image_shape=(8, 8), latent_dim=4, channels=(8,), hidden=32).build()
    optimiser = torch.optim.Adam(model.parameters(), 1e-2)
    for step in range(100):  # an autoencoder of the images
        x, _ = blurred_squares(32, seed=step)
        optimiser.zero_grad()
        (model(x) - x).square().sum().backward()
        optimiser.step()
    x, rough = blurred_squares(200, seed=10**6)
    decoder = {k: v.clone() for k, v in model.decoder.state_dict().items()}
    before = (model.eval()(rough) - x).square().mean()
    card = fit_encoder(model, blurred_squares, steps=120, lr=1e-2, warmup=10, clean=0.0, progress=False)
    after = (model(rough) - x).square().mean()
    assert after < 0.2 * before
    assert all(torch.equal(v, decoder[k]) for k, v in model.decoder.state_dict().items())
    assert all(p.requires_grad for p in model.parameters())
    assert not model.training
    assert card["history"][-1]["loss"] < card["history"][0]["loss"]
    assert card["steps"] == 120


@refuses(
    ({"clean": 1.0}, r"clean must be a number between 0 and 1, got 1.0"),
    ({"latent_weight": -1.0}, "latent_weight must be non-negative and finite, got -1"),
    error=ValueError,
)
def test_bad_settings(keywords):
    fit_encoder(GRID.build(), blurred_squares, **{"steps": 1, "progress": False} | keywords)


def test_pairs_of_the_wrong_shape():
    def pairs(n, *, seed):
        return torch.zeros(n, 8, 8), torch.zeros(n, 4, 4)

    with pytest.raises(ValueError, match=r"pairs must return two tensors of the shape \(32, 8, 8\)"):
        fit_encoder(GRID.build(), pairs, steps=1, progress=False)


def test_diverging_loss():
    def pairs(n, *, seed):
        x = torch.zeros(n, 8, 8)
        return x, torch.full_like(x, torch.nan)

    with pytest.raises(FloatingPointError, match="loss is nan at step 1: lower lr or clip, lr is"):
        fit_encoder(GRID.build(), pairs, steps=1, progress=False)
