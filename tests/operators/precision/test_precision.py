import copy
import functools
import pickle

import numpy as np
import odl
import pytest
import torch

from genreg.operators import (
    DenseCholeskyPrecision,
    DiagonalPrecision,
    IsotropicPrecision,
    SparseCholeskyPrecision,
    derivative_test,
    dot_test,
    neighbourhood,
    soft_clip,
    to_torch,
)
from genreg.operators.precision import factor_product, triangular

from ..precisions import NAMES, SPARSE, Case

close = functools.partial(torch.testing.assert_close, rtol=1e-9, atol=1e-9)
names = pytest.mark.parametrize("name", NAMES)


def times(matrix, images, ndim):
    """A matrix ``(*batch, N, N)`` times images ``(*lead, *batch, *shape)``."""
    flat = images.flatten(-ndim)
    return (matrix @ flat[..., None])[..., 0].reshape(images.shape)


@names
@pytest.mark.parametrize("batch, lead", [((), ()), ((), (2,)), ((1,), (2,)), ((3,), ()), ((3,), (2,))])
def test_methods_equal_the_dense_matrix(name, batch, lead):
    case = Case(name, batch)
    P, L, r = case.make(), case.factor(), case.images(*lead)
    dense, apply = L @ L.mT, functools.partial(times, images=r, ndim=len(case.shape))
    assert P.batch == batch
    close(P.to_dense(), dense)
    close(P.diagonal.flatten(len(batch)), L.diagonal(dim1=-2, dim2=-1))
    close(P.forward(r), apply(dense))
    close(P.transpose(r), apply(dense))
    close(P.whiten(r), apply(L.mT))
    close(P.unwhiten(r), apply(L))
    close(P.colour(r), apply(torch.linalg.inv(L.mT)))
    close(P.uncolour(r), apply(torch.linalg.inv(L)))
    close(P.solve(r), apply(torch.linalg.inv(dense)))
    close(P.quadratic(r), (r * apply(dense)).flatten(-len(case.shape)).sum(-1))
    close(P.logdet(), torch.logdet(dense))
    normal = torch.distributions.MultivariateNormal(r.new_zeros(case.size), precision_matrix=dense)
    close(P.log_density(r), normal.log_prob(r.flatten(-len(case.shape))))


@names
def test_a_batch_equals_its_samples(name):
    case = Case(name, (3,))
    P, r = case.make(), case.images()
    for k in range(3):
        one = P.take(k)
        assert one.batch == ()
        np.testing.assert_allclose(one.to_scipy().toarray(), P.to_dense()[k].numpy(), atol=1e-12)
        for method in ("forward", "whiten", "unwhiten", "colour", "uncolour", "solve", "log_density"):
            close(getattr(one, method)(r[k]), getattr(P, method)(r)[k])
            # one precision for a batch of images
            close(getattr(one, method)(r)[k], getattr(P, method)(r)[k])
    some = P.take(torch.tensor([2, 0]))
    assert some.batch == (2,) and P.take(slice(1)).batch == (1,) and P.take(0).take(5).batch == ()
    close(some.solve(r[[2, 0]]), P.solve(r)[[2, 0]])
    with pytest.raises(ValueError, match="the precision must not be batched, got a batch of 3"):
        P.to_scipy()


def test_a_singular_factor_leaves_the_other_samples_as_they_are():
    case = Case("d1", (3,))
    log_diag, weights = (p.clone() for p in case.parameters)
    P, r = case.make(log_diag, weights), case.images()
    log_diag = log_diag.clone()
    log_diag[1, 2, 3] = -1e5  # its exponential is zero
    spoilt = case.make(log_diag, weights)
    for method in ("colour", "uncolour"):
        found, expected = (getattr(precision, method)(r) for precision in (spoilt, P))
        assert torch.equal(found[[0, 2]], expected[[0, 2]]) and bool(found[1].isnan().any())


