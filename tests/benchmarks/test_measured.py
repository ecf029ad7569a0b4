"""What the benchmark of measured multi-coil data computes beside reconstructions: splits, errors, enlarged images."""

from pathlib import Path

import numpy as np
import odl
import pytest
import torch

from genreg.operators import cartesian_mask, dot_test
from genreg.operators.fourier import centred_fft2

SHAPE = (48, 40)
NOISE = 0.01


@pytest.fixture(autouse=True)
def scripts(monkeypatch):
    """The scripts import one another as a script's own folder lets them."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))


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
    from _measured import load

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
    from _measured import Method, load
    from measured_multicoil import chosen, methods

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
    from _measured import load

    data = load(scan[0])
    coarse = data.coarse(2)
    assert coarse.shape == (24, 20) and coarse.maps.shape == (3, 24, 20)
    assert coarse.mask.equal(data.mask[12:36, 10:30])
    # an orthonormal transform of a quarter of the entries has pixels of twice the size
    assert coarse.noise_std == pytest.approx(data.noise_std / 2, rel=0.05)


def test_enlarged_images(scan):
    from _measured import Enlarged, load

    data = load(scan[0])
    space = odl.uniform_discr([0, 0], [32, 32], (32, 32), dtype="float32")
    E = Enlarged(space, data)
    assert dot_test(E) < 1e-5
    rows, columns = (np.indices((32, 32)) - 16) / 4
    x = np.exp(-0.5 * (rows**2 + columns**2)).astype("float32")
    fine_rows, fine_columns = (np.indices(SHAPE) - np.array(SHAPE).reshape(2, 1, 1) // 2) / 8
    np.testing.assert_allclose(E(x).data, np.exp(-0.5 * (fine_rows**2 + fine_columns**2)), atol=2e-2)
    with pytest.raises(ValueError, match=r"must have the .* of the field of view"):
        Enlarged(odl.uniform_discr([0, 0], [16, 16], (16, 16), dtype="float32"), data)
