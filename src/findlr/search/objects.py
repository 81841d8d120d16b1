"""Objects of any class: their slots, what they hold."""

from __future__ import annotations

import functools
import gc
import random
import sys
from collections import deque
from collections.abc import Iterable, Iterator, KeysView, Mapping
from contextlib import suppress
from contextvars import ContextVar
from inspect import CO_GENERATOR
from operator import is_
from types import (
    BuiltinFunctionType,
    CellType,
    CodeType,
    FunctionType,
    MappingProxyType,
    MethodType,
    ModuleType,
)
from typing import Any
from weakref import ref

import numpy as np

from findlr.search.whose import home_of, is_foreign, is_foreign_function, is_plain, is_users

MOST_ITEMS = 1_000  # of a container; a longer one is data
_MOST_CALLS = 8  # from a function to those of another file that are looked into: a package of the user's may be large
MOST_OBJECTS = 5_000  # that are looked at, in all
MOST_ORDER_BYTES = 1 << 26  # of an array that may be the order of the examples
SMALL_BYTES = 1 << 20  # of an array that is copied without asking whose it is
_MOST_DOTS = 3  # of modules inside modules, which may hold each other
GENERATORS = (np.random.Generator, np.random.BitGenerator, np.random.RandomState, random.Random)
_CODE = (type, FunctionType, staticmethod, classmethod, property)  # of a class: what it does, and keeps nothing by
_CONTAINERS = (dict, list, tuple, set, frozenset, deque, MappingProxyType)  # another mapping may make its items
CACHED = functools._lru_cache_wrapper  # noqa: SLF001 - what lru_cache makes has no public name
_MAKES = {"__init__", "__new__", "__post_init__", "__del__", "__repr__"}  # methods that no step calls
_INNER = ("__func__", "fget", "func")  # the function of a static method, a property, a cached one
BOXES = (CellType, ContextVar)  # which have one value each
SHARED = "multiprocessing.sharedctypes"
SIMPLE = {bool, int, float, str, bytes, type(None), np.ndarray}


