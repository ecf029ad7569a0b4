"""The data prox against dense solves in real coordinates, on weighted spaces, in batches, for all shifts."""

import math
import warnings

import numpy as np
import odl
import pytest
import torch
from odl.applications import tomo

from genreg.operators import (
    DataProx,
    blur,
    data_prox,
    fourier_sampling,
    gaussian_measurements,
    mask,
    normalised,
    ray_transform,
    to_torch,
)
from genreg.operators.bridge.spaces import is_stacked, space_shape, torch_dtype, tree_map
from genreg.operators.proximal.closed_forms import (
    ConjugateGradientProx,
    DiagonalProx,
    FourierProx,
    ScaledProx,
    SpectralProx,
    teach_data_prox,
)

from ..samples import BATCHES, random

SHAPE = (6, 5)
KEEP = np.random.default_rng(0).random(SHAPE) < 0.4
FIELD = np.random.default_rng(1).standard_normal(SHAPE)
COILS = np.random.default_rng(4).standard_normal((3, *SHAPE, 2)) @ np.array([1, 1j])
MATRIX = np.random.default_rng(2).standard_normal((8, 30))
SPACES = {
    "rn": lambda dtype: odl.rn(SHAPE, dtype=dtype),
    "weighted": lambda dtype: odl.uniform_discr([0, 0], [3, 10], SHAPE, dtype=dtype),
    "pytorch": lambda dtype: odl.uniform_discr([0, 0], [0.3, 0.1], SHAPE, impl="pytorch", dtype=dtype),
    "array": lambda dtype: odl.rn(SHAPE, dtype=dtype, weighting=np.linspace(0.5, 2, 30).reshape(SHAPE)),
}


def flat_matrix(X, matrix=MATRIX):
    """A matrix on the flattened image, ODL's way."""
    flatten = odl.FlatteningOperator(X)
    return odl.MatrixOperator(matrix.astype(X.dtype_identifier), domain=flatten.range) @ flatten


def vector_matrix(X, rows=8):
    """A matrix on vectors with the weight of X, whose range has another weight."""
    matrix = np.random.default_rng(3).standard_normal((rows, 12)).astype(X.dtype_identifier)
    if np.iscomplexobj(matrix):
        matrix = matrix * (1 + 0.5j)
    return odl.MatrixOperator(
        matrix,
        domain=odl.tensor_space(12, dtype=X.dtype_identifier, weighting=0.3),
        range=odl.tensor_space(rows, dtype=X.dtype_identifier, weighting=2.0),
    )


