"""BFGS and conjugate gradients: against closed forms, a hard test function, and each other."""

import functools

import odl
import pytest
import torch

from genreg.operators import gaussian_measurements, mask, to_torch
from genreg.solvers import (
    Objective,
    QuasiNewton,
    Status,
    conjugate_gradient,
    gradient_descent,
    quasi_newton,
    rough_reconstruction,
)
from genreg.solvers.updates.limited_memory import Pairs
from genreg.solvers.updates.quasi_newton import bfgs_update

B, M, N = 4, 15, 8


@pytest.fixture(name="problem")
def quadratic():
    """Batched ridge regression with condition numbers up to 10^4, and its solution."""
    A = torch.randn(B, M, N, dtype=torch.float64) * torch.logspace(0, 2, N, dtype=torch.float64)
    y = torch.randn(B, M, dtype=torch.float64)
    lam = torch.logspace(-2, 1, B, dtype=torch.float64)

    def smooth(blocks, A, y, lam):
        x = blocks["x"]
        return 0.5 * (torch.einsum("bij,bj->bi", A, x) - y).square().sum(1) + lam * x.square().sum(1)

    objective = Objective(smooth, {"x": odl.rn(N)}, per_sample={"A": A, "y": y, "lam": lam})
    normal = A.mT @ A + 2 * lam[:, None, None] * torch.eye(N, dtype=torch.float64)
    return objective, torch.linalg.solve(normal, (A.mT @ y[..., None]))[..., 0]


@pytest.mark.parametrize("solver", [quasi_newton, conjugate_gradient])
def test_ill_conditioned_quadratics(problem, solver):
    objective, exact = problem
    start = torch.randn(B, N, dtype=torch.float64)
    solution = solver(objective, {"x": start}, tol=1e-9, progress=False)
    assert (solution.status == Status.CONVERGED).all()
    assert torch.allclose(solution.blocks["x"], exact, atol=1e-6)
    assert torch.allclose(solution.value, objective({"x": exact}))
    for k in range(B):
        alone = solver(objective.take(torch.tensor([k])), {"x": start[k : k + 1]}, tol=1e-9, progress=False)
        assert torch.allclose(alone.blocks["x"][0], solution.blocks["x"][k], atol=1e-6)


def test_many_unknowns_take_a_limited_memory(problem):
    """The same minimum and statuses as with matrices, from memory that grows linearly."""
    objective, exact = problem
    few = functools.partial(gradient_descent, tol=1e-9, max_iter=2000, progress=False)
    start = {"x": torch.ones(B, N, dtype=torch.float64)}
    found = [few(objective, start, updates={"x": QuasiNewton(dense=n, memory=N)}) for n in (N, N - 1)]
    for solution in found:
        assert (solution.status == Status.CONVERGED).all()
        assert torch.allclose(solution.blocks["x"], exact, atol=1e-6)
    images = torch.zeros(2, 30, 20, dtype=torch.float64)  # of any shape
    memory = QuasiNewton().first_memory(images, torch.ones(2))
    assert isinstance(memory, Pairs) and max(t.numel() for t in memory) == 10 * images.numel()

    def distance(blocks):
        return (blocks["x"] - 1).square().flatten(1).sum(1) + 1

    solution = quasi_newton(Objective(distance, {"x": odl.rn((30, 20))}), {"x": images}, progress=False)
    assert torch.allclose(solution.blocks["x"], torch.ones_like(images))


def test_rosenbrock_in_few_steps_and_downhill():
    def smooth(blocks):
        x, y = blocks["x"].unbind(1)
        return (1 - x).square() + 100 * (y - x.square()).square() + 1

    start = torch.tensor([[-1.2, 1.0], [3.0, -2.0], [0.0, 0.0]], dtype=torch.float64)
    objective = Objective(smooth, {"x": odl.rn(2)})
    solution = quasi_newton(objective, {"x": start}, tol=1e-9, progress=False)
    assert solution.converged.all() and (solution.iterations < 80).all()
    assert torch.allclose(solution.blocks["x"], torch.ones(3, 2, dtype=torch.float64), atol=1e-7)
    value = solution.history["value"]
    assert (value[1:] <= value[:-1] * (1 + 1e-14)).all()


