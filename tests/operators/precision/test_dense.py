"""Precisions with a dense factor: made from a matrix, zeros found again, derivatives, statistics, bad input."""

import numpy as np
import odl
import pytest
import torch

from genreg.operators import (
    DenseCholeskyPrecision,
    GaussianPosterior,
    condition,
    gaussian_measurements,
    marginal_variance,
    to_torch,
)

from ..precisions import SPARSE, Case

X = odl.rn((3, 4))


def matrices(*batch, seed=0):
    """Positive definite matrices ``(*batch, 12, 12)``, exactly symmetric."""
    generator = torch.Generator().manual_seed(seed)
    root = torch.randn(*batch, 12, 12, dtype=torch.float64, generator=generator)
    product = root @ root.mT / 12 + 0.1 * torch.eye(12, dtype=torch.float64)
    return 0.5 * (product + product.mT)


@pytest.mark.parametrize("batch", [(), (1,), (7,)])
@pytest.mark.parametrize("weighted", [False, True])
def test_the_matrix_is_found_again(batch, weighted):
    space = odl.uniform_discr([0, 0], [6, 2], (3, 4)) if weighted else X
    matrix = matrices(*batch)
    P = DenseCholeskyPrecision.of(space, matrix)
    assert P.batch == batch and P.domain == space
    torch.testing.assert_close(P.to_dense(), matrix)
    torch.testing.assert_close(P.logdet(), torch.logdet(matrix))
    L = P.parameters["factor"]
    assert L.equal(L.tril()) and bool((P.diagonal > 0).all())
    again = DenseCholeskyPrecision(space, L + torch.ones_like(L).triu(1))  # the upper triangle is ignored
    assert again.to_dense().equal(P.to_dense())


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", SPARSE)
def test_the_zeros_of_a_sparse_precision_are_found_again(name, dtype):
    sparse = Case(name, dtype=dtype)
    matrix = Case(name).make().to_scipy()
    for given in (matrix, matrix.astype(dtype)):
        found = DenseCholeskyPrecision.of(sparse.space, torch.from_numpy(given.toarray())).to_scipy()
        assert isinstance(found, type(matrix)) and found.dtype == dtype
        # an entry may be zero without being outside of the neighbourhood, for example at the borders
        assert ((found != 0) != (matrix != 0)).nnz == 0 and found.nnz == np.count_nonzero(matrix.toarray())
        np.testing.assert_allclose(found.toarray(), matrix.toarray(), rtol=0, atol=50 * np.finfo(dtype).eps)


def test_larger_images_keep_their_zeros():
    generator = torch.Generator().manual_seed(0)
    weights = 0.4 * torch.randn(4, 20, 20, generator=generator, dtype=torch.float64) - 0.2
    n = 400
    L = torch.eye(n, dtype=torch.float64)
    for k, offset in enumerate((1, 19, 20, 21)):
        L += weights[k].flatten()[: n - offset].diag(-offset)
    matrix = L @ L.T
    for dtype in ("float32", "float64"):
        found = DenseCholeskyPrecision.of(odl.rn((20, 20), dtype=dtype), matrix).to_scipy()
        assert found.nnz == int((matrix != 0).sum())


def test_the_more_exact_type_decomposes():
    matrix = matrices()
    matrix[0] *= 1e4
    matrix[:, 0] *= 1e4
    single = odl.rn((3, 4), dtype="float32")
    P = DenseCholeskyPrecision.of(single, matrix)
    assert P.parameters["factor"].dtype == torch.float32
    assert P.parameters["factor"].equal(torch.linalg.cholesky(matrix).float())
    assert DenseCholeskyPrecision.of(X, matrix.float()).parameters["factor"].dtype == torch.float64


@pytest.mark.parametrize("batch", [(), (2,)])
def test_derivatives_in_the_matrix(batch):
    r = torch.randn(*batch, 3, 4, dtype=torch.float64)
    root = torch.randn(*batch, 12, 12, dtype=torch.float64, requires_grad=True)

    def everything(root):  # of a matrix that remains symmetric
        P = DenseCholeskyPrecision.of(X, root @ root.mT + torch.eye(12, dtype=torch.float64))
        return P.log_density(r), P.colour(r), P.whiten(r)

    assert torch.autograd.gradcheck(everything, root, check_forward_ad=True, fast_mode=True)
    assert torch.autograd.gradgradcheck(everything, root, fast_mode=True)
    matrix = matrices(*batch).requires_grad_()
    density = DenseCholeskyPrecision.of(X, matrix).log_density(r).sum()
    (gradient,) = torch.autograd.grad(density, matrix)
    flat = r.flatten(-2)
    expected = 0.5 * (torch.linalg.inv(matrix.detach()) - flat[..., :, None] * flat[..., None, :])
    torch.testing.assert_close(gradient, expected)


def test_function_transforms_of_the_matrix():
    matrix, r = matrices(3), torch.randn(3, 4, dtype=torch.float64)
    density = lambda m: DenseCholeskyPrecision.of(X, m).log_density(r)  # noqa: E731
    expected = DenseCholeskyPrecision.of(X, matrix).log_density(r.expand(3, 3, 4))
    torch.testing.assert_close(torch.func.vmap(density)(matrix), expected)
    gradients = torch.func.vmap(torch.func.grad(density))(matrix)
    for k in range(3):
        torch.testing.assert_close(gradients[k], torch.func.jacfwd(density)(matrix[k]))
    hessian = torch.func.hessian(density)(matrix[0])
    d = matrices(seed=1)
    # of the log-determinant alone: the rest is linear in the matrix
    inverse = torch.linalg.inv(matrix[0])
    torch.testing.assert_close(
        torch.einsum("ij,ijkl,kl->", d, hessian, d), -0.5 * torch.trace(inverse @ d @ inverse @ d)
    )