def value(case, method, *arguments):
    """A method as a function of an image and the parameters."""
    r, *parameters = arguments
    P = case.make(*parameters)
    return P.sample(2, 0) if method == "sample" else getattr(P, method)(r)


@pytest.mark.parametrize(
    "name, batch",
    [
        ("isotropic", (2,)),
        ("diagonal", (2,)),
        ("dense", (2,)),
        ("dense", ()),
        ("d0", (2,)),
        ("d2", ()),
        ("dilations", ()),
        ("two channels", (2,)),
        ("coupled", (2,)),
    ],
)
def test_derivatives_of_both_orders(name, batch):
    case = Case(name, batch)
    methods = ("log_density", "whiten", "unwhiten", "colour", "uncolour", "sample")

    def everything(*arguments):
        return tuple(value(case, method, *arguments) for method in methods)

    arguments = [t.clone().requires_grad_() for t in (case.images(), *case.parameters)]
    assert torch.autograd.gradcheck(everything, arguments, check_forward_ad=True, fast_mode=True)
    # the second derivatives of a sum of all
    assert torch.autograd.gradgradcheck(
        lambda *a: sum(t.sin().sum() for t in everything(*a)), arguments, fast_mode=True
    )


@pytest.mark.parametrize("name", ["isotropic", "diagonal", "dense", "d0", "d1", "dilations", "two channels"])
def test_function_transforms(name):
    case = Case(name, (3,))
    one = Case(name)
    r = case.images()
    for method in ("log_density", "colour", "unwhiten"):
        f = functools.partial(value, one, method)
        expected = value(case, method, r, *case.parameters)
        close(torch.func.vmap(f)(r, *case.parameters), expected)
        several = torch.func.vmap(lambda s, method=method: value(case, method, s, *case.parameters))(
            torch.stack([r, 2 * r], 1).movedim(1, 0)
        )
        close(several[1], value(case, method, 2 * r, *case.parameters))
        shared = torch.func.vmap(lambda s, p0, f=f: f(s, p0, *one.parameters[1:]), in_dims=(None, 0))
        close(shared(r[0], case.parameters[0])[1], f(r[0], case.parameters[0][1], *one.parameters[1:]))
        scalar = lambda *a, f=f: f(*a).sin().sum()  # noqa: E731
        everything = (r[0], *one.parameters)
        for k in (k for k, t in enumerate(everything) if t.numel()):
            reverse, forward = torch.func.jacrev(scalar, k), torch.func.jacfwd(scalar, k)
            close(reverse(*everything), forward(*everything))
    hessian = torch.func.hessian(lambda s: value(one, "log_density", s, *one.parameters))(r[0])
    close(hessian.reshape(one.size, one.size), -one.make().to_dense())


@names
@pytest.mark.parametrize("weighted", [False, True])
def test_odl_operators(name, weighted):
    case = Case(name, weighted=weighted)
    P = case.make()
    x = case.space.element(case.images().numpy())
    matrix = case.make().to_dense().numpy()
    np.testing.assert_allclose(P(x).data.ravel(), matrix @ x.data.ravel(), atol=1e-10)
    for A in (P, P.inverse, P.factor, P.factor.inverse, P.factor.adjoint):
        assert A.is_linear and A.domain == A.range == case.space
        dot_test(A)
        close(to_torch(A)(case.images()), torch.as_tensor(A(x).data))
    np.testing.assert_allclose(P.adjoint(x).data, P(x).data, atol=1e-10)
    for A in (P, P.factor, P.inverse):
        np.testing.assert_allclose(A.inverse(A(x)).data, x.data, atol=1e-10)
    close(P.factor.inverse.adjoint(x).data, P.colour(case.images()).numpy())
    derivative_test(odl.functionals.QuadraticForm(P, constant=0.0) * odl.IdentityOperator(case.space))


def test_operators_are_not_batched():
    P = Case("d1", (2,)).make()
    with pytest.raises(ValueError, match="must not be batched to act on an ODL element, got a batch of 2"):
        P(P.domain.zero())
    for make in (lambda: P.factor, lambda: P.inverse, lambda: P.factor_to_scipy()):
        with pytest.raises(ValueError, match="must not be batched, got a batch of 2"):
            make()


