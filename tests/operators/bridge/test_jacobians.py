"""Batched Jacobians and their products, against torch.func and dense matrices."""

import warnings

import odl
import pytest
import torch
from torch import nn

from genreg.operators import NetworkOperator, TorchOperator, gaussian_measurements, mask, to_torch
from genreg.operators.bridge.jacobians import columns, jacobian, linearise

K, SHAPE = 3, (4, 2)
BATCHES = [1, 7]


def net(outputs=8, shape=SHAPE):
    model = nn.Sequential(nn.Linear(K, 5), nn.Tanh(), nn.Linear(5, outputs), nn.Unflatten(1, shape))
    X = odl.uniform_discr([0] * len(shape), [3] * len(shape), shape)
    return NetworkOperator(model.double(), odl.rn(K), X)


def reference(op, z):
    """Jacobians of every sample by torch.func.jacrev, (B, m, n)."""

    def single(v):
        value = op(v[None])[0].flatten()
        return torch.view_as_real(value) if value.is_complex() else value

    J = torch.stack([torch.func.jacrev(single)(v) for v in z])
    return torch.complex(J[:, :, 0], J[:, :, 1]) if J.ndim > 3 else J


def points(batch):
    return torch.randn(batch, K, dtype=torch.float64)


@pytest.mark.parametrize("batch", BATCHES)
def test_forward_sweeps(batch):
    op, z = to_torch(net()), points(batch)
    J = jacobian(op, z)
    assert J.shape == (batch, 8, K) and not J.requires_grad
    torch.testing.assert_close(J, reference(op, z))
    torch.testing.assert_close(columns(op, z), J.permute(2, 0, 1).reshape(K, batch, *SHAPE))


@pytest.mark.parametrize("batch", BATCHES)
def test_reverse_sweeps_where_there_are_fewer_rows(batch, monkeypatch):
    op, z = to_torch(net(2, (2,))), points(batch)
    expected = reference(op, z)
    monkeypatch.setattr(torch.func, "jvp", None)  # not needed
    torch.testing.assert_close(jacobian(op, z), expected)


def test_little_memory_is_filled_in_several_sweeps(monkeypatch):
    op, z = to_torch(net()), points(2)
    monkeypatch.setattr("genreg.operators.bridge.jacobians._ENTRIES", 20)  # one column at a time
    torch.testing.assert_close(jacobian(op, z), reference(op, z))


def test_a_lack_of_memory_is_not_taken_for_a_missing_derivative():
    def fn(z):
        raise torch.OutOfMemoryError("full")

    with pytest.raises(torch.OutOfMemoryError, match="full"):
        columns(TorchOperator(fn, odl.rn(K), odl.rn(8)), points(2))


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("m", [2, 9])
def test_linear_operators_are_applied_to_the_unit_vectors(batch, m):
    A = gaussian_measurements(odl.uniform_discr(0, 6, K), m, seed=0)
    J = jacobian(to_torch(A), points(batch))
    torch.testing.assert_close(J, A.matrix.to(torch.float64).expand(batch, m, K))


class _Cubes(odl.Operator):
    """z -> (z³, 2z), known to ODL only."""

    def __init__(self, X, Y):
        super().__init__(X, Y, linear=False)

    def _call(self, x):
        z = x.asarray()
        return self.range.element([*(z**3), *(2 * z)])

    def derivative(self, point):
        z, X, Y = point.asarray(), self.domain, self.range
        weight = Y.cell_volume / X.cell_volume

        class Derivative(odl.Operator):
            def __init__(self):
                super().__init__(X, Y, linear=True)

            def _call(self, h):
                h = h.asarray()
                return Y.element([*(3 * z**2 * h), *(2 * h)])

            @property
            def adjoint(self):
                return Adjoint()

        class Adjoint(odl.Operator):
            def __init__(self):
                super().__init__(Y, X, linear=True)

            def _call(self, r):
                r = r.asarray()
                return X.element(weight * (3 * z**2 * r[:K] + 2 * r[K:]))

        return Derivative()


@pytest.mark.parametrize("batch", BATCHES)
def test_operators_that_only_odl_knows(batch):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # no native lowering, which is the point
        op = to_torch(_Cubes(odl.uniform_discr(0, 6, K), odl.uniform_discr(0, 1, 2 * K)))
    z = points(batch)
    expected = torch.cat((torch.diag_embed(3 * z**2), 2 * torch.eye(K).double().expand(batch, K, K)), 1)
    torch.testing.assert_close(jacobian(op, z), expected)
    _, push, pull = linearise(op, z)
    p, w = points(batch), torch.randn(batch, 2 * K, dtype=torch.float64)
    torch.testing.assert_close(push(p), (expected @ p[..., None])[..., 0])
    torch.testing.assert_close(pull(w), (w[:, None] @ expected)[:, 0])


class _ReverseOnly(torch.autograd.Function):
    @staticmethod
    def forward(ctx, z):
        ctx.save_for_backward(z)
        return torch.cat((z.sin(), z * z), -1)

    @staticmethod
    def backward(ctx, g):
        (z,) = ctx.saved_tensors
        return g[..., :K] * z.cos() + 2 * g[..., K:] * z


@pytest.mark.parametrize("batch", BATCHES)
def test_operators_without_forward_derivative_are_differentiated_row_by_row(batch):
    op = TorchOperator(_ReverseOnly.apply, odl.rn(K), odl.rn(2 * K))
    z = points(batch)
    expected = torch.cat((torch.diag_embed(z.cos()), torch.diag_embed(2 * z)), 1)
    torch.testing.assert_close(jacobian(op, z), expected)


@pytest.mark.parametrize("m", [2, 8])
@pytest.mark.parametrize("batch", BATCHES)
def test_complex_ranges(m, batch):
    W = torch.randn(m, K, dtype=torch.complex128)
    op = TorchOperator(lambda z: z.tanh().to(W.dtype) @ W.T, odl.rn(K), odl.cn(m))
    z = points(batch)
    J = jacobian(op, z)
    assert J.is_complex()
    torch.testing.assert_close(J, reference(op, z))
    _, push, pull = linearise(op, z)
    p, w = points(batch), torch.randn(batch, m, dtype=torch.complex128)
    torch.testing.assert_close(push(p), (J @ p[..., None].to(W.dtype))[..., 0])
    torch.testing.assert_close(pull(w), (J.mH @ w[..., None])[..., 0].real)


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize(
    "make",
    [
        net,
        lambda: gaussian_measurements(odl.uniform_discr(0, 6, K), 4, seed=1),
        lambda: mask(net().range, torch.arange(8).view(SHAPE) % 3 > 0) @ net(),
    ],
)
def test_products_are_transposed_to_each_other(make, batch):
    op, z = to_torch(make()), points(batch)
    value, push, pull = linearise(op, z)
    assert torch.equal(value, op(z)) and not value.requires_grad
    p, w = points(batch), torch.randn_like(value)
    image, back = push(p), pull(w)
    torch.testing.assert_close((image * w).flatten(1).sum(1), (p * back).sum(1))
    J = jacobian(op, z)
    torch.testing.assert_close(image.flatten(1), (J @ p[..., None])[..., 0])
    torch.testing.assert_close(pull(w), back)  # more than once
