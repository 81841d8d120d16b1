"""What a public call is given, looked at before anything is done: every refusal has the same form."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
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

from findlr.analysis.numbers import plain, real
from findlr.analysis.text import told
from findlr.errors import ConfigurationError, FileFormatError, FindlrError

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


def check_flags(**flags: Any) -> None:
    """Refuse what is neither True nor False, naming it: a text such as "no" would count as True.

    Raises:
        ConfigurationError: there is one.

    Example:
        >>> check_flags(verify="no")
        Traceback (most recent call last):
            ...
        findlr.errors.ConfigurationError: verify must be True or False, got 'no'
    """
    for name, flag in flags.items():
        if flag is not True and flag is not False and not isinstance(plain(flag), bool):
            raise ConfigurationError(f"{name} must be True or False, got {flag!r}")


def keep_numbers(whole: object, *names: str) -> None:
    """Keep these attributes of a value object as Python's numbers, whoever made them.

    Raises:
        ConfigurationError: one is no number.

    Example:
        >>> from types import SimpleNamespace
        >>> keep_numbers(SimpleNamespace(lr="0.1"), "lr")
        Traceback (most recent call last):
            ...
        findlr.errors.ConfigurationError: a SimpleNamespace's lr must be a number, got '0.1'
    """
    for name in names:
        value = getattr(whole, name)
        if type(value) in (int, float):
            continue
        if real(value) is None:
            raise ConfigurationError(f"a {type(whole).__name__}'s {name} must be a number, got {value!r}")
        object.__setattr__(whole, name, plain(value))  # its class is frozen


@contextmanager
def reading(kind: str) -> Iterator[None]:
    """Make what fails while plain values are read one clear error, whatever they lack, or are in place of a dict.

    Args:
        kind: what they describe.

    Raises:
        FileFormatError: they describe none.

    Example:
        >>> with reading("Plan"):
        ...     {}["schedule"]
        Traceback (most recent call last):
            ...
        findlr.errors.FileFormatError: these values are no Plan (KeyError: 'schedule'); give what to_dict() returned
    """
    try:
        yield
    except FindlrError:
        raise
    except (LookupError, TypeError, ValueError, ArithmeticError, AttributeError) as error:
        raise FileFormatError(f"these values are no {kind} ({told(error)}); give what to_dict() returned") from error


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
