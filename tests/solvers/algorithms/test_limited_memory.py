"""Limited-memory BFGS: the two-loop recursion, closed forms over several blocks, and change of variables."""

import odl
import pytest
import torch

from genreg.solvers import Objective, Status, lbfgs, quasi_newton
from genreg.solvers.updates.limited_memory import Pairs, two_loops
from genreg.solvers.updates.quasi_newton import bfgs_update

B, N, K = 3, 12, 3


@pytest.fixture(name="problem")
def relaxed():
    """½‖Ax - y‖² + λ (‖x - W z‖² + μ ‖z‖²) with blocks of different scale, and the exact minimiser."""
    A = torch.randn(8, N, dtype=torch.float64)
    W = 20 * torch.randn(N, K, dtype=torch.float64)
    y = torch.randn(B, 8, dtype=torch.float64)
    lam = torch.tensor([0.1, 1.0, 10.0], dtype=torch.float64)

    def smooth(b, y, lam):
        x, z = b["x"], b["z"]
        prior = (x - z @ W.T).square().sum(1) + 0.5 * z.square().sum(1)
        return 0.5 * (x @ A.T - y).square().sum(1) + lam * prior

    objective = Objective(smooth, {"x": odl.rn(N), "z": odl.rn(K)}, per_sample={"y": y, "lam": lam})
    x = []
    for k in range(B):
        prior = torch.cat([torch.eye(N, dtype=torch.float64), -W], 1)
        H = 2 * lam[k] * prior.T @ prior
        H[:N, :N] += A.T @ A
        H[N:, N:] += lam[k] * torch.eye(K, dtype=torch.float64)
        x.append(torch.linalg.solve(H, torch.cat([A.T @ y[k], torch.zeros(K, dtype=torch.float64)])))
    return objective, W, torch.stack(x)


def zeros():
    return {"x": torch.zeros(B, N, dtype=torch.float64), "z": torch.ones(B, K, dtype=torch.float64)}


def test_two_loops_are_the_bfgs_updates():
    s, y = torch.randn(B, 4, N, dtype=torch.float64), torch.randn(B, 4, N, dtype=torch.float64)
    y = torch.where((s * y).sum(2, keepdim=True) > 0, y, -y)
    diagonal, g = torch.rand(B, N, dtype=torch.float64), torch.randn(B, N, dtype=torch.float64)
    M = torch.diag_embed(diagonal)
    for i in reversed(range(4)):  # the newest comes first
        M = bfgs_update(M, s[:, i], y[:, i])
    assert torch.allclose(two_loops(Pairs(s, y, diagonal), g), (M @ g[..., None])[..., 0])
    padded = [torch.cat((t, torch.zeros_like(t)), 1) for t in (s, y)]
    assert torch.allclose(two_loops(Pairs(*padded, diagonal), g), (M @ g[..., None])[..., 0])


@pytest.mark.parametrize("substituted", [False, True])
def test_closed_form_over_two_blocks(problem, substituted):
    objective, W, exact = problem
    deviation = (
        lambda w: {"x": w["x"] + w["z"] @ W.T, "z": w["z"]},
        lambda v: {"x": v["x"] - v["z"] @ W.T, "z": v["z"]},
    )
    seen = []
    solution = lbfgs(
        objective,
        zeros(),
        tol=1e-9,
        substitution=deviation if substituted else None,
        callback=lambda it: seen.append(it) and False,
        progress=False,
    )
    assert solution.converged.all()
    assert torch.allclose(solution.blocks["x"], exact[:, :N], atol=1e-6)
    assert torch.allclose(solution.blocks["z"], exact[:, N:], atol=1e-6)
    assert set(seen[-1].blocks) == {"x", "z"}
    assert torch.allclose(seen[0].value, objective(seen[0].blocks))
    values = solution.history["value"]
    assert (values.diff(dim=0) <= 1e-12 * values[:-1]).all()
    alone = lbfgs(
        objective.take(torch.tensor([1])),
        {name: v[1:2] for name, v in zeros().items()},
        tol=1e-9,
        substitution=deviation if substituted else None,
        progress=False,
    )
    assert torch.allclose(alone.blocks["x"][0], solution.blocks["x"][1], atol=1e-7)


def test_rosenbrock_like_quasi_newton_and_odl_elements():
    def smooth(blocks):
        x, y = blocks["x"].unbind(1)
        return (1 - x).square() + 100 * (y - x.square()).square() + 1

    start = torch.tensor([[-1.2, 1.0], [3.0, -2.0]], dtype=torch.float64)
    objective = Objective(smooth, {"x": odl.rn(2)})
    solution = lbfgs(objective, {"x": start}, tol=1e-8, progress=False)
    dense = quasi_newton(objective, {"x": start}, tol=1e-8, progress=False)
    assert torch.allclose(solution.blocks["x"], torch.ones_like(start), atol=1e-6)
    assert (solution.iterations < 3 * dense.iterations).all()

    X = odl.uniform_discr(0, 1, 5)
    single = lbfgs(
        odl.functionals.L2NormSquared(X).translated(X.one()) + 1.0, X.zero(), tol=1e-8, progress=False
    )
    assert single.blocks["v"] in X and (single.blocks["v"] - X.one()).norm() < 1e-8


def test_complex_blocks_and_single_precision():
    target = torch.randn(2, 4, dtype=torch.complex64)

    def smooth(b, target):
        return 100 + ((b["x"] - target).abs().square() * torch.tensor([1.0, 10.0, 100.0, 1.0])).sum(1)

    objective = Objective(smooth, {"x": odl.cn(4, dtype="complex64")}, per_sample={"target": target})
    solution = lbfgs(objective, {"x": torch.zeros_like(target)}, tol=1e-6, progress=False)
    assert (solution.status == Status.CONVERGED).all()
    assert torch.allclose(solution.blocks["x"], target, atol=1e-4)


def test_bad_arguments(problem):
    objective, *_ = problem
    with pytest.raises(ValueError, match="memory must be a positive integer, got 0"):
        lbfgs(objective, zeros(), memory=0, progress=False)
    l1 = odl.functionals.L2NormSquared(odl.rn(2)) + odl.functionals.L1Norm(odl.rn(2))
    with pytest.raises(NotImplementedError, match="differentiable for lbfgs"):
        lbfgs(l1, torch.zeros(2), progress=False)
