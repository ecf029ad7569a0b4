"""Density ratios: closed forms for Gaussians, the latent term, fine-tuning, resuming, errors."""

import copy
import dataclasses
import json
import math

import odl
import pytest
import torch
from torch import nn

from genreg import (
    GaussianFidelity,
    Generator,
    HardConstraint,
    NetworkOperator,
    networks,
    sampling,
    to_torch,
    training,
    weights,
)
from genreg.latent import Box, DensityRatio, Discriminator, StandardNormal
from genreg.networks import Critic, CriticConfig, DenseConfig, GanConfig
from genreg.operators import derivative_test, to_tensor
from genreg.training.settings import Optimisation

from ...draws import same_weights
from ...refusals import refuses

SHAPE = (1, 2)
SMALL = DenseConfig(image_shape=SHAPE, latent_dim=1, encoder=(), activation="softplus")
QUICK = {"batch_size": 8, "progress": False}


class Shifted(nn.Module):
    """G(z) = scale z + shift, images of two pixels."""

    latent_dim = 2

    def __init__(self, scale=1.0, shift=0.0):
        super().__init__()
        self.scale, self.shift = scale, shift

    def forward(self, z):
        return (self.scale * z + self.shift).unflatten(1, SHAPE)


class Quadratic(nn.Module):
    """The logit a |x|² + <b, x> + c, of which every ratio of round Gaussians is one."""

    def __init__(self, a=0.0, b=(0.0, 0.0), c=0.0):
        super().__init__()
        self.a, self.b, self.c = (nn.Parameter(torch.tensor(t, dtype=torch.float64)) for t in (a, list(b), c))

    def forward(self, x):
        x = x.flatten(1)
        return self.a * x.square().sum(1) + x @ self.b + self.c


def space(dtype="float64", weighting=2.0):
    return odl.rn(SHAPE, dtype=dtype, weighting=weighting)


def made(scale=1.0, shift=0.0, **options):
    return Generator(Shifted(scale, shift), space(**options))


