import copy
import pickle

import numpy as np
import odl
import pytest
import scipy.ndimage
import torch

import genreg.operators
from genreg.operators import blur, gaussian_measurements, mask, normalised, operator_norm, to_tensor, to_torch

from ..samples import element, random

SPACES = {
    "rn": lambda **options: odl.rn((6, 5), **options),
    "weighted": lambda **options: odl.uniform_discr([0, 0], [0.03, 0.05], (6, 5), **options),
    "pytorch": lambda **options: odl.uniform_discr([0, 0], [3, 5], (6, 5), impl="pytorch", **options),
    "complex": lambda **options: odl.uniform_discr([0, 0], [3, 5], (6, 5), dtype="complex128"),
}
KEEP = np.random.default_rng(0).random((6, 5)) < 0.4
OPERATORS = {
    "periodic": lambda space: blur(space, 0.8, boundary="periodic"),
    "symmetric": lambda space: blur(space, (0.8, 2.0), boundary="symmetric"),
    "reflect": lambda space: blur(space, np.arange(12.0).reshape(4, 3), boundary="reflect"),
    "zero": lambda space: blur(space, torch.arange(6.0).reshape(3, 2), boundary="zero"),
    "gaussian": lambda space: gaussian_measurements(space, 7, seed=3),
    "mask": lambda space: mask(space, KEEP),
}
MODES = {"periodic": "wrap", "symmetric": "reflect", "reflect": "mirror", "zero": "constant"}


@pytest.mark.parametrize("make", OPERATORS.values(), ids=OPERATORS)
@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
def test_adjoint_is_exact(make, space):
    A = make(space())
    x, y = element(A.domain), element(A.range, 1)
    left, right = A(x).inner(y), x.inner(A.adjoint(y))
    assert abs(left - right) < 1e-12 * A(x).norm() * y.norm()
    assert A.is_linear and A.adjoint.adjoint is A
    out = A.range.zero()
    A(x, out=out)
    torch.testing.assert_close(to_tensor(out), to_tensor(A(x)))


@pytest.mark.parametrize("batch", [(), (1,), (7,), (2, 3)])
@pytest.mark.parametrize("make", OPERATORS.values(), ids=OPERATORS)
@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
def test_batches_equal_single_calls(make, space, batch):
    A = make(space())
    T = to_torch(A)
    x, y = (
        torch.stack([to_tensor(element(s, k)) for k in range(int(np.prod(batch)))]).reshape(*batch, *s.shape)
        for s in (A.domain, A.range)
    )
    Tx, Ty = T(x), T.adjoint(y)
    assert Tx.shape == (*batch, *A.range.shape) and Ty.shape == (*batch, *A.domain.shape)
    assert Tx.dtype == x.dtype

    def wrap(space, t):
        return space.element(t if space.impl == "pytorch" else t.numpy())

    for index in np.ndindex(batch):
        torch.testing.assert_close(Tx[index], to_tensor(A(wrap(A.domain, x[index]))))
        torch.testing.assert_close(Ty[index], to_tensor(A.adjoint(wrap(A.range, y[index]))))
    torch.testing.assert_close(to_torch(A.adjoint)(y), Ty)


@pytest.mark.parametrize("make", OPERATORS.values(), ids=OPERATORS)
def test_derivatives_and_transforms(make):
    A = make(SPACES["weighted"]())
    T = to_torch(A)
    ratio = A.range.weighting.const / A.domain.weighting.const
    x = random(A.domain, (2,)).requires_grad_()
    y = random(A.range, (2,)).requires_grad_()
    assert torch.autograd.gradcheck(T, x, check_forward_ad=True, fast_mode=True)
    assert torch.autograd.gradcheck(T.adjoint, y, check_forward_ad=True, fast_mode=True)
    assert torch.autograd.gradgradcheck(lambda x: (T(x) ** 2).sum(), x, fast_mode=True)
    torch.testing.assert_close(torch.func.vmap(T)(x), T(x))
    torch.testing.assert_close(torch.func.vmap(T.adjoint)(y), T.adjoint(y))
    _, vjp = torch.func.vjp(T, x)
    torch.testing.assert_close(ratio * vjp(y)[0], T.adjoint(y))


