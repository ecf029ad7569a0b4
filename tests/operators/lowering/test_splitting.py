"""Taking functionals apart into smooth and proximable parts."""

import odl
import pytest
import torch
from odl.functionals import (
    FunctionalQuadraticPerturb,
    GroupL1Norm,
    Huber,
    IndicatorBox,
    L1Norm,
    L2Norm,
    L2NormSquared,
    SeparableSum,
)

from genreg.operators import TorchFunctional, lower, to_torch
from genreg.operators.lowering.splitting import terms
from genreg.solvers import Objective, palm, split

from ...refusals import refuses

Z = odl.uniform_discr(0, 2, 4)  # weight ½
ONE = Z.one()
SMOOTH = L2NormSquared(Z)


def points():
    return 1.5 * torch.randn(3, 4, dtype=torch.float64)


@pytest.mark.parametrize(
    ("functional", "smooth", "proximable"),
    [
        (0.3 * SMOOTH, 0.3 * SMOOTH, None),
        (2 * L1Norm(Z), None, 2 * L1Norm(Z)),
        (0.3 * SMOOTH + IndicatorBox(Z, -2, 2), 0.3 * SMOOTH, IndicatorBox(Z, -2, 2)),
        (2 * (0.3 * SMOOTH + L1Norm(Z)) + 4.0, 0.6 * SMOOTH + 4.0, 2 * L1Norm(Z)),
        (L1Norm(Z).translated(ONE) + SMOOTH, SMOOTH, L1Norm(Z).translated(ONE)),
        ((SMOOTH + L1Norm(Z)).translated(ONE), SMOOTH.translated(ONE), L1Norm(Z).translated(ONE)),
        ((SMOOTH + L1Norm(Z)) * 2.0, SMOOTH * 2.0, L1Norm(Z) * 2.0),
        (
            FunctionalQuadraticPerturb(L1Norm(Z), 0.5, ONE, 3.0),
            FunctionalQuadraticPerturb(0 * SMOOTH, 0.5, ONE, 3.0),
            L1Norm(Z),
        ),
        (Huber(Z, 0.1) + L2Norm(Z), Huber(Z, 0.1), L2Norm(Z)),
    ],
)
def test_parts_are_those_of_the_algebra(functional, smooth, proximable):
    t, step = points(), torch.tensor([0.1, 0.5, 2.0], dtype=torch.float64)
    H, g = split(functional)
    for part, expected in ((H, smooth), (g, proximable)):
        assert (part is None) == (expected is None)
        if part is not None:
            assert torch.allclose(part(t), to_torch(expected)(t))
    if g is not None:
        assert torch.allclose(g.prox(t, step), to_torch(proximable).prox(t, step))


def test_sums_on_one_block_split_inside_a_composition():
    U = odl.rn(3)
    P = odl.ProductSpace(U, Z)
    onto_u, onto_z = odl.ComponentProjection(P, 0), odl.ComponentProjection(P, 1)
    latent = 0.3 * SMOOTH + IndicatorBox(Z, -1, 1)
    J = L2NormSquared(U) * onto_u + 2 * (latent * onto_z) + L1Norm(U) * onto_u
    separable = SeparableSum(L2NormSquared(U) + L1Norm(U), 2 * latent)
    doubled = (
        L2NormSquared(U) * onto_u + 2 * (latent * odl.ScalingOperator(Z, 1.0) * onto_z) + L1Norm(U) * onto_u
    )
    u, z = torch.randn(2, 3, dtype=torch.float64), torch.rand(2, 4, dtype=torch.float64)
    for functional in (J, separable, doubled):
        objective = Objective.from_odl(functional, ("u", "z"))
        assert set(objective.proximable) == {"u", "z"}
        assert torch.allclose(objective({"u": u, "z": z}), to_torch(J)((u, z)))
        solution = palm(objective, {"u": u + 3, "z": z + 3}, max_iter=100, tol=1e-12, progress=False)
        assert solution.blocks["u"].abs().max() < 1e-9 and solution.blocks["z"].abs().max() < 1e-6


class Distance(odl.functionals.Functional):
    """Σ max(0, |t| - 1): neither gradient nor prox in ODL, unless the lowering has one."""

    def __init__(self, space):
        super().__init__(space=space)

    def _call(self, x):
        return float((abs(x.asarray()) - 1).clip(0).sum())


class Half(odl.functionals.Functional):
    """½ ‖t‖² + ‖t‖₁ as one class."""

    def __init__(self, space):
        super().__init__(space=space)


@terms.register(Half)
def _(op):
    yield 0.5, L2NormSquared(op.domain)
    yield 1.0, L1Norm(op.domain)


def test_classes_declare_their_nature():
    smooth, proximable = split(2 * Half(Z))
    t = points()
    assert torch.allclose(smooth(t), to_torch(SMOOTH)(t))
    assert torch.allclose(proximable(t), 2 * to_torch(L1Norm(Z))(t))

    with (
        pytest.warns(UserWarning, match="no native lowering"),
        pytest.raises(NotImplementedError, match=r"no gradient and no prox.*Distance"),
    ):
        split(Distance(Z) + SMOOTH)

    class Registered(Distance):
        pass

    @lower.register(Registered)
    def _(op):
        return TorchFunctional(lambda t: t.abs().sum(-1), op.domain, prox=lambda t, step: 0 * t)

    assert split(Registered(Z) + SMOOTH)[1].has_prox


class Weighted(odl.functionals.Functional):
    """c ‖t‖² with a factor for every sample."""

    def __init__(self, space, factors):
        super().__init__(space=space)
        self.factors = factors

    @property
    def gradient(self):
        return odl.ScalingOperator(self.domain, 2 * float(self.factors[0]))


@lower.register(Weighted)
def _(op):
    return TorchFunctional(
        lambda t: op.factors * t.square().sum(-1),
        op.domain,
        take=lambda index: to_torch(Weighted(op.domain, op.factors[index])),
    )


def test_samples_are_taken_from_the_parts():
    smooth, proximable = split(Weighted(Z, torch.tensor([1.0, 2.0, 3.0])) + 0.5 * SMOOTH + L1Norm(Z))
    t, index = points(), torch.tensor([2, 0])
    assert torch.equal(smooth.take(index)(t[index]), smooth(t)[index])
    assert torch.equal(proximable.take(index)(t[index]), proximable(t)[index])


@refuses(
    (
        L1Norm(Z) + IndicatorBox(Z, 0, 1),
        NotImplementedError,
        "one term without a gradient.*L1Norm.*IndicatorBox",
    ),
    (-1.0 * L1Norm(Z), NotImplementedError, "negative factor -1.*L1Norm"),
    (
        GroupL1Norm(odl.Gradient(Z).range) * odl.Gradient(Z),
        NotImplementedError,
        "no gradient and no prox.*Gradient",
    ),
    ("x", TypeError, "functional must be an ODL functional, got str"),
)
def test_what_cannot_be_split(functional):
    split(functional)
