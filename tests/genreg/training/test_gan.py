import dataclasses
import json
import math

import odl
import pytest
import torch

import genreg
from genreg import training
from genreg.networks import DenseConfig, GanConfig
from genreg.training import range_error
from genreg.training.settings import Optimisation

from ...draws import same_weights
from ...refusals import refuses

PART = DenseConfig(image_shape=(4, 6), latent_dim=2, encoder=(8,), decoder=(8,), activation="silu")
GAN = GanConfig(generator=PART)


def blobs(n, *, seed):
    """Images with one smooth bump, whose place is the only thing that varies."""
    centre = (
        torch.rand(n, 2, 1, 1, generator=torch.Generator().manual_seed(seed))
        * torch.tensor([3.0, 5.0])[:, None, None]
    )
    i, j = torch.meshgrid(torch.arange(4), torch.arange(6), indexing="ij")
    return torch.exp(-0.3 * ((i - centre[:, 0]) ** 2 + (j - centre[:, 1]) ** 2))


def built(config=GAN, seed=7):
    torch.manual_seed(seed)
    return config.build()


def trained(config=GAN, images=blobs, steps=6, **settings):
    model = built(config)
    settings = {"batch_size": 8, "critic_steps": 2, "progress": False} | settings
    return model, training.fit_gan(model, images, steps=steps, **settings)


# the penalty


def test_penalty_of_an_affine_critic_is_closed_form():
    model = built(GanConfig(generator=PART, critic=CRITIC_AFFINE)).double()
    real, fake = torch.rand(2, 5, 4, 6, dtype=torch.float64)
    (layer,) = (m for m in model.critic.modules() if isinstance(m, torch.nn.Linear))
    expected = (layer.weight.norm().item() - 1.0) ** 2
    assert training.gradient_penalty(model, real, fake).item() == pytest.approx(expected, rel=1e-12)


CRITIC_AFFINE = dataclasses.replace(PART, latent_dim=1, variational=False, encoder=())


def differences(model, real, fake, seed):
    """The penalty from central differences in every pixel."""
    torch.manual_seed(seed)
    h = fake + torch.rand(len(real), 1, 1, dtype=real.dtype) * (real - fake)
    eps, slopes = 1e-5, []
    for pixel in torch.eye(24, dtype=real.dtype).view(24, 4, 6):
        with torch.no_grad():
            slopes.append(
                (model.discriminate(h + eps * pixel) - model.discriminate(h - eps * pixel)) / (2 * eps)
            )
    return (torch.stack(slopes).square().sum(0).sqrt() - 1).square().mean().item()


def test_penalty_matches_finite_differences():
    model = built().double()
    real, fake = torch.rand(2, 5, 4, 6, dtype=torch.float64)
    torch.manual_seed(3)
    value = training.gradient_penalty(model, real, fake)
    assert value.item() == pytest.approx(differences(model, real, fake, 3), rel=1e-8)
    value.backward()
    directions = [torch.randn_like(p) for p in model.critic.parameters()]
    # the bias of the last layer does not matter to the penalty
    slope = sum(
        (p.grad * d).sum()
        for p, d in zip(model.critic.parameters(), directions, strict=True)
        if p.grad is not None
    )
    ends = []
    for sign in (1e-5, -1e-5):
        with torch.no_grad():
            for p, d in zip(model.critic.parameters(), directions, strict=True):
                p.add_(sign * d)
            ends.append(differences(model, real, fake, 3))
            for p, d in zip(model.critic.parameters(), directions, strict=True):
                p.sub_(sign * d)
    assert slope.item() == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-4)


def test_penalty_is_zero_only_where_the_full_gradient_has_norm_one():
    model = built(GanConfig(generator=PART, critic=CRITIC_AFFINE))
    (layer,) = (m for m in model.critic.modules() if isinstance(m, torch.nn.Linear))
    layer.weight.data.div_(layer.weight.norm())
    real, fake = torch.rand(2, 3, 4, 6)
    assert training.gradient_penalty(model, real, fake).item() == pytest.approx(0.0, abs=1e-12)


# the training


def test_one_step_is_that_of_the_formula():
    """Adam's first step is lr g / (|g| + eps), whatever the betas."""
    lr, mu, model = 1e-2, 3.0, built().double()
    reference = built().double()
    x = blobs(8, seed=0).double()
    training.fit_gan(
        model, x, steps=1, batch_size=8, critic_steps=1, lr=lr, penalty=mu, seed=5, progress=False
    )

    settings = Optimisation(steps=1, batch_size=8, lr=lr, seed=5)
    order = torch.randperm(8, generator=torch.Generator().manual_seed(settings.seed_of(1)))
    torch.manual_seed(settings.seed_of(0))
    fake = reference.decode(torch.randn(8, 2, dtype=torch.float64)).detach()
    h = (fake + torch.rand(8, 1, 1, dtype=torch.float64) * (x[order] - fake)).requires_grad_()
    (slope,) = torch.autograd.grad(reference.discriminate(h).sum(), h, create_graph=True)
    penalty = ((slope.square().sum((1, 2)).sqrt() - 1) ** 2).mean()
    step(
        reference.critic,
        reference.discriminate(fake).mean() - reference.discriminate(x[order]).mean() + mu * penalty,
        lr,
    )
    step(
        reference.decoder,
        -reference.discriminate(reference.decode(torch.randn(8, 2, dtype=torch.float64))).mean(),
        lr,
    )
    for p, q in zip(model.parameters(), reference.parameters(), strict=True):
        assert torch.allclose(p, q, rtol=1e-10, atol=1e-10)


