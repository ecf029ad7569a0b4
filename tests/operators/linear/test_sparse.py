import copy
import pickle

import numpy as np
import pytest
import scipy.sparse
import torch
from torch.autograd import forward_ad

from genreg.operators.linear.sparse import SparsePair


@pytest.fixture
def matrix():
    rng = np.random.default_rng(0)
    return scipy.sparse.random_array((7, 5), density=0.5, rng=rng, format="coo")


@pytest.fixture
def pair(matrix):
    return SparsePair.from_scipy(matrix, torch.float64)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("batch", [(), (1,), (7,), (2, 3), (70,), (0,)])
def test_product_equals_dense(matrix, dtype, batch):
    pair = SparsePair.from_scipy(matrix, dtype)
    dense = torch.from_numpy(matrix.toarray()).to(dtype)
    x, y = torch.randn(*batch, 5, dtype=dtype), torch.randn(*batch, 7, dtype=dtype)
    assert pair(x).shape == (*batch, 7) and pair(x).is_contiguous()
    torch.testing.assert_close(pair(x), x @ dense.T)
    torch.testing.assert_close(pair.T(y), y @ dense)
    assert pair.T.T is pair


def test_complex_vectors(matrix, pair):
    x = torch.randn(3, 5, dtype=torch.complex128)
    torch.testing.assert_close(pair(x), x @ torch.from_numpy(matrix.toarray()).T.to(x.dtype))
    torch.testing.assert_close(pair(x.conj()), pair(x).conj())
    assert torch.autograd.gradcheck(pair, x.requires_grad_())


@pytest.mark.parametrize("batch", [(), (1,), (3,), (2, 2)])
def test_derivatives(pair, batch):
    x = torch.randn(*batch, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(pair, x, check_forward_ad=True, check_batched_grad=True)

    def quadratic(x):
        return (pair(x) ** 2).sum()

    assert torch.autograd.gradgradcheck(quadratic, x)


def test_function_transforms(matrix, pair):
    dense = torch.from_numpy(matrix.toarray())
    x, v = torch.randn(2, 4, 5, dtype=torch.float64)
    torch.testing.assert_close(torch.func.vmap(pair)(x), pair(x))
    torch.testing.assert_close(torch.func.vmap(pair, in_dims=1, out_dims=1)(x.T.contiguous()), pair(x).T)
    torch.testing.assert_close(torch.func.jacrev(pair)(x[0]), dense)
    torch.testing.assert_close(torch.func.jacfwd(pair)(x[0]), dense)
    torch.testing.assert_close(torch.func.jvp(pair, (x,), (v,))[1], pair(v))
    torch.testing.assert_close(torch.func.hessian(lambda x: (pair(x) ** 2).sum())(x[0]), 2 * dense.T @ dense)
    _, vjp = torch.func.vjp(pair, x)
    torch.testing.assert_close(vjp(pair(x))[0], pair.T(pair(x)))
    with forward_ad.dual_level():
        tangent = forward_ad.unpack_dual(pair(forward_ad.make_dual(x, v))).tangent
    torch.testing.assert_close(tangent, pair(v))


def test_scipy_matrix_is_not_modified(matrix):
    csr = matrix.tocsr()
    csr.indices[:2] = csr.indices[1::-1]
    before = csr.indices.copy()
    SparsePair.from_scipy(csr, torch.float64)
    np.testing.assert_array_equal(csr.indices, before)


def test_copies(pair):
    x = torch.randn(5, dtype=torch.float64)
    assert copy.deepcopy(pair) is pair
    torch.testing.assert_close(pickle.loads(pickle.dumps(pair))(x), pair(x))
    assert pair.to() is pair
    assert pair.to(dtype=torch.float32).dtype == torch.float32
    assert "nnz" in repr(pair)


def test_bad_arguments(pair):
    with pytest.raises(ValueError, match="`matrix` must be a two-dimensional sparse CSR"):
        SparsePair(torch.eye(3), pair.matrix)
    with pytest.raises(ValueError, match=r"`transposed` must be .* ndarray"):
        SparsePair(pair.matrix, np.eye(3))
    with pytest.raises(ValueError, match="must have shape"):
        SparsePair(pair.matrix, pair.matrix)
    with pytest.raises(ValueError, match="share dtype and device"):
        SparsePair(pair.matrix, pair.to(dtype=torch.float32).T.matrix)
    with pytest.raises(RuntimeError):
        pair(torch.zeros(2, 6, dtype=torch.float64))
    with pytest.raises(ValueError, match="`dtype` must be"):
        SparsePair.from_scipy(scipy.sparse.eye_array(3), torch.float16)


def test_products_keep_their_precision_under_autocast(matrix):
    pair = SparsePair.from_scipy(matrix)
    for batch in ((), (3,)):
        x = torch.randn(*batch, 5)
        expected = pair(x)
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(pair(x), expected)
            assert torch.equal(pair(x.bfloat16()), pair(x.bfloat16().float()))
            leaf = x.clone().requires_grad_()
            pair(leaf).sum().backward()
        torch.testing.assert_close(leaf.grad, pair.T(torch.ones(*batch, 7)))
