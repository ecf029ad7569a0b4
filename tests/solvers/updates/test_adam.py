"""Adam: torch's own, step by step; samples that diverge; the best iterate; compressed sensing with a generator."""

import functools

import odl
import pytest
import torch
from torch import nn

from genreg import Generator, HardConstraint, reconstruct
from genreg.operators import gaussian_measurements, to_torch
from genreg.solvers import Adam, Objective, Status, gradient_descent, ipalm, palm

from ...refusals import refuses

B, N = 4, 5
QUIET = {"tol": 0.0, "progress": False}


def valley(blocks, target, steepness):
    """A nonconvex function with data and steepness of every sample."""
    x = blocks["x"]
    r = (torch.view_as_real(x) if x.is_complex() else x[..., None]).flatten(1) - target
    return 1 + (steepness[:, None] * r.square() + 0.3 * (3 * r).cos()).sum(1)


def problem(dtype=torch.float64):
    real = torch.empty(0, dtype=dtype).real.dtype
    entries = 2 * N if dtype.is_complex else N
    per_sample = {
        "target": torch.randn(B, entries, dtype=real),
        "steepness": torch.logspace(-1, 2, B, dtype=real),
    }
    space = odl.tensor_space(N, dtype=str(dtype).removeprefix("torch."))
    return Objective(valley, {"x": space}, per_sample=per_sample, lengths={"x": 1.0}), torch.randn(
        B, N, dtype=dtype
    )


def recorded():
    seen = []
    return seen, lambda iterate: seen.append(iterate.blocks["x"].clone()) and False


PLAIN, ODD = {"lr": 0.02}, {"lr": 0.1, "betas": (0.5, 0.9), "eps": 1e-3, "decay": 0.99}


@pytest.mark.parametrize(
    ("dtype", "rtol", "settings"),
    [
        (torch.float64, 1e-11, PLAIN),
        (torch.float64, 1e-11, ODD),
        (torch.float64, 1e-11, {"betas": (0.0, 0.99)}),
        (torch.float32, 1e-5, PLAIN),
        (torch.complex128, 1e-11, ODD),
    ],
)
def test_every_sample_of_a_batch_is_torch_adam_step_by_step(dtype, rtol, settings):
    objective, start = problem(dtype)
    seen, callback = recorded()
    adam = Adam(**settings)
    gradient_descent(objective, start, updates={"x": adam}, max_iter=20, callback=callback, **QUIET)
    assert len(seen) == 20
    for k in range(B):
        alone = objective.take(torch.tensor([k]))
        x = start[k : k + 1].clone().requires_grad_()
        reference = torch.optim.Adam([x], lr=adam.lr, betas=adam.betas, eps=adam.eps)
        schedule = torch.optim.lr_scheduler.ExponentialLR(reference, adam.decay)
        for iterate in seen:
            reference.zero_grad()
            valley({"x": x}, **alone.per_sample).sum().backward()
            reference.step()
            schedule.step()
            assert torch.allclose(iterate[k], x.detach()[0], rtol=rtol, atol=rtol)


def test_one_sample_equals_the_batch():
    objective, start = problem()
    options = {"updates": {"x": Adam(lr=0.05)}, "max_iter": 20, **QUIET}
    together = gradient_descent(objective, start, **options)
    assert torch.equal(together.operator_calls, torch.full((B,), 21))
    for k in range(B):
        alone = gradient_descent(objective.take(torch.tensor([k])), start[k], **options)
        assert torch.allclose(alone.blocks["x"], together.blocks["x"][k], rtol=1e-12)
        assert alone.iterations == 20


def test_a_diverging_sample_touches_no_other():
    """The second sample is finite left of 1 only, the third at its start only; Adam makes steps of ½."""

    def smooth(blocks, edge):
        x = blocks["x"]
        return 1 + (x - 2).square().sum(1) + torch.where(x.amax(1) <= edge, 0.0, torch.nan)

    edge = torch.tensor([torch.inf, 1.0, 0.0, torch.inf], dtype=torch.float64)
    objective = Objective(smooth, {"x": odl.rn(N)}, per_sample={"edge": edge}, lengths={"x": 1.0})
    start = torch.zeros(B, N, dtype=torch.float64)
    seen, callback = recorded()
    options = {"updates": {"x": Adam(lr=0.5)}, "max_iter": 70, **QUIET}
    solution = gradient_descent(objective, start, callback=callback, **options)
    well = torch.tensor([0, 3])
    alone = gradient_descent(objective.take(well), start[well], **options)
    assert torch.equal(solution.blocks["x"][well], alone.blocks["x"])
    assert torch.equal(solution.history["value"][: len(alone.history["value"]), well], alone.history["value"])

    assert torch.allclose(seen[0][:, 0], torch.tensor([0.5, 0.5, 0.0, 0.5], dtype=torch.float64))
    assert (solution.blocks["x"][1] <= 1).all() and (solution.blocks["x"][1] > 0.98).all()
    ends = [Status.MAX_ITER, Status.MAX_ITER, Status.NON_FINITE, Status.MAX_ITER]
    assert solution.status.tolist() == ends
    assert torch.equal(solution.blocks["x"][2], start[2])
    assert solution.iterations[2] == 0 and solution.operator_calls[2] == 61
    assert torch.isfinite(solution.value).all()


