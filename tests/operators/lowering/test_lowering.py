"""Lowered operators against ODL itself: values, adjoints, derivatives, on batches of distinct samples."""

import math

import numpy as np
import odl
import pytest
import scipy.sparse
import torch

from genreg.operators import to_tensor, to_torch
from genreg.operators.bridge.spaces import space_shape, torch_dtype, tree_map
from genreg.operators.bridge.weights import riesz, weight

from ..samples import BATCHES, assert_equal_samples, element, random, samples

X = odl.uniform_discr([0, 0], [0.2, 0.3], (4, 5))  # cell volume 0.003
XT = odl.uniform_discr([0, 0], [0.2, 0.3], (4, 5), impl="pytorch")
CX = odl.uniform_discr([0, 0], [20, 30], (4, 5), dtype="complex128")  # cell volume 30
LONG = odl.uniform_discr([0, 0], [3, 5], (13, 14))
R6, R3, C6 = odl.rn(6), odl.rn(3, weighting=0.3), odl.cn(6)
W6 = odl.rn(6, weighting=[0.5, 1, 2, 3, 1.5, 0.1])
P = odl.ProductSpace(X, R3)
CP = odl.ProductSpace(CX, C6)
WP = odl.ProductSpace(X, 3, weighting=[0.5, 2.0, 1.5])
MATRIX = np.random.default_rng(0).standard_normal((3, 6))
CMATRIX = MATRIX + 1j * MATRIX[::-1]

# ODL warns about arrays of two or three entries, which are tested on purpose.
pytestmark = pytest.mark.filterwarnings("ignore:Very short array:UserWarning")


def inner(space, a, b):
    """Weighted inner product of tensors, summed over the batch as well."""
    w = weight(space)
    if isinstance(a, tuple):
        return sum((v * p * q.conj()).sum() for v, p, q in zip(w, a, b, strict=True))
    return (w * a * b.conj()).sum()


def differences():
    """Every differential operator with every method and boundary treatment."""
    modes = "constant symmetric symmetric_adjoint periodic order0 order0_adjoint".split()
    high = "order1 order1_adjoint order2 order2_adjoint".split()
    for space, name in ((X, "short"), (LONG, "long")):
        for mode in modes + high:
            for method in ("forward", "backward", "central"):
                keywords = {"method": method, "pad_mode": mode}
                label = f"{name}-{mode}-{method}"
                yield f"Gradient-{label}", lambda s=space, k=keywords: odl.Gradient(s, **k)
                if name == "long":
                    yield f"Divergence-{label}", lambda s=space, k=keywords: odl.Divergence(range=s, **k)
            if mode in modes:
                yield f"Laplacian-{name}-{mode}", lambda s=space, m=mode: odl.Laplacian(s, pad_mode=m)
    yield "Gradient-complex", lambda: odl.Gradient(CX, pad_mode="symmetric")
    yield "Gradient-pytorch", lambda: odl.Gradient(XT, pad_mode="symmetric")
    yield "Gradient-1d", lambda: odl.Gradient(odl.uniform_discr(0, 3, 15), pad_mode="order0")
    yield "Gradient-3d", lambda: odl.Gradient(odl.uniform_discr([0] * 3, [1, 2, 3], (3, 4, 13)))
    yield "PartialDerivative", lambda: odl.PartialDerivative(LONG, 0, method="central", pad_mode="symmetric")
    yield "PartialDerivative-last", lambda: odl.PartialDerivative(LONG, 1, pad_mode="periodic")
    yield "scaled-Gradient", lambda: -0.7 * odl.Gradient(LONG, pad_mode="symmetric")
    yield "Gradient-adjoint-Gradient", lambda: odl.Gradient(X).adjoint * odl.Gradient(X)