CASES = {
    "identity": (odl.IdentityOperator, DiagonalProx),
    "scaling": (lambda X: odl.ScalingOperator(X, -0.7), DiagonalProx),
    "zero": (odl.ZeroOperator, DiagonalProx),
    "field": (lambda X: odl.MultiplyOperator(X.element(FIELD)), DiagonalProx),
    "mask": (lambda X: mask(X, KEEP), DiagonalProx),
    "gaussian": (lambda X: gaussian_measurements(X, 7, seed=3), SpectralProx),
    "tall gaussian": (lambda X: gaussian_measurements(X, 41, seed=3), SpectralProx),
    "matrix": (vector_matrix, SpectralProx),
    "tall matrix": (lambda X: vector_matrix(X, 20), SpectralProx),
    "matrix of an axis": (
        lambda X: odl.MatrixOperator(MATRIX[:4, :6].astype(X.dtype_identifier), domain=X, axis=0),
        SpectralProx,
    ),
    "fourier": (lambda X: fourier_sampling(X, KEEP), FourierProx),
    "multiple of fourier": (lambda X: 0.3 * fourier_sampling(X, KEEP), ScaledProx),
    "coils": (lambda X: fourier_sampling(X, KEEP, coils=COILS), ConjugateGradientProx),
    "coils, all frequencies": (lambda X: fourier_sampling(X, KEEP | True, coils=COILS), DiagonalProx),
    "multiple": (lambda X: -3.0 * gaussian_measurements(X, 7, seed=3), ScaledProx),
    "multiple of a multiple": (
        lambda X: odl.OperatorRightScalarMult(2.0 * mask(X, KEEP), 0.3),
        ScaledProx,
    ),
    "multiple of a blur": (lambda X: normalised(blur(X, 0.8, boundary="zero")), ScaledProx),
    "no multiple": (
        lambda X: odl.OperatorLeftScalarMult(gaussian_measurements(X, 7, seed=3), 0),
        DiagonalProx,
    ),
    "blur": (lambda X: blur(X, 0.8, boundary="symmetric"), ConjugateGradientProx),
    "composition": (lambda X: mask(X, KEEP) @ blur(X, 0.8, boundary="reflect"), ConjugateGradientProx),
    "flattened": (flat_matrix, ConjugateGradientProx),
    "stacked": (
        lambda X: odl.BroadcastOperator(odl.IdentityOperator(X), mask(X, KEEP)),
        ConjugateGradientProx,
    ),
}
REAL_CASES = {
    "parts": (lambda X: fourier_sampling(odl.rn((2, *SHAPE), weighting=0.4), KEEP), FourierProx),
    "parts and coils": (
        lambda X: fourier_sampling(odl.rn((2, *SHAPE), weighting=0.4), KEEP, coils=COILS),
        ConjugateGradientProx,
    ),
    "gradient": (odl.Gradient, ConjugateGradientProx),
    "inner product": (lambda X: odl.InnerProductOperator(X.element(FIELD)), ConjugateGradientProx),
    "power space": (
        lambda X: odl.DiagonalOperator(blur(X, 0.8, boundary="zero"), 2),
        ConjugateGradientProx,
    ),
    "to complex": (
        lambda X: odl.MatrixOperator(
            MATRIX[:, :12] + 1j * MATRIX[:, 12:24], domain=odl.rn(12, weighting=0.4), range=odl.cn(8)
        ),
        ConjugateGradientProx,
    ),
}
COMPLEX_CASES = {
    "complex field": (lambda X: odl.MultiplyOperator(X.element(FIELD * (1 - 2j))), DiagonalProx),
    "complex multiple": (lambda X: 2j * gaussian_measurements(X, 7, seed=3), ScaledProx),
    "complex blur": (
        lambda X: blur(X, np.array([[1, 2j], [-1j, 0.5]]), boundary="zero"),
        ConjugateGradientProx,
    ),
    "real part": (odl.RealPart, ConjugateGradientProx),
}
SPACES_OF = {  # of the matrices, which have their own; of what ODL does not do on pytorch spaces
    "matrix": ("rn",),
    "tall matrix": ("rn",),
    "matrix of an axis": ("weighted", "array"),
    "flattened": ("weighted", "array"),
}
EVERY = [
    *[(name, "float64", space) for name in CASES for space in SPACES_OF.get(name, tuple(SPACES)[1:])],
    *[(name, "float64", "weighted") for name in REAL_CASES],
    *[(name, "complex128", "weighted") for name in CASES | COMPLEX_CASES],
]
ALL = CASES | REAL_CASES | COMPLEX_CASES


def coordinates(space, t):
    """Real vectors of a batch, (*batch, n)."""
    if isinstance(t, tuple):
        return torch.cat([coordinates(s, part) for s, part in zip(space.spaces, t, strict=True)], -1)
    shape = space_shape(space)
    t = t.to(torch_dtype(space)).reshape(*t.shape[: t.ndim - len(shape)], math.prod(shape))
    return torch.view_as_real(t.resolve_conj()).flatten(-2) if t.is_complex() else t


def dense(A):
    """The matrix between the real coordinates of samples, which knows no weights."""
    shape, dtype = space_shape(A.domain), torch_dtype(A.domain)
    basis = torch.eye(math.prod(shape), dtype=dtype).reshape(-1, *shape)
    if dtype.is_complex:
        basis = torch.stack([basis, 1j * basis], 1).flatten(0, 1)
    return coordinates(A.range, to_torch(A)(basis)).T.double()


def reference(A, point, y, shift):
    """The prox and the reduced matrix times the point, by dense solves in double precision."""
    M, p = dense(A), coordinates(A.domain, point).double()
    eye = torch.eye(M.shape[1], dtype=torch.float64)
    s = torch.as_tensor(shift, dtype=torch.float64)[..., None]
    N = M.T @ M + s[..., None] * eye
    b = (0 if y is None else coordinates(A.range, y).double() @ M) + s * p
    x = torch.linalg.solve(N, b[..., None])[..., 0]
    return x, s * torch.linalg.solve(N, (p @ M.T @ M)[..., None])[..., 0]