def test_a_trial_that_is_not_finite_halves_the_rate_and_leaves_the_moments():
    def smooth(blocks):  # finite up to 0.2, where the derivative is already infinite
        return 1 - blocks["x"].sum(1) + (0.2 - blocks["x"]).sqrt().sum(1) * 0

    seen, callback = recorded()
    start = torch.zeros(1, 2, dtype=torch.float64)
    adam = Adam(lr=0.8, betas=(0.0, 0.0), eps=1e-300)
    options = {"updates": {"x": adam}, "max_iter": 1, "callback": callback, **QUIET}
    objective = Objective(smooth, {"x": odl.rn(2)}, lengths={"x": 1.0})
    solution = gradient_descent(objective, start, **options)
    steps = torch.cat(seen)[:, 0]  # 0.8 and 0.4 fail, and so does the edge itself: its gradient is NaN
    assert torch.allclose(steps, torch.tensor([0, 0, 0, 0.1], dtype=torch.float64))
    assert solution.operator_calls.tolist() == [5] and solution.iterations.tolist() == [1]


def test_returns_the_best_iterate_of_a_sample_that_did_not_converge():
    target = torch.randn(B, N, dtype=torch.float64)
    objective = Objective(
        lambda b, target: 1 + (b["x"] - target).square().sum(1),
        {"x": odl.rn(N)},
        per_sample={"target": target},
        lengths={"x": 1.0},
    )
    start = target + torch.linspace(0.5, 2, B, dtype=torch.float64)[:, None]
    seen, callback = recorded()
    solution = gradient_descent(
        objective, start, updates={"x": Adam(lr=0.7)}, max_iter=25, callback=callback, **QUIET
    )
    values = solution.history["value"]
    assert (solution.status == Status.MAX_ITER).all()
    assert torch.equal(solution.value, values.amin(0)) and (solution.value < values[-1]).all()
    assert torch.equal(solution.value, objective(solution.blocks))
    best = values[1:].argmin(0)
    assert all(torch.equal(solution.blocks["x"][k], seen[best[k]][k]) for k in range(B))
    assert (solution.iterations == 25).all() and (solution.operator_calls == 26).all()


def test_a_converged_sample_returns_the_iterate_that_met_the_tolerance():
    """Adam runs through the minimum of the well at 0, and comes to rest in the one at 2, which is less deep."""

    def smooth(blocks, deep):
        x = blocks["x"]
        return 3 + (x.square() * (x - 2).square() + deep[:, None] * x).sum(1)

    deep = torch.tensor([0.2, -0.2], dtype=torch.float64)
    objective = Objective(smooth, {"x": odl.rn(1)}, per_sample={"deep": deep}, lengths={"x": 1.0})
    start = torch.full((2, 1), -0.9, dtype=torch.float64)
    solution = gradient_descent(
        objective, start, updates={"x": Adam(lr=0.5, decay=0.98)}, tol=1e-6, max_iter=300, progress=False
    )
    assert solution.converged.all()
    _, gradients = objective.value_and_gradient(solution.blocks)
    x = solution.blocks["x"]
    assert (gradients["x"].abs() * (1 + x.abs()) / solution.value[:, None] <= 1e-6).all()
    assert (solution.history["value"].amin(0) < solution.value).any()


def test_together_with_other_updates():
    objective, start = problem()

    def smooth(blocks, **given):
        return valley({"x": blocks["x"]}, **given) + (blocks["w"] - blocks["x"]).square().sum(1)

    rough = to_torch(odl.functionals.L1Norm(odl.rn(N)))
    both = Objective(smooth, {"w": odl.rn(N), "x": odl.rn(N)}, {"w": rough}, objective.per_sample)
    init = {"w": torch.zeros_like(start), "x": start}
    mixed, plain = (
        palm(both, init, updates=updates, max_iter=100, tol=1e-3, progress=False)
        for updates in ({"x": Adam(lr=0.2, betas=(0.9, 0.95), decay=0.97)}, None)
    )
    assert (mixed.value < 1.01 * plain.value).all()
    for solver in (palm, ipalm):
        with pytest.raises(NotImplementedError, match="must be differentiable in 'w' for Adam"):
            solver(both, init, updates={"w": Adam()}, progress=False)


