"""Generators of complex images: two channels of a model as real and imaginary part."""

import copy
import pickle

import odl
import pytest
import torch

from genreg import (
    GaussianFidelity,
    Generator,
    HardConstraint,
    JointPrior,
    RelaxedConstraint,
    SparseDeviation,
    load_generator,
    reconstruct,
    to_torch,
    weights,
)
from genreg.networks import FullyConvolutionalConfig, StructuredConfig
from genreg.operators import ComplexPrecision, derivative_test, dot_test, fourier_sampling
from genreg.operators.bridge.complex_parts import to_channels
from genreg.operators.bridge.product import product_space
from genreg.sampling import gibbs
from genreg.training import precision_of

SHAPE = (6, 10)
MEAN = FullyConvolutionalConfig(image_shape=(2, 8, 8), channels=(3, 4), latent_channels=2)
MODELS = {
    "isotropic": MEAN,
    "diagonal": StructuredConfig(mean=MEAN, channels=(4,), distance=0),
    "structured": StructuredConfig(mean=MEAN, channels=(4,), distance=1, coupled=True),
}
X = odl.uniform_discr([0, 0], [2, 3], SHAPE, dtype="complex128")
OPTIONS = {"lam": 1.0, "tol": 1e-5, "max_iter": 12, "progress": False}


def draw(*shape, seed=1):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def model_of(kind):
    model = MODELS[kind].build().double()
    with torch.no_grad():
        for k, (name, p) in enumerate(model.named_parameters()):
            if p.ndim:
                last = name.startswith("head.last")
                p.copy_(draw(*p.shape, seed=k) * (0.05 if last else 0.7 / max(p[0].numel(), 1) ** 0.5))
    return model


def generator(kind, **units):
    return Generator(model_of(kind), X, **units)


def operator():
    mask = torch.rand(SHAPE, generator=torch.Generator().manual_seed(0)) < 0.6
    return fourier_sampling(X, mask)


@pytest.mark.parametrize("kind", ["isotropic", "structured"])
def test_operator(kind):
    G = generator(kind)
    assert G.range == X and G.domain.field == odl.RealNumbers() and G.has_encoder
    z = draw(3, *G.domain.shape)
    mean = G.decode(z).mean
    own = model_of(kind).at((2, *SHAPE))
    assert mean.dtype == torch.complex128 and to_channels(mean).equal(own.decode(z))
    torch.testing.assert_close(G.encode(mean), own.encode(own.decode(z)))
    for k in range(3):
        torch.testing.assert_close(G.decode(z[k : k + 1]).mean[0], mean[k])
        torch.testing.assert_close(torch.as_tensor(G(z[k].numpy()).data), mean[k])
    derivative_test(G)
    dot_test(G.derivative(z[0].numpy()))
    derivative_test(G.encoder)
    dot_test(G.encoder.derivative(X.element(mean[0].numpy())))
    assert G.sample(2, seed=0).shape == (2, *SHAPE) and G.sample(2, seed=0).is_complex()
    for again in (pickle.loads(pickle.dumps(G)), copy.deepcopy(G)):
        assert torch.equal(to_torch(again)(z), mean)


@pytest.mark.parametrize("kind", MODELS)
def test_precision_is_that_of_the_two_channels(kind):
    G, own = generator(kind), model_of(kind).at((2, *SHAPE))
    z, r = draw(2, *G.domain.shape), torch.complex(draw(2, *SHAPE, seed=2), draw(2, *SHAPE, seed=3))
    P, expected = G.decode(z).precision, precision_of(own, own.decode(z))
    assert isinstance(P, ComplexPrecision) and P.domain == X and G.structured == (kind != "isotropic")
    torch.testing.assert_close(P.log_density(r), expected.log_density(to_channels(r)))
    torch.testing.assert_close(P.to_dense(), expected.to_dense())


REGULARISERS = {
    "hard": HardConstraint,
    "joint": JointPrior,
    "joint, given": lambda G: JointPrior(G, 50.0),
    "relaxed": lambda G: RelaxedConstraint(G, 0.1),
    "sparse": lambda G: SparseDeviation(G, 0.1),
    "sparse in its gradient": lambda G: SparseDeviation(G, 0.1, sparsity="tv"),
}


@pytest.mark.parametrize("kind", REGULARISERS)
def test_reconstructions_are_those_of_the_parts(kind):
    """The same problem for images of two channels, on which A acts by way of the complex ones."""
    G, A = generator("structured"), operator()
    truth = G.decode(draw(2, *G.domain.shape, seed=5)).mean
    y = to_torch(A)(truth) + 0.05 * torch.complex(draw(2, *A.range.shape), draw(2, *A.range.shape, seed=2))
    R = REGULARISERS[kind](G)
    options = OPTIONS | {"max_iter": 100 if kind == "hard" else 2}
    rec = reconstruct(A, y, R, noise_std=0.05, **options)
    assert rec.image.shape == truth.shape and rec.image.dtype == torch.complex128
    one = reconstruct(A, y[1], R, noise_std=0.05, **options)
    torch.testing.assert_close(one.image, rec.image[1], rtol=1e-5, atol=1e-6)
    if kind == "hard":  # against a descent that knows nothing of complex numbers
        error = (rec.image - truth).abs().square().mean() / truth.abs().square().mean()
        z = rec.blocks["z"].clone().requires_grad_()
        misfit = (to_torch(A)(to_torch(G)(z)) - y).abs().square().sum() / (2 * 0.05**2)
        slope = torch.autograd.grad(misfit + float(R.domain.weighting.const) * z.square().sum(), z)[0]
        assert float(slope.abs().max()) < 1e-2 * float(misfit.detach().sqrt()) and float(error) < 0.1


