"""Computations that take long and go on from a file: what is in it, what it belongs to, when it is written."""

from genreg.solvers.checkpoints.identity import codes, noise, of_generator, of_operator, of_setting
from genreg.solvers.checkpoints.interruption import interruptible
from genreg.solvers.checkpoints.resumable import StateFile, begin, saving
from genreg.solvers.checkpoints.state_files import (
    atomically,
    digest,
    load_state,
    moved,
    not_finite,
    refuse_other,
    save_state,
)

__all__ = [
    "StateFile",
    "atomically",
    "begin",
    "codes",
    "digest",
    "interruptible",
    "load_state",
    "moved",
    "noise",
    "not_finite",
    "of_generator",
    "of_operator",
    "of_setting",
    "refuse_other",
    "save_state",
    "saving",
]
