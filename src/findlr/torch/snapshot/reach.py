"""What a function can reach: the modules, optimizers and tensors that only its closure, its object or its globals hold.

A head that only ``loss_fn`` knows, a teacher, a learned variance, a second optimizer: a step changes them all the same.
"""

from __future__ import annotations

import gc
import sys
from collections import deque
from collections.abc import Iterable
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from functools import partial
from inspect import CO_OPTIMIZED
from types import FrameType, FunctionType, MethodType
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.amp.grad_scaler import GradScaler
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader, Sampler

from findlr.search import generators, objects
from findlr.search.kept import AttributesOf, holders_of
from findlr.search.objects import inside, named_in
from findlr.search.whose import home_of, is_foreign, is_plain, is_users
from findlr.torch.data.rewind import Rewindable
from findlr.torch.snapshot.drawn import is_open

_GENERATORS = (torch.Generator, *objects.GENERATORS)
_SHOW = {"tqdm", "rich", "wandb", "tensorboardX"}  # packages whose objects only show a training
_PLAIN = {dict, list, tuple, set, FunctionType, MethodType}  # types that are none of what is looked for
_MOST_NAMED = 100  # items of a container that is looked into in its turn


@dataclass
class Reached:
    """What was found, each once.

    Args:
        modules: outermost ones.
        optimizers: of torch.
        statefuls: gradient scalers, schedulers, and streams that are rewindable.
        tensors: that are no module's; the user's own data may be among them.
        arrays: of NumPy; the user's own data may be among them.
        generators: of random numbers.
        numbers: numbers and texts by their place, such as a counter's.
        holders: functions, containers and objects, which may be given other tensors.
        iterators: that are open, with their places.
        loaders: of batches, and samplers, whose passes change them.
        many: tensors in a list of too many items to be looked into; they may be the user's data.
        shown: beginnings of the places in what only shows a training, such as a bar.
        functions: of the user's own, that the code around a block may call.
    """

    modules: list[nn.Module] = field(default_factory=list)
    optimizers: list[torch.optim.Optimizer] = field(default_factory=list)
    statefuls: list[Any] = field(default_factory=list)
    tensors: list[torch.Tensor] = field(default_factory=list)
    arrays: list[np.ndarray[Any, Any]] = field(default_factory=list)
    generators: list[Any] = field(default_factory=list)
    numbers: dict[str, Any] = field(default_factory=dict)
    holders: list[Any] = field(default_factory=list)
    iterators: list[tuple[str, Any]] = field(default_factory=list)
    loaders: list[Any] = field(default_factory=list)
    many: list[torch.Tensor] = field(default_factory=list)
    shown: list[str] = field(default_factory=list)
    functions: list[FunctionType] = field(default_factory=list)


def reached_from(*roots: Any) -> Reached:
    """What ``roots`` can reach: functions, bound methods, partials, objects and containers; None is nothing.

    Modules are not looked into: what they hold is theirs.
    """
    found, seen, code = Reached(), set[int](), list[Any]()
    kinds = _kinds(found)
    todo = deque((root, f"{i}") for i, root in enumerate(roots) if root is not None)
    data = deque[tuple[Any, str]]()  # what long containers hold: looked at last, because there may be too much of it
    while (todo or data) and len(seen) < objects.MOST_OBJECTS:
        value, place = (todo or data).popleft()
        if isinstance(value, (bool, int, float, str, type(None))):
            found.numbers[place] = value
            continue
        if id(value) in seen:
            continue
        seen.add(id(value))
        if hasattr(type(value), "__next__") and is_open(value):
            found.iterators.append((place, value))
        elif type(value) not in _PLAIN and (
            (kept := next((kept for kind, kept in kinds.items() if isinstance(value, kind)), None)) is not None
        ):
            kept.append(value)
        elif not str(type(value).__module__).startswith("findlr."):  # which is no user's
            is_long = _is_long(value)
            (data if is_long else todo).extend(inside(value, place))
            found.holders += holders_of(value)
            found.many += _too_many(value) if is_long else []
            found.shown += [f"{place}."] if str(type(value).__module__).partition(".")[0] in _SHOW else []
            code.append(value if isinstance(value, FunctionType) else type(value))
    if code:
        found.generators += generators_named(code, but=found.generators)
    if found.iterators:
        again = [each.iterator for each in found.statefuls if isinstance(each, Rewindable)]  # its batches come again
        found.iterators = [(place, each) for place, each in found.iterators if not any(each is one for one in again)]
    return found


def _is_long(value: Any) -> bool:
    return isinstance(value, (list, tuple, deque, dict, set)) and len(value) > _MOST_NAMED


def _too_many(value: Any) -> list[torch.Tensor]:
    if not (isinstance(value, (list, tuple, deque)) and len(value) > objects.MOST_ITEMS):
        return []
    return [each for each in value if isinstance(each, torch.Tensor)] if isinstance(value[0], torch.Tensor) else []


