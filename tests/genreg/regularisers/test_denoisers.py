"""Denoisers as regularisers: fixed points of linear ones in closed form, units, batches, complex images."""

import functools

import numpy as np
import odl
import pytest
import torch
from torch import nn

from genreg import (
    GaussianFidelity,
    LearnedRegulariser,
    PlugAndPlay,
    PoissonFidelity,
    RegularisationByDenoising,
    Tikhonov,
    reconstruct,
    solvers,
    sweep,
    to_torch,
)
from genreg.operators import derivative_test, gaussian_measurements, weight
from genreg.regularisers.identity import of_regulariser
from genreg.solvers import Status

SIGMA, STD = 0.3, 0.5  # of the data, and of the noise that the denoiser is for
QUIET = {"progress": False}
EXACT = {"progress": False, "tol": 1e-8, "max_iter": 1000}


def laplacian(n):
    """The Gramian of the differences of neighbours of a signal."""
    D = torch.eye(n, dtype=torch.float64)[1:] - torch.eye(n, dtype=torch.float64)[:-1]
    return D.T @ D


class Smoothing(nn.Module):
    """D(x, σ) = (I + σ² W)⁻¹ x, the posterior mean and the MAP estimate for the prior N(0, W⁻¹)."""

    def __init__(self, shape=(4, 5), std=None):
        super().__init__()
        n, m = shape
        W = torch.kron(laplacian(n), torch.eye(m)) + torch.kron(
            torch.eye(n, dtype=torch.float64), laplacian(m)
        )
        self.W = nn.Parameter(W + 0.3 * torch.eye(n * m))
        self.std = std  # of a blind one

    def forward(self, x, sigma=None):
        assert x.ndim == 4 and x.shape[1] == 1  # as public denoisers are called
        sigma = torch.full((len(x),), self.std, dtype=x.dtype) if sigma is None else sigma
        matrix = torch.eye(len(self.W), dtype=x.dtype) + sigma.square()[:, None, None] * self.W
        return torch.linalg.solve(matrix, x.flatten(1)[..., None]).view_as(x)


class Bent(nn.Module):
    """A nonlinear denoiser without a symmetric Jacobian."""

    image_shape = (4, 5)

    def forward(self, x, sigma):
        shifted = x.roll(1, -1) + 0.1 * x.roll(1, -2).sin()
        return x - 0.3 * (x - 0.8 * shifted) * (sigma / STD).view(-1, 1, 1)


def normal_equations(A, y, precision, w, lam):
    """The minimiser of ‖Ax - y‖² / (2σ²) + λ w xᵀ P x / 2."""
    M = to_torch(A)(torch.eye(20, dtype=torch.float64).unflatten(1, (4, 5))).T
    N = M.T @ M / SIGMA**2 + lam * w * precision
    return torch.linalg.solve(N, M.T @ y.T / SIGMA**2).T.unflatten(1, (4, 5))


def denoised(W, std=STD):
    return torch.linalg.inv(torch.eye(len(W), dtype=torch.float64) + std**2 * W)


