"""Expectation maximisation with exact posteriors, for Gaussian graphical models."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from tqdm.auto import tqdm

from genreg.empirical_bayes.encoders.coordinates import coordinates, encoder_inputs
from genreg.empirical_bayes.exact import ExactPosterior, check_exact
from genreg.empirical_bayes.graphs.model import GaussianGraphicalModel
from genreg.operators.bridge.arguments import integer, number, seed_number
from genreg.operators.bridge.modes import undisturbed
from genreg.operators.fidelity import GaussianFidelity
from genreg.solvers.driver.advised import Advised

_PART = 1000  # observations treated at a time


class EMStatus(Advised):
    """How expectation maximisation ended; `advice` says what the user can do about it."""

    CONVERGED = 1, "The evidence does not change any more."
    MAX_ITER = 2, "The evidence was still changing: give a larger max_iter, or a better start."


@dataclass(frozen=True)
class EMResult:
    """What `expectation_maximisation` returns.

    Attributes
    ----------
    prior : GaussianGraphicalModel
        The prior that was given, with the parameters that were found.
    status : EMStatus
        How it ended.
    history : list of dict
        Of every iteration, the mean of log p(y) before it in nats, "log_evidence", and of the movement after it the
        number of edges, λ and "dropped", see `GaussianGraphicalModel.update`.
    """

    prior: GaussianGraphicalModel
    status: EMStatus
    history: list[dict[str, Any]] = field(repr=False)


@torch.no_grad()
@undisturbed
def expectation_maximisation(
    fidelity: GaussianFidelity,
    prior: GaussianGraphicalModel,
    *,
    dense: int = 30,
    max_iter: int = 200,
    tol: float = 1e-5,
    seed: int = 0,
    progress: bool = True,
) -> EMResult:
    r"""Learn a Gaussian graphical model, or a mixture, from linear observations, in place.

    Each iteration takes the posteriors in closed form (`ExactPosterior`), then the sparse precisions of their expected
    second moments.

    The evidence never falls in an iteration that leaves the graph as it is, and so not in the dense ones. A change of
    the graph may lower it: the criterion (`GraphicalLasso`) then says that the edges dropped are worth less than what
    it charges for them. The graph of the iteration before is always among its candidates, and with Q of them
    dropped, R new and n observations that are worth N complete ones (`Statistics.worth`), the mean log p(y) of a
    Gaussian falls by no more than :math:`(Q - R) (\log N + 4 \gamma \log p) / 2 N`, the entry "dropped" of the history.
    There is no such bound for a given λ, where the graph is that of the lasso, or without a new fit on the graph.

    Parameters
    ----------
    fidelity : GaussianFidelity
        Observations by a linear operator on the space of the prior.
    prior : GaussianGraphicalModel
        The prior to start from.
    dense : int
        Iterations, at most, before the graph is sought. Edges that the first posteriors, under a prior far off, do not
        show would hardly come back.
    max_iter : int
        Iterations at most, these included.
    tol : float
        Change of the mean log p(y), in nats, below which it ends.
    seed : int
        Seed of the start of a mixture.
    progress : bool
        Whether to show a progress bar.

    Returns
    -------
    EMResult
        With the prior and the history.

    Raises
    ------
    TypeError, ValueError
        If the posterior has no closed form, there are fewer observations than unknowns and no λ, or a number is not
        positive.

    References
    ----------
    A. P. Dempster, N. M. Laird, D. B. Rubin (1977), Maximum likelihood from incomplete data via the EM algorithm,
    doi:10.1111/j.2517-6161.1977.tb01600.x.
    """
    check_exact(fidelity, prior)
    max_iter, tol = integer(max_iter, "max_iter", minimum=1), number(tol, "tol", above=0)
    dense, seed = integer(dense, "dense", minimum=0), seed_number(seed)
    n = len(fidelity.data)
    prior.check(n)
    affine, seen = coordinates(fidelity, prior)
    rough = affine(encoder_inputs(fidelity, affine, seen, scores_only=True))
    prior.begin(rough, affine.basis @ affine.basis.T, seed=seed)
    rows = torch.arange(n, device=fidelity.data.device).split(_PART)
    history: list[dict[str, Any]] = []
    status, sparse = EMStatus.MAX_ITER, dense == 0
    bar = tqdm(total=max_iter, desc="EM", disable=not progress, mininterval=1.0)
    with bar:
        for _ in range(max_iter):
            prior.forget()
            evidence = 0.0
            for index in rows:
                posterior = ExactPosterior(fidelity.take(index), prior, seen)
                prior.accumulate_statistics(posterior.statistics(), len(index) / n)
                evidence += float(posterior.log_evidence.sum()) / n
            before = history[-1]["log_evidence"] if history else -math.inf
            settled = abs(evidence - before) <= tol
            if settled and sparse:  # what the last update, of a sparse prior, has changed
                status = EMStatus.CONVERGED
            sparse = sparse or settled or len(history) >= dense
            history.append({"log_evidence": evidence, **prior.update(n, sparse=sparse)})
            bar.update()
            bar.set_postfix(log_evidence=f"{evidence:.5g}")
            if status == EMStatus.CONVERGED:
                break
    return EMResult(prior, status, history)
