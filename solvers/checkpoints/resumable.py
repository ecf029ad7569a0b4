"""The file of a computation that takes long: written about every minute, and read again to go on."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tqdm import tqdm

from genreg.operators.bridge.arguments import check_path, flag
from genreg.solvers.checkpoints.interruption import interruptible
from genreg.solvers.checkpoints.state_files import load_state, refuse_other, save_state

_SECONDS = 60.0


class StateFile:
    """A file with the state of a computation, and with what it belongs to.

    Parameters
    ----------
    path : str or Path
        The file.
    kind : str
        What kind of computation it is.
    identity : callable
        Makes what the state belongs to, see `refuse_other`; asked once, when it is needed.
    name : str
        What error messages call the file.

    Raises
    ------
    TypeError
        If the file is no path.
    """

    def __init__(
        self,
        path: str | Path,
        kind: str,
        identity: Callable[[], Mapping[str, Any]],
        *,
        name: str = "checkpoint",
    ) -> None:
        check_path(path, name)
        self.path, self.kind, self.name = Path(path), kind, name
        self._make = identity
        self._identity: Mapping[str, Any] | None = None
        self._saved = time.perf_counter()

    @property
    def identity(self) -> Mapping[str, Any]:
        """What the state belongs to."""
        if self._identity is None:
            self._identity = self._make()
        return self._identity

    def refuse_existing(self, remedy: str) -> None:
        """Refuse to begin where the file exists, whose state would be lost.

        Raises
        ------
        FileExistsError
            If it does.
        """
        if self.path.exists():
            raise FileExistsError(
                f"{self.name} {self.path} is there already: {remedy}, or move the file away, or name another"
            )

    def load(self) -> dict[str, Any]:
        """Read the state.

        Raises
        ------
        FileNotFoundError
            If there is no file.
        ValueError
            If it is damaged, or belongs to something else.
        """
        state = load_state(self.path, self.kind, name=self.name)
        refuse_other(self.path, state.pop("identity"), self.identity, name=self.name)
        return state

    def save(self, state: Callable[[], Mapping[str, Any]], *, now: bool = True) -> None:
        """Write the state, whole or not at all; unless it has to be now, only if the last time is a minute ago."""
        if now or time.perf_counter() - self._saved >= _SECONDS:
            save_state(self.path, {"identity": self.identity, **state()}, self.kind)
            self._saved = time.perf_counter()


def begin(
    checkpoint: str | Path | None,
    resume: bool,
    kind: str,
    identity: Callable[[], Mapping[str, Any]],
    *,
    progress: bool = True,
) -> tuple[StateFile | None, dict[str, Any] | None]:
    """Take the arguments `checkpoint` and `resume` of a computation that takes long.

    Parameters
    ----------
    checkpoint : str or Path, optional
        The file.
    resume : bool
        Whether to go on from it. Where it does not exist yet the computation starts from the beginning, so that a
        script can be run again and again until it is done.
    kind, identity
        Those of `StateFile`.
    progress : bool
        Whether to say so.

    Returns
    -------
    file : StateFile or None
        The file.
    state : dict or None
        What to go on from.

    Raises
    ------
    FileExistsError
        If the file exists and `resume` is false.
    TypeError, ValueError
        If the file is no path, none is given to resume from, or it is damaged or belongs to something else.
    """
    resume = flag(resume, "resume")
    if checkpoint is None:
        if resume:
            raise ValueError("resume needs the file to resume from: give checkpoint")
        return None, None
    file = StateFile(checkpoint, kind, identity)
    if not resume:
        file.refuse_existing("go on with that run by resume=True")
        return file, None
    if file.path.exists():
        return file, file.load()
    if progress:
        tqdm.write(f"There is no checkpoint {file.path}: {kind} starts anew.", sys.stderr)
    return file, None


@contextmanager
def saving(
    file: StateFile | None, snapshot: Callable[[], Mapping[str, Any]]
) -> Iterator[Callable[..., None]]:
    """Give a function to be called when a part is done, which writes the state where there is a file and it is time.

    ``done(now=True)`` writes in any case. At Ctrl-C the part is brought to its end, and the state written, before there
    is an exception.
    """
    with interruptible(file is not None) as interrupted:

        def done(*, now: bool = False) -> None:
            if file is None:
                return
            stops = interrupted()
            file.save(snapshot, now=now or stops)
            if stops:
                raise KeyboardInterrupt(f"interrupted, with the state in {file.path}: resuming goes on")

        yield done
