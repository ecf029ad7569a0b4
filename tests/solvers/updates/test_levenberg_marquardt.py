"""Damped Gauss-Newton steps and the Levenberg-Marquardt method: closed forms, other solvers, bad samples."""

import math
from dataclasses import replace

import odl
import pytest
import torch
from torch import nn

from genreg.operators import (
    NetworkOperator,
    TorchOperator,
    derivative_test,
    gaussian_measurements,
    mask,
    to_torch,
)
from genreg.operators.bridge.caller_data import per_sample_number
from genreg.operators.bridge.jacobians import jacobian
from genreg.operators.fidelity import GaussianFidelity
from genreg.solvers import (
    LevenbergMarquardt,
    Objective,
    Status,
    debugging,
    gauss_newton,
    levenberg_marquardt,
    quasi_newton,
)
from genreg.solvers.generative.latent import latent_objective
from genreg.solvers.problem.objective import Curvature
from genreg.solvers.updates.levenberg_marquardt import _bfgs, _dense_step

from ..latent_problems import OPERATORS, SHAPE, K, N, data, hard_closed_form, linear, network, rays, space

QUIET = {"progress": False}
GRADIENT = {"tol": 1e-9, "max_iter": 200, **QUIET}


def residuals(functions, jacobian, n):
    """The objective ½‖f(v)‖² of a batch, for f and its Jacobian."""

    def smooth(blocks):
        return 0.5 * functions(blocks["v"]).square().sum(1)

    def curvature(blocks):
        J = jacobian(blocks["v"])
        N = J.mT @ J
        return Curvature(lambda: N, lambda p: (N @ p[..., None])[..., 0])

    return Objective(smooth, {"v": odl.rn(n)}, curvature={"v": curvature})


def rosenbrock(factor=10.0):
    def jacobian(v):
        one, zero = torch.ones_like(v[:, 0]), torch.zeros_like(v[:, 0])
        rows = torch.stack((-one, zero), 1), torch.stack((-2 * factor * v[:, 0], factor * one), 1)
        return torch.stack(rows, 1)

    def functions(v):
        return torch.stack((1 - v[:, 0], factor * (v[:, 1] - v[:, 0] ** 2)), 1)

    return residuals(functions, jacobian, 2)


def problem(name="gaussian", batch=4):
    A, G = OPERATORS[name](space()), network()
    y, z = data(A, G, batch)
    return A, G, y, z


def objective(A, G, y, std, lam):
    fidelity = GaussianFidelity(A, y, std)
    weight = 2 * per_sample_number(lam, "lam", fidelity.data)
    return latent_objective(to_torch(A), to_torch(G), **fidelity.per_sample, weight=weight)


# The update


def test_secant_equation_and_definiteness():
    root = torch.randn(5, K, K, dtype=torch.float64)
    N = root @ root.mT + torch.eye(K, dtype=torch.float64)
    s, y = torch.randn(2, 5, K, dtype=torch.float64)
    y = y * (s * y).sum(1, keepdim=True).sign() + (N @ s[..., None])[..., 0]  # plenty of curvature
    updated = _bfgs(N, s, y)
    torch.testing.assert_close((updated @ s[..., None])[..., 0], y)
    torch.testing.assert_close(updated, updated.mT)
    assert (torch.linalg.eigvalsh(updated) > 0).all()


def test_negative_curvature_is_damped_and_nonsense_is_left_out():
    root = torch.randn(5, K, K, dtype=torch.float64)
    N = root @ root.mT + 0.1 * torch.eye(K, dtype=torch.float64)
    s, y = torch.randn(2, 5, K, dtype=torch.float64)
    y = -y * (s * y).sum(1, keepdim=True).sign()
    updated = _bfgs(N, s, y)
    assert (torch.linalg.eigvalsh(updated) > 0).all()
    sNs = torch.einsum("bi,bij,bj->b", s, N, s)
    torch.testing.assert_close(torch.einsum("bi,bij,bj->b", s, updated, s), 0.2 * sNs)  # Powell's
    for broken in (torch.zeros_like(s), torch.full_like(s, torch.nan), torch.full_like(s, torch.inf)):
        assert torch.equal(_bfgs(N, broken, broken), N)