@pytest.mark.parametrize("make", OPERATORS.values(), ids=OPERATORS)
def test_single_precision_and_copies(make):
    double, single = (make(SPACES["weighted"](dtype=dtype)) for dtype in ("float64", "float32"))
    x = element(double.domain)
    values = single(single.domain.element(x.data.astype("float32"))).data
    assert values.dtype == np.float32
    np.testing.assert_allclose(values, double(x).data, atol=1e-4)
    for B in (pickle.loads(pickle.dumps(double)), copy.deepcopy(double)):
        np.testing.assert_array_equal(B.adjoint(B(x)).data, double.adjoint(double(x)).data)


@pytest.mark.parametrize("boundary", MODES)
@pytest.mark.parametrize("shape", [(7,), (6, 9), (4, 5, 3), (1, 4)])
@pytest.mark.parametrize("size", ["one", "odd", "even", "large"])
def test_blur_equals_scipy(boundary, shape, size):
    sizes = {"one": 1, "odd": 3, "even": 4, "large": 19}[size]
    rng = np.random.default_rng(1)
    kernel, image = rng.standard_normal((sizes,) * len(shape)), rng.standard_normal(shape)
    A = blur(odl.rn(shape), kernel, boundary=boundary)
    expected = scipy.ndimage.convolve(image, kernel, mode=MODES[boundary])
    np.testing.assert_allclose(A(A.domain.element(image)).data, expected, atol=1e-12 * kernel.size)
    np.testing.assert_array_equal(A.kernel, kernel)
    assert A.boundary == boundary


@pytest.mark.parametrize("boundary", MODES)
def test_gaussian_blur(boundary):
    space = odl.uniform_discr([0, 0], [1, 1], (20, 23))
    image = np.random.default_rng(2).random(space.shape)
    A = blur(space, (1.3, 0.7), boundary=boundary)
    # SciPy cuts off at four standard deviations too, rounding to the nearest pixel
    expected = scipy.ndimage.gaussian_filter(image, (1.3, 0.7), mode=MODES[boundary], radius=(6, 3))
    np.testing.assert_allclose(A(space.element(image)).data, expected, atol=1e-12)
    assert A.kernel.shape == (13, 7) and A.kernel.sum() == pytest.approx(1)
    if boundary in ("periodic", "symmetric"):
        np.testing.assert_allclose(A(space.one()).data, 1, atol=1e-12)
    narrow = blur(space, 1e-3, boundary=boundary)
    np.testing.assert_allclose(narrow(space.element(image)).data, image, atol=1e-12)


def test_complex_kernel():
    space = odl.cn(8)
    kernel = np.array([1.0, 2j, -1])
    A = blur(space, kernel, boundary="zero")
    x = element(space)
    np.testing.assert_allclose(A(x).data, np.convolve(x.data, kernel, "same"), atol=1e-12)
    y = element(space, 1)
    assert abs(A(x).inner(y) - x.inner(A.adjoint(y))) < 1e-12


def test_blur_arguments():
    space = odl.rn((6, 5))
    with pytest.raises(TypeError, match="`space` must be a tensor space of floating type"):
        blur(odl.rn(3) ** 2, 1.0, boundary="zero")
    with pytest.raises(TypeError, match="`space` must be a tensor space of floating type"):
        blur(odl.tensor_space((6, 5), dtype="int32"), 1.0, boundary="zero")
    for boundary in ("mirror", None, 3):
        with pytest.raises(ValueError, match="`boundary` must be one of"):
            blur(space, 1.0, boundary=boundary)
    for std in (0, -1.0, float("nan"), float("inf"), (1.0, -1.0), 1j):
        with pytest.raises(ValueError, match="standard deviation of a blur, must be positive and finite"):
            blur(space, std, boundary="zero")
    for kernel in (np.ones(3), np.ones((3, 3, 3)), np.ones((0, 3)), [1.0, 1.0, 1.0]):
        with pytest.raises(ValueError, match="kernel of a blur, must have 2 axes"):
            blur(space, kernel, boundary="zero")
    with pytest.raises(ValueError, match="kernel of a blur, must be finite"):
        blur(space, np.array([[1.0, np.nan]]), boundary="zero")
    with pytest.raises(ValueError, match="kernel of a blur, must be real on a real space"):
        blur(space, np.array([[1.0, 1j]]), boundary="zero")
    with pytest.raises(
        ValueError, match=r"`kernel_or_std` must be smaller, got 1000000.0: that takes at least"
    ):
        blur(space, 1e6, boundary="zero")
    for value, error in (("wide", TypeError), (None, TypeError), ([[1.0], [1.0, 2.0]], ValueError)):
        with pytest.raises(error, match="`kernel_or_std` must be an"):
            blur(space, value, boundary="zero")


