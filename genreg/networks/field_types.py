"""Whether what JSON holds is of the types that the fields of a configuration have."""

from __future__ import annotations

import types
from collections.abc import Mapping
from typing import Any, get_args, get_origin, get_type_hints


def check_types(cls: Any, settings: Mapping[str, Any]) -> None:
    """Check the settings of a dataclass against its annotations; those of other classes are left to them.

    Raises
    ------
    TypeError
        If one does not fit; the message names it, its type and the value.
    """
    hints = get_type_hints(cls)
    for name, value in settings.items():
        if name in hints and not _fits(value, hints[name]):
            hint = hints[name]
            raise TypeError(f"{name} must be {getattr(hint, '__name__', None) or hint}, got {value!r}")


def _fits(value: Any, hint: Any) -> bool:
    inner = get_args(hint)
    if isinstance(hint, types.UnionType):
        return any(_fits(value, one) for one in inner)
    if get_origin(hint) is tuple:  # JSON has lists
        if not isinstance(value, list | tuple):
            return False
        many = inner[1:] == (...,)
        return (many or len(value) == len(inner)) and all(
            _fits(v, inner[0 if many else i]) for i, v in enumerate(value)
        )
    if hint is types.NoneType:
        return value is None
    if hint in (int, float):
        return isinstance(value, int if hint is int else int | float) and not isinstance(value, bool)
    return isinstance(value, hint) if hint in (bool, str) else True
