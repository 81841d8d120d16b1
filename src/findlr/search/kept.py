"""What functions and objects of the user's own keep by name or in a list: a queue, a centre, a hidden state, a teacher.

What else an object keeps beside tensors, arrays, modules or optimizers tells of them, such as how many of a pool are
used or how often an agent has learned, and belongs to them; so do its lists of numbers, such as rewards.
"""

from __future__ import annotations

import pickle
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from operator import is_
from types import FunctionType, MethodType
from typing import Any

import numpy as np

from findlr.search.generators import generators_named
from findlr.search.memory import Undo, undo_of_generator
from findlr.search.objects import (
    BOXES,
    CACHED,
    MOST_ITEMS,
    MOST_OBJECTS,
    SIMPLE,
    bind,
    bound_in,
    inside,
    is_small_array,
    kept_by_class,
    refill,
    slots_of,
)
from findlr.search.whose import is_foreign, is_foreign_function, is_plain

_MOST_KEPT = 100_000  # items of a container, such as a replay memory; they are not looked into past MOST_ITEMS
_MOST_NEAR = 4  # objects that are looked into to tell whether another one keeps tensors
_FUNCTIONS = (FunctionType, MethodType)
_PLAIN = SIMPLE - {np.ndarray}  # types that keep nothing
_NOTHING = object()

IsKept = Callable[[Any, int], bool]
"""``is_kept(value, least_dims)``: whether it is one of a framework's, or an array of so many dimensions at least."""


Put = Callable[[], bool]
"""Puts something back, and tells whether it had changed."""


class Kept:
    """What functions and objects of the user's own keep by name, in attributes and in containers, however deep.

    Args:
        is_kept: tells what is put back where it was replaced.
        is_known: whether a value is somebody else's to put back, and is not looked into.

    Example:
        >>> def step(batch, rng=np.random.default_rng(0), noises=np.zeros(2)):
        ...     noises[0] = rng.normal()
        >>> kept = Kept(lambda value, least_dims: isinstance(value, np.ndarray))
        >>> kept.reach(step)
        >>> puts = kept.puts()
        >>> step(None)
        >>> [put() for put in puts]
        [False, False, True, True]
        >>> step.__defaults__[1]
        array([0., 0.])
    """

    def __init__(self, is_kept: IsKept, is_known: Callable[[Any], bool] = lambda _: False) -> None:
        self._is_kept, self._is_known = is_kept, is_known
        self._seen = set[int]()
        self._holders: list[Any] = []
        self._arrays: list[Any] = []
        self._generators: list[Any] = []

    def reach(self, *roots: Any) -> None:
        """Look into these, too."""
        todo, code = list(roots), list[Any]()
        for value in todo:  # which grows
            if id(value) in self._seen or len(self._seen) > MOST_OBJECTS:
                continue
            self._seen.add(id(value))
            if str(type(value).__module__).startswith("findlr.") or self._is_known(value):
                continue
            if isinstance(value, np.ndarray):
                self._arrays += [value] if is_small_array(value) else []
            elif undo_of_generator(value) is not None:
                self._generators.append(value)
            else:
                self._holders += holders_of(value)
                todo += [item for item, _ in inside(value, "")]
                code.append(value if isinstance(value, FunctionType) else type(value))
        self._generators += generators_named(code, but=self._generators)

    def puts(self) -> list[Put]:
        """What puts back each thing as it is now."""
        owned = set[int]()
        holders = in_order(self._holders)
        puts: list[Put] = [partial(put_kept, each, kept_in(each), self._is_kept, owned) for each in holders]
        puts += [partial(_put_array, array, array.copy()) for array in self._arrays]
        for generator in self._generators:
            undo, _ = undo_of_generator(generator) or (None, "")
            assert undo is not None
            puts.append(partial(_put_generator, generator, pickle.dumps(generator), undo))
        return puts