@pytest.mark.parametrize("batch", [(), (3,)])
def test_variances_and_conditionals(batch):
    matrix = matrices(*batch)
    P = DenseCholeskyPrecision.of(X, matrix)
    covariance = torch.linalg.inv(matrix)
    found = marginal_variance(P)
    variance = covariance.diagonal(dim1=-2, dim2=-1).reshape(*batch, 3, 4)
    torch.testing.assert_close(found.value, variance)
    assert not bool(found.error.any())
    sampled = marginal_variance(P, method="sampling", samples=4000)
    assert bool(((sampled.value - variance).abs() <= 5 * sampled.error + 1e-12).all())
    known = (torch.arange(12) % 3 == 0).view(3, 4)
    k, values = known.flatten(), torch.randn(*batch, 3, 4, dtype=torch.float64)
    unknown = matrix[..., ~k, :]
    expected = -torch.linalg.solve(unknown[..., ~k], (unknown[..., k] @ values.flatten(-2)[..., k, None]))
    for method in ("direct", "cg"):
        mean = condition(P, 0 * values, known, values, method=method, tol=1e-11).mean.flatten(-2)
        torch.testing.assert_close(mean[..., ~k], expected[..., 0])
        assert mean[..., k].equal(values.flatten(-2)[..., k])


@pytest.mark.parametrize("batch", [(), (3,)])
def test_posterior(batch):
    space = odl.uniform_discr([0, 0], [6, 2], (3, 4))
    A = gaussian_measurements(space, 8, seed=0)
    matrix = matrices(*batch)
    y, mean = torch.randn(3, 8, dtype=torch.float64), torch.randn(3, 3, 4, dtype=torch.float64)
    p = GaussianPosterior(A, y, mean, DenseCholeskyPrecision.of(space, matrix), 4.0, tol=1e-11)
    M = to_torch(A)(torch.eye(12, dtype=torch.float64).view(12, 3, 4)).T
    pull = 4 * (y - mean.flatten(1) @ M.T) @ M
    expected = mean.flatten(1) + torch.linalg.solve(4 * M.T @ M + matrix, pull[..., None])[..., 0]
    torch.testing.assert_close(p.mean.flatten(1), expected)


def test_bad_factors():
    for value in (np.eye(12), torch.eye(12, dtype=torch.int64)):
        with pytest.raises(TypeError, match="factor must be a torch tensor of floating type"):
            DenseCholeskyPrecision(X, value)
    for shape in ((12,), (3, 4), (12, 11), (2, 2, 12, 12)):
        with pytest.raises(ValueError, match=r"factor must have the shape \(12, 12\), or \(B, 12, 12\), got"):
            DenseCholeskyPrecision(X, torch.ones(shape))
    with pytest.raises(ValueError, match="factor must be on the device of the space, cpu, got meta"):
        DenseCholeskyPrecision(X, torch.eye(12, device="meta"))
    L = torch.eye(12).repeat(2, 1, 1)
    for bad, message in ((0.0, "a positive diagonal, got 0"), (-0.5, "a positive diagonal, got -0.5")):
        L[1, 3, 3] = bad
        with pytest.raises(ValueError, match=f"factor must have {message}"):
            DenseCholeskyPrecision(X, L)
    L[1, 3, 3] = torch.nan
    with pytest.raises(ValueError, match="factor must be finite"):
        DenseCholeskyPrecision(X, L)


def test_bad_matrices():
    of = DenseCholeskyPrecision.of
    for value in (np.eye(12), 1.0, torch.eye(12, dtype=torch.complex64)):
        with pytest.raises(TypeError, match="matrix must be a torch tensor of floating type"):
            of(X, value)
    with pytest.raises(ValueError, match=r"prior must have the shape \(12, 12\), .* got \(3, 4\)"):
        of(X, torch.ones(3, 4), name="prior")
    broken = torch.eye(12)
    broken[2, 1] = torch.nan
    with pytest.raises(ValueError, match="prior must be finite"):
        of(X, broken, "prior")
    matrix = matrices(2)
    matrix[1] -= 0.5 * torch.eye(12, dtype=torch.float64)
    smallest = float(torch.linalg.eigvalsh(matrix).min())
    assert smallest < 0
    with pytest.raises(
        ValueError, match=f"prior must be positive definite, got the smallest eigenvalue {smallest:.3g}"
    ):
        of(X, matrix, "prior")
    with pytest.raises(ValueError, match=r"matrix must be positive definite, got the smallest eigenvalue 0$"):
        of(X, torch.zeros(12, 12))
    matrix = torch.eye(12, dtype=torch.float64).repeat(2, 1, 1)
    matrix[1, 4, 3] = 1e-3
    with pytest.raises(
        ValueError, match=r"prior must be symmetric, .* transpose by up to 1\.0e-03 of the largest entry"
    ):
        of(X, matrix, "prior")
    inverse = torch.linalg.inv(matrices().float())  # symmetric up to rounding
    torch.testing.assert_close(of(X, inverse).to_dense().float(), 0.5 * (inverse + inverse.mT))
