import dataclasses
import json
import math

import pytest
import torch
from safetensors import SafetensorError
from torch import nn

from genreg import recipes, training, weights
from genreg.datasets import shapes
from genreg.networks import Autoencoder, ConvConfig, DenseConfig, DuffConfig
from genreg.solvers.checkpoints import state_files
from genreg.training import autoencoder_run
from genreg.training.batches import Batches

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


def same(one, other):
    return all(torch.equal(p, q) for p, q in zip(one.parameters(), other.parameters(), strict=True))


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
    batch = Batches(images, SETTINGS, torch.empty(0))
    seen = torch.cat([batch(step)[:, 0, 0] for step in range(3)])
    assert sorted(seen.tolist()) == sorted(images[:, 0, 0].tolist())
    again = torch.cat([batch(step)[:, 0, 0] for step in range(3, 6)])
    assert sorted(again.tolist()) == sorted(seen.tolist()) and again.tolist() != seen.tolist()


SETTINGS = autoencoder_run.Settings(
    steps=100,
    batch_size=4,
    lr=1.0,
    schedule="one-cycle",
    warmup=0,
    kl_weight=2.0,
    kl_warmup=10,
    gamma=None,
    input_noise=0.0,
    weight_decay=0.0,
    clip=None,
    ema=None,
    seed=0,
)


def test_schedules():
    assert SETTINGS.rate(0) == pytest.approx(0.04) and SETTINGS.rate(30) == pytest.approx(1.0)
    assert SETTINGS.rate(65) == pytest.approx(0.5) and SETTINGS.rate(100) == pytest.approx(0.0)
    cosine = dataclasses.replace(SETTINGS, schedule="cosine", warmup=10)
    assert [cosine.rate(step) for step in (0, 50, 100)] == pytest.approx([0.1, 0.5, 0.0])
    assert [SETTINGS.beta(step) for step in (0, 5, 10, 50)] == pytest.approx([0.0, 1.0, 2.0, 2.0])


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


@pytest.mark.parametrize("images", [blobs, blobs(40, seed=1)], ids=["sampler", "tensor"])
def test_same_seed_same_result(images):
    one, _ = trained(images=images, seed=4, input_noise=0.1)
    torch.rand(5)
    other, _ = trained(images=images, seed=4, input_noise=0.1)
    third, _ = trained(images=images, seed=5, input_noise=0.1)
    assert same(one, other) and not same(one, third)


def test_fit_leaves_the_global_generator_alone():
    model = VAE.build()
    state = torch.random.get_rng_state()
    training.fit(model, blobs, steps=2, batch_size=4, progress=False)
    assert torch.equal(torch.random.get_rng_state(), state)


class KilledError(Exception):
    pass


@pytest.mark.parametrize("config", [VAE, DuffConfig.mnist()], ids=["dense", "dropout"])
@pytest.mark.parametrize("sampled", [True, False], ids=["sampler", "tensor"])
def test_a_resumed_run_gives_exactly_the_uninterrupted_result(config, sampled, tmp_path):
    def draw(n, *, seed):
        return torch.rand(n, *config.image_shape, generator=torch.Generator().manual_seed(seed))

    calls = []

    def killing(n, *, seed):
        calls.append(seed)
        if len(calls) > 8:
            raise KilledError
        return draw(n, seed=seed)

    settings = {
        "images": draw if sampled else draw(10, seed=0),
        "steps": 10,
        "batch_size": 4,
        "ema": 0.9,
        "input_noise": 0.1,
        "clip": 100.0,
        "kl_warmup": 5,
        "validation": draw(3, seed=1),
        "validate_every": 2,
        "checkpoint_seconds": 0.0,
    }
    whole, card = trained(config, **settings)
    file = tmp_path / "run.checkpoint"
    if sampled:
        with pytest.raises(KilledError):
            trained(config, **settings | {"images": killing, "checkpoint": file})
    else:
        with pytest.raises(KilledError), pytest.MonkeyPatch.context() as patch:
            patch.setattr(autoencoder_run.Run, "advance", killed_at(7))
            trained(config, **settings | {"checkpoint": file})
    assert file.exists()
    resumed, again = trained(config, **settings | {"checkpoint": file, "resume": True})
    assert same(whole, resumed) and card == again


def killed_at(step):
    advance = autoencoder_run.Run.advance

    def killed(run, x):
        if run.step == step:
            raise KilledError
        return advance(run, x)

    return killed