class AttributesOf:
    """The attributes of a function or of a container, which are put back as an object's are."""

    __slots__ = ("__dict__", "__owner")

    def __init__(self, owner: Any) -> None:
        self.__owner = owner  # whose items belong to them
        self.__dict__ = vars(owner)


def in_order(holders: Iterable[Any]) -> list[Any]:
    """Objects first, because containers that they hold are put back whole."""
    return sorted(holders, key=is_container)


def holders_of(value: Any) -> list[Any]:
    """What of it may be given other tensors: a function and its attributes, a small container, an object, a class."""
    if isinstance(value, FunctionType):
        return [] if is_foreign_function(value) else [value, AttributesOf(value)]
    if is_container(value):
        attributes = [AttributesOf(value)] if type(value).__dictoffset__ else []
        return [value, *attributes] if len(value) <= _MOST_KEPT else attributes
    if isinstance(value, type):
        return [] if is_foreign(str(value.__module__)) else [value]
    if isinstance(value, CACHED):  # one without a bound has a dict, which is a holder
        return [value] if value.cache_parameters()["maxsize"] else []
    return [value] if is_object(value) or isinstance(value, BOXES) else []


def kept_in(holder: Any) -> dict[Any, Any] | list[Any]:
    """What it keeps now, by its name or in its order."""
    if isinstance(holder, FunctionType):
        return bound_in(holder)
    if isinstance(holder, type):
        return kept_by_class(holder)
    if isinstance(holder, CACHED):
        return [each for each, _ in inside(holder, "")] if holder.cache_info().currsize else []
    if isinstance(holder, BOXES):
        return {place: value for value, place in inside(holder, "")}
    if is_object(holder):
        return slots_of(holder) | getattr(holder, "__dict__", {})
    return dict(holder) if isinstance(holder, dict) else list(holder)


def put_kept(holder: Any, before: Any, is_kept: IsKept | None, owned: set[int] | None = None) -> bool:
    """Give it back the tensors, arrays, modules and optimizers that it kept, and all that an object keeps beside them.

    Objects that hold such are given back, too. What else it counts stays, and so does a list of numbers, such as a log,
    that is no such object's.

    Args:
        holder: a function, a container, an object or a class.
        before: what ``kept_in`` told of it.
        is_kept: tells what is put back where it was replaced; None: all is.
        owned: the ids of the containers of such objects, which are put back whole; takes those of this one.

    Returns:
        Whether it had others.

    Example:
        >>> is_array = lambda value, least_dims: isinstance(value, np.ndarray) and value.ndim >= least_dims
        >>> queue, counts = [np.zeros(2)], {"calls": 1}
        >>> before = kept_in(queue), kept_in(counts)
        >>> queue.append(np.ones(2))
        >>> counts.update(calls=2, last=np.ones(2))
        >>> put_kept(queue, before[0], is_array), put_kept(counts, before[1], is_array)
        (True, True)
        >>> len(queue), counts
        (1, {'calls': 2})
    """
    owned = set() if owned is None else owned
    now: Any = kept_in(holder)
    if isinstance(holder, CACHED):
        return _put_cache(holder, before, now, is_kept)
    is_owned = id(holder) in owned and not isinstance(holder, FunctionType)
    if isinstance(before, list):
        owned.update(map(id, before) if is_owned else ())
        return _put_items(holder, before, now, is_kept, is_owned=is_owned)
    whole = (is_object(holder) or isinstance(holder, type)) and any(
        _keeps(value, is_kept, most=_MOST_NEAR)
        for value in {id(each): each for each in (*before.values(), *now.values())}.values()
    )
    owned.update(map(id, before.values() if is_owned else filter(is_container, before.values()) if whole else ()))
    is_changed = False
    for name in {**before, **now}:
        old, new = before.get(name, _NOTHING), now.get(name, _NOTHING)
        is_function = isinstance(old, _FUNCTIONS) or isinstance(new, _FUNCTIONS)
        if old is not new and (is_owned or whole or is_function or _keeps(old, is_kept) or _keeps(new, is_kept)):
            _put(holder, name, old)
            is_changed = True
    return _put_order(holder, before, is_kept, is_owned=is_owned) or is_changed