def error(got, expected):
    """The relative error of every sample."""
    return (got - expected).norm(dim=-1) / expected.norm(dim=-1).clamp_min(1e-300)


def relative(got, expected):
    """The largest relative error of a sample."""
    return float(error(got, expected).max())


@pytest.mark.parametrize(("name", "dtype", "space"), EVERY)
def test_equals_the_dense_solve(name, dtype, space):
    make, kind = ALL[name]
    A = make(SPACES[space](dtype))
    prox = data_prox(A, tol=1e-13)
    assert type(prox) is kind and isinstance(prox, DataProx) and prox.operator is A
    point, y = random(A.domain, (2, 3)), random(A.range, (3,), 1)
    shift = torch.tensor([0.02, 1.0, 300.0], dtype=torch.float64)
    prox.check(shift, point, y)
    for data in (y, None):
        x = prox(point, data, shift)
        expected, reduced = reference(A, point, data, shift)
        assert x.shape == point.shape and x.dtype == point.dtype
        assert relative(coordinates(A.domain, x), expected) < 1e-9
    assert relative(coordinates(A.domain, prox.reduced(point, shift)), reduced) < 1e-8
    torch.testing.assert_close(prox(point, 0, shift), prox(point, None, shift), rtol=0, atol=0)


@pytest.mark.parametrize(
    "name", ["mask", "fourier", "gaussian", "matrix of an axis", "multiple", "blur", "stacked"]
)
@pytest.mark.parametrize("batch", [*BATCHES, (2, 4)])
def test_batches_equal_single_calls(name, batch):
    A = ALL[name][0](SPACES["weighted"]("float64"))
    prox = data_prox(A)
    point, y = random(A.domain, batch), random(A.range, batch, 1)
    shift = random(odl.rn(1), batch, 2, positive=True)[..., 0]
    x, Kv = prox(point, y, shift), prox.reduced(point, shift)
    for i in np.ndindex(batch):
        torch.testing.assert_close(x[i], prox(point[i], tree_map(lambda t, i=i: t[i], y), float(shift[i])))
        torch.testing.assert_close(Kv[i], prox.reduced(point[i], shift[i]))


@pytest.mark.parametrize("name", ["mask", "gaussian", "blur"])
def test_leading_axes_broadcast(name):
    A = ALL[name][0](SPACES["weighted"]("float64"))
    prox = data_prox(A)
    point, y, shift = (
        random(A.domain),
        random(A.range, (3,)),
        torch.tensor([[0.5], [2.0]], dtype=torch.float64),
    )
    everywhere = prox(point.expand(2, 3, *SHAPE), y.expand(2, *y.shape), shift.expand(2, 3))
    torch.testing.assert_close(prox(point, y, shift), everywhere)
    torch.testing.assert_close(prox(point, y, shift)[1], prox(point, y, 2.0))
    if name != "blur":  # an FFT of nothing is an error of torch's
        assert prox(point.expand(0, *SHAPE), y[:0], shift[:0, 0]).shape == (0, *SHAPE)


@pytest.mark.parametrize("name", ["mask", "fourier", "gaussian", "blur", "stacked"])
@pytest.mark.parametrize("dtype", ["float64", "complex128"])
def test_is_the_minimiser(name, dtype):
    """Perturbations raise the objective, in Euclidean norms on a weighted space."""
    A = ALL[name][0](SPACES["weighted"](dtype))
    point, y, shift = random(A.domain, (3,)), random(A.range, (3,), 1), 0.3
    x = data_prox(A)(point, y, shift)

    def objective(x):
        r = tree_map(torch.sub, to_torch(A)(x), y)
        r, d = coordinates(A.range, r), coordinates(A.domain, x - point)
        return 0.5 * r.square().sum(-1) + 0.5 * shift * d.square().sum(-1)

    for seed in range(20):
        step = 10.0 ** -(seed % 4) * random(A.domain, (3,), 10 + seed)
        assert (objective(x + step) > objective(x)).all()


