"""Whether a framework's callback decides what is trained, told by its code: calling it to see would let it log, too."""

from __future__ import annotations

import dis
from collections.abc import Iterator
from types import CodeType, FunctionType
from typing import Any

from findlr.search.objects import bound_in

_CALLS = ("requires_grad_", "add_param_group", "freeze", "unfreeze")  # what begins with the last two, too


def decides(callback: Any, base: type) -> bool:
    """Whether a callback's code sets ``requires_grad``, freezes or unfreezes something, or adds a param group.

    Its methods are looked through, the functions that it holds, and those that these name; not what comes after a step.

    Args:
        callback: one of a framework's.
        base: the framework's class of callbacks; what comes with the same package decides nothing of the kind.

    Example:
        >>> class Freezes(object):
        ...     def on_train_begin(self, model):
        ...         for parameter in model.body.parameters():
        ...             parameter.requires_grad = False
        >>> decides(Freezes(), object)
        True
    """
    package = base.__module__.partition(".")[0]
    own = [kind for kind in type(callback).__mro__ if kind.__module__.partition(".")[0] not in (package, "builtins")]
    methods = [value for kind in own for name, value in vars(kind).items() if not _comes_later(name)]
    todo = [*methods, *(value for name, value in vars(callback).items() if not _comes_later(name))]
    seen = set[int]()
    for each in todo:  # which grows
        function = getattr(each, "__func__", each)
        if not isinstance(function, FunctionType) or id(function) in seen:
            continue
        seen.add(id(function))
        if any(_is_decision(*each) for each in _names(function.__code__)):
            return True
        todo += bound_in(function).values()
    return False


def _comes_later(hook: str) -> bool:
    return (hook.startswith("on_") and hook.endswith("_end")) or hook == "teardown"


def _is_decision(operation: str, name: str) -> bool:
    return name.lstrip("_").startswith(_CALLS) or (operation == "STORE_ATTR" and name == "requires_grad")


def _names(code: CodeType) -> Iterator[tuple[str, str]]:
    """The names that a function uses, each with what it does to them, and those of the functions inside it."""
    for step in dis.get_instructions(code):
        if isinstance(step.argval, CodeType):
            yield from _names(step.argval)
        elif isinstance(step.argval, str) and not step.opname.endswith("CONST"):
            yield step.opname, step.argval