def test_bfgs_update_meets_the_secant_equation():
    root = torch.randn(B, N, N, dtype=torch.float64)
    inverse = root @ root.mT + torch.eye(N, dtype=torch.float64)
    s, y = torch.randn(B, N, dtype=torch.float64), torch.randn(B, N, dtype=torch.float64)
    y = torch.where(((s * y).sum(1) > 0)[:, None], y, -y)
    updated = bfgs_update(inverse, s, y)
    assert torch.allclose((updated @ y[..., None])[..., 0], s)
    assert torch.allclose(updated, updated.mT) and (torch.linalg.eigvalsh(updated) > 0).all()
    assert torch.equal(
        bfgs_update(inverse, s, -y), 2 * inverse
    )  # negative curvature: longer steps, no update


def test_objective_without_a_minimum_nearby_and_bad_samples():
    def smooth(blocks, bad):
        return torch.cos(blocks["x"]).sum(1) + 5 + bad

    bad = torch.tensor([0.0, torch.inf, 0.0], dtype=torch.float64)
    start = torch.full((3, 2), 1e-3, dtype=torch.float64)  # next to a maximum
    objective = Objective(smooth, {"x": odl.rn(2)}, per_sample={"bad": bad})
    solution = quasi_newton(objective, {"x": start}, tol=1e-8, progress=False)
    assert solution.status.tolist() == [Status.CONVERGED, Status.NON_FINITE, Status.CONVERGED]
    assert torch.allclose(solution.value[[0, 2]], torch.full((2,), 3.0, dtype=torch.float64))


def test_conjugate_gradients_refuse_what_they_cannot_solve(problem):
    objective, _ = problem
    with pytest.raises(TypeError, match="objective must be an Objective"):
        conjugate_gradient(odl.functionals.L2NormSquared(odl.rn(3)), {"x": torch.zeros(1, 3)}, progress=False)
    quartic = Objective(lambda b: (b["x"].square() - 1).square().sum(1), {"x": odl.rn(N)})
    start = {"x": torch.full((1, N), 2.0, dtype=torch.float64)}
    assert conjugate_gradient(quartic, start, progress=False).status.tolist() == [Status.STALLED]
    stopped = conjugate_gradient(
        objective,
        {"x": torch.zeros(B, N, dtype=torch.float64)},
        tol=0.0,
        callback=lambda it: True,
        progress=False,
    )
    assert (stopped.status == Status.STOPPED).all()


def test_rough_reconstruction_is_a_krylov_solution_on_weighted_spaces():
    X = odl.uniform_discr(0, 4, 6)
    A = gaussian_measurements(X, 9, seed=0)
    x = torch.randn(3, 6, dtype=torch.float64)
    y = to_torch(A)(x)
    assert torch.allclose(rough_reconstruction(A, y, iterations=6), x, atol=1e-8)  # exact after dim X steps
    rough = rough_reconstruction(A, y, iterations=3)
    assert ((rough - x).norm(dim=1) < x.norm(dim=1)).all()
    square = odl.PowerOperator(X, 2)
    # derivative 0 at 0
    assert rough_reconstruction(square, torch.ones(2, 6, dtype=torch.float64)).abs().max() == 0


def test_rough_reconstruction_of_a_projection_stays_in_single_precision():
    """One step is exact but for rounding; another one would run along the null space."""
    random = torch.Generator().manual_seed(0)
    X = odl.rn(200, dtype="float32")
    rotation = torch.linalg.qr(torch.randn((200, 200), generator=random))[0]
    keep = torch.rand(200, generator=random) < 0.5
    A = mask(X, keep) * odl.MatrixOperator(rotation.numpy(), domain=X, range=X)
    x = torch.zeros(3, 200)
    x[:2, keep] = torch.randn((2, int(keep.sum())), generator=random)
    found = rough_reconstruction(A, x[:, keep], iterations=20)
    torch.testing.assert_close(found, x @ rotation, atol=1e-4, rtol=0)
