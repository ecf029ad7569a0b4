r"""Joint posterior maximisation with an autoencoding prior (JPMAP), and its relatives.

.. math:: \min_{x, z} J(x, z), \qquad J(x, z) = \frac{1}{2 \sigma^2} \|A x - y\|^2
          + \frac{\beta}{2} \|x - G(z)\|^2 + \frac12 \|z\|^2 ,

see `genreg.solvers.generative.isotropic`: x is eliminated exactly, and z moves by proposals of the encoder E and by
damped Gauss-Newton steps for the profile, so that J falls at every turn of every sample.

========================  ==========================================================================================
function, rule            of González, Almansa and Tan
========================  ==========================================================================================
`map_z_splitting`         algorithm 1.1: no encoder, β grows until x = G(z) nearly holds
`jpmap`, "exact"          algorithm 2.1: z = E(x) alone (minimises J where the encoder's posterior is exact)
`jpmap`, "candidates"     algorithm 2.2: the best of E(x), a descent from E(x) and a descent from z
`jpmap`, "fast"           algorithm 2.3: the first of them that lowers J, the encoder for n₁, a descent from its
                          code for n₂ turns
`jpmap_continuation`      algorithm 2.4: β by the exponential multiplier method for ‖x - G(z)‖² ≤ ε
========================  ==========================================================================================

References
----------
M. González, A. Almansa, P. Tan (2021), Solving inverse problems by joint posterior maximization with autoencoding
prior, arXiv:2103.01648.

P. Tseng, D. P. Bertsekas (1993), On the convergence of the exponential multiplier method for convex programming,
doi:10.1007/BF01581598.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, Unpack, get_args

import odl
import torch
from torch import Tensor

from genreg.operators.bridge.arguments import choice, integer
from genreg.operators.bridge.arrays import array, check_memory
from genreg.operators.bridge.caller_data import Batch, per_sample_number
from genreg.operators.bridge.keywords import takes
from genreg.operators.bridge.modes import undisturbed
from genreg.operators.bridge.protocols import GeneratorLike
from genreg.operators.fidelity.base import Fidelity
from genreg.solvers.checkpoints import begin, digest, of_generator, of_operator, of_setting
from genreg.solvers.driver.loop import run
from genreg.solvers.driver.monitor import Stopping, stopping
from genreg.solvers.driver.solution import Solution
from genreg.solvers.generative.isotropic import JointProblem
from genreg.solvers.generative.latent import (
    OfGenerator,
    entered,
    first_latents,
    has_encoder,
    leave,
    several_latents,
)
from genreg.solvers.generative.profiled import codes, maximise
from genreg.solvers.problem.objective import Objective
from genreg.solvers.problem.state import State
from genreg.solvers.updates.levenberg_marquardt import LevenbergMarquardt
from genreg.solvers.updates.propose import Proposal, Propose

Rule = Literal["exact", "candidates", "fast"]

_DRAWS = 16  # draws of N(0, I) for every further starting point
_DESCENT = 5  # Gauss-Newton steps of a descent from the code of the image, before it is compared


class Joint(OfGenerator, total=False):
    r"""What the maximisers of the joint posterior take.

    Parameters
    ----------
    A : odl.Operator
        Forward operator X -> Y, linear.
    G : Generator
        Generator Z -> X with an encoder.
    noise_std : float, Tensor, array or ODL element of Y
        Standard deviation σ > 0 of the noise, one for every sample, ``(B,)``, or for every datum, see
        `GaussianFidelity`; then the step in x is computed by conjugate gradients.
    fidelity : GaussianFidelity or callable, optional
        In place of `noise_std`: a fidelity with the operator A, or what makes one of (A, y). y may be None then.
    beta : float or Tensor, optional
        β > 0, or one for every sample; by default 1/γ² with the γ that the model has learned.
    init : dict, ODL element of Z, Tensor or array, optional
        First latent vector, or ``{"x": image}`` for the code of an image. By default the code of a rough
        reconstruction. A run that was ended, by `max_iter` or `callback`, goes on from its ``solution.blocks``: J falls
        from where it was, while the turns of the encoder and the damping begin anew; a `checkpoint` keeps these too.
    tol : float
        A sample has converged when :math:`\|\nabla \varphi(z)\| (1 + \|z\|) / \varphi(z)` is at most this.
    callback : callable, optional
        Called with an `Iterate` of z after every turn; a true answer ends the run.
    checkpoint : str or Path, optional
        File that is written about every minute, at Ctrl-C and at the end, whole or not at all. It belongs to this
        problem and these settings.
    resume : bool
        Go on from `checkpoint`, to the same result as without the interruption; start anew where there is none yet.

    Returns
    -------
    Solution
        Blocks ``"x"`` and ``"z"``; ``image`` is x. ``value`` is J. ``operator_calls`` counts the evaluations of φ,
        those of candidates and of all restarts included, and not the steps that lead to a candidate.

    Raises
    ------
    TypeError, ValueError, NotImplementedError
        If an argument has the wrong type, shape, dtype, device or sign, or is not finite; if A is not linear with an
        adjoint, the fidelity not that of Gaussian noise, or the step in x singular; if G has no encoder where one is
        needed, or no γ and `beta` is not given; if `checkpoint` is damaged or belongs to another problem.
    FileExistsError
        If there is a `checkpoint` and `resume` is false.
    """

    beta: float | Tensor | None
    checkpoint: str | Path | None
    resume: bool


@undisturbed
@takes(Joint, OfGenerator, Stopping, max_iter=200, tol=1e-4, resume=False, progress=True)
def jpmap(
    A: odl.Operator,
    y: Any,
    G: GeneratorLike,
    *,
    rule: Rule = "fast",
    n1: int = 5,
    n2: int | None = None,
    restarts: int = 1,
    seed: int = 0,
    **keywords: Unpack[Joint],
) -> Solution:
    r"""Maximise the joint posterior of image and latent vector (algorithms 2.1, 2.2 and 2.3).

    Parameters
    ----------
    rule : {"fast", "candidates", "exact"}
        Algorithm 2.3, 2.2 or 2.1, see the module. With "exact" a sample ends as stalled when the encoder no
        longer lowers its J.
    n1 : int
        Turns in which "fast" tries the code of the image.
    n2 : int, optional
        Turns in which it tries a descent from that code, n1 <= n2; by default none. On the problems of
        ``benchmarks/jpmap.py`` five such turns change the mean J by less than 1e-4 of it and take 13 to 140 % more
        time: the Gauss-Newton step that follows a code does the same.
    restarts : int
        Starting points of every sample, solved in the same batch: the first, and, of 16 draws of N(0, I) for each
        further one, those with the smallest J. The smallest J at the end wins.
    seed : int
        Seed of these draws.
    max_iter : int
        Turns that move a sample (n_max).
    """
    fidelity = entered(A, y, G, keywords, need="quadratic", by="jpmap")
    check_encoder(G)
    n1, n2 = check_turns(rule, n1, n2)
    restarts, data = integer(restarts, "restarts", minimum=1), fidelity.data
    check_memory((len(data), restarts, A.domain.size), data.dtype, "restarts", restarts, data.device)
    problem, ending = joint_problem(fidelity, G, keywords["beta"]), stopping(keywords)
    settings: dict[str, Any] = {"rule": rule, "n1": n1, "n2": n2, "restarts": restarts, "seed": seed}
    settings |= {"max_iter": ending["max_iter"], "tol": ending["tol"]}
    file, saved = begin(
        keywords["checkpoint"],
        keywords["resume"],
        "jpmap",
        lambda: identity(problem, fidelity, G, keywords["init"], **settings),
        progress=ending["progress"],
    )
    first = first_latents(G, fidelity, keywords["init"])
    z, rows = _screened(problem, *several_latents(first, 1 + _DRAWS * (restarts - 1), seed), restarts)
    several = problem.take(rows)
    update = proposing(several, G.encode, rule, n1, n2)
    solution = maximise(several, {"z": z}, update, file=file, saved=saved, **ending)
    return finished(fidelity, G, problem, solution.best(restarts))


def _screened(problem: JointProblem, z: Tensor, rows: Tensor, restarts: int) -> tuple[Tensor, Tensor]:
    """The first latent vector of every sample and the best of the others, by J, and the sample of each."""
    if restarts == 1:
        return z, rows
    count = len(problem.per_sample["beta"])
    starts, phi = z.unflatten(0, (count, -1)), problem.profile()
    # in turn, which takes the memory of one start
    J = [phi({"z": drawn}) for drawn in starts[:, 1:].unbind(1)]
    best = torch.stack(J, 1).nan_to_num(torch.inf).argsort(dim=1, stable=True)[:, : restarts - 1]
    chosen = torch.cat((torch.zeros_like(best[:, :1]), 1 + best), 1)
    samples = torch.arange(count, device=z.device)
    return starts[samples[:, None], chosen].flatten(0, 1), samples.repeat_interleave(restarts)


def _descended(
    problem: JointProblem, encode: Callable[[Tensor], Tensor], objective: Objective, state: State
) -> Tensor:
    x = problem.image(state.blocks["z"], **objective.per_sample)
    solution = run(  # from codes that need not be finite
        problem.latent(x, **objective.per_sample),
        Batch({"z": encode(x)}, dict, True),
        {"z": LevenbergMarquardt()},
        max_iter=_DESCENT,
        tol=1e-4,
        progress=False,
    )
    return solution.blocks["z"]


def proposing(
    problem: JointProblem, encode: Callable[[Tensor], Tensor], rule: Rule, n1: int, n2: int | None
) -> Propose:
    """The update of z by one of the rules of the module."""
    code, descent = codes(problem, encode), functools.partial(_descended, problem, encode)
    if rule == "exact":
        return Propose([Proposal(code)])
    if rule == "candidates":
        return Propose([Proposal(code), Proposal(descent)], LevenbergMarquardt(), "best")
    descents = [] if n2 is None else [Proposal(descent, n2)]
    return Propose([Proposal(code, n1), *descents], LevenbergMarquardt())


def identity(
    problem: JointProblem, fidelity: Fidelity, G: GeneratorLike, init: Any, **settings: Any
) -> dict[str, Any]:
    """Return what the state of a run belongs to."""
    given = init.values() if isinstance(init, Mapping) else () if init is None else (init,)
    return {
        **{name: digest(value) for name, value in problem.per_sample.items()},
        "init": digest(*(array(value, "init") for value in given)),
        **of_operator("operator", fidelity.operator),
        **of_generator(G),
        **{name: of_setting(value) for name, value in settings.items()},
    }


def check_encoder(G: GeneratorLike) -> None:
    """Raise ValueError unless a generator has an encoder."""
    if not has_encoder(G):
        raise ValueError(
            f"G must have an encoder (a method encode of its model) for JPMAP, got {G!r}; "
            "map_z_splitting and levenberg_marquardt need none"
        )


def check_turns(rule: Any, n1: Any, n2: Any) -> tuple[int, int | None]:
    """Return n1 and n2, where given.

    Raises
    ------
    TypeError, ValueError
        Unless the rule is one of `jpmap` and 0 <= n1 <= n2.
    """
    choice(rule, "rule", get_args(Rule))
    n1 = integer(n1, "n1", minimum=0)
    return n1, None if n2 is None else integer(n2, "n2", minimum=n1)


def joint_problem(
    fidelity: Fidelity, G: GeneratorLike, beta: float | Tensor | None, factor: float = 1.0
) -> JointProblem:
    """The problem with w = 1 and some β, by default `factor` times 1/γ² with the γ that the model of G has learned.

    Raises
    ------
    TypeError, ValueError
        If β is no positive number, or is not given and there is no γ.
    """
    if beta is None:
        gamma = getattr(G, "std", None)
        if gamma is None:
            raise ValueError(f"beta must be given: the model of G has learned no standard deviation, {G!r}")
        beta = factor / gamma**2
    beta = per_sample_number(beta, "beta", fidelity.data)
    return JointProblem.of(
        fidelity.operator, G, **fidelity.per_sample, beta=beta, weight=torch.ones_like(beta)
    )


def finished(fidelity: Fidelity, G: GeneratorLike, problem: JointProblem, solution: Solution) -> Solution:
    """The solution with both blocks, as the caller's kind of data."""
    z = solution.blocks["z"]
    x = solution.blocks["x"] if "x" in solution.blocks else problem.image(z)
    return leave(fidelity, G, solution, x, x=x, z=z)