@pytest.mark.parametrize(
    "name", ["field", "mask", "fourier", "gaussian", "tall matrix", "multiple", "blur", "gradient"]
)
@pytest.mark.parametrize("relative_shift", [1e-10, 1e-6, 1.0, 1e6, 1e12])
def test_reduced_is_positive_and_without_cancellation(name, relative_shift):
    A = ALL[name][0](SPACES["weighted"]("float64"))
    M = dense(A)
    shift = relative_shift * float(torch.linalg.matrix_norm(M, 2)) ** 2
    n = M.shape[1]
    prox = data_prox(A, tol=1e-12)
    K = coordinates(
        A.domain, prox.reduced(torch.eye(n, dtype=torch.float64).reshape(n, *A.domain.shape), shift)
    )
    values, vectors = torch.linalg.eigh(M.T @ M)
    values = values.clamp_min(0)
    expected = vectors @ torch.diag(values * (shift / (values + shift))) @ vectors.T
    scale = float(torch.linalg.matrix_norm(expected, 2))
    # dense eigenvalues near the shift are themselves known to the rounding of the largest only
    accuracy = max(1e-10, 1e-14 / relative_shift) * scale
    assert float((K - expected).abs().max()) < accuracy
    assert float((K - K.T).abs().max()) < accuracy
    assert float(torch.linalg.eigvalsh(0.5 * (K + K.T)).min()) > -accuracy


SINGLE = {
    "fourier": lambda X: fourier_sampling(X, KEEP),
    "mask": lambda X: mask(X, KEEP),
    "gaussian": lambda X: gaussian_measurements(X, 7, seed=3),
    "tall gaussian": lambda X: gaussian_measurements(X, 41, seed=3),
    "blur": lambda X: blur(X, 0.5, boundary="symmetric"),
}


@pytest.mark.parametrize("make", SINGLE.values(), ids=SINGLE)
@pytest.mark.parametrize("space", ["weighted", "complex"])
@pytest.mark.parametrize("shift", [1e-3, 1.0, 1e6, 1e10])
def test_single_precision(make, space, shift):
    """Corrections and reduced products keep their relative precision at shifts far above ||A||²."""
    single, double = ("complex64", "complex128") if space == "complex" else ("float32", "float64")
    A, exact = make(SPACES["weighted"](single)), data_prox(make(SPACES["weighted"](double)), tol=1e-13)
    prox = data_prox(A)
    point, y = random(A.domain, (3,)), random(A.range, (3,), 1)
    wide = getattr(torch, double)
    data = y.to(torch_dtype(exact.operator.range))
    x, correction = prox(point, y, shift), exact(point.to(wide), data, shift) - point.to(wide)
    assert x.dtype == getattr(torch, single)
    expected = coordinates(A.domain, point.to(wide) + correction)
    assert relative(coordinates(A.domain, x), expected) < 1e-5
    Kv = exact.reduced(point.to(wide), shift)
    assert relative(coordinates(A.domain, prox.reduced(point, shift)), coordinates(A.domain, Kv)) < 1e-5


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_ray_transform(dtype):
    X = odl.uniform_discr([-1, -1], [1, 1], (16, 16), dtype=dtype)
    A = ray_transform(X, tomo.parallel_beam_geometry(X, 6), cache=False)
    assert A.range.weighting.const != A.domain.weighting.const != 1
    prox, shift = data_prox(A), torch.tensor([1e-3, 0.1, 10.0, 1e6], dtype=torch.float64)
    point, y = random(X, (2, 4)), random(A.range, (4,), 1)
    prox.check(shift, point, y)
    x, Kv = prox(point, y, shift), prox.reduced(point, shift)
    assert prox.last_residual.shape == (2, 4) and (prox.last_residual <= prox.tol).all()
    expected, reduced = reference(A, point, y, shift)
    # the theory: relative errors are at most the condition of A^T A + shift times the relative residual
    norm = float(torch.linalg.matrix_norm(dense(A), 2))
    rounding = 4 * torch.finfo(torch_dtype(X)).eps
    accuracy = rounding + prox.tol * (norm**2 + shift) / shift
    assert (error(coordinates(X, Kv), reduced) < accuracy).all()
    assert (error(coordinates(X, x), expected) < rounding + accuracy).all()