@pytest.mark.parametrize("name", ["isotropic", "diagonal", "dense", "d2", "two channels"])
def test_samples(name):
    case = Case(name, (2,))
    P = case.make()
    x = P.sample(5000, 0)
    assert x.shape == (5000, 2, *case.shape) and x.dtype == torch.float64
    covariance = torch.linalg.inv(P.to_dense())
    for k in range(2):
        flat = x[:, k].flatten(1)
        std = covariance[k].diagonal().sqrt()
        assert float((flat.mean(0) / std).abs().max()) < 5 / 5000**0.5
        # the standard error of a covariance is at most sqrt(2 / n) standard deviations
        assert (
            float(((flat.T.cov() - covariance[k]) / torch.outer(std, std)).abs().max())
            < 5 * (2 / 5000) ** 0.5
        )
    close(P.sample(3, 0), P.sample(3, torch.Generator().manual_seed(0)))
    assert not P.sample(3, 0).equal(P.sample(3, 1))
    torch.manual_seed(4)
    first = P.sample(1)
    torch.manual_seed(4)
    assert first.equal(P.sample(1))
    for n, error in ((0, ValueError), (10**12, ValueError), (1.0, TypeError), (True, TypeError)):
        with pytest.raises(error, match=r"n must be (a positive|an) integer|n must be smaller"):
            P.sample(n)


@pytest.mark.parametrize("name", SPARSE)
def test_solves_by_scipy_equal_those_by_torch(name, monkeypatch):
    case = Case(name, (3,))
    r = case.images(2)
    expected = case.make().colour(r), case.make().uncolour(r)
    monkeypatch.setattr(triangular, "_native", lambda kind: False)
    close(case.make().colour(r), expected[0])
    close(case.make().uncolour(r), expected[1])
    f = functools.partial(value, case, "solve")
    arguments = [t.clone().requires_grad_() for t in (case.images(), *case.parameters)]
    assert torch.autograd.gradcheck(f, arguments, fast_mode=True)


def test_availability_of_the_native_solve(monkeypatch):
    triangular._native.cache_clear()
    assert triangular._native("cpu") == torch.backends.mkl.is_available()
    triangular._native.cache_clear()
    monkeypatch.delattr(torch, "triangular_solve")
    assert not triangular._native("cpu")
    triangular._native.cache_clear()


@pytest.mark.parametrize("name", ["d1", "d4", "two channels", "coupled"])
def test_large_problems_are_cut_into_parts(name, monkeypatch):
    case = Case(name, (5,))
    P, r = case.make(), case.images(2)
    expected = [P.whiten(r), P.unwhiten(r), P.colour(r), P.uncolour(r)]
    gradients = torch.autograd.grad(
        value(case, "log_density", r[0], *(p.requires_grad_() for p in case.parameters)).sum(),
        case.parameters,
    )
    monkeypatch.setattr(factor_product, "_TILE", 40)
    monkeypatch.setattr(triangular, "_CHUNK", 200)
    P = case.make(*(p.detach() for p in case.parameters))
    for got, wanted in zip([P.whiten(r), P.unwhiten(r), P.colour(r), P.uncolour(r)], expected, strict=True):
        close(got, wanted)
    again = torch.autograd.grad(value(case, "log_density", r[0], *case.parameters).sum(), case.parameters)
    for got, wanted in zip(again, gradients, strict=True):
        close(got, wanted)


def test_indices_stay_small():
    triangular._indices.cache_clear()
    X = odl.rn((8, 8), dtype="float32")
    P = SparseCholeskyPrecision(X, torch.zeros(3000, 8, 8), torch.zeros(3000, 12, 8, 8), distance=2)
    r = torch.randn(3000, 8, 8)
    assert P.solve(r).equal(r)
    layout = triangular._layout(P.stencil, (1, 8, 8))
    most = triangular._CHUNK // layout.unknowns
    assert triangular._indices.cache_info().currsize == 1
    crow, col = triangular._indices(layout, most, torch.device("cpu"))
    assert triangular._indices.cache_info().hits > 1 and crow.dtype == col.dtype == torch.int32
    assert len(col) == most * layout.entries < 10 * triangular._CHUNK
    assert triangular._indices.cache_info().maxsize <= 4