def _put_items(holder: Any, before: list[Any], now: list[Any], is_kept: IsKept | None, *, is_owned: bool) -> bool:
    same = len(before) == len(now) and all(map(is_, before, now))
    may_be_log = len(before) != len(now) and getattr(holder, "maxlen", None) is None  # of numbers in tensors
    if same or not (is_owned or any(_keeps(item, is_kept, int(may_be_log)) for item in (*before, *now))):
        return False
    refill(holder, before)
    return True


def _put_order(holder: Any, before: dict[Any, Any], is_kept: IsKept | None, *, is_owned: bool) -> bool:
    """Give a dict that keeps such its order again, by which a memory may tell what was used last."""
    if not isinstance(holder, dict) or all(map(is_, before, holder)) or before.keys() != holder.keys():
        return False
    if not (is_owned or any(_keeps(value, is_kept) for value in before.values())):
        return False
    refill(holder, {name: holder[name] for name in before})
    return True


def took_kept(before: Any, now: Any, is_kept: IsKept | None) -> bool:
    """Whether a cache has taken what is kept meanwhile, as ``kept_in`` tells it."""
    had = set(map(id, before))
    return any(id(each) not in had and _keeps(each, is_kept) for each in now)


def _put_cache(cache: Any, before: Any, now: Any, is_kept: IsKept | None) -> bool:
    """Empty a cache with a bound, if it was empty: nothing else can be taken out of it."""
    if before or not took_kept(before, now, is_kept):
        return False
    cache.cache_clear()
    return True


def is_container(value: Any) -> bool:
    """Whether it is a container that can be given other items."""
    return isinstance(value, (dict, list, deque, set, bytearray))


def is_object(value: Any) -> bool:
    """Whether it keeps what it keeps in attributes, and its class is none of Python's own or torch's."""
    return is_plain(value) and not is_container(value)


def _keeps(value: Any, is_kept: IsKept | None, least_dims: int = 0, most: int = MOST_ITEMS) -> bool:
    """Whether it is to be put back where it was replaced: something that is kept, or what holds such."""
    if is_kept is None:
        return True
    todo, seen = [value], set[int]()
    for each in todo:  # which grows
        if type(each) in _PLAIN:
            continue
        if isinstance(each, (tuple, list, deque, set, dict)):
            if id(each) not in seen:  # a list may hold itself
                seen.add(id(each))
                todo += each.values() if isinstance(each, dict) else each
        elif is_kept(each, least_dims) or undo_of_generator(each) is not None:
            return True
        elif id(each) not in seen and len(seen) < most and is_object(each):
            seen.add(id(each))
            attributes: Any = kept_in(each)
            todo += attributes.values()
    return False


def _put(holder: Any, name: Any, value: Any) -> None:
    if isinstance(holder, (FunctionType, *BOXES)):
        if value is not _NOTHING:  # else the name stood for nothing
            bind(holder, name, value)
        return
    if isinstance(holder, type):
        delattr(holder, name) if value is _NOTHING else setattr(holder, name, value)
        return
    names = holder if isinstance(holder, dict) else getattr(holder, "__dict__", {})
    if name not in names and is_object(holder):  # it may be a slot, and past what the class makes of setting one
        object.__delattr__(holder, name) if value is _NOTHING else object.__setattr__(holder, name, value)
    elif value is _NOTHING:
        del names[name]
    else:
        names[name] = value


def _put_array(array: Any, before: Any) -> bool:
    is_changed: bool = array.tobytes() != before.tobytes()
    if is_changed:
        array[...] = before
    return is_changed


def _put_generator(generator: Any, before: bytes, undo: Undo) -> bool:
    is_changed = pickle.dumps(generator) != before
    if is_changed:
        undo()
    return is_changed
