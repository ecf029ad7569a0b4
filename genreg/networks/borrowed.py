"""What a function borrows and gives back: torch's random numbers, modes and flags of a model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

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


def _modes(model: nn.Module) -> list[tuple[nn.Module, bool]]:
    return [(module, module.training) for module in model.modules()]


def _give_back(modes: list[tuple[nn.Module, bool]]) -> None:
    for module, mode in modes:
        module.training = mode
