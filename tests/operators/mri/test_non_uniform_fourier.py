import copy
import pickle
import sys

import numpy as np
import odl
import pytest
import scipy.optimize
import torch

from genreg.operators import (
    data_prox,
    density_compensation,
    derivative_test,
    dot_test,
    fourier_sampling,
    golden_angle_trajectory,
    nufft,
    radial_trajectory,
    to_torch,
)

from ..samples import random

pytest.importorskip("finufft")

SHAPE = (6, 5)
RNG = np.random.default_rng(0)
TRAJECTORY = RNG.uniform(-0.5, 0.5, (4, 3, 2))
DENSITY = RNG.uniform(0.3, 2, (4, 3))
COILS = RNG.standard_normal((3, *SHAPE)) + 1j * RNG.standard_normal((3, *SHAPE))
SPACES = {
    "real": lambda single: odl.uniform_discr(
        [0, 0], [0.03, 0.05], SHAPE, dtype="float32" if single else "float64"
    ),
    "complex": lambda single: odl.uniform_discr(
        [0, 0], [3, 5], SHAPE, dtype="complex64" if single else "complex128", impl="pytorch"
    ),
    "parts": lambda single: odl.rn((2, *SHAPE), dtype="float32" if single else "float64", weighting=0.3),
}
OPTIONS = {"one coil": {}, "coils": {"coils": COILS}, "density": {"density": DENSITY, "coils": COILS}}

every_space = pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
every_option = pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)


def make(space, options, single=False, eps=None):
    return nufft(space(single), TRAJECTORY, eps=eps or (1e-6 if single else 1e-10), **options)


def matrix(trajectory, shape):
    """The sums, written out."""
    rows, columns = np.indices(shape) - np.array(shape).reshape(2, 1, 1) // 2
    points = trajectory.reshape(-1, 2)
    phase = np.multiply.outer(points[:, 0], rows.ravel()) + np.multiply.outer(points[:, 1], columns.ravel())
    return np.exp(-2j * np.pi * phase) / np.sqrt(rows.size)


@every_option
@every_space
def test_adjoint_is_exact(space, options):
    for eps in (1e-3, 1e-10):  # whatever the accuracy of the sums
        assert dot_test(make(space, options, eps=eps), rtol=1e-12) < 1e-12
    assert dot_test(make(space, options, single=True), rtol=1e-6) < 1e-6


@pytest.mark.parametrize(("shape", "samples"), [((6, 5), (40,)), ((7, 4), (5, 3)), ((16, 16), (30, 2))])
@pytest.mark.parametrize(("dtype", "eps"), [("complex128", 1e-12), ("complex128", 1e-4), ("complex64", 1e-5)])
def test_equals_the_dense_sums(shape, samples, dtype, eps):
    trajectory = np.random.default_rng(1).uniform(-0.5, 0.5, (*samples, 2))
    A = nufft(odl.cn(shape, dtype=dtype), trajectory, eps=eps)
    assert A.range == odl.cn(samples, dtype=dtype)
    M, x, y = matrix(trajectory, shape), random(A.domain), random(A.range, seed=1)
    tolerance = 10 * eps
    expected = (M @ x.numpy().ravel()).reshape(samples)
    assert np.linalg.norm(A(x.numpy().astype(dtype)).data - expected) < tolerance * np.linalg.norm(expected)
    expected = (M.conj().T @ y.numpy().ravel()).reshape(shape)
    assert np.linalg.norm(A.adjoint(y.numpy().astype(dtype)).data - expected) < tolerance * np.linalg.norm(
        expected
    )


