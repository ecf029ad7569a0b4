"""Normalising flows: the bijection and its determinant, the likelihood of known densities, training, files."""

import json
import math
import sys

import odl
import pytest
import torch

from genreg import FlowPrior, Generator, weights
from genreg.operators import derivative_test
from genreg.training import flow as flow_training
from genreg.training.flow import Flow, FlowConfig, fit_flow

from ...draws import gaussian, same_weights
from ...refusals import refuses

SMALL = {"transforms": 2, "hidden": (12,), "bins": 4, "dequantise": 0.0, "progress": False}


def banana(n, seed):
    """Draw images of two pixels (a, a² - 1 + 0.3 b), with a and b standard normal; ``(n, 1, 2)``."""
    a, b = gaussian(n, 2, seed=seed, dtype=torch.float32).unbind(1)
    return torch.stack([a, a**2 - 1 + 0.3 * b], 1)[:, None]


def made(whitening="full", shape=(2, 3)):
    """A flow whose layers are not the identity, after a whitening that is not either."""
    torch.manual_seed(1)
    config = FlowConfig(image_shape=shape, transforms=2, hidden=(8,), bins=4, whitening=whitening)
    flow = config.build().double().eval()
    for p in flow.parameters():
        torch.nn.init.normal_(p, std=0.5)
    mixing = torch.eye(flow.latent_dim, dtype=torch.float64) + 0.3 * gaussian(*2 * [flow.latent_dim], seed=2)
    flow.whiten((gaussian(50, flow.latent_dim, seed=3) @ mixing + 0.5).unflatten(1, shape), 0.01)
    return flow


@pytest.mark.parametrize("whitening", ["full", "pixel"])
def test_a_flow_is_a_bijection_and_knows_its_determinant(whitening):
    flow = made(whitening)
    z = gaussian(3, 6, seed=4)
    x = flow.to_image(z)
    assert x.shape == (3, 2, 3)
    back, log_abs_det = flow.to_latent(x)
    torch.testing.assert_close(back, z, rtol=0, atol=1e-10)
    torch.testing.assert_close(flow.decode(flow.encode(x)), x, rtol=0, atol=1e-10)

    jacobians = torch.stack(
        [torch.autograd.functional.jacobian(lambda t: flow.encode(t[None])[0], i) for i in x]
    )
    exact = torch.linalg.slogdet(jacobians.flatten(2)).logabsdet
    torch.testing.assert_close(log_abs_det, exact, rtol=0, atol=1e-9)
    density = torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(1) + exact
    torch.testing.assert_close(flow(x), density, rtol=0, atol=1e-9)

    singles = [flow.to_latent(image[None]) for image in x]
    torch.testing.assert_close(torch.cat([s[0] for s in singles]), back)
    torch.testing.assert_close(torch.cat([s[1] for s in singles]), log_abs_det)


def test_new_layers_are_the_identity():
    flow = FlowConfig(image_shape=(2, 3), hidden=(16,)).build()
    u = 3 * gaussian(5, 6, dtype=torch.float32)
    torch.testing.assert_close(flow.encode(u.unflatten(1, (2, 3))), u)


def test_flows_as_generator_and_as_prior():
    X = odl.uniform_discr([0, 0], [4, 3], (2, 3))  # cells of 2 by 1
    flow = made()
    G = Generator(flow, X)
    derivative_test(G)
    x = gaussian(3, 2, 3)
    torch.testing.assert_close(G.decode(G.encode(x)).mean, x)
    for determinant in (False, True):
        derivative_test(FlowPrior(flow, X, determinant=determinant))
    element = X.element(x[0].numpy())
    assert FlowPrior(flow, X)(element) == pytest.approx(flow.encode(x[:1]).square().sum().item())
    constant = 6 * math.log(2 * math.pi)
    assert FlowPrior(flow, X, determinant=True)(element) == pytest.approx(-2 * flow(x[:1]).item() - constant)


@pytest.mark.parametrize("noise", ["uniform", "gaussian"])
def test_the_likelihood_of_gaussian_images_is_close_to_their_entropy(noise):
    B = gaussian(64, 64) / 8

    def draw(n, seed):
        return (gaussian(n, 64, seed=seed) @ B.T + 0.5).unflatten(1, (8, 8))

    variance = 0.2**2 * flow_training.NOISES[noise]
    covariance = B @ B.T + variance * torch.eye(64, dtype=torch.float64)
    entropy = 0.5 * torch.logdet(2 * math.pi * math.e * covariance).item()
    settings = SMALL | {"dequantise": 0.2, "noise": noise, "validation": draw(2000, 2)}
    flow = fit_flow(draw(10000, 1), steps=1, **settings)
    # 4 standard errors
    assert flow.card["score"]["nll"] == pytest.approx(entropy, abs=4 * math.sqrt(32 / 2000))
    fresh = draw(2000, 3) + 0.2 * math.sqrt(flow_training.NOISES[noise]) * gaussian(2000, 8, 8, seed=4)
    density = torch.distributions.MultivariateNormal(torch.full((64,), 0.5, dtype=torch.float64), covariance)
    excess = (density.log_prob(fresh.flatten(1)) - flow.log_prob(fresh)).mean().item()
    assert 0 < excess < 0.2  # 64 * 67 / 4 / 10000 = 0.11 is expected of the best Gaussian
    # without the noise in the whitening it were farther off
    alone = (
        0.5 * torch.logdet(2 * math.pi * (B @ B.T)) + 0.5 * torch.linalg.solve(B @ B.T, covariance).trace()
    )
    assert alone > entropy + 2