def gaussian(n, *, seed, mean=0.0, std=1.0, dtype=torch.float64):
    return mean + std * torch.randn(n, *SHAPE, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def critic(config=SMALL, seed=3):
    torch.manual_seed(seed)
    return CriticConfig(body=config).build().double()


def true_ratio(mean, std, scale, shift):
    """The logarithm of N(mean, std² I) / N(shift, scale² I) in two dimensions, as a `Quadratic`."""
    a = 0.5 / scale**2 - 0.5 / std**2
    b = mean / std**2 - shift / scale**2
    c = shift**2 / scale**2 - mean**2 / std**2 + 2 * math.log(scale / std)
    return Quadratic(a, (b, b), c)


# the latent term


@pytest.mark.parametrize("weighting", [1.0, 3.0])
def test_ratio_is_minus_the_logit_with_its_gradient(weighting):
    G = Generator(Shifted(0.7, 0.2), space(weighting=weighting))
    D = critic(dataclasses.replace(SMALL, encoder=(5,)))
    term = DensityRatio(G, D)
    z = G.domain.element([0.3, -1.2])
    assert term(z) == pytest.approx(-D.discriminate(to_tensor(G(z))[None]).item(), rel=1e-12)
    derivative_test(term)
    energy = 0.5 * StandardNormal(G.domain) + 0.5 * term
    derivative_test(energy)
    t = gaussian(4, seed=1).flatten(1)
    expected = 0.5 * t.square().sum(1) - 0.5 * D(G.module(t))
    torch.testing.assert_close(to_torch(energy)(t), expected)
    assert repr(term).startswith("DensityRatio(Generator")


def test_ratio_on_a_weighted_latent_space():
    Z = odl.rn(2, weighting=[0.5, 3.0])
    D = critic(dataclasses.replace(SMALL, encoder=(5,)))
    derivative_test(DensityRatio(NetworkOperator(Shifted(0.7, 0.2), Z, space()), D))


def test_prior_times_ratio_has_the_images_of_the_data():
    """With the true ratio the density of z is N(m, s² I) mapped back by G."""
    G, D = made(2.0, 1.0), true_ratio(0.4, 0.8, 2.0, 1.0)
    energy = to_torch(0.5 * StandardNormal(G.domain) + DensityRatio(G, D))
    t = gaussian(5, seed=0).flatten(1)
    expected = 0.5 * (t - (0.4 - 1.0) / 2.0).square().sum(1) / (0.8 / 2.0) ** 2
    difference = energy(t) - expected
    torch.testing.assert_close(difference, difference[:1].expand(5))


def test_posteriors_with_the_ratio_are_those_of_the_data():
    """Sampled with the latent term, or without it and weighted: the closed form for images N(0.4, 0.8²)."""
    G, D, sigma = made(1.2, 0.8), true_ratio(0.4, 0.8, 1.2, 0.8), 0.6
    y = gaussian(3, seed=7)
    fidelity = GaussianFidelity(odl.IdentityOperator(G.range), y, sigma)
    ratio = DensityRatio(G, D)
    latent = 0.5 * StandardNormal(G.domain) + ratio
    options = {"chains": 300, "steps": 50, "burn_in": 25, "init": "prior", "seed": 1, "progress": False}
    direct = sampling.sample(sampling.LatentPosterior(fidelity, G, latent=latent), **options)
    plain = sampling.sample(sampling.LatentPosterior(fidelity, G), **options)
    weighted = plain.reweighted(to_torch(-ratio))
    precision = 1 / sigma**2 + 1 / 0.8**2
    mean, std = (y / sigma**2 + 0.4 / 0.8**2) / precision, torch.full_like(y, precision**-0.5)
    for samples in (direct, weighted):
        # what the draws of chains are worth, and of these the share that the weights leave
        size = sampling.diagnose(samples).worst_ess * samples.weighted_size / plain.weighted_size
        error = std * size[:, None, None].rsqrt()
        assert bool(((samples.mean - mean).abs() < 4 * error).all()) and bool((error < 0.015).all())
        assert bool(((samples.std - std).abs() < 4 * error).all())
    assert bool(((plain.mean - mean).abs() > 10 * error).any())


def test_images_are_decoded_once_for_the_data_and_the_ratio():
    G, D = made(1.2, 0.8), critic(dataclasses.replace(SMALL, encoder=(5,)))
    calls = []
    G.model.register_forward_hook(lambda *_: calls.append(1))
    fidelity = GaussianFidelity(odl.IdentityOperator(G.range), gaussian(3, seed=7), 0.5)
    latent = 0.3 * StandardNormal(G.domain) + 2 * DensityRatio(G, D) + 0.1 * Discriminator(G, D)
    objective = sampling.LatentPosterior(fidelity, G, latent=latent).objective
    z = gaussian(3, seed=1).flatten(1)
    calls.clear()
    value, gradient = objective.value_and_gradient({"z": z})
    assert len(calls) == 1
    leaf = z.clone().requires_grad_()
    expected = to_torch(fidelity)(G.module(leaf)) + to_torch(latent)(leaf)
    torch.testing.assert_close(value, expected.detach())
    torch.testing.assert_close(gradient["z"], torch.autograd.grad(expected.sum(), leaf)[0])
    foreign = DensityRatio(made(), D)  # of another generator
    other = sampling.LatentPosterior(fidelity, G, latent=foreign).energy(z)
    torch.testing.assert_close(other, to_torch(fidelity)(G.module(z)) - D(made().module(z)))
    boxed = HardConstraint(G, DensityRatio(G, D) + Box(G.domain, 3.0)).problem(
        fidelity, torch.ones(3).double()
    )
    torch.testing.assert_close(boxed({"z": z}), to_torch(fidelity)(G.module(z)) - D(G.module(z)))


# training


def test_trained_logit_approaches_the_closed_form():
    """Data and images of G with the same covariance: the logit is affine, as the critic."""
    G, D = made(1.0, 0.5), critic()
    data = lambda n, *, seed: gaussian(n, seed=seed, mean=-0.3)  # noqa: E731
    card = training.fit_discriminator(
        D, G, data, steps=250, batch_size=512, lr=0.05, seed=1, validation=gaussian(4000, seed=9, mean=-0.3),
        validate_every=125, progress=False,
    )  # fmt: skip
    exact = true_ratio(-0.3, 1.0, 1.0, 0.5)
    (layer,) = (m for m in D.modules() if isinstance(m, nn.Linear))
    torch.testing.assert_close(layer.weight.detach().flatten(), exact.b.detach(), rtol=0, atol=0.04)
    assert layer.bias.item() == pytest.approx(exact.c.item(), abs=0.04)
    found = training.discriminator_scores(D, G, gaussian(20000, seed=11, mean=-0.3), seed=12)
    assert found.ratio_mean == pytest.approx(1, abs=0.05)
    assert found.inverse_ratio_mean == pytest.approx(1, abs=0.05)
    assert found.divergence == pytest.approx(0.5 * 2 * 0.8**2, abs=0.03)  # the divergence of these Gaussians
    assert found.effective_share == pytest.approx(math.exp(-2 * 0.8**2), abs=0.05)  # 1 / E exp(2 d)
    assert card["score"] == {key: card["history"][-1][key] for key in card["score"]}
    assert card["score"]["cross_entropy"] < math.log(2) - 0.1
    assert [entry["step"] for entry in card["history"]] == [125, 250]
    assert not D.training
    json.dumps(card, allow_nan=False)


def test_trained_logit_approaches_that_of_other_covariances():
    """A network learns the quadratic logit, up to where there are images."""
    torch.manual_seed(0)
    G = made(1.0, 0.0)
    D = critic(dataclasses.replace(SMALL, encoder=(32,)))
    data = lambda n, *, seed: gaussian(n, seed=seed, mean=0.2, std=0.7)  # noqa: E731
    training.fit_discriminator(D, G, data, steps=300, batch_size=512, lr=0.05, seed=1, progress=False)
    exact = true_ratio(0.2, 0.7, 1.0, 0.0)
    x = gaussian(2000, seed=5, mean=0.2, std=0.7)
    with torch.no_grad():
        error = (D(x) - exact(x)).square().mean().sqrt()
        spread = (exact(x) - exact(x).mean()).square().mean().sqrt()
    assert error < 0.1 and error < 0.2 * spread
    best, reached = (training.discriminator_scores(d, G, x, seed=6) for d in (exact, D))
    assert reached.cross_entropy == pytest.approx(best.cross_entropy, abs=2e-3)


def test_noise_is_added_to_both_kinds_of_images():
    """Then the ratio is that of the smoothed densities: here it halves the slope."""
    G, D = made(1.0, 0.5), critic()
    data = lambda n, *, seed: gaussian(n, seed=seed, mean=-0.3)  # noqa: E731
    training.fit_discriminator(
        D, G, data, steps=200, batch_size=512, lr=0.05, noise_std=1.0, seed=1, progress=False
    )
    (layer,) = (m for m in D.modules() if isinstance(m, nn.Linear))
    assert layer.weight.tolist()[0] == pytest.approx([-0.4, -0.4], abs=0.04)
    true = Quadratic(0.0, (-0.4, -0.4), true_ratio(-0.3, 2**0.5, 2**0.5, 0.5).c.item())
    x = gaussian(20000, seed=2, mean=-0.3)
    smooth = training.discriminator_scores(true, G, x, noise_std=1.0)
    assert smooth.ratio_mean == pytest.approx(1, abs=0.02) and smooth.inverse_ratio_mean == pytest.approx(
        1, abs=0.02
    )
    # at the images themselves, without noise, it is flatter than a ratio: E exp(d) = exp(-|b|² / 4) off
    assert training.discriminator_scores(true, G, x).ratio_mean == pytest.approx(math.exp(-0.16), abs=0.02)


def test_scores_of_a_logit_that_knows_nothing():
    found = training.discriminator_scores(Quadratic(), made(), gaussian(50, seed=0), draws=30)
    assert found.cross_entropy == pytest.approx(math.log(2), rel=1e-12) and found.accuracy == 0.5
    assert (found.ratio_mean, found.inverse_ratio_mean, found.effective_share) == (1, 1, pytest.approx(1))
    assert found.divergence == pytest.approx(0, abs=1e-12)


def test_one_step_takes_as_many_images_of_either_kind():
    """The first step of Adam, by hand."""
    x, G, D = gaussian(8, seed=0), made(1.0, 0.5), critic()
    reference = copy.deepcopy(D)
    training.fit_discriminator(D, G, x, steps=1, lr=0.1, schedule="constant", seed=4, noise_std=0.2, **QUICK)
    settings = Optimisation(steps=1, batch_size=8, lr=0.1, seed=4)
    order = torch.randperm(8, generator=torch.Generator().manual_seed(settings.seed_of(2)))
    torch.manual_seed(settings.seed_of(0))
    fake = G.module(torch.randn(8, 2, dtype=torch.float64))
    fake = fake + 0.2 * torch.randn(8, *SHAPE, dtype=torch.float64)
    real = x[order] + 0.2 * torch.randn(8, *SHAPE, dtype=torch.float64)
    probability = torch.cat((reference(real), reference(fake))).sigmoid()
    loss = -0.5 * (probability[:8].log().mean() + (1 - probability[8:]).log().mean())
    loss.backward()
    for p, new in zip(reference.parameters(), D.parameters(), strict=True):
        torch.testing.assert_close(new.detach(), p.detach() - 0.1 * p.grad.sign(), rtol=1e-6, atol=1e-6)


# fine-tuning


def test_fine_tuning_is_gradient_descent_with_momentum_on_a_copy():
    x, G, D = gaussian(8, seed=0), made(1.0, 0.5), critic()
    kept = copy.deepcopy(D)
    DensityRatio(G, D)  # freezes the given one
    new = training.fine_tune(D, G, x, batch_size=8, seed=4)
    assert same_weights(D, kept) and not same_weights(D, new) and not new.training
    assert all(p.requires_grad for p in new.parameters())

    reference = copy.deepcopy(kept)
    velocity = [torch.zeros_like(p) for p in reference.parameters()]
    settings = Optimisation(steps=5, batch_size=8, lr=1e-3, seed=4)
    for step in range(5):
        torch.manual_seed(settings.seed_of(step))
        fake = G.module(torch.randn(8, 2, dtype=torch.float64))
        logits = reference(torch.cat((x, fake)))
        truth = torch.tensor([1.0] * 8 + [0.0] * 8, dtype=torch.float64)
        loss = nn.functional.binary_cross_entropy_with_logits(logits, truth)
        gradients = torch.autograd.grad(loss, list(reference.parameters()))
        with torch.no_grad():
            for p, v, g in zip(reference.parameters(), velocity, gradients, strict=True):
                v.mul_(0.9).add_(g)
                p.sub_(1e-3 * v)
    for p, q in zip(reference.parameters(), new.parameters(), strict=True):
        torch.testing.assert_close(p, q)


def test_fine_tuning_takes_any_module_and_the_critic_of_a_gan():
    G = made(1.0, 0.5)
    data = gaussian(64, seed=0, mean=-0.5)
    new = training.fine_tune(Quadratic(), G, data, steps=50, lr=0.1, momentum=0.0, seed=0)
    held_out = gaussian(500, seed=1, mean=-0.5)
    assert training.discriminator_scores(new, G, held_out).cross_entropy < math.log(2) - 0.05

    torch.manual_seed(0)
    gan = GanConfig(generator=dataclasses.replace(SMALL, latent_dim=2)).build().double()
    kept = copy.deepcopy(gan)
    tuned = training.fine_tune(gan, G, data)
    assert isinstance(tuned, Critic) and same_weights(gan, kept) and not same_weights(tuned, Critic.of(gan))
    x = gaussian(3, seed=2)
    torch.testing.assert_close(Critic.of(gan)(x), gan.discriminate(x))


def test_losses_that_are_no_numbers_are_found():
    D = Quadratic(a=math.inf)
    with pytest.raises(FloatingPointError, match="train loss is inf at step 5: lower lr"):
        training.fine_tune(D, made(), gaussian(8, seed=0))


# critics


def test_critics_are_kept_in_files(tmp_path):
    D = CriticConfig(body=DenseConfig(image_shape=SHAPE, latent_dim=7, encoder=(3,))).build()
    assert (
        D.config.body.latent_dim == 1 and D.image_shape == SHAPE and D(torch.zeros(4, *SHAPE)).shape == (4,)
    )
    card = training.fit_discriminator(D, made(dtype="float32"), torch.rand(20, *SHAPE), steps=2, **QUICK)
    weights.save(tmp_path / "ratio", D, card)
    again, read = weights.load(tmp_path / "ratio")
    assert isinstance(again, Critic) and same_weights(D, again) and read["training"]["steps"] == 2
    assert networks.build(D.config.to_dict()).config == D.config


def test_data_types_of_generator_and_discriminator_may_differ():
    G, D = made(dtype="float32"), critic()
    x = gaussian(20, seed=0, dtype=torch.float32)
    training.fit_discriminator(D, G, x, steps=2, **QUICK)
    term = DensityRatio(G, D)
    assert next(term.D.parameters()).dtype == torch.float32 and next(D.parameters()).dtype == torch.float64
    assert math.isfinite(training.discriminator_scores(term.D, G, x).cross_entropy)


X8 = torch.zeros(8, *SHAPE, dtype=torch.float64)


@refuses(
    (lambda: DensityRatio("G", critic()), TypeError, "G must be an ODL operator"),
    (lambda: DensityRatio(made(), torch.sin), TypeError, "D must be a torch.nn.Module"),
    (lambda: DensityRatio(made(), nn.Identity()), ValueError, r"one number.*got \(1, 1, 2\)"),
    (
        lambda: DensityRatio(made(), critic(dataclasses.replace(SMALL, image_shape=(2, 2)))),
        ValueError,
        r"shape \(1, 2\).*got one for \(2, 2\)",
    ),
    (lambda: CriticConfig(body="dense"), TypeError, "body must be a configuration"),
    (lambda: training.fit_discriminator(Quadratic(), made(), X8, steps=1), TypeError, "D must be a Critic"),
    (lambda: training.fit_discriminator(critic(), made().module, X8, steps=1), TypeError, "G must be an ODL"),
    (
        lambda: training.fit_discriminator(critic(), made(), X8, steps=1, noise_std=-1.0),
        ValueError,
        "noise_std must be non-negative",
    ),
    (
        lambda: training.fit_discriminator(critic(), made(), X8[0], steps=1),
        ValueError,
        r"images must have the shape \(N",
    ),
    (lambda: training.fit_discriminator(critic(), made(), X8[:0], steps=1), ValueError, r"got \(0, 1, 2\)"),
    (
        lambda: training.fit_discriminator(critic(), made(), X8 / 0, steps=1),
        ValueError,
        "images must be finite",
    ),
    (
        lambda: training.fit_discriminator(critic(), made(), X8, steps=1, validation=X8.long()),
        TypeError,
        "validation must be floating point",
    ),
    (lambda: training.fine_tune(critic(), made(), X8, momentum=1.0), ValueError, r"momentum must lie in"),
    (lambda: training.fine_tune(nn.Flatten(), made(), X8), ValueError, "D must have parameters"),
    (lambda: training.fine_tune("D", made(), X8), TypeError, "D must be a torch.nn.Module"),
    (
        lambda: training.discriminator_scores(critic(), made(), X8, draws=0),
        ValueError,
        "draws must be a positive",
    ),
    (
        lambda: training.discriminator_scores(critic(), made(), X8, noise_std=math.nan),
        ValueError,
        "noise_std must be non-negative",
    ),
)
def test_bad_arguments(call):
    call()
