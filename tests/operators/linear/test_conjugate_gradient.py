"""Conjugate gradients for batches: solutions, the end of every sample, preconditioning."""

import pytest
import torch

from genreg.operators.linear.conjugate_gradient import conjugate_gradients, inner

N_UNKNOWNS = 6


def systems(dtype, batch=4):
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(batch, N_UNKNOWNS, N_UNKNOWNS, dtype=dtype, generator=generator)
    matrix = root @ root.mH + 0.5 * torch.eye(N_UNKNOWNS, dtype=dtype)
    return matrix, torch.randn(batch, N_UNKNOWNS, dtype=dtype, generator=generator)


def solve(matrix, b, tol=1e-12, max_iter=60, **settings):
    def unfinished(x, residual):
        return inner(residual, residual).sqrt() > tol

    return conjugate_gradients(
        lambda p: (matrix @ p[..., None])[..., 0], b, unfinished, max_iter=max_iter, **settings
    )


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize("batch", [1, 4])
def test_solves_every_sample(dtype, batch):
    matrix, b = systems(dtype, batch)
    found = solve(matrix, b)
    assert torch.allclose(found.x, torch.linalg.solve(matrix, b), atol=1e-10)
    assert torch.allclose(found.residual, b - (matrix @ found.x[..., None])[..., 0], atol=1e-10)


def test_batch_takes_the_steps_of_one_sample_at_a_time():
    matrix, b = systems(torch.float64)
    matrix[1] = torch.eye(N_UNKNOWNS)  # one step
    whole = solve(matrix, b, tol=1e-6)
    each = [solve(matrix[k : k + 1], b[k : k + 1], tol=1e-6) for k in range(len(b))]
    assert whole.steps.tolist() == [int(one.steps) for one in each]
    assert whole.steps[1] == 1 < int(whole.steps.max())
    assert torch.allclose(whole.x, torch.cat([one.x for one in each]), rtol=1e-12)


def test_samples_of_zeros_and_those_that_are_not_finite_stay_at_zero():
    matrix, b = systems(torch.float64)
    b[0], b[2, 1] = 0, torch.nan
    found = solve(matrix, b)
    assert found.steps[[0, 2]].tolist() == [0, 0] and not found.x[[0, 2]].any()
    assert torch.equal(found.x[[1, 3]], solve(matrix[[1, 3]], b[[1, 3]]).x)


def test_number_of_steps_is_bounded():
    matrix, b = systems(torch.float64)
    assert solve(matrix, b, max_iter=2).steps.tolist() == [2] * len(b)
    none = solve(matrix, b, max_iter=0)
    assert not none.x.any() and torch.equal(none.residual, b)


def test_preconditioning_by_the_diagonal_is_a_change_of_variables():
    matrix, b = systems(torch.float64)
    scale = torch.logspace(0, 2, N_UNKNOWNS, dtype=torch.float64)
    badly = scale[:, None] * matrix * scale
    diagonal = badly.diagonal(dim1=-2, dim2=-1)
    root = diagonal.rsqrt()
    for steps in (1, 3):
        found = solve(badly, b, tol=0, max_iter=steps, precondition=lambda r: r / diagonal)
        changed = solve(root[:, :, None] * badly * root[:, None], root * b, tol=0, max_iter=steps)
        assert torch.allclose(found.x, root * changed.x, rtol=1e-10)