LINEAR = {
    "Identity": lambda: odl.IdentityOperator(X),
    "Identity-product": lambda: odl.IdentityOperator(P),
    "Scaling": lambda: odl.ScalingOperator(X, -2.5),
    "Scaling-complex": lambda: odl.ScalingOperator(C6, 1 - 2j),
    "Scaling-product": lambda: odl.ScalingOperator(P, 3.0),
    "Zero": lambda: odl.ZeroOperator(X),
    "Zero-elsewhere": lambda: odl.ZeroOperator(X, P),
    "Zero-complex": lambda: odl.ZeroOperator(CX),
    "Zero-complex-elsewhere": lambda: odl.ZeroOperator(CX, CP),
    "Zero-from-product": lambda: odl.ZeroOperator(P, R6),
    "Multiply": lambda: odl.MultiplyOperator(element(X)),
    "Multiply-complex": lambda: odl.MultiplyOperator(element(CX)),
    "Multiply-product": lambda: odl.MultiplyOperator(element(P)),
    "Multiply-power": lambda: odl.MultiplyOperator(element(X**2)),
    "Multiply-number": lambda: odl.MultiplyOperator(-1.5, domain=X, range=X),
    "Multiply-field": lambda: odl.MultiplyOperator(element(X), X.field),
    "InnerProduct": lambda: odl.InnerProductOperator(element(X)),
    "InnerProduct-array-weight": lambda: odl.InnerProductOperator(element(W6)),
    "InnerProduct-complex": lambda: odl.InnerProductOperator(element(CX)),
    "Matrix": lambda: odl.MatrixOperator(MATRIX),
    "Matrix-weighted": lambda: odl.MatrixOperator(MATRIX, odl.rn(6, weighting=0.2)),
    "Matrix-complex": lambda: odl.MatrixOperator(CMATRIX),
    "Matrix-axis-0": lambda: odl.MatrixOperator(MATRIX[:, :4], domain=odl.rn((4, 5)), axis=0),
    "Matrix-axis-1": lambda: odl.MatrixOperator(MATRIX[:, :5], domain=odl.rn((4, 5)), axis=1),
    "Matrix-scipy": lambda: odl.MatrixOperator(scipy.sparse.coo_matrix(MATRIX)),
    "Matrix-scipy-complex": lambda: odl.MatrixOperator(scipy.sparse.coo_matrix(CMATRIX)),
    "Matrix-torch": lambda: odl.MatrixOperator(torch.from_numpy(MATRIX)),
    "Matrix-torch-sparse": lambda: odl.MatrixOperator(torch.from_numpy(MATRIX).to_sparse_coo()),
    "Flattening": lambda: odl.FlatteningOperator(X),
    "Flattening-adjoint": lambda: odl.FlatteningOperator(X).adjoint,
    "Flattening-inverse": lambda: odl.FlatteningOperator(X).inverse,
    "Sampling": lambda: odl.SamplingOperator(X, [[0, 1, 1, 3], [2, 2, 2, 0]]),
    "Sampling-integrate": lambda: odl.SamplingOperator(X, [[0, 3], [2, 0]], variant="integrate"),
    "WeightedSumSampling": lambda: odl.WeightedSumSamplingOperator(X, [[0, 1, 1], [2, 2, 2]]),
    "WeightedSumSampling-dirac": lambda: odl.WeightedSumSamplingOperator(X, [[0], [2]], variant="dirac"),
    "PointwiseInner": lambda: odl.PointwiseInner(X**2, element(X**2)),
    "PointwiseInner-complex": lambda: odl.PointwiseInner(CX**2, element(CX**2)),
    "PointwiseInner-weighted": lambda: odl.PointwiseInner(X**2, element(X**2), weighting=[1.0, 3.0]),
    "PointwiseInner-adjoint": lambda: odl.PointwiseInner(X**3, element(X**3)).adjoint,
    "PointwiseSum": lambda: odl.PointwiseSum(X**2),
    "RealPart-real": lambda: odl.RealPart(X),
    "sum": lambda: odl.Laplacian(X) + odl.MultiplyOperator(element(X)),
    "sum-product": lambda: odl.IdentityOperator(P) + odl.MultiplyOperator(element(P)),
    "difference": lambda: odl.Laplacian(X) - 2.0 * odl.IdentityOperator(X),
    "composition": lambda: odl.Gradient(X) * odl.Laplacian(X),
    "left-scalar": lambda: (1 + 2j) * odl.MultiplyOperator(element(C6)),
    "right-scalar": lambda: odl.OperatorRightScalarMult(odl.Laplacian(X), 3.0),
    "left-vector": lambda: element(X) @ odl.Laplacian(X),
    "left-vector-complex": lambda: element(CX) @ odl.Laplacian(CX),
    "right-vector": lambda: odl.OperatorRightVectorMult(odl.Laplacian(X), element(X)),
    "functional-times-vector": lambda: odl.FunctionalLeftVectorMult(
        odl.InnerProductOperator(element(X)), element(R6)
    ),
    "Diagonal": lambda: odl.DiagonalOperator(odl.Laplacian(X), odl.MatrixOperator(MATRIX)),
    "Diagonal-repeated": lambda: odl.DiagonalOperator(odl.Laplacian(X), 3),
    "Broadcast": lambda: odl.BroadcastOperator(odl.Gradient(X), odl.Laplacian(X)),
    "Broadcast-power": lambda: odl.BroadcastOperator(odl.Laplacian(X), odl.IdentityOperator(X)),
    "Broadcast-single": lambda: odl.BroadcastOperator(odl.Laplacian(X)),
    "Reduction": lambda: odl.ReductionOperator(odl.Divergence(range=X), odl.Laplacian(X)),
    "ProductSpaceOperator": lambda: odl.ProductSpaceOperator(
        [[odl.Gradient(X), None], [odl.Laplacian(X), odl.Laplacian(X)]]
    ),
    "ProductSpaceOperator-empty-row": lambda: odl.ProductSpaceOperator(
        [[odl.Laplacian(X), None], [0, 0]], range=odl.ProductSpace(X, R3), domain=X**2
    ),
    "ProductSpaceOperator-empty-row-complex": lambda: odl.ProductSpaceOperator(
        [[odl.Laplacian(CX), None], [0, 0]], range=CP, domain=CX**2
    ),
    "ComponentProjection-complex": lambda: odl.ComponentProjection(CP, 1),
    "ComponentProjection-adjoint-complex": lambda: odl.ComponentProjectionAdjoint(CX**2, 1),
    "ComponentProjection": lambda: odl.ComponentProjection(P, 1),
    "ComponentProjection-power": lambda: odl.ComponentProjection(X**3, -1),
    "ComponentProjection-slice": lambda: odl.ComponentProjection(X**3, slice(0, 2)),
    "ComponentProjection-list": lambda: odl.ComponentProjection(odl.ProductSpace(X, R3, R6), [0, 2]),
    "ComponentProjection-adjoint": lambda: odl.ComponentProjectionAdjoint(P, 0),
    "nested-power": lambda: odl.DiagonalOperator(odl.Gradient(X), 3),
    "cubed": lambda: odl.Laplacian(X) ** 3,
}
DIFFERENCES = dict(differences())
SHORT_DIFFERENCES = {k: f for k, f in DIFFERENCES.items() if "-long-" not in k}

