import copy
import pickle

import numpy as np
import odl
import pytest
import torch

from genreg.operators import (
    cartesian_mask,
    derivative_test,
    dot_test,
    fourier_sampling,
    radial_mask,
    to_element,
    to_tensor,
    to_torch,
)
from genreg.operators.mri.fourier import centred_fft2
from genreg.operators.testing import gaussian

from ..samples import random

SHAPE = (6, 5)
SPACES = {
    "real": lambda **o: odl.rn(SHAPE, **o),
    "weighted real": lambda **o: odl.uniform_discr([0, 0], [0.03, 0.05], SHAPE, **o),
    "complex": lambda dtype="float64", **o: odl.cn(SHAPE, dtype=complex_of(dtype), **o),
    "weighted complex": lambda dtype="float64": odl.uniform_discr(
        [0, 0], [3, 5], SHAPE, dtype=complex_of(dtype), impl="pytorch"
    ),
    "parts": lambda **o: odl.rn((2, *SHAPE), **o),
    "weighted parts": lambda **o: odl.uniform_discr([0, 0, 0], [2, 3, 7], (2, *SHAPE), **o),
}
RNG = np.random.default_rng(0)
KEEP = RNG.random(SHAPE) < 0.5
COILS = {
    "one coil": lambda shape: None,
    "coils": lambda shape: RNG.standard_normal((3, *shape)) + 1j * RNG.standard_normal((3, *shape)),
}


def complex_of(dtype):
    return {"float64": "complex128", "float32": "complex64"}[dtype]


def make(space, coils="one coil"):
    return fourier_sampling(space, KEEP, coils=COILS[coils](SHAPE))


def centred_dft(shape):
    """The matrix of the centred orthonormal transform of images, pixel by pixel."""
    lines = []
    for n in shape:
        p = np.arange(n) - n // 2
        lines.append(np.exp(-2j * np.pi * np.outer(p, p) / n) / np.sqrt(n))
    return np.kron(*lines)


every_space = pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
every_coil = pytest.mark.parametrize("coils", COILS)


@every_coil
@every_space
def test_adjoint_is_exact(space, coils):
    A = make(space(), coils)
    assert dot_test(A, rtol=1e-12) < 1e-12
    assert dot_test(make(space(dtype="float32"), coils), rtol=1e-6) < 1e-6
    assert A.is_linear and A.adjoint.adjoint is A


@every_coil
@every_space
def test_lowered_derivatives(space, coils):
    A = make(space(), coils)
    T, ndim = to_torch(A), len(A.domain.shape)
    derivative_test(A)
    x, y = random(A.domain, (2,)).requires_grad_(), random(A.range, (2,), 1).requires_grad_()
    assert torch.autograd.gradcheck(T, x, check_forward_ad=True, fast_mode=True)
    assert torch.autograd.gradcheck(T.adjoint, y, check_forward_ad=True, fast_mode=True)
    torch.testing.assert_close(torch.func.vmap(T)(x), T(x))
    torch.testing.assert_close(torch.func.vmap(T.adjoint)(y), T.adjoint(y))
    # autograd's gradient of Re <T x, y> is the adjoint times the weight
    weight = A.domain.weighting.const
    (g,) = torch.autograd.grad((T(x) * y.conj()).real.sum(), x)
    torch.testing.assert_close(g / weight, T.adjoint(y).detach())
    assert g.shape == (2, *A.domain.shape[-ndim:])


@pytest.mark.parametrize("batch", [(), (1,), (7,), (2, 3)])
@every_coil
@every_space
def test_batches_equal_single_calls(space, coils, batch):
    A = make(space(), coils)
    T, x, y = to_torch(A), random(A.domain, batch), random(A.range, batch, 1)
    Tx, Ty = T(x), T.adjoint(y)
    assert Tx.shape == (*batch, *A.range.shape) and Ty.shape == (*batch, *A.domain.shape)
    assert Ty.dtype == x.dtype and Tx.dtype == y.dtype
    for index in np.ndindex(batch):
        torch.testing.assert_close(Tx[index], to_tensor(A(to_element(A.domain, x[index]))))
        torch.testing.assert_close(Ty[index], to_tensor(A.adjoint(to_element(A.range, y[index]))))


