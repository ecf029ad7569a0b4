"""Products with Jacobians, where forward differentiation works and where it does not."""

import odl
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from genreg import NetworkOperator, to_torch
from genreg.operators import derivative_test, dot_test
from genreg.operators.bridge import forward_derivative
from genreg.operators.bridge.forward_derivative import Pushforward, pushed_twice
from genreg.operators.bridge.jacobians import columns, jacobian, linearise


class Attention(nn.Module):
    """Fused attention between the pixels, whose forward derivative the CPU lacks."""

    def forward(self, x):
        t = x.flatten(2).mT[:, None]  # (B, 1, pixels, channels)
        found = F.scaled_dot_product_attention(t, t.sin(), t)
        return x + found[:, 0].mT.unflatten(2, x.shape[2:])


class Normalised(nn.Module):
    """Group normalisation of what lies in memory with the channels last, for which torch has no forward derivative."""

    def __init__(self):
        super().__init__()
        self.norm = nn.GroupNorm(2, 4).double()

    def forward(self, x):
        return self.norm(x.contiguous(memory_format=torch.channels_last)).sin()


class OnlyBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.square()

    @staticmethod
    def backward(ctx, g):
        return 2 * g * ctx.saved_tensors[0]


class Backward(nn.Module):
    def forward(self, x):
        return OnlyBackward.apply(x).cumsum(1)


MODULES = {"attention": Attention, "normalised": Normalised, "backward": Backward}
X = odl.uniform_discr([0, 0, 0], [1, 2, 3], (4, 2, 3))


def points(n, seed):
    return torch.randn(n, 4, 2, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("name", MODULES)
def test_derivatives_of_modules_without_forward_ones(name):
    op = NetworkOperator(MODULES[name](), X, X)
    x = X.element(points(1, 0)[0].numpy())
    derivative_test(op, x)
    dot_test(op.derivative(x))


@pytest.mark.parametrize("name", MODULES)
def test_all_ways_to_a_jacobian_agree(name):
    op = to_torch(NetworkOperator(MODULES[name](), X, X))
    z, p = points(2, 1), points(2, 2)
    one = torch.stack(
        [torch.autograd.functional.jacobian(lambda t: op(t[None])[0], sample).reshape(24, 24) for sample in z]
    )
    torch.testing.assert_close(jacobian(op, z), one)
    torch.testing.assert_close(columns(op, z).flatten(2), one.permute(2, 0, 1))
    expected = (one @ p.flatten(1)[..., None]).view_as(p)
    value, push, pull = linearise(op, z)
    torch.testing.assert_close(value, op(z))
    for _ in range(2):  # the second one knows how
        torch.testing.assert_close(push(p), expected)
    torch.testing.assert_close(pull(p), (one.mT @ p.flatten(1)[..., None]).view_as(p))


def test_two_reverse_differentiations_of_what_does_not_depend_on_the_point_and_of_complex_values():
    z = points(2, 3)
    push = pushed_twice(lambda t: (torch.ones_like(t), 1j * t**2), z)
    constant, square = push(z)
    assert not constant.any()
    torch.testing.assert_close(square, 2j * z**2)
    assert not pushed_twice(lambda t: torch.ones_like(t), z)(z).any()


def test_memory_that_runs_out_is_no_lack_of_a_derivative(monkeypatch):
    def fail(*_):
        raise torch.OutOfMemoryError("full")

    monkeypatch.setattr(forward_derivative, "pushed_forward", fail)
    with pytest.raises(torch.OutOfMemoryError, match="full"):
        Pushforward(torch.sin, points(1, 0))(points(1, 1))