# ODL's own adjoint is missing or not the adjoint; ours is put to the dot test only.
ADJOINT_BY_DOT_TEST = {
    "LinComb": lambda: odl.LinCombOperator(X, 2.0, -3.0),
    "LinComb-complex": lambda: odl.LinCombOperator(C6, 2.0 + 1j, -3.0),
    "RealPart": lambda: odl.RealPart(CX),
    "ImagPart": lambda: odl.ImagPart(CX),
    "ComplexEmbedding": lambda: odl.ComplexEmbedding(X, 2.0 - 1j),
    "Multiply-complex-field": lambda: odl.MultiplyOperator(element(CX), CX.field),
    "Matrix-other-weight": lambda: odl.MatrixOperator(MATRIX, odl.rn(6, weighting=0.2), odl.rn(3)),
    "Matrix-array-weight": lambda: odl.MatrixOperator(MATRIX, W6, odl.rn(3)),
    "Flattening-unweighted": lambda: odl.FlatteningOperator(
        odl.uniform_discr([0, 0], [1, 1], (2, 3), weighting=1.0)
    ),
    "ComponentProjection-twice": lambda: odl.ComponentProjection(odl.ProductSpace(X, R3), [0, 1, -2]),
    "ComponentProjection-weighted": lambda: odl.ComponentProjection(WP, 1),
    "ComponentProjection-weighted-slice": lambda: odl.ComponentProjection(WP, slice(1, 3)),
    "PointwiseSum-weighted": lambda: odl.PointwiseSum(WP),
    "PointwiseInner-weighted-product": lambda: odl.PointwiseInner(WP, element(WP)),
    "Sampling-weighted": lambda: odl.SamplingOperator(odl.rn(6, weighting=0.2), [1, 1, 4]),
}

