"""The state of a run: all that determines how it goes on, as a dictionary and as a file."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from genreg.sampling.adaptation import Coordinates
from genreg.sampling.kernels.gibbs import Gibbs
from genreg.sampling.kernels.metropolis import HMC, MALA, PCN, ULA, ChainState
from genreg.sampling.kernels.skrock import SKROCK
from genreg.sampling.posterior import Posterior
from genreg.solvers.checkpoints import StateFile, not_finite, refuse_other

_KERNELS = {kernel.__name__: kernel for kernel in (ULA, MALA, PCN, HMC, SKROCK, Gibbs)}
_LEARNT = ("log_size", "alive", "started", "accepted", "top", "spent")
_DRAWS = ("z", "energy", "seeds")


def snapshot(run: Any) -> dict[str, Any]:
    """All that determines how a `run.Chains` goes on."""
    state = {f"state.{name}": t for name, t in vars(run.state).items() if name != "u" and t is not None}
    parts = {"scatter": run.scatter.tensors, "moments": run.moments.tensors}
    parts["coordinates"] = vars(run.target.coordinates)
    tensors = {f"{part}.{name}": t for part, held in parts.items() for name, t in held.items()}
    tensors |= {"u": run.state.u, "random": run.random.state, **state}
    tensors |= {name: getattr(run, name) for name in (*_LEARNT, *_DRAWS)}
    return {
        "plan": vars(run.plan),
        "kernel": run.kernel,
        "turn": run.iteration,
        "seconds": run.seconds,
        "evaluations": run.target.evaluations,
        "tensors": {name: t.clone() for name, t in tensors.items()},
    }


def restore(run: Any, saved: Mapping[str, Any]) -> None:
    """Put a `run.Chains` where another was at its `snapshot`; it may have more draws to come."""
    run.iteration, run.seconds = saved["turn"], saved["seconds"]
    run.target.evaluations = saved["evaluations"]
    tensors = {
        name: t.clone() if name in ("random", "state.seed") else t.to(run.z.device, copy=True)
        for name, t in saved["tensors"].items()
    }

    def part(name: str) -> dict[str, Tensor]:
        return {key.removeprefix(name): t for key, t in tensors.items() if key.startswith(name)}

    run.scatter.restore(part("scatter."))
    run.moments.restore(part("moments."))
    run.target.coordinates = Coordinates(**part("coordinates."))
    run.state = ChainState(tensors["u"], **part("state."))
    run.random.state = tensors["random"]
    for name in _LEARNT:
        setattr(run, name, tensors[name])
    for name in _DRAWS:
        if name in tensors:  # a file of version 0.1 has no seeds
            getattr(run, name)[: len(tensors[name])] = tensors[name]


def state_file(path: str | Path, posterior: Posterior, *, name: str = "checkpoint") -> StateFile:
    """The file of a run that samples a posterior."""
    return StateFile(path, "sampling", posterior.identity, name=name)


def refuse_other_posterior(saved: Posterior, posterior: Posterior) -> None:
    """Refuse to go on with a run in memory that sampled something else.

    Raises
    ------
    ValueError
        If it did; the message names what differs.
    """
    if saved is not posterior:
        refuse_other(Path("in memory"), saved.identity(), posterior.identity(), name="saved")


def as_stored(state: Mapping[str, Any]) -> dict[str, Any]:
    """A state of a run without objects: the kernel as its name and settings, None where it is not of this package."""
    kernel = state["kernel"]
    known = _KERNELS.get(type(kernel).__name__) is type(kernel)
    named = {"name": type(kernel).__name__, "settings": dataclasses.asdict(kernel)} if known else None
    return {**state, "kernel": named}


def restored(state: Mapping[str, Any]) -> dict[str, Any]:
    """Undo `as_stored`."""
    named = state["kernel"]
    return {**state, "kernel": None if named is None else _KERNELS[named["name"]](**named["settings"])}


def refuse_not_finite(state: Mapping[str, Any], name: str = "a saved run") -> None:
    """Refuse a state whose chains are at points that are not finite, or move by sizes that are not.

    Raises
    ------
    ValueError
        If there is one; the message names what is not finite.
    """
    tensors = {name: t for name, t in state["tensors"].items() if name not in _DRAWS}
    # the draws are NaN where a chain was stopped, or has not come to yet, and so are states of chains without a start
    alive = tensors["alive"].flatten()
    tensors["top"] = tensors["top"].flatten()
    for part in ("state.energy", "state.gradient", "state.x", "top"):
        if part in tensors:
            tensors[part] = tensors[part][alive]
    if bad := not_finite(tensors):
        raise ValueError(
            f"{name} must hold finite points of all chains that go on, got NaN or infinite values of "
            f"{', '.join(bad)}"
        )
