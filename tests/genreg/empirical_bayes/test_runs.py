"""Runs of empirical Bayes: seeds, checkpoints, forms of the data, bad input."""

import math

import numpy as np
import odl
import pytest
import torch

from genreg import FunctionalFidelity, GaussianFidelity, NetworkOperator, PoissonFidelity
from genreg.empirical_bayes import (
    DistributionPrior,
    EmpiricalBayes,
    FullCovariance,
    GaussianGraphicalModel,
    GraphicalLasso,
    InverseAutoregressive,
    MeanField,
    fit,
)
from genreg.empirical_bayes.priors import Prior
from genreg.operators import gaussian_measurements

from ...refusals import refuses
from .test_empirical_bayes import DENSE, Identity, chain, gaussian, noisy
from .test_fit import Independents, problem

QUIET = {"progress": False, "dense": 1, "batch_size": 8, "n_critic": 2}
FLOW = InverseAutoregressive(hidden=(4,), transforms=2, flow_hidden=(4,), bins=4)
X = odl.rn(5)


def graphical():
    return GaussianGraphicalModel(X, estimator=GraphicalLasso(lam=0.1))


def mixture():
    return GaussianGraphicalModel(X, 2, mean="learned", estimator=GraphicalLasso(lam=0.1))


@pytest.mark.parametrize("components", [1, 2])
def test_units_do_not_matter(components):
    """Powers of two, so that rounding is the same: Adam makes much of a gradient that is zero but for rounding."""

    def learned(s):
        prior = GaussianGraphicalModel(
            X,
            components,
            mean="learned",
            precision=chain(5) / s**2,
            means=s * gaussian(components, 5, seed=4),
            estimator=GraphicalLasso(lam=0.1),
        )
        data = problem("few", n=40)
        fidelity = GaussianFidelity(data.operator, s * data.data, 0.3 * s)
        found = fit(fidelity, prior, FullCovariance(hidden=(4,)), steps=8, **QUIET)
        return prior, found.elbo(fidelity, seed=0).mean().item() + 3 * math.log(s)

    one, bound = learned(1.0)
    for s in (2.0**-20, 2.0**20):
        prior, elbo = learned(s)
        assert elbo == pytest.approx(bound)
        torch.testing.assert_close(prior.matrices * s**2, one.matrices)
        torch.testing.assert_close(prior.means / s, one.means)


def test_a_checkpoint_of_another_start_is_refused(tmp_path):
    fidelity, prior, file = problem("few", n=40), graphical(), tmp_path / "run.checkpoint"
    encoder = FullCovariance(hidden=())
    found = fit(fidelity, prior, encoder, steps=4, checkpoint=file, **QUIET)
    assert found.prior is prior and not found.encoder.training
    assert found.card["encoder"]["name"] == encoder.name and found.card["training"]["steps"] == 4
    with pytest.raises(ValueError, match="another run: encoder was"):
        fit(fidelity, graphical(), MeanField(), steps=4, checkpoint=file, resume=True, **QUIET)
    moved = GaussianGraphicalModel(X, precision=chain(5), estimator=prior.estimator)
    for other in (prior, moved):  # the first one is trained by now
        with pytest.raises(ValueError, match="another run: operator, noise or prior at the start differ"):
            fit(fidelity, other, encoder, steps=4, checkpoint=file, resume=True, **QUIET)
    with pytest.raises(ValueError, match="another run: observations differ, operator"):
        fit(problem("few", n=41), graphical(), encoder, steps=4, checkpoint=file, resume=True, **QUIET)


def test_a_second_fit_forgets_the_first():
    first, second = problem("few", n=40), problem("many", n=60)
    fresh, used = graphical(), graphical()
    fit(first, used, FullCovariance(hidden=()), steps=2, **QUIET)
    used.assign(fresh.weights, fresh.means, fresh.matrices)
    results = [fit(second, prior, FullCovariance(hidden=()), steps=4, **QUIET) for prior in (fresh, used)]
    assert torch.equal(fresh.matrices, used.matrices)
    a, b = (result.encoder.state_dict() for result in results)
    assert all(torch.equal(a[key], b[key]) for key in a)


