r"""Sparse precisions from second moments: the graphical lasso, its parameter by an information criterion.

Given the second moment S of n observations of z ~ N(0, Λ⁻¹), the graphical lasso minimises

.. math:: -\log\det\Lambda + \operatorname{tr}(S \Lambda) + \lambda \sum_{i \ne j} |\Lambda_{ij}| \,,

for S scaled to a correlation matrix, so that λ in [0, 1) means the same for every problem. The penalty that finds the
zeros shrinks the other entries as well. So the precision is fitted anew on the graph that was found, without a penalty
(`covariance_selection`), and candidates are compared by the criterion of these,

.. math:: \mathrm{BIC} = n \bigl(-\log\det\Lambda + \operatorname{tr}(S \Lambda)\bigr)
          + |E| \log n + 4 \gamma |E| \log p

with the number |E| of edges (γ > 0: the extended criterion of Foygel and Drton). Candidates are the graphs of the
partial correlations above a threshold, for a few λ around :math:`\sqrt{\log p / n}`: the lasso alone needs a larger λ
for the right graph than for a good fit, and on graphs with strong ties no λ gives the right one.

References
----------
J. Friedman, T. Hastie, R. Tibshirani (2008), Sparse inverse covariance estimation with the graphical lasso,
doi:10.1093/biostatistics/kxm045.

S. Zhou, P. Rütimann, M. Xu, P. Bühlmann (2011), High-dimensional covariance estimation based on Gaussian graphical
models, arXiv:1009.0530 (threshold, then refit).

R. Foygel, M. Drton (2010), Extended Bayesian information criteria for Gaussian graphical models, arXiv:1011.6640.
"""

from __future__ import annotations

import functools
import math
import warnings
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from genreg.empirical_bayes.graphs.selection import check_moment, covariance_selection
from genreg.operators.bridge.arguments import number

_FACTORS = (0.5, 1.0, 2.0, 4.0)  # of sqrt(log p / n)
_EXACT = 1e-9  # decrement of Newton's method for the graph that is chosen
# of the duality gap of the lasso for each unknown, and of the regressions inside
_TOL, _ENET_TOL = (2e-7, 1e-9)
_MAX_ITER = 300  # steps of the lasso, and of each regression inside
_VIOLATED = 0.01  # of λ, by which the entries of the covariance may miss the conditions of optimality
_THRESHOLDS = 8  # of the partial correlations, in either round of the search for the best graph


class SparsePrecision(NamedTuple):
    """A precision that was found.

    Attributes
    ----------
    matrix : Tensor
        Λ, ``(p, p)``, of double precision.
    lam : float
        λ, in units of correlations.
    edges : int
        Number of pairs with an entry other than zero.
    bic : float
        The criterion.
    """

    matrix: Tensor
    lam: float
    edges: int
    bic: float


