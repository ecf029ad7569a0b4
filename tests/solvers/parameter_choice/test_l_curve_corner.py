"""The corner of the L-curve on diagonal ridge problems, where the curvature is known for every parameter."""

import math

import pytest
import torch

from genreg.solvers import Status, Trial, l_curve
from genreg.solvers.parameter_choice.l_curve_corner import corner

from ...refusals import refuses

B, N = 6, 12


class Diagonal:
    """min ‖S x - y‖² + ‖y⊥‖² + λ‖x‖² with a diagonal S, solved exactly; can spoil its answers."""

    def __init__(self, noise=0.05, jitter=0.0, spoilt=()):
        self.s = 0.5 ** torch.arange(N, dtype=torch.float64)
        self.y = self.s * torch.randn(B, N, dtype=torch.float64)
        self.y = self.y + noise * torch.randn(B, N, dtype=torch.float64)
        self.rest = 6 * noise**2 * (0.5 + torch.rand(B, dtype=torch.float64))
        self.jitter, self.spoilt, self.warm, self.solved = jitter, spoilt, [], []

    def points(self, samples, lam):
        y, factor = self.y[samples][:, None], self.s**2 / (self.s**2 + lam[..., None])
        misfit = ((1 - factor) * y).square().sum(-1) + self.rest[samples][:, None]
        x = factor * y / self.s
        return misfit, x.square().sum(-1), x

    def __call__(self, samples, lam, init):
        self.warm.append(init is not None)
        self.solved.append(samples)
        misfit, penalty, x = self.points(samples, lam)
        if init is not None:
            assert init["x"].shape == x.shape
        if self.jitter:
            misfit = misfit * (1 + self.jitter * torch.rand_like(misfit))
            penalty = penalty * (1 + self.jitter * torch.rand_like(penalty))
        if init is None:
            for k in self.spoilt:
                misfit[:, k], penalty[:, k] = 3 * misfit[:, k], 5 * penalty[:, k]
        status = torch.full_like(lam, Status.CONVERGED, dtype=torch.int64)
        return Trial({"x": x}, 2 * misfit, misfit + lam * penalty, penalty, status, torch.ones_like(status))

    def exact(self):
        """λ of the largest curvature of (log misfit, log penalty), from analytic derivatives on a fine grid."""
        t = torch.linspace(math.log(1e-6), math.log(1e6), 40001, dtype=torch.float64)
        lam = t.exp().expand(B, -1)
        misfit, penalty, _ = self.points(torch.arange(B), lam)
        factor = self.s**2 / (self.s**2 + lam[..., None])
        slope = -factor * (1 - factor)  # d factor / dt
        square = self.y[:, None].square()
        dmisfit = (-2 * (1 - factor) * slope * square).sum(-1) / misfit
        dpenalty = (2 * factor * slope * square / self.s**2).sum(-1) / penalty
        (ddmisfit,) = torch.gradient(dmisfit, spacing=(t,), dim=1)
        (ddpenalty,) = torch.gradient(dpenalty, spacing=(t,), dim=1)
        curvature = (dmisfit * ddpenalty - dpenalty * ddmisfit) / (dmisfit**2 + dpenalty**2) ** 1.5
        return t.exp()[curvature.argmax(1)]


def relative(choice, problem):
    return choice.lam / problem.exact()


@pytest.mark.parametrize("noise", [0.01, 0.05, 0.2])
def test_corner_of_maximal_curvature(noise):
    problem = Diagonal(noise)
    choice = l_curve(problem, torch.arange(B))
    assert (choice.status == Status.CONVERGED).all()
    assert (relative(choice, problem).log().abs() < math.log(1.15)).all()
    misfit, penalty, x = problem.points(torch.arange(B), choice.lam[:, None])
    assert torch.allclose(choice.residual, 2 * misfit[:, 0])
    assert torch.allclose(choice.penalty, penalty[:, 0]) and torch.allclose(choice.blocks["x"], x[:, 0])
    assert torch.allclose(choice.value, (misfit + choice.lam[:, None] * penalty)[:, 0])
    assert problem.warm[0] is False and all(problem.warm[1:])
    assert choice.tried_lam.shape == choice.tried_residual.shape


