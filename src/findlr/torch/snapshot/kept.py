"""Tensors that functions and objects of the user's own keep by name or in a list: a queue, a centre, a hidden state."""

from __future__ import annotations

from collections import deque
from operator import is_
from types import FunctionType
from typing import Any

import torch

from findlr.search.objects import MOST_ITEMS, bind, bound_in, is_foreign, is_plain, refill

_NOTHING = object()


def holders_of(value: Any) -> list[Any]:
    """What of it may be given other tensors: a function's names, a small container, an object's attributes."""
    if isinstance(value, FunctionType):
        return [] if is_foreign(value.__module__ or "") else [value, vars(value)]
    if isinstance(value, (dict, list, deque)):
        return [value] if len(value) <= MOST_ITEMS else []
    return [vars(value)] if is_plain(value) and hasattr(value, "__dict__") else []


def kept_in(holder: Any) -> dict[Any, Any] | list[Any]:
    """What it keeps now, by its name or in its order."""
    if isinstance(holder, FunctionType):
        return bound_in(holder)
    return dict(holder) if isinstance(holder, dict) else list(holder)


def put_tensors(holder: Any, before: Any) -> None:
    """Give it back the tensors that it kept. What else it counts stays, and so does a list of numbers, such as a log.

    Example:
        >>> queue, counts = [torch.zeros(2)], {"calls": 1}
        >>> before = kept_in(queue), kept_in(counts)
        >>> queue.append(torch.ones(2))
        >>> counts.update(calls=2, last=torch.ones(2))
        >>> put_tensors(queue, before[0])
        >>> put_tensors(counts, before[1])
        >>> len(queue), counts
        (1, {'calls': 2})
    """
    now: Any = kept_in(holder)
    if isinstance(before, list):
        same = len(before) == len(now) and all(map(is_, before, now))
        if not same and any(_has_tensors(item, least_dims=1) for item in (*before, *now)):
            refill(holder, before)
        return
    for name in {**before, **now}:
        old, new = before.get(name, _NOTHING), now.get(name, _NOTHING)
        if old is not new and (_has_tensors(old) or _has_tensors(new)):
            _put(holder, name, old)


def _has_tensors(value: Any, least_dims: int = 0) -> bool:
    if isinstance(value, (tuple, list)):
        return any(_has_tensors(item, least_dims) for item in value)
    return isinstance(value, torch.Tensor) and value.dim() >= least_dims


def _put(holder: Any, name: Any, value: Any) -> None:
    if isinstance(holder, FunctionType):
        if value is not _NOTHING:  # else the name stood for nothing
            bind(holder, name, value)
    elif value is _NOTHING:
        del holder[name]
    else:
        holder[name] = value
