"""What a problem offers, what a solver needs, and the one check that both fit.

==============  =====================================================================================================
word            the problem
==============  =====================================================================================================
``proximable``  is an `Objective`: H has a gradient, and the proximable part of the block, where it has one, a prox
``smooth``      has no proximable part in the block: it is differentiable there
``curvature``   has a Gauss-Newton matrix of H in the block
``saddle``      is a `SaddlePoint`
``profile``     has a block in which it is minimised exactly: ``profile()`` is the objective of the others
``denoiser``    is a `DenoisingProblem`: it has a denoiser in the place of a regulariser
``data_step``   is one whose fidelity has an exact step, that of Gaussian noise and a linear operator
==============  =====================================================================================================

The first is part of the next two. Solvers check what they need before they start, the driver what the updates need.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, Protocol, runtime_checkable

from genreg.operators.bridge.arguments import described

Capability = Literal["proximable", "smooth", "curvature", "saddle", "profile", "denoiser", "data_step"]

_WANTED: dict[str, str] = {
    "proximable": "be an Objective (Objective.from_odl makes one of an ODL functional)",
    "smooth": "be differentiable",
    "curvature": "have a curvature (Objective.curvature)",
    "saddle": "be a SaddlePoint",
    "profile": "have a profile like a JointProblem",
    "denoiser": "have a denoiser like the problem of PlugAndPlay",
    "data_step": "have a Gaussian fidelity of a linear operator",
}
_REMEDY = {
    "smooth": "; palm takes a part without a gradient by its prox",
    "data_step": "; plug_and_play_gradient takes any differentiable fidelity",
}


@runtime_checkable
class Problem(Protocol):
    """What a solver takes."""

    @property
    def offers(self) -> Mapping[str, frozenset[Capability]]:
        """What a solver can use in every block."""


def check_offers(
    problem: Problem,
    solver: str,
    *needs: Capability,
    blocks: Sequence[str] | None = None,
    single: bool = False,
    argument: str = "objective",
) -> None:
    """Refuse a problem that does not offer what a solver needs.

    Parameters
    ----------
    problem : Problem
        What the solver was given.
    solver : str
        Its name, or that of an update.
    *needs : str
        What it needs.
    blocks : sequence of str, optional
        The blocks in which it needs that, by default all.
    single : bool
        Whether it solves problems of one block only.
    argument : str
        Name of the argument.

    Raises
    ------
    TypeError
        If it is no problem, or one of another form.
    NotImplementedError
        If it lacks a gradient or a curvature.
    ValueError
        If it has several blocks and may have one.
    """
    offers = problem.offers if isinstance(problem, Problem) else {}
    if {"smooth", "curvature"} & set(needs):
        needs = ("proximable", *needs)
    for need in needs:
        lacking = [name for name in (blocks or offers) if need not in offers.get(name, ())]
        if not lacking and offers:
            continue
        where = f" in {', '.join(map(repr, lacking))}" if len(offers) > 1 else ""
        kind = type(problem).__name__ if offers else described(problem)
        listed = "; ".join(f"{', '.join(sorted(found))} in {name!r}" for name, found in offers.items())
        error = NotImplementedError if need in ("smooth", "curvature", "data_step") else TypeError
        raise error(
            f"{argument} must {_WANTED[need]}{where} for {solver}, got {kind}"
            + (f", which offers {listed}{_REMEDY.get(need, '')}" if offers else "")
        )
    if single and len(offers) != 1:
        raise ValueError(f"{argument} must have one block for {solver}, got {list(offers)}")
