"""Total variation: values of ODL, and the prox against a primal-dual solve."""

import odl
import pytest
import torch

from genreg import TotalVariation
from genreg.operators import to_torch
from genreg.operators.lowering.total_variation import total_variation

from ...refusals import refuses

SPACES = [
    odl.uniform_discr([0, 0], [1, 3], (6, 5)),  # cells of 1/6 x 3/5
    odl.uniform_discr(0, 4, 9),
    odl.uniform_discr([-3, -3], [3, 3], (6, 6)),  # weight 1
]


@pytest.fixture(name="X", params=SPACES, ids=["weighted", "line", "unit"])
def space(request):
    return request.param


def test_values_are_those_of_odl(X):
    D = odl.Gradient(X, method="forward", pad_mode="symmetric")
    t = torch.randn(3, *X.shape, dtype=torch.float64)
    expected = to_torch(odl.functionals.GroupL1Norm(D.range) * D)(t)
    assert torch.allclose(total_variation(X)(t), expected)


def brute_force(X, t, step):
    """Minimise step TV(u) + ½ ‖u - t‖² over samples by Newton's method: the weight of X cancels."""
    D = odl.Gradient(X, method="forward", pad_mode="symmetric")
    matrix = to_torch(D)(torch.eye(X.size, dtype=torch.float64).view(-1, *X.shape)).flatten(2)  # (n, d, n)
    matrix, target = matrix.permute(1, 2, 0), t.flatten()
    u, smoothing = target.clone(), 1.0
    while smoothing > 1e-13:  # Newton's method on sqrt(|Du|^2 + smoothing), the smoothing going to zero
        for _ in range(30):
            v = matrix @ u  # (d, n)
            length = (v.square().sum(0) + smoothing).sqrt()
            gradient = u - target + step * (matrix.mT @ (v / length)[..., None]).sum(0)[:, 0]
            if gradient.norm() < 1e-12:
                break
            d = len(v)
            curvature = torch.eye(d, dtype=v.dtype)[..., None] / length - v[:, None] * v[None] / length**3
            hessian = step * torch.einsum("apn,abp,bpm->nm", matrix, curvature, matrix)
            direction = torch.linalg.solve(hessian + torch.eye(len(u), dtype=v.dtype), -gradient)
            tau, slope = 1.0, float(gradient @ direction)

            def value(w, smoothing=smoothing):
                return (
                    step * ((matrix @ w).square().sum(0) + smoothing).sqrt().sum()
                    + 0.5 * (w - target).square().sum()
                )

            while tau > 1e-6 and value(u + tau * direction) > value(u) + 1e-4 * tau * slope:
                tau /= 2
            u = u + tau * direction
        smoothing /= 16
    return u.view(X.shape)


def test_prox_against_brute_force_for_every_sample(X):
    t, step = torch.randn(2, *X.shape, dtype=torch.float64), torch.tensor([0.02, 0.1], dtype=torch.float64)
    u = total_variation(X, iterations=5000, rtol=1e-9).prox(t, step)
    for k in range(2):
        assert torch.allclose(u[k], brute_force(X, t[k], float(step[k])), atol=1e-5)
    few = total_variation(X, iterations=25, rtol=0.0).prox(t, step)
    number = total_variation(X, iterations=25, rtol=0.0).prox(t[1:], 0.1)
    assert torch.allclose(number[0], few[1])
    factors = torch.tensor([0.8, 4.0], dtype=torch.float64)
    assert torch.allclose(total_variation(X, iterations=25, rtol=0.0).scaled(factors).prox(t, 0.025), few)


def test_calls_go_on_where_the_last_one_ended():
    X = SPACES[0]
    t, step = torch.randn(2, *X.shape, dtype=torch.float64), 0.1
    exact = total_variation(X, iterations=5000, rtol=1e-6).prox(t, step)
    few = total_variation(X, iterations=10)
    errors = [(few.prox(t, step) - exact).norm() for _ in range(60)]
    assert errors[-1] < 0.05 * errors[0]
    taken = few.take(torch.tensor([1]))
    assert (taken.prox(t[1:], step) - exact[1:]).norm() < 0.05 * errors[0]
    assert (few.prox(t[:1], step) - exact[:1]).norm() > 0.1 * errors[0]  # another batch starts from zero


@refuses(
    ({"space": odl.rn(4)}, TypeError, "space must be a discretised function space"),
    ({"space": SPACES[1], "iterations": 0}, ValueError, "iterations must be a positive integer, got 0"),
)
def test_bad_arguments(arguments):
    total_variation(**arguments)


def test_the_proximal_operator_is_a_function(X):
    """ODL's factory of it, and what is lowered, against brute force; another call before changes nothing."""
    t, other = torch.randn(2, *X.shape, dtype=torch.float64)
    prox = TotalVariation(X).proximal(0.3)
    x = prox(X.element(t.numpy()))
    assert torch.allclose(torch.tensor(x.asarray()), brute_force(X, t, 0.3), atol=1e-4)
    prox(X.element(other.numpy()))
    assert (prox(X.element(t.numpy())) - x).norm() == 0
    assert torch.allclose(to_torch(prox)(t[None])[0], torch.tensor(x.asarray()))


def test_where_there_is_no_proximal_operator():
    complex_ = odl.uniform_discr([0, 0], [1, 3], (6, 5), dtype="complex128")
    for R in (TotalVariation(SPACES[0], lower=0.0), TotalVariation(complex_)):
        with pytest.raises(NotImplementedError, match="no proximal operator is known for TotalVariation"):
            R.proximal  # noqa: B018
        assert not to_torch(R).has_prox
    with pytest.raises(ValueError, match="sigma must be positive and finite, got -1"):
        TotalVariation(SPACES[0]).proximal(-1)
