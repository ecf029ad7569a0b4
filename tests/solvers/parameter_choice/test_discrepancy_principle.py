"""The discrepancy principle on ridge regression, where the residual is known for every parameter."""

import torch

from genreg.solvers import Status, Trial, morozov

from ...refusals import refuses

B, M, N = 4, 9, 5


class Ridge:
    """x = argmin ‖Ax - y‖² + λ‖x‖², solved exactly; remembers how often it was called."""

    def __init__(self):
        self.A = torch.randn(M, N, dtype=torch.float64)
        self.y = torch.randn(B, M, dtype=torch.float64)
        self.solved = 0
        self.warm = []

    def __call__(self, samples, lam, init):
        self.solved += lam.numel()
        self.warm.append(init is not None)
        eye = torch.eye(N, dtype=torch.float64)
        normal = self.A.T @ self.A + lam[..., None, None] * eye
        x = torch.linalg.solve(normal, (self.y[samples] @ self.A)[:, None, :, None])[..., 0]
        if init is not None:
            assert init["x"].shape == x.shape
        residual = (x @ self.A.T - self.y[samples][:, None]).square().sum(-1)
        status = torch.full_like(lam, Status.CONVERGED, dtype=torch.int64)
        penalty = x.square().sum(-1)
        value = residual + lam * penalty
        return Trial({"x": x}, residual, value, penalty, status, torch.ones_like(status))

    def limits(self):
        """Smallest and largest residual that any λ can give."""
        least = self.y - self.y @ self.A @ torch.linalg.inv(self.A.T @ self.A) @ self.A.T
        return least.square().sum(1), self.y.square().sum(1)


def test_meets_the_level_from_below_for_every_sample():
    ridge = Ridge()
    low, high = ridge.limits()
    level = low + torch.tensor([0.03, 0.3, 0.6, 0.97], dtype=torch.float64) * (high - low)
    choice = morozov(ridge, level, rtol=0.01)
    assert (choice.status == Status.CONVERGED).all()
    assert (choice.residual <= level).all() and (choice.residual >= 0.98 * level).all()
    beyond = ridge(torch.arange(B), 1.05 * choice.lam[:, None], None).residual[:, 0]
    assert (beyond > choice.residual).all() and (beyond > 0.99 * level).all()
    assert ridge.warm[0] is False and ridge.warm[1] is True
    assert choice.tried_lam.shape == choice.tried_residual.shape == (B, choice.tried_lam.shape[1])
    exact = ridge(torch.arange(B), choice.lam[:, None], None)
    assert torch.allclose(choice.blocks["x"], exact.blocks["x"][:, 0])


def test_level_below_the_reach_of_the_model_and_above_all_data():
    ridge = Ridge()
    low, high = ridge.limits()
    level = torch.stack((0.5 * low[0], 2 * high[1], 0.5 * (low + high)[2], 0.5 * low[3]))
    choice = morozov(ridge, level)
    ends = [Status.LEVEL_NOT_REACHED, Status.LEVEL_NOT_EXCEEDED, Status.CONVERGED, Status.LEVEL_NOT_REACHED]
    assert choice.status.tolist() == ends
    assert torch.allclose(choice.residual[[0, 3]], low[[0, 3]], rtol=1e-3)
    assert choice.residual[0] == choice.tried_residual[0].min()
    assert choice.lam[1] == 1e8
    assert all(Status(s).advice for s in ends)


def test_finished_samples_are_not_solved_again():
    ridge = Ridge()
    low, high = ridge.limits()
    level = 0.5 * (low + high)
    morozov(ridge, level[:1].expand(B), rtol=0.02)
    together = ridge.solved
    ridge.solved = 0
    hard = level.clone()
    hard[0] = 0.5 * low[0]
    morozov(ridge, hard, rtol=0.02)
    assert ridge.solved < 3 * together


@refuses(
    ({"level": torch.tensor([-1.0])}, ValueError, "level"),
    ({"lam_range": (0.0, 1.0)}, ValueError, "lam_range"),
    ({"lam_range": (2.0, 1.0)}, ValueError, "lam_range"),
    ({"lam_range": 3}, ValueError, "lam_range"),
    ({"lam_range": (1.0, "2")}, TypeError, "lam_range must be a pair of numbers 0 < low < high"),
    ({"start": -1.0}, ValueError, "start"),
    ({"start": "1"}, TypeError, "start must be a number"),
    ({"candidates": 1}, ValueError, "candidates must be an integer of at least 2, got 1"),
    ({"candidates": 2.5}, TypeError, "candidates must be an integer, got 2.5"),
    ({"max_rounds": 0}, ValueError, "max_rounds must be a positive integer, got 0"),
    ({"rtol": 0.0}, ValueError, "rtol must be a number between 0 and 1, got 0.0"),
    ({"rtol": None}, TypeError, "rtol must be a number, got None"),
)
def test_bad_arguments(change):
    arguments = {"level": torch.ones(B, dtype=torch.float64), **change}
    morozov(Ridge(), **arguments)