def test_training_finds_a_density_that_is_not_gaussian():
    held_out = banana(4000, 1)
    entropy = math.log(2 * math.pi * math.e * 0.3)  # the map from (a, b) has the determinant 0.3
    of_gaussian = math.log(2 * math.pi * math.e) + 0.5 * math.log(2.09)
    images, kept = banana(8000, 0), banana(8000, 0)
    options = SMALL | {"hidden": (24, 24), "lr": 0.02, "batch_size": 200}
    flow = fit_flow(images, steps=60, validation=held_out, validate_every=20, **options)
    losses = [entry["nll"] for entry in flow.card["history"]]
    assert of_gaussian > losses[0] > losses[-1]
    assert entropy - 0.1 < losses[-1] < entropy + 0.25
    assert losses[-1] == pytest.approx(-flow.log_prob(held_out).mean().item(), abs=1e-5)
    assert torch.equal(images, kept) and not flow.training
    assert flow.card["architecture"]["hidden"] == [24, 24] and flow.card["training"]["steps"] == 60


def test_flows_are_kept_in_files(tmp_path):
    flow = fit_flow(banana(50, 0).double(), steps=2, batch_size=8, **SMALL)
    file, card = weights.save(tmp_path / "banana", flow, flow.card)
    assert json.loads(card.read_text())["architecture"]["name"] == "flow"
    loaded, read = weights.load(file)
    assert isinstance(loaded, Flow) and same_weights(flow, loaded) and not loaded.training
    assert read["training"] == flow.card["training"]
    x = banana(5, 1).double()
    torch.testing.assert_close(loaded(x), flow(x), rtol=0, atol=0)
    torch.testing.assert_close(loaded.to_image(loaded.encode(x)), x)


def test_pixels_that_do_not_vary_need_noise():
    images = banana(50, 0)
    images[:, 0, 1] = 0.5
    for whitening in ("full", "pixel"):
        with pytest.raises(ValueError, match="vary in every direction"):
            fit_flow(images, steps=1, whitening=whitening, **SMALL)
        flow = fit_flow(images, steps=1, whitening=whitening, **SMALL | {"dequantise": 0.1})
        assert bool(flow(images).isfinite().all())


def test_a_missing_library_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "zuko", None)
    monkeypatch.setitem(sys.modules, "zuko.flows", None)
    with pytest.raises(ImportError, match=r"needs zuko \(the extra genreg\[flow\]\)"):
        fit_flow(banana(5, 0), steps=1)


@refuses(
    ({"images": [1.0]}, TypeError, "images must be a floating point tensor, got list"),
    (
        {"images": torch.zeros(3, 2, 2, dtype=torch.int64)},
        TypeError,
        "floating point tensor, got torch.int64",
    ),
    (
        {"images": torch.zeros(3, 4)},
        ValueError,
        r"images must have the shape \(N, rows, columns\), got \(3, 4\)",
    ),
    ({"images": torch.zeros(3, 1, 1)}, ValueError, "image_shape must be"),
    ({"images": torch.full((3, 2, 2), torch.nan)}, ValueError, "images must be finite, got 12 NaN"),
    ({"validation": torch.zeros(3, 4, 4)}, ValueError, r"validation must have the shape \(N, 1, 2\)"),
    ({"steps": 0}, ValueError, "steps must be a positive integer"),
    ({"dequantise": -1.0}, ValueError, "dequantise must be non-negative"),
    ({"noise": "poisson"}, ValueError, r"noise must be one of \['gaussian', 'uniform'\], got 'poisson'"),
    ({"whitening": "half"}, ValueError, "whitening must be one of"),
    ({"transforms": 0}, ValueError, "transforms must be a positive integer"),
    ({"hidden": ()}, ValueError, "hidden must be integers"),
    ({"bins": 1}, ValueError, "bins must be an integer of at least 2"),
    ({"resume": True}, ValueError, "resume needs the file"),
)
def test_bad_arguments(change):
    fit_flow(**SMALL | {"images": banana(5, 0), "steps": 1} | change)


def test_images_of_another_size_are_refused():
    with pytest.raises(ValueError, match=r"x must have the shape \(B, \*\(2, 3\)\), got \(1, 3, 2\)"):
        made().to_latent(torch.zeros(1, 3, 2, dtype=torch.float64))


@pytest.mark.parametrize("whitening", ["full", "pixel"])
@pytest.mark.parametrize("s", [1e-6, 1e6])
def test_units_do_not_matter(s, whitening):
    """Images and noise in other units: the same latent vectors, and densities in those units."""

    def trained(scale):
        x = scale * torch.rand(60, 2, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        settings = {"steps": 5, "transforms": 1, "hidden": (4,), "bins": 4, "batch_size": 16}
        settings |= {"dequantise": 0.05 * scale, "whitening": whitening, "validation": x[:10]}
        flow = fit_flow(x, **settings, progress=False)
        return flow.to_latent(x)[0], flow.card["score"]["nll"] - 6 * math.log(scale)

    (z, nll), (other, scaled) = trained(1.0), trained(s)
    torch.testing.assert_close(other, z, rtol=1e-9, atol=1e-9)
    assert scaled == pytest.approx(nll, rel=1e-9)
