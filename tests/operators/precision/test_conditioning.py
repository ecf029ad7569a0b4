import numpy as np
import odl
import pytest
import torch

from genreg.operators import SparseCholeskyPrecision, condition
from genreg.operators.precision import conditioning

from ..precisions import Case

METHODS = ["direct", "cg"]


def dense(case, index, mean, known, values):
    """Mean and covariance of the unknown pixels by the formulas with the covariance."""
    L = case.factor()[index] if case.batch else case.factor()
    covariance = torch.linalg.inv(L @ L.mT)
    k = known.expand(case.shape).flatten()
    gain = covariance[~k][:, k] @ torch.linalg.inv(covariance[k][:, k])
    expected = mean.flatten().clone()
    expected[~k] += gain @ (values - mean).flatten()[k]
    expected[k] = values.flatten()[k]
    return expected.reshape(case.shape), covariance[~k][:, ~k] - gain @ covariance[k][:, ~k]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["isotropic", "diagonal", "dense", "d2", "dilations", "two channels"])
@pytest.mark.parametrize("batch", [(), (3,)])
def test_mean_and_samples(name, batch, method):
    case = Case(name, batch)
    mean, values = case.images(seed=1), case.images(seed=2)
    known = torch.rand(case.shape, generator=torch.Generator().manual_seed(3)) < 0.4
    values = torch.where(known, values, np.nan)  # what is unknown must not be read
    conditional = condition(case.make(), mean, known, values, method=method, tol=1e-11)
    draws = conditional.sample(1000, 0)
    assert draws.shape == (1000, *batch, *case.shape)
    assert conditional.sample(4, 0).equal(conditional.sample(4, torch.Generator().manual_seed(0)))
    for index in np.ndindex(batch):
        expected, covariance = dense(case, index, mean[index], known, values[index].nan_to_num())
        torch.testing.assert_close(conditional.mean[index], expected, rtol=1e-8, atol=1e-8)
        own = draws[(slice(None), *index)]
        assert bool((own[:, known] == values[index][known]).all())
        std = covariance.diagonal().sqrt()
        free = own[:, ~known] - expected[~known]
        assert float((free.mean(0) / std).abs().max()) < 5 / 1000**0.5
        assert (
            float(((free.T.cov() - covariance) / torch.outer(std, std)).abs().max()) < 5 * (2 / 1000) ** 0.5
        )
        one = condition(
            case.make().take(*index) if batch else case.make(), mean[index], known, values[index], tol=1e-11
        )
        torch.testing.assert_close(one.mean, conditional.mean[index], rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("method", METHODS)
def test_batches_broadcast(method):
    case = Case("d2")
    P, known = case.make(), torch.zeros(case.shape, dtype=torch.bool)
    known[:, 1] = True
    values, mean = case.images(4), case.images()
    conditional = condition(P, mean, known, values, method=method, tol=1e-11)
    assert conditional.mean.shape == (4, *case.shape) and conditional.sample(2, 0).shape == (
        2,
        4,
        *case.shape,
    )
    for k in range(4):
        one = condition(P, mean, known, values[k], method=method, tol=1e-11)
        torch.testing.assert_close(one.mean, conditional.mean[k], rtol=1e-8, atol=1e-8)
    batched = Case("d2", (3,))
    conditional = condition(batched.make(), mean, known, values[0], method=method, tol=1e-11)
    assert conditional.mean.shape == (3, *case.shape)
    one = condition(batched.make().take(2), mean, known, values[0], method=method, tol=1e-11)
    torch.testing.assert_close(one.mean, conditional.mean[2], rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("method", METHODS)
def test_masks(method):
    case = Case("two channels")
    P, mean, values = case.make(), case.images(seed=1), case.images(seed=2)
    none = condition(P, mean, np.zeros(case.shape, dtype=bool), values, method=method, tol=1e-11)
    torch.testing.assert_close(none.mean, mean)
    torch.testing.assert_close(
        none.sample(2, 0) - mean, P.solve(P.unwhiten(none_noise(case))), rtol=1e-8, atol=1e-8
    )
    full = condition(P, mean, np.ones(case.shape, dtype=bool), values, method=method)
    assert full.mean.equal(values) and bool((full.sample(3, 0) == values).all())
    image = torch.zeros(case.shape[1:], dtype=torch.bool)  # one mask for all channels
    image[1] = True
    both = condition(P, mean, image, values, method=method, tol=1e-11)
    same = condition(P, mean, image.expand(case.shape), values, method=method, tol=1e-11)
    assert both.mean.equal(same.mean) and both.mean[:, 1].equal(values[:, 1])


def none_noise(case):
    return torch.randn((2, *case.shape), generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def smooth(n, batch=(), dtype="float32"):
    """A precision with a correlation length of several pixels."""
    generator = torch.Generator().manual_seed(0)
    weights = -0.24 + 0.02 * torch.randn((*batch, 4, n, n), generator=generator)
    return SparseCholeskyPrecision(
        odl.rn((n, n), dtype=dtype), torch.zeros(*batch, n, n), weights, distance=1
    )


def test_both_methods_agree_on_larger_images():
    P = smooth(32, (2,))
    generator = torch.Generator().manual_seed(1)
    known = torch.rand((32, 32), generator=generator) < 0.1
    known[8:20, 8:20] = False
    values, mean = P.sample(1, generator)[0], torch.zeros(32, 32)
    direct, cg = (condition(P, mean, known, values, method=m, tol=1e-5) for m in METHODS)
    for a, b in ((direct.mean, cg.mean), (direct.sample(3, 0), cg.sample(3, 0))):
        assert a.dtype == torch.float32
        error = ((a - b) * ~known).double()
        wide = smooth(32, (2,), "float64")
        # in conditional standard deviations, as `tol` has it
        assert float((wide.quadratic(error) / 32**2).sqrt().max()) < 1e-4
    assert float(direct.sample(50, 0).std(0)[:, ~known].mean()) > 0.5


def test_the_method_follows_the_size(monkeypatch):
    P = smooth(8)
    values, known = torch.zeros(8, 8), torch.eye(8, dtype=torch.bool)
    kind = lambda: type(condition(P, values, known, values)._solver).__name__  # noqa: E731
    assert kind() == "_Direct"
    monkeypatch.setattr(conditioning, "_DIRECT", 55)
    assert kind() == "_Iterative"


def test_unfinished_conjugate_gradients_are_reported():
    P = smooth(16)
    generator = torch.Generator().manual_seed(1)
    values, known = (
        10 * torch.randn(16, 16, generator=generator),
        torch.rand(16, 16, generator=generator) < 0.3,
    )
    with pytest.warns(
        RuntimeWarning, match=r"conjugate gradients ended with an error of up to .* after max_iter = 2"
    ):
        condition(P, 0 * values, known, values, method="cg", max_iter=2)


def test_bad_input():
    case = Case("d1", (2,))
    P, x, known = case.make(), case.images(), torch.eye(4, 5, dtype=torch.bool)
    with pytest.raises(TypeError, match="precision must be a Precision, got Tensor"):
        condition(x, x, known, x)
    with pytest.raises(ValueError, match=r"method must be one of \['direct', 'cg'\], got 'qr'"):
        condition(P, x, known, x, method="qr")
    for options in ({"tol": 0}, {"tol": float("nan")}, {"max_iter": 0}):
        with pytest.raises(
            ValueError, match=r"(tol|max_iter) must be (positive and finite|a positive integer), got"
        ):
            condition(P, x, known, x, **options)
    with pytest.raises(ValueError, match=r"known must be boolean, or hold zeros and ones only"):
        condition(P, x, 2 * known.long(), x)
    for mask in (known.T, known[None, None]):
        with pytest.raises(ValueError, match=r"known must have the shape \(4, 5\) of the space, got"):
            condition(P, x, mask, x)
    for name, arguments in (("mean", (x[..., :3], known, x)), ("values", (x, known, x[0, 0]))):
        with pytest.raises(ValueError, match=f"`{name}` must have shape"):
            condition(P, *arguments)
    with pytest.raises(TypeError, match="`values` must be a torch tensor"):
        condition(P, x, known, x.numpy())
    with pytest.raises(ValueError, match=r"must have batches that broadcast, got \(2,\), \(2,\) and \(3,\)"):
        condition(P, x, known, case.images(3)[:, 0])
    with pytest.raises(ValueError, match="mean, and values at the known pixels, must be finite"):
        condition(P, x, known, x / 0)
    with pytest.raises(ValueError, match="n must be a positive integer, got 0"):
        condition(P, x, known, x).sample(0)
