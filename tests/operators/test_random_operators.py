"""Every operator of `genreg.operators` on random spaces: adjoints, batches, and arguments that stay as they are."""

import math

import numpy as np
import odl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from odl.applications import tomo
from torch import nn

from genreg.operators import (
    DenseCholeskyPrecision,
    DiagonalPrecision,
    IsotropicPrecision,
    NetworkOperator,
    SparseCholeskyPrecision,
    blur,
    dot_test,
    fourier_sampling,
    gaussian_measurements,
    mask,
    normalised,
    nufft,
    ray_transform,
    riesz,
    to_element,
    to_tensor,
    to_torch,
    torch_dtype,
)

from .precisions import later
from .samples import close, random, samples, stacked, unchanged
from .strategies import BATCHES, SEEDS, is_complex, tensor_spaces

# ODL warns about arrays of two or three entries, which are tested on purpose.
pytestmark = pytest.mark.filterwarnings("ignore:Very short array:UserWarning")


@st.composite
def image_spaces(draw, kinds=("real", "complex", "parts"), square=False):
    """Spaces of images (n, m), real or complex, or of their two parts (2, n, m)."""
    kind, double = draw(st.sampled_from(kinds)), draw(st.booleans())
    shape = tuple(draw(st.lists(st.integers(2, 6), min_size=2, max_size=2)))
    dtype = {True: ("float64", "complex128"), False: ("float32", "complex64")}[double][kind == "complex"]
    impl = draw(st.sampled_from(["numpy", "pytorch"]))
    if kind == "parts":
        return odl.rn((2, *shape), dtype=dtype, impl=impl, weighting=draw(st.sampled_from([None, 0.3])))
    sides = (0.7, 0.7) if square else draw(st.permutations([0.4, 1.7]))
    corner = [n * s for n, s in zip(shape, sides, strict=True)]
    return odl.uniform_discr([0, 0], corner, shape, dtype=dtype, impl=impl)


def keep(draw, shape):
    """A mask with at least one entry."""
    chosen = np.random.default_rng(draw(SEEDS)).random(shape) < draw(st.sampled_from([0.5, 0.1, 1.0]))
    chosen.flat[draw(st.integers(0, math.prod(shape) - 1))] = True
    return chosen


def coils(draw, shape):
    count = draw(st.integers(0, 3))
    rng = np.random.default_rng(draw(SEEDS))
    return rng.standard_normal((count, *shape)) + 1j * rng.standard_normal((count, *shape)) if count else None


@st.composite
def forward_operators(draw):
    """What the functions of `genreg.operators` make, sometimes divided by its norm."""
    kind = draw(st.sampled_from(["mask", "gaussian", "blur", "kernel", "fourier", "nufft", "ray"]))
    match kind:
        case "mask":
            space = draw(tensor_spaces())
            A = mask(space, keep(draw, space.shape))
        case "gaussian":
            A = gaussian_measurements(draw(tensor_spaces()), draw(st.integers(1, 5)), seed=draw(SEEDS))
        case "blur":
            space, std = draw(tensor_spaces()), draw(st.sampled_from([0.4, 1.5]))
            A = blur(space, std, boundary=draw(st.sampled_from(["periodic", "symmetric", "reflect", "zero"])))
        case "kernel":
            space, rng = draw(tensor_spaces()), np.random.default_rng(draw(SEEDS))
            size = [draw(st.integers(1, 4)) for _ in space.shape]
            kernel = rng.standard_normal(size) + (1j * rng.standard_normal(size) if is_complex(space) else 0)
            A = blur(space, kernel, boundary=draw(st.sampled_from(["periodic", "symmetric", "zero"])))
        case "fourier":
            space = draw(image_spaces())
            shape = space.shape[-2:]
            A = fourier_sampling(space, keep(draw, shape), coils=coils(draw, shape))
        case "nufft":
            pytest.importorskip("finufft")
            space, rng = draw(image_spaces()), np.random.default_rng(draw(SEEDS))
            trajectory = rng.uniform(-0.5, 0.5, (draw(st.integers(1, 3)), draw(st.integers(1, 4)), 2))
            density = rng.uniform(0.3, 2, trajectory.shape[:-1]) if draw(st.booleans()) else None
            accuracy = 1e-10 if torch_dtype(space).to_real() == torch.float64 else 1e-6
            options = {"coils": coils(draw, space.shape[-2:]), "density": density, "eps": accuracy}
            A = nufft(space, trajectory, **options)
        case "ray":
            pytest.importorskip("astra")
            space = draw(image_spaces(("real", "complex"), square=True))
            views = odl.uniform_partition(draw(st.sampled_from([0.0, 0.3])), 3.0, draw(st.integers(1, 4)))
            detector = odl.uniform_partition(-3, 3, draw(st.integers(3, 8)))
            if draw(st.booleans()):
                geometry = tomo.Parallel2dGeometry(views, detector)
            else:
                geometry = tomo.FanBeamGeometry(views, detector, src_radius=20, det_radius=10)
            A = ray_transform(space, geometry, cache=False)
    return normalised(A) if draw(st.booleans()) else A


