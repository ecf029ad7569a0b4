"""Models of magnitudes with an unknown phase."""

import math

import odl
import pytest
import torch

from genreg import Generator, HardConstraint, JointPrior, reconstruct, to_torch
from genreg.networks import DenseConfig, FullyConvolutionalConfig, StructuredConfig, with_phase
from genreg.operators import derivative_test, dot_test, fourier_sampling

SHAPE = (10, 12)
X = odl.uniform_discr([0, 0], [1, 1], SHAPE, dtype="complex128")
MEAN = FullyConvolutionalConfig(image_shape=SHAPE, channels=(3, 4), latent_channels=1)
MODELS = {
    "isotropic": MEAN,
    "diagonal": StructuredConfig(mean=MEAN, channels=(4,), distance=0),
    "structured": StructuredConfig(mean=MEAN, channels=(4,), distance=2),
    "dilated": StructuredConfig(mean=MEAN, channels=(4,), distance=1, dilation=(1, 2)),
}
TURN = 1.3


def draw(*shape, seed=1):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def model_of(kind):
    model = MODELS[kind].build().double()
    with torch.no_grad():
        for k, (name, p) in enumerate(model.named_parameters()):
            if p.ndim:
                size = 0.03 if name.startswith("head.last") else 0.5 / max(p[0].numel(), 1) ** 0.5
                p.copy_(draw(*p.shape, seed=k) * size)
        last = [p for name, p in model.named_parameters() if name.startswith("decoder")][-1]
        last.add_(1.0)  # magnitudes
    return model


def phased(kind="isotropic", **settings):
    return with_phase(model_of(kind), **({"order": 3, "std": 1.0} | settings))


def test_phases_are_polynomials_with_their_deviations():
    model = phased()
    basis = model.phase.basis
    assert basis.shape == (10, *SHAPE) and model.latent_dim == model.model.latent_dim + 10
    u = (2 * torch.arange(10, dtype=torch.float64) + 1) / 10 - 1
    v = (2 * torch.arange(12, dtype=torch.float64) + 1) / 12 - 1
    assert basis[0].allclose(torch.full(SHAPE, 2 * math.pi, dtype=torch.float64))
    assert basis[1].allclose(v.expand(10, 12)) and basis[2].allclose(u[:, None].expand(10, 12))
    assert basis[3].allclose(((1.5 * v**2 - 0.5) / 2).expand(10, 12)) and basis[4].allclose(
        u[:, None] * v / 2
    )
    assert basis[6].allclose(((2.5 * v**3 - 1.5 * v) / 3).expand(10, 12))
    z = draw(2, model.latent_dim)
    own, phase = model.parts(z)
    x = torch.complex(*model.decode(z).unbind(1))
    torch.testing.assert_close(x, model.model.decode(own) * torch.polar(torch.ones_like(phase), phase))


@pytest.mark.parametrize("kind", MODELS)
def test_the_factor_is_that_of_the_magnitudes_turned_back(kind):
    G, real = Generator(phased(kind), X), Generator(model_of(kind), odl.rn(SHAPE))
    z = draw(2, *G.domain.shape)
    own, phase = G.model.parts(z)
    P, Q = G.decode(z).precision, real.decode(own).precision
    r = torch.complex(draw(2, *SHAPE, seed=3), draw(2, *SHAPE, seed=4))
    back = r * torch.polar(torch.ones_like(phase), -phase)
    torch.testing.assert_close(P.log_density(r), Q.log_density(back.real) + Q.log_density(back.imag))
    derivative_test(G)
    dot_test(G.derivative(z[0].numpy()))
    if G.structured:
        c = z.requires_grad_()
        slope = torch.autograd.grad(G.decode(c).precision.log_density(r).sum(), c)[0]
        step = draw(*z.shape, seed=5)
        at = lambda t: G.decode(c.detach() + t * step).precision.log_density(r).sum()  # noqa: E731
        torch.testing.assert_close((slope * step).sum(), (at(1e-5) - at(-1e-5)) / 2e-5, rtol=1e-5, atol=1e-4)


