"""iPALM: closed forms, against PALM, monotonicity, single precision, and other updates for some blocks."""

import odl
import pytest
import torch

from genreg.operators import to_torch
from genreg.solvers import (
    Backtracking,
    Inertial,
    Objective,
    QuasiNewton,
    Status,
    alternating_gradient_descent,
    ipalm,
    palm,
)

B, M, N, K = 3, 16, 24, 3


@pytest.fixture(name="problem", params=["float64", "float32"])
def deviation(request):
    """½‖A (u + W tanh z) - y‖² + λ ‖u‖₁ + λ μ ‖z‖² with an ill-conditioned A, λ per sample, and weight ½."""
    dtype = getattr(torch, request.param)
    U, Z = odl.uniform_discr(0, N / 2, N, dtype=request.param), odl.rn(K, dtype=request.param)
    A = (torch.randn(M, N, dtype=torch.float64) * torch.logspace(0, -1, N, dtype=torch.float64)).to(dtype)
    W = torch.randn(N, K, dtype=torch.float64).to(dtype)
    truth = 2 * torch.randn(B, N, dtype=torch.float64).to(dtype) * (torch.rand(B, N) < 0.1)
    y = (truth + torch.randn(B, K, dtype=torch.float64).to(dtype).tanh() @ W.T) @ A.T
    lam = torch.tensor([0.5, 1.0, 2.0], dtype=dtype)

    def smooth(b, y, lam):
        r = (b["u"] + b["z"].tanh() @ W.T) @ A.T - y
        return 0.5 * r.square().sum(1) + 0.1 * lam * b["z"].square().sum(1)

    objective = Objective(
        smooth,
        {"u": U, "z": Z},
        {"u": per_sample_l1(U, lam)},
        {"y": y, "lam": lam},
        lengths={"u": 1.0, "z": 1.0},
    )
    return objective, {"u": torch.zeros(B, N, dtype=dtype), "z": torch.full((B, K), 0.1, dtype=dtype)}


def per_sample_l1(space, lam):
    g = to_torch(odl.functionals.L1Norm(space)).scaled(lam)
    g._take = lambda index: per_sample_l1(space, lam[index])
    return g


def first_below(values, target):
    reached = values <= target
    assert reached.any(0).all()
    return reached.int().argmax(0)


@pytest.mark.parametrize("problem", ["float64"], indirect=True)
def test_a_third_of_the_iterations_of_palm(problem):
    objective, start = problem
    plain = palm(objective, start, max_iter=210, tol=0.0, progress=False)
    for updates in (None, {"z": QuasiNewton()}):
        inertial = ipalm(objective, start, max_iter=65, tol=0.0, updates=updates, progress=False)
        target = inertial.value.maximum(plain.value) * (1 + 1e-4)
        fast, slow = (first_below(s.history["value"], target) for s in (inertial, plain))
        assert 3 * fast.sum() <= slow.sum()
        assert inertial.operator_calls.max() == 1 + 2 * (len(inertial.history["value"]) - 1)


def test_meets_the_optimality_conditions_and_batch_equals_one_at_a_time(problem):
    objective, start = problem
    single = start["u"].dtype == torch.float32
    tol, accuracy = (1e-3, 1e-2) if single else (5e-6, 1e-5)
    solution = ipalm(objective, start, max_iter=1000, tol=tol, progress=False)
    assert solution.converged.all()
    _, gradients = objective.value_and_gradient(solution.blocks)
    lam, u, g = 0.5 * objective.per_sample["lam"][:, None], solution.blocks["u"], gradients["u"]
    assert (gradients["z"].abs() < accuracy).all()
    assert (g.abs() <= lam + accuracy).all()
    active = u != 0
    assert 0 < active.sum() < active.numel()
    assert ((g + lam * u.sign())[active].abs() < accuracy).all()
    for k in () if single else (2,):
        index = torch.tensor([k])
        alone = ipalm(
            objective.take(index),
            {name: v[index] for name, v in start.items()},
            max_iter=1000,
            tol=tol,
            progress=False,
        )
        assert torch.allclose(alone.blocks["u"][0], u[k], atol=1e-4)


def test_objective_does_not_rise_and_nothing_stalls(problem):
    objective, start = problem
    solution = ipalm(objective, start, max_iter=100, tol=0.0, progress=False)
    values = solution.history["value"]
    eps = torch.finfo(values.dtype).eps
    assert (values[1:] <= values[:-1] + 10 * eps * values[:-1]).all()
    assert (values[-1] <= values.amin(0) * (1 + 10 * eps)).all()  # rounding does not add up
    assert not (solution.status == Status.STALLED).any()


def test_inertia_speeds_up_an_ill_conditioned_quadratic_and_finds_its_minimum():
    H = torch.logspace(0, 2, N, dtype=torch.float64)
    objective = Objective(lambda b: 1 + 0.5 * (H * (b["x"] - 1).square()).sum(1), {"x": odl.rn(N)})
    start = {"x": torch.zeros(2, N, dtype=torch.float64)}
    inertial = ipalm(objective, start, tol=1e-5, max_iter=800, progress=False)
    longer = 3 * int(inertial.iterations.max()) + 1
    plain = palm(objective, start, tol=1e-5, max_iter=longer, progress=False)
    assert inertial.converged.all()
    assert torch.allclose(inertial.blocks["x"], torch.ones(2, N, dtype=torch.float64), atol=1e-5)
    assert (3 * inertial.iterations < plain.iterations).all()


def test_without_momentum_a_step_is_one_of_palm():
    """The first step has no inertia yet, and so has one after a restart."""
    target = torch.randn(2, 5, dtype=torch.float64)
    objective = Objective(lambda b: (b["x"] - target).square().sum(1), {"x": odl.rn(5)}, lengths={"x": 1.0})
    start, search = {"x": torch.zeros(2, 5, dtype=torch.float64)}, Backtracking(initial_step=0.1)
    one = [
        solver(objective, start, max_iter=1, line_search=search, progress=False) for solver in (palm, ipalm)
    ]
    assert torch.equal(one[0].blocks["x"], one[1].blocks["x"])
    two = ipalm(objective, start, max_iter=2, line_search=search, progress=False).blocks["x"]
    x1 = one[0].blocks["x"]
    tau = 0.2 / objective.value_and_gradient(start)[1]["x"].norm(dim=1, keepdim=True)
    assert torch.allclose(two, x1 + 0.25 * x1 - tau * 2 * (x1 - target))


@pytest.mark.parametrize("solver", [palm, ipalm])
def test_other_updates_and_bad_ones(problem, solver):
    objective, start = problem
    with pytest.raises(ValueError, match=r"updates must name blocks.*'u', 'z'.*'x'"):
        solver(objective, start, updates={"x": QuasiNewton()}, progress=False)
    with pytest.raises(NotImplementedError, match="must be differentiable in 'u' for QuasiNewton"):
        solver(objective, start, updates={"u": QuasiNewton()}, progress=False)
    smooth = Objective(objective.smooth, objective.spaces, per_sample=objective.per_sample)
    mixed = alternating_gradient_descent(
        smooth, start, updates={"u": Inertial(), "z": QuasiNewton()}, max_iter=20, progress=False
    )
    plain = alternating_gradient_descent(smooth, start, max_iter=20, progress=False)
    assert (mixed.value < plain.value * 1.01).all()