def test_gaussian_measurements():
    space = odl.uniform_discr([0, 0], [1, 1], (20, 30))
    A = gaussian_measurements(space, 100, seed=5)
    matrix = A.matrix
    assert A.range == odl.rn(100) and matrix.shape == (100, 600) and matrix.dtype == torch.float64
    assert float(matrix.mean()) == pytest.approx(0, abs=5 / np.sqrt(100 * 60000))
    assert 100 * float(matrix.var()) == pytest.approx(1, abs=0.03)
    x = element(space)
    np.testing.assert_allclose(A(x).data, matrix.numpy() @ x.data.ravel(), atol=1e-12)
    assert gaussian_measurements(space, 100, seed=5).matrix.equal(matrix)
    assert not gaussian_measurements(space, 100, seed=6).matrix.equal(matrix)
    generator = torch.Generator().manual_seed(5)
    assert gaussian_measurements(space, 100, seed=generator).matrix.equal(matrix)
    assert not gaussian_measurements(space, 100, seed=generator).matrix.equal(matrix)
    for options in ({"impl": "pytorch"}, {"dtype": "float32"}, {"dtype": "complex64", "impl": "pytorch"}):
        B = gaussian_measurements(odl.uniform_discr([0, 0], [1, 1], (20, 30), **options), 100, seed=5)
        torch.testing.assert_close(B.matrix, matrix.to(B.matrix.dtype), rtol=0, atol=0)
        assert (B.range.impl, B.range.dtype_identifier) == (B.domain.impl, B.domain.dtype_identifier)
    with pytest.raises(TypeError, match=r"`m` must be an integer, got 3\.0"):
        gaussian_measurements(space, 3.0, seed=0)
    for m in (0, -2):
        with pytest.raises(ValueError, match=f"`m` must be a positive integer, got {m}"):
            gaussian_measurements(space, m, seed=0)
    for seed in (None, True, 1.5):
        with pytest.raises(TypeError, match=r"`seed` must be an integer or a torch\.Generator"):
            gaussian_measurements(space, 3, seed=seed)
    with pytest.raises(ValueError, match="`seed` must be a non-negative integer, got -1"):
        gaussian_measurements(space, 3, seed=-1)
    with pytest.raises(TypeError, match="`space` must be a tensor space"):
        gaussian_measurements((20, 30), 3, seed=0)


@pytest.mark.parametrize(
    "keep",
    [KEEP, torch.from_numpy(KEEP), KEEP.tolist()]
    + [KEEP.astype(t) for t in ("int8", "uint16", "int64", "float32", ">f8", "complex64")]
    + [torch.from_numpy(KEEP).to(t) for t in (torch.uint8, torch.float16, torch.int32)],
    ids=lambda keep: f"{type(keep).__name__}-{getattr(keep, 'dtype', '')}",
)
def test_mask(keep):
    space = SPACES["weighted"]()
    A = mask(space, keep)
    x = element(space)
    assert A.range == odl.rn(int(KEEP.sum())) and A.keep.equal(torch.from_numpy(KEEP))
    np.testing.assert_array_equal(A(x).data, x.data[KEEP])
    np.testing.assert_array_equal(A.fill(A(x)).data, np.where(KEEP, x.data, 0))
    np.testing.assert_allclose(A.adjoint(A(x)).data * space.cell_volume, np.where(KEEP, x.data, 0))
    before = x.data.copy()
    full = mask(space, np.ones(space.shape, bool))
    full(x).data[:] = 0  # data never share memory with the image
    np.testing.assert_array_equal(x.data, before)


def test_mask_from_an_element_and_bad_arguments():
    space = odl.rn((6, 5))
    keep = odl.tensor_space((6, 5), dtype="bool").element(KEEP)
    assert mask(space, keep).keep.equal(torch.from_numpy(KEEP))
    for bad in ("all", None, {0: True}, [object()], torch.ones(6, 5, device="meta")):
        with pytest.raises(TypeError, match=r"`keep` must (be|hold)"):
            mask(space, bad)
    for bad in (2 * KEEP, np.where(KEEP, np.nan, 0), torch.full((6, 5), -1.0)):
        with pytest.raises(ValueError, match="`keep` must be boolean, or hold zeros and ones only"):
            mask(space, bad)
    columns = np.array([1, 0, 0, 1, 1], dtype=np.uint8)
    for one in (columns, columns[None], torch.from_numpy(columns), columns.tolist()):
        assert mask(space, one).keep.equal(torch.from_numpy(np.tile(columns == 1, (6, 1))))
    with pytest.raises(ValueError, match=r"`keep` must have the shape \(6, 5\) of the space, got \(5, 6\)"):
        mask(space, KEEP.T)
    with pytest.raises(ValueError, match="`keep` must be True somewhere"):
        mask(space, np.zeros((6, 5), bool))
    with pytest.raises(TypeError, match="`space` must be a tensor space"):
        mask(None, KEEP)