def test_steps_solve_the_damped_system_and_keep_what_they_promise():
    root = torch.randn(5, K, K, dtype=torch.float64)
    N, g = root @ root.mT, torch.randn(5, K, dtype=torch.float64)
    mu = torch.logspace(-2, 2, 5, dtype=torch.float64)
    d, promised = _dense_step(N, g, mu)
    damped = N + mu[:, None, None] * torch.diag_embed(N.diagonal(dim1=1, dim2=2))
    torch.testing.assert_close((damped @ d[..., None])[..., 0], -g)
    model = (g * d).sum(1) + 0.5 * torch.einsum("bi,bij,bj->b", d, N, d)
    torch.testing.assert_close(promised, -model)


def test_directions_without_curvature_do_no_harm():
    N = torch.diag(torch.tensor([1.0, 0.0, 4.0], dtype=torch.float64))[None]
    d, _ = _dense_step(N, torch.tensor([[1.0, 0.0, 2.0]], dtype=torch.float64), torch.zeros(1))
    torch.testing.assert_close(d, torch.tensor([[-1.0, 0.0, -0.5]], dtype=torch.float64))


def test_conjugate_gradients_solve_the_shifted_system():
    root = torch.randn(2, 5, 5, dtype=torch.float64)
    N = root @ root.mT + torch.eye(5, dtype=torch.float64)
    g, mu = torch.randn(2, 5, dtype=torch.float64), torch.tensor([0.1, 3.0], dtype=torch.float64)

    def product(p):
        return (N @ p[..., None])[..., 0]

    unit = (g * product(g)).sum(1) / g.square().sum(1)
    shifted = N + (mu * unit)[:, None, None] * torch.eye(5, dtype=torch.float64)
    exact = -torch.linalg.solve(shifted, g[..., None])[..., 0]
    d, promised = LevenbergMarquardt()._krylov_step(product, g, mu)
    torch.testing.assert_close(promised, -(g * d).sum(1) - 0.5 * torch.einsum("bi,bij,bj->b", d, shifted, d))
    best = -0.5 * (g * exact).sum(1)
    assert (promised <= best * (1 + 1e-12)).all() and (promised >= 0.95 * best).all()
    alone, _ = LevenbergMarquardt()._krylov_step(lambda p: p @ N[1], g[1:], mu[1:])
    torch.testing.assert_close(alone, d[1:])


def test_steps_that_are_lost_in_rounding_end_the_run():
    """A value that rises everywhere: the damping grows until v + d is v."""

    def smooth(blocks, start):
        v = blocks["v"]
        return 1 + v.sum(1) + 1e3 * (v - start).abs().sum(1).detach()

    start = torch.ones(2, 3, dtype=torch.float64)
    eye = torch.eye(3, dtype=torch.float64).expand(2, 3, 3)
    rising = Objective(
        smooth,
        {"v": odl.rn(3)},
        per_sample={"start": start},
        curvature={"v": lambda blocks, start: Curvature(lambda: eye[: len(start)], lambda p: p)},
        lengths={"v": 1.0},
    )
    for update in (LevenbergMarquardt(), LevenbergMarquardt(dense=0)):
        solution = gauss_newton(rising, start, update=update, **QUIET)
        assert solution.status.tolist() == [Status.STALLED] * 2 and torch.equal(solution.blocks["v"], start)
        assert (solution.operator_calls == 16).all()


# gauss_newton


def test_rosenbrock_as_least_squares():
    start = torch.tensor([[-1.2, 1.0], [3.0, -2.0], [0.0, 0.0]], dtype=torch.float64)
    shifted = rosenbrock()
    with debugging():
        solution = gauss_newton(shifted, start, tol=1e-8, **QUIET)
    assert torch.allclose(solution.blocks["v"], torch.ones(3, 2, dtype=torch.float64), atol=1e-6)
    assert (solution.iterations < 40).all() and (solution.value < 1e-12).all()
    assert (solution.history["value"].diff(dim=0) <= 0).all()


