"""Distillation: closed forms for constant inputs, structure against none, files, resuming, errors."""

import json
import math

import pytest
import torch

from genreg import weights
from genreg.evaluation import log_likelihood
from genreg.networks import build
from genreg.networks.links import Log, Logit
from genreg.operators import DiagonalPrecision, SparseCholeskyPrecision
from genreg.training.distillation import GaussianRegressor, GaussianRegressorConfig, distil

from ...draws import same_weights

SHAPE = (8, 8)


def made(distance=1, seed=0, **options):
    torch.manual_seed(seed)
    return GaussianRegressorConfig(image_shape=SHAPE, channels=(8,), distance=distance, **options).build()


def disturbed(**options):
    """A regressor whose output depends on the pixel and the image."""
    model = made(**options)
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.4)
    return model.double().eval()


def stripes(n, members, seed):
    """Inputs, and outputs whose residuals are constant along rows and whose scale is that of the input."""
    generator = torch.Generator().manual_seed(seed)
    scale = 0.2 + torch.rand(n, 1, 1, generator=generator)
    x = scale.expand(n, *SHAPE).contiguous()
    rows = torch.randn(n, members, SHAPE[0], 1, generator=generator)
    noise = torch.randn(n, members, *SHAPE, generator=generator)
    return x, 1 + scale[:, None] * (rows + 0.3 * noise)


def test_a_new_regressor_has_mean_zero_and_precision_near_one():
    mean, precision = made().predict(torch.rand(3, *SHAPE))
    assert isinstance(precision, SparseCholeskyPrecision) and precision.batch == (3,)
    torch.testing.assert_close(mean, torch.zeros(3, *SHAPE))
    torch.testing.assert_close(precision.to_dense(), torch.eye(64).expand(3, -1, -1), rtol=0, atol=2e-4)
    assert isinstance(made(0).predict(torch.rand(1, *SHAPE))[1], DiagonalPrecision)


def test_predictions_are_batched_differentiable_and_bounded():
    model = disturbed(bounds=(-1.0, 2.0), limit=0.5)
    x = torch.rand(3, *SHAPE, dtype=torch.float64)
    mean, precision = model.predict(x)
    for k in range(3):
        one, single = model.predict(x[k : k + 1])
        torch.testing.assert_close(one[0], mean[k])
        torch.testing.assert_close(single.to_dense()[0], precision.to_dense()[k])
    assert (precision.log_diag > -1).all() and (precision.log_diag < 2).all()
    coefficients = precision.weights * (-precision.log_diag[:, None]).exp()
    assert (coefficients.abs() <= 0.5 + 1e-12).all() and coefficients.abs().max() > 0.3
    v = torch.rand(3, *SHAPE, dtype=torch.float64)

    def value(x):
        mean, precision = model.predict(x)
        return precision.log_density(v - mean)

    assert torch.autograd.gradcheck(value, x.requires_grad_(), fast_mode=True)


def test_the_mean_of_members_is_found_by_least_squares():
    link = Logit(lower=-1.0, upper=1.0)
    model = made(link=link)
    x, y = torch.rand(2, *SHAPE), torch.rand(2, 5, *SHAPE) - 0.5
    card = distil(model, x, y, steps=150, mean_steps=150, lr=0.03, batch_size=2, progress=False)
    with torch.no_grad():
        mean, precision = model.predict(x)
    torch.testing.assert_close(mean, link.forward(y).mean(1), rtol=0, atol=0.02)
    torch.testing.assert_close(precision.to_dense(), torch.eye(64).expand(2, -1, -1), rtol=0, atol=2e-4)
    assert card["training"]["mean_steps"] == 150 and not model.training


