"""What states in files belong to: every change of a problem is seen, and a problem made anew is the same."""

from pathlib import Path

import odl
import pytest
import torch

from genreg import (
    FunctionalFidelity,
    GaussianFidelity,
    Generator,
    HardConstraint,
    JointPrior,
    PoissonFidelity,
    RelaxedConstraint,
    Tikhonov,
    TotalVariation,
    latent,
)
from genreg.operators import gaussian_measurements
from genreg.regularisers.identity import of_fidelity, of_regulariser
from genreg.sampling import HMC
from genreg.solvers.checkpoints import of_setting, refuse_other

from ..conftest import LinearModel

LAM = torch.ones(3, dtype=torch.float64)


def same(a, b):
    try:
        refuse_other(Path("file"), a, b)
    except ValueError:
        return False
    return True


def drifted(X):
    model = LinearModel()
    with torch.no_grad():
        model.linear.weight[0, 0] += 1e-12
    return Generator(model, X)


REGULARISERS = {
    "Tikhonov": lambda X, G: Tikhonov(X),
    "variation": lambda X, G: TotalVariation(X),
    "variation, bounded": lambda X, G: TotalVariation(X, lower=0.0),
    "variation, bounded elsewhere": lambda X, G: TotalVariation(X, lower=0.1),
    "hard": lambda X, G: HardConstraint(G),
    "hard, other weights": lambda X, G: HardConstraint(drifted(X)),
    "hard, box": lambda X, G: HardConstraint(G, latent.Box(G.domain, 1.0)),
    "hard, larger box": lambda X, G: HardConstraint(G, latent.Box(G.domain, 2.0)),
    "hard, power": lambda X, G: HardConstraint(G, latent.Power(G.domain, 1.5)),
    "relaxed": lambda X, G: RelaxedConstraint(G, 1.0),
    "relaxed, other weight": lambda X, G: RelaxedConstraint(G, 1.0 + 1e-9),
    "joint": lambda X, G: JointPrior(G, 1.0),
    "joint, for each sample": lambda X, G: JointPrior(G, torch.tensor([1.0, 1.0, 2.0]).double()),
}


def test_regularisers_are_told_apart_and_known_again(X):
    found = [
        [of_regulariser(make(X, Generator(LinearModel(), X)), LAM) for make in REGULARISERS.values()]
        for _ in range(2)
    ]
    for i, first in enumerate(found[0]):
        for j, second in enumerate(found[1]):
            assert same(first, second) == (i == j), (list(REGULARISERS)[i], list(REGULARISERS)[j])


def test_data_noise_and_operators_are_told_apart(X, A, y):
    identity, sigma = odl.IdentityOperator(X), torch.full((12,), 0.3, dtype=torch.float64)
    counts = torch.ones(3, 4, 5, dtype=torch.float64)
    made = [
        lambda: GaussianFidelity(A, y, 0.3),
        lambda: GaussianFidelity(A, y, sigma),
        lambda: GaussianFidelity(A, y + 1e-12, 0.3),
        lambda: GaussianFidelity(A, y, 0.3 + 1e-12),
        lambda: GaussianFidelity(gaussian_measurements(X, 12, seed=1), y, 0.3),
        lambda: GaussianFidelity(A, y[:2], 0.3),
        lambda: FunctionalFidelity(A, odl.functionals.L1Norm(A.range), y),
        lambda: FunctionalFidelity(A, odl.functionals.L2Norm(A.range), y),
        lambda: FunctionalFidelity(A, odl.functionals.L2Norm(A.range), y, level=2.0),
        lambda: PoissonFidelity(identity, counts, background=1.0),
        lambda: PoissonFidelity(identity, counts, background=2.0),
        lambda: PoissonFidelity(2 * identity, counts, background=1.0),
    ]
    found = [[of_fidelity(make()) for make in made] for _ in range(2)]
    for i, first in enumerate(found[0]):
        assert [same(first, second) for second in found[1]] == [i == j for j in range(len(made))], i


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        (0.5, 0.5),
        ("map", "map"),
        ([1, (2, "a")], [1, [2, "a"]]),
        ({"z": 1}, {"z": 1}),
        (HMC(leapfrog=3), "HMC(length=2.0, jitter=0.3, leapfrog=3)"),
        (same, "same"),
    ],
)
def test_settings_are_numbers_and_texts(value, expected):
    assert of_setting(value) == expected
    assert of_setting(torch.ones(2)) != of_setting(torch.zeros(2))