@pytest.mark.parametrize(("lam", "blind"), [(2.0, False), (10.0, True)])
def test_a_linear_denoiser_is_tikhonov(A, X, y, lam, blind):
    """x - D(x) = (I - (I + σ² W)⁻¹) x in RED, and D is the prox of σ² <x, W x> / 2 in plug-and-play."""
    D, w = Smoothing(std=STD if blind else None), float(weight(X))
    W, options = D.W.detach(), {} if blind else {"noise_std": STD}
    eye = torch.eye(20, dtype=torch.float64)
    red = RegularisationByDenoising(D, X, **options)
    expected = normal_equations(A, y, eye - denoised(W), w, lam)
    run = {"noise_std": SIGMA, "lam": lam}
    found = {
        "red": reconstruct(A, y, red, **run, **EXACT),
        "damped": reconstruct(A, y, red, solver=functools.partial(solvers.red, damping=2.0), **run, **EXACT),
        "lbfgs": reconstruct(A, y, red, solver=solvers.lbfgs, **run, tol=1e-9, **QUIET),
    }
    for name, rec in found.items():
        assert name == "lbfgs" or bool((rec.status == Status.CONVERGED).all())
        torch.testing.assert_close(rec.image, expected, rtol=1e-5, atol=1e-6)
        value = to_torch(GaussianFidelity(A, y, SIGMA))(expected) + lam * to_torch(red)(expected)
        torch.testing.assert_close(rec.value, value)
    pnp = reconstruct(A, y, PlugAndPlay(D, X, **options), **run, **EXACT)
    assert bool((pnp.status == Status.CONVERGED).all())
    torch.testing.assert_close(pnp.image, normal_equations(A, y, STD**2 * W, w, lam), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(pnp.value, to_torch(GaussianFidelity(A, y, SIGMA))(pnp.image))


def test_the_value_of_red_and_its_gradient(X):
    R = RegularisationByDenoising(Smoothing(), X, noise_std=STD)
    x = X.element(np.random.default_rng(0).standard_normal((4, 5)))
    assert R(x) == pytest.approx(0.5 * x.inner(R.gradient(x)), rel=1e-12)
    derivative_test(R, x)
    both = GaussianFidelity(odl.IdentityOperator(X), x, SIGMA) + 0.3 * R
    derivative_test(both, 0.5 * x)
    bent = RegularisationByDenoising(Bent(), X, noise_std=STD)
    t = torch.from_numpy(x.asarray())[None]
    np.testing.assert_allclose(bent.gradient(x).asarray(), (t - bent.denoise(t))[0].numpy())


@pytest.mark.parametrize("solver", [solvers.red, solvers.plug_and_play, solvers.plug_and_play_gradient])
def test_equations_of_a_denoiser_that_is_no_gradient(A, X, y, solver):
    kind = RegularisationByDenoising if solver is solvers.red else PlugAndPlay
    R, lam, w = kind(Bent(), X, noise_std=STD), 20.0, float(weight(X))
    rec = reconstruct(A, y, R, noise_std=SIGMA, lam=lam, solver=solver, **EXACT)
    assert bool((rec.status == Status.CONVERGED).all())
    x = rec.image.clone().requires_grad_()
    (g,) = torch.autograd.grad(to_torch(GaussianFidelity(A, y, SIGMA))(x).sum(), x)
    x, g = x.detach(), g / w
    zero = g + lam * (x - R.denoise(x)) if solver is solvers.red else x - R.denoise(x - g / lam)
    assert float(zero.abs().max()) < 1e-6 * float(g.abs().max())
    for i in range(3):
        one = reconstruct(A, y[i], R, noise_std=SIGMA, lam=lam, solver=solver, **EXACT)
        torch.testing.assert_close(one.image, rec.image[i], rtol=1e-7, atol=1e-9)
        assert abs(int(one.iterations) - int(rec.iterations[i])) <= 1
    element = reconstruct(
        A, A.range.element(y[0].numpy()), R, noise_std=SIGMA, lam=lam, solver=solver, **EXACT
    )
    assert element.image in X


def test_samples_with_their_own_noise_and_data(A, X, y):
    """σ of every datum, and of every sample."""
    std = SIGMA * torch.linspace(0.5, 2, 12, dtype=torch.float64)
    W, w, lam = Smoothing().W.detach(), float(weight(X)), torch.tensor([1.0, 3.0, 9.0], dtype=torch.float64)
    M = to_torch(A)(torch.eye(20, dtype=torch.float64).unflatten(1, (4, 5))).T
    for kind, P in ((PlugAndPlay, STD**2 * W), (RegularisationByDenoising, torch.eye(20) - denoised(W))):
        rec = reconstruct(A, y, kind(Smoothing(), X, noise_std=STD), noise_std=std, lam=lam, **EXACT)
        for i in range(3):
            N = M.T @ (M / std[:, None] ** 2) + lam[i] * w * P
            expected = torch.linalg.solve(N, M.T @ (y[i] / std**2))
            torch.testing.assert_close(rec.image[i].flatten(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", [RegularisationByDenoising, PlugAndPlay])
def test_the_discrepancy_principle_and_sweeps(A, X, kind):
    x = torch.linspace(-1, 1, 20, dtype=torch.float64).view(1, 4, 5).sin()
    y = to_torch(A)(x) + SIGMA * torch.randn(
        1, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    R = kind(Smoothing(), X, noise_std=STD)
    rec = reconstruct(A, y, R, noise_std=SIGMA, lam="morozov", **QUIET)
    assert 0.97 <= float(rec.discrepancy) <= 1.0 and rec.status == Status.CONVERGED
    found = sweep(A, y, R, lam=[0.1, 1.0, 10.0], noise_std=SIGMA, **QUIET)
    alone = reconstruct(A, y, R, lam=1.0, noise_std=SIGMA, **QUIET)
    torch.testing.assert_close(found.images[:, :, 1].squeeze(), alone.image[0], rtol=1e-3, atol=1e-3)
    if kind is PlugAndPlay:
        with pytest.raises(ValueError, match="lam must be 'morozov' or given for PlugAndPlay"):
            reconstruct(A, y, R, lam="l-curve", noise_std=SIGMA, **QUIET)


def test_denoisers_in_other_units_and_the_scale_of_lam(A, X, y):
    R = PlugAndPlay(Smoothing(), X, noise_std=200.0 * STD, scale=200.0, offset=-3.0)
    x = torch.randn(2, 4, 5, dtype=torch.float64)
    plain = PlugAndPlay(Smoothing(), X, noise_std=STD).denoise(x)
    torch.testing.assert_close(R.denoise(200 * x - 3), 200 * plain - 3)
    fidelity = GaussianFidelity(A, y, SIGMA)
    scale = R.lam_scale(fidelity, {})
    torch.testing.assert_close(scale, torch.full((3,), 1 / (float(weight(X)) * (200 * STD) ** 2)).double())
    for kind in (PlugAndPlay, RegularisationByDenoising):
        blind = kind(Smoothing(std=STD), X)
        rough = fidelity.rough()
        energy = to_torch(RegularisationByDenoising(Smoothing(std=STD), X))(rough)
        torch.testing.assert_close(blind.lam_scale(fidelity, {"x": rough}), fidelity.expected / energy)


def test_both_parts_of_complex_images():
    X = odl.uniform_discr([0, 0], [1, 1], (4, 5), dtype="complex128")
    R = PlugAndPlay(Smoothing(), X, noise_std=STD)
    x = torch.randn(2, 4, 5, dtype=torch.complex128)
    real = PlugAndPlay(Smoothing(), X.real_space, noise_std=STD)
    torch.testing.assert_close(R.denoise(x), torch.complex(real.denoise(x.real), real.denoise(x.imag)))
    red = RegularisationByDenoising(Smoothing(), X, noise_std=STD)
    one, many = torch.randn(2, 4, 5, dtype=torch.complex128)[:1], {"noise_std": SIGMA, "lam": 2.0}
    rec = reconstruct(odl.IdentityOperator(X), one, red, **many, **EXACT)
    parts = [
        reconstruct(
            odl.IdentityOperator(X.real_space),
            part,
            RegularisationByDenoising(Smoothing(), X.real_space, noise_std=STD),
            **many,
            **EXACT,
        ).image
        for part in (one.real, one.imag)
    ]
    torch.testing.assert_close(rec.image, torch.complex(*parts), rtol=1e-6, atol=1e-7)
    derivative_test(red, X.element((x[0]).numpy()))


def test_counts_by_descent_or_proximal_gradients(A, X):
    counts = torch.poisson(torch.full((2, 12), 50.0, dtype=torch.float64))
    fidelity = PoissonFidelity(A, counts, background=50.0)
    red = RegularisationByDenoising(Smoothing(), X, noise_std=STD)
    rec = reconstruct(A, None, red, fidelity=fidelity, lam=2.0, solver=solvers.gradient_descent, **QUIET)
    assert torch.isfinite(rec.image).all()
    with pytest.raises(
        NotImplementedError, match=r"Gaussian fidelity of a linear operator for red, got Denoising"
    ):
        reconstruct(A, None, red, fidelity=fidelity, lam=2.0, **QUIET)
    pnp = PlugAndPlay(Smoothing(), X, noise_std=STD)
    with pytest.raises(NotImplementedError, match="plug_and_play_gradient takes any differentiable fidelity"):
        reconstruct(A, None, pnp, fidelity=fidelity, lam=2.0, **QUIET)
    rec = reconstruct(
        A, None, pnp, fidelity=fidelity, lam=20.0, solver=solvers.plug_and_play_gradient, **EXACT
    )
    assert bool((rec.status == Status.CONVERGED).all())


class Exploding(nn.Module):
    def forward(self, x, sigma):
        return 1e200 * x * x.abs().mean()


def test_statuses_say_what_did_not_converge(A, X, y):
    R = PlugAndPlay(Smoothing(), X, noise_std=STD)
    short = reconstruct(A, y, R, noise_std=SIGMA, lam=1.0, max_iter=3, **QUIET)
    assert bool((short.status == Status.MAX_ITER).all()) and bool((short.iterations == 3).all())
    # proximal gradient descent with steps that are too long
    far = reconstruct(
        A, y, R, noise_std=SIGMA, lam=1e-3, solver=solvers.plug_and_play_gradient, max_iter=2000, **QUIET
    )
    assert bool((far.status == Status.NON_FINITE).all()) and torch.isfinite(far.image).all()
    wild = reconstruct(A, y, PlugAndPlay(Exploding(), X, noise_std=STD), noise_std=SIGMA, lam=1.0, **QUIET)
    assert bool((wild.status == Status.NON_FINITE).all())
    stopped = reconstruct(A, y, R, noise_std=SIGMA, lam=1.0, callback=lambda it: it.iteration == 2, **QUIET)
    assert bool((stopped.status == Status.STOPPED).all())
    with solvers.debugging():
        reconstruct(A, y, R, noise_std=SIGMA, lam=1.0, **QUIET)
        reconstruct(
            A, y, RegularisationByDenoising(Bent(), X, noise_std=STD), noise_std=SIGMA, lam=1.0, **QUIET
        )


class Turning(nn.Module):
    """A rotation of pairs of pixels that makes them longer: full steps turn away from the fixed point."""

    def forward(self, x, sigma):
        return 3.0 * torch.stack([-x[..., 1::2], x[..., ::2]], -1).flatten(-2)


def test_shares_of_steps_stop_oscillations_that_grow():
    X = odl.rn((4, 6))
    A, y = odl.IdentityOperator(X), torch.ones(2, 4, 6, dtype=torch.float64)
    R = PlugAndPlay(Turning(), X, noise_std=STD)
    rec = reconstruct(A, y, R, noise_std=1.0, lam=2.0, solver=solvers.plug_and_play_gradient, **EXACT)
    assert bool((rec.status == Status.CONVERGED).all())
    fixed = R.denoise(rec.image - (rec.image - y) / 2)
    torch.testing.assert_close(rec.image, fixed, rtol=0, atol=1e-6)


def test_a_denoiser_is_called_once_an_iteration(A, X, y):
    calls = []

    class Counted(Smoothing):
        def forward(self, x, sigma):
            calls.append(len(x))
            return super().forward(x, sigma)

    for kind in (RegularisationByDenoising, PlugAndPlay):
        R = kind(Counted(), X, noise_std=STD)
        calls.clear()
        rec = reconstruct(A, y, R, noise_std=SIGMA, lam=3.0, max_iter=10, tol=0.0, **QUIET)
        assert bool((rec.iterations == 10).all()) and len(calls) <= 10 + 5


def test_identities_tell_denoisers_apart(X):
    lam = torch.ones(1, dtype=torch.float64)
    for kind in (RegularisationByDenoising, PlugAndPlay):
        one, same = (of_regulariser(kind(Smoothing(), X, noise_std=STD), lam) for _ in range(2))
        other = of_regulariser(kind(Smoothing(), X, noise_std=2 * STD), lam)
        key = "denoised noise" if kind is PlugAndPlay else "value of the regulariser"
        assert torch.equal(one[key], same[key]) and not torch.equal(one[key], other[key])


class Energy(nn.Module):
    """Σ log cosh of the differences along the rows: by its values, an energy of every pixel, and its gradient."""

    def __init__(self):
        super().__init__()
        self.kernel = nn.Parameter(torch.tensor([[[[-1.0, 1.0]]]], dtype=torch.float64))

    def forward(self, x):
        return self.energy(x).flatten(1).sum(1)

    def energy(self, x):
        return nn.functional.conv2d(x, self.kernel).cosh().log()

    def grad(self, x):
        return nn.functional.conv_transpose2d(nn.functional.conv2d(x, self.kernel).tanh(), self.kernel)


WAYS = {
    "values": {},
    "energies": {"value": "energy"},
    "gradients": {"gradient": "grad"},
    "energies and gradients": {"value": "energy", "gradient": "grad"},
    "gradients alone": {"value": None, "gradient": "grad"},
}


@pytest.mark.parametrize("way", WAYS)
def test_networks_with_values_or_gradients(A, X, y, way):
    R = LearnedRegulariser(Energy(), X, scale=2.0, offset=0.5, **WAYS[way])
    x = X.element(np.random.default_rng(0).standard_normal((4, 5)))
    derivative_test(R, x)
    t = (x.asarray() - 0.5) / 2
    assert R(x) == pytest.approx(np.log(np.cosh(np.diff(t))).sum(), rel=1e-8)
    rec = reconstruct(A, y, R, noise_std=SIGMA, lam=3.0, tol=1e-6, **QUIET)
    plain = LearnedRegulariser(Energy(), X, scale=2.0, offset=0.5)
    expected = reconstruct(A, y[1:2], plain, noise_std=SIGMA, lam=3.0, tol=1e-6, **QUIET)
    assert bool((rec.status == Status.CONVERGED).all())
    torch.testing.assert_close(rec.image[1:2], expected.image, rtol=1e-3, atol=1e-3)


def test_the_discrepancy_principle_with_a_network(A, X):
    x = torch.linspace(-1, 1, 20, dtype=torch.float64).view(1, 4, 5)
    y = to_torch(A)(x) + SIGMA * torch.randn(
        1, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    options = {"lam_range": (1.0, 100.0), "max_iter": 30, "tol": 1e-3, **QUIET}
    rec = reconstruct(A, y, LearnedRegulariser(Energy(), X), noise_std=SIGMA, lam="morozov", **options)
    assert 0.8 <= float(rec.discrepancy) <= 1.0
    Z = odl.uniform_discr([0, 0], [1, 1], (4, 5), dtype="complex128")
    both = to_torch(LearnedRegulariser(Energy(), Z))(torch.complex(x, 2 * x))
    real = to_torch(LearnedRegulariser(Energy(), Z.real_space))
    torch.testing.assert_close(both, real(x) + real(2 * x))


def test_a_quadratic_network_is_tikhonov(A, X, y):
    class Square(nn.Module):
        image_shape = (4, 5)

        def forward(self, x):
            return x.square().sum((1, 2), keepdim=True)

    w = float(weight(X))
    learned = reconstruct(
        A, y, LearnedRegulariser(Square(), X), noise_std=SIGMA, lam=2.0 * w, tol=1e-10, **QUIET
    )
    exact = reconstruct(A, y, Tikhonov(X), noise_std=SIGMA, lam=2.0, tol=1e-10, **QUIET)
    torch.testing.assert_close(learned.image, exact.image, rtol=1e-4, atol=1e-6)


class Says(nn.Module):
    def __init__(self, answer):
        super().__init__()
        self.answer = answer

    def forward(self, x, sigma=None):
        return self.answer(x)


class Fixed(Says):
    image_shape = (7, 7)


SPACE = odl.rn((4, 5))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: PlugAndPlay(torch.sin, SPACE), TypeError, r"module must be a torch.nn.Module, got builtin"),
        (lambda: PlugAndPlay(Smoothing(), SPACE**2), TypeError, "space must be an ODL tensor"),
        (lambda: PlugAndPlay(Smoothing(), SPACE, noise_std=0.0), ValueError, "noise_std must be positive"),
        (lambda: PlugAndPlay(Smoothing(), SPACE, noise_std="a"), TypeError, "noise_std must be a number"),
        (
            lambda: PlugAndPlay(Smoothing(), SPACE, noise_std=1, scale=-1),
            ValueError,
            "scale must be positive",
        ),
        (
            lambda: PlugAndPlay(Fixed(lambda x: x), SPACE, noise_std=1.0),
            ValueError,
            r"images of the shape \(4, 5\) of the space, got one for \(7, 7\)",
        ),
        (
            lambda: PlugAndPlay(Says(lambda x: x[..., :-1]), SPACE, noise_std=1.0),
            ValueError,
            r"must return images of the shape \(1, 4, 5\), got \(1, 4, 4\)",
        ),
        (lambda: PlugAndPlay(Says(lambda x: "x"), SPACE), TypeError, "must return as many images, got str"),
        (
            lambda: PlugAndPlay(nn.Conv2d(3, 3, 3), SPACE),
            ValueError,
            r"accept two images of the shape \(1, 4, 5\) and return as many images; Conv2d says",
        ),
        (
            lambda: PlugAndPlay(Smoothing(), odl.cn((4, 5)), noise_std=1.0, offset=1.0),
            ValueError,
            "offset must be 0 for complex images, got 1.0",
        ),
        (
            lambda: PlugAndPlay(Smoothing(), SPACE, noise_std=1.0)(SPACE.one()),
            NotImplementedError,
            "has no value",
        ),
        (
            lambda: PlugAndPlay(Smoothing(), SPACE, noise_std=1.0).gradient,
            NotImplementedError,
            "has no gradient",
        ),
        (lambda: LearnedRegulariser(Energy(), SPACE, value=None), ValueError, "got None for both"),
        (
            lambda: LearnedRegulariser(Energy(), SPACE, value="cost"),
            TypeError,
            "have a method cost, got Energy",
        ),
        (
            lambda: LearnedRegulariser(Energy(), SPACE, gradient=3),
            TypeError,
            "gradient must be the name of a method",
        ),
        (
            lambda: LearnedRegulariser(Says(lambda x: x.sum()), SPACE),
            ValueError,
            r"one number for each image, got \(\) for two",
        ),
        (
            lambda: LearnedRegulariser(Energy(), SPACE, gradient="energy"),
            ValueError,
            r"gradients of the shape \(2, 1, 4, 5\), got \(2, 1, 4, 4\)",
        ),
    ],
)
def test_bad_arguments(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_bad_problems(A, X, y):
    R, options = PlugAndPlay(Smoothing(), X, noise_std=STD), {"noise_std": SIGMA, **QUIET}
    with pytest.raises(ValueError, match="lam must be positive for PlugAndPlay, got 0"):
        reconstruct(A, y, R, lam=0.0, **options)
    with pytest.raises(ValueError, match="lam must be larger for an exact step in float64, got 1e-310"):
        reconstruct(A, y, R, lam=1e-310, **options)
    with pytest.raises(
        TypeError, match="gradient_descent, got DenoisingProblem, which offers data_step, denoiser"
    ):
        reconstruct(A, y, R, lam=1.0, solver=solvers.gradient_descent, **options)
    with pytest.raises(
        TypeError, match="problem must be that of RegularisationByDenoising for red, got that of plug"
    ):
        reconstruct(A, y, R, lam=1.0, solver=solvers.red, **options)
    with pytest.raises(TypeError, match=r"problem must have a denoiser .* for plug_and_play, got Objective"):
        reconstruct(A, y, Tikhonov(X), lam=1.0, solver=solvers.plug_and_play, **options)
    with pytest.raises(ValueError, match="damping must be at least 1"):
        reconstruct(
            A,
            y,
            RegularisationByDenoising(Smoothing(), X, noise_std=STD),
            lam=1.0,
            solver=functools.partial(solvers.red, damping=0.5),
            **options,
        )


def test_a_converted_copy_serves_a_space_of_another_type():
    model = Smoothing().double()
    X = odl.rn((4, 5), dtype="float32")
    R = PlugAndPlay(model, X, noise_std=STD)
    A = gaussian_measurements(X, 12, seed=0)
    rec = reconstruct(A, torch.ones(1, 12), R, noise_std=SIGMA, lam=1.0, **QUIET)
    assert rec.image.dtype == torch.float32 and next(model.parameters()).dtype == torch.float64