def test_checkpoints_are_replaced_atomically(tmp_path, monkeypatch):
    file = tmp_path / "run.checkpoint"
    _, card = trained(checkpoint=file, steps=4)
    before = file.read_bytes()

    def failing(tensors, target, header):
        target.write_bytes(b"half of it")
        raise SafetensorError("disk full")

    monkeypatch.setattr(state_files, "save_file", failing)
    with pytest.raises(OSError, match=r"run\.checkpoint can't be written: disk full"):
        autoencoder_run.Run(VAE.build(), autoencoder_run.Settings(**card["training"])).save(file)
    assert file.read_bytes() == before and list(tmp_path.iterdir()) == [file]


def test_resume_refuses_another_run_and_damaged_files(tmp_path):
    file = tmp_path / "run.checkpoint"
    trained(checkpoint=file, steps=4)
    with pytest.raises(
        ValueError, match=r"belongs to another run: steps was 4 and is 5, lr was 0\.001 and is 0\.1"
    ):
        trained(checkpoint=file, resume=True, steps=5, lr=0.1)
    with pytest.raises(ValueError, match="another run: architecture"):
        trained(AE, checkpoint=file, resume=True, steps=4)
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(ValueError, match="can't be read"):
        trained(checkpoint=file, resume=True, steps=4)


def test_ema_and_fixed_gamma():
    plain, _ = trained(steps=20)
    averaged, _ = trained(steps=20, ema=0.99, gamma=0.3)
    assert not same(plain, averaged)
    assert averaged.log_gamma.exp().item() == pytest.approx(0.3)


def test_weights_shrink_by_weight_decay():
    plain, _ = trained(steps=20)
    small, _ = trained(steps=20, weight_decay=20.0)
    assert sum(p.square().sum() for p in small.parameters()) < 0.8 * sum(
        p.square().sum() for p in plain.parameters()
    )


GOOD = {"images": blobs, "steps": 1, "batch_size": 2}


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            {"images": blobs(3, seed=0).double() / 0},
            ValueError,
            "images must be finite, got 72 NaN or infinite",
        ),
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
        ({"steps": 0}, ValueError, "steps must be a positive integer, got 0"),
        ({"steps": 2.5}, TypeError, "steps must be an integer, got"),
        ({"batch_size": -1}, ValueError, "batch_size must be a positive integer"),
        ({"lr": 0.0}, ValueError, "lr must be positive and finite, got 0"),
        ({"lr": math.nan}, ValueError, "lr must be positive and finite, got nan"),
        ({"gamma": -0.1}, ValueError, "gamma must be positive"),
        ({"clip": 0.0}, ValueError, "clip must be positive"),
        ({"input_noise": -1.0}, ValueError, "input_noise must be non-negative"),
        ({"kl_weight": math.inf}, ValueError, "kl_weight must be non-negative and finite"),
        ({"ema": 1.0}, ValueError, r"ema must be a number between 0 and 1, got 1"),
        ({"schedule": "linear"}, ValueError, "schedule must be one of .* got 'linear'"),
        ({"validate_every": 0}, ValueError, "validate_every must be a positive integer, got 0"),
        ({"resume": True}, ValueError, "give checkpoint"),
    ],
)
def test_bad_input(change, error, message):
    with pytest.raises(error, match=message):
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


def test_recipes_train_and_save(tmp_path):
    file = recipes.train("shapes-ae", tmp_path, quick=True, progress=False)
    model, card = weights.load(file)
    assert card["quick"] and card["name"] == "shapes-ae" and card["training"]["steps"] == 20
    assert card["score"]["range_psnr"] >= card["score"]["psnr"] - 0.5
    assert model.config == recipes.RECIPES["shapes-ae"].architecture
    assert sorted(p.name for p in tmp_path.iterdir()) == ["shapes-ae.json", "shapes-ae.safetensors"]
    with pytest.raises(ValueError, match=r"name must be one of .* got 'nonsense'"):
        recipes.train("nonsense", tmp_path)


@pytest.mark.parametrize("name", weights.shipped())
def test_shipped_weights_come_from_the_recipes(name):
    card = weights.read_card(name)
    recipe = recipes.RECIPES[name]
    assert card["architecture"] == recipe.architecture.to_dict()
    assert card["training"].items() >= {**recipe.settings}.items()
