"""Reconstructions do not depend on units: of images, lengths and k-space; for every regulariser and solver."""

import math

import numpy as np
import odl
import pytest
import torch
from odl.applications import tomo
from torch import nn

from genreg import (
    AutoencoderResidual,
    EncoderNorm,
    FlowPrior,
    GaussianFidelity,
    HardConstraint,
    JointPrior,
    LearnedRegulariser,
    PlugAndPlay,
    PoissonFidelity,
    RegularisationByDenoising,
    RelaxedConstraint,
    SparseDeviation,
    Tikhonov,
    TotalVariation,
    latent,
    reconstruct,
    solvers,
    sweep,
    to_torch,
)
from genreg.operators import (
    IsotropicPrecision,
    fourier_sampling,
    gaussian_measurements,
    radial_mask,
    ray_transform,
)
from genreg.solvers import Status

from ..sampling.test_units import SIGMA, StructuredModel, in_units, noisy, truth

# compared with each other: a constant that ought to have a unit shows at one end of them
SCALES = (1e-6, 1e6)
BINARY = (2.0**-20, 2.0**20)  # where rounding decides on the way, as choices of λ and unfinished descents do
QUIET = {"progress": False}


@pytest.fixture(name="X")
def space():
    return odl.uniform_discr([0, 0], [6, 4], (3, 4))  # cell volume 2


@pytest.fixture(name="A")
def operator(X):
    return gaussian_measurements(X, 8, seed=0)