def test_structure_makes_correlated_members_more_likely():
    train, test = stripes(200, 4, 0), stripes(50, 4, 1)
    scores = {}
    for distance in (0, 1):
        model = made(distance)
        options = {"lr": 0.02, "mean_steps": 20, "validation": test, "validate_every": 50, "batch_size": 16}
        card = distil(model, *train, steps=100, progress=False, **options)
        scores[distance] = card["score"]["negative_log_density"]
        assert card["history"][-1]["negative_log_density"] == scores[distance]
        with torch.no_grad():
            mean, precision = model.predict(test[0])
            found = -log_likelihood(test[1].transpose(0, 1), mean, precision).mean() / 64
        assert scores[distance] == pytest.approx(found.item(), rel=1e-5)
    # the exact densities: scale s, covariance of a row 1 + 0.09 I, against independent pixels of variance 1.09
    size = test[0][:, 0, 0].log().mean().item() + 0.5 * math.log(2 * math.pi * math.e)
    row = torch.logdet(torch.ones(8, 8) + 0.09 * torch.eye(8)).item() / 16
    assert 0 < scores[0] - size - 0.5 * math.log(1.09) < 0.05
    assert 0 < scores[1] - size - row < 0.25
    assert scores[1] < scores[0] - 0.5
    # the scale of the residuals is predicted from the input
    assert (
        precision.take(int(test[0][:, 0, 0].argmax())).sample(50, 0).std()
        > 2 * precision.take(int(test[0][:, 0, 0].argmin())).sample(50, 0).std()
    )


def test_draws_of_a_structured_regressor_have_the_stripes():
    x, y = stripes(200, 4, 0)
    model = made(1)
    distil(model, x, y, steps=80, lr=0.02, batch_size=16, mean_steps=10, progress=False)
    with torch.no_grad():
        draws = model.predict(x[:1])[1].sample(400, 0)[:, 0]
    along = (draws[:, :, 3] * draws[:, :, 4]).mean() / draws.square().mean()
    across = (draws[:, 3] * draws[:, 4]).mean() / draws.square().mean()
    assert along > 0.75 and abs(across) < 0.15  # 1 / 1.09 and 0


def test_a_regressor_is_kept_in_a_file(tmp_path):
    model = made(2, link=Log(eps=1e-3))
    card = distil(model, *stripes(4, 2, 0), steps=2, progress=False)
    json.dumps(card, allow_nan=False)
    weights.save(tmp_path / "regressor", model, card)
    loaded, _ = weights.load(tmp_path / "regressor")
    assert isinstance(loaded, GaussianRegressor) and loaded.link == Log(eps=1e-3)
    assert same_weights(loaded, model) and loaded.config == model.config
    assert build(json.loads(json.dumps(model.config.to_dict()))).config == model.config


def test_bad_input():
    model, (x, y) = made(), stripes(5, 2, 0)
    with pytest.raises(ValueError, match=r"x must have the shape \(B, 8, 8\), got \(5, 4, 8\)"):
        model.predict(x[:, :4])
    with pytest.raises(TypeError, match="model must be a GaussianRegressor, got Linear"):
        distil(torch.nn.Linear(2, 2), x, y, steps=1)
    with pytest.raises(ValueError, match=r"inputs must have the shape \(N, 8, 8\), got \(5, 4, 8\)"):
        distil(model, x[:, :4], y, steps=1)
    with pytest.raises(ValueError, match=r"outputs must have the shape \(5, M, 8, 8\), got \(4, 2, 8, 8\)"):
        distil(model, x, y[:4], steps=1)
    with pytest.raises(ValueError, match="outputs must be finite, got 640 NaN or infinite pixels"):
        distil(model, x, y / 0, steps=1)
    with pytest.raises(TypeError, match="outputs must be a tensor, got ndarray"):
        distil(model, x, y.numpy(), steps=1)
    with pytest.raises(TypeError, match=r"validation must be a tuple \(inputs, outputs\), got Tensor"):
        distil(model, x, y, steps=1, validation=x)
    with pytest.raises(ValueError, match="mean_steps must be a non-negative integer, got -1"):
        distil(model, x, y, steps=1, mean_steps=-1)
    for options, message in (
        ({"image_shape": (8,)}, "image_shape must be two positive integers, got"),
        ({"channels": ()}, "channels must be positive integers"),
        ({"channels": (4, 4, 4, 4)}, r"divisible by 2 \*\* len\(channels\) = 16"),
        ({"bounds": (1.0, 1.0)}, "bounds must be two finite, increasing numbers"),
        ({"limit": 0.0}, "limit must be positive and finite, got"),
        ({"activation": "sine"}, "activation must be one of"),
        ({"distance": 8}, "smaller than the image"),
        ({"link": {"name": "probit"}}, "name of a link must be one of"),
    ):
        with pytest.raises(ValueError, match=message):
            GaussianRegressorConfig(**{"image_shape": SHAPE, "channels": (8,), "distance": 1} | options)
    with pytest.raises(TypeError, match=r"link must be a genreg\.links\.Link, got str"):
        GaussianRegressorConfig(image_shape=SHAPE, link="logit")
