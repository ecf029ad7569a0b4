"""Large images by tiles: the values and gradients of the whole, from the memory of a tile."""

import math
import weakref

import odl
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from genreg import Generator, HardConstraint, reconstruct, solvers
from genreg.networks import DenseConfig, FullyConvolutionalConfig, StructuredConfig
from genreg.networks.tiled import Tiled
from genreg.operators import derivative_test, mask

SMALL = {"channels": (3, 4), "latent_channels": 2, "image_shape": (16, 16)}
TOP = {"top_channels": (3,), "top_latent_channels": 2}
CONFIGS = {
    "one level": FullyConvolutionalConfig(**SMALL),
    "two levels": FullyConvolutionalConfig(**SMALL, **TOP),
    "points": FullyConvolutionalConfig(**SMALL, variational=False),
    "channels": FullyConvolutionalConfig(**SMALL | {"image_shape": (2, 16, 16)}),
    "structured": StructuredConfig(mean=FullyConvolutionalConfig(**SMALL), channels=(3, 4, 3), distance=1),
    "diagonal": StructuredConfig(mean=FullyConvolutionalConfig(**SMALL, **TOP), channels=(3,), distance=0),
}
SIZE = (21, 150)


def random(model, seed=0):
    """The model with random weights, none zero, in double precision."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.double().parameters():
            fan = max(p[0].numel(), 1) if p.ndim else 1
            p.copy_(torch.randn(p.shape, generator=generator, dtype=p.dtype) * 0.7 / math.sqrt(fan))
    return model.eval()


def draw(*shape, seed=1):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture(name="model", params=CONFIGS)
def whole(request):
    model = random(CONFIGS[request.param].build())
    return model.at((*model.image_shape[:-2], *SIZE))


def assert_same(a, b):
    torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-12)


def test_tiles_are_the_whole(model):
    """Images, codes and factors at sides that are multiples of nothing, and the gradient of an image."""
    tiled = Tiled(model, 9)
    z = draw(2, model.latent_dim).requires_grad_()
    x, y = model.decode(z), tiled.decode(z)
    assert_same(y, x)
    w = draw(*x.shape, seed=2)
    (wanted,) = torch.autograd.grad(x, z, w)
    for _ in range(2):  # a Gauss-Newton step pulls back more than once
        assert_same(torch.autograd.grad(y, z, w, retain_graph=True)[0], wanted)
    x = x.detach()
    assert_same(tiled.encode(x), model.encode(x))
    if model.variational:
        for a, b in zip(tiled.encode_distribution(x), model.encode_distribution(x), strict=True):
            assert_same(a, b)
    assert hasattr(tiled, "factor_of") == hasattr(model, "factor_of")
    if hasattr(model, "factor_of"):
        for ours, plain in (
            (tiled.factor_of(x), model.factor_of(x)),
            (tiled.decode_factor(z), model.decode_factor(z)),
        ):
            assert_same(ours[0], plain[0])
            assert (ours[1] is None) == (plain[1] is None)
            if ours[1] is not None:
                assert_same(ours[1], plain[1])
    other = tiled.at(CONFIGS["one level"].image_shape if x.ndim == 3 else (2, 16, 16))
    assert other.reach == tiled.reach and other.image_shape[-2:] == (16, 16)


def test_the_margins_are_needed():
    """One cell less is not the whole: the reach that was measured is not too large by more than its rounding."""
    model = random(CONFIGS["one level"].build()).at((8, 160))
    tiled, z = Tiled(model, 8), draw(1, model.at((8, 160)).latent_dim)
    assert tiled.cell == 4
    for kind, run in {"decode": model.decode, "encode": model.encode}.items():
        t = z if kind == "decode" else draw(1, 8, 160)
        exact, reach = run(t), tiled.reach[kind]
        assert_same(getattr(tiled, kind)(t), exact)
        tiled.reach = tiled.reach | {kind: reach - 1}
        assert (getattr(tiled, kind)(t) - exact).abs().max() > 1e-9
        tiled.reach = tiled.reach | {kind: reach}


class Peak(TorchDispatchMode):
    """The largest number of bytes of tensors that were alive at once."""

    def __init__(self):
        super().__init__()
        self.now = self.most = 0
        self.seen = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for t in out if isinstance(out, tuple | list) else (out,):
            if isinstance(t, torch.Tensor):
                self.add(t.untyped_storage())
        return out

    def add(self, storage):
        key, size = storage.data_ptr(), storage.nbytes()
        if size and key not in self.seen:
            self.seen.add(key)
            self.now += size
            self.most = max(self.most, self.now)
            weakref.finalize(storage, self.remove, key, size)

    def remove(self, key, size):
        self.seen.discard(key)
        self.now -= size


def test_a_gradient_takes_the_memory_of_a_tile():
    model, most = random(CONFIGS["one level"].build()).at((16, 1024)), []
    for made in (model, Tiled(model, 32)):
        z = draw(1, model.latent_dim).requires_grad_()
        with Peak() as peak:
            torch.autograd.grad(made.decode(z).square().sum(), z)
        most.append(peak.most / (16 * 1024 * 8))  # in images
    assert most[1] < 5 < 14 < most[0], most  # some three are the image, its square and what is pulled back


def test_a_generator_by_tiles():
    """In other units, as an operator with its derivative, and in the solvers."""
    X = odl.uniform_discr([0, 0], [1, 2], (12, 44))
    model = random(CONFIGS["structured"].build())
    units = {"scale": 20.0, "offset": -3.0}
    plain, tiled = Generator(model, X, **units), Generator(model, X, tile=8, **units)
    z = draw(2, plain.domain.size)
    a, b = plain.decode(z), tiled.decode(z)
    assert_same(a.mean, b.mean)
    assert_same(a.precision.logdet(), b.precision.logdet())
    assert_same(plain.encode(a.mean), tiled.encode(a.mean))
    derivative_test(tiled)
    A = mask(X, torch.rand(12, 44, generator=torch.Generator().manual_seed(0)) < 0.5)
    y = draw(2, *A.range.shape)
    for solver in (solvers.quasi_newton, solvers.gauss_newton):
        found = [
            reconstruct(
                A, y, HardConstraint(G), noise_std=1.0, lam=0.5, solver=solver, max_iter=3, progress=False
            )
            for G in (plain, tiled)
        ]
        torch.testing.assert_close(found[0].image, found[1].image, rtol=1e-6, atol=1e-6)


class Global(nn.Module):
    """A model whose images depend on the mean of the latent image."""

    def __init__(self, model):
        super().__init__()
        self.model = model
        self.any_size, self.levels, self.latent_dim = True, model.levels, model.latent_dim
        self.image_shape = model.image_shape

    def at(self, shape):
        return Global(self.model.at(shape))

    def decode(self, z):
        return self.model.decode(z - z.mean(1, keepdim=True))


def test_what_cannot_be_taken_by_tiles():
    model = random(CONFIGS["one level"].build())
    with pytest.raises(
        ValueError, match="tile must be None for Global: what it makes of a place depends on more"
    ):
        Tiled(Global(model), 8)
    dense = DenseConfig(image_shape=(8, 8), latent_dim=2).build()
    X = odl.rn((8, 8), dtype="float32")
    with pytest.raises(
        ValueError, match="tile must be None for Autoencoder, which does not decode images of any"
    ):
        Generator(dense, X, tile=4)
    for bad in (0, 2.5, "8"):
        with pytest.raises((TypeError, ValueError), match=r"tile must be a(n| positive) integer"):
            Tiled(model, bad)
