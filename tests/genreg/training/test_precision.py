import dataclasses
import json
import math

import odl
import pytest
import torch

from genreg import load_generator, training, weights
from genreg.networks import (
    Autoencoder,
    DenseConfig,
    StridedConfig,
    Structured,
    StructuredConfig,
    build,
)
from genreg.operators import SparseCholeskyPrecision
from genreg.training.gaussian_likelihood import fit_scale
from genreg.training.precision import fit_gamma, fit_precision, likelihood, log_likelihoods, precision_of

from ...refusals import refuses

VAE = DenseConfig(image_shape=(4, 6), latent_dim=2, encoder=(8,), decoder=(8,))
AE = dataclasses.replace(VAE, variational=False)
COMPLEX = dataclasses.replace(VAE, image_shape=(2, 4, 6), maximum=None)
NORMALISED = StridedConfig(image_shape=(8, 8), latent_dim=2, channels=(4, 4), kernel=4)


def made(mean=VAE, *, spread=0.2, dtype=torch.float64, **fields):
    """A model whose head has random weights everywhere."""
    torch.manual_seed(4)
    model = StructuredConfig(mean=mean, **({"channels": (4,), "distance": 1} | fields)).build().to(dtype)
    for p in model.head.parameters():
        p.data.add_(spread * torch.randn_like(p))
    return model.eval()


def dense(model, x):
    """log N(x; G(z), Λ⁻¹) by a dense covariance matrix at the mean of q, one image after the other."""
    values = []
    for one in x:
        mean = model.decode(model.encode(one[None]))
        log_diag, entries = model.decode_factor(model.encode(one[None]))
        if entries is None:
            precision = torch.diag((2 * log_diag[0]).exp().flatten())
        else:
            precision = full_factor(model, log_diag[0], entries[0])
            precision = precision @ precision.T
        normal = torch.distributions.MultivariateNormal(mean[0].flatten(), precision_matrix=precision)
        values.append(normal.log_prob(one.flatten()))
    return torch.stack(values)


def full_factor(model, log_diag, entries):
    """L as a matrix, entry by entry, from its definition."""
    channels = 1 if log_diag.ndim == 2 else len(log_diag)
    rows, columns = log_diag.shape[-2:]
    place = torch.arange(channels * rows * columns).view(channels, rows, columns)
    d = model.config.distance
    near = [(a, b) for a in range(d + 1) for b in range(-d, d + 1) if (a, b) > (0, 0)]
    terms = [(c, c, *offset) for c in range(channels) for offset in near]
    terms += [(c, e, 0, 0) for c in range(channels) for e in range(c + 1, channels)]
    L = torch.diag(log_diag.exp().flatten())
    for k, (c, e, down, right) in enumerate(terms):
        for i in range(rows - down):
            for j in range(max(0, -right), min(columns, columns - right)):
                L = L.index_put((place[e, i + down, j + right], place[c, i, j]), entries[k, i, j])
    return L