def test_a_learned_mixture_is_a_start():
    fidelity = problem("many", n=100)
    prior = mixture()
    fit(fidelity, prior, FullCovariance(hidden=()), steps=2, **QUIET)
    means = prior.means.clone()
    prior.begin(gaussian(100, 5), torch.eye(5), seed=3)
    assert torch.equal(means, prior.means)


def test_all_observations_count_at_the_end():
    """Of a distribution, too: the last update is on draws of all, not on the last batch."""
    seen = []

    class Counting(DistributionPrior):
        def update(self, n, *, sparse=True):
            seen.append(sum(map(len, self._accumulated)))
            return super().update(n, sparse=sparse)

    fit(problem("few", n=41), Counting(X, Independents(5)), steps=4, draws=3, **QUIET)
    assert seen == [24, 24, 123]


def test_data_come_back_as_they_were_given():
    fidelity = problem("few", n=30)
    result = fit(fidelity, graphical(), FLOW, steps=2, **QUIET)
    y, A = fidelity.data, fidelity.operator
    assert isinstance(result, EmpiricalBayes) and result.infer(fidelity).mean.shape == (30, 5)
    element = result.infer(GaussianFidelity(A, A.range.element(y[0].numpy()), 0.3))
    assert element.mean in X and element.std in X
    single = result.infer(GaussianFidelity(A, y[0], 0.3))
    assert single.mean.shape == (5,) and np.allclose(element.mean.data, single.mean.numpy())
    draws = result.sample(fidelity, 50, seed=0)
    assert draws.shape == (50, 30, 5) and torch.equal(draws, result.sample(fidelity, 50, seed=0))
    state = torch.random.get_rng_state()
    result.elbo(fidelity)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert bool((result.elbo(fidelity, importance=True) >= result.elbo(fidelity)).all())


def test_gaussian_posteriors_one_at_a_time(monkeypatch):
    fidelity = problem("few", n=30)
    result = fit(fidelity, graphical(), FullCovariance(hidden=(4,), amortised=True), steps=3, **QUIET)
    together = result.infer(fidelity)
    for part in (1, 7):
        monkeypatch.setattr("genreg.empirical_bayes.result._PART", part)
        found = result.infer(fidelity)
        torch.testing.assert_close(found.mean, together.mean)
        torch.testing.assert_close(found.std, together.std)
        assert result.elbo(fidelity).shape == (30,)


def test_an_encoder_of_other_observations():
    shared, masks = problem("many", n=30), problem("masks", n=30)
    for trained, given in ((shared, masks), (masks, problem("few", n=30)), (masks, shared)):
        encoder = FullCovariance(hidden=(4,), amortised=True)
        result = fit(trained, graphical(), encoder, steps=1, **QUIET)
        with pytest.raises(ValueError, match=r"fidelity must have .*noise.* the encoder was trained"):
            result.infer(given)
    result = fit(shared, graphical(), FullCovariance(hidden=()), steps=1, **QUIET)
    with pytest.raises(ValueError, match="fidelity must have the noise that the encoder was trained with"):
        result.infer(GaussianFidelity(shared.operator, shared.data, 2 * shared.noise_std))
    with pytest.raises(ValueError, match="A must act on the space of the prior"):
        result.infer(GaussianFidelity(Identity(odl.rn(3), odl.rn(3)), gaussian(3), 1.0))
    with pytest.raises(TypeError, match="fidelity must be a genreg Fidelity"):
        result.elbo(gaussian(3, 7))
    for number, error in ((0, ValueError), (1.5, TypeError)):
        with pytest.raises(error, match=r"draws must be (a positive|an) integer"):
            result.elbo(masks, draws=number)
    with pytest.raises(ValueError, match="draws must be an integer of at least 2"):
        result.infer(masks, draws=1)


