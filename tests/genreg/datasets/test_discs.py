import math

import pytest
import torch

import genreg.datasets
from genreg import weights
from genreg.datasets.discs import DISC_ATTENUATION, DISC_RADIUS, FIELD_OF_VIEW, discs_with_holes
from genreg.recipes.discs import QuarterTurns
from genreg.training import evaluate

from ...refusals import refuses


def test_same_seed_same_images_and_a_prefix_of_a_longer_draw():
    x = discs_with_holes(5, seed=3, size=32)
    assert torch.equal(x, discs_with_holes(5, seed=3, size=32))
    assert torch.equal(x[:2], discs_with_holes(2, seed=3, size=32))
    assert torch.equal(x[3:], discs_with_holes(2, seed=3, size=32, first=3))
    assert not torch.equal(x, discs_with_holes(5, seed=4, size=32))


@pytest.mark.parametrize("size", [16, 63, 64, 128, 300])
def test_shape_type_and_range(size):
    x = discs_with_holes(2, seed=0, size=size)
    assert x.shape == (2, size, size)
    assert x.dtype == torch.float32
    assert x.min() == 0
    assert x.max() == 1


def test_a_coarser_image_is_the_average_of_a_finer_one():
    fine = discs_with_holes(6, seed=1, size=128)
    coarse = torch.nn.functional.avg_pool2d(fine, 2)
    assert (discs_with_holes(6, seed=1, size=64) - coarse).abs().max() < 0.01


def test_outline_is_the_disc_of_the_challenge():
    x = discs_with_holes(30, seed=2, size=128, jitter=0.0)
    line = (torch.arange(128) + 0.5) * FIELD_OF_VIEW / 128 - FIELD_OF_VIEW / 2
    radius = (line[:, None] ** 2 + line**2).sqrt()
    pixel = FIELD_OF_VIEW / 128
    assert (x[:, radius > DISC_RADIUS + pixel] == 0).all()
    # a wall is left at the rim
    assert (x[:, (radius < DISC_RADIUS - pixel) & (radius > DISC_RADIUS - 1.2 + pixel)] == 1).all()
    # half a pixel of the supersampled image belongs to the rim: 0.2 % of the radius
    area = x.amax(0).sum() * pixel**2
    assert area == pytest.approx(math.pi * DISC_RADIUS**2, rel=4e-3)


def test_attenuation_of_the_full_chord_is_that_of_the_solid_disc():
    assert 2 * DISC_RADIUS * DISC_ATTENUATION == pytest.approx(2.5, abs=0.3)


def test_centre_moves_with_the_jitter():
    x = discs_with_holes(20, seed=0, size=64, jitter=1.5)
    outline = torch.cummax(x, 2)[0] * torch.cummax(x.flip(2), 2)[0].flip(2)  # holes filled along rows
    line = (torch.arange(64) + 0.5) * FIELD_OF_VIEW / 64 - FIELD_OF_VIEW / 2
    centre = (outline.sum(1) * line).sum(1) / outline.sum((1, 2))
    assert centre.abs().max() < 1.6
    assert centre.std() > 0.4


def test_most_discs_have_holes_of_varied_number_and_area():
    x = discs_with_holes(60, seed=5, size=64)
    share = 1 - x.sum((1, 2)) * (FIELD_OF_VIEW / 64) ** 2 / (math.pi * DISC_RADIUS**2)
    assert (share > 0.005).float().mean() > 0.9
    assert share.max() < 0.75
    assert share.std() > 0.05


@refuses(
    ({"n": 0}, ValueError, "n must be a positive integer, got 0"),
    ({"n": 2.0}, TypeError, "n must be an int"),
    ({"seed": -1}, ValueError, "seed must be a non-negative integer"),
    ({"seed": "a"}, TypeError, "seed must be an int"),
    ({"first": -1}, ValueError, "first must be a non-negative integer, got -1"),
    ({"size": 8}, ValueError, "size must be an integer from 16 to 512, got 8"),
    ({"size": 1024}, ValueError, "size must be an integer from 16 to 512"),
    ({"size": True}, TypeError, "size must be an int"),
    ({"jitter": -0.1}, ValueError, "jitter must be a number between 0 and 3"),
)
def test_bad_arguments(keywords):
    discs_with_holes(**{"n": 1, "seed": 0, "size": 32} | keywords)


