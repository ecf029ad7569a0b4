"""Precisions with given zeros by brute force, the graphical lasso by scikit-learn's, graphs from many draws."""

import math

import numpy as np
import pytest
import scipy.optimize
import torch
from sklearn.covariance import graphical_lasso
from sklearn.exceptions import ConvergenceWarning

from genreg.empirical_bayes import GraphicalLasso, covariance_selection
from genreg.empirical_bayes.graphs.lasso import violation

from ...draws import gaussian
from ...refusals import refuses


def moment(p=5, n=40, seed=0):
    """A second moment of n draws, of entries that differ in scale."""
    z = gaussian(n, p, seed=seed) @ (torch.eye(p, dtype=torch.float64) + 0.4 * gaussian(p, p, seed=seed + 1))
    z = z * torch.logspace(-1, 1, p, dtype=torch.float64)
    return z.T @ z / n


def chain(p):
    """The precision of a chain."""
    return torch.eye(p, dtype=torch.float64) + 0.4 * torch.diag(
        torch.ones(p - 1, dtype=torch.float64), 1
    ).add(torch.diag(torch.ones(p - 1, dtype=torch.float64), -1))


def random_graph(p, share=0.3, seed=0):
    """A precision of a random graph, diagonally dominant, with partial correlations of either sign."""
    pick = torch.rand(p, p, generator=torch.Generator().manual_seed(seed)) < share
    entries = torch.where(pick, gaussian(p, p, seed=seed).sign(), 0.0).triu(1)
    entries = entries + entries.T
    return torch.diag(entries.abs().sum(1) + 0.7) + entries


def draws(precision, n, seed=0):
    """Second moment of n draws."""
    factor = torch.linalg.cholesky(precision)
    z = torch.linalg.solve_triangular(factor.T, gaussian(len(precision), n, seed=seed), upper=True)
    return z @ z.T / n


def graph(precision):
    return (precision != 0).fill_diagonal_(False)


def objective(S, matrix):
    return float((S * matrix).sum() - torch.logdet(matrix))


def cycle(p):
    support = chain(p) != 0
    support[0, -1] = support[-1, 0] = True
    return support


def test_full_and_diagonal_patterns():
    S = moment()
    full = covariance_selection(S, torch.ones(5, 5, dtype=torch.bool))
    torch.testing.assert_close(full.matrix, torch.linalg.inv(S))
    assert full.converged.shape == () and bool(full.converged)
    none = covariance_selection(S, torch.zeros(5, 5, dtype=torch.bool))  # the diagonal belongs to all
    torch.testing.assert_close(none.matrix, torch.diag(1 / S.diagonal()))
    for found in (full, none):
        assert float(found.value) == pytest.approx(objective(S, found.matrix))
    single = covariance_selection(torch.tensor([[4.0]]), torch.ones(1, 1, dtype=torch.bool))
    assert single.matrix.dtype == torch.float64 and float(single.matrix) == pytest.approx(0.25)


