r"""Descent over blocks: gradient descent, alternating descent, PALM and its inertial form; Newton-like methods.

All solve :math:`\min_v H(v) + \sum_i g_i(v_i)` with a line search for every sample and block. They differ in
the number of blocks and in whether the :math:`g_i` are there.

References
----------
M. Duff, N. D. F. Campbell, M. J. Ehrhardt (2021), Regularising inverse problems with generative machine
learning models, arXiv:2107.11191, algorithms 1-3.

J. Bolte, S. Sabach, M. Teboulle (2014), Proximal alternating linearized minimization,
doi:10.1007/s10107-013-0701-9.

T. Pock, S. Sabach (2016), Inertial proximal alternating linearized minimization (iPALM) for nonconvex and
nonsmooth problems, doi:10.1137/16M1064064.

A. Bora, A. Jalal, E. Price, A. G. Dimakis (2017), Compressed sensing using generative models, arXiv:1703.03208.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Unpack

from odl.functionals import Functional

from genreg.operators.bridge.arguments import described
from genreg.operators.bridge.caller_data import to_batch
from genreg.operators.bridge.keywords import takes
from genreg.operators.bridge.modes import undisturbed
from genreg.solvers.driver.loop import run
from genreg.solvers.driver.monitor import Stopping
from genreg.solvers.driver.solution import Solution
from genreg.solvers.problem.capabilities import Capability, check_offers
from genreg.solvers.problem.objective import Objective, lowered
from genreg.solvers.updates.base import ProxGradient, Update
from genreg.solvers.updates.inertial import Inertial
from genreg.solvers.updates.levenberg_marquardt import LevenbergMarquardt
from genreg.solvers.updates.line_search import Backtracking, searching
from genreg.solvers.updates.quasi_newton import QuasiNewton


class Descent(Stopping, total=False):
    r"""What the descents over blocks take.

    Parameters
    ----------
    objective : Functional or Objective
        H, and the :math:`g_i` where the solver takes some. An ODL functional is lowered to torch; its terms without
        a gradient must have a prox on one block.
    init : ODL element, Tensor or dict of one of them
        Starting point, of several blocks a dict in the order of the parts of the functional's domain; a tensor may
        have a leading batch axis.
    tol : float
        A sample has converged when :math:`\|\nabla H(v)\| (\ell + \|v\|) / |H(v)|` is at most this, with the unit of
        length ℓ of the block, see `Objective`; with a :math:`g_i`, :math:`\|d\| / \tau` of its step d in the place of
        the gradient.
    line_search : Backtracking, optional
        Settings of the step sizes.

    Returns
    -------
    Solution
        Its blocks have the names of `init`, or ``"v"`` if `init` is no dict.

    Raises
    ------
    NotImplementedError
        If the objective does not offer what the solver needs, such as a gradient or a prox.
    """

    line_search: Backtracking | None


class BlockDescent(Descent, total=False):
    """What those take that let the caller choose how a block moves.

    Parameters
    ----------
    updates : dict of str to update, optional
        Blocks that are to move in another way, such as ``{"z": QuasiNewton()}`` for a latent vector without a
        proximable part.
    """

    updates: Mapping[str, Update] | None


_descent = takes(BlockDescent, Descent, Stopping, max_iter=500, tol=1e-4, progress=True)


@undisturbed
@_descent
def gradient_descent(
    objective: Objective | Functional, init: Any, **keywords: Unpack[BlockDescent]
) -> Solution:
    r"""Gradient descent with backtracking (Duff et al., algorithm 1): :math:`v \leftarrow v - \tau \nabla H(v)`.

    Parameters
    ----------
    line_search : Backtracking, optional
        By default the spectral rule; ``Backtracking()`` is the rule of algorithm 1 itself.
    updates : dict of str to update, optional
        Another way to move the block: ``{"z": Adam(lr=0.02)}``, which on the problem of `HardConstraint` is the
        method of Bora et al. Adam may increase the objective, so that the result of a sample is the iterate with
        the smallest one, unless the last iterate met the tolerance.
    """
    update = ProxGradient(searching(keywords["line_search"], Backtracking(spectral=True)))
    return _descend("gradient_descent", objective, init, update, "smooth", single=True, **keywords)


@undisturbed
@_descent
def alternating_gradient_descent(
    objective: Objective | Functional, init: Any, **keywords: Unpack[BlockDescent]
) -> Solution:
    r"""Gradient steps in every block in turn (Duff et al., algorithm 2).

    By default the line search grows its step after a success.
    """
    update = ProxGradient(searching(keywords["line_search"], Backtracking()))
    return _descend("alternating_gradient_descent", objective, init, update, "smooth", **keywords)


@undisturbed
@_descent
def palm(objective: Objective | Functional, init: Any, **keywords: Unpack[BlockDescent]) -> Solution:
    r"""Proximal alternating linearised minimisation with backtracking (Duff et al., algorithm 3).

    In every block in turn :math:`v_i \leftarrow \mathrm{prox}_{\tau g_i}(v_i - \tau \nabla_i H(v))`; with a
    single block this is proximal gradient descent.
    """
    update = ProxGradient(searching(keywords["line_search"], Backtracking()))
    return _descend("palm", objective, init, update, "proximable", **keywords)


@undisturbed
@_descent
def ipalm(objective: Objective | Functional, init: Any, **keywords: Unpack[BlockDescent]) -> Solution:
    r"""Inertial proximal alternating linearised minimisation (Pock and Sabach), monotone by adaptive restart.

    In every block in turn :math:`v_i \leftarrow \mathrm{prox}_{\tau g_i}(v_i + \beta_k (v_i -
    v_i^{\mathrm{old}}) - \tau \nabla_i H(v))`, see `genreg.solvers.updates.inertial`; an iteration costs what one of
    `palm` does.
    """
    search = keywords["line_search"]
    return _descend(
        "ipalm", objective, init, Inertial(search) if search else Inertial(), "proximable", **keywords
    )


@undisturbed
@takes(Descent, Stopping, max_iter=200, tol=1e-4, progress=True)
def quasi_newton(objective: Objective | Functional, init: Any, **keywords: Unpack[Descent]) -> Solution:
    r"""BFGS with backtracking: for latent vectors.

    The objective must be differentiable. Up to 256 unknowns every sample has a dense inverse Hessian; with more a
    limited memory, see `QuasiNewton`.
    """
    update = QuasiNewton(searching(keywords["line_search"], Backtracking()))
    return _descend("quasi_newton", objective, init, update, "smooth", single=True, **keywords)


@undisturbed
@takes(Stopping, Descent, max_iter=100, tol=1e-4, progress=True)
def gauss_newton(
    objective: Objective, init: Any, *, update: LevenbergMarquardt | None = None, **keywords: Unpack[Stopping]
) -> Solution:
    r"""Gauss-Newton steps :math:`v \leftarrow v - (N + \mu \operatorname{diag} N)^{-1} \nabla H(v)`, damped.

    Parameters
    ----------
    objective : Objective
        H, of one block, with a curvature N, such as that of a `HardConstraint` with a Gaussian fidelity.
    update : LevenbergMarquardt, optional
        Settings of the steps.
    """
    check_offers(objective, "gauss_newton", "smooth", "curvature", single=True)
    step = update or LevenbergMarquardt()
    return _descend("gauss_newton", objective, init, step, "smooth", single=True, **keywords)


def _descend(
    solver: str,
    objective: Objective | Functional,
    init: Any,
    update: Update,
    need: Capability,
    *,
    single: bool = False,
    updates: Mapping[str, Update] | None = None,
    line_search: Backtracking | None = None,
    **stopping: Unpack[Stopping],
) -> Solution:
    """Move every block by an update, or by another one that the caller has named.

    Parameters
    ----------
    solver, need, single
        The name of the solver, and what it needs in all blocks, see `check_offers`.
    objective, init, updates, **stopping
        Those of the solver.
    update, line_search
        How it moves a block, with the settings of step sizes that are there already.
    """
    if not (updates is None or isinstance(updates, Mapping)):
        raise TypeError(f"updates must be a dict from blocks to updates, got {described(updates)}")
    objective = lowered(objective, init)
    check_offers(objective, solver, need, single=single)
    if not isinstance(init, Mapping) and len(objective.spaces) == 1:
        init = dict.fromkeys(objective.spaces, init)
    batch = to_batch(init, objective.spaces)
    moves = dict.fromkeys(objective.spaces, update)
    for name, other in (updates or {}).items():
        if name not in objective.spaces:
            raise ValueError(
                f"updates must name blocks of the objective, {list(objective.spaces)}, got {name!r}"
            )
        if isinstance(other, type) or not isinstance(other, Update):
            raise TypeError(f"updates[{name!r}] must be an update such as Adam(), got {described(other)}")
        moves[name] = other
    return run(objective, batch, moves, description="descent", **stopping)