class Affine(nn.Module):
    """A flow whose images come times s."""

    def __init__(self, n, s):
        super().__init__()
        matrix = torch.randn(n, n, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        self.W, self.s = torch.eye(n, dtype=torch.float64) + 0.2 * matrix / n**0.5, s

    def to_latent(self, x):
        z = (x.flatten(1) / self.s) @ self.W.T
        log_det = torch.linalg.slogdet(self.W).logabsdet - self.W.shape[0] * math.log(self.s)
        return z + 0.1 * z.tanh(), (log_det + (1 + 0.1 * (1 - z.tanh().square())).log().sum(1))


class Smoothing(nn.Module):
    """A denoiser without units of its own: a mean of neighbours, the more the stronger the noise is in the image."""

    image_shape = (3, 4)

    def forward(self, x, sigma):
        share = (sigma / (sigma + x.abs().mean((1, 2)))).view(-1, 1, 1)
        return x - 0.5 * share * (2 * x - x.roll(1, 1) - x.roll(1, 2))


class Energy(nn.Module):
    image_shape = (3, 4)

    def forward(self, x):
        return x.diff(dim=1).cosh().log().sum((1, 2))


# What a regulariser is in other units, images times s, and the power of s that its λ comes with.
REGULARISERS = {
    "Tikhonov": (lambda X, s: Tikhonov(X), -2),
    "Tikhonov of the gradient": (lambda X, s: Tikhonov(X, odl.Gradient(X)), -2),
    "total variation": (lambda X, s: TotalVariation(X), -1),
    "total variation in bounds": (lambda X, s: TotalVariation(X, lower=-0.2 * s, upper=0.3 * s), -1),
    "hard": (lambda X, s: HardConstraint(in_units(X, s)), 0),
    "hard, with a latent term of images": (
        lambda X, s: HardConstraint(
            in_units(X, s),
            0.5 * odl.functionals.L2NormSquared(odl.rn(3))
            + (0.1 / s) * latent.ImageVariation(in_units(X, s), 0.01 * s),
        ),
        0,
    ),
    "relaxed": (lambda X, s: RelaxedConstraint(in_units(X, s), 0.1 * s**2), -2),
    "sparse": (lambda X, s: SparseDeviation(in_units(X, s), 0.1 * s), -1),
    "sparse variation": (lambda X, s: SparseDeviation(in_units(X, s), 0.1 * s, sparsity="tv"), -1),
    "joint": (lambda X, s: JointPrior(in_units(X, s)), 0),
    "joint, structured": (lambda X, s: JointPrior(in_units(X, s, StructuredModel)), 0),
    "joint, with a precision": (
        lambda X, s: JointPrior(in_units(X, s), IsotropicPrecision(X, 9.0 / s**2)),
        0,
    ),
    "autoencoder residual": (lambda X, s: AutoencoderResidual(in_units(X, s)), -2),
    "encoder": (lambda X, s: EncoderNorm(in_units(X, s)), 0),
    "network": (lambda X, s: LearnedRegulariser(Energy(), X, scale=s, offset=0.1 * s), 0),
    "by denoising": (lambda X, s: RegularisationByDenoising(Smoothing(), X, noise_std=0.2 * s), -2),
    "plug-and-play": (lambda X, s: PlugAndPlay(Smoothing(), X, noise_std=0.2 * s), -2),
    "flow": (lambda X, s: FlowPrior(Affine(X.size, s), X), 0),
    "flow with its determinant": (lambda X, s: FlowPrior(Affine(X.size, s), X, determinant=True), 0),
}


def the_same(run, units, power, *, given=False):
    """The result in either unit: images to 1e-3, statuses, λ to 1e-3; with a given λ, iterations within a fifth."""
    expected, found = (run(s) for s in units)
    images = [result.image.flatten(1) / s for result, s in zip((expected, found), units, strict=True)]
    error = (images[1] - images[0]).norm(dim=1)
    assert bool((error <= 1e-3 * images[0].norm(dim=1)).all()), error
    assert torch.equal(found.status, expected.status)
    if given:  # a choice is a comparison, which the last bits may tip
        assert bool(((found.iterations - expected.iterations).abs() <= 1 + 0.2 * expected.iterations).all())
    else:
        lams = [result.lam * s ** float(-power) for result, s in zip((expected, found), units, strict=True)]
        torch.testing.assert_close(lams[1], lams[0], rtol=1e-3, atol=0)


CURVED = ["Tikhonov", "hard", "relaxed", "encoder", "joint, structured", "flow with its determinant"]
DENOISED = ["plug-and-play"]  # solved to the end: two starts can be equally near
SEARCHED = [*CURVED, "total variation in bounds", "sparse", "joint", *DENOISED]
ENDING = ("Tikhonov", "hard", "joint")  # within 25 iterations
GIVEN = [(name, "fixed") for name in REGULARISERS]


@pytest.mark.parametrize(
    ("name", "lam"),
    [*GIVEN, *((name, "l-curve") for name in CURVED), *((name, "morozov") for name in SEARCHED)],
)
def test_units_of_images_and_data(X, A, name, lam):
    make, power = REGULARISERS[name]
    y = noisy(A, truth(X))

    def run(s):
        given = s**power if lam == "fixed" else lam
        if lam == "fixed":
            turns = 25 if name.startswith(ENDING) else 10
        else:  # several descents
            turns = 25 if "total" in name else 3 if "joint" in name else 200 if name in DENOISED else 10
        options = {"noise_std": s * SIGMA, "lam": given, "max_iter": turns}
        options |= {} if lam == "fixed" else {"tol": 1e-5 if name in DENOISED else 1e-2}
        return reconstruct(A, s * y, make(X, s), **options, **QUIET)

    if lam == "l-curve" and make(X, 1.0).offset is not None:
        with pytest.raises(ValueError, match=r"lam must be 'morozov' or given .* log-determinant"):
            run(1.0)
        return
    if lam == "morozov":
        units = BINARY[0], 1.0
    else:
        units = SCALES if lam == "fixed" and name != "encoder" else BINARY
    the_same(run, units, power, given=lam == "fixed")


@pytest.mark.parametrize("name", ["Tikhonov", "total variation", "hard", "relaxed", "sparse"])
def test_units_of_length(name):
    """Lengths times s with attenuations over s: the same sinogram. λ has the unit of a squared or plain length."""
    make, _ = REGULARISERS[name]

    def run(s):
        X = odl.uniform_discr([-s, -s], [s, s], (6, 6))
        rays = odl.uniform_partition(0, math.pi, 5), odl.uniform_partition(-1.5 * s, 1.5 * s, 9)
        A = ray_transform(X, tomo.Parallel2dGeometry(*rays), cache=False)
        y = noisy(A, truth(X) / s)
        regulariser = make(X, 1 / s)
        if name in ("relaxed", "sparse"):  # the cells have the volume s²: so has μ, whose term has not
            regulariser = type(regulariser)(regulariser.generator, regulariser.mu * s**2)
        return reconstruct(A, y, regulariser, noise_std=SIGMA, lam="morozov", max_iter=10, tol=1e-2, **QUIET)

    the_same(lambda s: run(1 / s), BINARY, 1 if name == "sparse" else 0)


@pytest.mark.parametrize(("name", "dtype"), [("Tikhonov", "complex128"), ("total variation", "complex64")])
@pytest.mark.parametrize("lam", ["morozov", "l-curve"])
def test_units_of_complex_k_space(name, lam, dtype):
    make, power = REGULARISERS[name]
    X = odl.uniform_discr([-1, -1], [1, 1], (8, 8), dtype=dtype)
    A = fourier_sampling(X, radial_mask(X.shape, 5))
    i = torch.tensor(np.indices((8, 8)) / 7 - 0.5)
    x = (i.square().sum(0) < 0.15) * torch.exp(1j * i[1])
    y = noisy(A, x[None].to(getattr(torch, dtype)))

    def run(s):
        return reconstruct(A, s * y, make(X, s), noise_std=s * SIGMA, lam=lam, tol=1e-2, **QUIET)

    the_same(run, BINARY, power)


@pytest.mark.parametrize("name", ["Tikhonov", "hard", "sparse"])
def test_units_of_weighted_data_and_counts(X, A, name):
    make, power = REGULARISERS[name]
    y = noisy(A, truth(X))
    sigma = torch.linspace(0.5, 2, 8, dtype=torch.float64) * SIGMA
    counts = torch.poisson(50.0 + 0 * truth(X), generator=torch.Generator().manual_seed(0))
    solver = {"solver": solvers.gradient_descent} if name == "Tikhonov" else {}
    options = {"max_iter": 8, "tol": 1e-2, **QUIET, **solver}

    def weighted(s):
        return reconstruct(A, s * y, make(X, s), noise_std=s * sigma, lam="morozov", **options)

    def poisson(s):  # a detector that knows the unit
        fidelity = PoissonFidelity(odl.ScalingOperator(X, 1 / s), counts, background=50.0)
        return reconstruct(fidelity.operator, counts, make(X, s), fidelity=fidelity, lam=s**power, **options)

    for problem in (weighted, poisson):
        the_same(problem, BINARY, power)


def direct(A, y, s):
    """Every solver called by itself: what it returns in units of images times s."""
    X = A.domain
    G, sigma = in_units(X, s), s * SIGMA
    fidelity = GaussianFidelity(A, s * y, sigma)
    zero, ridge = (
        torch.zeros(3, *X.shape, dtype=torch.float64),
        torch.full((3,), s**-2.0, dtype=torch.float64),
    )
    smooth = Tikhonov(X, odl.Gradient(X) + 0.3 * odl.Gradient(X)).problem(fidelity, ridge)
    sparse = SparseDeviation(G, 0.1 * s).problem(fidelity, torch.full((3,), 1 / s, dtype=torch.float64))
    relaxed = RelaxedConstraint(G, 0.1 * s**2).problem(fidelity, ridge)
    hard = HardConstraint(G).problem(fidelity, torch.full((3,), 0.5, dtype=torch.float64))
    z = torch.zeros(3, 3, dtype=torch.float64)
    x = to_torch(G)(z)
    two = {"max_iter": 12, **QUIET}
    image = {
        "gradient_descent": lambda: solvers.gradient_descent(smooth, zero, **two),
        "backtracking": lambda: solvers.gradient_descent(
            smooth, zero, line_search=solvers.Backtracking(), **two
        ),
        "conjugate_gradient": lambda: solvers.conjugate_gradient(smooth, zero, max_iter=30, **QUIET),
        "quasi_newton": lambda: solvers.quasi_newton(smooth, zero, **two),
        "lbfgs": lambda: solvers.lbfgs(smooth, zero, **two),
        "palm": lambda: solvers.palm(sparse, {"u": 0 * x, "z": z}, **two),
        "ipalm": lambda: solvers.ipalm(sparse, {"u": 0 * x, "z": z}, **two),
        "alternating": lambda: solvers.alternating_gradient_descent(relaxed, {"x": x, "z": z}, **two),
        "gauss_newton": lambda: solvers.gauss_newton(hard, z, **two),
        "levenberg_marquardt": lambda: solvers.levenberg_marquardt(A, s * y, G, noise_std=sigma, **QUIET),
        "projected_gradient": lambda: solvers.projected_gradient(
            A, s * y, G, noise_std=sigma, max_iter=4, **QUIET
        ),
        "jpmap": lambda: solvers.jpmap(A, s * y, G, noise_std=sigma, restarts=2, **QUIET),
        "map_z_splitting": lambda: solvers.map_z_splitting(
            A, s * y, G, noise_std=sigma, epsilon=1e-3 * s**2, **QUIET
        ),
        "jpmap_continuation": lambda: solvers.jpmap_continuation(
            A, s * y, G, noise_std=sigma, epsilon=1e-3 * s**2, rho=100 / s**2, **QUIET
        ),
    }
    return image


@pytest.mark.parametrize("name", [
    "gradient_descent", "backtracking", "conjugate_gradient", "quasi_newton", "lbfgs", "palm", "ipalm", "alternating",
    "gauss_newton", "levenberg_marquardt", "projected_gradient", "jpmap", "map_z_splitting", "jpmap_continuation",
])  # fmt: skip
def test_every_solver(X, A, name):
    y = noisy(A, truth(X))
    units = BINARY if name in ("alternating", "backtracking") else SCALES
    expected, found = (direct(A, y, s)[name]() for s in units)
    for block in found.blocks:
        without = block == "z" or name == "gauss_newton"
        v, right = (
            solution.blocks[block] / (1.0 if without else s)
            for solution, s in zip((found, expected), reversed(units), strict=True)
        )
        error = float((v - right).norm() / right.norm().clamp_min(1e-6))
        assert error < 1e-3, (block, error)
    assert torch.equal(found.status, expected.status)
    assert bool(((found.iterations - expected.iterations).abs() <= 1 + 0.2 * expected.iterations).all())


@pytest.mark.parametrize("lam", ["morozov", "l-curve"])
def test_sweeps(X, A, lam):
    y = noisy(A, truth(X))

    def run(s):
        regulariser, mus = HardConstraint(in_units(X, s)), None
        if lam == "morozov":
            regulariser, mus = RelaxedConstraint(in_units(X, s), 1.0), [0.1 * s**2, s**2]
        options = {"noise_std": s * SIGMA, "lam": lam, "max_iter": 10, **QUIET}
        return sweep(A, s * y, regulariser, mu=mus, **options)

    expected, found = (run(s) for s in BINARY)
    torch.testing.assert_close(found.images / BINARY[1], expected.images / BINARY[0], rtol=0, atol=1e-3)
    assert torch.equal(found.status, expected.status)


@pytest.mark.parametrize("scale", [1.0, 255.0, 4096.0, 1e5])
def test_pictures_of_any_grey_values_in_single_precision(scale):
    """An ordinary picture: the norm of its grey values once met the tolerance where it was zero."""
    X = odl.rn((64, 64), dtype="float32")
    picture = scale * (0.5 + 0.5 * torch.linspace(0, 3, 64).sin()[:, None].expand(64, 64).contiguous())
    noise = 0.05 * scale * torch.randn(64, 64, generator=torch.Generator().manual_seed(0))
    y = X.element((picture + noise).numpy())
    found = reconstruct(
        odl.IdentityOperator(X), y, Tikhonov(X), noise_std=0.05 * scale, lam="morozov", **QUIET
    )
    assert found.status == Status.CONVERGED and 0.98 <= float(found.discrepancy) <= 1.0
    assert np.abs(found.image.asarray() - 0.96 * y.asarray()).max() < 0.03 * scale
    lone = reconstruct(
        odl.IdentityOperator(X), y, Tikhonov(X), noise_std=0.05 * scale, lam=1e-6 / scale**2, **QUIET
    )
    assert np.abs(lone.image.asarray() - y.asarray()).max() < 1e-3 * scale