def test_public_name():
    assert genreg.datasets.discs_with_holes is discs_with_holes


# Simulated limited-angle data


@pytest.fixture(scope="module")
def pairs():
    pytest.importorskip("astra")
    images = (discs_with_holes(6, seed=0, size=32, jitter=0.0) * 255).to(torch.uint8)
    return genreg.datasets.LimitedAngleDiscs(images, spans=(20, 180), alpha=0.1)


def test_pairs_are_seeded_and_of_the_size_asked_for(pairs):
    x, rough = pairs(5, seed=1)
    assert x.shape == rough.shape == (5, 16, 16)
    again = pairs(5, seed=1)
    assert torch.equal(x, again[0])
    assert torch.equal(rough, again[1])


def test_rough_reconstruction_solves_the_normal_equations(pairs):
    from genreg.operators import ray_transform, to_torch

    x, _ = pairs(1, seed=0)
    data = genreg.datasets.HTCData(
        "simulated", torch.zeros(181, 140), torch.arange(-90.0, 91.0).numpy(), None, 16
    )
    A = to_torch(ray_transform(data.space, data.geometry))
    rough = pairs.rough(A(x), 180)
    assert (rough - x).square().mean().sqrt() < 0.1
    leaf = rough.clone().requires_grad_()
    residual = 0.5 * (A(leaf) - A(x)).square().sum()
    solid = genreg.datasets.solid_disc(16)
    (gradient,) = torch.autograd.grad(residual + 0.05 * (leaf - solid).square().sum(), leaf)
    scale = torch.autograd.grad(0.5 * A(leaf).square().sum(), leaf)[0].norm()
    assert gradient.norm() < 1e-4 * scale


def test_fewer_views_say_less(pairs):
    from genreg.operators import ray_transform, to_torch

    x, _ = pairs(4, seed=0)
    data = genreg.datasets.HTCData(
        "simulated", torch.zeros(181, 140), torch.arange(-90.0, 91.0).numpy(), None, 16
    )
    y = to_torch(ray_transform(data.space, data.geometry))(x)
    assert (pairs.rough(y, 20) - x).norm() > 2 * (pairs.rough(y, 180) - x).norm()


@refuses(
    ({"images": torch.zeros(2, 32, 30)}, r"images must have the shape \(N, 2 size, 2 size\)"),
    ({"spans": (31,)}, "spans must be even"),
    ({"spans": ()}, "spans must be integers, got"),
    ({"alpha": 0.0}, "alpha must be positive"),
    error=ValueError,
)
def test_bad_pairs(keywords):
    genreg.datasets.LimitedAngleDiscs(**{"images": torch.zeros(2, 32, 32)} | keywords)


# The shipped model


def test_disc_vae_describes_new_discs():
    model, _ = weights.load("disc-vae")
    images = discs_with_holes(30, seed=99, size=64, jitter=0.2)
    assert evaluate(model, images)["psnr"] > 25
    z = model.encode(images)
    assert abs(z.mean()) < 0.2
    typical = model.decode(torch.zeros(1, model.latent_dim))[0]  # the mode of the prior
    assert (typical - genreg.datasets.solid_disc(64)).abs().mean() < 0.05


def test_quarter_turns():
    images = torch.rand(5, 4, 4)
    sampler = QuarterTurns(images)
    x = sampler(50, seed=3)
    assert torch.equal(x, sampler(50, seed=3))
    orbit = torch.cat([torch.rot90(i, k, (1, 2)) for i in (images, images.flip(2)) for k in range(4)])
    assert all(any(torch.equal(a, b) for b in orbit) for a in x)