def test_large_residuals():
    """Brown and Dennis: f_i = (v1 + t v2 - e^t)² + (v3 + v4 sin t - cos t)², with a minimum of ½ · 85822.2016."""
    t = torch.arange(1, 21, dtype=torch.float64) / 5

    def functions(v):
        a = v[:, :1] + t * v[:, 1:2] - t.exp()
        b = v[:, 2:3] + t.sin() * v[:, 3:] - t.cos()
        return a**2 + b**2

    def jacobian(v):
        a = v[:, :1] + t * v[:, 1:2] - t.exp()
        b = v[:, 2:3] + t.sin() * v[:, 3:] - t.cos()
        return 2 * torch.stack((a, t * a, b, t.sin() * b), -1)

    start = torch.tensor([[25.0, 5.0, -5.0, -1.0], [0.0, 0.0, 0.0, 0.0]], dtype=torch.float64)
    problem = residuals(functions, jacobian, 4)
    solution = gauss_newton(problem, start, tol=1e-7, **QUIET)
    expected = torch.full((2,), 85822.2016263563 / 2, dtype=torch.float64)
    torch.testing.assert_close(solution.value, expected, rtol=1e-9, atol=0)
    assert solution.converged.all()
    slow = gauss_newton(problem, start, update=LevenbergMarquardt(fresh=0), max_iter=60, **QUIET)
    assert (slow.value > 2 * expected).all() and (slow.history["value"].diff(dim=0) <= 0).all()


def test_both_kinds_of_matrices_and_quasi_newton_find_the_same_minimum():
    A, G, y, z = problem()
    hard = objective(A, G, y, 0.05, 0.5)
    reference = quasi_newton(hard, z, tol=1e-9, max_iter=500, **QUIET)
    for update in (
        LevenbergMarquardt(),
        LevenbergMarquardt(fresh=0),
        LevenbergMarquardt(dense=0),
        LevenbergMarquardt(dense=1),
    ):
        with debugging():
            solution = gauss_newton(hard, z, update=update, tol=1e-7, max_iter=500, **QUIET)
        assert solution.converged.all()
        torch.testing.assert_close(solution.blocks["z"], reference.blocks["z"], rtol=0, atol=1e-6)
        torch.testing.assert_close(solution.value, reference.value)


def test_always_gauss_newton_means_a_new_matrix_after_every_step():
    A, G, y, z = problem()
    hard, made = objective(A, G, y, 0.05, 0.5), []
    plain = hard.curvature["z"]

    def counted(blocks, **per_sample):
        made.append(len(blocks["z"]))
        return plain(blocks, **per_sample)

    hard = replace(hard, curvature={"z": counted})
    one = hard.take(torch.tensor([0]))
    always = gauss_newton(one, z[:1], update=LevenbergMarquardt(fresh=0), max_iter=12, tol=0.0, **QUIET)
    assert always.iterations == 12 and len(made) == 12
    made.clear()
    hybrid = gauss_newton(one, z[:1], max_iter=12, tol=0.0, **QUIET)
    assert hybrid.iterations == 12 and 0 < len(made) < 12


def test_elements_and_dicts_and_single_tensors():
    f = rosenbrock()
    element = gauss_newton(f, odl.rn(2).element([0.5, 0.5]), tol=1e-8, **QUIET)
    assert element.blocks["v"] in odl.rn(2) and element.value.shape == ()
    tensor = gauss_newton(f, {"v": torch.full((2,), 0.5, dtype=torch.float64)}, tol=1e-8, **QUIET)
    assert torch.allclose(tensor.blocks["v"], torch.ones(2, dtype=torch.float64), atol=1e-6)
    assert abs(element.blocks["v"].asarray() - 1).max() < 1e-6