NONLINEAR = {
    "Constant": lambda: odl.ConstantOperator(element(X)),
    "Constant-product": lambda: odl.ConstantOperator(element(P), domain=R6),
    "Power": lambda: odl.PowerOperator(X, 3),
    "vector-sum": lambda: odl.Laplacian(X) + element(X),
    "vector-sum-product": lambda: odl.IdentityOperator(P) - element(P),
    "pad-const": lambda: odl.Gradient(X, pad_mode="constant", pad_const=2.0),
    "scaled-pad-const": lambda: 3.0 * odl.Divergence(range=LONG, pad_mode="constant", pad_const=2.0),
    "partial-pad-const": lambda: odl.PartialDerivative(LONG, 1, method="central", pad_const=-1.0),
    "PointwiseNorm": lambda: odl.PointwiseNorm(X**2),
    "PointwiseNorm-3": lambda: odl.PointwiseNorm(X**2, exponent=3),
    "pointwise-product": lambda: odl.OperatorPointwiseProduct(odl.Laplacian(X), odl.PowerOperator(X, 2)),
    "nonlinear-composition": lambda: odl.PowerOperator(X, 2) * (odl.Laplacian(X) + element(X)),
    "nonlinear-scalars": lambda: 2.0 * (odl.PowerOperator(X, 2) * 3.0),
    "nonlinear-vectors": lambda: (
        element(X) @ (odl.OperatorRightVectorMult(odl.PowerOperator(X, 2), element(X, 6)))
    ),
    "nonlinear-diagonal": lambda: odl.DiagonalOperator(odl.PowerOperator(X, 2), odl.Laplacian(X)),
    "nonlinear-broadcast": lambda: odl.BroadcastOperator(odl.PowerOperator(X, 2), odl.Gradient(X)),
    "nonlinear-reduction": lambda: odl.ReductionOperator(odl.PowerOperator(X, 2), odl.Laplacian(X)),
    "Norm": lambda: odl.NormOperator(X),
    "Dist": lambda: odl.DistOperator(element(X)),
    "norm-times-vector": lambda: odl.FunctionalLeftVectorMult(odl.NormOperator(X), element(R6)),
}

VALUES_ONLY = {
    "ComplexModulus": lambda: odl.ComplexModulus(CX),
    "ComplexModulusSquared": lambda: odl.ComplexModulusSquared(CX),
    "ImagPart-real": lambda: odl.ImagPart(X),
    "PointwiseNorm-1": lambda: odl.PointwiseNorm(X**2, exponent=1),
    "PointwiseNorm-inf": lambda: odl.PointwiseNorm(X**2, exponent=math.inf),
    "PointwiseNorm-weighted": lambda: odl.PointwiseNorm(X**2, exponent=2, weighting=[2.0, 3.0]),
    "PointwiseNorm-inf-weighted": lambda: odl.PointwiseNorm(X**2, exponent=math.inf, weighting=[2.0, 3.0]),
    "PointwiseNorm-complex": lambda: odl.PointwiseNorm(CX**2),
    "Laplacian-pad-const": lambda: odl.Laplacian(LONG, pad_mode="constant", pad_const=2.0),
    "complex-functional-times-vector": lambda: odl.FunctionalLeftVectorMult(
        odl.functionals.QuadraticForm(odl.MultiplyOperator(element(CX))), element(C6)
    ),
    "nodes-on-boundary": lambda: odl.InnerProductOperator(
        element(odl.uniform_discr([0, 0], [1, 2], (4, 5), nodes_on_bdry=True))
    ),
}


def cases(*tables):
    return pytest.mark.parametrize("make", [pytest.param(f, id=k) for t in tables for k, f in t.items()])


@pytest.mark.parametrize("batch", BATCHES)
@cases(LINEAR, ADJOINT_BY_DOT_TEST, NONLINEAR, VALUES_ONLY)
def test_values_are_those_of_odl(make, batch):
    op = make()
    t = random(op.domain, batch)
    assert_equal_samples(op.range, to_torch(op)(t), [op(x) for x in samples(op.domain, t)])


@pytest.mark.parametrize("batch", [(2, 2)])
@cases(DIFFERENCES)
def test_differences_are_those_of_odl(make, batch):
    test_values_are_those_of_odl(make, batch)
    test_adjoint_is_that_of_odl(make, batch)


@pytest.mark.parametrize("batch", [(), (3,)])
@cases(LINEAR)
def test_adjoint_is_that_of_odl(make, batch):
    op = make()
    r = random(op.range, batch)
    lowered = to_torch(op)
    assert lowered.linear
    assert_equal_samples(op.domain, lowered.adjoint(r), [op.adjoint(y) for y in samples(op.range, r)])


@cases(LINEAR, DIFFERENCES, ADJOINT_BY_DOT_TEST)
def test_dot_test(make):
    A = to_torch(make())
    x, y = random(A.domain, (3,)), random(A.range, (3,), seed=1)
    lhs, rhs = inner(A.range, A(x), y), inner(A.domain, x, A.adjoint(y))
    both_complex = torch_dtype(A.domain).is_complex and torch_dtype(A.range).is_complex
    difference = lhs - rhs if both_complex else lhs.real - rhs.real
    assert abs(difference) < 1e-12 * (1 + abs(lhs))
    assert A.adjoint.adjoint(x) is not None and A.adjoint.domain == A.range