def test_on_the_grid_it_is_fourier_sampling():
    keep = np.random.default_rng(2).random(SHAPE) < 0.5
    frequencies = (np.argwhere(keep) - np.array(SHAPE) // 2) / np.array(SHAPE)
    for space in (SPACES["real"](False), SPACES["parts"](False)):
        A, B = nufft(space, frequencies, coils=COILS, eps=1e-13), fourier_sampling(space, keep, coils=COILS)
        assert A.range == B.range
        x, y = random(A.domain, (2,)), random(A.range, (2,), 1)
        torch.testing.assert_close(to_torch(A)(x), to_torch(B)(x), rtol=0, atol=1e-11)
        torch.testing.assert_close(to_torch(A).adjoint(y), to_torch(B).adjoint(y), rtol=0, atol=1e-8)


@pytest.mark.parametrize("batch", [(), (1,), (7,), (2, 3), (0,)])
@every_option
@every_space
def test_batches_equal_single_calls(space, options, batch):
    A = make(space, options)
    T, x, y = to_torch(A), random(A.domain, batch), random(A.range, batch, 1)
    Tx, Ty = T(x), T.adjoint(y)
    assert Tx.shape == (*batch, *A.range.shape) and Ty.shape == (*batch, *A.domain.shape)
    for index in np.ndindex(batch):
        one = A.domain.element(x[index] if A.domain.impl == "pytorch" else x[index].numpy())
        back = A.range.element(y[index] if A.domain.impl == "pytorch" else y[index].numpy())
        torch.testing.assert_close(Tx[index], torch.as_tensor(A(one).data))
        torch.testing.assert_close(Ty[index], torch.as_tensor(A.adjoint(back).data))


@every_option
@every_space
def test_lowered_derivatives(space, options):
    A = make(space, options)
    derivative_test(A)
    T, x, y = to_torch(A), random(A.domain, (2,)).requires_grad_(), random(A.range, (2,), 1).requires_grad_()
    assert torch.autograd.gradcheck(T, x, fast_mode=True, check_forward_ad=True)
    assert torch.autograd.gradcheck(T.adjoint, y, fast_mode=True, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(lambda x: T(x).abs().square().sum(), x, fast_mode=True)
    torch.testing.assert_close(torch.func.vmap(T)(x), T(x))
    density = torch.from_numpy(options.get("density", np.ones((4, 3))))
    (g,) = torch.autograd.grad((density * (T(x) * y.conj()).real).sum(), x)
    torch.testing.assert_close(g / A.domain.weighting.const, T.adjoint(y).detach())


def test_data_prox_and_copies():
    A = make(SPACES["parts"], OPTIONS["coils"])
    x, y = random(A.domain), random(A.range, seed=1)
    u = data_prox(A)(x, y, 0.5)
    residual = A.transpose(A.forward(u) - y) + 0.5 * (u - x)
    assert float(residual.norm()) < 1e-8 * float(u.norm())
    for B in (pickle.loads(pickle.dumps(A)), copy.deepcopy(A)):
        torch.testing.assert_close(B.forward(x), A.forward(x), rtol=0, atol=0)
    assert A.trajectory.shape == (4, 3, 2)


def test_trajectories():
    radial = radial_trajectory(4, 8, offset=0.1)
    assert radial.shape == (4, 8, 2)
    angles = 0.1 + np.pi / 4 * np.arange(4)
    np.testing.assert_allclose(radial[:, 6], 0.25 * np.stack([np.cos(angles), np.sin(angles)], -1))
    np.testing.assert_array_equal(radial[:, 4], 0)
    np.testing.assert_allclose(np.linalg.norm(radial[:, 0], axis=-1), 0.5)
    golden = golden_angle_trajectory(3, 5)
    turns = np.arctan2(golden[:, 4, 1], golden[:, 4, 0]) % np.pi
    np.testing.assert_allclose(np.rad2deg(turns), np.array([0, 111.246118, 222.492236]) % 180, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(golden[1], axis=-1), [0.4, 0.2, 0, 0.2, 0.4])
    for make in (radial_trajectory, golden_angle_trajectory):
        for bad in (3.0, True, None):
            with pytest.raises(TypeError, match="`spokes` must be an integer"):
                make(bad, 8)
        with pytest.raises(TypeError, match="`samples` must be an integer"):
            make(3, "8")
        for bad in ((0, 8), (3, -1)):
            with pytest.raises(
                ValueError, match=r"`(spokes|samples)` must be a positive integer, got (0|-1)"
            ):
                make(*bad)
        with pytest.raises(ValueError, match="`offset` must be finite"):
            make(3, 8, offset=np.inf)


def test_density_compensation():
    grid = (np.indices(SHAPE).reshape(2, -1).T - np.array(SHAPE) // 2) / np.array(SHAPE)
    np.testing.assert_allclose(density_compensation(grid, SHAPE, eps=1e-12), 1, atol=1e-10)
    trajectory = radial_trajectory(20, 16)
    d = density_compensation(trajectory, (8, 8), iterations=100, eps=1e-12)
    assert d.shape == (20, 16) and (d > 0).all()
    M = matrix(trajectory, (8, 8))
    # |M^H diag(d) M - 1|^2 = d K d - 2 sum(d) + const, whose minimiser need not be unique
    K = np.abs(M @ M.conj().T) ** 2
    values, vectors = np.linalg.eigh(K)
    keep = values > 1e-10 * values.max()
    half = (vectors[:, keep] * np.sqrt(values[keep])).T
    best, _ = scipy.optimize.nnls(half, vectors[:, keep].sum(0) / np.sqrt(values[keep]))

    def misfit(d):
        return np.linalg.norm(M.conj().T @ (d.reshape(-1, 1) * M) - np.eye(64))

    uniform = np.full(d.shape, d.size / K.sum())
    assert misfit(best) <= misfit(d) < 1.01 * misfit(best) < 0.6 * misfit(uniform)
    A = nufft(odl.uniform_discr([0, 0], [2, 2], (8, 8), dtype="complex128"), trajectory, density=d)
    x = np.exp(-0.3 * ((np.indices((8, 8)) - 4) ** 2).sum(0)) + 0j
    image = A.gridded(A(x))
    assert np.linalg.norm(image.data - x) < 0.02 * np.linalg.norm(x)
    np.testing.assert_allclose(image.data, A.domain.cell_volume * A.adjoint(A(x)).data, atol=1e-12)
    plain = nufft(A.domain, trajectory, eps=1e-10)
    y = plain(x).data
    np.testing.assert_allclose(plain.gridded(y).data.ravel(), M.conj().T @ y.ravel(), atol=1e-6)
    for bad, error in ((0, ValueError), (2.0, TypeError), (True, TypeError)):
        with pytest.raises(error, match="`iterations` must be"):
            density_compensation(grid, SHAPE, iterations=bad)
    with pytest.raises(TypeError, match="`shape` must be 2 integers"):
        density_compensation(grid, 6)


def test_arguments():
    space = SPACES["real"](False)
    with pytest.raises(ValueError, match=r"`space` must hold images \(n, m\)"):
        nufft(odl.rn(5), TRAJECTORY)
    for bad in (
        TRAJECTORY + 0j,
        torch.zeros(3, 2, dtype=torch.bool),
        torch.zeros(3, 2, dtype=torch.complex64),
        "x",
    ):
        with pytest.raises(TypeError, match=r"`trajectory` must (be|hold)"):
            nufft(space, bad)
    for bad in (TRAJECTORY[..., :1], TRAJECTORY[:0], np.zeros(2)):
        with pytest.raises(ValueError, match=r"`trajectory` must have the shape \(\*samples, 2\)"):
            nufft(space, bad)
    with pytest.raises(ValueError, match="`trajectory` must be finite"):
        nufft(space, TRAJECTORY * np.nan)
    for scale, found in ((2 * np.pi, 3), (64, 32)):
        message = rf"`trajectory` must lie in k-space, \[-1/2, 1/2\] cycles per pixel .* got frequencies up to {found}"
        with pytest.raises(ValueError, match=message):
            nufft(space, scale * np.array([[0.5, 0.2], [0.1, -0.3]]))
    nufft(space, np.array([[0.5, -0.5]]).astype("float32"))
    with pytest.raises(TypeError, match="`coils` must be complex sensitivity maps"):
        nufft(space, TRAJECTORY, coils=COILS.real)
    with pytest.raises(ValueError, match=r"`coils` must have the shape \(C, 6, 5\)"):
        nufft(space, TRAJECTORY, coils=COILS[:, :4])
    with pytest.raises(TypeError, match="`density` must be real"):
        nufft(space, TRAJECTORY, density=DENSITY + 0j)
    with pytest.raises(
        ValueError, match=r"`density` must have the shape \(4, 3\) of the samples, got \(12,\)"
    ):
        nufft(space, TRAJECTORY, density=torch.from_numpy(DENSITY.ravel()))
    for bad in (0 * DENSITY, -DENSITY, DENSITY * np.inf):
        with pytest.raises(ValueError, match="`density` must be positive and finite"):
            nufft(space, TRAJECTORY, density=bad)
    for bad in (0, 1.0, 1e-17, np.float32(np.nan)):
        with pytest.raises(ValueError, match=r"`eps` must be a number between 4\.44e-16 and 0\.1"):
            nufft(space, TRAJECTORY, eps=bad)
    for bad in ("fine", True):
        with pytest.raises(TypeError, match=r"`eps` must be a number, got"):
            nufft(space, TRAJECTORY, eps=bad)
    nufft(space, TRAJECTORY, eps=np.float32(1e-3))
    with pytest.raises(ValueError, match=r"`eps` must be a number between 2\.38e-07"):
        nufft(SPACES["real"](True), TRAJECTORY, eps=1e-8)


def test_without_finufft(monkeypatch):
    monkeypatch.setitem(sys.modules, "finufft", None)
    with pytest.raises(ImportError, match=r"need finufft: pip install 'genreg\[mri\]'"):
        nufft(SPACES["real"](False), TRAJECTORY)


@pytest.mark.parametrize("over", [5e-8, 2.0**-11, 9e-4])
def test_frequencies_beyond_the_end_by_rounding_are_those_at_the_other_end(over):
    """Of single and half precision, and of tables: 1/2 + d and -1/2 + d are the same to all pixels."""
    space = odl.cn((6, 7), dtype="complex128")
    x = torch.from_numpy(np.random.default_rng(5).standard_normal((6, 7)) + 0j)
    given = np.array([[0.5 + over, 0.2], [-0.5 - over, 0.5 + over], [0.1, -0.5 - over], [0.5, -0.5]])
    A = nufft(space, given, eps=1e-12)
    p, q = np.meshgrid(np.arange(6) - 3, np.arange(7) - 3, indexing="ij")
    phases = np.exp(-2j * np.pi * (given[:, 0, None, None] * p + given[:, 1, None, None] * q))
    np.testing.assert_allclose(to_torch(A)(x), (phases * x.numpy()).sum((1, 2)) / 42**0.5, atol=1e-9)
    assert float(A.trajectory.abs().max()) == 0.5


@pytest.mark.parametrize("scale", [1.0021, 2 * np.pi, 64])
def test_what_is_not_rounding_is_refused(scale):
    with pytest.raises(ValueError, match="divide radians per pixel by 2 pi, indices of a grid by its size"):
        nufft(odl.cn((6, 7)), scale * np.array([[0.5, 0.2], [-0.1, 0.3]]))