def test_the_encoder_finds_the_phase_of_large_slopes():
    """Wraps do not matter while neighbours differ by less than half a turn; nor does the scale of the image."""
    model = with_phase(
        FullyConvolutionalConfig(image_shape=(40, 32), channels=(3,)).build().double(), std=1.0
    )
    c = 4 * draw(3, 15, seed=2)
    phase = model.phase(c)
    assert float(phase.amax() - phase.amin()) > 6 * math.pi and float(phase.diff(dim=1).abs().max()) < 3
    magnitude = draw(3, 40, 32).abs()
    magnitude[:, 10:14] = 0
    x = torch.polar(magnitude, phase)
    for scale in (1.0, 1e-9, 1e9):
        found = model.phase.fit(scale * x)
        torch.testing.assert_close(
            torch.exp(1j * model.phase(found)), torch.exp(1j * phase), rtol=0, atol=1e-3
        )
    assert found[:, 0].abs().max() <= 0.5 and torch.isfinite(model.phase.fit(0 * x)).all()
    z = model.encode(torch.stack((x.real, x.imag), 1))
    torch.testing.assert_close(z[:, :-15], model.model.encode(magnitude), rtol=0, atol=1e-2)
    one = model.phase.fit(x[1:2])
    torch.testing.assert_close(one, model.phase.fit(x)[1:2])


def test_any_size():
    model = phased("structured")
    other = model.at((2, 7, 9))
    assert model.any_size and other.image_shape == (2, 7, 9)
    assert other.latent_dim == other.model.latent_dim + 10
    assert {p.data_ptr() for p in other.parameters()} == {p.data_ptr() for p in model.parameters()}
    small = odl.cn((7, 9))
    assert Generator(model, small).domain.size == other.latent_dim
    dense = DenseConfig(image_shape=SHAPE, latent_dim=2, encoder=(3,), decoder=(3,)).build().double()
    assert not with_phase(dense).any_size and Generator(with_phase(dense), X).domain.size == 17


@pytest.mark.parametrize("regulariser", [HardConstraint, JointPrior])
def test_turned_data_have_the_turned_image(regulariser):
    """Another constant phase of k-space changes that of the image, and a scale of k-space its scale."""
    model = phased("structured" if regulariser is JointPrior else "isotropic")
    G, H = Generator(model, X), Generator(model, X, scale=250.0)
    mask = torch.rand(SHAPE, generator=torch.Generator().manual_seed(0)) < 0.7
    A = fourier_sampling(X, mask)
    z = draw(1, *G.domain.shape, seed=6)
    y = to_torch(A)(G.decode(z).mean)
    options = {
        "lam": 1.0,
        "max_iter": 4 if regulariser is JointPrior else 40,
        "tol": 1e-5,
        "progress": False,
    }
    a = reconstruct(A, y, regulariser(G), noise_std=0.02, **options)
    factor = 250 * complex(math.cos(TURN), math.sin(TURN))
    b = reconstruct(A, factor * y, regulariser(H), noise_std=250 * 0.02, **options)
    scale = a.image.abs().max()
    # the constant is white with a deviation of a whole turn, so that its term differs by 1/8 at most
    assert float((b.image / factor - a.image).abs().max() / scale) < 0.02
    error = (a.image - G.decode(z).mean).abs().square().mean() / a.image.abs().square().mean()
    assert float(error) < 0.02


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"order": 0}, ValueError, "order must be a positive integer|order must be at least 1"),
        ({"std": 0.0}, ValueError, "std must be positive"),
        (
            {"model": torch.nn.Identity()},
            TypeError,
            "model must be a module with decode and encode, got Identity",
        ),
        (
            {"model": FullyConvolutionalConfig(image_shape=(2, 8, 8), channels=(3,)).build()},
            ValueError,
            "model must make images .* of magnitudes, got the shape",
        ),
    ],
)
def test_what_is_refused(change, error, message):
    with pytest.raises(error, match=message):
        with_phase(**({"model": model_of("isotropic")} | change))
    with pytest.raises(ValueError, match=r"image_shape must be \(2, n, m\), real and imaginary part"):
        phased().at((8, 8))
