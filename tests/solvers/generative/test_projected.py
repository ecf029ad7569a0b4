"""Projected gradient descent onto the range of a generator: closed forms with linear G and A."""

import odl
import pytest
import torch

from genreg.operators import NetworkOperator, gaussian_measurements, to_tensor, to_torch
from genreg.solvers import Status, projected_gradient

B, N, K, M = 3, 8, 3, 6


class Linear(NetworkOperator):
    """x = W z, with the pseudo-inverse as encoder."""

    has_encoder = True

    def __init__(self, W, space):
        module = torch.nn.Linear(W.shape[1], W.shape[0], bias=False, dtype=W.dtype)
        module.weight.data = W
        super().__init__(module, odl.rn(W.shape[1]), space)
        self.pinv = torch.linalg.pinv(W)

    def encode(self, x):
        return x @ self.pinv.T


class Bare(Linear):
    has_encoder = False


@pytest.fixture(name="parts")
def problem():
    X = odl.uniform_discr(0, 4, N)  # weight ½
    W = torch.randn(N, K, dtype=torch.float64)
    A = gaussian_measurements(X, M, seed=0)
    y = torch.randn(B, M, dtype=torch.float64)
    matrix = to_torch(A)(torch.eye(N, dtype=torch.float64)).T  # (M, N)
    exact = torch.linalg.lstsq(matrix @ W, y.T).solution.T @ W.T
    return X, W, A, y, exact


@pytest.mark.parametrize(("projection", "cls"), [("solve", Linear), ("solve", Bare), ("encoder", Linear)])
def test_least_squares_on_the_range(parts, projection, cls):
    X, W, A, y, exact = parts
    solution = projected_gradient(
        A,
        y,
        cls(W, X),
        projection=projection,
        noise_std=torch.tensor([0.1, 1.0, 3.0], dtype=torch.float64),
        max_iter=600,
        tol=1e-6,
        progress=False,
    )
    assert torch.allclose(solution.blocks["x"], exact, atol=1e-4)
    assert torch.allclose(solution.blocks["z"] @ W.T, solution.image, atol=1e-12)
    assert (solution.history["value"].diff(dim=0) <= 1e-12 * solution.history["value"][:-1]).all()
    steps = len(solution.history["value"]) - 1
    assert (solution.operator_calls > 2 + steps).any() == (projection == "solve")


def test_elements_in_elements_out_and_batch_equals_single(parts):
    X, W, A, y, _ = parts
    G = Linear(W, X)
    options = {"tol": 1e-6, "max_iter": 300, "inner_iterations": 3, "progress": False}
    together = projected_gradient(A, y, G, **options)
    assert (together.status == Status.CONVERGED).all()
    alone = projected_gradient(A, A.range.element(y[-1].numpy()), G, **options)
    assert alone.image in X and alone.blocks["z"] in G.domain and alone.value.shape == ()
    assert torch.allclose(to_tensor(alone.image), together.image[-1], atol=1e-5)


@pytest.mark.parametrize("step", [None, 1e-3])
def test_nonlinear_operator_and_generator(parts, step):
    X, W, *_ = parts

    class Curved(Bare):
        def __init__(self, W, space):
            super().__init__(W, space)
            module = torch.nn.Sequential(self.module, torch.nn.Softplus())
            NetworkOperator.__init__(self, module, self.domain, space)

    G, F = Curved(W, X), gaussian_measurements(X, 40, seed=1) * odl.PowerOperator(X, 2)
    truth = 0.3 * torch.randn(B, K, dtype=torch.float64)
    y = to_torch(F * G)(truth)
    solution = projected_gradient(
        F,
        y,
        G,
        init=0.5 * truth,
        step=step,
        tol=1e-6,
        max_iter=12 if step is None else 20,
        inner_iterations=6,
        restarts=2,
        progress=False,
    )
    assert (solution.value < 1e-3 * solution.history["value"][0]).all()
    assert torch.allclose(solution.blocks["z"], truth, atol=0.05)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"A": 1}, TypeError, "A must be an ODL operator, got int"),
        ({"G": torch.nn.Identity()}, TypeError, "G must be an ODL operator, got Identity"),
        ({"G": odl.IdentityOperator(odl.rn(2))}, ValueError, "G must map to the domain of A"),
        ({"projection": "fast"}, ValueError, r"projection must be one of \['solve', 'encoder'\], got 'fast'"),
        ({"projection": "encoder", "G": Bare}, ValueError, "needs a generator with an encoder"),
        ({"inner_iterations": 0}, ValueError, "inner_iterations must be a positive integer"),
        ({"restarts": 0}, ValueError, "restarts must be a positive integer"),
        ({"step": -1.0}, ValueError, "step must be positive"),
        ({"noise_std": 0.0}, ValueError, "noise_std must be positive"),
        ({"noise_std": torch.ones(2)}, ValueError, r"noise_std must be a number or have the shape \(3,\)"),
        ({"init": torch.zeros(2, K, dtype=torch.float64)}, ValueError, "batch size of y, 3, got 2"),
        ({"y": torch.zeros(M + 1, dtype=torch.float64)}, ValueError, "`y` must have shape"),
    ],
)
def test_bad_arguments(parts, change, error, message):
    X, W, A, y, _ = parts
    arguments = {"A": A, "y": y, "G": Linear(W, X), **change}
    if arguments["G"] is Bare:
        arguments["G"] = Bare(W, X)
    with pytest.raises(error, match=message):
        projected_gradient(**arguments, progress=False)
