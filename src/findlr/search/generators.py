"""The random generators of a loader or a model: those that its objects hold, and those that its code names."""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Iterable, Iterator
from collections.abc import Set as AbstractSet
from contextlib import suppress
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np

from findlr.search.objects import (
    GENERATORS,
    MOST_ITEMS,
    MOST_OBJECTS,
    MOST_ORDER_BYTES,
    SHARED,
    SIMPLE,
    inside,
    is_small_array,
    names_in,
    shared_bytes,
    slots_of,
)
from findlr.search.whose import FOREIGN, home_of, is_foreign_function, is_plain

NAME_NONE = FOREIGN | {
    "findlr",
    *("lightning", "pytorch_lightning", "lightning_fabric", "lightning_utilities", "torchmetrics"),
    *("transformers", "accelerate", "peft", "trl", "huggingface_hub", "tokenizers", "ignite", "skorch"),
    *("fastai", "fastcore", "keras", "flax", "equinox", "optax", "torchvision", "timm"),
    *("pandas", "matplotlib", "PIL", "tqdm", "rich"),
}
"""Packages whose code names no generator of its own: a search of their modules found none. It draws from Python's
state, torch's or NumPy's. Going through their thousands of functions took a third of a search in Lightning."""
_CONTAINERS = (list, tuple, set, frozenset, deque, dict)
_WRAPPERS = (
    staticmethod,
    classmethod,
    property,
    functools.cached_property,
    functools.partial,
    functools.partialmethod,
    MethodType,
    BuiltinFunctionType,
    functools._lru_cache_wrapper,  # noqa: SLF001 - what lru_cache makes has no public name
)
_WRAPPED = ("__func__", "__self__", "__wrapped__", "fget", "func", "args", "keywords")


def generators_in(
    root: Any,
    holders: list[Any] | None = None,
    *,
    orders: bool = False,
    kinds: tuple[type, ...] = GENERATORS,
    simple: AbstractSet[type] = SIMPLE,
    modules: tuple[str, ...] = (),
    owners: tuple[type, ...] = (),
    but: Iterable[Any] = (),
) -> list[Any]:
    """The random generators that a loader holds, however deep: in its samplers, collate function, dataset, transforms.

    With them come those that the methods and functions of these name; see ``generators_named``.

    Args:
        root: what to look into; containers of more than 1,000 items are data, and left alone.
        holders: takes what else a pass may change: containers, such as a cache; what the attributes of objects are in,
            such as those of a dataset that counts its epochs; the memory of a count that workers share.
        orders: whether ``holders`` takes what may be the order of the examples, too, which people shuffle in place:
            longer lists, and arrays of whole numbers; and what a function or an object keeps in small arrays.
        kinds: the classes of generators.
        simple: classes of values that hold nothing.
        modules: the beginnings of modules whose objects are looked into, as the user's own are.
        owners: classes that are looked into, too, whose attributes are put back by somebody else.
        but: objects that are not looked into.

    Returns:
        The generators, each once.
    """
    found, seen, todo = [], set(map(id, but)), [root]
    holders = [] if holders is None else holders
    code: list[Any] = []  # without what names nothing, told without a call for each, because most have no other
    for value in todo:  # which grows
        kind = type(value)
        if kind in simple or id(value) in seen or isinstance(value, (type, ModuleType)):
            continue
        seen.add(id(value))
        held: Iterable[Any] = ()
        if isinstance(value, kinds):
            found.append(value)
        elif isinstance(value, _CONTAINERS):
            is_small = len(value) <= MOST_ITEMS
            held = () if not is_small else value.values() if isinstance(value, dict) else value
            holders += [value] if is_small and isinstance(value, (list, set, deque, dict)) else []
        elif kind.__module__ == SHARED:
            holders += shared_bytes(value)
        elif isinstance(value, (FunctionType, MethodType, BuiltinFunctionType, functools.partial)):
            held = [item for item, _ in inside(value, "")]
            homes = (value.__module__, getattr(value, "__globals__", {}).get("__name__", value.__module__))
            code += [] if {str(homes[0]).partition(".")[0], str(homes[1]).partition(".")[0]} <= NAME_NONE else [value]
        elif str(kind.__module__).startswith(modules) or isinstance(value, owners) or is_plain(value):
            held = (slots_of(value) | getattr(value, "__dict__", {})).values()
            holders += [vars(value)] if hasattr(value, "__dict__") and not isinstance(value, owners) else []
            code += [kind] if str(kind.__module__).partition(".")[0] not in NAME_NONE else []
        held_kinds = set(map(type, held))  # at once, because there may be hundreds of numbers
        holders += _orders_in(value, held) if orders and held_kinds & {list, np.ndarray} else ()
        if not simple >= held_kinds:
            todo.extend(held)  # not +=, of which a list of another class may make one of its own
        if len(seen) > MOST_OBJECTS:
            break
    return found + generators_named(code, kinds, simple, found, modules) if code else found


