import sys

import numpy as np
import odl
import pytest
import torch

from genreg.operators import calibration_region, coil_maps, fourier_sampling

SHAPE = (32, 28)


def scanner(calibration=(16, 12)):
    """Smooth complex sensitivities, an image with a smooth phase, and its k-space, sampled more in the centre."""
    rows, columns = (np.indices(SHAPE) - np.array(SHAPE).reshape(2, 1, 1) / 2) / 14
    centres = [(-1.2, 0), (1.2, 0.3), (0, -1.2), (0.1, 1.3)]
    maps = np.stack(
        [
            np.exp(-0.5 * ((rows - a) ** 2 + (columns - b) ** 2) / 1.5 + 1j * (a * columns + b * rows + a))
            for a, b in centres
        ]
    )
    inside = rows**2 + columns**2 < 0.8
    image = inside * (1 + 0.3 * (rows > 0.2) * (columns < 0)) * np.exp(0.4j * rows)
    keep = np.random.default_rng(0).random(SHAPE) < 0.3
    n, m = SHAPE[0] // 2, SHAPE[1] // 2
    keep[n - calibration[0] // 2 - 1 : n + calibration[0] // 2 + 1, m] = False
    keep[n, m - calibration[1] // 2 - 1 : m + calibration[1] // 2 + 1] = False
    rows_of, columns_of = (
        slice(c - s // 2, c - s // 2 + s) for c, s in zip((n, m), calibration, strict=True)
    )
    keep[rows_of, columns_of] = True
    A = fourier_sampling(odl.cn(SHAPE), keep, coils=maps)
    kspace = np.zeros((4, *SHAPE), complex)
    kspace[:, keep] = A(image).data
    return maps / np.sqrt((np.abs(maps) ** 2).sum(0)), image, kspace, inside & (rows**2 + columns**2 < 0.5)


@pytest.mark.parametrize("dtype", [np.complex128, np.complex64])
def test_low_resolution_maps(dtype):
    maps, image, kspace, inside = scanner()
    estimate = coil_maps(kspace.astype(dtype))
    assert estimate.shape == maps.shape and estimate.numpy().dtype == dtype
    total = estimate.abs().square().sum(0).sqrt()
    np.testing.assert_allclose(total[total > 0], 1, atol=1e-5)
    assert (total.numpy() > 0)[image != 0].all() and not (total.numpy() > 0).all()
    expected = maps * image / np.abs(image).clip(1e-9)  # they take over the phase of the image
    error = np.linalg.norm((estimate.numpy() - expected)[:, inside], axis=0)
    assert error.max() < 0.1 and error.mean() < 0.05
    np.testing.assert_array_equal(
        estimate, coil_maps(torch.from_numpy(kspace.astype(dtype)), calibration=(16, 12))
    )
    everywhere = coil_maps(kspace, threshold=0).abs().square().sum(0)
    np.testing.assert_allclose(everywhere, 1, atol=1e-12)


def test_espirit():
    pytest.importorskip("sigpy")
    maps, _, kspace, inside = scanner((16, 16))
    estimate = coil_maps(kspace.astype(np.complex64), method="espirit")
    assert estimate.shape == maps.shape and estimate.dtype == torch.complex64
    expected = maps * np.exp(-1j * np.angle(maps[0]))  # the phase of the first coil is removed
    error = np.linalg.norm((estimate.numpy() - expected)[:, inside], axis=0)
    assert error.max() < 0.1 and error.mean() < 0.03


def test_maps_explain_the_data():
    """The image of least squares with the estimated maps predicts what was measured."""
    _, _, kspace, _ = scanner()
    keep = (kspace != 0).any(0)
    A = fourier_sampling(odl.cn(SHAPE), keep, coils=coil_maps(kspace, threshold=0))
    y = A.range.element(A.samples(kspace).numpy())
    x = A.domain.zero()
    odl.solvers.conjugate_gradient_normal(A, x, y, niter=30)
    assert (A(x) - y).norm() < 0.05 * y.norm()


def test_calibration_region():
    mask = np.zeros((9, 12), dtype=bool)
    assert calibration_region(np.eye(9, 12, 2, dtype=bool)) == (1, 1)
    mask[2:7, 3:9] = True
    assert calibration_region(mask) == (5, 6)
    assert calibration_region(torch.from_numpy(np.roll(mask, 1, 1))) == (5, 5)
    assert calibration_region(np.roll(mask, 7, 1)) == (0, 0)
    mask[4] = True
    assert calibration_region(mask) == (5, 6)
    mask[:, 6] = True
    assert calibration_region(np.ones((9, 12), bool)) == (9, 12)
    columns = np.zeros((9, 12), dtype=bool)
    columns[:, 4:8] = True
    assert calibration_region(columns) == (9, 4)
    with pytest.raises(ValueError, match="`mask` must be boolean"):
        calibration_region(np.full((3, 3), 0.5))
    assert calibration_region(columns.astype(np.uint8)) == (9, 4)
    with pytest.raises(ValueError, match=r"`mask` must have the shape \(n, m\), got \(3,\)"):
        calibration_region(np.ones(3, bool))


def test_arguments(monkeypatch):
    _, _, kspace, _ = scanner()
    with pytest.raises(TypeError, match=r"`kspace` must be complex, got torch\.float64"):
        coil_maps(kspace.real)
    for bad in (kspace[0], kspace[:0], kspace[None]):
        with pytest.raises(ValueError, match=r"`kspace` must have the shape \(C, n, m\)"):
            coil_maps(bad)
    with pytest.raises(ValueError, match="`kspace` must be finite"):
        coil_maps(kspace * np.nan)
    with pytest.raises(ValueError, match="`kspace` must hold measured samples, got zero throughout"):
        coil_maps(0 * kspace)
    for bad in (4.0, "all", (4, True)):
        with pytest.raises(TypeError, match=r"`calibration`(\[1\])? must be an integer"):
            coil_maps(kspace, calibration=bad)
    with pytest.raises(ValueError, match="`calibration` must be 2 integers"):
        coil_maps(kspace, calibration=(4, 4, 4))
    for bad in (0, 33, (32, 29)):
        with pytest.raises(ValueError, match="`calibration` must be between 1 and the size of k-space"):
            coil_maps(kspace, calibration=bad)
    with pytest.raises(
        ValueError, match=r"measured entirely, got 18 x 18, of which .* the largest is \(16, 12\)"
    ):
        coil_maps(kspace, calibration=18)
    with pytest.raises(ValueError, match=r"`calibration` must have at least 4 x 4 entries .* got 2 x 8"):
        coil_maps(kspace, calibration=(2, 8))
    centreless = kspace.copy()
    centreless[:, 16, 14] = 0
    with pytest.raises(ValueError, match=r"`calibration` must have at least 4 x 4 entries .* got 0 x 0"):
        coil_maps(centreless)
    with pytest.raises(ValueError, match="`method` must be one of"):
        coil_maps(kspace, method="sos")
    for bad, error in ((-0.1, ValueError), (1, ValueError), ("no", TypeError)):
        with pytest.raises(error, match="`threshold` must be a number"):
            coil_maps(kspace, threshold=bad)
    monkeypatch.setitem(sys.modules, "sigpy.mri.app", None)
    with pytest.raises(ImportError, match=r"needs sigpy: pip install 'genreg\[mri\]'"):
        coil_maps(kspace, method="espirit")