@pytest.mark.parametrize("shape", [(6, 5), (4, 8), (7, 3), (1, 4)])
@pytest.mark.parametrize("dtype", ["complex128", "complex64"])
def test_equals_the_dense_transform(shape, dtype):
    keep = np.random.default_rng(1).random(shape) < 0.6
    A = fourier_sampling(odl.cn(shape, dtype=dtype), keep)
    x = random(A.domain).numpy()
    expected = (centred_dft(shape) @ x.ravel()).reshape(shape)
    tolerance = 1e-12 if dtype == "complex128" else 1e-5
    np.testing.assert_allclose(A(x).data, expected[keep], atol=tolerance)
    shifted = np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(x), norm="ortho"))
    np.testing.assert_allclose(A(x).data, shifted[keep], atol=tolerance)
    assert A.range == odl.cn(int(keep.sum()), dtype=dtype)
    whole = centred_fft2(torch.from_numpy(x))
    np.testing.assert_allclose(whole, expected, atol=tolerance)
    np.testing.assert_allclose(centred_fft2(whole, inverse=True), x, atol=tolerance)


def test_kinds_of_images_agree():
    maps = COILS["coils"](SHAPE)
    A = fourier_sampling(SPACES["complex"](), KEEP, coils=maps)
    x = random(A.domain).numpy()
    y = A(x).data
    dense = np.concatenate([(centred_dft(SHAPE) * s.ravel())[KEEP.ravel()] for s in maps])
    np.testing.assert_allclose(y.ravel(), dense @ x.ravel(), atol=1e-12)
    parts = fourier_sampling(SPACES["parts"](), KEEP, coils=torch.from_numpy(maps))
    np.testing.assert_allclose(parts(np.stack([x.real, x.imag])).data, y, atol=1e-12)
    np.testing.assert_allclose(parts.adjoint(y).data[0], A.adjoint(y).data.real, atol=1e-12)
    np.testing.assert_allclose(parts.adjoint(y).data[1], A.adjoint(y).data.imag, atol=1e-12)
    real = fourier_sampling(SPACES["real"](), KEEP, coils=maps)
    np.testing.assert_allclose(real(x.real).data, A(x.real + 0j).data, atol=1e-12)
    np.testing.assert_allclose(real.adjoint(y).data, A.adjoint(y).data.real, atol=1e-12)


def test_whole_sampling_is_unitary_and_data_come_from_k_space():
    full = np.ones(SHAPE, dtype=bool)
    A = fourier_sampling(SPACES["weighted complex"](), full)
    x = gaussian(A.domain, torch.Generator().manual_seed(0))
    torch.testing.assert_close(to_tensor(A.zero_filled(A(x))), to_tensor(x))
    B = fourier_sampling(SPACES["complex"](), KEEP)
    kspace = centred_dft(SHAPE) @ random(B.domain).numpy().ravel()
    torch.testing.assert_close(B.samples(kspace.reshape(SHAPE)), to_torch(B)(random(B.domain)))
    image = B.zero_filled(B.samples(kspace.reshape(SHAPE)).numpy())
    np.testing.assert_allclose(
        (centred_dft(SHAPE) @ image.data.ravel()).reshape(SHAPE),
        np.where(KEEP, kspace.reshape(SHAPE), 0),
        atol=1e-12,
    )
    C = make(odl.rn(SHAPE, dtype="float32"), "coils")
    y = C.samples(torch.randn(4, 3, *SHAPE, dtype=torch.complex128))
    assert y.shape == (4, *C.range.shape) and y.dtype == torch.complex64
    assert C.keep.equal(torch.from_numpy(KEEP))


