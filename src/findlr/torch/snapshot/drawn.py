"""Draws that a search makes, and that can't be undone: from iterators that are open, and from a state of cuDNN's."""

from __future__ import annotations

import gc
import logging
import re
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import count, starmap
from operator import length_hint
from types import GeneratorType
from typing import Any

import torch
from torch import nn
from torch.utils.data.dataloader import _BaseDataLoaderIter

from findlr.search.memory import Memory

logger = logging.getLogger("findlr")

_DEEPEST = 5  # iterators inside one another
_REWINDABLE = "let it be findlr.rewindable(...) of that from the start"


def is_open(value: Any) -> bool:
    """Whether it is an iterator whose place can be seen: a DataLoader's, a generator, one of Python's own."""
    if isinstance(value, (GeneratorType, _BaseDataLoaderIter)):
        return True
    return type(value).__module__ in ("builtins", "itertools") and isinstance(value, Iterator)


def place_of(iterator: Any, depth: int = _DEEPEST) -> list[Any]:
    """What tells where an iterator stands: what it holds, and what the iterators in it do.

    Example:
        >>> def forever(batches):
        ...     while True:
        ...         yield from batches
        >>> stream = forever([1, 2])
        >>> before = place_of(stream)
        >>> next(stream), _is_same(before, place_of(stream))
        (1, False)
    """
    if isinstance(iterator, _BaseDataLoaderIter):
        return [iterator._num_yielded]  # noqa: SLF001 - a DataLoader's iterator has no public place
    if isinstance(iterator, GeneratorType):
        place = [iterator.gi_frame.f_lasti if iterator.gi_frame is not None else None]
    elif isinstance(iterator, count):
        return [hash(repr(iterator))]  # its number is in no object that can be looked at
    else:
        place = [] if isinstance(iterator, tuple) else [length_hint(iterator, -1)]
    held = gc.get_referents(iterator)  # with what waits on a generator's stack, such as the loader of a for loop
    inner = [each for each in held if is_open(each) or type(each) is tuple] if depth else []
    return [*place, *held, *(part for each in inner for part in place_of(each, depth - 1))]


def warn_of_draws(iterators: Iterable[tuple[str, Any]], memory: Memory, advice: str = _REWINDABLE) -> None:
    """Warn, once ``memory`` is put back, of those of ``iterators`` that were drawn from meanwhile.

    Args:
        iterators: with their places, as ``reached_from`` tells them.
        memory: of the training; its ``left`` takes what could not be put back.
        advice: what to do instead.
    """
    before = [(place, iterator, place_of(iterator)) for place, iterator in iterators]
    if before:
        memory.add(partial(_look, before, memory.left, advice))


def _look(before: list[tuple[str, Any, list[Any]]], left: list[str], advice: str) -> None:
    for each in list(before):
        place, iterator, stood = each
        if _is_same(stood, place_of(iterator)):
            continue
        before.remove(each)  # told once
        name = re.sub(r"^\d+\.?(\['(\w+)'\])?", r"\2", place) or "the loop"
        left.append(f"the place of {name}")
        logger.warning(
            "%s is an open %s that the search has drawn from, and its place can't be put back, so the batches after it "
            "are others: %s",
            name,
            type(iterator).__name__.strip("_"),
            advice,
        )


def warn_of_cudnn(modules: Iterable[nn.Module], optimizers: Iterable[torch.optim.Optimizer]) -> list[str]:
    """Warn of recurrent layers whose dropout cuDNN draws from a state that can't be read; return what is so.

    Nothing is lost before a training's first step: cuDNN makes its state then, from torch's generator.
    """
    recurrent = [each for module in modules for each in module.modules() if isinstance(each, nn.RNNBase)]
    if not recurrent or not any(optimizer.state for optimizer in optimizers):
        return []
    names = " and ".join(sorted({type(each).__name__ for each in recurrent if _drops_by_cudnn(each)}))
    if not names:
        return []
    logger.warning(
        "cuDNN draws the dropout of the model's %s from a state of its own, which can't be put back: the training will "
        "draw other numbers than without this search; search before the first step, or with torch.backends.cudnn."
        "enabled = False",
        names,
    )
    return [f"the dropout of {names}, which cuDNN draws"]


def _drops_by_cudnn(layers: nn.RNNBase) -> bool:
    dropout = layers.dropout > 0 and layers.num_layers > 1
    return dropout and torch.backends.cudnn.enabled and any(p.is_cuda for p in layers.parameters())


def _is_same(one: list[Any], other: list[Any]) -> bool:
    return len(one) == len(other) and all(starmap(_is_one, zip(one, other, strict=True)))


def _is_one(a: Any, b: Any) -> bool:
    return a is b or (type(a) is type(b) is int and a == b)