def test_the_joint_minimum_over_the_image_is_exact():
    """Given z, the image of the joint prior solves the normal equations of both parts."""
    G, A = generator("structured"), operator()
    y = to_torch(A)(G.decode(draw(1, *G.domain.shape, seed=5)).mean)
    rec = reconstruct(A, y, JointPrior(G), noise_std=0.05, **OPTIONS | {"max_iter": 3})
    x = rec.image.clone().requires_grad_()
    decoded = G.decode(rec.blocks["z"])
    misfit = (to_torch(A)(x) - y).abs().square().sum() / (2 * 0.05**2)
    J = misfit + 0.5 * decoded.precision.quadratic(x - decoded.mean).sum()
    assert float(torch.autograd.grad(J, x)[0].abs().max()) < 1e-5


@pytest.mark.parametrize(("kind", "regulariser"), [("isotropic", HardConstraint), ("structured", JointPrior)])
def test_rescaled_data_have_the_rescaled_image(kind, regulariser):
    G, H, s = generator(kind), generator(kind, scale=3e-5), 3e-5
    A = operator()
    y = to_torch(A)(G.decode(draw(2, *G.domain.shape, seed=5)).mean) + 0.1
    options = OPTIONS | {"max_iter": 4}
    a = reconstruct(A, y, regulariser(G), noise_std=0.1, **options)
    b = reconstruct(A, s * y, regulariser(H), noise_std=s * 0.1, **options)
    torch.testing.assert_close(b.image / s, a.image, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(b.blocks["z"], a.blocks["z"], rtol=1e-3, atol=1e-3)


def test_posterior_samples_have_their_closed_form():
    """With a decoder that is constant, the image given the data is Gaussian, and z is white."""
    model = model_of("structured")
    with torch.no_grad():
        for p in model.decoder.parameters():
            p.zero_()
        for p in model.head.parameters():
            p.mul_(0.3)
    G, A = Generator(model, X), operator()
    y = torch.complex(draw(2, *A.range.shape), draw(2, *A.range.shape, seed=2))
    fidelity = GaussianFidelity(A, y, 0.3)
    prior = JointPrior(G)
    z = torch.zeros(2, *G.domain.shape, dtype=torch.float64)
    found = gibbs(prior, fidelity, z, draws=4, burn_in=1, chains=60, seed=0, progress=False)
    posterior = prior.posterior(fidelity, z)
    assert found.x.shape == (4, 60, 2, *SHAPE) and found.x.is_complex()
    std = posterior.std(200, 0)
    error = (found.x.mean((0, 1)) - posterior.mean).abs() / std
    assert float(error.max()) < 5 / 240**0.5
    scores = ((found.x - posterior.mean).abs().square() / std.square()).mean((0, 1, 3, 4))
    assert float((scores - 1).abs().max()) < 0.1


def test_elements_go_in_and_come_out():
    G, A = generator("isotropic"), operator()
    y = A(G(draw(*G.domain.shape).numpy()))
    rec = reconstruct(A, y, JointPrior(G), noise_std=0.05, **OPTIONS | {"max_iter": 3})
    assert rec.image in X and rec.blocks["z"] in G.domain
    R = JointPrior(G)
    derivative_test(R)
    v = R.domain.element([rec.image, rec.blocks["z"]])
    assert R(v) == pytest.approx(
        float(R.smooth({"x": to_x(rec.image), "z": to_x(rec.blocks["z"])}, **R.parameters))
    )


def to_x(element):
    return torch.as_tensor(element.data)[None]


def test_products_of_real_and_complex_spaces():
    P = product_space(X, odl.rn(3))
    assert P.field == odl.RealNumbers() and P[0] == X and P == product_space(X, odl.rn(3))
    assert P != product_space(X, odl.rn(4)) and pickle.loads(pickle.dumps(P)) == P
    x, y = P.element([X.one() * 1j, [1.0, 2, 3]]), P.element([X.one(), [0.0, 1, 0]])
    assert x.inner(y) == 2.0 and x.norm() ** 2 == pytest.approx(float(X.one().norm()) ** 2 + 14)
    assert (x - y).norm() == pytest.approx(x.dist(y)) and (2 * x).norm() == pytest.approx(2 * x.norm())
    twice = product_space(odl.cn(3), odl.rn(3))
    assert not twice.is_power_space and type(product_space(X, X)) is odl.ProductSpace


def test_weights_of_two_channels_are_complex_by_default(tmp_path):
    model = model_of("structured").float()
    file, _ = weights.save(tmp_path / "two", model, {})
    G = load_generator(file)
    assert G.range.dtype == "complex64" and G.range.shape == (8, 8)
    assert load_generator(file, range=X).range == X
    assert weights.load(file)[0].config == model.config and model.config.coupled


def test_what_is_refused():
    model = model_of("isotropic")
    with pytest.raises(ValueError, match="offset must be 0 for complex images"):
        Generator(model, X, offset=1.0)
    grey = FullyConvolutionalConfig(image_shape=(8, 8), channels=(3,), latent_channels=2).build().double()
    with pytest.raises(ValueError, match="makes images of magnitudes, range is complex: networks"):
        Generator(grey, X)
    with pytest.raises(TypeError, match="range must be a real or complex space of floating type"):
        Generator(model, odl.tensor_space((2, 8, 8), dtype=int))
