"""What functions and objects of the user's own keep by name or in a list: a queue, a centre, a hidden state, a teacher.

The numbers of an object that keeps tensors, arrays, modules or optimizers tell of them, such as how many of a pool are
used or how often an agent has learned, and belong to them.
"""

from __future__ import annotations

from collections import deque
from operator import is_
from types import FunctionType
from typing import Any

import numpy as np
import torch
from torch import nn

from findlr.search.objects import MOST_ITEMS, bind, bound_in, is_foreign, is_plain, refill

_NOTHING = object()
_NUMBERS = {bool, int, float, str, type(None), object}
_KEPT = (nn.Module, torch.optim.Optimizer, np.ndarray)


def holders_of(value: Any) -> list[Any]:
    """What of it may be given other tensors: a function and its attributes, a small container, an object."""
    if isinstance(value, FunctionType):
        return [] if is_foreign(value.__module__ or "") else [value, vars(value)]
    if isinstance(value, (dict, list, deque)):
        return [value] if len(value) <= MOST_ITEMS else []
    return [value] if _is_object(value) else []


def kept_in(holder: Any) -> dict[Any, Any] | list[Any]:
    """What it keeps now, by its name or in its order."""
    if isinstance(holder, FunctionType):
        return bound_in(holder)
    if _is_object(holder):
        return dict(vars(holder))
    return dict(holder) if isinstance(holder, dict) else list(holder)


def put_kept(holder: Any, before: Any) -> None:
    """Give it back the tensors, arrays, modules and optimizers that it kept, and an object's numbers with them.

    What else it counts stays, and so does a list of numbers, such as a log.

    Example:
        >>> queue, counts = [torch.zeros(2)], {"calls": 1}
        >>> before = kept_in(queue), kept_in(counts)
        >>> queue.append(torch.ones(2))
        >>> counts.update(calls=2, last=torch.ones(2))
        >>> put_kept(queue, before[0])
        >>> put_kept(counts, before[1])
        >>> len(queue), counts
        (1, {'calls': 2})
    """
    now: Any = kept_in(holder)
    if isinstance(before, list):
        same = len(before) == len(now) and all(map(is_, before, now))
        if not same and any(_keeps(item, least_dims=1) for item in (*before, *now)):
            refill(holder, before)
        return
    whole = _is_object(holder) and any(map(_keeps, (*before.values(), *now.values())))
    for name in {**before, **now}:
        old, new = before.get(name, _NOTHING), now.get(name, _NOTHING)
        numbers = whole and all(type(each) in _NUMBERS or isinstance(each, np.generic) for each in (old, new))
        if old is not new and (numbers or _keeps(old) or _keeps(new)):
            _put(holder, name, old)


def _is_object(value: Any) -> bool:
    return is_plain(value) and not isinstance(value, (dict, list, deque)) and hasattr(value, "__dict__")


def _keeps(value: Any, least_dims: int = 0) -> bool:
    if isinstance(value, (tuple, list, deque, dict)):
        return any(_keeps(item, least_dims) for item in (value.values() if isinstance(value, dict) else value))
    return isinstance(value, _KEPT) or (isinstance(value, torch.Tensor) and value.dim() >= least_dims)


def _put(holder: Any, name: Any, value: Any) -> None:
    if isinstance(holder, FunctionType):
        if value is not _NOTHING:  # else the name stood for nothing
            bind(holder, name, value)
        return
    names = vars(holder) if _is_object(holder) else holder
    if value is _NOTHING:
        del names[name]
    else:
        names[name] = value
