import dataclasses
import json
import math

import pytest
import torch
from torch import nn

from genreg import training
from genreg.datasets import shapes
from genreg.networks import Autoencoder, ConvConfig, DenseConfig
from genreg.training.autoencoder import Options
from genreg.training.batches import Batches
from genreg.training.settings import Optimisation

from ...draws import same_weights
from ...refusals import refuses

VAE = DenseConfig(image_shape=(4, 6), latent_dim=2, encoder=(8,), decoder=(8,))
AE = dataclasses.replace(VAE, variational=False)


def blobs(n, *, seed):
    """Images with one smooth bump, whose place is the only thing that varies."""
    centre = (
        torch.rand(n, 2, 1, 1, generator=torch.Generator().manual_seed(seed))
        * torch.tensor([3.0, 5.0])[:, None, None]
    )
    i, j = torch.meshgrid(torch.arange(4), torch.arange(6), indexing="ij")
    return torch.exp(-0.3 * ((i - centre[:, 0]) ** 2 + (j - centre[:, 1]) ** 2))


def trained(config=VAE, images=blobs, steps=12, **settings):
    torch.manual_seed(7)
    model = config.build()
    settings = {"batch_size": 16, "progress": False} | settings
    return model, training.fit(model, images, steps=steps, **settings)


@pytest.mark.parametrize(
    ("config", "schedule"),
    [(VAE, "cosine"), (VAE, "one-cycle"), (VAE, "constant"), (AE, "cosine")],
    ids=["vae-cosine", "vae-one-cycle", "vae-constant", "ae-cosine"],
)
def test_fit_reduces_the_loss(config, schedule):
    held_out = blobs(200, seed=10**6)
    model, card = trained(
        config, steps=200, lr=1e-2, schedule=schedule, validation=held_out, validate_every=50
    )
    untrained = training.evaluate(config.build(), held_out)
    assert card["score"]["loss"] < untrained["loss"] and card["score"]["psnr"] > untrained["psnr"] + 5
    assert [entry["step"] for entry in card["history"]] == [50, 100, 150, 200]
    assert card["history"][-1]["psnr"] == card["score"]["psnr"]
    assert json.loads(json.dumps(card, allow_nan=False)) == card
    assert not model.training
    gamma = model.log_gamma.exp().item()
    assert gamma == pytest.approx(math.sqrt(card["score"]["mse"]), rel=0.6)


def test_fit_draws_every_image_once_an_epoch():
    images = torch.arange(12.0)[:, None, None].expand(12, 4, 6) / 12
    batch = Batches(images, ONE_CYCLE, torch.empty(0))
    seen = torch.cat([batch(step)[:, 0, 0] for step in range(3)])
    assert sorted(seen.tolist()) == sorted(images[:, 0, 0].tolist())
    again = torch.cat([batch(step)[:, 0, 0] for step in range(3, 6)])
    assert sorted(again.tolist()) == sorted(seen.tolist()) and again.tolist() != seen.tolist()


ONE_CYCLE = Optimisation(steps=100, batch_size=4, lr=1.0, schedule="one-cycle")


def test_schedules():
    assert ONE_CYCLE.rate(0) == pytest.approx(0.04) and ONE_CYCLE.rate(30) == pytest.approx(1.0)
    assert ONE_CYCLE.rate(65) == pytest.approx(0.5) and ONE_CYCLE.rate(100) == pytest.approx(0.0)
    cosine = dataclasses.replace(ONE_CYCLE, schedule="cosine", warmup=10)
    assert [cosine.rate(step) for step in (0, 50, 100)] == pytest.approx([0.1, 0.5, 0.0])
    options = Options(kl_weight=2.0, kl_warmup=10)
    assert [options.beta(step) for step in (0, 5, 10, 50)] == pytest.approx([0.0, 1.0, 2.0, 2.0])


def test_loss_is_the_negative_evidence_lower_bound():
    model = VAE.build().double()
    x = blobs(5, seed=0).double()
    model.log_gamma.data.fill_(-1.0)
    torch.manual_seed(3)
    value = training.loss(model, x, kl_weight=0.5)
    torch.manual_seed(3)
    mean, std = model.encode_distribution(x)
    q, p = torch.distributions.Normal(mean, std), torch.distributions.Normal(torch.zeros(2), 1.0)
    likelihood = torch.distributions.Normal(model.decode(mean + std * torch.randn_like(mean)), math.exp(-1.0))
    expected = -likelihood.log_prob(x).sum((1, 2)) + 0.5 * torch.distributions.kl_divergence(q, p).sum(1)
    assert value.item() == pytest.approx(expected.mean().item() - 12 * math.log(2 * math.pi), rel=1e-6)