@cases(LINEAR, SHORT_DIFFERENCES, NONLINEAR)
def test_autograd_transpose_is_odls_adjoint_derivative(make):
    op = make()
    t, c = random(op.domain, (3,)), random(op.range, (3,), seed=1)
    _, pullback = torch.func.vjp(to_torch(op).fn, t)
    (g,) = pullback(c)
    points, cotangents = samples(op.domain, t), samples(op.range, riesz(op.range, c))
    expected = [op.derivative(x).adjoint(r) for x, r in zip(points, cotangents, strict=True)]
    assert_equal_samples(op.domain, riesz(op.domain, g), expected)


@cases(LINEAR, SHORT_DIFFERENCES, NONLINEAR)
def test_vmap_and_jvp(make):
    op = make()
    lowered = to_torch(op)
    t, h = random(op.domain, (3,)), random(op.domain, (3,), seed=1)
    value, tangent = torch.func.jvp(lowered.fn, (t,), (h,))
    torch.testing.assert_close(torch.func.vmap(lowered.fn)(t), lowered(t))
    torch.testing.assert_close(value, lowered(t))
    points = zip(samples(op.domain, t), samples(op.domain, h), strict=True)
    assert_equal_samples(op.range, tangent, [op.derivative(x)(d) for x, d in points])


@pytest.mark.parametrize("name", ["PointwiseNorm", "PointwiseNorm-3", "Norm"])
def test_derivatives_of_norms_are_zero_at_zero(name):
    op = NONLINEAR[name]()
    f = to_torch(op).fn
    t = torch.zeros(space_shape(op.domain), dtype=torch.float64, requires_grad=True)
    (g,) = torch.autograd.grad(f(t).sum(), t, create_graph=True)
    (h,) = torch.autograd.grad(g.sum(), t)
    assert (g == 0).all() and (h == 0).all()


def test_second_derivatives():
    op = odl.PowerOperator(X, 3) * odl.Laplacian(X)
    t = random(X, (2,)).requires_grad_()
    assert torch.autograd.gradgradcheck(lambda t: to_torch(op)(t).sum(), t)


def test_lowered_adjoint_of_a_nonlinear_operator_is_refused():
    with pytest.raises(NotImplementedError, match="nonlinear operator has no adjoint"):
        to_torch(odl.PowerOperator(X, 2)).adjoint  # noqa: B018


@pytest.mark.parametrize(
    "make",
    [
        lambda s, M: odl.MatrixOperator(M, s, s),
        lambda s, M: odl.MatrixOperator(scipy.sparse.coo_matrix(M), s, s),
        lambda s, M: odl.PointwiseSum(s**1) * odl.BroadcastOperator(odl.MatrixOperator(M, s, s)),
    ],
)
def test_numbers_are_pulled_back_in_the_precision_of_the_space(make):
    """Numbers have double precision; the adjoint of a functional gives elements of its space."""
    s = odl.rn(6, dtype="float32")
    A = make(s, np.eye(6, dtype="float32"))
    f = to_torch(odl.InnerProductOperator(A.range.one()) * A)
    image = f.adjoint(torch.ones(2, dtype=torch.float64))
    assert image.dtype == torch.float32 and image.shape == (2, 6)
    assert to_torch(A)(torch.ones(2, 6, dtype=torch.float64)).dtype == torch.float64  # as their argument


def test_constants_are_copied():
    v = element(X)
    A = to_torch(odl.MultiplyOperator(v))
    t = torch.ones(4, 5, dtype=torch.float64)
    before = A(t).clone()
    v.set_zero()
    assert torch.equal(A(t), before)


def test_float32_stays_float32():
    space = odl.uniform_discr([0, 0], [1, 1], (13, 14), dtype="float32")
    op = odl.Gradient(space, pad_mode="symmetric").adjoint * odl.Gradient(space, pad_mode="symmetric") * 2.0
    assert to_torch(op)(torch.ones(3, 13, 14)).dtype == torch.float32


def test_tree_map_of_nested_products():
    nested = odl.ProductSpace(P, R6)
    op = odl.MultiplyOperator(element(nested))
    t = random(nested, (2,))
    expected = tree_map(torch.mul, t, to_tensor(op.multiplicand))
    torch.testing.assert_close(to_torch(op)(t), expected)


@cases({k: f for k, f in (LINEAR | NONLINEAR | VALUES_ONLY).items() if "scipy" not in k and "torch" not in k})
def test_problems_on_numpy_spaces_run_on_other_devices(make):
    """Constants follow the argument; the device "meta" computes shapes only, and refuses to mix with the CPU."""
    op = make()
    lowered, t = to_torch(op), random(op.domain, (2,))
    result = lowered(tree_map(lambda a: a.to("meta"), t))
    tree_map(_assert_like, result, lowered(t))


def _assert_like(a, b):
    assert a.device.type == "meta" and a.shape == b.shape and a.dtype == b.dtype