def _kinds(found: Reached) -> dict[type, list[Any]]:
    """What is looked for, and where it is kept."""
    return {
        nn.Module: found.modules,
        torch.optim.Optimizer: found.optimizers,
        GradScaler: found.statefuls,
        LRScheduler: found.statefuls,
        Rewindable: found.statefuls,
        DataLoader: found.loaders,
        Sampler: found.loaders,
        torch.Tensor: found.tensors,
        np.ndarray: found.arrays,
        **dict.fromkeys(_GENERATORS, found.generators),
    }


_SIMPLE = objects.SIMPLE | {torch.Tensor, torch.device, torch.dtype}
_DATA = ("torch.utils.data",)

generators_in = partial(
    generators.generators_in,
    kinds=_GENERATORS,
    simple=_SIMPLE,
    modules=_DATA,
    owners=(nn.Module,),
)
"""``findlr.search.generators.generators_in``, with torch's generators; modules are looked into, and hold nothing."""

NAMELESS: set[type] = set()
"""Classes that were asked about and name no generators: asking again would take a call for each."""


def generators_named(code: list[Any], but: Iterable[Any] = ()) -> list[Any]:
    """``findlr.search.generators.generators_named``, with torch's generators."""
    NAMELESS.update([each for each in code if isinstance(each, type) and generators.names_none(str(each.__module__))])
    return generators.generators_named(code, _GENERATORS, _SIMPLE, but, _DATA)


def attached_to(optimizers: Iterable[torch.optim.Optimizer], *, is_alone: bool) -> list[Any]:
    """The scalers of this process, its Accelerators' counters, and these optimizers' schedulers, whoever holds them.

    They stand in no closure that can be asked: a loop of the user's own holds them, or a wrapper.
    """
    if not is_alone:
        gc.collect()  # what is gone must be so on all ranks, which would not agree otherwise
    known = set(map(id, optimizers))
    accelerator = getattr(sys.modules.get("accelerate"), "Accelerator", None)
    kinds = tuple(filter(None, (GradScaler, LRScheduler, accelerator)))
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


def reached_around() -> Reached:
    """What the code around a ``with`` block names of modules, optimizers and generators: its loop may change them.

    Of the tensors that it names itself only those that are trained: in the others the loop may write down what it sees.
    Those that objects of the user's own hold, such as a pool of images, are all of them, and so are their arrays; and
    those that functions keep, and it does not name.
    """
    frame: FrameType | None = sys._getframe()  # noqa: SLF001 - which has no public name
    while frame is not None and _is_between(frame.f_globals.get("__name__", "")):
        frame = frame.f_back
    if frame is None:
        return Reached()
    names = named_in(frame.f_code, frame.f_globals)
    if frame.f_locals is not frame.f_globals:
        names |= frame.f_locals
        if sys.version_info < (3, 13) and frame.f_code.co_flags & CO_OPTIMIZED:  # a function's, so this is a copy
            frame.f_locals.clear()  # which would hold what the function lets go until that returns
    found = reached_from(names)
    objects_kept = [each for each in found.holders if is_plain(each) or isinstance(each, (type, ContextVar))]
    functions = [each for each in found.holders if isinstance(each, FunctionType)]
    owned = reached_from(*objects_kept, *_kept_by_functions(functions, set(map(id, names.values()))))
    owned.holders = [each for each in owned.holders if not isinstance(each, FunctionType)]  # but for their cells
    owned.holders += [each for each in found.holders if isinstance(each, AttributesOf)]
    modules = [module for module in found.modules if all(map(_can_change, (*module.parameters(), *module.buffers())))]
    tensors = [tensor for tensor in found.tensors if tensor.is_leaf and tensor.requires_grad]
    tensors = list(filter(_can_change, (*tensors, *owned.tensors)))
    functions = [each for each in functions if is_users(home_of(each) or "")]
    found = replace(found, modules=modules, tensors=tensors, functions=functions)
    return replace(found, arrays=owned.arrays, holders=owned.holders, many=owned.many)


def _kept_by_functions(functions: Iterable[FunctionType], named: set[int]) -> list[Any]:
    """The cells of functions, and what else they name, without what has one of these ids."""
    kept: list[Any] = []
    for function in functions:
        cells = dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=True))
        values = objects.bound_in(function) | vars(function)
        kept += [cells.get(name, value) for name, value in values.items() if id(value) not in named]
    return kept


def _is_between(module: str) -> bool:
    return module.partition(".")[0] == "findlr" or is_foreign(module)


def _can_change(tensor: torch.Tensor) -> bool:
    """Whether it has numbers, and may be written to."""
    return not (nn.parameter.is_lazy(tensor) or tensor.is_meta or tensor.is_inference())


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
