import pytest
import torch

from genreg import recipes
from genreg.datasets import add_gradients, gradient_digits, intensity_ramps, mnist

from ...refusals import refuses


def test_ramps_are_linear_and_mirrored():
    ramps = intensity_ramps((5, 9), 4, darkest=0.2)
    assert ramps.shape == (4, 5, 9) and ramps.dtype == torch.float32
    right, left, down, up = ramps
    assert torch.allclose(right[3], 0.2 + 0.8 * torch.arange(9) / 8)
    assert torch.allclose(down[:, 7], 0.2 + 0.8 * torch.arange(5) / 4)
    assert (right == right[0]).all() and (down == down[:, :1]).all()
    assert torch.equal(left, right.flip(1)) and torch.equal(up, down.flip(0))
    assert torch.equal(intensity_ramps((5, 9), 2, darkest=0.2), ramps[:2])


@pytest.mark.parametrize("gradients", [2, 4])
def test_images_are_the_products_in_all_directions(gradients):
    images = torch.rand(400, 6, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    before = images.clone()
    lit, directions = add_gradients(images, gradients, seed=3, darkest=0.5)
    assert lit.dtype == torch.float64 and torch.equal(images, before)
    assert torch.equal(lit, images * intensity_ramps((6, 8), gradients, darkest=0.5).double()[directions])
    counts = directions.bincount(minlength=gradients)
    assert len(counts) == gradients and counts.min() > 0.7 * 400 / gradients


def test_the_brightest_pixel_of_a_flat_image_is_at_the_bright_edge():
    lit, directions = add_gradients(torch.ones(50, 7, 7), 4, seed=0)
    rows, columns = (lit == 1).nonzero(as_tuple=True)[1:]
    edge = {0: columns.max(), 1: columns.min(), 2: rows.max(), 3: rows.min()}
    assert edge == {0: 6, 1: 0, 2: 6, 3: 0}
    brightest = lit.flatten(1).argmax(1)
    expected = {0: 6, 1: 0, 2: 42, 3: 0}  # the first one of the column or the row
    assert brightest.tolist() == [expected[d] for d in directions.tolist()]


def test_directions_are_seeded():
    images = torch.ones(64, 4, 4)
    state = torch.random.get_rng_state()
    first, again, other = (add_gradients(images, 4, seed=s)[1] for s in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert torch.equal(torch.random.get_rng_state(), state)


@refuses(
    ({"gradients": 3}, ValueError, "gradients must be 2 or 4, got 3"),
    ({"gradients": True}, TypeError, "gradients must be an integer, got True"),
    ({"darkest": 1.0}, ValueError, r"darkest must be a number between 0 and 1, got 1\.0"),
    ({"darkest": float("nan")}, ValueError, "darkest must be a number between 0 and 1, got nan"),
    ({"seed": -1}, ValueError, "seed must be a non-negative integer, got -1"),
    ({"seed": None}, TypeError, "seed must be an integer, got"),
    (
        {"images": torch.ones(4, 4)},
        ValueError,
        r"images must have the shape \(N, rows, columns\), got \(4, 4\)",
    ),
    ({"images": torch.ones(2, 1, 4)}, ValueError, r"shape\[0\] must be an integer of at least 2, got 1"),
    (
        {"images": torch.ones(2, 4, 4).long()},
        TypeError,
        r"images must be a floating tensor, got torch\.int64",
    ),
    ({"images": [1.0]}, TypeError, "images must be a floating tensor, got list"),
)
def test_bad_arguments(arguments):
    arguments = {"images": torch.ones(2, 4, 4), "seed": 0} | arguments
    add_gradients(**arguments)


def test_digits_under_a_ramp(data_dir):
    digits, labels = mnist(data_dir / "mnist", train=False)
    images, same, directions = gradient_digits(data_dir / "mnist", train=False, gradients=4, seed=5)
    assert torch.equal(same, labels)
    assert torch.equal(images, digits * intensity_ramps((28, 28), 4)[directions])
    assert torch.equal(images, gradient_digits(train=False, gradients=4, seed=5)[0])
    assert not torch.equal(images, gradient_digits(train=False, gradients=4, seed=6)[0])
    ties = (images == images.amax((1, 2), keepdim=True)).sum((1, 2))
    assert (ties == 1).float().mean() > 0.5 and ties.median() == 1  # most have one brightest pixel


def test_training_draws_every_digit_in_every_direction(data_dir):
    draw = recipes.RECIPES["gradients-2-vae"].data.training()
    images = draw(3000, seed=4)
    assert images.shape == (3000, 28, 28) and torch.equal(images, draw(3000, seed=4))
    digits = mnist(data_dir / "mnist")[0][:58_000]
    chosen = torch.randint(58_000, (3000,), generator=torch.Generator().manual_seed(4))
    right = (images == digits[chosen] * intensity_ramps((28, 28), 2)[0]).all(2).all(1)
    assert 0.45 < right.float().mean() < 0.55
    parity = chosen % 2 == 0  # the same numbers would choose both
    assert 0.45 < right[parity].float().mean() < 0.55