def test_one_factorisation_for_all_shifts(monkeypatch):
    calls = []
    for name in ("svd", "eigh"):
        fn = getattr(torch.linalg, name)
        monkeypatch.setattr(torch.linalg, name, lambda *a, fn=fn, **k: calls.append(fn) or fn(*a, **k))
    for dtype in ("float32", "float64"):
        calls.clear()
        A = gaussian_measurements(SPACES["weighted"](dtype), 7, seed=0)
        prox = data_prox(A)
        for shift in (0.1, 1.0, torch.tensor([3.0, 4.0])):
            prox.check(shift)
            prox(random(A.domain, (2,)), random(A.range, (2,)), shift)
            prox.reduced(random(A.domain, (5, 2)), shift)
        assert len(calls) == 1


def test_small_shifts_project_onto_the_solutions():
    """Without rank deficiency in the data, the limit of vanishing shifts is reached, also in single precision."""
    for dtype, accuracy in (("float32", 1e-5), ("float64", 1e-12)):
        X = SPACES["weighted"](dtype)
        for A in (gaussian_measurements(X, 7, seed=0), mask(X, KEEP), odl.Gradient(X)):
            point, x_true, M = random(X, (3,)), random(X, (3,), 1), dense(A)
            prox = data_prox(A, tol=1e-13)
            prox.check(1e-14, point)
            x = prox(point, to_torch(A)(x_true), 1e-14)
            p, q = coordinates(X, point).double(), coordinates(X, x_true).double()
            expected = p + (q - p) @ (torch.linalg.pinv(M) @ M).T
            assert relative(coordinates(X, x), expected) < accuracy


@pytest.mark.parametrize(("dtype", "accuracy"), [("float32", 1e-5), ("float64", 1e-13), ("complex64", 1e-5)])
def test_small_shifts_with_frequencies_measured_twice(dtype, accuracy):
    """A real image satisfies its data exactly, and keeps the frequencies that are not measured."""
    A = fourier_sampling(SPACES["weighted"](dtype), KEEP)
    whole = to_torch(fourier_sampling(A.domain, KEEP | True))
    point, x_true, prox = random(A.domain, (3,)), random(A.domain, (3,), 1), data_prox(A)
    prox.check(1e-30, point)
    x, T = prox(point, to_torch(A)(x_true), 1e-30), to_torch(A)
    torch.testing.assert_close(T(x), T(x_true), rtol=0, atol=accuracy)
    rows, columns = np.nonzero(KEEP)
    measured = KEEP.copy()
    if not x.is_complex():
        measured[-rows % 6, (4 - columns) % 5] = True  # the negatives, about the centre [3, 2]
    unknown = torch.from_numpy(~measured.ravel())
    torch.testing.assert_close(whole(x)[:, unknown], whole(point)[:, unknown], rtol=0, atol=accuracy)


def test_repeated_rows_count_once():
    """Singular values that are zero to rounding don't amplify it."""
    matrix = np.random.default_rng(0).standard_normal((4, 9))
    for dtype, accuracy in (("float32", 1e-5), ("float64", 1e-12)):
        A = odl.MatrixOperator(np.concatenate([matrix, matrix]).astype(dtype), domain=odl.rn(9, dtype=dtype))
        prox = data_prox(A)
        assert len(prox.singular_values) == 4
        point, y = random(A.domain, (3,)), random(A.range, (3,), 1)
        expected, _ = reference(A, point, y, 1e-4)
        assert relative(prox(point, y, 1e-4).double(), expected) < (1e-4 if dtype == "float32" else 1e-9)
        prox.check(1e-30)
        limit = point.double() + (y.double() - point.double() @ dense(A).T) @ torch.linalg.pinv(dense(A)).T
        assert relative(prox(point, y, 1e-30).double(), limit) < accuracy


def count_applications(prox):
    calls, forward = [], prox._forward
    prox._forward = lambda t: calls.append(1) or forward(t)
    return calls


def test_a_warm_start_saves_iterations():
    A = blur(SPACES["weighted"]("float64"), 1.0, boundary="symmetric")
    prox = data_prox(A)
    point, y = random(A.domain, (4,)), random(A.range, (4,), 1)
    calls = count_applications(prox)
    cold = prox(point, y, 0.01)
    first = len(calls)
    again = prox(point, y, 0.01, start=cold)
    assert len(calls) - first == 2  # A p, and the residual, which is small enough
    torch.testing.assert_close(again, cold, rtol=0, atol=1e-14)
    nearby = prox(point + 1e-4 * random(A.domain, (4,), 2), y, 0.01, start=cold)
    assert len(calls) - first - 2 < first
    torch.testing.assert_close(nearby, cold, rtol=0, atol=1e-2)
    wild = prox(point, y, 0.01, start=1e3 * random(A.domain, (4,), 3))
    torch.testing.assert_close(wild, cold, rtol=0, atol=1e-6)


