"""Whose objects and functions are: the user's, a package's, or Python's, torch's and NumPy's own."""

from __future__ import annotations

import functools
import sys
import threading
from pathlib import Path
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType, SimpleNamespace
from typing import Any

# Modules whose objects are the user's to change.
HOLDS_THE_USERS = {"collections", "weakref", "argparse", "torch.quasirandom"}
FOREIGN = {*sys.stdlib_module_names, "torch", "numpy", "jax", "jaxlib"} - {"__main__"}  # whose objects are left alone


def is_plain(value: Any) -> bool:
    """Whether an object is of a class of the user's or a package's, not of Python's own or torch's."""
    if isinstance(value, (type, ModuleType, FunctionType, MethodType, BuiltinFunctionType)):
        return False
    kind = type(value)
    if type(kind.__module__) is not str:  # of a class in Cython, whose functions have one each
        return False
    if kind.__module__ in HOLDS_THE_USERS or kind in (SimpleNamespace, threading.local):
        return True
    return not is_foreign(kind.__module__)


def is_foreign(module: str) -> bool:
    """Whether a module is Python's own, torch's or NumPy's."""
    return module.partition(".")[0] in FOREIGN


@functools.cache
def is_users(module: str) -> bool:
    """Whether a module is the user's own: none of Python's, torch's, NumPy's or findlr's, and no package's."""
    if is_foreign(module) or module.partition(".")[0] == "findlr":
        return False
    file = getattr(sys.modules.get(module), "__file__", None) or ""
    return not {"site-packages", "dist-packages"}.intersection(Path(file).parts)


def home_of(function: Any) -> Any:
    """The module of a function or class: where the user wrote it; ``wraps`` gives a function the name of another."""
    written = getattr(function, "__globals__", {}).get("__name__")
    return written if isinstance(written, str) and is_users(written) else function.__module__


def is_foreign_function(function: FunctionType) -> bool:
    """Whether a function is Python's own, torch's or NumPy's."""
    written = function.__globals__.get("__name__")
    is_named_so = (function.__module__ or "").partition(".")[0] in FOREIGN
    return is_named_so and not (isinstance(written, str) and is_users(written))