def test_changed_parameters_are_seen():
    case = Case("d2")
    log_diag, weights = case.parameters
    P, u = case.make(), case.images()
    first = P.colour(u)
    entries = P._entries
    close(P.colour(u), first)
    assert P._entries is entries and entries.values is not None
    weights.mul_(0.5)
    assert P._entries is not entries
    close(P.whiten(P.colour(u)), u)
    log_diag += 0.1
    close(P.whiten(P.colour(u)), u)
    other = P.with_parameters(log_diag=0 * log_diag, weights=2 * weights)
    close(other.whiten(other.colour(u)), u)
    close(P.whiten(P.colour(u)), u)
    close(P.detach().colour(u), P.colour(u))
    with torch.inference_mode():
        inferred = case.make(log_diag.clone(), weights.clone())
        close(inferred.colour(u), P.colour(u))


@names
def test_copies(name):
    case = Case(name, (2,))
    P, r = case.make(), case.images()
    expected = P.solve(r)
    for Q in (copy.deepcopy(P), pickle.loads(pickle.dumps(P))):
        assert Q.solve(r).equal(expected) and Q.domain == P.domain


@names
def test_single_precision_and_conversion(name):
    double, single = Case(name, (2,)), Case(name, (2,), dtype="float32")
    r = double.images()
    for dtype, atol in ((torch.float32, 1e-4), (torch.bfloat16, 0.2), (torch.float16, 0.02)):
        P = single.make(*(p.to(dtype) for p in double.parameters))
        for method in ("whiten", "colour", "solve"):
            got = getattr(P, method)(r.float())
            assert got.dtype == torch.float32
            torch.testing.assert_close(
                got.double(), getattr(double.make(), method)(r), rtol=10 * atol, atol=10 * atol
            )
    P = double.make(*(p.float() for p in double.parameters))
    assert P.colour(r).dtype == P.log_density(r).dtype == torch.float64


@pytest.mark.parametrize("name", ["diagonal", "dense", "d2", "two channels"])
def test_layouts_of_memory(name):
    case = Case(name, (3,))
    P, r = case.make(), case.images(2)
    strided = case.make(*(p.transpose(-1, -2).contiguous().transpose(-1, -2) for p in case.parameters))
    same = case.make(*(p[:1].expand(3, *p.shape[1:]) for p in case.parameters))
    swapped = r.transpose(-1, -2).contiguous().transpose(-1, -2)
    for method in ("whiten", "unwhiten", "colour", "uncolour"):
        close(getattr(strided, method)(swapped), getattr(P, method)(r))
        expected = getattr(P.take(0), method)(r)
        close(getattr(same, method)(r), expected)
        one = r[:, :1].expand(2, 3, *case.shape)
        close(getattr(P, method)(one)[:, 0], getattr(P, method)(r)[:, 0])
        assert getattr(P, method)(r).is_contiguous()
    leaf = case.parameters[0][:1].clone().requires_grad_()
    value(case, "colour", r, leaf.expand(3, *leaf.shape[1:]), *case.parameters[1:]).sum().backward()
    assert leaf.grad.shape == leaf.shape


@names
def test_no_graph_without_gradients(name):
    case = Case(name, (2,))
    r = case.images()
    for parameters, tracked in (
        (case.parameters, False),
        ([p.clone().requires_grad_() for p in case.parameters], True),
    ):
        P = case.make(*parameters)
        for method in ("whiten", "colour", "log_density", "solve"):
            result = getattr(P, method)(r)
            assert result.requires_grad == tracked and (result.grad_fn is not None) == tracked
            assert not getattr(P.detach(), method)(r).requires_grad
        assert P.sample(1, 0).requires_grad == tracked


