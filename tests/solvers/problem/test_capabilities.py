"""One check of what a problem offers against what a solver needs, with one message."""

import odl
import pytest
import torch

from genreg import solvers
from genreg.operators import to_torch
from genreg.solvers import JointProblem, Objective, SaddlePoint, updates
from genreg.solvers.problem.capabilities import check_offers
from genreg.solvers.updates.base import Update

X = odl.rn(3)
ROUGH = to_torch(odl.functionals.L1Norm(X))
SADDLE = SaddlePoint(odl.functionals.L1Norm(X), odl.functionals.L2NormSquared(X), odl.IdentityOperator(X))


def objective(*rough, names="u"):
    def smooth(blocks):
        return sum(v.square().sum(1) for v in blocks.values())

    return Objective(smooth, dict.fromkeys(names, X), dict.fromkeys(rough, ROUGH))


def joint():
    ones = torch.ones(1, dtype=torch.float64)
    return JointProblem.of(
        odl.IdentityOperator(X),
        odl.ScalingOperator(X, 2.0),
        y=torch.ones(1, 3, dtype=torch.float64),
        **dict.fromkeys(("inverse_variance", "beta", "weight"), ones),
    )


def test_what_problems_offer():
    assert objective("u", names="uz").offers == {"u": {"proximable"}, "z": {"proximable", "smooth"}}
    assert SADDLE.offers == {"x": {"saddle"}}
    assert joint().offers == dict.fromkeys("xz", frozenset({"proximable", "smooth", "profile"}))
    assert joint().profile().offers == {"z": {"proximable", "smooth", "curvature"}}


START = torch.zeros(1, 3, dtype=torch.float64)


@pytest.mark.parametrize(
    "name", ["gradient_descent", "alternating_gradient_descent", "lbfgs", "quasi_newton"]
)
def test_solvers_of_differentiable_objectives(name):
    message = (
        f"objective must be differentiable for {name}, got Objective, which offers proximable in 'u'; palm "
    )
    with pytest.raises(NotImplementedError, match=message):
        getattr(solvers, name)(objective("u"), {"u": START}, progress=False)


EVERY = """gradient_descent alternating_gradient_descent palm ipalm lbfgs quasi_newton gauss_newton
conjugate_gradient""".split()


@pytest.mark.parametrize("name", EVERY)
def test_problems_of_another_form(name):
    with pytest.raises(
        TypeError, match=rf"objective must be an Objective .* for {name}, got SaddlePoint, which"
    ):
        getattr(solvers, name)(SADDLE, {"x": START}, progress=False)


def test_objectives_are_no_saddle_points():
    message = "f must be a SaddlePoint for pdhg, got Objective, which offers proximable, smooth in 'u'$"
    with pytest.raises(TypeError, match=message):
        solvers.pdhg(objective(), START, progress=False)


@pytest.mark.parametrize("name", ["gradient_descent", "quasi_newton", "conjugate_gradient"])
def test_solvers_of_one_block(name):
    both = objective(names="uz")
    with pytest.raises(ValueError, match=rf"objective must have one block for {name}, got \['u', 'z'\]"):
        getattr(solvers, name)(both, {"u": START, "z": START}, progress=False)


def test_the_block_of_an_update_is_named():
    both = objective("u", names="uz")
    init = {"u": START, "z": START}
    for update in (solvers.Adam(), solvers.QuasiNewton(), solvers.Propose([], solvers.Adam())):
        message = (
            f"must be differentiable in 'u' for {type(update).__name__}, got Objective, which offers prox"
        )
        with pytest.raises(NotImplementedError, match=message):
            solvers.palm(both, init, updates={"u": update}, progress=False)
    with pytest.raises(NotImplementedError, match=r"must have a curvature .* in 'z' for LevenbergMarquardt"):
        solvers.palm(both, init, updates={"z": solvers.LevenbergMarquardt()}, progress=False)
    with pytest.raises(NotImplementedError, match=r"must have a curvature .* in 'z' for Propose"):
        proposing = solvers.Propose([], solvers.LevenbergMarquardt())
        solvers.palm(both, init, updates={"z": proposing}, progress=False)


def test_a_profile():
    check_offers(joint(), "jpmap", "profile")
    with pytest.raises(TypeError, match="must have a profile like a JointProblem for jpmap, got Objective"):
        check_offers(objective(), "jpmap", "profile")


@pytest.mark.parametrize(
    "name", [name for name in updates.__all__ if name not in ("Backtracking", "Proposal")]
)
def test_every_update_says_what_it_needs(name):
    update = solvers.Propose([]) if name == "Propose" else getattr(updates, name)()
    assert isinstance(update, Update) and isinstance(update.needs, tuple)
    assert update.monotone is (name != "Adam")


def test_what_is_no_update():
    for other in (solvers.Adam, abs, None):
        with pytest.raises(TypeError, match=r"updates\['u'\] must be an update such as Adam\(\), got "):
            solvers.palm(objective(), {"u": START}, updates={"u": other}, progress=False)
