"""What a function can reach: the modules, optimizers and tensors that only its closure, its object or its globals hold.

A head that only ``loss_fn`` knows, a teacher, a learned variance, a second optimizer: a step changes them all the same.
"""

from __future__ import annotations

import functools
import gc
import random
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.amp.grad_scaler import GradScaler
from torch.optim.lr_scheduler import LRScheduler

from findlr.torch.snapshot.objects import is_foreign, is_plain

_MOST_ITEMS = 1_000  # of a container; a longer one is data
_MOST_OBJECTS = 5_000  # that are looked at, in all
_GENERATORS = (torch.Generator, np.random.Generator, np.random.RandomState, random.Random)


@dataclass
class Reached:
    """What was found, each once.

    Args:
        modules: outermost ones.
        optimizers: torch's.
        statefuls: gradient scalers and schedulers.
        tensors: that are no module's; the user's own data may be among them.
        generators: random ones.
        numbers: numbers and texts by their place, such as a counter's.
    """

    modules: list[nn.Module] = field(default_factory=list)
    optimizers: list[torch.optim.Optimizer] = field(default_factory=list)
    statefuls: list[Any] = field(default_factory=list)
    tensors: list[torch.Tensor] = field(default_factory=list)
    generators: list[Any] = field(default_factory=list)
    numbers: dict[str, Any] = field(default_factory=dict)


def reached_from(*roots: Any) -> Reached:
    """What ``roots`` can reach: functions, bound methods, partials, objects and containers.

    Args:
        roots: what to start from; None is nothing.

    Returns:
        What was found. Modules are not looked into: what they hold is theirs.
    """
    found, seen = Reached(), set[int]()
    todo = deque((root, f"{i}") for i, root in enumerate(roots) if root is not None)
    while todo and len(seen) < _MOST_OBJECTS:
        value, place = todo.popleft()
        if isinstance(value, (bool, int, float, str, type(None))):
            found.numbers[place] = value
            continue
        if id(value) in seen:
            continue
        seen.add(id(value))
        if not _sort(value, found):
            todo += _inside(value, place)
    return found


def _sort(value: Any, found: Reached) -> bool:
    """Keep what is looked for; whether ``value`` was that, so that nothing inside it is looked at."""
    kinds: tuple[tuple[Any, list[Any]], ...] = (
        (nn.Module, found.modules),
        (torch.optim.Optimizer, found.optimizers),
        ((GradScaler, LRScheduler), found.statefuls),
        (torch.Tensor, found.tensors),
        (_GENERATORS, found.generators),
    )
    for kind, kept in kinds:
        if isinstance(value, kind):
            kept.append(value)
            return True
    return False


def _inside(value: Any, place: str) -> Iterator[tuple[Any, str]]:
    """What a function, a container or an object holds, with its place."""
    if isinstance(value, MethodType):
        yield from ((value.__self__, f"{place}.self"), (value.__func__, place))
    elif isinstance(value, functools.partial):
        yield from ((value.func, place), (value.args, f"{place}.args"), (value.keywords, f"{place}.keywords"))
    elif isinstance(value, FunctionType):
        yield from _inside_function(value, place)
    elif isinstance(value, (Mapping, list, tuple, set, frozenset, deque)):
        if len(value) <= _MOST_ITEMS:
            items = value.items() if isinstance(value, Mapping) else enumerate(value)
            yield from ((item, f"{place}[{key!r}]") for key, item in items)
    elif is_plain(value) and hasattr(value, "__dict__"):
        yield from ((item, f"{place}.{name}") for name, item in list(vars(value).items()))


def _inside_function(function: FunctionType, place: str) -> Iterator[tuple[Any, str]]:
    """A function's closure, defaults, and the globals that it names."""
    if is_foreign(function.__module__ or ""):
        return
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            yield cell.cell_contents, f"{place}.{name}"
        except ValueError:  # not bound yet
            continue
    for i, default in enumerate((*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values())):
        yield default, f"{place}.default{i}"
    for name in _global_names(function.__code__):
        value = function.__globals__.get(name)
        if isinstance(value, FunctionType) and value.__module__ != function.__module__:
            continue  # a library's
        if not isinstance(value, (ModuleType, type, type(None))):
            yield value, f"{place}.{name}"


def _global_names(code: CodeType) -> Iterable[str]:
    """The global names that a function uses, and those that the functions inside it use."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _global_names(constant)


_SIMPLE = {bool, int, float, str, bytes, type(None), torch.Tensor, np.ndarray, torch.device, torch.dtype}


def generators_in(root: Any, holders: list[Any] | None = None) -> list[Any]:
    """The random generators that a loader holds, however deep: in its samplers, collate function, dataset, transforms.

    Args:
        root: what to look into; containers of more than 1,000 items are data, and left alone.
        holders: takes what else a pass may change: containers, such as a cache, and what the attributes of objects
            are in, such as those of a dataset that counts its epochs.

    Returns:
        Generators of Python's, NumPy's and torch's, each once.
    """
    found, seen, todo = [], set[int](), [root]
    holders = [] if holders is None else holders
    for value in todo:  # which grows
        kind = type(value)
        if kind in _SIMPLE or id(value) in seen or isinstance(value, (type, ModuleType)):
            continue
        seen.add(id(value))
        if isinstance(value, _GENERATORS):
            found.append(value)
        elif isinstance(value, (list, tuple, set, frozenset, deque, dict)):
            if len(value) <= _MOST_ITEMS:
                todo += value.values() if isinstance(value, dict) else value
                holders += [value] if isinstance(value, (list, set, deque, dict)) else []
        elif isinstance(value, (FunctionType, MethodType, functools.partial)):
            todo += [item for item, _ in _inside(value, "")]
        elif hasattr(value, "__dict__") and (
            kind.__module__.startswith("torch.utils.data") or isinstance(value, nn.Module) or is_plain(value)
        ):
            todo += vars(value).values()
            holders += [] if isinstance(value, nn.Module) else [vars(value)]
        if len(seen) > _MOST_OBJECTS:
            break
    return found


def attached_to(optimizers: Iterable[torch.optim.Optimizer]) -> list[Any]:
    """The scalers of this process, its Accelerators' counters, and these optimizers' schedulers, whoever holds them.

    They stand in no closure that can be asked: a loop of the user's own holds them, or a wrapper.
    """
    known = set(map(id, optimizers))
    accelerator = getattr(sys.modules.get("accelerate"), "Accelerator", None)
    kinds = (GradScaler, LRScheduler) if accelerator is None else (GradScaler, LRScheduler, accelerator)
    attached: list[Any] = []
    for each in gc.get_referrers(*set[type]().union(*map(_with_subclasses, kinds))):
        kind = type(each)
        if issubclass(kind, LRScheduler):
            attached += [each] if id(getattr(each, "optimizer", None)) in known else []
        elif issubclass(kind, GradScaler):
            attached.append(each)
        elif issubclass(kind, kinds):
            attached.append(StepsCounted(each))
    return attached


class StepsCounted:
    """The batches that an Accelerator has counted, which tell it where an accumulation ends."""

    def __init__(self, accelerator: Any) -> None:
        self._accelerator = accelerator

    def state_dict(self) -> dict[str, int]:
        """The count."""
        return {"step": self._accelerator.step}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Put it back."""
        self._accelerator.step = state["step"]


def _with_subclasses(cls: type) -> set[type]:
    return {cls}.union(*map(_with_subclasses, cls.__subclasses__()))
