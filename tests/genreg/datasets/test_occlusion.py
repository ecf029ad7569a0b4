"""Dead leaves: what a seed makes, and the statistics that make them useful."""

import itertools
import math

import numpy as np
import pytest
import torch

from genreg.datasets import dead_leaves

from ...refusals import refuses

SMALL = {"shape": (24, 40)}


def test_an_image_depends_on_seed_and_number_alone():
    images = dead_leaves(3, seed=5, **SMALL)
    assert images.shape == (3, 24, 40) and images.dtype == torch.float32
    assert images.min() >= 0 and images.max() <= 1 and images.flatten(1).std(1).min() > 0.02
    assert torch.equal(dead_leaves(2, seed=5, **SMALL), images[:2])
    assert not torch.equal(dead_leaves(1, seed=6, **SMALL), images[:1])


def test_power_spectrum():
    """It falls as 1/f² within a factor that the finite range of the radii explains."""
    x = dead_leaves(6, seed=0, shape=(96, 96), smallest=(3.0, 3.0), blur=(0, 0)).numpy()
    window = np.hanning(96)[:, None] * np.hanning(96)
    power = (np.abs(np.fft.fft2((x - x.mean((1, 2), keepdims=True)) * window)) ** 2).mean(0)
    f = np.hypot(*np.meshgrid(np.fft.fftfreq(96), np.fft.fftfreq(96)))
    edges = np.geomspace(3 / 96, 0.12, 6)
    levels = [power[(f >= low) & (f < high)].mean() for low, high in itertools.pairwise(edges)]
    centres = np.sqrt(edges[1:] * edges[:-1])
    assert -2.6 < np.polyfit(np.log(centres), np.log(levels), 1)[0] < -1.4


def test_the_length_of_edges_follows_from_the_density_of_the_radii():
    """With r^-3 from r to R the perimeter of a leaf over its area has the mean 1 / (r log(R / r)), up to a constant."""
    share = [
        (dead_leaves(6, seed=1, shape=(64, 64), smallest=(r, r), blur=(0, 0)).diff(dim=2).abs() > 0.1)
        .double()
        .mean()
        .item()
        for r in (3.0, 6.0)
    ]
    largest = 0.6 * 64
    expected = 6 * math.log(largest / 6) / (3 * math.log(largest / 3))
    assert share[0] / share[1] == pytest.approx(expected, rel=0.1)


@refuses(
    ({"n": 0}, ValueError, "n must be a positive integer"),
    ({"seed": -1}, ValueError, "seed must be"),
    ({"shape": (8,)}, ValueError, "shape must be two positive integers"),
    ({"shape": (8, 0)}, ValueError, "positive integer"),
    ({"smallest": (3.0, 2.0)}, ValueError, "smallest must be two numbers, the smaller first"),
    ({"smallest": 3.0}, ValueError, "smallest must be two numbers"),
    ({"smallest": (0.0, 2.0)}, ValueError, "smallest must be positive"),
    ({"blur": (-1.0, 2.0)}, ValueError, "blur must be non-negative"),
    ({"blur": ("a", 2.0)}, TypeError, "blur must be a number"),
)
def test_what_is_refused(change):
    dead_leaves(**{"n": 1, "seed": 0, **SMALL, **change})
