"""What several functions have in common, declared and documented once.

Keywords stand in a `TypedDict`: a function takes it as ``**keywords: Unpack[Group]``, which type checkers understand,
and `takes` gives it the defaults, and shows the keywords in its signature and docstring, where `help` finds them.
`documented_like` completes a docstring by those of other functions or classes.
"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Mapping, Sequence, Set
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])

_SHARED = ("Parameters", "Returns", "Raises")  # sections, in their order


def takes(*groups: Any, **defaults: Any) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Let a function, written with ``**keywords: Unpack[Group]``, take the fields of a `TypedDict` as keywords.

    Parameters
    ----------
    *groups : type
        The `TypedDict`, before others. The docstrings of all of them document the fields, and what else the functions
        have in common; the first word counts.
    **defaults
        The values of fields where they are not given, None for others; the function gets them all.

    Raises
    ------
    TypeError
        From the function, if a keyword is not known.
    """
    types = {name: getattr(kind, "__forward_arg__", kind) for name, kind in groups[0].__annotations__.items()}
    values = dict.fromkeys(types) | defaults
    fields = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=values[name], annotation=kind)
        for name, kind in types.items()
    ]

    def decorate(function: Callable[P, T]) -> Callable[P, T]:
        @functools.wraps(function)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            refuse_unknown(wrapped, kwargs)
            return function(*args, **(values | kwargs))

        show_keywords(wrapped, fields, *groups)
        return wrapped

    return decorate


def show_keywords(function: Any, fields: Sequence[inspect.Parameter], *documented: Any) -> None:
    """Show keywords in the signature and docstring of a function that is written with ``**keywords``.

    Parameters
    ----------
    fields
        The keywords, in the place of ``**keywords``.
    *documented
        Objects whose docstrings document them, see `completed`.
    """
    own = inspect.signature(function)
    named = [p for p in own.parameters.values() if p.kind is not p.VAR_KEYWORD]
    function.__signature__ = own.replace(parameters=[*named, *fields])
    documented_like(*documented)(function)


def refuse_unknown(function: Any, given: Mapping[str, Any]) -> None:
    """Raise the TypeError of a function whose keywords are shown, if it is given another one."""
    for name in given.keys() - function.__signature__.parameters.keys():
        raise TypeError(f"{function.__name__}() got an unexpected keyword argument {name!r}")


def documented_like(*others: Any) -> Callable[[F], F]:
    """Complete the docstring of a function or class by those of others, see `completed`."""

    def decorate(function: F) -> F:
        if function.__doc__:  # there is none in optimised mode
            shared, parameters = (
                [other.__doc__ or "" for other in others],
                inspect.signature(function).parameters,
            )
            function.__doc__ = completed(function.__doc__, shared, parameters.keys())
        return function

    return decorate


def completed(doc: str, shared: Sequence[str], parameters: Set[str]) -> str:
    """Return a docstring with the entries of others for what it does not say itself.

    Parameters
    ----------
    doc
        The docstring, with numpydoc sections.
    shared
        The others, of which the sections of parameters, results and exceptions count.
    parameters
        Names of the parameters that there are, in their order, as keys of a dict.
    """
    sections, filled = _sections(doc), []
    for title in _SHARED:
        entries = sections.pop(title, [])
        said, alone = (
            {name for entry in entries for name in _named(entry)},
            title == "Returns" and bool(entries),
        )
        for entry in (entry for other in shared for entry in _sections(other).get(title, ())):
            new = {*_named(entry)} - said
            if new and not alone and (title != "Parameters" or new & parameters):
                entries.append(entry)
                said |= new
        if title == "Parameters":
            place = {name: k for k, name in enumerate(parameters)}
            entries.sort(key=lambda entry: place.get(_named(entry)[0], len(place)))
        filled += [(title, entries)] if entries else []
    text = sections.pop("")
    filled += sections.items()
    return "\n\n".join([*text, *(f"{title}\n{'-' * len(title)}\n" + "\n".join(e) for title, e in filled)])


def _sections(doc: str) -> dict[str, list[str]]:
    """The entries of the numpydoc sections of a docstring by title, which the text before them lacks."""
    text, *parts = re.split(r"\n\n([A-Z]\w+)\n-{3,}\n", inspect.cleandoc(doc))
    entries = (re.split(r"\n(?=\S)", part) for part in parts[1::2])
    return {"": [text], **dict(zip(parts[::2], entries, strict=True))}


def _named(entry: str) -> list[str]:
    """The names that an entry documents."""
    return re.split(r", *", re.split(r" *:|\n", entry, maxsplit=1)[0])