def step(part, loss, lr):
    values = list(part.parameters())
    with torch.no_grad():
        for p, g in zip(values, torch.autograd.grad(loss, values), strict=True):
            p.sub_(lr * g / (g.abs() + 1e-8))


def test_fit_learns_the_range():
    config = GanConfig(generator=dataclasses.replace(PART, encoder=(32,), decoder=(32,)))
    held_out = blobs(40, seed=10**6)
    descent = {"steps": 100, "lr": 0.1, "restarts": 2}
    before = range_error(built(config), held_out, **descent)["range_psnr"]
    settings = {"lr": 5e-3, "critic_steps": 3, "ema": 0.95, "batch_size": 32, "validate_every": 60}
    model, card = trained(config, steps=120, validation=held_out, **settings)
    assert [entry["step"] for entry in card["history"]] == [60, 120]
    assert set(card["history"][0]) == {
        *("step", "wasserstein", "penalty", "generator_loss", "validation_wasserstein", "range_psnr"),
    }
    assert range_error(model, held_out, **descent)["range_psnr"] > before + 5
    assert card["training"]["penalty"] == 10.0 and card["training"]["betas"] == [0.0, 0.9]
    assert json.loads(json.dumps(card, allow_nan=False)) == card
    assert not model.training and card["architecture"] == config.to_dict()


def test_a_sampler_of_another_precision_is_converted():
    model = built().double()
    training.fit_gan(model, blobs, steps=1, batch_size=4, progress=False)
    assert next(model.parameters()).dtype == torch.float64


def test_every_step_of_the_critic_sees_new_images():
    seeds = []

    def images(n, *, seed):
        seeds.append(seed)
        return blobs(n, seed=seed % 1000)

    _, card = trained(images=images, steps=3, critic_steps=4)
    assert len(set(seeds[1:])) == 12  # the first call checks the sampler
    assert set(card["history"][0]) == {"step", "wasserstein", "penalty", "generator_loss"}


def test_the_average_is_of_the_generator_alone():
    plain, _ = trained()
    averaged, _ = trained(ema=0.99)
    assert same_weights(plain.critic, averaged.critic) and not same_weights(plain.decoder, averaged.decoder)


def test_a_diverging_run_stops():
    config = GanConfig(generator=dataclasses.replace(PART, maximum=None))
    with pytest.raises(
        FloatingPointError, match=r"is (nan|inf|-inf) at step .* lower lr or raise penalty, lr is"
    ):
        trained(config, steps=40, lr=1e25, validate_every=10)


@refuses(
    ({"images": torch.zeros(3, 6, 4)}, ValueError, r"images must have the shape \(N, 4, 6\)"),
    ({"images": torch.full((3, 4, 6), math.nan)}, ValueError, "images must be finite, got 72"),
    ({"images": [1]}, TypeError, r"images must be a tensor or a function .* got list"),
    ({"validation": torch.zeros(3, 2, 2)}, ValueError, "validation must have the shape"),
    ({"critic_steps": 0}, ValueError, "critic_steps must be a positive integer, got 0"),
    ({"critic_steps": 1.5}, TypeError, "critic_steps must be an integer, got"),
    ({"penalty": -1.0}, ValueError, "penalty must be non-negative and finite, got -1"),
    ({"betas": (0.0, 1.0)}, ValueError, r"betas must be two numbers in \[0, 1\), got \(0\.0, 1\.0\)"),
)
def test_bad_input(change):
    trained(**{"steps": 1} | change)


def test_each_loop_refuses_the_other_kind_of_model():
    with pytest.raises(TypeError, match=r"model must be a GAN .* got Autoencoder; .* genreg\.training\.fit"):
        training.fit_gan(PART.build(), blobs, steps=1, progress=False)
    with pytest.raises(
        TypeError, match=r"model must be an Autoencoder, got GAN; .* genreg\.training\.fit_gan"
    ):
        training.fit(GAN.build(), blobs, steps=1, progress=False)


# the model


def test_range_error_from_random_starts():
    model = built().double().eval()
    x = model.decode(torch.randn(5, 2).double()).detach()
    few, many = (range_error(model, x, steps=300, lr=0.1, restarts=n)["range_mse"] for n in (1, 4))
    assert many <= few and many < 1e-6
    with pytest.raises(ValueError, match="restarts must be given for a model without an encoder, got None"):
        range_error(model, x)
    with pytest.raises(ValueError, match="restarts must be a positive integer, got 0"):
        range_error(model, x, restarts=0)


def test_the_generator_has_no_encoder():
    X = odl.uniform_discr([0, 0], [4, 6], (4, 6), dtype="float32")
    model = built()
    G = genreg.Generator(model, X)
    assert not hasattr(model, "encode") and not G.has_encoder
    assert G.decode(torch.zeros(3, 2)).precision is None and G.sample(3, seed=0).shape == (3, 4, 6)
    with pytest.raises(NotImplementedError, match="the model GAN has no encoder"):
        G.encode(torch.zeros(3, 4, 6))
