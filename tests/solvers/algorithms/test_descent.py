"""Descent solvers against closed forms, batched against one at a time, and how samples end."""

import math
from dataclasses import dataclass, field, replace

import odl
import pytest
import torch

from genreg.operators.bridge.caller_data import Batch
from genreg.operators.linear.conjugate_gradient import inner
from genreg.solvers import (
    Backtracking,
    Objective,
    ProxGradient,
    Status,
    alternating_gradient_descent,
    gradient_descent,
    palm,
)
from genreg.solvers.driver.loop import run

from ...refusals import refuses

B, M, N = 5, 12, 6


@pytest.fixture
def ridge():
    """Batched ridge regression with its own matrix, data and λ for every sample, and its closed form."""
    g = torch.Generator().manual_seed(1)
    A = torch.randn(B, M, N, generator=g, dtype=torch.float64)
    y = torch.randn(B, M, generator=g, dtype=torch.float64)
    lam = torch.logspace(-2, 1, B, dtype=torch.float64)

    def smooth(blocks, A, y, lam):
        x = blocks["x"]
        return 0.5 * (torch.einsum("bij,bj->bi", A, x) - y).square().sum(1) + lam * x.square().sum(1)

    objective = Objective(smooth, {"x": odl.rn(N)}, per_sample={"A": A, "y": y, "lam": lam})
    normal = A.mT @ A + 2 * lam[:, None, None] * torch.eye(N, dtype=torch.float64)
    return objective, torch.linalg.solve(normal, (A.mT @ y[..., None]))[..., 0]


@pytest.mark.parametrize(
    "line_search", [Backtracking(), Backtracking(spectral=True), Backtracking(relative=False)]
)
def test_gradient_descent_finds_the_closed_form(ridge, line_search):
    objective, exact = ridge
    start = {"x": torch.zeros(B, N, dtype=torch.float64)}
    solution = gradient_descent(
        objective, start, tol=1e-10, max_iter=2000, line_search=line_search, progress=False
    )
    assert (solution.status == Status.CONVERGED).all()
    assert torch.allclose(solution.blocks["x"], exact, atol=1e-8)
    assert torch.allclose(solution.value, objective({"x": exact}), rtol=1e-12)


def test_every_sample_is_solved_as_if_alone(ridge):
    objective, _ = ridge
    start = torch.randn(B, N, dtype=torch.float64)
    options = {"tol": 1e-8, "progress": False}
    together = gradient_descent(objective, {"x": start}, **options)
    for k in range(B):
        alone = gradient_descent(objective.take(torch.tensor([k])), {"x": start[k : k + 1]}, **options)
        assert torch.equal(together.iterations[k : k + 1], alone.iterations)
        assert torch.allclose(together.blocks["x"][k], alone.blocks["x"][0], atol=1e-12)


@pytest.mark.parametrize("line_search", [Backtracking(), Backtracking(spectral=True)])
def test_objective_never_rises_and_history_is_complete(ridge, line_search):
    objective, _ = ridge
    start = {"x": torch.randn(B, N, dtype=torch.float64)}
    solution = gradient_descent(objective, start, tol=1e-6, line_search=line_search, progress=False)
    value = solution.history["value"]
    assert (value[1:] <= value[:-1] * (1 + 1e-14)).all()
    assert torch.equal(value[-1], solution.value)
    assert value.shape == solution.history["residual"].shape == (len(value), B)


def test_growth_rule_is_the_condition_of_algorithm_1():
    search = Backtracking(slack=0)
    value, step = torch.tensor([10.0]), torch.tensor([0.1])
    gradient = torch.tensor([[3.0, 4.0]])
    d = -step[:, None] * gradient
    bound = value - 0.5 * step * inner(gradient, gradient)  # H(v) - τ/2 ‖∇H‖²
    for shift, expected in ((-1e-3, True), (1e-3, False)):
        limits = search.bound(value, torch.zeros(1), inner(gradient, d), inner(d, d), step)
        accepted = search.accept(
            value, bound + shift, limits[0], inner(gradient, d), torch.zeros(1), limits[1]
        )
        assert accepted.item() is expected


def test_float32_does_not_stall_at_the_optimum():
    H = torch.logspace(0, 1.5, N)
    objective = Objective(
        lambda b: 1e4 + 0.5 * (H * (b["x"] - 1).square()).sum(1), {"x": odl.rn(N, dtype="float32")}
    )
    for line_search in (Backtracking(), Backtracking(spectral=True)):
        solution = gradient_descent(
            objective,
            {"x": torch.zeros(1, N)},
            tol=1e-7,
            max_iter=2000,
            line_search=line_search,
            progress=False,
        )
        assert solution.status.tolist() == [Status.CONVERGED]
        assert torch.allclose(solution.blocks["x"], torch.ones(1, N), atol=1e-3)