def dense(A):
    """The matrix of samples, from the lowered operator."""
    T = to_torch(A)
    shape = A.domain.shape
    rows = T(torch.eye(A.domain.size, dtype=to_tensor(A.domain.zero()).dtype).reshape(-1, *shape))
    return rows.reshape(len(rows), -1).T


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
@pytest.mark.parametrize("make", OPERATORS.values(), ids=OPERATORS)
def test_normalised(make, space):
    A = make(space())
    B = normalised(A)
    norm = float(torch.linalg.matrix_norm(dense(A), 2))
    assert B.norm_estimate == pytest.approx(norm, rel=1e-8)
    assert B.domain == A.domain and B.range == A.range
    x = element(A.domain)
    torch.testing.assert_close(norm * to_tensor(B(x)), to_tensor(A(x)))
    torch.testing.assert_close(norm * to_torch(B)(to_tensor(x)), to_tensor(A(x)))


def test_normalised_product_spaces():
    space = odl.uniform_discr([0, 0], [1, 1], (6, 5))
    gradient = odl.Gradient(space)
    norm = float(torch.linalg.matrix_norm(dense(gradient), 2))
    assert normalised(gradient).norm_estimate == pytest.approx(norm, rel=1e-8)
    both = odl.BroadcastOperator(gradient, 2 * odl.IdentityOperator(space))
    assert normalised(both).norm_estimate == pytest.approx(np.hypot(norm, 2), rel=1e-8)
    both = odl.ReductionOperator(odl.IdentityOperator(space), odl.Divergence(range=space))
    assert normalised(both.adjoint).norm_estimate == pytest.approx(np.hypot(norm, 1), rel=1e-8)
    single = odl.Gradient(odl.uniform_discr([0, 0], [1, 1], (6, 5), dtype="float32"))
    assert normalised(single).norm_estimate == pytest.approx(norm, rel=1e-5)


def test_normalised_arguments():
    space = odl.rn(5)
    A = gaussian_measurements(space, 3, seed=0)
    assert normalised(A, seed=1).norm_estimate == pytest.approx(normalised(A).norm_estimate, rel=1e-10)
    assert normalised(A, seed=1).norm_estimate == normalised(A, seed=1).norm_estimate
    with pytest.raises(TypeError, match="`A` must be an ODL operator, got ndarray"):
        normalised(np.eye(3))
    with pytest.raises(ValueError, match="`A` must be linear"):
        normalised(odl.functionals.L2NormSquared(space))
    with pytest.raises(ValueError, match="`A` must not be zero"):
        normalised(odl.ZeroOperator(space))
    with pytest.raises(ValueError, match="`A` must have finite values"):
        normalised(float("nan") * A)
    with pytest.raises(TypeError, match="`seed` must be an integer"):
        normalised(A, seed="x")


def test_unfinished_iteration_warns():
    A = genreg.operators.gaussian_measurements(odl.rn(200), 150, seed=0)
    with pytest.warns(RuntimeWarning, match="known to a relative error of"):
        operator_norm(A, max_iter=3)


def test_norm_between_weighted_spaces():
    X, Y = odl.uniform_discr(0, 6, 12), odl.uniform_discr(0, 2, 12)  # weights 1/2 and 1/6
    D = odl.Gradient(odl.uniform_discr([0, 0], [1, 2], (7, 5)), pad_mode="symmetric")
    matrix = odl.matrix_representation(D).reshape(2 * 35, 35)
    # both weights are the cell volume
    assert operator_norm(D) == pytest.approx(np.linalg.norm(matrix, 2), rel=1e-7)
    scale = odl.MultiplyOperator(Y.element(np.linspace(1, 3, 12)), domain=X, range=Y)
    assert operator_norm(scale) == pytest.approx(3 * np.sqrt(1 / 3), rel=1e-7)
    assert operator_norm(scale, weighted=False) == pytest.approx(3, rel=1e-7)
