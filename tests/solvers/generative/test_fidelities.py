"""The fidelity of every generative solver: noise of every datum, counts, and what a solver refuses."""

from dataclasses import replace
from functools import partial

import odl
import pytest
import torch

from genreg.operators import to_torch
from genreg.operators.fidelity import FunctionalFidelity, GaussianFidelity, PoissonFidelity
from genreg.solvers import (
    Status,
    jpmap,
    jpmap_continuation,
    levenberg_marquardt,
    map_z_splitting,
    projected_gradient,
)
from genreg.solvers.problem.objective import Objective

from ..latent_problems import OPERATORS, closed_form, data, hard_closed_form, linear, network, space

QUIET = {"progress": False}
SOLVERS = {
    "jpmap": partial(jpmap, beta=4.0, tol=1e-9, **QUIET),
    "jpmap_continuation": partial(jpmap_continuation, epsilon=5e-2, beta=1.0, tol=1e-9, **QUIET),
    "map_z_splitting": partial(map_z_splitting, epsilon=1e-3, beta=4.0, tol=1e-9, **QUIET),
    "levenberg_marquardt": partial(levenberg_marquardt, lam=0.5, tol=1e-10, **QUIET),
    "projected_gradient": partial(projected_gradient, projection="encoder", tol=1e-8, max_iter=3000, **QUIET),
}


def problem(name, G):
    """Operator, data, and σ of every datum of every sample; some were not measured."""
    A = OPERATORS[name](space())
    y, _ = data(A, G, batch=2, std=0.2)
    generator = torch.Generator().manual_seed(5)
    sigma = 0.3 + 0.5 * torch.rand(y.shape, dtype=torch.float64, generator=generator)
    sigma.flatten(1)[0, 1] = torch.inf
    return A, y, sigma


def orthogonal():
    """A linear generator whose encoder projects onto its range, and its matrix."""
    return linear(E=torch.linalg.pinv(linear()[1]))


def whitened(A, sigma):
    return odl.MultiplyOperator(A.range.element((1 / sigma).numpy())) * A