@st.composite
def precisions(draw, lead=()):
    """Precisions on weighted spaces, with one set of parameters or `lead` of them."""
    kind = draw(st.sampled_from(["isotropic", "diagonal", "dense", "sparse"]))
    space = draw(
        image_spaces(("real", "parts")) if kind == "sparse" else tensor_spaces(("float64", "float32"))
    )
    generator, dtype = torch.Generator().manual_seed(draw(SEEDS)), torch_dtype(space)

    def noise(*shape):
        values = torch.randn((*lead, *shape), generator=generator, dtype=torch.float64)
        return 0.3 * values.to(dtype).to(space.device)

    match kind:
        case "isotropic":
            return IsotropicPrecision(space, noise().exp())
        case "diagonal":
            return DiagonalPrecision(space, noise(*space.shape))
        case "dense":
            return DenseCholeskyPrecision(
                space, torch.linalg.matrix_exp(noise(space.size, space.size).tril())
            )
        case "sparse":
            distance = draw(st.integers(0, min(2, *(n - 1 for n in space.shape[-2:]))))
            channels = space.shape[0] if space.ndim == 3 else 1
            count = channels * len(later(distance, 1)) + channels * (channels - 1) // 2
            weights = noise(count, *space.shape[-2:])
            return SparseCholeskyPrecision(space, noise(*space.shape), weights, distance=distance)


def check(A, batch, tol):
    """The adjoint is one, that of the adjoint is A, and samples do not see each other."""
    dot_test(A, rtol=tol)
    dot_test(A.adjoint, rtol=tol)
    for op, seed in ((A, 0), (A.adjoint, 1)):
        lowered, x, c = to_torch(op), random(op.domain, batch, seed), random(op.range, batch, seed + 2)
        points = samples(op.domain, x.clone())
        with unchanged(x, c, *map(to_tensor, points)):
            images = lowered(x)
            expected = stacked([op(p) for p in points], batch)
            back = torch.func.vjp(lowered.fn, x)[1](c)[0]
            twice = lowered.adjoint.adjoint(x)
        assert images.dtype == torch_dtype(op.range) and images.shape == batch + op.range.shape
        assert close(images, expected, tol) and close(twice, expected, tol)
        c = riesz(op.range, c)
        assert close(riesz(op.domain, back), lowered.adjoint(c), tol)


def accuracy(A):
    return 1e-8 if torch_dtype(A.domain).to_real() == torch.float64 else 1e-4


@given(forward_operators(), BATCHES)
def test_forward_operators(A, batch):
    check(A, batch, accuracy(A))
    assert A.adjoint.adjoint is A or isinstance(A, odl.OperatorLeftScalarMult)


@given(precisions(), BATCHES)
def test_precisions(P, batch):
    tol = 10 * accuracy(P)
    check(P, batch, tol)
    check(P.factor, batch, tol)
    r = random(P.domain, batch)
    with unchanged(r, *P.parameters.values()):
        assert close(P.solve(P.forward(r)), r, tol) and close(P.forward(P.solve(r)), r, tol)
        assert close(P.quadratic(r), (r * P.forward(r)).flatten(len(batch)).sum(-1), tol)
        assert close(P.colour(P.whiten(r)), r, tol) and close(P.uncolour(P.unwhiten(r)), r, tol)


@given(precisions(lead=(3,)), st.sampled_from([(), (2,)]))
def test_precisions_of_samples(P, batch):
    r = random(P.domain, (*batch, 3))
    for method in (
        P.forward,
        P.solve,
        P.whiten,
        P.unwhiten,
        P.colour,
        P.uncolour,
        P.quadratic,
        P.log_density,
    ):
        together = method(r)
        for i in range(3):
            one = getattr(P.take(i), method.__name__)(r[..., i, *(slice(None),) * P.domain.ndim])
            assert close(together.select(len(batch), i), one, accuracy(P))


@given(tensor_spaces(("float64", "float32")), tensor_spaces(("float64", "float32")), SEEDS, BATCHES)
def test_networks(X, Y, seed, batch):
    Y = Y.astype(X.dtype_identifier) if Y.dtype_identifier != X.dtype_identifier else Y
    generator = torch.Generator().manual_seed(seed)
    module = nn.Sequential(nn.Flatten(), nn.Linear(X.size, Y.size), nn.Tanh(), nn.Unflatten(1, Y.shape))
    with torch.no_grad():
        for p in module.parameters():
            p.copy_(0.5 * torch.randn(p.shape, generator=generator))
    F = NetworkOperator(module.to(torch_dtype(X)), X, Y)
    x, h = (to_element(X, random(X, seed=s)) for s in (0, 1))
    dot_test(F.derivative(x), rtol=accuracy(F))
    t, tol = random(X, batch), accuracy(F)
    points = samples(X, t.clone())
    with unchanged(t, *map(to_tensor, points)):
        assert close(to_torch(F)(t), stacked([F(p) for p in points], batch), tol)
        tangent = torch.func.jvp(to_torch(F).fn, (to_tensor(x)[None],), (to_tensor(h)[None],))[1][0]
        assert close(to_tensor(F.derivative(x)(h)), tangent, tol)