def test_empty_batches():
    case = Case("d1", (3,))
    P = case.make().take(slice(0))
    assert P.batch == (0,) and P.solve(case.images()[:0]).shape == (0, *case.shape)
    assert P.log_density(case.images()[:0]).shape == (0,)
    assert case.make().colour(case.images(2)[:0]).shape == (0, 3, *case.shape)


def test_bounds():
    t = torch.linspace(-30, 30, 401, dtype=torch.float64)
    clipped = soft_clip(t, (-5.0, 4.0))
    assert float(clipped.diff().min()) > -1e-14 and bool((clipped.diff()[150:250] > 0).all())
    assert -5 <= float(clipped.min()) and float(clipped.max()) <= 4
    close(clipped, -5 + (1 + (t + 5).exp()).log() - (1 + (t - 4).exp()).log())
    far = soft_clip(torch.tensor([-1e30, -1e9, 1e9, 1e30]), (-5.0, 4.0))
    assert far.tolist() == [-5, -5, 4, 4]
    torch.testing.assert_close(soft_clip(t / 30, (-15, 15)), t / 30, rtol=0, atol=1e-6)
    assert torch.autograd.gradcheck(soft_clip, (t.requires_grad_(), (-5.0, 4.0)), fast_mode=True)
    t = t.detach()
    for bounds in ((1.0, 1.0), (2, 1), (0, float("inf")), (float("nan"), 1)):
        with pytest.raises(ValueError, match="bounds must be two finite, increasing numbers"):
            soft_clip(t, bounds)
    case = Case("d1")
    log_diag, weights = case.parameters
    P = SparseCholeskyPrecision(case.space, 40 * log_diag, weights, distance=1, bounds=(-1, 2))
    close(P.log_diag, soft_clip(40 * log_diag, (-1, 2)))
    close(P.logdet(), 2 * P.log_diag.sum())


def test_neighbourhoods():
    assert [len(neighbourhood(d)) for d in (0, 1, 2, 4)] == [0, 4, 12, 40]
    assert neighbourhood(1) == [(0, 1), (1, -1), (1, 0), (1, 1)]
    assert neighbourhood(1, 3) == [(0, 3), (3, -3), (3, 0), (3, 3)]
    assert neighbourhood(2, (1, 2)) == sorted({*neighbourhood(2), *neighbourhood(2, 2)})
    for distance in (1.0, True, None):
        with pytest.raises(TypeError, match="distance must be an integer"):
            neighbourhood(distance)
    with pytest.raises(ValueError, match="distance must be a non-negative integer, got -1"):
        neighbourhood(-1)
    for dilation in (0, -1, (), (1, 0)):
        with pytest.raises(ValueError, match=r"dilation(\[1\])? must be"):
            neighbourhood(1, dilation)
    for dilation in (1.5, True, "2"):
        with pytest.raises(TypeError, match="dilation must be an integer"):
            neighbourhood(1, dilation)


