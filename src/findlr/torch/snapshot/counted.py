"""What a training's functions count and cache in a search: it is named, and stays, as a log does."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from functools import partial
from types import FunctionType
from typing import Any

import torch

from findlr.analysis.text import printable
from findlr.search.kept import IsKept, kept_in, took_kept
from findlr.search.memory import Memory, Phase
from findlr.search.objects import SMALL_BYTES, bound_in
from findlr.torch.snapshot.reach import Reached, reached_from
from findlr.torch.snapshot.stores import bytes_of
from findlr.torch.snapshot.written import same_bits

logger = logging.getLogger("findlr")

_KINDS = {int: "number", float: "number", bool: "flag", str: "text", type(None): "value"}


class Counted:
    """The numbers, flags and texts that functions keep; a warning names what a search has changed, one of each list.

    Args:
        roots: functions, objects and classes; or a dict of one of these by its name.
    """

    def __init__(self, *roots: Any) -> None:
        self._roots = roots
        self._told: set[str] = set()

    @classmethod
    def of_a_loop(cls, functions: Iterable[Any]) -> Counted:
        """Those of functions that a loop may call, each told by its function's name."""
        return cls(*({each.__name__: each} for each in functions))

    def remember(self, memory: Memory) -> None:
        """Look at the numbers again once ``memory`` is put back."""
        self.look_again(memory, reached_from(*self._roots))

    def look_again(self, memory: Memory, reached: Reached) -> None:
        """The same, where ``reached`` is known."""
        if numbers := _numbers(reached):
            memory.add(partial(self._look, numbers), Phase.RANDOM)

    def _look(self, before: dict[str, Any]) -> None:
        changes = set[tuple[Any, ...]]()  # many functions may name a global one
        for place, value in _numbers(reached_from(*self._roots)).items():
            was, name = before.get(place, value), re.sub(r"^\d+(\['([^']+)'\])?\.?", r"\2.", place).strip(".")
            root, all_alike = place.partition(".")[0], re.sub(r"\[[^[]*\]", "", name)
            change, whole = (name.rpartition(".")[2], was, value), f"{root}: {all_alike}"
            if value == was or value != value or whole in self._told or change in changes:  # noqa: PLR0124 - NaN
                continue
            self._told.add(whole)
            changes.add(change)
            logger.warning(
                "a function of the training keeps a %s that the search has changed, and that is not put back: %s "
                "was %s and is %s. Make it a buffer of a module, or give what holds it, with a state_dict, in restore=",
                _KINDS[type(value)],
                name,
                printable(str(was), 60),
                printable(str(value), 60),
            )


def _numbers(reached: Reached) -> dict[str, Any]:
    """The numbers, flags and texts that functions reach, by their place, without those of a bar."""
    numbers, shown = reached.numbers.items(), tuple(reached.shown)
    return {place: value for place, value in numbers if type(value) in _KINDS and not place.startswith(shown)}


class Named:
    """Small tensors that a loop's functions name, and its own code may replace; if it does, a warning names them.

    Args:
        functions: of the user's own, that a loop may call.
    """

    def __init__(self, functions: Iterable[FunctionType]) -> None:
        self._functions = list(functions)

    def remember(self, memory: Memory) -> None:
        """Look at them again once ``memory`` is put back."""
        before = {name: tensor.detach().clone() for name, tensor in self._tensors().items()}
        if before:
            memory.add(partial(self._look, before, memory.left), Phase.RANDOM)

    def _tensors(self) -> dict[str, torch.Tensor]:
        found = {name: (each, value) for each in self._functions for name, value in bound_in(each).items()}
        return {
            f"{function.__name__}.{name}": value
            for name, (function, value) in found.items()
            if type(value) in (torch.Tensor, torch.nn.Parameter) and not value.is_meta and value.layout is torch.strided
            if value.is_floating_point() and bytes_of(value) <= SMALL_BYTES
        }

    def _look(self, before: dict[str, torch.Tensor], left: list[str]) -> None:
        for name, now in self._tensors().items():
            was = before.get(name, now)
            if not same_bits(was, now):
                left.append(f"the tensor {name}")
                logger.warning(
                    "a function of the training uses a tensor that the loop itself has changed, and it is not put "
                    "back: %s. Make it a buffer of a module, or let an object hold it",
                    name,
                )


def warn_of_caches(caches: Iterable[Any], is_kept: IsKept, memory: Memory) -> None:
    """Warn, once ``memory`` is put back, of those of these bounded caches that still have what they took meanwhile."""
    before = [(cache, kept_in(cache)) for cache in caches]
    if before:
        memory.add(partial(_look_at_caches, before, is_kept, memory.left), Phase.RANDOM)


def _look_at_caches(before: list[tuple[Any, Any]], is_kept: IsKept, left: list[str]) -> None:
    for each in list(before):
        cache, kept = each
        if took_kept(kept, kept_in(cache), is_kept):
            before.remove(each)  # told once
            name = getattr(cache, "__name__", "a function")
            left.append(f"what the cache of {name} has taken")
            logger.warning(
                "the cache of %s has taken tensors during the search, and they stay in it: if they come from the "
                "weights, use functools.cache, whose contents are put back",
                name,
            )
