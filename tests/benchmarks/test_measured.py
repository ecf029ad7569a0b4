"""What the benchmark of measured multi-coil data computes beside reconstructions: splits, errors, resampled models."""

from dataclasses import replace

import numpy as np
import odl
import pytest
import torch
from _measured import Method, load
from _measured_learned import Learned, Placement, Resampled, cubic
from measured_multicoil import chosen, methods

import genreg
from genreg.operators import cartesian_mask
from genreg.operators.mri.fourier import centred_fft2

SHAPE = (48, 40)
NOISE = 0.01


@pytest.fixture
def scan(tmp_path):
    """A file in the layout of the measured one, its image, and its noise."""
    rows, columns = (torch.from_numpy(np.indices(SHAPE)) - torch.tensor(SHAPE).view(2, 1, 1) // 2) / 16
    image = 20 * ((rows**2 + 1.5 * columns**2 < 1) * (1 + 0.5 * (rows > columns))).double()
    coils = [
        torch.polar(torch.exp(-((rows - a) ** 2) - (columns - a) ** 2), 0.3 * a * rows) for a in (-1, 0, 1)
    ]
    random = torch.Generator().manual_seed(0)
    kspace = centred_fft2(torch.stack(coils) * image)
    kspace = kspace + NOISE * torch.randn(kspace.shape, dtype=kspace.dtype, generator=random) * 2**0.5
    keep = torch.from_numpy(
        cartesian_mask(SHAPE, 2, centre=0.3, seed=0) | (np.random.default_rng(0).random(SHAPE) < 0.1)
    )
    file = tmp_path / "scan.npy"
    np.save(file, (kspace * keep).to(torch.complex64).numpy())
    return file, keep


def test_data_are_split(scan):
    file, keep = scan
    data = load(file)
    assert data.mask.equal(keep) and data.shape == SHAPE
    parts = data.split(test=0.2, tuning=0.1, seed=3)
    assert sum(part.int() for part in parts).equal(keep.int())
    assert [int(part.sum()) for part in parts[1:]] == [round(f * int(keep.sum())) for f in (0.1, 0.2)]
    assert parts.train[:, 14:26].all()  # 12 columns are measured entirely
    again = data.split(test=0.2, tuning=0.1, seed=3)
    assert all(a.equal(b) for a, b in zip(parts, again, strict=True))
    other = data.split(test=0.2, tuning=0.3, seed=3)
    assert other.test.equal(parts.test) and not data.split(test=0.2, tuning=0.1, seed=4).test.equal(
        parts.test
    )


def test_errors_of_the_least_squares_image_are_noise(scan):
    data = load(scan[0])
    split = data.split(test=0.1, tuning=0.1, seed=0)
    found = methods(quick=True)
    assert chosen(found["zero-filled"], data, split) == 0
    parameter = chosen(Method(found["SENSE"].solve, (1e-2, 1e2)), data, split)
    assert parameter == 1e-2
    images = torch.cat(
        [found[name].solve(data, split.train, [parameter]) for name in ("SENSE", "zero-filled")]
    )
    errors, floor = data.errors(images, split.test), data.floor(split.test)
    assert errors.all.shape == (2,) and float(errors.all[0]) < 0.6 * float(errors.all[1])
    for part in ("inner", "outer"):
        assert float(getattr(errors, part)[0]) < float(getattr(errors, part)[1])
    seen = data.errors(images[:1], split.train)
    assert float(seen.all[0]) < 0.1 < float(errors.all[0])
    A, y = data.sampled(split.test)
    residual = A.forward(images[0]) - y
    assert float(residual.norm() / y.norm()) == pytest.approx(float(errors.all[0]), rel=1e-4)
    assert float(floor.all[0]) == pytest.approx(
        float((2 * y.numel()) ** 0.5 * data.noise_std / y.norm()), rel=1e-5
    )


def test_coarse_data_have_the_same_grey_values(scan):
    data = load(scan[0])
    coarse = data.coarse(2)
    assert coarse.shape == (24, 20) and coarse.maps.shape == (3, 24, 20)
    assert coarse.mask.equal(data.mask[12:36, 10:30])
    # an orthonormal transform of a quarter of the entries has pixels of twice the size
    assert coarse.noise_std == pytest.approx(data.noise_std / 2, rel=0.05)


def test_cubic_interpolation():
    integers = torch.arange(8.0)
    assert cubic(integers, 8, 1.0).equal(torch.eye(8))
    places = torch.linspace(2, 5, 7)
    for power in (0, 1, 2):  # Keys' kernel is exact for these
        torch.testing.assert_close(cubic(places, 8, 1.0) @ integers**power, places**power)
    wide = cubic(torch.tensor([15.5]), 32, 2.0)
    torch.testing.assert_close(wide @ torch.ones(32), torch.ones(1), atol=1e-2, rtol=0)
    assert abs(float(wide @ (torch.arange(32) % 2 * 2.0 - 1))) < 1e-2  # the finest oscillation is gone
    assert not cubic(torch.tensor([-3.0, 11.0]), 8, 1.0).any()


def test_the_subject_is_placed():
    image = torch.zeros(60, 50)
    image[10:50, 5:41] = 0.5
    image[0, 3] = 1.0  # a bright pixel is none
    assert Placement.of(image, 20.0) == Placement((29.5, 22.5), 2.0)
    with pytest.raises(ValueError, match=r"must have rows and columns above 0.1"):
        Placement.of(image[:5], 20.0)


@pytest.fixture(scope="module")
def model():
    return genreg.load_generator("brain-supn", odl.rn((128, 128), dtype="float32")).model


def test_a_resampled_model_is_the_model_on_its_own_grid(model):
    z = torch.randn(1, model.latent_dim, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = model.decode_all(z)
        same = Resampled(model, (128, 128), Placement((63.5, 63.5), 1.0))
        for got, want in zip((same.decode(z), *same.decode_factor(z)), expected, strict=True):
            torch.testing.assert_close(got, want)
        torch.testing.assert_close(same.encode(expected[0]), model.encode(expected[0]))

        part = Resampled(model, (50, 44), Placement((19.5, 19.5), 1.0))  # not divisible by 8
        cut = expected[0][:, 44:94, 44:88]
        torch.testing.assert_close(part.decode(z), cut)
        log_diag, weights = part.decode_factor(z)
        padded = torch.nn.functional.pad(cut, (0, 4, 0, 6))
        whole = model.factor_of(padded)
        assert log_diag.equal(whole[0][:, :50, :44]) and weights.equal(whole[1][..., :50, :44])

        fine = Resampled(model, (256, 256), Placement((127.5, 127.5), 2.0))
        back = fine.down_rows @ fine.decode(z) @ fine.down_columns.mT
        assert float((back - expected[0]).norm() / expected[0].norm()) < 0.05


def test_learned_priors_take_any_unit_and_phase(scan):
    data = load(scan[0])
    mask = data.split(test=0.1, tuning=0.1, seed=0).train
    A, y = data.sampled(mask)
    reference = (A.transpose(y).abs() + 1e-3).to(torch.complex64)
    images = Learned("brain-diagonal", lambda data, mask: reference, max_iter=1, tol=1e-3)(
        data, mask, (0.3, 3.0)
    )
    assert images.shape == (2, *SHAPE)
    misfit = (A.forward(images) - y).abs().square().sum((-2, -1)).sqrt()
    assert float(misfit[0]) < float(misfit[1]) < 0.2 * float(y.norm())

    turn = torch.polar(torch.full(SHAPE, 3.0), torch.linspace(0, 3, SHAPE[1]).expand(SHAPE))
    turned = replace(
        data, kspace=3 * data.kspace, maps=data.maps * 3 * turn.conj() / 9, noise_std=3 * data.noise_std
    )
    again = Learned("brain-diagonal", lambda data, mask: reference * turn, max_iter=1, tol=1e-3)(
        turned, mask, (0.3, 3.0)
    )
    assert float((again - images * turn).norm() / again.norm()) < 1e-3