def test_stops_where_it_is_told_to():
    f = rosenbrock()
    start = torch.tensor([[-1.2, 1.0]], dtype=torch.float64)
    assert gauss_newton(f, start, max_iter=2, **QUIET).status.tolist() == [Status.MAX_ITER]
    stopped = gauss_newton(f, start, callback=lambda it: it.iteration == 3, **QUIET)
    assert stopped.status.tolist() == [Status.STOPPED] and len(stopped.history["value"]) == 4


@pytest.mark.parametrize("update", [LevenbergMarquardt(), LevenbergMarquardt(dense=0)])
def test_bad_samples_leave_their_neighbours_alone(update):
    A, G, y, z = problem()
    hard = objective(A, G, y, 0.05, 0.5)
    spoilt = dict(hard.per_sample, y=y.clone())
    spoilt["y"][1, 0], spoilt["y"][2, 0] = torch.nan, torch.inf
    solution = gauss_newton(replace(hard, per_sample=spoilt), z, update=update, **GRADIENT)
    assert solution.status.tolist() == [
        Status.CONVERGED,
        Status.NON_FINITE,
        Status.NON_FINITE,
        Status.CONVERGED,
    ]
    for k in (0, 3):
        alone = gauss_newton(hard.take(torch.tensor([k])), z[k : k + 1], update=update, **GRADIENT)
        torch.testing.assert_close(solution.blocks["z"][k], alone.blocks["z"][0], rtol=1e-10, atol=1e-10)
    assert torch.equal(solution.blocks["z"][1:3], z[1:3])


def test_samples_that_run_off_leave_their_neighbours_alone():
    """Sample 1 falls towards infinity, where its exponential overflows."""

    def smooth(blocks, scale):
        v = blocks["v"]
        return (v * scale[:, None]).exp().sum(1) + (scale > 0) * v.square().sum(1)

    def curvature(blocks, scale):
        v = blocks["v"]
        tiny = torch.diag_embed((v * scale[:, None]).exp() * scale[:, None] ** 2 + 2.0 * (scale > 0)[:, None])
        return Curvature(lambda: tiny, lambda p: (tiny @ p[..., None])[..., 0])

    scale = torch.tensor([1.0, -1.0, 0.5], dtype=torch.float64)
    f = Objective(smooth, {"v": odl.rn(2)}, per_sample={"scale": scale}, curvature={"v": curvature})
    start = torch.ones(3, 2, dtype=torch.float64)
    together = gauss_newton(f, start, max_iter=60, **QUIET)
    assert together.status[1] != Status.CONVERGED and together.value[1] < 1e-10
    for k in (0, 2):
        alone = gauss_newton(f.take(torch.tensor([k])), start[:1], max_iter=60, **QUIET)
        assert alone.status.item() == together.status[k].item() == Status.CONVERGED
        torch.testing.assert_close(together.blocks["v"][k], alone.blocks["v"][0])


def test_single_precision_reaches_the_tolerance():
    A, G, y, _ = problem()
    A32, G32 = OPERATORS["gaussian"](space("float32")), network("float32")
    exact = levenberg_marquardt(A, y, G, noise_std=0.05, tol=1e-9, **QUIET)
    solution = levenberg_marquardt(
        A32, y.float(), G32, noise_std=0.05, init=exact.blocks["z"].float(), **QUIET
    )
    assert solution.converged.all() and solution.blocks["z"].dtype == torch.float32
    torch.testing.assert_close(solution.blocks["z"].double(), exact.blocks["z"], rtol=0, atol=1e-3)


