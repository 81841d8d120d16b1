"""Batches of any nesting: moved to a device, copied, searched for tensors."""

from __future__ import annotations

import copy
import dataclasses
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch

from findlr.analysis.text import told
from findlr.errors import LoaderError
from findlr.torch.snapshot.stores import bytes_of


def moved(batch: Any, device: torch.device) -> Any:
    """``batch`` with every tensor in it on ``device``, whatever its nesting; the batch itself does not change.

    Lists, tuples, named tuples, mappings and dataclasses keep their type. Anything else that has ``.to`` moves itself.

    Raises:
        LoaderError: a part can't be moved; the message says which.
    """
    if type(batch) is list or type(batch) is tuple:
        for item in batch:
            if type(item) is not torch.Tensor or item.device != device:
                break
        else:
            return batch if type(batch) is tuple else list(batch)  # the most frequent case, at little cost
    return _moved(batch, device, "batch")


def _moved(value: Any, device: torch.device, where: str) -> Any:
    if isinstance(value, torch.Tensor) or (not isinstance(value, Mapping) and hasattr(value, "to")):
        try:
            return _sent(value, device)
        except Exception as error:
            raise LoaderError(
                f"the loader's {where}, of type {type(value).__name__}, can't be moved to {device} "
                f"({told(error)}): let the loader give tensors, or containers of them"
            ) from error
    return _rebuilt(value, lambda item, key: _moved(item, device, where + key))


def _sent(value: Any, device: torch.device) -> Any:
    """``value.to(device)``, for classes that take no ``non_blocking`` or move in place, too."""
    waits = device.type == "cpu"  # a host that does not would read what has not come yet
    if isinstance(value, torch.Tensor):
        return value.to(device, non_blocking=not waits)
    own = copy.copy(value)
    try:
        sent = own.to(device, non_blocking=not waits)
    except TypeError:
        sent = own.to(device)
    return own if sent is None else sent


def _rebuilt(value: Any, of: Callable[[Any, str], Any]) -> Any:
    """A container of the same type with ``of(item, key)`` in place of each item; anything else stays as it is."""
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(of(getattr(value, name), f".{name}") for name in value._fields))
    if isinstance(value, (list, tuple, deque)):
        items = [of(item, f"[{i}]") for i, item in enumerate(value)]
        return deque(items, value.maxlen) if isinstance(value, deque) else type(value)(items)
    if isinstance(value, Mapping):
        return _refilled(value, {key: of(item, f"[{key!r}]") for key, item in value.items()})
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        own = copy.copy(value)
        for field in dataclasses.fields(value):
            object.__setattr__(own, field.name, of(getattr(value, field.name), f".{field.name}"))  # frozen or not
        return own
    return value


def _refilled(value: Mapping[Any, Any], items: dict[Any, Any]) -> Any:
    """A mapping like ``value`` with these items: of its type if possible, otherwise a dict."""
    if type(value) is dict:
        return items
    try:
        own: Any = copy.copy(value)
        for key, item in items.items():
            own[key] = item
    except (TypeError, AttributeError):
        return items
    return own


def own(batch: Any) -> Any:
    """``batch`` in containers of its own, which may be taken apart; the tensors are the same."""
    return _rebuilt(batch, lambda item, _: own(item))


def mapped(change: Callable[[Any], Any], batch: Any) -> Any:
    """``batch`` with ``change(leaf)`` for whatever is no container; a tensor that asks for a gradient still does."""
    if isinstance(batch, torch.Tensor):
        changed = change(batch.detach())
        return changed.requires_grad_(batch.requires_grad) if isinstance(changed, torch.Tensor) else changed
    is_leaf = batch is (rebuilt := _rebuilt(batch, lambda item, _: mapped(change, item)))
    return change(batch) if is_leaf else rebuilt


def spare(batch: Any) -> Any:
    """``batch`` with a clone of whatever has one, such as a tensor or a graph: a loss may write into that."""
    return mapped(lambda leaf: leaf.clone() if callable(getattr(leaf, "clone", None)) else leaf, batch)


def tensors_in(batch: Any) -> Iterator[torch.Tensor]:
    """Every tensor in a batch, in order, also in objects of any class."""
    return (leaf for leaf in _leaves(batch, set()) if isinstance(leaf, torch.Tensor))


def _leaves(value: Any, seen: set[int]) -> Iterator[Any]:
    if isinstance(value, (torch.Tensor, str, bytes, int, float, type(None))):
        yield value
        return
    if id(value) in seen:
        return
    seen.add(id(value))
    inner: Any = ()
    if isinstance(value, Mapping):
        inner = value.values()
    elif isinstance(value, (list, tuple, deque, set, frozenset)):
        inner = value
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):  # may have slots
        inner = [getattr(value, field.name) for field in dataclasses.fields(value)]
    elif hasattr(value, "__dict__") and not isinstance(value, type):
        inner = vars(value).values()
    else:
        yield value
    for item in inner:
        yield from _leaves(item, seen)


def copied(batch: Any) -> Any:
    """A copy of ``batch`` that shares no memory with it.

    Raises:
        LoaderError: something in it can't be copied.
    """
    memo = {id(t): t.detach().clone().requires_grad_(t.requires_grad) for t in tensors_in(batch)}
    try:
        return copy.deepcopy(batch, memo)  # without the memo, a view would bring along all that it looks at
    except Exception as error:
        raise LoaderError(
            f"a batch can't be copied, so it could not come again ({told(error)}): let the iterator "
            "give tensors, or containers of them"
        ) from error


def bytes_in(batch: Any) -> int:
    """The bytes of the data in ``batch``: tensors, arrays, strings."""
    return sum(map(_size, _leaves(batch, set())))


def _size(leaf: Any) -> int:
    if isinstance(leaf, torch.Tensor):
        return bytes_of(leaf)
    size = len(leaf) if isinstance(leaf, (str, bytes)) else getattr(leaf, "nbytes", 0)
    return size if isinstance(size, int) else 0


def batch_size(batch: Any) -> int | None:
    """The leading dimension of the first tensor in ``batch``."""
    sizes = [tensor.size(0) for tensor in tensors_in(batch) if tensor.dim()]  # a nested one may have no shape
    return sizes[0] if sizes else None