def test_where_nothing_is_to_correct():
    """Data that the point explains exactly leave it where it is, whatever the start."""
    A = odl.MatrixOperator(np.ones((2, 3))) @ odl.ScalingOperator(odl.rn(3), 2.0)
    point, start = torch.zeros(2, 3, dtype=torch.float64), torch.ones(2, 3, dtype=torch.float64)
    prox = data_prox(A)
    assert isinstance(prox, ConjugateGradientProx)
    torch.testing.assert_close(prox(point, None, 1.0, start=start), point, rtol=0, atol=0)
    assert prox.last_residual.tolist() == [0, 0]


def test_a_spoilt_sample_leaves_the_others_alone():
    A = blur(SPACES["weighted"]("float64"), 1.0, boundary="symmetric")
    prox = data_prox(A)
    point, y = random(A.domain, (3,)), random(A.range, (3,), 1)
    expected = prox(point, y, 0.1)
    point[1, 0, 0] = math.nan
    x = prox(point, y, 0.1)
    torch.testing.assert_close(x[[0, 2]], expected[[0, 2]], rtol=0, atol=1e-9)
    assert x[1].isnan().any() and prox.last_residual[1].isnan()


def test_warns_when_iterations_do_not_suffice():
    A = 2.0 * blur(SPACES["weighted"]("float64"), 1.0, boundary="symmetric")
    prox = data_prox(A, max_iter=3)
    point, y = random(A.domain, (3,)), random(A.range, (3,), 1)
    shift = torch.tensor([1e-4, 1e9, 1e-4], dtype=torch.float64)
    with pytest.warns(
        RuntimeWarning, match=r"relative residual of .* > tol = 1.0e-10 for 2 of 3 .*max_iter` \(3\)"
    ):
        x = prox(point, y, shift)
    residual = prox.last_residual
    assert residual[1] <= 1e-10 and (residual[[0, 2]] > 1e-10).all()
    M = dense(A)
    b = (coordinates(A.range, y) - coordinates(A.domain, point) @ M.T) @ M
    c = coordinates(A.domain, x - point)
    got = (b - c @ M.T @ M - shift[:, None] * c).norm(dim=1) / b.norm(dim=1)
    torch.testing.assert_close(residual[[0, 2]], got[[0, 2]], rtol=1e-6, atol=0)
    with warnings.catch_warnings():  # it warns once; the attribute is set by every solve
        warnings.simplefilter("error")
        prox(point, y, shift)


def test_a_registered_class():
    class Reversal(odl.Operator):
        """Reversal of vectors, whose data prox is known."""

        def __init__(self, space):
            super().__init__(space, space, linear=True)

        def _call(self, x):
            return self.range.element(x.data[::-1].copy())

        @property
        def adjoint(self):
            return self

    A = Reversal(odl.rn(4))
    point, y = random(A.domain, (2,)), random(A.range, (2,), 1)
    expected = (y.flip(-1) + 0.5 * point) / 1.5
    with pytest.warns(UserWarning, match="Reversal has no native lowering"):
        prox = data_prox(A)
    assert isinstance(prox, ConjugateGradientProx)
    torch.testing.assert_close(prox(point, y, 0.5), expected)
    teach_data_prox.register(Reversal, lambda A, *, tol, max_iter: DiagonalProx(A))
    prox = data_prox(A)
    assert isinstance(prox, DiagonalProx)
    torch.testing.assert_close(prox(point, y, 0.5), expected)


def test_records_nothing_for_differentiation():
    A = gaussian_measurements(odl.rn(5), 3, seed=0)
    point = random(A.domain, (2,)).requires_grad_()
    prox = data_prox(A)
    assert not prox(point, None, 1.0).requires_grad and not prox.reduced(point, 1.0).requires_grad