@every_coil
def test_copies(coils):
    A = make(SPACES["weighted real"](), coils)
    x = gaussian(A.domain, torch.Generator().manual_seed(0))
    for B in (pickle.loads(pickle.dumps(A)), copy.deepcopy(A)):
        np.testing.assert_array_equal(B.adjoint(B(x)).data, A.adjoint(A(x)).data)


def test_arguments():
    space = odl.rn(SHAPE)
    with pytest.raises(TypeError, match="`space` must be a tensor space of floating type"):
        fourier_sampling(SHAPE, KEEP)
    for bad in (odl.rn(5), odl.rn((3, *SHAPE)), odl.cn((2, *SHAPE)), odl.rn((2, 2, *SHAPE))):
        with pytest.raises(ValueError, match=r"`space` must hold images \(n, m\)"):
            fourier_sampling(bad, KEEP)
    for bad in (None, "all", torch.ones(SHAPE, device="meta")):
        with pytest.raises(TypeError, match=r"`mask` must (be|hold)"):
            fourier_sampling(space, bad)
    with pytest.raises(ValueError, match="`mask` must be boolean, or hold zeros and ones only"):
        fourier_sampling(space, 0.5 * KEEP)
    assert fourier_sampling(space, KEEP.astype(float)).keep.equal(torch.from_numpy(KEEP))
    columns = [0, 1, 1, 0, 1]
    assert fourier_sampling(space, columns).keep.equal(torch.tensor(columns, dtype=torch.bool).expand(SHAPE))
    with pytest.raises(ValueError, match=r"`mask` must have the shape \(6, 5\) of the space, got \(5, 6\)"):
        fourier_sampling(space, KEEP.T)
    with pytest.raises(ValueError, match="`mask` must be True somewhere"):
        fourier_sampling(space, np.zeros(SHAPE, bool))
    maps = COILS["coils"](SHAPE)
    with pytest.raises(TypeError, match=r"`coils` must be complex .* maps, got torch\.float64"):
        fourier_sampling(space, KEEP, coils=maps.real)
    for bad in (maps[0], maps[:, :5], maps[:0], maps[None]):
        with pytest.raises(ValueError, match=r"`coils` must have the shape \(C, 6, 5\), got"):
            fourier_sampling(space, KEEP, coils=bad)
    with pytest.raises(ValueError, match="`coils` must be finite"):
        fourier_sampling(space, KEEP, coils=maps * np.nan)
    with pytest.raises(ValueError, match="`coils` must not be zero throughout"):
        fourier_sampling(space, KEEP, coils=0 * maps)
    A = fourier_sampling(space, KEEP, coils=maps)
    with pytest.raises(TypeError, match=r"`kspace` must be complex, got torch\.float64"):
        A.samples(maps.real)
    for bad in (maps[:2], maps[0]):
        with pytest.raises(ValueError, match=r"`kspace` must have the shape \(\*batch, \*\(3, 6, 5\)\)"):
            A.samples(bad)


def test_radial_mask():
    mask = radial_mask((8, 8), 2)
    expected = np.zeros((8, 8), dtype=bool)
    expected[4], expected[:, 4] = True, True
    np.testing.assert_array_equal(mask, expected)
    np.testing.assert_array_equal(radial_mask((8, 8), 1, offset=np.pi / 4), np.eye(8, dtype=bool))
    # the diagonal in units of frequency is the diagonal of any grid
    diagonal = radial_mask((16, 8), 1, offset=np.pi / 4)
    assert diagonal.sum() == 16 and diagonal[0, 0] and diagonal[8, 4] and diagonal[14, 7]
    odd = radial_mask((31, 17), 7, offset=0.3)
    np.testing.assert_array_equal(odd, odd[::-1, ::-1])  # lines through the centre
    fractions = [radial_mask((128, 128), spokes).mean() for spokes in (10, 20, 40, 80)]
    assert fractions == sorted(fractions) and fractions[0] == pytest.approx(10 * 127 / 128**2, rel=0.05)
    for bad in (8, (8, 8.0), (True, 8)):
        with pytest.raises(TypeError, match=r"`shape`(\[.\])? must be (2 integers|an integer)"):
            radial_mask(bad, 3)
    with pytest.raises(ValueError, match=r"`shape` must be 2 integers, got \(8,\)"):
        radial_mask((8,), 3)
    with pytest.raises(ValueError, match=r"`shape`\[1\] must be a positive integer, got 0"):
        radial_mask((8, 0), 3)
    with pytest.raises(TypeError, match="`spokes` must be an integer"):
        radial_mask((8, 8), 3.0)
    with pytest.raises(ValueError, match="`spokes` must be a positive integer, got 0"):
        radial_mask((8, 8), 0)
    with pytest.raises(ValueError, match="`offset` must be finite"):
        radial_mask((8, 8), 3, offset=np.nan)