def test_bad_samples_end_alone():
    def smooth(blocks, bad):
        return (blocks["x"] - 1).square().sum(1) / bad

    bad = torch.tensor([1.0, 0.0, torch.nan, 1.0], dtype=torch.float64)
    objective = Objective(smooth, {"x": odl.rn(3)}, per_sample={"bad": bad})
    solution = gradient_descent(objective, {"x": torch.zeros(4, 3, dtype=torch.float64)}, progress=False)
    ends = [Status.CONVERGED, Status.NON_FINITE, Status.NON_FINITE, Status.CONVERGED]
    assert solution.status.tolist() == ends
    assert torch.allclose(solution.blocks["x"][[0, 3]], torch.ones(2, 3, dtype=torch.float64))
    assert "2 x NON_FINITE" in solution.advice()


def test_iteration_limit_callback_and_zero_iterations(ridge):
    objective, _ = ridge
    start = {"x": torch.ones(B, N, dtype=torch.float64)}
    limited = gradient_descent(objective, start, max_iter=3, tol=0.0, progress=False)
    assert (limited.status == Status.MAX_ITER).all() and (limited.iterations == 3).all()
    assert torch.equal(start["x"], torch.ones(B, N, dtype=torch.float64))

    seen = []
    stopped = gradient_descent(
        objective,
        start,
        tol=0.0,
        callback=lambda it: seen.append(it.iteration) or it.iteration == 4,
        progress=False,
    )
    assert seen == [1, 2, 3, 4] and (stopped.status == Status.STOPPED).all()

    nothing = gradient_descent(objective, start, max_iter=0, progress=False)
    assert (nothing.status == Status.MAX_ITER).all() and torch.equal(nothing.blocks["x"], start["x"])


def test_odl_functional_in_elements_out():
    X = odl.uniform_discr([0, 0], [1, 2], (4, 5))
    target = X.element(torch.rand(4, 5, dtype=torch.float64).numpy())
    J = odl.functionals.L2NormSquared(X).translated(target) + 0.5 * odl.functionals.L2NormSquared(X)
    solution = gradient_descent(J, X.zero(), tol=1e-10, progress=False)
    x = solution.blocks["v"]
    assert x in X and solution.value.shape == ()
    assert (x - target / 1.5).norm() < 1e-9
    assert float(solution.value) == pytest.approx(J(x), rel=1e-10)


def test_alternating_descent_and_palm_over_two_blocks():
    """min over u, z of ½‖u + Wz - y‖² + λ‖u‖₁ + μ‖z‖² by PALM, against its subgradient condition."""
    U, Z = odl.rn(8), odl.rn(3)
    W = 0.5 * torch.linalg.qr(torch.randn(8, 3, dtype=torch.float64)).Q
    y = torch.randn(2, 8, dtype=torch.float64)
    lam, mu = 0.3, 0.5
    P = odl.ProductSpace(U, Z)
    from genreg.operators import to_torch

    l1 = to_torch(lam * odl.functionals.L1Norm(U))
    smooth = Objective(
        lambda b, y: 0.5 * (b["u"] + b["z"] @ W.T - y).square().sum(1) + mu * b["z"].square().sum(1),
        {"u": P[0], "z": P[1]},
        proximable={"u": l1},
        per_sample={"y": y},
    )
    init = {"u": torch.zeros(2, 8, dtype=torch.float64), "z": torch.zeros(2, 3, dtype=torch.float64)}
    solution = palm(smooth, init, tol=1e-11, max_iter=5000, progress=False)
    assert solution.converged.all()
    u, z = solution.blocks["u"], solution.blocks["z"]
    r = u + z @ W.T - y
    assert torch.allclose(r @ W + 2 * mu * z, torch.zeros_like(z), atol=1e-8)
    assert (r.abs() <= lam + 1e-8).all()
    active = u != 0
    assert 0 < active.sum() < active.numel()
    assert torch.allclose(r[active], -lam * u[active].sign(), atol=1e-8)

    with pytest.raises(NotImplementedError, match="palm"):
        alternating_gradient_descent(smooth, init, progress=False)


def test_alternating_descent_matches_descent_on_all_blocks():
    X, Z = odl.rn(4), odl.rn(2)
    W = torch.linalg.qr(torch.randn(4, 2, dtype=torch.float64)).Q
    y = torch.randn(3, 4, dtype=torch.float64)

    def smooth(b, y):
        x, z = b["x"], b["z"]
        return 0.5 * (x - y).square().sum(1) + (x - z @ W.T).square().sum(1) + 0.5 * z.square().sum(1)

    objective = Objective(smooth, {"x": X, "z": Z}, per_sample={"y": y})
    init = {"x": torch.zeros(3, 4, dtype=torch.float64), "z": torch.zeros(3, 2, dtype=torch.float64)}
    solution = alternating_gradient_descent(objective, init, tol=1e-11, max_iter=5000, progress=False)
    x, z = solution.blocks["x"], solution.blocks["z"]
    assert torch.allclose((x - y) + 2 * (x - z @ W.T), torch.zeros_like(x), atol=1e-8)
    assert torch.allclose(-2 * (x - z @ W.T) @ W + z, torch.zeros_like(z), atol=1e-8)


