"""What a call changes in what functions and objects of the user's own keep, undone where it must not act twice."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from operator import is_
from typing import Any, TypeVar

from findlr.search.kept import is_container, is_object, kept_in, put_kept

_T = TypeVar("_T")


class Effects:
    """Undoes what calls count and keep in functions, containers, objects and classes.

    Most of it stays as it is, and there may be thousands of them at each step: so those are only compared.

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
        kinds: tuple[list[Any], ...] = ([], [], [], [])
        for each in holders:
            keeps_in_dict = is_object(each) and not _has_slots(type(each))
            is_looked_at = (isinstance(each, dict), keeps_in_dict, is_container(each), True)
            kinds[is_looked_at.index(True)].append(each)
        self._dicts, self._objects, self._lists, self._others = kinds

    def undone(self, measure: Callable[[], _T]) -> _T:
        """What ``measure`` gives, with nothing counted or kept meanwhile."""
        before = [dict(each) if isinstance(each, dict) else list(each) for each in self._contents()]
        others = list(map(kept_in, self._others))
        try:
            return measure()
        finally:
            holders = (*self._dicts, *self._objects, *self._lists)
            looked_at = zip(holders, before, map(_same, self._contents(), before), strict=True)
            changed = [(holder, kept) for holder, kept, is_same in looked_at if not is_same]
            for holder, kept in (*changed, *zip(self._others, others, strict=True)):
                put_kept(holder, kept, is_kept=None)

    def _contents(self) -> list[Any]:
        return [*self._dicts, *map(vars, self._objects), *self._lists]


def _has_slots(kind: type) -> bool:
    return not kind.__dictoffset__ or any(getattr(each, "__slots__", ()) for each in kind.__mro__)


def _same(now: Any, before: Any) -> bool:
    """Whether it has the same items in the same order."""
    if len(now) != len(before) or not all(map(is_, now, before)):
        return False
    return not isinstance(now, dict) or all(map(is_, now.values(), before.values()))
