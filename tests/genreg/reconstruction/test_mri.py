"""Reconstruction from samples of k-space, Cartesian and not, by the front door."""

import numpy as np
import odl
import pytest
import torch

import genreg
from genreg.operators import density_compensation, fourier_sampling, nufft, radial_trajectory, to_torch

SHAPE = (8, 7)
RNG = np.random.default_rng(0)
KEEP = RNG.random(SHAPE) < 0.6
COILS = RNG.standard_normal((3, *SHAPE)) + 1j * RNG.standard_normal((3, *SHAPE))
SPACES = {
    "real": lambda: odl.uniform_discr([0, 0], [2, 3], SHAPE),
    "complex": lambda: odl.uniform_discr([0, 0], [2, 3], SHAPE, dtype="complex128"),
    "parts": lambda: odl.rn((2, *SHAPE)),
}


def data(A, noise_std, count=3):
    random = torch.Generator().manual_seed(0)
    dtype = torch.complex128 if "complex" in A.domain.dtype_identifier else torch.float64
    x = torch.randn(count, *A.domain.shape, dtype=dtype, generator=random)
    clean = to_torch(A)(x)
    noise = torch.randn(2, *clean.shape, dtype=torch.float64, generator=random)
    return x, clean + noise_std * torch.complex(*noise)


@pytest.mark.parametrize("coils", [None, COILS], ids=["one coil", "coils"])
@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
def test_tikhonov_is_the_dense_solution(space, coils):
    """The normal equations in the inner product of the images, whichever way these are stored."""
    A, sigma, lam = fourier_sampling(space(), KEEP, coils=coils), 0.1, 0.7
    _, y = data(A, sigma)
    rec = genreg.reconstruct(
        A, y, genreg.Tikhonov(A.domain), noise_std=sigma, lam=lam, tol=1e-10, progress=False
    )
    w = A.domain.weighting.const
    gradient = A.transpose(A.forward(rec.image) - y) / sigma**2 + 2 * lam * w * rec.image
    assert float(gradient.norm()) < 1e-6 * float((A.transpose(y) / sigma**2).norm())


def test_morozov_counts_real_and_imaginary_parts():
    A, sigma = fourier_sampling(SPACES["complex"](), KEEP, coils=COILS), 0.05
    x, y = data(A, sigma, count=400)
    fidelity = genreg.GaussianFidelity(A, y, sigma)
    count = y[0].numel()
    assert fidelity.level[0] == pytest.approx(2 * count * sigma**2)
    assert float(fidelity.discrepancy(x).mean()) == pytest.approx(float(fidelity.level[0]), rel=0.02)
    rec = genreg.reconstruct(
        A, y[:2], genreg.Tikhonov(A.domain), noise_std=sigma, lam="morozov", progress=False
    )
    np.testing.assert_allclose(rec.residual, 2 * count * sigma**2, rtol=0.05)


def test_the_density_of_samples_changes_no_minimiser():
    pytest.importorskip("finufft")
    trajectory = radial_trajectory(9, 16)
    density = density_compensation(trajectory, SHAPE)
    X = odl.uniform_discr([0, 0], [8, 7], SHAPE, dtype="complex128")
    images = []
    for weights in (None, density):
        A = nufft(X, trajectory, density=weights, eps=1e-10)
        _, y = data(A, 0.5, count=1)
        tv = genreg.reconstruct(
            A, y, genreg.TotalVariation(X), noise_std=0.5, lam=1.0, max_iter=150, tol=1e-7, progress=False
        )
        images.append(tv.image)
    torch.testing.assert_close(*images, rtol=0, atol=1e-3)
    assert float(images[0].abs().max()) > 0.5
