"""What the benchmark of empirical Bayes computes: graphs, scores, estimates without a prior."""

import _empirical_bayes as benchmark
import pytest
import torch


@pytest.mark.parametrize("graph, edges", [("chain", 11), ("grid", 17), ("random", 18)])
def test_graphs(graph, edges):
    matrix = benchmark.GRAPHS[graph](12, torch.Generator().manual_seed(0))
    assert torch.equal(matrix, matrix.T) and torch.linalg.eigvalsh(matrix)[0] > 0.05
    assert int((matrix.triu(1) != 0).sum()) == edges
    torch.testing.assert_close(matrix.diagonal(), torch.ones(12, dtype=torch.float64))


def test_scores():
    truth = benchmark.chain(4, torch.Generator())
    found = truth.clone()
    found[0, 1] = found[1, 0] = 0
    found[0, 3] = found[3, 0] = 0.1  # two of three found, one of three wrong
    assert benchmark.edge_f1(found, truth) == pytest.approx(2 / 3)
    assert benchmark.edge_f1(truth, truth) == 1 and benchmark.edge_f1(torch.eye(4), torch.eye(4)) == 0
    error = (2 * 0.45**2 + 2 * 0.1**2) ** 0.5 / (4 + 6 * 0.45**2) ** 0.5
    assert benchmark.frobenius(found, truth) == pytest.approx(error)


@pytest.mark.parametrize("m", [5, 3])
def test_estimates_without_a_prior(m):
    observed = benchmark.gaussian("chain", benchmark.Setting(5, 40, m, 0.05))
    plain, ridge = benchmark.pseudo_inverse(observed), benchmark.ridge(observed)
    A, y = observed.matrix, observed.fidelity.data
    torch.testing.assert_close(plain @ A.T, y, rtol=1e-3, atol=1e-4)
    # a ridge solution is that of its own parameter: A'(y - A z) = alpha z
    pulled = (y - ridge @ A.T) @ A
    alpha = (pulled * ridge).sum(1) / ridge.square().sum(1)
    torch.testing.assert_close(pulled, alpha[:, None] * ridge, rtol=1e-3, atol=1e-4)
    assert observed.mse(observed.oracle.mean) < observed.mse(ridge)


def test_a_mixture():
    observed = benchmark.mixture(benchmark.Setting(6, 500, 6, 0.1))
    r = observed.oracle.responsibilities
    assert r.shape == (500, 2)
    torch.testing.assert_close(r.mean(0), torch.tensor([0.6, 0.4], dtype=torch.float64), rtol=0, atol=0.07)