@refuses(
    ({"lr": 0.0}, "lr must be positive and finite, got 0.0"),
    ({"lr": float("inf")}, "lr must be positive and finite, got inf"),
    ({"eps": -1e-8}, "eps must be positive and finite, got -1e-08"),
    ({"betas": (0.9, 1.0)}, r"betas\[1\] must be a number between 0 and 1, got 1.0"),
    ({"betas": (0.9,)}, r"betas must be two numbers in \[0, 1\), got \(0.9,\)"),
    ({"decay": 1.1}, "decay must be a number between 0 and 1, got 1.1"),
    error=ValueError,
)
def test_bad_settings(settings):
    Adam(**settings)


def test_names_a_block_of_the_objective():
    objective, start = problem()
    with pytest.raises(ValueError, match=r"updates must name blocks of the objective, \['x'\], got 'z'"):
        gradient_descent(objective, start, updates={"z": Adam()}, progress=False)
    lasso = Objective(objective.smooth, objective.spaces, {"x": to_torch(odl.functionals.L1Norm(odl.rn(N)))})
    with pytest.raises(NotImplementedError, match="objective must be differentiable"):
        gradient_descent(lasso, start, updates={"x": Adam()}, progress=False)
    with pytest.raises(NotImplementedError, match="objective must be differentiable for Adam, got Objective"):
        palm(lasso, start, updates={"x": Adam()}, progress=False)


class Linear(nn.Module):
    """x = W z + b, with the pseudo-inverse as its encoder; or wavy, with many minima and no encoder."""

    latent_dim = 2

    def __init__(self, wavy=False):
        super().__init__()
        self.linear = nn.Linear(2, 6, dtype=torch.float64)
        self.wavy = wavy
        if not wavy:
            self.encode = lambda x: (x - self.linear.bias) @ torch.linalg.pinv(self.linear.weight).T

    def decode(self, z):
        return self.linear(z + (6 * z).sin() if self.wavy else z)


CSGM = functools.partial(gradient_descent, updates={"z": Adam(lr=0.1)})


@pytest.mark.parametrize("init", ["random", "encoder"])
def test_compressed_sensing_with_a_linear_generator_has_a_closed_form(init):
    X = odl.uniform_discr(0, 3, 6)
    A, G, y = (
        gaussian_measurements(X, 4, seed=0),
        Generator(Linear(), X),
        torch.randn(2, 4, dtype=torch.float64),
    )
    rec = reconstruct(
        A,
        y,
        HardConstraint(G),
        noise_std=0.3,
        lam=0.5,
        restarts=4,
        init=init,
        solver=CSGM,
        max_iter=400,
        tol=1e-6,
        progress=False,
    )
    identity = torch.eye(2, dtype=torch.float64)
    offset = to_torch(A)(G.module(torch.zeros(1, 2, dtype=torch.float64)))
    M = (to_torch(A)(G.module(identity)) - offset).T
    exact = torch.linalg.solve(M.T @ M / 0.3**2 + identity, M.T @ (y - offset).T / 0.3**2).T
    assert torch.allclose(rec.blocks["z"], exact, atol=1e-5)
    assert torch.allclose(rec.image, G.module(rec.blocks["z"]))


def test_restarts_keep_the_best():
    X = odl.uniform_discr(0, 3, 6)
    A, G = gaussian_measurements(X, 4, seed=0), Generator(Linear(wavy=True), X)
    y = to_torch(A)(G.module(torch.randn(2, 2, dtype=torch.float64)))
    solve = functools.partial(
        reconstruct,
        A,
        y,
        HardConstraint(G),
        noise_std=0.3,
        lam=0.5,
        init="random",
        solver=functools.partial(gradient_descent, updates={"z": Adam(lr=0.05)}),
        max_iter=40,
        progress=False,
    )
    one, ten = solve(restarts=1), solve(restarts=10)
    lowest = ten.history["value"].amin(0).view(2, 10)
    assert torch.equal(ten.value, lowest.amin(1))
    assert (ten.value < one.value).any() and (ten.value <= one.value + 1e-12).all()