def slots_of(value: Any) -> dict[str, Any]:
    """What an object's slots stand for, by name."""
    found = {}
    for kind in type(value).__mro__:
        slots = getattr(kind, "__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if name in ("__dict__", "__weakref__"):
                continue
            if name.startswith("__") and not name.endswith("__"):  # as Python mangles a private one
                name = f"_{kind.__name__.lstrip('_')}{name}"  # noqa: PLW2901
            if hasattr(value, name):
                found[name] = getattr(value, name)
    return found


def kept_by_class(kind: type) -> dict[str, Any]:
    """The attributes of a class of the user's or a package's that are no part of its code, by name."""
    if type(kind.__module__) is not str or is_foreign(kind.__module__):
        return {}
    return {name: each for name, each in vars(kind).items() if not (name[:2] == "__" or isinstance(each, _CODE))}


def set_slots(value: Any, slots: dict[str, Any]) -> None:
    """Give an object's slots these values, past what the class makes of setting one; the others stand for nothing."""
    for name in slots_of(value).keys() - slots.keys():
        object.__delattr__(value, name)
    for name, item in slots.items():
        object.__setattr__(value, name, item)


def inside(value: Any, place: str) -> Iterator[tuple[Any, str]]:
    """What a function, a container or an object holds, with its place."""
    if isinstance(value, functools.partial):
        yield from ((value.func, place), (value.args, f"{place}.args"), (value.keywords, f"{place}.keywords"))
    elif isinstance(value, (MethodType, BuiltinFunctionType)):
        yield from _inside_method(value, place)
    elif isinstance(value, (FunctionType, *BOXES, CACHED, ref)):
        yield from _inside_function(value, place)
    elif isinstance(value, _CONTAINERS):
        if len(value) <= (MOST_OBJECTS if isinstance(value, dict) else MOST_ITEMS):  # a dict may have weights
            items = value.items() if isinstance(value, Mapping) else enumerate(value)
            yield from ((item, f"{place}[{key!r}]") for key, item in items)
        yield from ((item, f"{place}.{name}") for name, item in getattr(value, "__dict__", {}).items())
    elif type(value).__module__ == SHARED:
        yield from ((memory, place) for memory in shared_bytes(value))
    elif isinstance(value, type):
        yield from _inside_class(value, place)
    elif is_plain(value):
        attributes = slots_of(value) | getattr(value, "__dict__", {})
        yield from ((item, f"{place}.{name}") for name, item in attributes.items())
        if is_users(type(value).__module__):  # its methods may use what its class keeps, and what they name
            yield type(value), f"{place}.__class__"


def _inside_method(method: Any, place: str) -> Iterator[tuple[Any, str]]:
    """What a method is bound to, and its function, which it lacks if its class is written in C."""
    yield method.__self__, f"{place}.self"
    if isinstance(method, MethodType):
        yield method.__func__, place


def _inside_class(kind: type, place: str) -> Iterator[tuple[Any, str]]:
    """What a class keeps; if it is the user's own, also its bases, the classes in it, and its methods."""
    yield from ((item, f"{place}.{name}") for name, item in kept_by_class(kind).items())
    if type(kind.__module__) is not str or not is_users(kind.__module__):
        return
    yield from ((base, f"{place}.__base__") for base in (*kind.__bases__, type(kind)) if is_users(str(base.__module__)))
    for name, each in vars(kind).items():
        method = next((getattr(each, inner) for inner in _INNER if getattr(each, inner, None) is not None), each)
        if isinstance(method, (FunctionType, type, CACHED)) and name not in _MAKES:
            yield method, f"{place}.{name}"


def _inside_function(function: Any, place: str) -> Iterator[tuple[Any, str]]:
    """A function's closure, defaults, attributes and globals that it names; what a cell, a cache or a reference has."""
    if isinstance(function, BOXES):
        with suppress(ValueError, LookupError):  # not bound yet
            yield function.get() if isinstance(function, ContextVar) else function.cell_contents, place
        return
    if isinstance(function, ref):
        yield function(), place
        return
    if isinstance(function, CACHED):  # only the garbage collector is told what it keeps
        held = (each for each in gc.get_referents(function) if not isinstance(each, type))
        yield from ((each, place) for each in held if each is not vars(function))
        return
    if is_foreign_function(function):
        return
    for i, default in enumerate((*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values())):
        yield default, f"{place}.default{i}"
    is_far = place.count(".") >= _MOST_CALLS
    for name, value in (*bound_in(function).items(), *vars(function).items()):
        if not (is_far and isinstance(value, (FunctionType, type)) and value.__module__ != function.__module__):
            yield value, f"{place}.{name}"


def bound_in(function: FunctionType) -> dict[str, Any]:
    """What the names in a function's closure, and the globals that it names, stand for; as ``named_in`` tells them."""
    found = {}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        with suppress(ValueError):  # not bound yet
            found[name] = cell.cell_contents
    return found | _in_modules(found, function.__code__) | named_in(function.__code__, function.__globals__)


def named_in(code: CodeType, names: Mapping[str, Any]) -> dict[str, Any]:
    """What the global names that a code uses stand for, and attributes of the user's own modules, such as ``a.b``.

    Libraries are left out.
    """
    found = {name: names[name] for name in names_in(code) if name in names}
    imported = names_in(code) & sys.modules.keys()  # by the function itself
    found |= {name: sys.modules[name] for name in imported if name not in names and is_users(name)}
    module = names.get("__name__")
    kept = {name: value for name, value in found.items() if not _is_librarys(value, module)}
    return kept if len(kept) == len(found) else kept | _in_modules(found, code)


def _in_modules(found: Mapping[str, Any], code: CodeType) -> dict[str, Any]:
    """What the attributes that a code names of these modules stand for, if they are the user's own."""
    attributes: dict[str, Any] = {}
    todo = [(name, value) for name, value in found.items() if isinstance(value, ModuleType)]
    for place, module in todo:  # which grows
        if is_users(module.__name__) and place.count(".") < _MOST_DOTS:
            named = {f"{place}.{name}": vars(module)[name] for name in names_in(code) & vars(module).keys()}
            attributes |= {name: value for name, value in named.items() if not _is_librarys(value, None)}
            todo += [(name, value) for name, value in named.items() if isinstance(value, ModuleType)]
    return attributes


def _is_librarys(value: Any, module: Any) -> bool:
    if isinstance(value, (FunctionType, type)):
        home = value.__module__ if isinstance(value, type) else home_of(value)  # None where it was made without one
        return bool(home != module) and not (isinstance(home, str) and is_users(home))
    return isinstance(value, ModuleType)


def bind(function: FunctionType | CellType | ContextVar[Any], name: str, value: Any) -> None:
    """Let a name in a function's closure, or a global that it names, stand for something else; or a box."""
    if isinstance(function, ContextVar):
        function.set(value)
        return
    if isinstance(function, CellType):
        function.cell_contents = value
        return
    name, *attributes = name.split(".")
    cells = dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=True))
    if attributes:
        module = cells[name].cell_contents if name in cells else function.__globals__.get(name, sys.modules.get(name))
        setattr(functools.reduce(getattr, attributes[:-1], module), attributes[-1], value)
    elif name in cells:
        cells[name].cell_contents = value
    else:
        function.__globals__[name] = value