@dataclass(frozen=True, kw_only=True)
class GraphicalLasso:
    """How a sparse precision is found from a second moment; the lasso itself is scikit-learn's.

    Parameters
    ----------
    lam : float or "bic"
        λ, in units of correlations; or ``"bic"``: the graph with the least criterion, see the module.
    refit : bool
        Whether the precision is fitted anew on the graph, without a penalty. Without, ``"bic"`` chooses between the
        estimates of the lasso for several λ, which are shrunk.
    gamma : float
        γ of the extended criterion, in [0, 1].

    Raises
    ------
    TypeError, ValueError
        If a parameter is out of range.
    """

    lam: float | str = "bic"
    refit: bool = True
    gamma: float = 0.0

    def __post_init__(self) -> None:
        if isinstance(self.lam, str):
            if self.lam != "bic":
                raise ValueError(f"lam must be a number or 'bic', got {self.lam!r}")
        else:  # in units of correlations
            object.__setattr__(self, "lam", number(self.lam, "lam", minimum=0, below=1))
        object.__setattr__(self, "gamma", number(self.gamma, "gamma", minimum=0, maximum=1))

    def check(self, n: float, p: int) -> None:
        """Raise a ValueError where n observations of p unknowns are too few for this λ."""
        if self.lam == 0 and n < p:
            raise ValueError(
                f"lam must be positive where there are fewer observations than unknowns, got lam=0 for n={n:g} and "
                f"p={p}"
            )

    def __call__(self, second_moment: Tensor, n: float, graph: Tensor | None = None) -> SparsePrecision:
        """Return the sparse precision for a second moment.

        Parameters
        ----------
        second_moment : Tensor
            S, ``(p, p)``, symmetric with a positive diagonal.
        n : float
            Number of observations that it stands for.
        graph : Tensor, optional
            One more graph to consider, boolean ``(p, p)``, symmetric. Where graphs are compared by the criterion and
            fitted without a penalty, the result is no worse than the best precision of this one.

        Returns
        -------
        SparsePrecision
            Of double precision, on the device of S.

        Raises
        ------
        TypeError, ValueError
            If S is no such matrix, n is not positive or too small for λ = 0, or the lasso fails for this λ.
        """
        S = check_moment(second_moment, "second_moment")
        if not 0 < n < math.inf:
            raise ValueError(f"n must be positive, got {n}")
        self.check(n, len(S))
        scale = S.diagonal().rsqrt()
        R = S * (scale[:, None] * scale)
        found = self._of_correlation(R, n)
        if self.refit:
            if graph is not None and self.lam == "bic":
                found = min(
                    found, self._of_graph(R, n, graph, found.lam), key=lambda candidate: candidate.bic
                )
            # of the last candidates more digits than their comparison needs: the evidence must not fall by rounding
            found = min(found, self._of_graph(R, n, found.matrix != 0, found.lam), key=lambda each: each.bic)
        return found._replace(
            matrix=found.matrix * (scale[:, None] * scale), bic=found.bic - 2 * n * float(scale.log().sum())
        )

    def _of_correlation(self, R: Tensor, n: float) -> SparsePrecision:
        if self.lam == "bic":
            level = math.sqrt(math.log(max(len(R), 2)) / n)
            lams = [min(factor * level, 0.9) for factor in _FACTORS]
        else:
            lams = [float(self.lam)]
        tried = {lam: estimate for lam in lams if (estimate := _lasso(R, lam)) is not None}
        if not tried:
            raise ValueError(
                f"lam must be larger for this second moment: the graphical lasso fails for {lams}"
            )
        if self.refit and self.lam == "bic":
            return self._thresholded(R, n, tried)
        if self.refit:
            found = [self._refitted(R, n, (matrix != 0)[None], lam) for lam, matrix in tried.items()]
        else:
            found = [self._candidate(R, n, matrix, lam) for lam, matrix in tried.items()]
        best = min(found, key=lambda candidate: candidate.bic)
        if best.bic == math.inf:
            raise ValueError(
                f"lam must be larger for this second moment: the likelihood of the graph for {lams} is unbounded"
            )
        return best

    def _candidate(self, R: Tensor, n: float, matrix: Tensor, lam: float) -> SparsePrecision:
        edges = (int((matrix != 0).sum()) - len(matrix)) // 2
        value = float((R * matrix).sum() - torch.logdet(matrix))
        return SparsePrecision(matrix, lam, edges, n * value + edges * self.price(n, len(R)))

    def price(self, n: float, p: int) -> float:
        """What an edge adds to the criterion."""
        return math.log(n) + 4 * self.gamma * math.log(p)

    def _thresholded(self, R: Tensor, n: float, tried: dict[float, Tensor]) -> SparsePrecision:
        """The best graph of the largest partial correlations, by their number: first widely, then around the best."""
        found, around = [], []
        for lam, matrix in tried.items():
            d = matrix.diagonal().rsqrt()
            partial = (matrix * (d[:, None] * d)).abs().fill_diagonal_(torch.inf)
            strengths = partial.triu(1)[partial.triu(1) > 0].sort(descending=True).values

            def best(
                counts: list[int], lam: float = lam, P: Tensor = partial, v: Tensor = strengths
            ) -> SparsePrecision:
                levels = [torch.inf if k == 0 else v[k - 1] for k in counts]
                return self._refitted(R, n, torch.stack([P >= level for level in levels]), lam)

            counts = _spread(0, len(strengths))
            found.append(best(counts))
            place = min(range(len(counts)), key=lambda i: abs(counts[i] - found[-1].edges))
            between = _spread(counts[max(place - 1, 0)], counts[min(place + 1, len(counts) - 1)])
            around.append(functools.partial(best, between))
        k = min(range(len(found)), key=lambda i: found[i].bic)
        return min(found[k], around[k](), key=lambda candidate: candidate.bic)

    def _of_graph(self, R: Tensor, n: float, graph: Tensor, lam: float) -> SparsePrecision:
        """The precision of one graph to many digits, without a penalty."""
        support = graph.clone().fill_diagonal_(True)
        if bool(support.all()):
            return self._candidate(R, n, torch.linalg.inv(R), lam)
        return self._refitted(R, n, support[None], lam, tol=_EXACT)

    def _refitted(
        self, R: Tensor, n: float, support: Tensor, lam: float, tol: float | None = None
    ) -> SparsePrecision:
        """The precision of the best of some graphs ``(K, p, p)``, without a penalty."""
        # the criterion to 1e-2
        found = covariance_selection(R, support, tol=1e-2 / n if tol is None else tol)
        edges = support.sum((1, 2)).sub(len(R)).double() / 2
        bic = n * found.value + edges * self.price(n, len(R))
        bic = torch.where(found.converged, bic, torch.inf)
        k = int(bic.argmin())
        return SparsePrecision(found.matrix[k], lam, int(edges[k]), float(bic[k]))


