"""Scores against their formulas, and what is drawn."""

import matplotlib.figure
import numpy as np
import odl
import pytest
import torch

from genreg.evaluation import psnr, ssim
from genreg.plotting import as_images, draw_images, image_grid, mosaic


@pytest.mark.parametrize("batch", [(), (1,), (7,)])
def test_psnr_is_its_formula(batch):
    true, image = torch.rand(2, *batch, 9, 12, dtype=torch.float64)
    mse = (image - true).square().mean((-2, -1)).reshape(-1)
    scores = psnr(image, true, data_range=2.0)
    assert scores.dtype == torch.float64 and scores.shape == mse.shape
    assert torch.allclose(scores, 10 * torch.log10(4 / mse))


@pytest.mark.parametrize("batch", [(), (1,), (7,)])
def test_ssim(batch):
    true = torch.rand(*batch, 16, 12, dtype=torch.float64)
    assert torch.allclose(
        ssim(true, true, data_range=1.0), torch.ones(max(1, *batch, 0), dtype=torch.float64)
    )
    scores = torch.stack([ssim(true + s * torch.randn_like(true), true, data_range=1.0) for s in (0.1, 0.5)])
    assert (scores[0] > scores[1]).all() and (scores < 1).all()


def test_ssim_is_its_formula():
    """At the middle of an image as large as the window; scores are the mean over the inner pixels."""
    true, image = torch.rand(2, 11, 11, dtype=torch.float64)
    line = torch.exp(-0.5 * (torch.arange(-5, 6, dtype=torch.float64) / 1.5) ** 2)
    window = line[:, None] * line / line.sum() ** 2
    mean = [(window * t).sum() for t in (image, true)]
    variance = [(window * t.square()).sum() - m**2 for t, m in zip((image, true), mean, strict=True)]
    covariance = (window * image * true).sum() - mean[0] * mean[1]
    c1, c2 = 0.01**2, 0.03**2
    expected = (2 * mean[0] * mean[1] + c1) * (2 * covariance + c2)
    expected /= (mean[0] ** 2 + mean[1] ** 2 + c1) * (sum(variance) + c2)
    assert float(ssim(image, true, data_range=1.0)) == pytest.approx(float(expected), rel=1e-10)


def test_kinds_of_images_agree():
    X = odl.uniform_discr([0, 0], [1, 1], (8, 8), dtype="float32")
    true, image = torch.rand(2, 8, 8)
    expected = psnr(image, true, data_range=1.0)
    for kind in (
        lambda t: t.numpy(),
        lambda t: X.element(t.numpy()),
        lambda t: t[None],
        lambda t: t.requires_grad_(),
    ):
        assert torch.allclose(psnr(kind(image.clone()), kind(true.clone()), data_range=1.0), expected)


def test_complex_images_count_by_their_magnitude():
    image = torch.tensor([[3 + 4j, 1j]])
    assert as_images(image).tolist() == [[[5.0, 1.0]]]


@pytest.mark.parametrize("score", [psnr, ssim])
def test_wrong_arguments(score):
    true = torch.rand(3, 12, 12)
    with pytest.raises(ValueError, match=r"shape of reference, \(3, 12, 12\), got \(2, 12, 12\)"):
        score(true[:2], true, data_range=1.0)
    for data_range in (0.0, -1.0, float("nan")):
        with pytest.raises(
            ValueError, match=rf"data_range must be a number between 0 and 1e\+100, got {data_range}"
        ):
            score(true, true, data_range=data_range)
    with pytest.raises(ValueError, match=r"\(n, m\) or \(B, n, m\), got \(1, 3, 12, 12\)"):
        score(true[None], true[None], data_range=1.0)


# pictures


def drawn(figure):
    return [ax.images[0].get_array() for ax in figure.axes if ax.images]


def test_grid_draws_images_and_errors():
    true, image = torch.rand(2, 3, 5, 4)
    figure = image_grid({"truth": true, "mine": image}, errors=True, titles={"mine": ["1 dB", "2 dB"]})
    arrays = drawn(figure)
    assert isinstance(figure, matplotlib.figure.Figure) and len(arrays) == 9
    assert np.allclose(arrays[0], true[0]) and np.allclose(arrays[3], image[0])
    assert np.allclose(arrays[8], image[2] - true[2])
    labels = [ax.get_ylabel() for ax in figure.axes]
    assert [label for label in labels if label] == ["truth", "mine", "error"]
    assert [ax.get_xlabel() for ax in figure.axes if ax.get_xlabel()] == ["1 dB", "2 dB"]


def test_transposed_grid_with_fewer_images_in_a_row():
    true = torch.rand(4, 5, 4)
    figure = matplotlib.figure.Figure()
    draw_images(
        figure, {"a": true, "b": true[:2]}, columns=3, transposed=True, vmin=-1.0, vmax=3.0, cmap="viridis"
    )
    assert len(drawn(figure)) == 5
    image = figure.axes[0].images[0]
    assert image.get_clim() == (-1.0, 3.0) and image.get_cmap().name == "viridis"
    assert [ax.get_title() for ax in figure.axes if ax.get_title()] == ["a", "b"]


def test_single_element_is_drawn():
    X = odl.uniform_discr([0, 0], [1, 1], (4, 6), dtype="float32")
    (array,) = drawn(image_grid({"x": X.one()}))
    assert array.shape == (4, 6)


def test_mosaic():
    images = torch.arange(24.0).view(2, 3, 2, 2)
    joint = mosaic(images, gap=1)
    assert joint.shape == (5, 8)
    assert np.array_equal(joint[3:5, 6:8], images[1, 2].numpy())
    assert np.isnan(joint[2]).all() and np.isnan(joint[:, 2]).all() and np.isnan(joint).sum() == 40 - 24
    with pytest.raises(ValueError, match=r"\(rows, columns, n, m\), got \(3, 2, 2\)"):
        mosaic(images[0])


def test_psnr_of_equal_images_is_infinite():
    true = torch.rand(2, 12, 12)
    assert psnr(true, true, data_range=1.0).isinf().all()