def images_of(config, n=5, dtype=torch.float64, seed=1):
    return torch.rand(n, *config.image_shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.mark.parametrize("mean", [VAE, COMPLEX], ids=["grey", "two channels"])
@pytest.mark.parametrize("distance", [0, 1, 2])
def test_likelihood_and_its_gradient_against_a_dense_density(mean, distance):
    model, x = made(mean, distance=distance), images_of(mean, n=2)
    code = model.decode(model.encode(x))
    value, expected = precision_of(model, code).log_density(x - code), dense(model, x)
    assert torch.allclose(value, expected, rtol=1e-10)
    parameters = list(model.parameters())[:-1]
    found, wanted = (torch.autograd.grad(t.sum(), parameters, allow_unused=True) for t in (value, expected))
    for g, h in zip(found, wanted, strict=True):
        assert (g is None) == (h is None) and (g is None or torch.allclose(g, h, rtol=1e-7, atol=1e-9))
    assert torch.allclose(log_likelihoods(model, x)["log_likelihood"], expected)


def test_factor_is_differentiable_twice_in_the_latent_vector():
    model = made(dataclasses.replace(VAE, activation="silu"))
    z = torch.randn(1, 2, dtype=torch.float64, requires_grad=True)
    residual = images_of(VAE, n=1) - 0.5

    def energy(z):
        _, log_diag, entries = model.decode_all(z)
        space = odl.rn((4, 6))
        return SparseCholeskyPrecision(space, log_diag, entries, distance=1).log_density(residual).sum()

    assert torch.autograd.gradcheck(energy, (z,))
    assert torch.autograd.gradgradcheck(energy, (z,))


@pytest.mark.parametrize(
    ("mean", "fields", "count"),
    [
        (VAE, {"distance": 0}, 0),
        (VAE, {"distance": 2}, 12),
        (VAE, {"distance": 1, "dilation": (1, 2)}, 8),
        (COMPLEX, {"distance": 1}, 9),
        (COMPLEX, {"distance": 0}, 0),
        (dataclasses.replace(COMPLEX, image_shape=(3, 4, 6)), {"distance": 1}, 15),
        (NORMALISED, {"channels": (4, 4), "distance": 2}, 12),
    ],
)
def test_shapes_and_number_of_entries(mean, fields, count):
    model = made(mean, **fields)
    z = torch.randn(3, 2, dtype=torch.float64)
    log_diag, entries = model.decode_factor(z)
    assert log_diag.shape == (3, *mean.image_shape)
    assert (entries is None) if not count else entries.shape == (3, count, *mean.image_shape[-2:])
    alone = model.decode_factor(z[1:2])[0]
    assert torch.allclose(alone, log_diag[1:2], rtol=1e-10)
    mean_image, again, _ = model.decode_all(z)
    assert torch.equal(again, log_diag) and torch.equal(mean_image, model.decode(z))
    assert model.config.build().config == StructuredConfig(**_arguments(model.config.to_dict()))
    assert json.loads(json.dumps(model.config.to_dict())) == model.config.to_dict()


def _arguments(entries):
    return {key: value for key, value in entries.items() if key != "name"}


@pytest.mark.parametrize("mean", [VAE, COMPLEX, NORMALISED], ids=["grey", "two channels", "normalised"])
def test_new_head_is_isotropic(mean):
    torch.manual_seed(0)
    trained = mean.build().double().eval()
    trained.log_gamma.data.fill_(-1.5)
    grown = StructuredConfig(mean=mean, channels=(4,), bounds=(-30.0, 30.0)).grow(trained).double()
    assert grown.encoder is trained.encoder and grown.decoder is trained.decoder
    x = images_of(mean)
    for one, other in zip(
        log_likelihoods(trained, x).values(), log_likelihoods(grown, x).values(), strict=True
    ):
        assert torch.allclose(one, other, rtol=1e-10)


def test_bounds_hold_for_any_weights():
    model = made(spread=30.0, bounds=(-1.0, 2.0), limit=0.7)
    log_diag, entries = model.decode_factor(torch.randn(20, 2, dtype=torch.float64))
    assert log_diag.min() < -0.9 and log_diag.max() > 1.9  # both are reached
    assert log_diag.min() >= -1.0 and log_diag.max() <= 2.0
    a = model.coefficients(log_diag, entries)
    assert torch.allclose(a * log_diag.exp()[:, None], entries)
    assert 0.69 < a.abs().max() <= 0.7 + 1e-12


def smooth_noise(n, *, seed):
    """Grey images whose pixels follow x_p = 0.6 x_{p + right} + e, e ~ N(0, s_i²), on rows of different s_i."""
    random = torch.Generator().manual_seed(seed)
    scale = torch.tensor([0.02, 0.1, 0.02, 0.1])
    e = torch.randn(n, 4, 6, generator=random) * scale[:, None]
    columns = [e[..., 5]]
    for j in range(4, -1, -1):
        columns.insert(0, 0.6 * columns[0] + e[..., j])
    return 0.5 + torch.stack(columns, -1)


def grown(distance, mean=AE):
    torch.manual_seed(3)
    trained = mean.build()
    with torch.no_grad():  # a mean that is 1/2 and does not see the image
        trained.decoder[-3 if mean.maximum else -2].weight.zero_()
        trained.decoder[-3 if mean.maximum else -2].bias.zero_()
    fit_gamma(trained, smooth_noise(500, seed=1))
    return StructuredConfig(mean=mean, channels=(8,), distance=distance).grow(trained)


def test_structured_beats_diagonal_beats_isotropic_and_finds_the_coefficients():
    held_out = smooth_noise(400, seed=10**6)
    scores = [likelihood(Autoencoder(*_parts(grown(0)), AE), held_out)["nats"]]
    for distance in (0, 1):
        model = grown(distance)
        card = fit_precision(
            model, smooth_noise, steps=100, batch_size=32, lr=4e-2, validation=held_out, progress=False
        )
        assert card["score"]["whitened"] == pytest.approx(1.0, abs=0.08)
        scores.append(card["score"]["nats"])
    log_diag, entries = model.decode_factor(torch.zeros(1, 2))
    a = model.coefficients(log_diag, entries)[0, 0, :, :4]  # of the next pixel in the row
    assert a.mean().item() == pytest.approx(-0.6, abs=0.1)
    best = -0.5 - 0.5 * math.log(2 * math.pi) - 0.5 * (math.log(0.02) + math.log(0.1))
    assert scores[0] + 0.3 < scores[1] < scores[2] - 0.1
    assert best - 0.1 < scores[2] < best + 0.05


def _parts(model):
    return model.encoder, model.decoder


def state(model):
    return {key: value.clone() for key, value in model.state_dict().items()}


@pytest.mark.parametrize("joint", [False, True])
def test_second_stage_leaves_encoder_and_mean_as_they_are(joint):
    model = made(NORMALISED, channels=(4,), dtype=torch.float32, spread=0.1)
    before = state(model)
    fit_precision(
        model, images_of(NORMALISED, 12, torch.float32), steps=3, batch_size=4, joint=joint, progress=False
    )
    changed = {
        key.split(".")[0] for key, value in state(model).items() if not torch.equal(before[key], value)
    }
    assert changed == ({"encoder", "decoder", "head"} if joint else {"head"})
    assert not model.training


def test_weight_prior_shrinks_the_coefficients():
    sizes = []
    for prior in (0.0, 300.0):
        model = grown(1)
        fit_precision(
            model, smooth_noise, steps=40, batch_size=16, lr=3e-2, weight_prior=prior, progress=False
        )
        log_diag, entries = model.decode_factor(torch.zeros(1, 2))
        sizes.append(model.coefficients(log_diag, entries).square().mean().item())
    assert sizes[1] < 0.2 * sizes[0]


@pytest.mark.parametrize("half", [False, True])
def test_saved_model_loads(tmp_path, half):
    model = made(dtype=torch.float32, distance=2, dilation=(1,))
    card = {"score": likelihood(model, images_of(VAE, dtype=torch.float32))}
    file, _ = weights.save(tmp_path / "toy", model, card, half=half)
    loaded, read = weights.load(file)
    assert isinstance(loaded, Structured) and loaded.config == model.config and not loaded.training
    assert read["architecture"] == model.config.to_dict() and read["parameters"] == sum(
        p.numel() for p in model.parameters()
    )
    assert isinstance(build(read["architecture"]), Structured)
    z = torch.randn(2, 2)
    for one, other in zip(loaded.decode_factor(z), model.decode_factor(z), strict=True):
        assert torch.allclose(one, other, rtol=0.03 if half else 1e-6, atol=0.02 if half else 1e-6)
    G = load_generator(file, range=odl.rn((4, 6), dtype="float32"))
    found = G.decode(z)
    assert isinstance(found.precision, SparseCholeskyPrecision)
    assert torch.allclose(found.precision.log_diag, loaded.decode_factor(z)[0])


def test_gamma_and_calibration_in_closed_form():
    model = VAE.build().double().eval()
    x = images_of(VAE, 40)
    error = (model(x) - x).square().mean()
    assert fit_gamma(model, x, sampled=False) == pytest.approx(error.sqrt().item())
    assert model.log_gamma.item() == pytest.approx(0.5 * error.log().item(), rel=1e-6)
    score = likelihood(model, x)
    assert score["nats"] == pytest.approx(
        -0.5 * math.log(2 * math.pi) - 0.5 * error.log().item() - 0.5, rel=1e-6
    )
    assert score["whitened"] == pytest.approx(1.0)
    drawn = log_likelihoods(model, x, sampled=True)
    assert score["elbo"] == pytest.approx((drawn["log_likelihood"] - drawn["kl"]).mean().item() / 24)
    mean, std = model.encode_distribution(x)
    divergence = torch.distributions.kl_divergence(
        torch.distributions.Normal(mean, std), torch.distributions.Normal(0.0, 1.0)
    )
    assert torch.allclose(drawn["kl"], divergence.sum(1).double())
    assert likelihood(AE.build(), images_of(AE, dtype=torch.float32))["elbo"] == pytest.approx(
        likelihood(AE.build(), images_of(AE, dtype=torch.float32))["nats"], abs=1.0
    )


def test_whitened_residuals_of_samples_have_variance_one():
    model = made(distance=2)
    z = torch.randn(1, 2, dtype=torch.float64)
    mean = model.decode(z)
    precision = precision_of(model, mean)
    r = precision.sample(4000, torch.Generator().manual_seed(0))[:, 0]
    assert precision.whiten(r[:, None]).square().mean().item() == pytest.approx(1.0, abs=0.02)


def test_fit_precision_is_for_models_with_a_head():
    with pytest.raises(
        TypeError, match=r"Structured autoencoder, got Autoencoder; StructuredConfig\(mean=model"
    ):
        fit_precision(VAE.build(), images_of(VAE), steps=1)
    with pytest.raises(ValueError, match="images must differ from their reconstructions"):
        fit_gamma(grown(0), torch.full((1, 4, 6), 0.5))


def test_stage_one_trains_a_structured_model_too():
    model = made(dtype=torch.float32)
    before = state(model)
    training.fit(model, images_of(VAE, 12, torch.float32), steps=2, batch_size=4, progress=False)
    changed = {
        key.split(".")[0] for key, value in state(model).items() if not torch.equal(before[key], value)
    }
    assert changed == {"encoder", "decoder", "log_gamma"}


@refuses(
    ({"weight_prior": -1.0}, ValueError, "weight_prior must be non-negative and finite, got -1.0"),
    ({"kl_weight": math.nan}, ValueError, "kl_weight must be non-negative"),
    ({"validation": torch.zeros(3, 6, 4)}, ValueError, r"validation must have the shape \(N, 4, 6\)"),
    ({"images": torch.full((3, 4, 6), math.nan)}, ValueError, "images must be finite, got 72 NaN"),
    ({"images": "mnist"}, TypeError, "images must be a tensor or a function"),
)
def test_bad_settings(settings):
    arguments = {"images": images_of(VAE, dtype=torch.float32), "steps": 1, "progress": False} | settings
    fit_precision(made(dtype=torch.float32), **arguments)


def test_divergence_is_reported():
    model = made(dtype=torch.float32)
    model.head.last[1].bias.data[0] = math.nan
    with pytest.raises(
        FloatingPointError, match=r"step 0 fails: log_diag must be finite.*lower lr or set clip"
    ):
        fit_precision(model, images_of(VAE, dtype=torch.float32), steps=2, progress=False)


@refuses(
    ({"mean": 3}, TypeError, "mean must be a configuration of an autoencoder .* got int"),
    ({"mean": {"name": "flow"}}, ValueError, "architecture name must be one of"),
    ({"channels": ()}, ValueError, "channels must be positive integers, at least one"),
    ({"distance": -1}, ValueError, "distance must be a non-negative integer"),
    ({"distance": 1.5}, TypeError, "distance must be an integer"),
    ({"dilation": 0}, ValueError, "dilation must be a positive integer"),
    ({"distance": 4}, ValueError, "neighbourhood smaller than the image"),
    ({"distance": 2, "dilation": 2}, ValueError, "neighbourhood smaller than the image"),
    ({"bounds": (1.0, 1.0)}, ValueError, "bounds must be two finite, increasing numbers"),
    ({"bounds": (-math.inf, 1.0)}, ValueError, "bounds must be two finite"),
    ({"limit": 0.0}, ValueError, "limit must be positive and finite"),
    ({"activation": "sine"}, ValueError, "activation must be one of"),
)
def test_bad_configurations(fields):
    StructuredConfig(**({"mean": VAE, "channels": (4,)} | fields))


def test_grow_wants_the_model_of_the_configuration():
    with pytest.raises(ValueError, match="mean must be a model with the configuration"):
        StructuredConfig(mean=VAE, channels=(4,)).grow(AE.build())


@pytest.mark.parametrize(("mean", "distance"), [(VAE, 1), (VAE, 0), (COMPLEX, 1)])
def test_scale_of_a_precision(mean, distance):
    """Of the factors c L the most likely one has whitened residuals of 1, and the coefficients stay as they are."""
    model, x = made(mean, distance=distance), images_of(mean)

    def nats(c):
        model.scale_factor(c)
        value = log_likelihoods(model, x, sampled=True, seed=3)["log_likelihood"].mean().item()
        model.scale_factor(1 / c)
        return value

    before = log_likelihoods(model, x, sampled=True, seed=3)["whitened"].mean().item()
    first = model.decode_factor(model.encode(x))
    assert fit_scale(model, x, seed=3) == pytest.approx(before**-0.5, rel=0.05)  # but for the soft clip
    after = log_likelihoods(model, x, sampled=True, seed=3)["whitened"].mean().item()
    assert after == pytest.approx(1, abs=0.02)
    assert nats(1.0) > max(nats(0.97), nats(1.03))
    second = model.decode_factor(model.encode(x))
    if distance:
        torch.testing.assert_close(model.coefficients(*first), model.coefficients(*second))
    else:
        assert second[1] is None
