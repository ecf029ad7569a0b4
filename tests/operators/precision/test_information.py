"""The information of data about a Gaussian image: dense matrices, the estimate and its error, units, batches."""

import pickle

import numpy as np
import odl
import pytest
import torch

from genreg.operators import SparseCholeskyPrecision, fourier_sampling, gaussian_measurements, mask, to_torch
from genreg.operators.precision.information import InformationGain

from ..precisions import NAMES, Case

LEVELS = torch.tensor([0.3, 4.0, 90.0], dtype=torch.float64)


def parameters(shape=(6, 5), distance=1, scale=1.0):
    torch.manual_seed(1)
    log_diag = 0.5 + 0.3 * torch.randn(3, *shape, dtype=torch.float64) - np.log(scale)
    weights = 0.4 * torch.randn(3, ((2 * distance + 1) ** 2 - 1) // 2, *shape, dtype=torch.float64) / scale
    return log_diag, weights


@pytest.fixture(name="X")
def space():
    return odl.uniform_discr([0, 0], [9, 5], (6, 5))


def precision(X, log_diag, weights):
    return SparseCholeskyPrecision(X, log_diag, weights, distance=1)


def dense(A, P, variances):
    """½ log det (I + Λ⁻¹ Aᵀ R⁻¹ A), one sample at a time."""
    eye = torch.eye(A.domain.size, dtype=torch.float64)
    rows = to_torch(A)(eye.unflatten(1, A.domain.shape)).flatten(1)
    inverse = variances.expand(3, *A.range.shape).flatten(1)
    if rows.is_complex():
        rows, inverse = torch.cat((rows.real, rows.imag), 1), inverse.repeat(1, 2)
    found = []
    for k in range(3):
        Lambda = (P.take(k) if P.batch else P).to_dense()
        found.append(0.5 * torch.logdet(eye + torch.linalg.solve(Lambda, (rows * inverse[k]) @ rows.T)))
    return torch.stack(found)


def operators(X):
    keep = np.arange(30).reshape(6, 5) % 3 > 0
    return {
        "identity": odl.IdentityOperator(X),
        "few": gaussian_measurements(X, 7, seed=0),
        "many": gaussian_measurements(X, 50, seed=0),
        "mask": mask(X, keep),
        "complex": fourier_sampling(X, keep),
    }


@pytest.mark.parametrize("name", ["identity", "few", "many", "mask", "complex"])
@pytest.mark.parametrize("each", [False, True], ids=["sample", "datum"])
def test_factorisation_equals_the_dense_matrix(X, name, each):
    A = operators(X)[name]
    P = precision(X, *parameters())
    level = LEVELS.view(-1, *(1,) * len(A.range.shape))
    if each:
        torch.manual_seed(0)
        level = level * torch.rand(3, *A.range.shape, dtype=torch.float64).round(
            decimals=1
        )  # some not measured
    found = InformationGain(A, exact=True)(P, level if each else LEVELS)
    torch.testing.assert_close(found, dense(A, P, level), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", NAMES)
def test_every_kind_of_precision(name):
    case = Case(name, (3,))
    P = case.make()
    A = odl.IdentityOperator(P.domain)
    level = LEVELS.view(-1, *(1,) * P.domain.ndim)
    exact = InformationGain(A, exact=True)(P, LEVELS)
    torch.testing.assert_close(exact, dense(A, P, level), rtol=1e-9, atol=1e-9)
    estimate = InformationGain(A, exact=False, probes=400, steps=40)
    error = estimate.standard_error(P, LEVELS)
    assert ((estimate(P, LEVELS) - exact).abs() <= 4 * error + 1e-9).all() and (
        error < 0.05 * exact + 0.1
    ).all()


@pytest.mark.parametrize("name", ["identity", "few", "complex"])
def test_the_estimate_is_within_its_standard_error(X, name):
    A, P = operators(X)[name], precision(X, *parameters())
    exact = InformationGain(A, exact=True)
    estimates = [InformationGain(A, exact=False, probes=40, steps=12, seed=s) for s in range(20)]
    found = torch.stack([e(P, LEVELS) for e in estimates])
    errors = torch.stack([e.standard_error(P, LEVELS) for e in estimates])
    assert (exact.standard_error(P, LEVELS) == 0).all()
    z = (found - exact(P, LEVELS)) / errors
    assert (z.abs() < 4.5).all() and (z.mean(0).abs() < 1.1).all() and (z.std(0) < 1.6).all()


def test_the_gradient_of_the_estimate_is_that_of_its_value(X):
    estimate = InformationGain(odl.IdentityOperator(X), exact=False, probes=2, steps=5)
    directions = parameters()
    base = [p + 0.1 for p in directions]

    def along(t):
        return estimate(precision(X, *(p + t * h for p, h in zip(base, directions, strict=True))), LEVELS)

    assert torch.autograd.gradcheck(along, (torch.zeros((), dtype=torch.float64, requires_grad=True),))


def test_the_gradient_of_the_factorisation(X):
    exact = InformationGain(gaussian_measurements(X, 7, seed=0), exact=True)
    log_diag, weights = (p.requires_grad_() for p in parameters())
    assert torch.autograd.gradcheck(
        lambda d, w: exact(precision(X, d, w), LEVELS), (log_diag, weights), fast_mode=True
    )


@pytest.mark.parametrize("exact", [True, False])
def test_few_data_exhaust_the_space_of_krylov(X, exact):
    A = gaussian_measurements(X, 2, seed=0)
    log_diag, weights = (p.requires_grad_() for p in parameters())
    P = precision(X, log_diag, weights)
    gain = InformationGain(A, exact=exact, probes=1000, steps=5)(P, LEVELS)
    torch.testing.assert_close(gain, dense(A, P, LEVELS.view(-1, 1)), rtol=0.03, atol=0)
    for g in torch.autograd.grad(gain.sum(), (log_diag, weights)):
        assert torch.isfinite(g).all()
    nothing = InformationGain(A, exact=exact)(P, 0 * LEVELS)
    torch.testing.assert_close(nothing, 0 * LEVELS, rtol=0, atol=1e-12)


@pytest.mark.parametrize("exact", [True, False])
def test_units_do_not_matter_and_a_batch_equals_its_samples(X, exact):
    A = gaussian_measurements(X, 12, seed=0)
    gain = InformationGain(A, exact=exact)
    found = gain(precision(X, *parameters()), LEVELS)
    images = precision(
        X, *parameters(scale=1e4)
    )  # of images in a unit that makes their numbers 10⁴ times as large
    torch.testing.assert_close(gain(images, LEVELS * 1e-8), found, rtol=1e-9, atol=1e-9)
    data = InformationGain(1e5 * A, exact=exact)
    torch.testing.assert_close(data(precision(X, *parameters()), LEVELS * 1e-10), found, rtol=1e-9, atol=1e-9)
    P = precision(X, *parameters())
    alone = torch.cat([gain(P.take(slice(k, k + 1)), LEVELS[k : k + 1]) for k in range(3)])
    torch.testing.assert_close(alone, found, rtol=1e-12, atol=0)
    again = pickle.loads(pickle.dumps(gain))
    assert torch.equal(again(P, LEVELS), found)


@pytest.mark.parametrize("exact", [True, False])
def test_a_bad_sample_stays_alone(X, exact):
    gain = InformationGain(odl.IdentityOperator(X), exact=exact)
    P = precision(X, *parameters())
    log_diag = P.log_diag.clone()
    log_diag[1, 2, 2] = torch.nan
    found = gain(P.with_parameters(log_diag=log_diag, weights=P.weights), LEVELS)
    assert found.isnan().tolist() == [False, True, False]
    torch.testing.assert_close(found[[0, 2]], gain(P, LEVELS)[[0, 2]])


def test_the_size_decides_and_bad_input_is_refused(X):
    assert (
        InformationGain(odl.IdentityOperator(X)).exact
        and InformationGain(odl.IdentityOperator(X)).probes == 8
    )
    large = odl.uniform_discr([0, 0], [1, 1], (256, 256), dtype="float32")
    of_large = InformationGain(odl.IdentityOperator(large))
    assert not of_large.exact and of_large.probes == 2
    assert torch.isinf(
        InformationGain(odl.IdentityOperator(X), exact=False, probes=1).standard_error(
            precision(X, *parameters()), LEVELS
        )
    ).all()
    with pytest.raises(TypeError, match="A must be a linear ODL operator"):
        InformationGain(odl.PowerOperator(X, 2))
    with pytest.raises(ValueError, match="probes must be a positive integer"):
        InformationGain(odl.IdentityOperator(X), probes=0)