def test_bad_trials_are_left_out():
    problem = Diagonal()
    clean = l_curve(problem, torch.arange(B))
    problem.spoilt = (10, 13, 17)  # as a bad local minimum would
    spoilt = l_curve(problem, torch.arange(B))
    assert (relative(spoilt, problem).log().abs() < math.log(1.3)).all()
    assert (spoilt.lam / clean.lam).log().abs().max() < math.log(1.3)


def test_solver_tolerance_moves_the_corner_little():
    problem = Diagonal(0.2, jitter=1e-3)
    assert (relative(l_curve(problem, torch.arange(B)), problem).log().abs() < math.log(1.25)).all()


def test_batch_equals_one_at_a_time():
    problem = Diagonal()
    together = l_curve(problem, torch.arange(B))
    for k in range(B):
        alone = l_curve(problem, torch.tensor([k]))
        assert torch.allclose(alone.lam[0], together.lam[k])
        assert torch.allclose(alone.blocks["x"][0], together.blocks["x"][k])


def test_samples_are_passed_on_and_rounds_end():
    problem = Diagonal()
    numbers = torch.tensor([4, 1])
    choice = l_curve(problem, numbers, max_rounds=1, lam=torch.logspace(-4, 2, 7, dtype=torch.float64))
    assert len(problem.solved) == 1 and torch.equal(problem.solved[0], numbers)
    assert choice.tried_lam.shape == (2, 7)
    assert all(lam in choice.tried_lam[0] for lam in choice.lam)


def curve(*rows):
    lam = torch.logspace(-2, 2, len(rows[0]), dtype=torch.float64)[None]
    return lam, *(torch.tensor([row], dtype=torch.float64) for row in rows)


def test_a_straight_curve_has_no_corner():
    lam = torch.logspace(-2, 2, 9, dtype=torch.float64)[None]
    (found,) = corner(lam, lam.sqrt(), lam.sqrt().reciprocal())  # D P constant, tangent -45 degrees
    assert not found.found and found.below == found.above == float(lam[0, found.index])


def test_a_curve_that_turns_away_from_the_origin_has_no_corner():
    lam = torch.logspace(1, 3, 9, dtype=torch.float64)[None]
    misfit, penalty = 1 + lam**2 / (1 + lam) ** 2, (1 + lam) ** -2  # the large λ of one singular value
    assert not corner(lam, misfit, penalty)[0].found


def test_what_cannot_be_on_the_curve_is_left_out():
    """Zero or NaN penalties and repeated points neither raise nor make a corner."""
    nan = float("nan")
    lam, misfit, penalty = curve([1.0, 1.0, 1.0, 2.0, 5.0, 5.0], [9.0, 9.0, 8.999, 2.0, 0.0, nan])
    (found,) = corner(lam, misfit, penalty)
    assert found.index in (0, 1, 2, 3)
    assert not corner(lam, misfit, torch.zeros_like(penalty))[0].found
    (empty,) = corner(lam, torch.full_like(misfit, nan), penalty)
    assert not empty.found


def test_no_corner_is_a_status():
    def flat(samples, lam, init):
        one = torch.ones_like(lam)
        status = torch.full_like(lam, Status.CONVERGED, dtype=torch.int64)
        return Trial({"x": one[..., None]}, one, one, torch.zeros_like(lam), status, status)

    choice = l_curve(flat, torch.arange(2))
    assert choice.status.tolist() == [Status.NO_CORNER] * 2
    assert "Morozov" in Status.NO_CORNER.advice


@refuses(
    ({"lam": torch.tensor([1.0, 2.0])}, "lam must be at least 3"),
    ({"lam": torch.tensor([0.0, 1.0, 2.0])}, "lam must be at least 3"),
    ({"lam": torch.tensor(1.0)}, "lam must be at least 3"),
    ({"candidates": 1}, "candidates"),
    ({"rtol": 0.0}, "rtol"),
    ({"max_rounds": 0}, "max_rounds"),
    error=ValueError,
)
def test_bad_arguments(change):
    l_curve(Diagonal(), torch.arange(B), **change)