def test_what_gauss_newton_refuses():
    f, start = rosenbrock(), torch.zeros(1, 2, dtype=torch.float64)
    with pytest.raises(
        TypeError, match=r"objective must be an Objective .* for gauss_newton, got L2NormSquared"
    ):
        gauss_newton(odl.functionals.L2NormSquared(odl.rn(2)), start, **QUIET)
    with pytest.raises(
        NotImplementedError, match=r"objective must have a curvature .* for gauss_newton, got Objective"
    ):
        gauss_newton(replace(f, curvature={}), start, **QUIET)
    rough = replace(f, proximable={"v": to_torch(odl.functionals.L1Norm(odl.rn(2)))})
    with pytest.raises(NotImplementedError, match="objective must be differentiable for gauss_newton, got"):
        gauss_newton(rough, start, **QUIET)
    from genreg.operators.bridge.caller_data import to_batch
    from genreg.solvers.driver.loop import run

    for objective, message in (
        (rough, "must be differentiable for LevenbergMarquardt"),
        (replace(f, curvature={}), "must have a curv"),
    ):
        with pytest.raises(NotImplementedError, match=message):
            run(
                objective,
                to_batch(start, f.spaces),
                {"v": LevenbergMarquardt()},
                max_iter=1,
                tol=0.0,
                progress=False,
            )
    with pytest.raises(ValueError, match=r"`init` must have shape \(\*batch, \*\(2,\)\), got \(1, 3\)"):
        gauss_newton(f, torch.zeros(1, 3, dtype=torch.float64), **QUIET)
    with pytest.raises(ValueError, match="init must be finite, got 1 NaN"):
        gauss_newton(f, torch.tensor([[0.0, torch.nan]], dtype=torch.float64), **QUIET)
    with pytest.raises(ValueError, match="max_iter must be a non-negative integer"):
        gauss_newton(f, start, max_iter=-1, **QUIET)


# levenberg_marquardt