def same(found, expected):
    for name, value in expected.blocks.items():
        torch.testing.assert_close(found.blocks[name], value, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found.image, expected.image, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found.value, expected.value, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", ["gaussian", "rays"])
@pytest.mark.parametrize("solver", SOLVERS)
def test_noise_of_every_datum_is_the_whitened_problem(solver, name):
    """In a batch, one sample at a time, and with an operator and data divided by σ."""
    solve, (G, _) = SOLVERS[solver], orthogonal()
    A, y, sigma = problem(name, G)
    together = solve(A, y, G, noise_std=sigma)
    assert (together.status == Status.CONVERGED).all()
    for k in range(len(y)):
        alone = solve(A, y[k], G, noise_std=sigma[k])
        blocks = {name: v[k] for name, v in together.blocks.items()}
        same(alone, replace(together, blocks=blocks, image=together.image[k], value=together.value[k]))
        if k == 0:  # with a datum that was not measured
            same(alone, solve(whitened(A, sigma[k]), y[k] / sigma[k], G, noise_std=1.0))


@pytest.mark.parametrize("name", ["mask", "gaussian", "rays"])
@pytest.mark.parametrize("solver", SOLVERS)
def test_noise_of_every_datum_against_the_closed_form(solver, name):
    G, W = orthogonal()
    A, y, sigma = problem(name, G)
    solution = SOLVERS[solver](A, y, G, noise_std=sigma)
    if "x" in solution.blocks and solver != "projected_gradient":
        beta = solution.history["beta"][-1] if "beta" in solution.history else 4.0
        x, z, value = closed_form(A, W, y, sigma, beta)
        torch.testing.assert_close(solution.blocks["x"], x, rtol=1e-5, atol=1e-6)
    else:
        z, value = hard_closed_form(A, W, y, sigma, 1.0 if solver == "levenberg_marquardt" else 0.0)
    torch.testing.assert_close(solution.blocks["z"], z, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(solution.value, value, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_fidelity_in_the_place_of_its_noise(solver):
    few = {"max_iter": 3} | ({"stages": 2} if "epsilon" in SOLVERS[solver].keywords else {})
    solve, G = partial(SOLVERS[solver], **few), network()
    A, y, sigma = problem("gaussian", G)
    expected = solve(A, y, G, noise_std=sigma)
    fidelity = GaussianFidelity(A, y, sigma)
    for given in (y, None):
        found = solve(A, given, G, fidelity=fidelity)
        assert torch.equal(found.blocks["z"], expected.blocks["z"])
    made = solve(A, y, G, fidelity=lambda A, y: GaussianFidelity(A, y, sigma))
    assert torch.equal(made.blocks["z"], expected.blocks["z"])


@pytest.mark.parametrize("intensity", [None, 40.0])
def test_counts(intensity):
    """The gradient vanishes, few steps lead there, and a batch takes those of one sample at a time."""
    X = space()
    A, G = OPERATORS["rays"](X), network()
    z = torch.randn(3, *G.domain.shape, dtype=torch.float64)
    Ax = to_torch(A)(G.decode(z).mean)
    mean = 40 + Ax if intensity is None else intensity * torch.exp(-Ax) + 1
    counts = torch.poisson(mean.clamp_min(0.1), torch.Generator().manual_seed(0))
    fidelity = PoissonFidelity(A, counts, background=40.0 if intensity is None else 1.0, intensity=intensity)
    solution = levenberg_marquardt(A, counts, G, fidelity=fidelity, lam=0.5, init=z, tol=1e-8, **QUIET)
    assert (solution.status == Status.CONVERGED).all() and (solution.iterations < 30).all()

    def value(blocks):
        return to_torch(fidelity)(to_torch(G)(blocks["z"])) + 0.5 * blocks["z"].square().sum(1)

    H, gradients = Objective(value, {"z": G.domain}).value_and_gradient(solution.blocks)
    torch.testing.assert_close(H, solution.value)
    assert (gradients["z"].norm(dim=1) < 1e-6 * (1 + H)).all()
    alone = levenberg_marquardt(
        A, counts[1], G, fidelity=fidelity.take(torch.tensor([1])), lam=0.5, init=z[1], tol=1e-8, **QUIET
    )
    torch.testing.assert_close(alone.blocks["z"], solution.blocks["z"][1], rtol=1e-5, atol=1e-6)
    projected = projected_gradient(A, counts, G, fidelity=fidelity, init=z, max_iter=5, **QUIET)
    assert (projected.value <= to_torch(fidelity)(to_torch(G)(z))).all()


@pytest.mark.parametrize("solver", SOLVERS)
def test_what_a_solver_cannot_use_is_refused_by_name(solver):
    G = network()
    A, y, sigma = problem("gaussian", G)
    absolute = FunctionalFidelity(A, odl.functionals.L1Norm(A.range), y)
    need = {"levenberg_marquardt": "with a curvature", "projected_gradient": "with a gradient"}
    asked = need.get(solver, r"\(Gaussian noise\)")
    with pytest.raises(NotImplementedError, match=rf"^{solver} needs a .*{asked}, got FunctionalFidelity"):
        SOLVERS[solver](A, y, G, fidelity=absolute)
    with pytest.raises(TypeError, match="give either noise_std or fidelity"):
        SOLVERS[solver](A, y, G, noise_std=1.0, fidelity=absolute)
    with pytest.raises(ValueError, match="y must be the data of the fidelity"):
        SOLVERS[solver](A, y + 1, G, fidelity=GaussianFidelity(A, y, sigma))
    if solver != "projected_gradient":
        with pytest.raises(TypeError, match="noise_std must be given"):
            SOLVERS[solver](A, y, G)


def test_data_of_one_sample_that_were_not_measured_at_all():
    G, _ = linear()
    A, y, sigma = problem("gaussian", G)
    sigma[1] = torch.inf
    for name in ("jpmap", "levenberg_marquardt"):
        z = SOLVERS[name](A, y, G, noise_std=sigma).blocks["z"]
        assert z[1].norm() < 1e-6 < z[0].norm()