@pytest.mark.parametrize("support", [chain(5) != 0, cycle(5)], ids=["chain", "cycle"])
def test_a_pattern_against_brute_force(support):
    S = moment()
    S = S / 3  # no correlation matrix
    rows, columns = (support.triu() > 0).nonzero(as_tuple=True)
    scale = S.diagonal().rsqrt()

    def dense(entries):
        upper = torch.zeros(5, 5, dtype=torch.float64).index_put((rows, columns), entries)
        return (upper + upper.triu(1).T) * (scale[:, None] * scale)

    def value(entries):
        entries = torch.from_numpy(entries).requires_grad_()
        matrix = dense(entries)
        if float(torch.linalg.eigvalsh(matrix.detach())[0]) <= 0:
            return 1e10, np.zeros(len(entries))
        f = (S * matrix).sum() - torch.logdet(matrix)
        f.backward()
        return f.item(), entries.grad.numpy()

    start = (rows == columns).double().numpy()
    brute = scipy.optimize.minimize(value, start, jac=True, method="BFGS", options={"gtol": 1e-9})
    found = covariance_selection(S, support)
    assert float(found.value) == pytest.approx(brute.fun, abs=1e-9)
    torch.testing.assert_close(found.matrix, dense(torch.from_numpy(brute.x)), rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("seed", range(3))
def test_the_covariance_is_that_of_the_data_on_the_pattern(seed):
    S = moment(8, seed=seed)
    support = graph(random_graph(8, seed=seed))
    found = covariance_selection(S, support, tol=1e-20)
    on = support | torch.eye(8, dtype=torch.bool)
    assert bool((found.matrix[~on] == 0).all()) and torch.equal(found.matrix, found.matrix.T)
    torch.testing.assert_close(torch.linalg.inv(found.matrix)[on], S[on], rtol=1e-7, atol=1e-10)


def test_a_batch_equals_one_at_a_time():
    S = moment(6)
    supports = torch.stack(
        [graph(random_graph(6, share, seed=k)) for k, share in enumerate((0.0, 0.3, 0.6, 1.0))]
    )
    found = covariance_selection(S, supports.unflatten(0, (2, 2)))
    assert found.matrix.shape == (2, 2, 6, 6) and found.value.shape == found.converged.shape == (2, 2)
    for k, support in enumerate(supports):
        alone = covariance_selection(S, support)
        torch.testing.assert_close(found.matrix.flatten(0, 1)[k], alone.matrix, rtol=1e-6, atol=1e-9)
        torch.testing.assert_close(found.value.flatten()[k], alone.value)
    empty = covariance_selection(S, supports[:0])
    assert empty.matrix.shape == (0, 6, 6) and empty.value.shape == (0,)


def test_scales_do_not_matter():
    S, support = moment(), chain(5) != 0
    d = torch.tensor([1e-4, 0.1, 1.0, 30.0, 1e4], dtype=torch.float64)
    plain, scaled = covariance_selection(S, support), covariance_selection(S * (d[:, None] * d), support)
    torch.testing.assert_close(scaled.matrix * (d[:, None] * d), plain.matrix)
    assert float(scaled.value) == pytest.approx(float(plain.value) + 2 * float(d.log().sum()))


def test_an_unbounded_likelihood_is_seen():
    S = moment(5, n=3)
    found = covariance_selection(S, torch.ones(5, 5, dtype=torch.bool))
    assert not bool(found.converged) and bool(found.matrix.isfinite().all())
    with pytest.raises(ValueError, match="lam must be larger"), pytest.warns(ConvergenceWarning):
        GraphicalLasso(lam=1e-3)(S, 3)


EYE = torch.eye(3, dtype=torch.float64)
ON = torch.ones(3, 3, dtype=torch.bool)


@refuses(
    (EYE + EYE.roll(1, 0), ON, {}, ValueError, "second_moment must be symmetric"),
    (EYE * torch.nan, ON, {}, ValueError, "second_moment must be finite, got 9 entries"),
    (EYE[:2], ON, {}, ValueError, r"square matrix \(p, p\), got the shape \(2, 3\)"),
    (-EYE, ON, {}, ValueError, "positive diagonal, got -1"),
    (EYE.numpy(), ON, {}, TypeError, "second_moment must be a real tensor"),
    (EYE, EYE, {}, TypeError, "support must be a boolean tensor, got torch.float64"),
    (EYE, None, {}, TypeError, "support must be a boolean tensor, got NoneType"),
    (EYE, ON.triu(), {}, ValueError, "support must be symmetric"),
    (EYE, ON[:2, :2], {}, ValueError, r"\(\*batch, 3, 3\), got the shape \(2, 2\)"),
    (EYE, ON, {"tol": -1.0}, ValueError, "tol must be positive and finite"),
    (EYE, ON, {"tol": math.nan}, ValueError, "tol must be positive and finite"),
    (EYE, ON, {"max_iter": 0}, ValueError, "max_iter must be a positive integer"),
)
def test_bad_second_moments_and_patterns(S, support, options):
    covariance_selection(S, support, **options)


@pytest.mark.parametrize("lam", [0.0, 0.1, 0.4])
def test_the_lasso_alone_is_that_of_scikit_learn(lam):
    S = moment(6, n=60)
    scale = S.diagonal().rsqrt()
    units = scale[:, None] * scale
    exact = graphical_lasso((S * units).numpy(), lam, tol=1e-10, enet_tol=1e-13)[1]
    expected = torch.from_numpy(exact) * units
    found = GraphicalLasso(lam=lam, refit=False)(S, 60)
    torch.testing.assert_close(found.matrix, 0.5 * (expected + expected.T), rtol=1e-3, atol=1e-4)
    assert found.lam == lam and found.edges == int(graph(found.matrix).sum()) // 2
    refitted = GraphicalLasso(lam=lam)(S, 60)
    alone = covariance_selection(S, found.matrix != 0)
    torch.testing.assert_close(refitted.matrix, alone.matrix, rtol=1e-2, atol=1e-6)
    for result in (found, refitted):
        bic = 60 * objective(S, result.matrix) + result.edges * math.log(60)
        assert result.bic == pytest.approx(bic, abs=0.02)


@pytest.mark.parametrize("lam", [0.05, 0.1, 0.3])
def test_the_lasso_meets_its_conditions_of_optimality(lam):
    """W = R + λ sign Λ where there are edges, |W - R| ≤ λ where there are none; by default 7e-3 to 2e-2 are missing."""
    S = moment(40, n=200)
    scale = S.diagonal().sqrt()
    R = S / (scale[:, None] * scale)
    matrix = GraphicalLasso(lam=lam, refit=False)(S, 200).matrix * (scale[:, None] * scale)
    off = torch.linalg.inv(matrix) - R
    assert float((off - lam * matrix.sign())[graph(matrix)].abs().max()) <= 0.01 * lam
    assert float(off.fill_diagonal_(0.0).abs().max()) <= 1.01 * lam
    assert violation(R, matrix, lam) <= 0.01 * lam
    assert violation(R, torch.linalg.inv(R + 0.3 * lam * R.fill_diagonal_(0.0)), lam) > 0.01 * lam


@pytest.mark.parametrize("precision", [chain(8), random_graph(8), random_graph(8, 0.5, seed=4)])
def test_graphs_are_found(precision):
    S = draws(precision, 5000)
    found = GraphicalLasso()(S, 5000)
    assert torch.equal(graph(found.matrix), graph(precision))
    alone = covariance_selection(S, precision != 0)
    torch.testing.assert_close(found.matrix, alone.matrix, rtol=0, atol=1e-3)
    bic = 5000 * objective(S, found.matrix) + found.edges * math.log(5000)
    assert found.bic == pytest.approx(bic, abs=1e-6)
    shrunk = GraphicalLasso(refit=False)(S, 5000)
    assert shrunk.bic > found.bic - 0.02 and shrunk.edges >= found.edges


def test_scales_do_not_matter_to_the_graph():
    S = draws(chain(6), 200)
    d = torch.logspace(-2, 3, 6, dtype=torch.float64)
    plain, scaled = GraphicalLasso()(S, 200), GraphicalLasso()(S * (d[:, None] * d), 200)
    torch.testing.assert_close(scaled.matrix * (d[:, None] * d), plain.matrix)
    assert scaled.edges == plain.edges and scaled.lam == plain.lam
    assert scaled.bic == pytest.approx(plain.bic + 400 * float(d.log().sum()))


def test_the_extended_criterion_finds_no_more_edges():
    S = draws(random_graph(8), 60)
    found = [GraphicalLasso(gamma=gamma)(S, 60) for gamma in (0.0, 0.5, 1.0)]
    edges = [result.edges for result in found]
    assert edges == sorted(edges, reverse=True) and edges[0] > edges[2]
    price = math.log(60) + 4 * math.log(8)
    assert found[2].bic == pytest.approx(60 * objective(S, found[2].matrix) + edges[2] * price, abs=1e-6)


def test_one_unknown_and_few_observations():
    found = GraphicalLasso()(torch.tensor([[4.0]], dtype=torch.float64), 10)
    assert float(found.matrix) == pytest.approx(0.25) and found.edges == 0
    assert found.bic == pytest.approx(10 * (1 + math.log(4)))
    few = GraphicalLasso()(moment(6, n=4), 4)
    assert bool((torch.linalg.eigvalsh(few.matrix) > 0).all()) and math.isfinite(few.bic)


@refuses(
    ({"lam": 1.0}, ValueError, r"lam must be a number between 0 and 1"),
    ({"lam": -0.1}, ValueError, r"lam must be a number between 0 and 1"),
    ({"lam": math.nan}, ValueError, r"lam must be a number between 0 and 1"),
    ({"lam": "bla"}, ValueError, "lam must be a number or 'bic', got 'bla'"),
    ({"lam": None}, TypeError, "lam must be a number, got None"),
    ({"lam": True}, TypeError, "lam must be a number, got True"),
    ({"gamma": 2.0}, ValueError, r"gamma must be a number between 0 and 1, got 2"),
)
def test_bad_parameters(options):
    GraphicalLasso(**options)


@refuses(
    (EYE, 2, "fewer observations than unknowns, got lam=0 for n=2 and p=3"),
    (EYE, 0, "n must be positive"),
    (EYE, np.nan, "n must be positive"),
    (EYE * torch.nan, 10, "second_moment must be finite"),
    error=ValueError,
)
def test_bad_arguments(S, n):
    GraphicalLasso(lam=0.0)(S, n)


@pytest.mark.parametrize("options", [{}, {"lam": 0.2}, {"lam": 0.2, "refit": False}, {"refit": False}])
@pytest.mark.parametrize("s", [1e-6, 1e6])
def test_units_do_not_matter(options, s):
    S = moment(8, n=100, seed=3)
    one, other = GraphicalLasso(**options)(S, 100), GraphicalLasso(**options)(s**2 * S, 100)
    assert one.edges == other.edges and one.lam == pytest.approx(other.lam)
    torch.testing.assert_close(other.matrix * s**2, one.matrix, rtol=1e-6, atol=0)
    assert other.bic - one.bic == pytest.approx(100 * 8 * 2 * math.log(s), abs=1e-4)


def test_a_graph_that_is_given_is_considered():
    truth = random_graph(8, 0.5, seed=4)
    S = draws(truth, 400).T @ draws(truth, 400) / 400
    found = GraphicalLasso(gamma=1.0)(S, 400)
    given = truth != 0
    again = GraphicalLasso(gamma=1.0)(S, 400, given)
    best = covariance_selection(S, given)
    bic = 400 * float(best.value) + (int(given.sum()) - 8) / 2 * (math.log(400) + 4 * math.log(8))
    assert again.bic <= min(found.bic, bic) + 1e-6
    assert GraphicalLasso(lam=0.2)(S, 400, given).bic == GraphicalLasso(lam=0.2)(S, 400).bic
