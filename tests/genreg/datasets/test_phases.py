"""Complex images made from magnitudes."""

import math

import pytest
import torch

from genreg.datasets import complex_images
from genreg.datasets.phases import smooth_fields


def magnitudes(n=3, dtype=torch.float64):
    return torch.rand(n, 12, 10, generator=torch.Generator().manual_seed(0), dtype=dtype)


def test_magnitudes_stay_under_the_shading():
    m = magnitudes()
    m[0, 3] = 0
    x = complex_images(m, seed=1)
    assert x.shape == m.shape and x.dtype == torch.complex128
    b = x.abs() / m
    assert bool((x[0, 3] == 0).all()) and float(b[1:].amax()) == pytest.approx(1, abs=1e-6)
    assert float(b[1:].log().diff(dim=1).abs().max()) < 0.5  # smooth
    assert complex_images(magnitudes(dtype=torch.float32), seed=1).dtype == torch.complex64
    flat = complex_images(m, seed=1, shading=0.0)
    torch.testing.assert_close(flat.abs(), m)
    torch.testing.assert_close(flat[1:].angle(), x[1:].angle())
    constant = complex_images(m, seed=1, phase=0.0, shading=0.0)[1:]
    torch.testing.assert_close(constant, m[1:] * torch.exp(1j * constant[:, :1, :1].angle()))


def test_draws_are_seeded():
    m = magnitudes()
    x = complex_images(m, seed=1)
    assert x.equal(complex_images(m, seed=torch.Generator().manual_seed(1)))
    assert not x.equal(complex_images(m, seed=2))


def test_phases_are_smooth_and_of_all_constants():
    x = complex_images(torch.ones(400, 24, 24), seed=0)
    steps = (x[:, 1:] * x[:, :-1].conj()).angle()
    assert 0.05 < float(steps.std()) < 0.3 and float(steps.abs().max()) < 1.5
    assert float(x[:, 5, 7].div(x[:, 5, 7].abs()).mean().abs()) < 4 / math.sqrt(400)


def test_fields_have_their_covariance():
    f = smooth_fields(4000, (9, 5), seed=0, lengths=(0.5, 0.5))
    assert f.shape == (4000, 9, 5) and f.dtype == torch.float32
    covariance = torch.einsum("bi,bj->ij", f[:, :, 2], f[:, :, 2]) / 4000
    place = torch.linspace(-1, 1, 9)
    expected = (-(place[:, None] - place).square() / (2 * 0.5**2)).exp()
    assert float((covariance - expected).abs().max()) < 5 * math.sqrt(2 / 4000)
    across = (f[:, 0, 0] * f[:, 0, 4]).mean()  # the smaller side has the length 10 / 9
    assert float(across) == pytest.approx(math.exp(-((10 / 9) ** 2) / (2 * 0.5**2)), abs=0.08)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"magnitudes": [[1.0]]}, TypeError, "magnitudes must be a real tensor of floating type, got list"),
        (
            {"magnitudes": torch.ones(3, 4)},
            ValueError,
            r"magnitudes must have the shape \(N, n, m\), got \(3, 4\)",
        ),
        ({"magnitudes": -torch.ones(1, 3, 4)}, ValueError, "magnitudes must be finite and not negative"),
        ({"magnitudes": torch.full((1, 3, 4), math.nan)}, ValueError, "magnitudes must be finite"),
        ({"phase": -1.0}, ValueError, "phase must"),
        ({"shading": -1.0}, ValueError, "shading must"),
        ({"seed": 0.5}, TypeError, "seed must be an integer or a torch.Generator"),
    ],
)
def test_bad_input(change, error, message):
    with pytest.raises(error, match=message):
        complex_images(**({"magnitudes": torch.ones(1, 3, 4), "seed": 0} | change))


@pytest.mark.parametrize("lengths", [(0.0, 1.0), (0.5, 0.2)])
def test_bad_lengths(lengths):
    with pytest.raises(ValueError, match="lengths must be"):
        smooth_fields(1, (3, 3), seed=0, lengths=lengths)
