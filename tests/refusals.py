"""Tests of calls that are refused."""

import functools
import inspect

import pytest


def refuses(*cases, error=None):
    """Make a test of a function for every case: its last arguments, the exception that it raises, and what this says.

    With one `error` for all, cases have only the other two. The first arguments of the function are fixtures.
    """
    if error is not None:
        cases = [(*arguments, error, message) for *arguments, message in cases]

    def decorate(call):
        own = inspect.signature(call)
        names = [*list(own.parameters)[len(own.parameters) - len(cases[0]) + 2 :], "error", "message"]

        @pytest.mark.parametrize(names, cases)
        @functools.wraps(call)
        def test(error, message, **arguments):
            with pytest.raises(error, match=message):
                call(**arguments)

        added = [inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD) for name in names[-2:]]
        test.__signature__ = own.replace(parameters=[*own.parameters.values(), *added])
        return test

    return decorate


def wrong_arguments(calls, table, others=None):
    """Make two tests: of calls ``name: (function, arguments)`` that are right, and of changes that are refused.

    `others` are right as well, but take too long, or need data. A row of the table has the name of a call, the
    arguments that change, the exact exception, and words of its message.
    """

    @pytest.mark.parametrize("call", calls)
    def right(call):
        function, arguments = calls[call]
        assert function(**arguments) is not None

    @pytest.mark.parametrize(("call", "change", "error", "words"), table)
    def wrong(call, change, error, words):
        function, arguments = {**calls, **(others or {})}[call]
        with pytest.raises(error) as caught:
            function(**{**arguments, **change})
        assert caught.type is error
        assert words in str(caught.value)

    return right, wrong
