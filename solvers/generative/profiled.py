r"""Joint objectives J(x, z) of image and latent vector of which the image can be eliminated.

It is enough to minimise the *profile* :math:`\varphi(z) = J(x^*(z), z)`, with :math:`x^*(z) = \arg\min_x J(x, z)`.
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Unpack

from torch import Tensor

from genreg.operators.bridge.caller_data import Batch
from genreg.operators.bridge.keywords import takes
from genreg.solvers.checkpoints import StateFile
from genreg.solvers.driver.loop import run
from genreg.solvers.driver.monitor import Stopping
from genreg.solvers.driver.solution import Solution
from genreg.solvers.problem.objective import Objective
from genreg.solvers.problem.state import State
from genreg.solvers.updates.base import Update
from genreg.solvers.updates.levenberg_marquardt import LevenbergMarquardt
from genreg.solvers.updates.propose import Proposal, Propose
from genreg.solvers.updates.quasi_newton import QuasiNewton

_PROPOSALS = 5  # turns in which the encoder proposes before the steps of a profile


@dataclass(frozen=True, kw_only=True)
class Profiled(Objective, ABC):
    r"""An objective J(x, z) that offers the minimiser x*(z), and its profile :math:`\varphi(z) = J(x^*(z), z)`."""

    profiled = True

    @abstractmethod
    def image(self, z: Tensor, **per_sample: Tensor) -> Tensor:
        """The minimiser x*(z), ``(B, *X.shape)``, for some or, by default, all samples."""

    @abstractmethod
    def profile(self) -> Objective:
        """φ, an objective of the block z, with its curvature where there is one."""


@takes(Stopping, max_iter=200, tol=1e-4, progress=True)
def maximise(
    problem: Profiled,
    init: Mapping[str, Tensor],
    update: Update,
    *,
    file: StateFile | None = None,
    saved: Mapping[str, Any] | None = None,
    **stopping: Unpack[Stopping],
) -> Solution:
    """Minimise J of a batch of tensors over both blocks, from the latent vectors in `init`.

    Parameters
    ----------
    problem : Profiled
        J.
    init : dict of str to Tensor
        Its ``"z"`` is the starting point.
    update : Update
        How z moves.
    file, saved
        As for `run`.

    Returns
    -------
    Solution
        Blocks ``"x"`` and ``"z"``.
    """
    start = Batch({"z": init["z"]}, dict, True)
    solution = run(
        problem.profile(), start, {"z": update}, description="JPMAP", file=file, saved=saved, **stopping
    )
    z = solution.blocks["z"]
    return replace(solution, blocks={"x": problem.image(z), "z": z})


def maximise_profile(
    problem: Profiled,
    init: Mapping[str, Tensor],
    encode: Callable[[Tensor], Tensor] | None = None,
    **settings: Any,
) -> Solution:
    """Minimise J from the latent vectors in `init` by the steps that its profile offers.

    The encoder, where it is given, proposes in the first turns. Then z moves by damped Gauss-Newton steps where the
    profile has a curvature, otherwise by quasi-Newton steps; both are free of matrices where z has many dimensions.
    """
    profile = problem.profile()
    step = LevenbergMarquardt() if "z" in profile.curvature else QuasiNewton()
    if encode is None:
        return maximise(problem, init, step, **settings)
    return maximise(problem, init, Propose([Proposal(codes(problem, encode), _PROPOSALS)], step), **settings)


def codes(problem: Profiled, encode: Callable[[Tensor], Tensor]) -> Callable[[Objective, State], Tensor]:
    """The proposal of the code of the present image x*(z)."""
    return functools.partial(_code, problem, encode)


def _code(
    problem: Profiled,
    encode: Callable[[Tensor], Tensor],
    objective: Objective,
    state: State,
) -> Tensor:
    return encode(problem.image(state.blocks["z"], **objective.per_sample))