def test_errors_of_operators():
    X = odl.rn(5)
    with pytest.raises(TypeError, match="`A` must be an ODL operator, got Tensor"):
        data_prox(torch.eye(5))
    for A in (odl.PowerOperator(X, 2), 0.0 * odl.PowerOperator(X, 2)):
        with pytest.raises(ValueError, match="`A` must be linear with an adjoint, got the nonlinear"):
            data_prox(A)
    with pytest.raises(TypeError, match=r"`A` must act on a tensor space .* got ProductSpace"):
        data_prox(odl.ReductionOperator(odl.IdentityOperator(X), odl.MatrixOperator(np.ones((5, 3)))))
    with pytest.raises(ValueError, match="`tol` must be a number between 0 and 1, got -1"):
        data_prox(odl.IdentityOperator(X), tol=-1)
    with pytest.raises(ValueError, match="`max_iter` must be a positive integer, got 0"):
        data_prox(odl.IdentityOperator(X), max_iter=0)


def test_an_operator_without_adjoint():
    class OneWay(odl.Operator):
        """A linear operator whose adjoint nobody wrote."""

        def __init__(self):
            super().__init__(odl.rn(3), odl.rn(3), linear=True)

        def _call(self, x):
            return 2 * x

    with (
        pytest.warns(UserWarning, match="no native lowering"),
        pytest.raises(NotImplementedError, match=r"`A` must be linear with an adjoint, got .*OneWay"),
    ):
        data_prox(OneWay())


def test_errors_of_arguments():
    A = gaussian_measurements(SPACES["weighted"]("float64"), 7, seed=0)
    prox = data_prox(A)
    point, y = random(A.domain, (3,)), random(A.range, (3,))
    for shift in (0.0, -1.0, math.inf, math.nan, torch.tensor([1.0, 0.0, 1.0])):
        with pytest.raises(ValueError, match=r"`shift` \(sigma\^2 beta\) must be positive and finite"):
            prox.check(shift)
    for shift in ("1", None, True, torch.tensor(1j), torch.tensor(True)):
        with pytest.raises(TypeError, match="`shift` must be"):
            prox.check(shift)
    with pytest.raises(ValueError, match=r"`point` must have shape \(\*batch, \*\(6, 5\)\), got \(3, 30\)"):
        prox.check(1.0, point.flatten(1))
    with pytest.raises(ValueError, match=r"`y` must have shape \(\*batch, \*\(7,\)\), got \(3, 6\)"):
        prox.check(1.0, point, y[:, :6])
    with pytest.raises(TypeError, match="`y` must be a torch tensor, got an ODL element"):
        prox.check(1.0, point, A.range.zero())
    with pytest.raises(
        ValueError, match=r"leading axes .* must fit each other, got \[\(2,\), \(3,\), \(3,\)\]"
    ):
        prox.check(torch.ones(2), point, y)


@pytest.mark.parametrize(
    ("make", "shift", "least"),
    [
        (lambda: mask(SPACES["rn"]("float32"), KEEP), 1e-39, "1.18e-38"),
        (lambda: odl.IdentityOperator(odl.rn(3)), 1e-310, "2.23e-308"),
        (lambda: 10.0 * mask(SPACES["rn"]("float32"), KEEP), 1e-37, "1.18e-36"),
        (lambda: odl.MatrixOperator(np.diag([2.0, 1e-6, 0]).astype("float32")), 1e-13, "4.77e-07"),
        (lambda: 10.0 * odl.MatrixOperator(np.diag([2.0, 1e-6, 0]).astype("float32")), 1e-11, "4.77e-05"),
        (lambda: blur(odl.rn((8, 8), dtype="float32"), 2.0, boundary="symmetric"), 1e-9, "1.19e-07"),
    ],
    ids=["mask", "identity", "scaled mask", "matrix", "scaled matrix", "blur"],
)
def test_singular_steps_are_refused(make, shift, least):
    prox = data_prox(make())
    with pytest.raises(
        ValueError, match=rf"`shift` .* at least {least}, or the step is singular in .* got {shift:.3g}"
    ):
        prox.check(torch.tensor([1.0, shift], dtype=torch.float64))
    prox.check(2 * float(least))


def test_every_case_is_covered():
    assert {name for name, _, _ in EVERY} == set(ALL)
    assert not is_stacked(ALL["stacked"][0](SPACES["rn"]("float64")).range)