@pytest.mark.parametrize("name", OPERATORS)
def test_linear_problems_take_two_steps(name):
    A = OPERATORS[name](space())
    G, W = linear()
    y, _ = data(A, G)
    std = torch.tensor([0.05, 0.5, 1.0, 2.0], dtype=torch.float64)
    lam = torch.tensor([0.5, 1.0, 0.1, 3.0], dtype=torch.float64)
    z, value = hard_closed_form(A, W, y, std, 2 * lam)
    for update in (
        LevenbergMarquardt(damping=1e-9, smallest=1e-12),
        LevenbergMarquardt(damping=1e-9, dense=1),
    ):
        init = torch.ones(4, K, dtype=torch.float64)
        solution = levenberg_marquardt(
            A, y, G, noise_std=std, lam=lam, init=init, update=update, tol=1e-9, max_iter=30, **QUIET
        )
        assert solution.converged.all()
        if update.dense > 1:
            torch.testing.assert_close(solution.history["value"][2], value, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(solution.blocks["z"], z, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(solution.value, value, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(solution.image, G.decode(solution.blocks["z"]).mean)


@pytest.mark.parametrize("name", ["identity", "gaussian", "rays"])
def test_batches_equal_one_sample_at_a_time(name):
    A, G, y, _ = problem(name)
    std = torch.tensor([0.05, 0.1, 0.02, 0.3], dtype=torch.float64)
    lam = torch.tensor([0.5, 0.05, 1.0, 2.0], dtype=torch.float64)
    with debugging():
        together = levenberg_marquardt(A, y, G, noise_std=std, lam=lam, **GRADIENT)
    assert together.converged.all() and (together.history["value"].diff(dim=0) <= 1e-12).all()
    for k in (0, 3):
        alone = levenberg_marquardt(A, y[k], G, noise_std=float(std[k]), lam=lam[k], **GRADIENT)
        assert alone.value.shape == () and alone.blocks["z"].shape == (K,) and alone.image.shape == SHAPE
        torch.testing.assert_close(alone.blocks["z"], together.blocks["z"][k], rtol=0, atol=1e-7)
        torch.testing.assert_close(alone.value, together.value[k])
        reference = quasi_newton(
            objective(A, G, y[k : k + 1], float(std[k]), float(lam[k])),
            together.blocks["z"][k : k + 1],
            tol=1e-9,
            **QUIET,
        )
        torch.testing.assert_close(reference.value[0], together.value[k])


def test_values_are_plain_sums_whatever_the_cells():
    A, G, y, _ = problem("blur")
    assert A.range.cell_volume == pytest.approx(2.25)
    solution = levenberg_marquardt(A, y, G, noise_std=0.1, lam=0.7, **QUIET)
    r = to_torch(A)(solution.image) - y
    expected = r.square().sum((1, 2)) / (2 * 0.1**2) + 0.7 * solution.blocks["z"].square().sum(1)
    torch.testing.assert_close(solution.value, expected)


def test_elements_in_elements_out():
    A, G, y, _ = problem("blur")
    solution = levenberg_marquardt(A, A.range.element(y[0].numpy()), G, noise_std=0.05, **GRADIENT)
    assert solution.blocks["z"] in G.domain and solution.image in G.range and solution.converged
    tensors = levenberg_marquardt(A, y[:1], G, noise_std=0.05, **GRADIENT)
    assert abs(solution.image.asarray() - tensors.image[0].numpy()).max() < 1e-7
    again = levenberg_marquardt(
        A, A.range.element(y[0].numpy()), G, noise_std=0.05, init=solution.blocks["z"], **GRADIENT
    )
    assert again.iterations == 0 or (again.blocks["z"] - solution.blocks["z"]).norm() < 1e-7


class _Squares(nn.Module):
    def forward(self, x):
        return torch.cat((x.flatten(1) ** 2, x.flatten(1)[:, :2]), 1)


def test_nonlinear_forward_operators():
    G = network()
    power = odl.PowerOperator(G.range, 2)
    net = NetworkOperator(_Squares(), G.range, odl.rn(N + 2))
    # fewer rows
    small = odl.MatrixOperator(torch.ones(2, N + 2, dtype=torch.float64).numpy(), net.range) @ net
    for A in (power, net, small):
        y, _ = data(A, G, std=0.01)
        with debugging():
            solution = levenberg_marquardt(A, y, G, noise_std=0.1, lam=0.5, **GRADIENT)
        assert solution.converged.all()
        hard = objective(A, G, y, 0.1, 0.5)
        reference = quasi_newton(hard, solution.blocks["z"], tol=1e-9, **QUIET)
        torch.testing.assert_close(reference.value, solution.value)
        derivative_test(A @ G)


def test_complex_data():
    G = network()
    flat = odl.FlatteningOperator(G.range)
    for m in (8, 2):  # columns, and rows
        M = torch.randn(m, N, dtype=torch.complex128)
        A = odl.MatrixOperator(M.numpy(), domain=flat.range, range=odl.cn(m)) @ flat
        z = torch.randn(2, K, dtype=torch.float64)
        hard = objective(A, G, to_torch(A)(G.decode(z).mean), 0.1, 0.5)
        N_ = hard.curvature["z"]({"z": z}, **hard.per_sample)
        J = torch.stack([torch.func.jacrev(lambda v: G.decode(v[None]).mean[0].flatten())(v) for v in z])
        MJ = torch.cat((M.real @ J, M.imag @ J), 1)
        expected = 100 * MJ.mT @ MJ + torch.eye(K, dtype=torch.float64)
        torch.testing.assert_close(N_.matrix(), expected)
        p = torch.randn(2, K, dtype=torch.float64)
        torch.testing.assert_close(N_.product(p), (expected @ p[..., None])[..., 0])
        solution = levenberg_marquardt(A, hard.per_sample["y"], G, noise_std=0.1, lam=0.5, **GRADIENT)
        assert solution.converged.all()


def test_projection_of_a_point_in_the_range_recovers_it():
    G = network()
    z = 0.5 * torch.randn(5, K, dtype=torch.float64)
    x = G.decode(z).mean
    identity = odl.IdentityOperator(G.range)
    solution = levenberg_marquardt(
        identity, x, G, noise_std=1e-3, lam=0.0, init=z + 0.05, tol=1e-12, max_iter=60, **QUIET
    )
    torch.testing.assert_close(solution.blocks["z"], z, rtol=0, atol=1e-6)
    torch.testing.assert_close(solution.image, x, rtol=0, atol=1e-6)


def test_curvature_is_the_gauss_newton_matrix():
    for name in ("identity", "gaussian", "rays"):
        A, G, y, z = problem(name)
        std = torch.tensor([0.05, 0.1, 0.02, 0.3], dtype=torch.float64)
        lam = torch.tensor([0.5, 0.05, 1.0, 2.0], dtype=torch.float64)
        hard = objective(A, G, y, std, lam)
        forward, generate = to_torch(A), to_torch(G)
        J = jacobian(TorchOperator(lambda v: forward(generate(v)), G.domain, A.range), z)  # noqa: B023
        expected = (J.mT @ J) / std[:, None, None] ** 2 + 2 * lam[:, None, None] * torch.eye(K).double()
        N = hard.curvature["z"]({"z": z}, **hard.per_sample)
        torch.testing.assert_close(N.matrix(), expected)
        for _ in range(2):
            p = torch.randn(4, K, dtype=torch.float64)
            torch.testing.assert_close(N.product(p), (expected @ p[..., None])[..., 0])


def test_starts():
    A, G, y, z = problem()
    seen = []

    def first(**init):
        seen.clear()
        levenberg_marquardt(
            A, y, G, noise_std=0.05, max_iter=1, callback=lambda it: seen.append(it), **init, **QUIET
        )
        return levenberg_marquardt(A, y, G, noise_std=0.05, max_iter=0, **init, **QUIET).blocks["z"]

    assert torch.equal(first(init=z), z) and torch.equal(first(init={"z": z}), z)
    x = torch.rand(4, *SHAPE, dtype=torch.float64)
    assert torch.equal(first(init={"x": x}), G.encode(x))
    assert first().abs().max() > 0  # the code of a rough reconstruction
    plain = NetworkOperator(G.module, G.domain, G.range)  # without an encoder
    assert levenberg_marquardt(A, y, plain, noise_std=0.05, max_iter=0, **QUIET).blocks["z"].abs().max() == 0


def test_what_levenberg_marquardt_refuses():
    A, G, y, z = problem()
    bad = y.clone()
    bad[1, 2] = torch.nan

    def call(match, error=ValueError, A=A, y=y, G=G, noise_std=0.05, **rest):
        with pytest.raises(error, match=match):
            levenberg_marquardt(A, y, G, noise_std=noise_std, **rest, **QUIET)

    call("A must be an ODL operator, got Tensor", TypeError, A=torch.eye(3))
    call("G must be an ODL operator, got function", TypeError, G=lambda z: z)
    call("G must map to the domain of A", A=gaussian_measurements(odl.rn(N), 7, seed=0))
    call(r"`y` must have shape \(\*batch, \*\(7,\)\), got \(4, 6\)", y=y[:, :6])
    call("y must be finite, got 1 NaN", y=bad)
    call("y must be an ODL element, a tensor or an array of numbers, got", TypeError, y=y.numpy() > 0)
    for std in (0.0, -1.0, math.nan, math.inf, torch.tensor([1.0, 1.0, 0.0, 1.0])):
        call("noise_std must be positive and finite", noise_std=std)
    call(r"noise_std must be a number or have the shape \(4,\), .*, got \(3,\)", noise_std=torch.ones(3))
    call("noise_std must be a number or a tensor", TypeError, noise_std="0.1")
    call("lam must be non-negative and finite, got -0.5", lam=-0.5)
    call(r"lam must be a number or have the shape \(4,\), got \(4, 1\)", lam=torch.ones(4, 1))
    call(r"`init` must have shape \(\*batch, \*\(3,\)\), got \(4, 2\)", init=z[:, :2])
    call("init must have the batch size of y, 4, got 2", init=z[:2])
    call(r"init must be a latent vector, .* got the keys \['u'\]", init={"u": z})
    plain = NetworkOperator(G.module, G.domain, G.range)
    call(
        "init must be a latent vector: .* has no encoder",
        G=plain,
        init={"x": torch.zeros(4, *SHAPE).double()},
    )
    call("tol must be non-negative and finite", tol=-1.0)


def test_a_mask_and_rays_are_on_weighted_spaces():
    assert mask(space(), torch.ones(SHAPE, dtype=torch.bool)).domain.cell_volume == pytest.approx(2.25)
    assert rays(space()).range.cell_volume != pytest.approx(1.0)