def test_smallest_problems():
    """One unknown, one observation in a batch, an odd number of draws, memory of a batch."""
    space = odl.rn(1)
    fidelity = noisy(GaussianGraphicalModel(space), 20, 0.5)
    for encoder in (FullCovariance(hidden=()), FLOW):
        settings = QUIET | {"batch_size": 1, "draws": 1, "memory": 1}
        result = fit(fidelity, GaussianGraphicalModel(space), encoder, steps=4, **settings)
        assert bool(result.elbo(fidelity).isfinite().all())
    result = fit(fidelity, GaussianGraphicalModel(space, 2, mean="learned"), FLOW, steps=2, **QUIET)
    assert bool(result.infer(fidelity).std.isfinite().all())


GOOD = problem("few", n=20)


@refuses(
    ({"fidelity": gaussian(5, 3)}, TypeError, "fidelity must be a genreg Fidelity, got Tensor"),
    ({"prior": Independents(5)}, TypeError, "prior must be a genreg.empirical_bayes.Prior, got Independents"),
    ({"encoder": "full"}, TypeError, "encoder must be an EncoderConfig such as FullCovariance"),
    ({"prior": GaussianGraphicalModel(odl.rn(4))}, ValueError, "A must act on the space of the prior"),
    ({"validation": gaussian(5, 3)}, TypeError, "fidelity must be a genreg Fidelity"),
    ({"n_critic": 0}, ValueError, "n_critic must be a positive integer"),
    ({"memory": 0}, ValueError, "memory must be a positive integer"),
    ({"draws": 0}, ValueError, "draws must be a positive integer"),
    ({"dense": -1}, ValueError, "dense must be a non-negative integer"),
)
def test_bad_arguments(change):
    arguments = {"fidelity": GOOD, "prior": graphical()} | change
    fit(arguments.pop("fidelity"), arguments.pop("prior"), **{"steps": 1, **QUIET} | arguments)


def test_bad_observations():
    A = gaussian_measurements(X, 3, seed=0)
    y = gaussian(4, 3)
    with pytest.raises(ValueError, match=r"must have shape \(\*batch, \*\(3,\)\), got \(4, 2\)"):
        GaussianFidelity(A, gaussian(4, 2), 0.3)
    y[1, 2] = torch.nan
    with pytest.raises(ValueError, match="finite"):
        GaussianFidelity(A, y, 0.3)
    few = GaussianFidelity(A, gaussian(4, 3), 0.3)
    with pytest.raises(ValueError, match="fewer observations than unknowns, got lam=0 for n=4 and p=5"):
        fit(few, GaussianGraphicalModel(X, estimator=DENSE), **QUIET)
    fit(few, graphical(), FullCovariance(hidden=()), steps=2, **QUIET)  # with a graph they are not too few


def test_diverging_runs_stop():
    impossible = PoissonFidelity(Identity(X, X), gaussian(20, 5).abs())  # rates below zero
    with pytest.raises(FloatingPointError, match="train loss is inf at step 2: lower lr or set clip"):
        fit(impossible, graphical(), FullCovariance(hidden=()), steps=4, **QUIET)


def test_other_fidelities():
    A = NetworkOperator(torch.nn.Tanh(), X, X)
    functional = odl.functionals.L2NormSquared(X)
    result = fit(FunctionalFidelity(A, functional, gaussian(20, 5)), graphical(), steps=2, **QUIET)
    assert result.infer(FunctionalFidelity(A, functional, gaussian(3, 5))).mean.shape == (3, 5)


@pytest.mark.parametrize(
    ("model", "options", "error", "message"),
    [
        (None, {}, TypeError, "model must be a torch.nn.Module, got NoneType"),
        (torch.nn.Identity(), {}, ValueError, "model must have parameters"),
        (Independents(4), {}, ValueError, r"one vector with 5 entries, got event_shape \(4,\)"),
        (Independents(5), {"lr": 0.0}, ValueError, "lr must be positive and finite"),
        (Independents(5), {"steps": 1.5}, TypeError, "steps must be an integer, got 1.5"),
    ],
)
def test_bad_distributions(model, options, error, message):
    with pytest.raises(error, match=message):
        DistributionPrior(X, model, **options)
    assert issubclass(DistributionPrior, Prior)
