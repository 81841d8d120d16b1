"""What a public call is given, looked at before anything is done: every refusal has the same form."""

from __future__ import annotations

from inspect import (
    CO_ASYNC_GENERATOR,
    CO_COROUTINE,
    CO_GENERATOR,
    isasyncgenfunction,
    iscoroutinefunction,
    isgeneratorfunction,
    signature,
)
from types import FunctionType
from typing import Any, TypeVar

from findlr.errors import ConfigurationError

_T = TypeVar("_T")
_LATER = CO_COROUTINE | CO_GENERATOR | CO_ASYNC_GENERATOR  # flags of a function whose call does not run it


def of_kind(given: Any, kind: type[_T], name: str, advice: str) -> _T:
    """What is given, if it is of that kind.

    Args:
        given: the user's.
        kind: what it must be.
        name: what it is called in the message.
        advice: what to do, for the message.

    Raises:
        ConfigurationError: it is something else.

    Example:
        >>> of_kind("run.json", dict, "settings", "give a dict")
        Traceback (most recent call last):
            ...
        findlr.errors.ConfigurationError: settings must be a dict, got str: give a dict
    """
    if isinstance(given, kind):
        return given
    article = "an" if kind.__name__[0] in "AEIOaeio" else "a"
    raise ConfigurationError(f"{name} must be {article} {kind.__name__}, got {kind_of(given)}: {advice}")


def kind_of(given: Any) -> str:
    """What something is, in a message: the name of its class, which may have been given itself."""
    return f"the class {given.__name__} itself" if isinstance(given, type) else type(given).__name__


def check_takes(function: Any, name: str, *given: str) -> None:
    """Refuse a function that can't be called with as many arguments as it will be, or whose call does not run it.

    Args:
        function: the user's; one that tells no signature passes.
        name: what it is called in the message.
        given: the names of the arguments that it is given, in order.

    Raises:
        ConfigurationError: it is none, takes fewer, or needs more; or it is async or a generator function.

    Example:
        >>> check_takes(lambda model, x, y: 0, "loss_fn", "model", "batch")
        Traceback (most recent call last):
            ...
        findlr.errors.ConfigurationError: loss_fn is called as loss_fn(model, batch), and this one takes (model, x, y)
    """
    if isinstance(function, FunctionType):  # this takes fewer calls
        code = function.__code__
        if code.co_argcount == len(given) and not code.co_flags & _LATER:
            return
    if not callable(function):
        raise ConfigurationError(
            f"{name} must be a function, called as {name}({', '.join(given)}), got {kind_of(function)}"
        )
    if iscoroutinefunction(function) or isgeneratorfunction(function) or isasyncgenfunction(function):
        kind = "a generator" if isgeneratorfunction(function) else "an async"
        raise ConfigurationError(f"{name} is {kind} function, and a call alone does not run that: give a plain one")
    try:
        taken = signature(function, follow_wrapped=False)
    except (TypeError, ValueError):
        return
    try:
        taken.bind(*given)
    except TypeError:
        names = f"({', '.join(taken.parameters)})"
        raise ConfigurationError(
            f"{name} is called as {name}({', '.join(given)}), and this one takes {names}"
        ) from None
