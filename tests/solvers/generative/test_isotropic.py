"""The joint posterior and its profile: values, gradients and curvature against dense matrices."""

import odl
import pytest
import torch

from genreg.operators import NetworkOperator, TorchOperator, blur, gaussian_measurements, to_torch
from genreg.operators.bridge.jacobians import jacobian
from genreg.operators.fidelity import GaussianFidelity
from genreg.solvers import JointProblem, Status, gauss_newton, quasi_newton
from genreg.solvers.generative.isotropic import projection
from genreg.solvers.generative.joint_map import joint_problem

from ..latent_problems import KEEP, OPERATORS, SHAPE, K, N, closed_form, data, dense, linear, network, space

STD = torch.tensor([0.05, 0.2, 1.0, 0.1], dtype=torch.float64)
BETA = torch.tensor([40.0, 4.0, 0.5, 1e4], dtype=torch.float64)
WEIGHT = torch.tensor([1.0, 0.3, 2.0, 1.0], dtype=torch.float64)
EYE = torch.eye(N, dtype=torch.float64)


def problem(name, G, y, dtype=torch.float64, beta=BETA):
    A = OPERATORS[name](space(str(dtype).removeprefix("torch.")))
    given = {"y": y, "inverse_variance": STD**-2, "beta": beta, "weight": WEIGHT}
    return JointProblem.of(A, G, **{name: t.to(dtype) for name, t in given.items()})


@pytest.fixture(name="G", scope="module")
def generator():
    return network()


def setting(name, G):
    y, z = data(OPERATORS[name](space()), G)
    return problem(name, G, y), dense(OPERATORS[name](space())), y.flatten(1), z


def dense_image(M, y, mean, beta=BETA):
    """x*(z) of every sample."""
    s = STD**-2
    normal = s[:, None, None] * (M.T @ M) + beta[:, None, None] * EYE
    right = s[:, None] * (y @ M) + beta[:, None] * mean
    return torch.linalg.solve(normal, right[..., None])[..., 0]


def dense_joint(M, y, x, mean, z, beta=BETA):
    r, u = x @ M.T - y, x - mean
    sums = [t.square().sum(1) for t in (r, u, z)]
    return 0.5 * (STD**-2 * sums[0] + beta * sums[1] + WEIGHT * sums[2])


