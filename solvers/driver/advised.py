"""Ways in which something can end, with what the user can do about each."""

from __future__ import annotations

from enum import IntEnum
from typing import Any, Self

import torch


class Advised(IntEnum):
    """Base of the enumerations whose members have `advice`: ``NAME = number, "A sentence for the user."``."""

    advice: str
    """One sentence for the user."""

    def __new__(cls, value: int, advice: str = "") -> Self:
        """Make a member."""
        member = int.__new__(cls, value)
        member._value_, member.advice = value, advice
        return member

    @classmethod
    def summary(cls, codes: Any) -> str:
        """How many of these codes mean what, and what to do about it, a line for each member that occurs."""
        found, counts = torch.unique(torch.as_tensor(codes), return_counts=True)
        members = ((cls(int(code)), int(count)) for code, count in zip(found, counts, strict=True))
        return "\n".join(f"{count} x {member.name}: {member.advice}" for member, count in members)