@pytest.mark.parametrize("density", ["variable", "equispaced", "uniform"])
@pytest.mark.parametrize(
    ("m", "acceleration", "centre"), [(128, 4, 0.08), (101, 3.3, 0.1), (64, 1, 0.5), (32, 4, 0)]
)
def test_cartesian_mask(m, acceleration, centre, density):
    mask = cartesian_mask((7, m), acceleration, centre=centre, density=density, seed=3)
    columns = mask[0]
    assert mask.shape == (7, m) and mask.dtype == bool and (mask == columns).all()
    assert columns.sum() == round(m / acceleration)
    inner = round(centre * m)
    assert columns[m // 2 - inner // 2 :][:inner].all()
    again = cartesian_mask((7, m), acceleration, centre=centre, density=density, seed=3)
    np.testing.assert_array_equal(mask, again)
    if density == "equispaced" and acceleration > 1:
        gaps = np.diff(np.flatnonzero(columns[: m // 2 - inner // 2]))
        assert gaps.max() - gaps.min() <= 1


def test_densities_of_cartesian_masks():
    """Over many seeds, the frequencies are measured as often as the density says."""
    near, far = slice(70, 86), slice(112, 128)
    counts = {
        density: sum(
            cartesian_mask((1, 128), 4, density=density, seed=s)[0].astype(float) for s in range(200)
        )
        for density in ("variable", "uniform", "equispaced")
    }
    share = 22 / 118  # 32 columns, 10 of them central
    for density in ("uniform", "equispaced"):
        assert counts[density][near].mean() / 200 == pytest.approx(share, abs=0.04)
        assert counts[density][far].mean() / 200 == pytest.approx(share, abs=0.04)
    assert counts["variable"][near].mean() / 200 == pytest.approx(0.4, abs=0.1)
    assert counts["variable"][far].mean() / 200 < 0.04


def test_cartesian_mask_arguments():
    for bad in ("4", None, True):
        with pytest.raises(TypeError, match="`acceleration` must be a number"):
            cartesian_mask((8, 8), bad, seed=0)
    for bad in (0.5, np.nan, np.inf, -3):
        with pytest.raises(ValueError, match="`acceleration` must be at least 1 and finite"):
            cartesian_mask((8, 8), bad, seed=0)
    with pytest.raises(ValueError, match="`acceleration` must leave a column of 8 to measure, got 20"):
        cartesian_mask((8, 8), 20, centre=0, seed=0)
    with pytest.raises(TypeError, match="`centre` must be a number"):
        cartesian_mask((8, 8), 2, centre=None, seed=0)
    for bad in (-0.1, 1.1, np.nan):
        with pytest.raises(ValueError, match="`centre` must be a number between 0 and 1"):
            cartesian_mask((8, 8), 2, centre=bad, seed=0)
    with pytest.raises(ValueError, match=r"`centre` must take at most the 2 of 8 columns .* got 4 columns"):
        cartesian_mask((8, 8), 4, centre=0.5, seed=0)
    with pytest.raises(ValueError, match="`density` must be one of"):
        cartesian_mask((8, 8), 2, density="random", seed=0)
    with pytest.raises(TypeError, match="`seed` must be an integer"):
        cartesian_mask((8, 8), 2, seed="a")
