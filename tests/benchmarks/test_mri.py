"""What the benchmarks of MRI compute beside reconstructions: data, coverage, the unrolled network."""

import json

import _unrolled
import mri_calibration
import pytest
import torch
from _coverage import LEVELS, block_means, calibration, head
from _mri import Result, Setting, Sizes, evenly, measure, noisy, space
from _mri_generative import RangeConstrained, WeightOptimised
from _mri_report import as_json, margins, tables
from _study import kept

import genreg
from genreg.operators import to_torch


@pytest.fixture
def gaussian():
    """Truths and draws of N(m, C), C with correlation in rows: truth, mean and samples."""
    random = torch.Generator().manual_seed(3)
    n, count = 32, 32
    at = torch.arange(n, dtype=torch.float64)
    L = torch.linalg.cholesky(torch.exp(-(at[:, None] - at).abs() / 3))
    std = 0.5 + torch.rand((n, n), generator=random, dtype=torch.float64)
    mean = torch.randn((count, n, n), generator=random, dtype=torch.float64)

    def draw(*batch):
        return std * (torch.randn((*batch, count, n, n), generator=random, dtype=torch.float64) @ L.T)

    return mean + draw(), mean, mean + draw(100), std


@pytest.mark.parametrize("block", [1, 4])
def test_intervals_of_the_true_gaussian_cover_what_they_promise(gaussian, block):
    truth, mean, samples, _ = gaussian
    inside = torch.ones_like(truth, dtype=torch.bool)
    found = calibration(truth, mean, samples, LEVELS, block=block, inside=inside)
    error = 0.01 if block == 1 else 0.03  # 32768 pixels, 2048 blocks, neither independent
    assert found.coverage.mean(0).tolist() == pytest.approx(LEVELS, abs=error)
    assert float(found.score.square().mean().sqrt()) == pytest.approx(1, abs=0.1)


def test_blocks_show_correlations_that_pixels_hide(gaussian):
    """Draws with the right standard deviations but no correlation: right for pixels, too narrow for blocks."""
    truth, mean, samples, std = gaussian
    random = torch.Generator().manual_seed(4)
    white = mean + std * torch.randn(samples.shape, generator=random, dtype=torch.float64)
    inside = torch.ones_like(truth, dtype=torch.bool)
    pixels, blocks = (calibration(truth, mean, white, LEVELS, block=b, inside=inside) for b in (1, 4))
    assert pixels.coverage.mean(0).tolist() == pytest.approx(LEVELS, abs=0.02)
    assert blocks.coverage.mean(0)[1] < 0.7
    assert float(blocks.score.mean()) > 1.3


def test_block_means_and_head():
    images = torch.arange(32.0).view(2, 1, 4, 4)
    assert torch.equal(block_means(images, 2)[0, 0], torch.tensor([[2.5, 4.5], [10.5, 12.5]]))
    ring = torch.zeros(1, 5, 5)
    ring[0, 1:4, 1:4] = 1
    ring[0, 2, 2] = 0
    assert int(head(ring).sum()) == 9


def test_a_known_posterior_is_found_calibrated_and_drawn(tmp_path, monkeypatch):
    """A Gaussian prior N(0, C) of white Fourier coefficients, for which the posterior is known: data and its draws."""
    random = torch.Generator().manual_seed(0)
    truth = 0.2 * torch.randn((6, 32, 32), generator=random)
    setting = Setting(20, 0.05)

    def sampler(data, factor=1.0):
        A, precision = to_torch(data.A), 0.2**-2  # AᵀA / σ² + 1 / 0.2² acts on the Fourier coefficients
        delta = torch.zeros(1, 32, 32)
        delta[0, 16, 16] = 1.0
        gram = (
            torch.fft.fft2(torch.fft.ifftshift(A.adjoint(A(delta)))).real / setting.noise_std**2 + precision
        )

        def times(x, power):
            return torch.fft.ifft2(torch.fft.fft2(x) * gram**power).real

        mean = times(A.adjoint(data.y) / setting.noise_std**2, -1.0)
        white = torch.randn((100, *mean.shape), generator=random)
        return mri_calibration.Posterior(mean, mean + factor * times(white, -0.5))

    samplers = {"SUPN": sampler, "diagonal": lambda data: sampler(data, 0.5)}
    monkeypatch.setattr(mri_calibration, "head", lambda x: torch.ones_like(x, dtype=torch.bool))
    rows = mri_calibration.study(samplers, truth, (setting,))
    for size in (1, 4):
        found = rows[setting]["SUPN"].blocks[size].coverage.mean(0)[:3]
        assert found.tolist() == pytest.approx(LEVELS, abs=0.03 if size == 1 else 0.06)
    assert rows[setting]["diagonal"].blocks[1].coverage.mean(0)[2] == pytest.approx(0.673, abs=0.03)
    mri_calibration.report(rows, truth, tmp_path)
    assert "| SUPN, pixels |" in (tmp_path / "mri_calibration.md").read_text(encoding="utf-8")
    assert len(json.loads((tmp_path / "mri_calibration.json").read_text())) == 6
    assert (tmp_path / "mri_calibration.png").stat().st_size > 10_000


def test_slices_are_spread_over_those_that_are_not_nearly_empty():
    images = torch.ones(12, 4, 4)
    images[:3] = 0
    images[5, 1:] = 0.05  # a quarter of the pixels is bright
    images[6] = 0.05
    images[6, 0, 0] = 1  # a sixteenth
    assert evenly(images, 3).tolist() == [3, 8, 11]  # of 3, 4, 5, 7, ..., 11


