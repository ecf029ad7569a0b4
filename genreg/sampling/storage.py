"""The state of a run as a file."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from genreg.operators import to_torch
from genreg.regularisers.identity import of_fidelity
from genreg.sampling.kernels.metropolis import HMC, MALA, PCN, ULA
from genreg.sampling.kernels.skrock import SKROCK
from genreg.sampling.posterior import LatentPosterior
from genreg.solvers.checkpoints import StateFile, codes, not_finite, of_generator, refuse_other

__all__ = ["as_stored", "refuse_not_finite", "refuse_other_posterior", "restored", "state_file"]

_KERNELS = {kernel.__name__: kernel for kernel in (ULA, MALA, PCN, HMC, SKROCK)}


def state_file(path: str | Path, posterior: LatentPosterior, *, name: str = "checkpoint") -> StateFile:
    """The file of a run that samples a posterior."""
    return StateFile(path, "sampling", lambda: identity(posterior), name=name)


def identity(posterior: LatentPosterior) -> dict[str, Any]:
    """What a run belongs to: data, noise, operator, generator, and prior of the latent vectors."""
    G, z = posterior.generator, codes(posterior.generator)
    found = of_fidelity(posterior.fidelity, posterior.decode(z)) | of_generator(G)
    with torch.no_grad():
        prior = None if posterior.latent is None else to_torch(posterior.latent)(z).nan_to_num()
    return {**found, "prior of the latent vectors": prior}


def refuse_other_posterior(saved: LatentPosterior, posterior: LatentPosterior) -> None:
    """Refuse to go on with a run in memory that sampled something else.

    Raises
    ------
    ValueError
        If it did; the message names what differs.
    """
    if saved is not posterior:
        refuse_other(Path("in memory"), identity(saved), identity(posterior), name="saved")


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


def refuse_not_finite(state: Mapping[str, Any]) -> None:
    """Refuse a state whose chains are at points that are not finite, or move by sizes that are not.

    Raises
    ------
    ValueError
        If there is one; the message names what is not finite.
    """
    tensors = dict(state["tensors"])
    alive = tensors["alive"].flatten()
    for name in ("z", "energy"):
        del tensors[name]  # NaN where a chain was stopped, or has not come to yet
    tensors["top"] = tensors["top"].flatten()
    for name in ("state.energy", "state.gradient", "top"):  # of chains that could not start they are not
        tensors[name] = tensors[name][alive]
    if bad := not_finite(tensors):
        raise ValueError(
            f"a saved run must hold finite points of all chains that go on, got NaN or infinite values of "
            f"{', '.join(bad)}"
        )