@functools.lru_cache(4096)  # a library's classes have as many functions
def names_in(code: CodeType) -> KeysView[str]:
    """The global names that a function uses, each once."""
    return dict.fromkeys(global_names(code)).keys()


def global_names(code: CodeType) -> Iterable[str]:
    """The global names that a function uses, and those that the functions inside it use."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from global_names(constant)


def is_small_array(value: Any) -> bool:
    """Whether it is an array that is copied without asking whose it is; one in a file or of objects is left alone."""
    return is_small(value) and not value.dtype.hasobject


def is_small(value: Any) -> bool:
    """Whether it is such an array, or one of objects, such as a replay memory, of which the references are copied."""
    return is_array(value) and value.flags.writeable and value.nbytes <= SMALL_BYTES


def is_array(value: Any) -> bool:
    """Whether it is an array in memory, such as one of records, of which one copy holds all."""
    return isinstance(value, np.ndarray) and not isinstance(value, (np.memmap, np.ma.MaskedArray))


def shared_bytes(value: Any) -> list[Any]:
    """The memory of a number or a small array that processes share, such as a count of epochs for workers."""
    memory = np.frombuffer(getattr(value, "get_obj", lambda: value)(), np.uint8)
    return [memory] if memory.nbytes <= SMALL_BYTES else []


def refill(target: Any, items: Any) -> None:
    """Give the container ``target`` back its items, in their order."""
    target.clear()
    (target.update if isinstance(target, (dict, set)) else target.extend)(items)


def refill_if_changed(container: Any, items: Any) -> None:
    """Give a container back its items, if it has others; an array its numbers."""
    if isinstance(container, np.ndarray):
        if not np.array_equal(container, items):
            container[...] = items
        return
    same = len(container) == len(items) and all(map(is_, container, items))
    if same and isinstance(container, dict):
        same = all(map(is_, container.values(), items.values()))
    if not same:
        refill(container, items)


def starts_over(iterator: Iterator[Any]) -> bool:
    """Whether an iterator starts over where it is opened, and goes on as itself, as many loaders of one's own do.

    It is not opened to find out, because it may shuffle then. The code of its ``__iter__`` tells: one that goes on from
    where it stands only returns itself there, which takes no name and no call.

    Example:
        >>> class Shuffled:
        ...     def __iter__(self):
        ...         self.at = 0
        ...         return self
        ...     def __next__(self):
        ...         raise StopIteration
        >>> starts_over(Shuffled()), starts_over(iter([1]))
        (True, False)
    """
    opens = getattr(type(iterator).__iter__, "__code__", None)  # there is none where it is written in C
    return opens is not None and bool(opens.co_names or opens.co_flags & CO_GENERATOR)
