"""Denoisers: sizes, units, training against a posterior mean, and their use as priors."""

import odl
import pytest
import torch

from genreg import PlugAndPlay, RegularisationByDenoising, reconstruct, training, weights
from genreg.networks import DenoiserConfig, build
from genreg.operators import gaussian_measurements

CONFIG = DenoiserConfig(image_shape=(8, 8), channels=(8, 8), blocks=1)


def built(config=CONFIG):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = config.build().double()
        torch.nn.init.normal_(model.network.last.weight, std=0.1)
    return model.eval()


def images(n, *shape, seed=0):
    return torch.rand(n, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_it_starts_as_the_identity_and_knows_no_units():
    x, sigma = images(3, 8, 8), torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64)
    assert torch.equal(CONFIG.build().double()(x, sigma), x)
    D = built()
    assert not torch.allclose(D(x, sigma), D(x, 2 * sigma))
    torch.testing.assert_close(D(5e3 * x, 5e3 * sigma), 5e3 * D(x, sigma))
    for i in range(3):
        torch.testing.assert_close(D(x[i : i + 1], sigma[i : i + 1])[0], D(x, sigma)[i])
    torch.testing.assert_close(D(x, 0.2), D(x, torch.full((3,), 0.2)))


@pytest.mark.parametrize("shape", [(7, 9), (1, 3), (12, 8)])
def test_any_size_is_that_continued_by_the_last_values(shape):
    D, x = built(), images(2, *shape)
    rows, columns = (side + -side % 4 for side in shape)
    larger = x[:, [*range(shape[0]), *[shape[0] - 1] * (rows - shape[0])]]
    larger = larger[..., [*range(shape[1]), *[shape[1] - 1] * (columns - shape[1])]]
    torch.testing.assert_close(D(x, 0.1), D(larger, 0.1)[:, : shape[0], : shape[1]])


def test_colours_and_cards(tmp_path):
    D = built(DenoiserConfig(image_shape=(3, 6, 8), channels=(4,)))
    x = images(2, 3, 6, 8)
    assert D(x, 0.1).shape == x.shape
    card = build(D.config.to_dict())
    assert card.config == D.config
    weights.save(tmp_path / "D", D, {})
    torch.testing.assert_close(weights.load(tmp_path / "D.safetensors")[0](x, 0.1), D(x, 0.1))
    assert D.at((3, 5, 5))(images(1, 3, 5, 5), 0.1).shape == (1, 3, 5, 5)
    with pytest.raises(ValueError, match="images must have the channels of those of the model"):
        D.at((5, 5))


def test_training_finds_the_posterior_mean_of_constant_images():
    """Constant images c ~ N(0, 1): with σ their posterior mean is that of the pixels, times 1 / (1 + σ² / n)."""

    def constant(n, *, seed):
        return torch.randn(n, 1, 1, generator=torch.Generator().manual_seed(seed)).expand(n, 4, 4).clone()

    torch.manual_seed(0)
    model = DenoiserConfig(image_shape=(4, 4), channels=(16,), blocks=1).build()
    options = {"noise_min": 0.5, "noise_max": 0.5, "validation": constant(50, seed=99), "progress": False}
    card = training.fit_denoiser(model, constant, steps=60, batch_size=32, lr=1e-2, **options)
    assert card["score"]["mse"] < 0.3 * 0.25  # of the noise, of which 1 / 17 is left at best


@pytest.mark.parametrize("kind", [RegularisationByDenoising, PlugAndPlay])
def test_it_is_a_prior_for_images_of_any_size_and_unit(kind):
    D, shape = built(), (6, 5)
    X = odl.rn(shape)
    A = gaussian_measurements(X, 20, seed=0)
    y = torch.randn(2, 20, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def run(s):
        R = kind(D, X, noise_std=0.2 * s)
        options = {"noise_std": 0.1 * s, "lam": 50.0 / s**2, "max_iter": 15, "progress": False}
        return reconstruct(A, s * y, R, **options)

    one, other = run(1.0), run(1e5)
    torch.testing.assert_close(other.image / 1e5, one.image, rtol=1e-6, atol=1e-9)
    assert torch.equal(one.status, other.status) and torch.equal(one.iterations, other.iterations)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"image_shape": (8,)}, ValueError, "two positive integers, or three"),
        ({"image_shape": 8}, TypeError, "image_shape must be positive integers, got 8"),
        ({"image_shape": (8, 0)}, ValueError, "must be a positive integer, got 0"),
        ({"channels": ()}, TypeError, r"channels must be positive integers, got \(\)"),
        ({"blocks": 0}, ValueError, "blocks must be a positive integer, got 0"),
    ],
)
def test_bad_architectures(change, error, message):
    with pytest.raises(error, match=message):
        DenoiserConfig(**{"image_shape": (8, 8)} | change)


def test_bad_trainings():
    x = images(4, 8, 8)
    with pytest.raises(TypeError, match=r"must be a genreg\.networks\.Denoiser, got Linear"):
        training.fit_denoiser(torch.nn.Linear(2, 2), x, steps=1)
    with pytest.raises(ValueError, match="noise_min must be at most noise_max"):
        training.fit_denoiser(built(), x, steps=1, noise_min=0.3)
    with pytest.raises(ValueError, match=r"images must have the shape \(N, 8, 8\)"):
        training.fit_denoiser(built(), x[:, :4], steps=1)