def test_proximal_gradient_on_a_weighted_space_is_a_projection():
    """The prox of an ODL functional is taken in the weighted norm; the solver works in the Euclidean one."""
    X = odl.uniform_discr(0, 10, 5)  # weight 2
    y = X.element([-1.0, 0.5, 2.0, -3.0, 1.0])
    J = 0.5 * odl.functionals.L2NormSquared(X).translated(y) + 0.25 * odl.functionals.L1Norm(X)
    solution = palm(J, X.one(), tol=1e-12, progress=False)
    expected = y.asarray().clip(0.25) - 0.25 - ((-y.asarray()).clip(0.25) - 0.25)
    assert torch.allclose(torch.tensor(solution.blocks["v"].asarray()), torch.tensor(expected), atol=1e-9)

    box = odl.functionals.L2NormSquared(X).translated(y) + odl.functionals.IndicatorBox(X, 0, 1)
    clipped = palm(box, 5 * X.one(), tol=1e-12, progress=False)
    assert torch.allclose(
        torch.tensor(clipped.blocks["v"].asarray()), torch.tensor(y.asarray().clip(0, 1)), atol=1e-9
    )


@refuses(
    ({"init": torch.zeros(4)}, ValueError, "must have shape"),
    ({"init": torch.zeros(2, 2, N)}, ValueError, "at most one batch axis"),
    ({"init": torch.full((N,), torch.nan)}, ValueError, "must be finite"),
    ({"init": ["0"] * N}, TypeError, "init must be an ODL element, a tensor or an array"),
    (
        {"init": torch.zeros(N, dtype=torch.bool)},
        TypeError,
        "init must be an ODL element, a tensor or an array",
    ),
    ({"init": torch.zeros(0, N)}, ValueError, "init must hold at least one sample"),
    ({"init": torch.zeros(N, dtype=torch.complex128)}, TypeError, "real"),
    ({"init": {"x": torch.zeros(N), "z": torch.zeros(N)}}, ValueError, "blocks|one block"),
    ({"init": odl.rn(N + 1).zero()}, ValueError, "element of"),
    ({"max_iter": -1}, ValueError, "max_iter"),
    ({"max_iter": 1.5}, TypeError, "max_iter"),
    ({"tol": -1.0}, ValueError, "tol must be non-negative and finite"),
    ({"tol": math.inf}, ValueError, "tol must be non-negative and finite"),
    ({"tol": None}, TypeError, "tol must be a number, got None"),
    ({"callback": 3}, TypeError, "callback must be a function of an Iterate, got 3"),
    ({"objective": "x"}, TypeError, "ODL functional"),
    ({"objective": odl.functionals.L1Norm(odl.rn(N))}, NotImplementedError, "gradient"),
    ({"objective": odl.functionals.IndicatorBox(odl.rn(N), 0, 1)}, NotImplementedError, "gradient"),
)
def test_bad_arguments(change):
    arguments = {"objective": odl.functionals.L2NormSquared(odl.rn(N)), "init": torch.zeros(N), **change}
    gradient_descent(progress=False, **arguments)


@pytest.mark.parametrize("settings", [{"initial_step": 0}, {"grow": 0.5}, {"shrink": 1.0}, {"max_trials": 0}])
def test_bad_line_search(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        Backtracking(**settings)


@dataclass(frozen=True)
class Creeping(ProxGradient):
    """Lets one trial in ten of a gradient step pass."""

    turns: list = field(default_factory=list)

    def __call__(self, objective, state, block):
        self.turns.append(1)
        moved = super().__call__(objective, state, block)
        if len(self.turns) % 10 == 0:
            return moved
        rejections = {block: state.rejections[block] + 1}
        return replace(state, rejections=rejections, residuals=moved.residuals, calls=moved.calls)


def test_a_sample_that_creeps_ends():
    objective = Objective(lambda b: b["x"].square().sum(1) + 1, {"x": odl.rn(2)})
    update = Creeping(Backtracking(initial_step=1e-6, grow=1.0, max_trials=15))
    batch = Batch({"x": torch.ones(3, 2, dtype=torch.float64)}, dict, True)
    solution = run(objective, batch, {"x": update}, max_iter=20, tol=1e-9, progress=False)
    assert (solution.status == Status.MAX_ITER).all()
    assert len(update.turns) == 4 * 20 + 15 and (solution.iterations == 9).all()