def test_bad_input_of_all_precisions():
    X = odl.rn((3, 4))
    for space in (odl.cn((3, 4)), odl.rn(3) ** 2, odl.tensor_space((3, 4), dtype="int32"), None):
        for make in (
            lambda s: IsotropicPrecision(s, 1.0),
            lambda s: DiagonalPrecision(s, torch.zeros(3, 4)),
            lambda s: DenseCholeskyPrecision(s, torch.eye(12)),
            lambda s: DenseCholeskyPrecision.of(s, torch.eye(12)),
            lambda s: SparseCholeskyPrecision(s, torch.zeros(3, 4), torch.zeros(4, 3, 4), distance=1),
        ):
            with pytest.raises(TypeError, match="space must be a real tensor space of floating type"):
                make(space)
    assert IsotropicPrecision(X, np.ones(2)).batch == (2,)
    for value in ("1", None, True):
        with pytest.raises(TypeError, match=r"precision must (be|hold)"):
            IsotropicPrecision(X, value)
    for value in (0, -1.0, torch.tensor([1.0, 0.0])):
        with pytest.raises(ValueError, match="precision must be positive"):
            IsotropicPrecision(X, value)
    for value in (float("nan"), float("inf"), torch.tensor([1.0, np.nan])):
        with pytest.raises(ValueError, match="precision must be finite"):
            IsotropicPrecision(X, value)
    with pytest.raises(ValueError, match=r"precision must have the shape \(\)"):
        IsotropicPrecision(X, torch.ones(2, 3))
    for value in (
        np.zeros((3, 4)),
        torch.zeros(3, 4, dtype=torch.int32),
        torch.zeros(3, 4, dtype=torch.complex64),
    ):
        with pytest.raises(TypeError, match="log_precision must be a torch tensor of floating type"):
            DiagonalPrecision(X, value)
    for shape in ((4, 3), (2, 2, 3, 4), (4,)):
        with pytest.raises(
            ValueError, match=r"log_precision must have the shape \(3, 4\), or \(B, 3, 4\), got"
        ):
            DiagonalPrecision(X, torch.zeros(shape))
    with pytest.raises(ValueError, match="log_precision must be on the device of the space"):
        DiagonalPrecision(X, torch.zeros(3, 4, device="meta"))


def test_bad_input_of_sparse_factors():
    def make(shape=(3, 4), batch=(), count=4, weight_batch=None, distance=1, dilation=1, **changed):
        arguments = {
            "log_diag": torch.zeros(*batch, *shape),
            "weights": torch.zeros(*(batch if weight_batch is None else weight_batch), count, *shape[-2:]),
        } | changed
        return SparseCholeskyPrecision(odl.rn(shape), distance=distance, dilation=dilation, **arguments)

    assert make().batch == () and make(batch=(2,)).batch == (2,)
    for shape in ((4,), (1, 2, 3, 4)):
        with pytest.raises(
            ValueError, match=r"images \(n, m\) or \(C, n, m\) as its elements, got the shape"
        ):
            make(shape)
    for wide in ({"distance": 3}, {"distance": 1, "dilation": 3}, {"shape": (9, 2), "distance": 2}):
        with pytest.raises(
            ValueError, match=r"smaller than the image \d x \d, got distance=\d and dilation=\d"
        ):
            make(**wide)
    assert len(make((3, 5), count=12, distance=2).stencil) == 12
    for shape, count, right in (((3, 4), 5, 4), ((2, 3, 4), 8, 9), ((3, 3, 4), 12, 15), ((3, 4), 0, 4)):
        with pytest.raises(ValueError, match=f"weights must have {right} entries a pixel, .* got the shape"):
            make(shape, count=count)
    with pytest.raises(ValueError, match="weights must have the shape"):
        make(weights=torch.zeros(4, 4, 3))
    for batches in ({"batch": (2,), "weight_batch": ()}, {"batch": (2,), "weight_batch": (3,)}):
        with pytest.raises(ValueError, match="log_diag and weights must have the same batch, got the shapes"):
            make(**batches)
    for name, shape in (("log_diag", (3, 4)), ("weights", (4, 3, 4))):
        for bad in (np.nan, np.inf):
            broken = torch.zeros(shape)
            broken[..., 1, 2] = bad
            with pytest.raises(ValueError, match=f"{name} must be finite"):
                make(**{name: broken})
        with pytest.raises(
            TypeError, match=f"{name} must be a torch tensor of floating type, got torch.int64"
        ):
            make(**{name: torch.zeros(shape, dtype=torch.int64)})
        with pytest.raises(ValueError, match=f"{name} must be on the device of the space, cpu, got meta"):
            make(**{name: torch.zeros(shape, device="meta")})
    large = torch.full((4, 3, 4), 3e38)  # the sum is not finite, the entries are
    assert make(weights=large).weights.dtype == torch.float64
    with pytest.raises(ValueError, match="bounds must be two finite, increasing numbers"):
        make(bounds=(2, 1))
