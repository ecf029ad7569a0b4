"""The settings of a configuration file: tables, entries, and what each entry must be."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

Settings = Mapping[str, Mapping[str, Any]]
Rule = tuple[str, Callable[[Any], bool]]  # what is required, in words, and the test


def read(config: Path) -> Settings:
    """Read the TOML file of a reconstruction; all tables are there, every entry is known and of the right kind.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is not TOML, or a table or an entry is unknown or wrong.
    """
    settings = _parsed(config, _TABLES)
    for (table, entry), kinds in _ONLY_FOR.items():
        if entry in settings[table] and require(settings, table, "kind") not in kinds:
            wanted = " or ".join(map(repr, kinds))
            raise ValueError(f"{table}.{entry} is for kind {wanted}, got kind {settings[table]['kind']!r}")
    if "dark" in settings["data"] and "white" not in settings["data"]:
        raise ValueError("data.dark needs data.white, got data.dark alone")
    return settings


def read_training(config: Path) -> Settings:
    """Read the TOML file of a training on own images, as `read` does.

    Raises
    ------
    FileNotFoundError, ValueError
        As of `read`.
    """
    return _parsed(config, _TRAINING)


def _parsed(config: Path, tables: Mapping[str, Mapping[str, Rule]]) -> Settings:
    if not config.is_file():
        raise FileNotFoundError(f"configuration must exist, got {config}")
    try:
        settings = tomllib.loads(config.read_text(encoding="utf-8-sig"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"configuration must be TOML, got {config}: {error}") from None
    for table, entries in settings.items():
        if table not in tables or not isinstance(entries, dict):
            raise ValueError(f"configuration may have the tables {list(tables)}, got {table!r}")
        for entry, value in entries.items():
            if entry not in tables[table]:
                raise ValueError(f"table [{table}] may have the entries {list(tables[table])}, got {entry!r}")
            requirement, holds = tables[table][entry]
            if not holds(value):
                raise ValueError(f"{table}.{entry} must be {requirement}, got {value!r}")
    return {table: settings.get(table, {}) for table in tables}


def require(settings: Settings, table: str, entry: str) -> Any:
    """The value of an entry that must be there; ValueError if it is not."""
    if entry not in settings[table]:
        raise ValueError(
            f"configuration must have the entry {entry!r} in [{table}], got {sorted(settings[table])}"
        )
    return settings[table][entry]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _is_pair(value: Any, of: Callable[[Any], bool]) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(map(of, value))


def _is_table(value: Any, rules: Mapping[str, Rule]) -> bool:
    return (
        isinstance(value, dict)
        and set(value) == set(rules)
        and all(rules[name][1](value[name]) for name in rules)
    )


def _one_of(*names: str) -> Rule:
    return " or ".join(map(repr, names)), lambda value: value in names


_TEXT: Rule = "a string", lambda value: isinstance(value, str) and value != ""
_NUMBER: Rule = "a finite number", _is_number
_POSITIVE: Rule = "a positive number", lambda value: _is_number(value) and value > 0
_COUNT: Rule = "a positive integer", _is_count
_INDEX: Rule = "a non-negative integer", lambda value: _is_count(value) or (type(value) is int and value == 0)
_CORNER: Rule = "two numbers", lambda value: _is_pair(value, _is_number)
_SHAPE: Rule = "two positive integers", lambda value: _is_pair(value, _is_count)
_LAM: Rule = (
    "'morozov', 'l-curve' or a non-negative number",
    lambda value: value in ("morozov", "l-curve") or (_is_number(value) and value >= 0),
)
_ANGLES: Rule = (
    "a list of numbers, {start, stop, count} or {key}",
    lambda value: (
        (isinstance(value, list) and all(map(_is_number, value)))
        or _is_table(value, {"key": _TEXT})
        or _is_table(value, {"start": _NUMBER, "stop": _NUMBER, "count": _COUNT})
    ),
)
_DETECTOR: Rule = (
    "{pixels, size} with a positive integer and a positive number",
    lambda value: _is_table(value, {"pixels": _COUNT, "size": _POSITIVE}),
)

_TABLES: dict[str, dict[str, Rule]] = {
    "data": {
        **dict.fromkeys(("file", "key", "white", "dark"), _TEXT),
        "noise_std": _POSITIVE,
        "slice": _INDEX,
        "angles_every": _COUNT,
        "bin": _COUNT,
    },
    "image": {"shape": _SHAPE, "min": _CORNER, "max": _CORNER},
    "geometry": {
        "kind": _one_of("parallel", "fan"),
        "angles": _ANGLES,
        "offset": _NUMBER,
        "detector": _DETECTOR,
        "centre": _NUMBER,
        "source_distance": _POSITIVE,
        "detector_distance": _POSITIVE,
    },
    "prior": {
        "kind": _one_of("hard", "joint", "relaxed", "sparse", "sparse-tv", "tv", "tikhonov"),
        "weights": _TEXT,
        "mu": _POSITIVE,
        "lower": _NUMBER,
        "upper": _NUMBER,
        "scale": _POSITIVE,
    },
    "solve": {
        "lam": _LAM,
        "restarts": _COUNT,
        "init": _TEXT,
        "max_iter": _COUNT,
        "tol": _POSITIVE,
        "seed": _INDEX,
    },
    "output": {"file": _TEXT},
}

_SHARE: Rule = "a number between 0 and 1", lambda value: _is_number(value) and 0 < value < 1
_FLAG: Rule = "true or false", lambda value: isinstance(value, bool)
_COUNTS: Rule = (
    "a list of positive integers",
    lambda value: isinstance(value, list) and all(map(_is_count, value)),
)

_TRAINING: dict[str, dict[str, Rule]] = {
    "data": {
        **dict.fromkeys(("images", "key"), _TEXT),
        "range": _CORNER,
        "held_out": _SHARE,
        "limit": _COUNT,
        "strict": _FLAG,
    },
    "model": {
        **dict.fromkeys(("crop", "latent_channels", "top_latent_channels", "distance"), _COUNT),
        **dict.fromkeys(("channels", "top_channels", "head_channels"), _COUNTS),
    },
    "training": {
        "minutes": _POSITIVE,
        **dict.fromkeys(("steps", "precision_steps", "batch_size", "patience"), _COUNT),
        "lr": _POSITIVE,
        **dict.fromkeys(("augment", "diagonal"), _FLAG),
        "seed": _INDEX,
    },
}

_DEVIATING = ("relaxed", "sparse", "sparse-tv")
_ONLY_FOR = {
    ("geometry", "source_distance"): ("fan",),
    ("geometry", "detector_distance"): ("fan",),
    ("prior", "weights"): ("hard", "joint", *_DEVIATING),
    ("prior", "mu"): _DEVIATING,
    ("prior", "lower"): ("tv",),
    ("prior", "upper"): ("tv",),
}
"""Entries that mean something for some kinds only."""
