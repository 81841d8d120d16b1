"""Objects of any class: whose they are, and their slots."""

from __future__ import annotations

import sys
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType, SimpleNamespace
from typing import Any

_FOREIGN = {*sys.stdlib_module_names, "torch", "numpy"} - {"__main__"}  # whose objects are left alone


def is_plain(value: Any) -> bool:
    """Whether an object is of a class of the user's or a package's, not of Python's own or torch's."""
    if isinstance(value, (type, ModuleType, FunctionType, MethodType, BuiltinFunctionType)):
        return False
    kind = type(value)
    if kind.__module__ == "collections" or kind is SimpleNamespace:  # they hold what is the user's
        return True
    return not is_foreign(kind.__module__)


def is_foreign(module: str) -> bool:
    """Whether a module is Python's own, torch's or NumPy's."""
    return module.partition(".")[0] in _FOREIGN


def slots_of(value: Any) -> list[str]:
    """The names of an object's slots."""
    found = [getattr(kind, "__slots__", ()) for kind in type(value).__mro__]
    names = [name for slots in found for name in ((slots,) if isinstance(slots, str) else slots)]
    return [name for name in names if name not in ("__dict__", "__weakref__")]


def set_slots(value: Any, slots: dict[str, Any]) -> None:
    """Give an object's slots these values."""
    for name, item in slots.items():
        setattr(value, name, item)