def _orders_in(owner: Any, held: Iterable[Any]) -> list[Any]:
    """What may be the order of the examples, or few of them, and no data; those in a container may be a batch."""
    is_container = isinstance(owner, _CONTAINERS)
    return [each for each in held if _is_order(each) or (not is_container and is_small_array(each))]


def _is_order(value: Any) -> bool:
    """Whether it is a long list, or an array of whole numbers that can be shuffled and is too small for the data."""
    if isinstance(value, list):
        return len(value) > MOST_ITEMS
    is_row = type(value) is np.ndarray and value.ndim == 1 and value.dtype.kind in "iu"  # no file that is mapped
    return is_row and value.flags.writeable and value.nbytes <= MOST_ORDER_BYTES


def names_none(module: str) -> bool:
    """Whether a module is of a package whose code names no generator of its own."""
    return module.partition(".")[0] in NAME_NONE


def generators_named(
    code: Iterable[Any],
    kinds: tuple[type, ...] = GENERATORS,
    simple: AbstractSet[type] = SIMPLE,
    but: Iterable[Any] = (),
    modules: tuple[str, ...] = (),
) -> list[Any]:
    """The random generators that classes and functions name, and what they call names, however deep.

    It goes where ``objects.inside`` stops: into methods, attributes of classes, functions of other modules. There only
    generators are looked for: they belong to whoever draws from them, and other things that code names may not.

    Args:
        code: classes and functions; those of the packages in ``NAME_NONE`` name nothing.
        kinds: the classes of generators.
        simple: classes of values that hold nothing.
        but: generators that are known.
        modules: the beginnings of modules whose objects are looked into, as the user's own are.

    Returns:
        The others, each once.

    Example:
        >>> def noisy(image, generator=np.random.default_rng(0)):
        ...     return image + generator.normal()
        >>> generators_named([noisy])
        [Generator(PCG64) at ...]
    """
    found, seen, todo = [], set(map(id, but)), list(code)
    for value in todo:  # which grows, so that what is near comes first
        if type(value) in simple or id(value) in seen:
            continue
        seen.add(id(value))
        with suppress(Exception):  # some objects, such as proxies, can't be looked at
            if isinstance(value, kinds):
                found.append(value)
            else:
                todo.extend(_named_by(value, modules))
        if len(seen) > MOST_OBJECTS:
            break
    return found


def _named_by(value: Any, modules: tuple[str, ...]) -> Iterable[Any]:
    """What code of any kind names, and what values hold that it names."""
    if isinstance(value, type):
        parts = (part for part in value.__mro__ if not names_none(str(part.__module__)))
        return [each for part in parts for each in vars(part).values()]
    if isinstance(value, FunctionType):
        return _named_by_function(value)
    if isinstance(value, _WRAPPERS):
        return [getattr(value, name) for name in _WRAPPED if hasattr(value, name)]
    if isinstance(value, _CONTAINERS):
        return () if len(value) > MOST_ITEMS else value.values() if isinstance(value, dict) else value
    if is_plain(value) or str(type(value).__module__).startswith(modules):
        return [type(value), *slots_of(value).values(), *getattr(value, "__dict__", {}).values()]
    return ()


def _named_by_function(function: FunctionType) -> Iterator[Any]:
    """What a function has in its closure, its defaults and its attributes, and the globals that it names."""
    if is_foreign_function(function):
        return
    yield from (*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values(), *vars(function).values())
    for cell in function.__closure__ or ():
        with suppress(ValueError):  # not bound yet
            yield cell.cell_contents
    if names_none(home_of(function) or ""):  # what it wraps may name some
        return
    names = names_in(function.__code__)
    for name in names & function.__globals__.keys():
        value = function.__globals__[name]
        if not isinstance(value, ModuleType):
            yield value
        elif not names_none(value.__name__):
            yield from (vars(value)[each] for each in names & vars(value).keys())