def test_data_have_the_noise_they_say():
    x = torch.rand((20, 32, 32), generator=torch.Generator().manual_seed(0))
    data = measure(x, Setting(20, 0.05), seed=1)
    noise = data.y - to_torch(data.A)(x)
    assert noise.is_complex() and len(noise) == 20
    for part in (noise.real, noise.imag):
        assert float(part.std()) == pytest.approx(0.05, rel=0.03)
    assert torch.equal(data.y, measure(x, Setting(20, 0.05), seed=1).y)
    assert not torch.equal(data.y, measure(x, Setting(20, 0.05), seed=2).y)
    assert torch.equal(data.take(slice(0, 1)).y, data.y[:1])


def test_network_training_goes_on_after_an_interruption(tmp_path):
    """The same weights as without the interruption, and a file that is there is taken as it is."""

    def images(n, *, seed):
        return torch.rand((n, 16, 16), generator=torch.Generator().manual_seed(seed))

    x = images(1, seed=9)
    A = to_torch(measure(x, Setting(5, 0.01), seed=0).A)
    plan = _unrolled.Plan(stages=2, channels=4, steps=4, batch=2, save_every=2)

    def noise(clean, random):
        return noisy(clean, 0.01, random)

    whole = _unrolled.train(tmp_path / "whole.pt", images, A, noise, plan, progress=False)

    def interrupted(clean, random):
        calls.append(1)
        if len(calls) > 3:
            raise KeyboardInterrupt
        return noise(clean, random)

    calls = []
    file = tmp_path / "parts.pt"
    with pytest.raises(KeyboardInterrupt):
        _unrolled.train(file, images, A, interrupted, plan, progress=False)
    assert file.with_suffix(".checkpoint").is_file()
    parts = _unrolled.train(file, images, A, noise, plan, progress=False)
    assert not file.with_suffix(".checkpoint").exists()
    for one, other in zip(whole.parameters(), parts.parameters(), strict=True):
        assert torch.equal(one, other)
    again = _unrolled.train(file, None, A, noise, plan, progress=False)
    y = A(x)
    assert torch.equal(again(A, y)[-1], parts(A, y)[-1])


def test_untrained_network_is_gradient_descent_for_the_data(tmp_path):
    x = torch.rand((2, 16, 16), generator=torch.Generator().manual_seed(0))
    data = measure(x, Setting(5, 0.01), seed=0)
    A = to_torch(data.A)
    first, *_ = _unrolled.Unrolled(2, 4)(A, data.y)
    start = data.zero_filled
    torch.testing.assert_close(first, start - A.adjoint(A(start) - data.y))


def test_tables_and_margins():
    sizes = Sizes(spokes=(10,), noise=(0.1,), test=2)
    setting = Setting(10, 0.1)
    scores = {
        name: {setting: {"psnr": torch.tensor([a, a + 1.0]), "ssim": torch.tensor([0.5, 0.7])}}
        for name, a in (("TV", 20.0), ("joint, SUPN", 23.0))
    }
    seconds = {name: {setting: 0.25} for name in scores}
    text = tables(scores, seconds, sizes)
    assert "| TV | 20.50 ± 0.71 | 0.25 |" in text and "| joint, SUPN | **23.50 ± 0.71** | 0.25 |" in text
    assert "| TV | +3.00 ± 0.00 |" in margins(scores, sizes, "joint, SUPN")
    empty = {name: {setting: {}} for name in scores}
    entry = as_json(scores, seconds, empty, empty)["TV"][0]
    assert entry["psnr"] == {"mean": 20.5, "std": pytest.approx(0.70711)} and entry["spokes"] == 10


def test_weights_are_optimised_for_every_slice_alone_and_the_model_stays():
    class Model(torch.nn.Module):
        latent_dim = 2

        def __init__(self):
            super().__init__()
            self.out = torch.nn.Linear(2, 256)

        def decode(self, z):
            return self.out(z).unflatten(1, (16, 16))

    G = genreg.Generator(Model(), space(16, 16))
    before = [p.clone() for p in G.module.parameters()]
    x = torch.rand((2, 16, 16), generator=torch.Generator().manual_seed(0))
    data = measure(x, Setting(8, 0.01), seed=0)
    method = WeightOptimised(RangeConstrained(G, (0.5,), 30), steps=40, every=10, lr=1e-2)
    parameters = method.tune(data)
    assert parameters["lam"] == 0.5 and parameters["steps"] in range(0, 41, 10)
    images, _ = method.solve(data, parameters)
    alone, _ = method.solve(data.take(slice(1, 2)), parameters)
    torch.testing.assert_close(images[1:], alone, rtol=1e-3, atol=1e-4)
    constrained, _ = method.start.solve(data, parameters)
    assert float((images - x).square().mean()) < float((constrained - x).square().mean())
    assert all(torch.equal(p, q) for p, q in zip(before, G.module.parameters(), strict=True))


def test_results_are_kept_with_their_scores(tmp_path):
    result = Result(torch.rand(2, 16, 16), 0.5, {"lam": 2.0}, "a note")
    file = tmp_path / "result.pt"
    for compute in (lambda: vars(result), None):  # made, then read
        found = Result(**kept(file, {}, compute))
        assert torch.equal(found.images, result.images)
        assert (found.parameters, found.note) == ({"lam": 2.0}, "a note")
    assert found.scores(result.images)["ssim"].tolist() == pytest.approx([1, 1])
