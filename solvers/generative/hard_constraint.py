r"""The Levenberg-Marquardt method for latent vectors.

.. math:: \min_z \mathcal{D}(A(G(z)); y) + \lambda \|z\|^2

is, for Gaussian noise, a least-squares problem in few unknowns. The Jacobian of A∘G is made by forward differentiation
of G, which costs about dim Z evaluations of G but is one sweep over the batch, and a step solves a dim Z × dim Z system
for every sample, see `genreg.solvers.updates.levenberg_marquardt`. An `Objective` with a curvature is solved by
`solvers.gauss_newton`.
"""

from __future__ import annotations

from typing import Any, Unpack

import odl
import torch
from torch import Tensor

from genreg.operators import to_torch
from genreg.operators.bridge.arguments import described
from genreg.operators.bridge.caller_data import Batch, per_sample_number
from genreg.operators.bridge.keywords import takes
from genreg.operators.bridge.modes import undisturbed
from genreg.solvers.driver.loop import run
from genreg.solvers.driver.monitor import Stopping, stopping
from genreg.solvers.driver.solution import Solution
from genreg.solvers.generative.latent import OfGenerator, entered, first_latents, latent_objective, leave
from genreg.solvers.updates.levenberg_marquardt import LevenbergMarquardt


@undisturbed
@takes(OfGenerator, Stopping, max_iter=100, tol=1e-4, progress=True)
def levenberg_marquardt(
    A: odl.Operator,
    y: Any,
    G: odl.Operator,
    *,
    lam: float | Tensor = 1.0,
    update: LevenbergMarquardt | None = None,
    **keywords: Unpack[OfGenerator],
) -> Solution:
    r"""Minimise :math:`\mathcal{D}(A(G(z)); y) + \lambda \|z\|^2`, the problem of the hard constraint.

    By default the fidelity is that of Gaussian noise, :math:`\mathcal{D} = \|A(G(z)) - y\|^2 / (2 \sigma^2)`.

    Parameters
    ----------
    G : odl.Operator
        Generator Z -> X. For an approximation of an image x in its range, A is the identity and y = x.
    fidelity : Fidelity or callable, optional
        In place of `noise_std`: a fidelity with the operator A and a curvature, such as `PoissonFidelity`, or what
        makes one of (A, y). y may be None then.
    lam : float or Tensor
        λ ≥ 0, or one for every sample: that of `HardConstraint`; ½ gives the maximum a posteriori z.
    tol : float
        A sample has converged when :math:`\|\nabla H(z)\| (1 + \|z\|) / |H(z)|` is at most this.
    update : LevenbergMarquardt, optional
        Settings of the steps: damping, and up to which dim Z the systems are dense.

    Returns
    -------
    Solution
        The block ``"z"``, and ``image``, which is G(z).

    Raises
    ------
    NotImplementedError
        If the fidelity has no curvature.
    """
    fidelity = entered(A, y, G, keywords, need="curvature", by="levenberg_marquardt")
    if not (update is None or isinstance(update, LevenbergMarquardt)):
        raise TypeError(f"update must be a LevenbergMarquardt, got {described(update)}")
    weight = 2 * per_sample_number(lam, "lam", fidelity.data, zero=True)
    generate = to_torch(G)
    problem = latent_objective(to_torch(A), generate, fidelity, **fidelity.per_sample, weight=weight)
    solution = run(
        problem,
        Batch({"z": first_latents(G, fidelity, keywords["init"])}, dict, True),
        {"z": update or LevenbergMarquardt()},
        description="Levenberg-Marquardt",
        **stopping(keywords),
    )
    z = solution.blocks["z"]
    with torch.no_grad():
        return leave(fidelity, G, solution, generate(z), z=z)
