"""What a call changes in what functions and objects of the user's own keep, undone where it must not act twice."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from operator import is_
from types import CellType, FunctionType, ModuleType
from typing import Any, TypeVar

from findlr.search.kept import AttributesOf, is_container, is_object, kept_in, put_kept
from findlr.search.objects import names_in
from findlr.search.whose import is_users

_T = TypeVar("_T")
_NOTHING = object()


class Effects:
    """Undoes what calls count and keep in functions, containers, objects and classes.

    There may be thousands of them, at each step, and most stay as they are: so they are only compared.

    Args:
        holders: all that may be changed.

    Example:
        >>> calls = []
        >>> effects = Effects([calls])
        >>> effects.undone(lambda: calls.append(1) or len(calls))
        1
        >>> calls
        []
    """

    def __init__(self, holders: Iterable[Any]) -> None:
        kinds: tuple[list[Any], ...] = ([], [], [], [], [])
        for each in holders:
            holder = vars(each) if isinstance(each, AttributesOf) else each
            is_function, is_dict = isinstance(holder, FunctionType), isinstance(holder, dict)
            keeps_in_dict = is_object(holder) and not _has_slots(type(holder))
            is_kind = (is_function, is_dict, keeps_in_dict, is_container(holder), True)
            kinds[is_kind.index(True)].append(holder)
        functions, self._dicts, self._objects, self._lists, self._others = kinds
        self._names = Names(functions)

    def undone(self, measure: Callable[[], _T]) -> _T:
        """What ``measure`` gives, with nothing counted or kept meanwhile."""
        before = [dict(each) if isinstance(each, dict) else list(each) for each in self._contents()]
        names, others = self._names.bound(), list(map(kept_in, self._others))
        try:
            return measure()
        finally:
            self._names.bind(names)
            holders = (*self._dicts, *self._objects, *self._lists)
            looked_at = zip(holders, before, map(_same, self._contents(), before), strict=True)
            changed = [(holder, kept) for holder, kept, is_same in looked_at if not is_same]
            for holder, kept in (*changed, *zip(self._others, others, strict=True)):
                put_kept(holder, kept, is_kept=None)

    def _contents(self) -> list[Any]:
        return [*self._dicts, *map(vars, self._objects), *self._lists]


class Names:
    """What the names that functions use stand for: in their closures, their globals, and modules of the user's own.

    Args:
        functions: of the user's own; many may use the same names.

    Example:
        >>> def counter(count=0):
        ...     def counted():
        ...         nonlocal count
        ...         count += 1
        ...         return count
        ...     return counted
        >>> counted = counter()
        >>> names = Names([counted])
        >>> bound = names.bound()
        >>> counted(), names.bind(bound), counted()
        (1, None, 1)
    """

    def __init__(self, functions: Sequence[FunctionType]) -> None:
        cells = {id(cell): cell for function in functions for cell in function.__closure__ or ()}
        self._cells = list(cells.values())
        used: dict[int, tuple[dict[str, Any], set[str]]] = {}  # namespaces, and the names that are looked up in each
        for function in functions:
            space = function.__globals__
            used.setdefault(id(space), (space, set()))[1].update(names_in(function.__code__))
        every = set[str]().union(*(names for _, names in used.values()))
        modules = [*self._contents(), *(sys.modules[name] for name in every & sys.modules.keys())]  # imported inside
        for space, names in list(used.values()):
            modules += [space[name] for name in names & space.keys()]
        for module in modules:  # which grows
            if isinstance(module, ModuleType) and is_users(module.__name__) and id(vars(module)) not in used:
                space = vars(module)
                used[id(space)] = space, every & space.keys()
                modules += [space[name] for name in every & space.keys()]
        self._spaces = [(space, list(names)) for space, names in used.values()]

    def bound(self) -> tuple[list[Any], list[list[Any]]]:
        """What they stand for now: the closures' names, and the others."""
        return self._contents(), [[space.get(name, _NOTHING) for name in names] for space, names in self._spaces]

    def bind(self, before: tuple[list[Any], list[list[Any]]]) -> None:
        """Let them stand for that again; a name that stood for nothing stays."""
        for cell, value, now in zip(self._cells, before[0], self._contents(), strict=True):
            if value is not now and value is not _NOTHING:
                cell.cell_contents = value
        for (space, names), values in zip(self._spaces, before[1], strict=True):
            pairs = zip(names, values, strict=True)
            changed = {name: value for name, value in pairs if space.get(name, _NOTHING) is not value}
            space.update({name: value for name, value in changed.items() if value is not _NOTHING})

    def _contents(self) -> list[Any]:
        return list(map(_content, self._cells))


def _content(cell: CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not bound yet
        return _NOTHING


def _has_slots(kind: type) -> bool:
    return not kind.__dictoffset__ or any(getattr(each, "__slots__", ()) for each in kind.__mro__)


def _same(now: Any, before: Any) -> bool:
    """Whether it has the same items in the same order."""
    if len(now) != len(before) or not all(map(is_, now, before)):
        return False
    return not isinstance(now, dict) or all(map(is_, now.values(), before.values()))
