"""The complex crops of the recipes of the brain."""

import math

import odl
import torch

from genreg import load_generator, weights
from genreg.datasets import brain_slices, complex_images
from genreg.recipes import complex_brain
from genreg.recipes.complex_brain import CROP, ComplexCrops
from genreg.training import log_likelihoods


def flat(n, *, seed):
    """Magnitudes without noise: a bright square of half the sides."""
    m = torch.zeros(n, 90, 80)
    m[:, 20:70, 20:60] = 0.6
    return m


def test_crops_are_seeded_and_in_their_units():
    sampler = ComplexCrops(flat, noise=0.0)
    x = sampler(5, seed=3)
    assert x.shape == (5, 2, CROP, CROP) and x.equal(sampler(5, seed=3)) and not x.equal(sampler(5, seed=4))
    brightest = x.square().sum(1).sqrt().amax((1, 2))
    assert float(brightest.max()) < 1.4 and float(brightest.min()) > 0.1
    noisy = ComplexCrops(flat, zoom=1.0, noise=0.1)(24, seed=0)
    corners = noisy[:, :, 0, 0][(noisy[:, :, :2, :2].abs().amax((1, 2, 3)) < 0.3)]
    assert 0 < float(corners.std()) < 0.1


def test_enlarged_crops_show_less():
    still = ComplexCrops(flat, zoom=1.0, noise=0.0)(16, seed=1)
    large = ComplexCrops(flat, zoom=1.8, noise=0.0)(16, seed=1)
    inside = [(x.square().sum(1) > 1e-4).float().mean((1, 2)) for x in (still, large)]
    assert float((inside[1] / inside[0]).max()) > 1.3


def test_held_out_images_have_the_unit(monkeypatch):
    monkeypatch.setattr(complex_brain.brain, "validation_images", lambda: flat(3, seed=0))
    monkeypatch.setattr(complex_brain.brain, "test_images", lambda: flat(4, seed=0))
    for test, count in ((False, 3), (True, 2)):
        x = complex_brain.held_out(test)
        assert x.shape == (count, 2, CROP, CROP) and x.is_contiguous()
        assert 0.9 < float(x.square().sum(1).sqrt().max()) < 1.1


def test_the_shipped_precision_is_that_of_unseen_images(monkeypatch, data_dir):
    """On the other person's slices: above the isotropic precision that is best for these very images."""
    model, card = weights.load("brain-supn-complex")
    images, subjects = brain_slices()
    child = images[subjects == 2]
    monkeypatch.setattr(complex_brain.brain, "test_images", lambda: child[40:200:20])
    x = complex_brain.held_out(test=True)
    found = log_likelihoods(model, x)
    nats = found["log_likelihood"] / x[0].numel()
    best = -0.5 * (2 * math.pi * math.e * found["squared_error"].mean()).log()
    assert bool((nats > best + 0.5).all()) and 0.5 < float(found["whitened"].mean()) < 2
    assert card["score"]["nats"] > 2 and card["quick"] is False


def test_the_shipped_weights_serve_any_size():
    X = odl.uniform_discr([0, 0], [1, 1], (37, 50), dtype="complex64")
    G = load_generator("brain-supn-complex", range=X, scale=1e3)
    x = 1e3 * complex_images(torch.rand(1, 37, 50, generator=torch.Generator().manual_seed(0)), seed=0)
    decoded = G.decode(G.encode(x))
    assert decoded.mean.shape == (1, 37, 50) and decoded.precision.channels.stencil.across
    assert float(decoded.precision.log_density(x - decoded.mean)) < 0