@pytest.mark.parametrize("name", OPERATORS)
def test_the_profile_is_the_minimum_over_images(name, G):
    joint, M, y, z = setting(name, G)
    mean = G.decode(z).mean.flatten(1)
    x = dense_image(M, y, mean)
    torch.testing.assert_close(joint.image(z).flatten(1), x, rtol=1e-7, atol=1e-8)
    expected = dense_joint(M, y, x, mean, z)
    torch.testing.assert_close(joint.profile()({"z": z}), expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(joint({"x": x.unflatten(1, SHAPE), "z": z}), expected)
    torch.testing.assert_close(joint.gap(z), (x - mean).square().sum(1), rtol=1e-7, atol=1e-12)
    other = x + 0.1 * torch.randn_like(x)
    torch.testing.assert_close(
        joint({"x": other.unflatten(1, SHAPE), "z": z}), dense_joint(M, y, other, mean, z)
    )


@pytest.mark.parametrize("name", OPERATORS)
def test_the_gradient_of_the_profile(name, G):
    """Against autograd through the dense closed form, and Taylor's theorem on the value."""
    joint, M, y, z = setting(name, G)
    profile = joint.profile()
    value, gradients = profile.value_and_gradient({"z": z})
    leaf = z.clone().requires_grad_()
    mean = to_torch(G)(leaf).flatten(1)
    closed = dense_joint(M, y, dense_image(M, y, mean), mean, leaf)
    (expected,) = torch.autograd.grad(closed.sum(), leaf)
    torch.testing.assert_close(value, closed.detach(), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(gradients["z"], expected, rtol=1e-6, atol=1e-6)
    d = torch.randn_like(z)
    slope = (gradients["z"] * d).sum(1)
    h = torch.tensor([1e-2, 5e-3, 2.5e-3], dtype=torch.float64)
    left = torch.stack([(profile({"z": z + t * d}) - value - t * slope).abs() for t in h])
    assert (torch.log2(left[:-1] / left[1:]) > 1.7).all()


@pytest.mark.parametrize("name", OPERATORS)
def test_the_gradient_and_the_value_of_the_joint_objective_agree(name, G):
    joint, M, y, z = setting(name, G)
    x = torch.randn(4, *SHAPE, dtype=torch.float64)
    _, gradients = joint.value_and_gradient({"x": x, "z": z})
    flat, mean = x.flatten(1), G.decode(z).mean.flatten(1)
    expected = STD[:, None] ** -2 * ((flat @ M.T - y) @ M) + BETA[:, None] * (flat - mean)
    torch.testing.assert_close(gradients["x"].flatten(1), expected)
    at_the_minimum = joint.value_and_gradient({"x": joint.image(z), "z": z})[1]
    assert (at_the_minimum["x"].flatten(1).norm(dim=1) < 1e-6 * expected.norm(dim=1)).all()
    profile = joint.profile().value_and_gradient({"z": z})[1]
    torch.testing.assert_close(at_the_minimum["z"], profile["z"], rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("name", OPERATORS)
def test_the_curvature_of_the_profile(name, G):
    joint, M, _, z = setting(name, G)
    J = jacobian(to_torch(G), z)
    s, b = STD[:, None, None] ** -2, BETA[:, None, None]
    inner = b * EYE - b**2 * torch.linalg.inv(s * (M.T @ M) + b * EYE)
    expected = J.mT @ inner @ J + WEIGHT[:, None, None] * torch.eye(K, dtype=torch.float64)
    curvature = joint.profile().curvature["z"]({"z": z}, **joint.per_sample)
    matrix = curvature.matrix()
    torch.testing.assert_close(matrix, expected, rtol=1e-6, atol=1e-6)
    for _ in range(2):
        p = torch.randn(4, K, dtype=torch.float64)
        torch.testing.assert_close(
            curvature.product(p), (matrix @ p[..., None])[..., 0], rtol=1e-7, atol=1e-7
        )


def test_for_a_linear_generator_it_is_the_hessian():
    G, W = linear()
    y, z = data(OPERATORS["gaussian"](space()), G)
    joint = problem("gaussian", G, y)
    profile = joint.profile()
    N_ = profile.curvature["z"]({"z": z}, **joint.per_sample).matrix()
    step = torch.randn(4, K, dtype=torch.float64)
    bend = profile.value_and_gradient({"z": z + step})[1]["z"] - profile.value_and_gradient({"z": z})[1]["z"]
    torch.testing.assert_close((N_ @ step[..., None])[..., 0], bend)
    hard = dense(OPERATORS["gaussian"](space())) @ W
    limit = STD[:, None, None] ** -2 * (hard.T @ hard) + WEIGHT[:, None, None] * torch.eye(K).double()
    stiff = joint.with_beta(torch.full((4,), 1e9, dtype=torch.float64))
    got = stiff.profile().curvature["z"]({"z": z}, **stiff.per_sample).matrix()
    torch.testing.assert_close(got, limit, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize("beta", [1e-2, 1e6])
def test_single_precision_does_not_cancel(name, beta, G):
    """x* - G(z) is 1e-6 times the data residual for the largest beta; value, gradient and gap know it well."""
    joint, _, y, z = setting(name, G)
    joint = joint.with_beta(torch.full((4,), beta, dtype=torch.float64))
    single = problem(name, network("float32"), y.unflatten(1, joint.per_sample["y"].shape[1:]), torch.float32)
    single = single.with_beta(torch.full((4,), beta))
    value, gradient = joint.profile().value_and_gradient({"z": z})
    value32, gradient32 = single.profile().value_and_gradient({"z": z.float()})
    torch.testing.assert_close(value32.double(), value, rtol=1e-5, atol=0)
    error = (gradient32["z"].double() - gradient["z"]).norm(dim=1) / gradient["z"].norm(dim=1)
    assert (error < 2e-5).all(), error
    torch.testing.assert_close(single.gap(z.float()).double(), joint.gap(z), rtol=1e-4, atol=0)


@pytest.mark.parametrize("name", OPERATORS)
def test_the_profile_has_the_minimum_of_both_blocks(name):
    G, W = linear()
    A = OPERATORS[name](space())
    y, z = data(A, G)
    joint = problem(name, G, y)
    joint = JointProblem.of(A, G, **dict(joint.per_sample, weight=torch.ones(4, dtype=torch.float64)))
    x, z, value = closed_form(A, W, y, STD, BETA)
    for solver in (gauss_newton, quasi_newton):
        solution = solver(joint.profile(), torch.zeros_like(z), tol=1e-8, max_iter=300, progress=False)
        assert solution.converged.all()
        torch.testing.assert_close(solution.blocks["z"], z, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(solution.value, value, rtol=1e-8, atol=1e-8)
        torch.testing.assert_close(joint.image(solution.blocks["z"]), x, rtol=1e-4, atol=1e-4)


def test_parts_of_a_batch_and_other_betas(G):
    joint, _, _, z = setting("gaussian", G)
    index = torch.tensor([3, 1])
    some = joint.take(index)
    assert isinstance(some, JointProblem)
    torch.testing.assert_close(some.image(z[index]), joint.image(z)[index])
    torch.testing.assert_close(joint.image(z[index], **some.per_sample), joint.image(z)[index])
    torch.testing.assert_close(some.profile()({"z": z[index]}), joint.profile()({"z": z})[index])
    other = joint.with_beta(2 * BETA)
    assert torch.equal(other.per_sample["beta"], 2 * BETA) and torch.equal(joint.per_sample["beta"], BETA)
    assert (other.gap(z) < joint.gap(z)).all()


def test_the_latent_part_is_a_projection(G):
    joint, _, _, z = setting("mask", G)
    x = torch.randn(4, *SHAPE, dtype=torch.float64)
    part = joint.latent(x, **joint.per_sample)
    expected = 0.5 * (BETA * (x - G.decode(z).mean).square().sum((1, 2)) + WEIGHT * z.square().sum(1))
    torch.testing.assert_close(part({"z": z}), expected)
    same = projection(to_torch(G), x, BETA, WEIGHT)
    torch.testing.assert_close(same({"z": z}), expected)
    solution = gauss_newton(part, {"z": z}, tol=1e-7, progress=False)
    assert solution.converged.all() and (solution.value < expected).all()


def test_complex_images():
    """A generator of complex images: real vectors of twice the length."""

    class Phase(torch.nn.Module):
        def forward(self, z):
            return torch.polar(1 + 0.1 * z.tanh().repeat(1, 3), z.repeat(1, 3))

    X = odl.cn(3 * K)
    G = NetworkOperator(Phase(), odl.rn(K), X)
    A = gaussian_measurements(X, 5, seed=0)
    y = torch.randn(4, 5, dtype=torch.complex128)
    z = torch.randn(4, K, dtype=torch.float64)
    given = {"y": y, "inverse_variance": STD**-2, "beta": BETA, "weight": WEIGHT}
    joint = JointProblem.of(A, G, **given)
    M = A.matrix.to(torch.complex128)
    s, b = STD[:, None, None] ** -2, BETA[:, None, None]
    normal = s * (M.mH @ M) + b * torch.eye(3 * K, dtype=torch.complex128)
    mean = to_torch(G)(z)
    right = STD[:, None] ** -2 * (y @ M.conj()) + BETA[:, None] * mean
    torch.testing.assert_close(joint.image(z), torch.linalg.solve(normal, right[..., None])[..., 0])
    J = jacobian(to_torch(G), z)
    inner = b * torch.eye(3 * K, dtype=torch.complex128) - b**2 * torch.linalg.inv(normal)
    expected = (J.mH @ inner @ J).real + WEIGHT[:, None, None] * torch.eye(K, dtype=torch.float64)
    curvature = joint.profile().curvature["z"]({"z": z}, **joint.per_sample)
    torch.testing.assert_close(curvature.matrix(), expected)
    p = torch.randn(4, K, dtype=torch.float64)
    torch.testing.assert_close(curvature.product(p), (expected @ p[..., None])[..., 0])
    solution = gauss_newton(joint.profile(), {"z": z}, tol=1e-7, progress=False)
    assert (solution.status == Status.CONVERGED).all()


def test_what_it_refuses(G):
    X = space()
    given = {
        "y": torch.zeros(4, *SHAPE).double(),
        "inverse_variance": STD**-2,
        "beta": BETA,
        "weight": WEIGHT,
    }
    with pytest.raises(ValueError, match="`A` must be linear with an adjoint, got the nonlinear"):
        JointProblem.of(odl.PowerOperator(X, 2), G, **given)
    singular = dict(given, beta=torch.full((4,), 1e-30, dtype=torch.float64))
    with pytest.raises(ValueError, match=r"`shift` \(sigma\^2 beta\) must be at least .* singular"):
        JointProblem.of(blur(X, 2.0, boundary="symmetric"), G, **singular)
    fidelity = GaussianFidelity(OPERATORS["mask"](X), torch.zeros(2, int(KEEP.sum())).double(), 1.0)
    joint = joint_problem(fidelity, G, 1.0)
    assert isinstance(joint.generate, TorchOperator) and torch.equal(
        joint.per_sample["weight"], torch.ones(2)
    )