def test_ema_and_fixed_gamma():
    plain, _ = trained(steps=20)
    averaged, _ = trained(steps=20, ema=0.99, gamma=0.3)
    assert not same_weights(plain, averaged)
    assert averaged.log_gamma.exp().item() == pytest.approx(0.3)


def test_weights_shrink_by_weight_decay():
    plain, _ = trained(steps=20)
    small, _ = trained(steps=20, weight_decay=20.0)
    assert sum(p.square().sum() for p in small.parameters()) < 0.8 * sum(
        p.square().sum() for p in plain.parameters()
    )


GOOD = {"images": blobs, "steps": 1, "batch_size": 2}


@refuses(
    ({"images": blobs(3, seed=0).double() / 0}, ValueError, "images must be finite, got 72 NaN or infinite"),
    (
        {"images": torch.zeros(3, 6, 4)},
        ValueError,
        r"images must have the shape \(N, 4, 6\), got \(3, 6, 4\)",
    ),
    ({"images": torch.zeros(0, 4, 6)}, ValueError, r"got \(0, 4, 6\)"),
    ({"images": torch.zeros(3, 4, 6, dtype=torch.uint8)}, TypeError, "floating point, got torch.uint8"),
    ({"images": [1, 2]}, TypeError, r"images must be a tensor or a function .* got list"),
    ({"images": shapes}, ValueError, r"sampler in images returns must have .* got \(1, 56, 56\)"),
    ({"validation": torch.full((2, 4, 6), math.nan)}, ValueError, "validation must be finite"),
    ({"gamma": -0.1}, ValueError, "gamma must be positive"),
    ({"input_noise": -1.0}, ValueError, "input_noise must be non-negative"),
    ({"kl_weight": math.inf}, ValueError, "kl_weight must be non-negative and finite"),
)
def test_bad_input(change):
    trained(**GOOD | change)


def test_a_diverging_run_stops():
    with pytest.raises(FloatingPointError, match="lower lr"):
        trained(dataclasses.replace(VAE, maximum=None), steps=200, lr=1e6, validate_every=50)


def test_whiten_keeps_the_reconstruction():
    config = ConvConfig(image_shape=(4, 6), latent_dim=2, variational=False, channels=(3,), hidden=4)
    model = config.build().double().eval()
    x = blobs(100, seed=0).double()
    before = model(x)
    training.whiten(model, x)
    z = model.encode(x)
    assert torch.allclose(model(x), before, atol=1e-10)
    assert torch.allclose(z.mean(0), torch.zeros(2).double(), atol=1e-10)
    assert torch.allclose(torch.cov(z.T), torch.eye(2).double(), atol=1e-8)


def test_whiten_standardises_the_aggregate_posterior():
    model = VAE.build().double().eval()
    x = blobs(100, seed=0).double()
    before, (mean, std) = model(x), model.encode_distribution(x)
    training.whiten(model, x)
    assert torch.allclose(model(x), before, atol=1e-10)
    found = training.latent_statistics(model, x)
    assert found["mean"] == pytest.approx([0.0, 0.0], abs=1e-10)
    assert found["std"] == pytest.approx([1.0, 1.0], abs=1e-10)
    new_mean, new_std = model.encode_distribution(x)
    assert torch.allclose(new_std / new_std[0], std / std[0])
    assert torch.allclose((new_mean - new_mean[0]) / new_std, (mean - mean[0]) / std)
    with pytest.raises(TypeError, match="dense layers next to the latent space"):
        training.whiten(Autoencoder(nn.Sequential(nn.Flatten(), nn.Softplus()), model.decoder, VAE), x)


def test_range_error_of_images_in_the_range_is_zero():
    model = VAE.build().double().eval()
    x = model.decode(torch.randn(7, 2).double()).detach()
    score = training.range_error(model, x, steps=800, lr=0.1)
    assert score["range_psnr"] > 60
    assert score["range_mse"] < training.evaluate(model, x)["mse"]


def test_latent_statistics():
    model = VAE.build().eval()
    x = blobs(300, seed=0)
    found = training.latent_statistics(model, x)
    mean, std = model.encode_distribution(x)
    z = (mean + std * torch.randn(4000, *mean.shape)).flatten(0, 1)
    assert z.mean(0).tolist() == pytest.approx(found["mean"], abs=0.01)
    assert z.std(0).tolist() == pytest.approx(found["std"], rel=0.01)
