"""What a function borrows and gives back: torch's random numbers, modes and flags of a model, Ctrl-C."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

__all__ = ["evaluating", "interruptible", "reseed", "returned_on_failure", "seeded"]

_CPU = torch.device("cpu")


def reseed(seed: int, device: torch.device) -> None:
    """Seed torch's global generators of the CPU and of one device, where `torch.manual_seed` seeds all there are."""
    if device.type == "cpu":
        torch.default_generator.manual_seed(seed)
    elif device.type == "cuda":
        torch.default_generator.manual_seed(seed)
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)
    else:
        torch.manual_seed(seed)


@contextmanager
def seeded(seed: int | None, device: torch.device = _CPU) -> Iterator[None]:
    """Let torch's global generators begin with a seed, where one is given, and be as before afterwards."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        if seed is not None:
            reseed(seed, device)
        yield


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Let a model be in evaluation mode, and each of its modules in the mode it had afterwards."""
    modes = _modes(model)
    model.eval()
    try:
        yield
    finally:
        _give_back(modes)


@contextmanager
def returned_on_failure(model: nn.Module) -> Iterator[None]:
    """Give a model back with the flags ``requires_grad`` it had, and after an exception with its modes as well."""
    modes = _modes(model)
    flags = [(p, p.requires_grad) for p in model.parameters()]
    try:
        yield
    except BaseException:
        _give_back(modes)
        raise
    finally:
        for p, flag in flags:
            p.requires_grad_(flag)


@contextmanager
def interruptible(wanted: bool) -> Iterator[Callable[[], bool]]:
    """Tell by a function whether Ctrl-C was pressed, instead of an exception in the middle of a step; once.

    The second Ctrl-C is an exception as ever, and so is the first where another handler is in place or this is not the
    main thread, which alone gets signals.
    """
    pressed: list[int] = []

    def note(number: int, frame: object) -> None:
        pressed.append(number)
        signal.signal(signal.SIGINT, signal.default_int_handler)

    main = threading.current_thread() is threading.main_thread()
    if not (wanted and main and signal.getsignal(signal.SIGINT) is signal.default_int_handler):
        yield lambda: False
        return
    signal.signal(signal.SIGINT, note)
    try:
        yield lambda: bool(pressed)
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _modes(model: nn.Module) -> list[tuple[nn.Module, bool]]:
    return [(module, module.training) for module in model.modules()]


def _give_back(modes: list[tuple[nn.Module, bool]]) -> None:
    for module, mode in modes:
        module.training = mode