def _spread(first: int, last: int) -> list[int]:
    """Some integers from `first` to `last`, denser where they are small."""
    return sorted({round(k) for k in np.geomspace(first + 1, last + 1, _THRESHOLDS) - 1})


def _lasso(R: Tensor, lam: float) -> Tensor | None:
    """The graphical lasso on a correlation matrix; None where it fails.

    By default scikit-learn solves the regressions inside so loosely that the conditions of optimality are violated by
    up to 2e-2, and the outer loop turns on to its end without getting nearer. The gap by which it stops has both
    signs, so it may be small by chance: the conditions themselves are looked at, and a warning says where they are
    violated by more than λ / 100.
    """
    from sklearn.covariance import graphical_lasso
    from sklearn.exceptions import ConvergenceWarning

    if len(R) == 1:  # scikit-learn wants two unknowns
        return R.reciprocal()
    found, correlations = None, R.numpy(force=True)
    for share in (1.0, 0.1, 0.01):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            try:
                matrix = graphical_lasso(
                    correlations,
                    lam,
                    tol=share * _TOL * len(R),
                    enet_tol=share * _ENET_TOL,
                    max_iter=_MAX_ITER,
                )[1]
            except (FloatingPointError, np.linalg.LinAlgError):
                return found
        estimate = torch.from_numpy(np.ascontiguousarray(matrix)).to(R)
        estimate = torch.where((estimate != 0) & (estimate.T != 0), 0.5 * (estimate + estimate.T), 0.0)
        if int(torch.linalg.cholesky_ex(estimate).info) != 0:
            return found
        found = estimate
        missed = violation(R, found, lam)
        if lam == 0 or missed <= _VIOLATED * lam:
            return found
    warnings.warn(
        f"the graphical lasso for λ = {lam:g} did not converge: it misses its conditions of optimality by {missed:.1e}",
        ConvergenceWarning,
        stacklevel=4,
    )
    return found


def violation(R: Tensor, matrix: Tensor, lam: float) -> float:
    r"""The largest violation of the conditions of the lasso's optimality, in units of correlations.

    With :math:`W = \Lambda^{-1}` they are :math:`W_{ii} = R_{ii}`, :math:`W_{ij} - R_{ij} = \lambda \operatorname{sign}
    \Lambda_{ij}` where :math:`\Lambda_{ij} \ne 0`, and :math:`|W_{ij} - R_{ij}| \le \lambda` elsewhere.
    """
    off = torch.linalg.inv(matrix) - R
    beyond = torch.where(matrix != 0, (off - lam * matrix.sign()).abs(), (off.abs() - lam).clamp_min(0.0))
    beyond.diagonal().copy_(off.diagonal().abs())
    return float(beyond.max())
