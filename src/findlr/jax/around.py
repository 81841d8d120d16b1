"""What a step keeps outside of its state: a key that it splits, an average, a generator, objects of nnx."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import jax
import numpy as np

from findlr.search.kept import holders_of, is_small_array, kept_in, put_kept
from findlr.search.memory import Memory, Phase, Undo, undo_of_generator
from findlr.search.objects import MOST_OBJECTS, inside


class Around:
    """What functions of the user's own keep by name, in objects and in containers, however deep.

    What is compiled is not looked into: it changes nothing, but while it is traced.

    Args:
        functions: the step, and those beside it; None is none.
    """

    def __init__(self, *functions: Any) -> None:
        self._functions = functions

    def remember(self, memory: Memory) -> None:
        """Put it back with ``memory``: keys, arrays, generators, and the numbers of objects that keep some."""
        for put in self._puts():
            memory.add(put, Phase.RANDOM, "what the step keeps outside of its state")

    @contextmanager
    def traced(self) -> Iterator[None]:
        """A block that traces the functions; what they keep is put back, or it would hold tracers.

        Raises:
            ValueError: they have changed it, which what is compiled of them would not do.
        """
        puts, changed = self._puts(), False
        try:
            yield
        finally:
            for put in puts:
                changed |= put()
        if changed:
            raise ValueError("the step keeps something outside of its state, and changes that")

    def _puts(self) -> list[Callable[[], bool]]:
        """What puts back each thing, and tells whether it had changed."""
        puts: list[Callable[[], bool]] = []
        seen, todo = set[int](), list(self._functions)
        for value in todo:  # which grows
            if id(value) in seen or type(value).__module__.startswith("findlr."):
                continue
            seen.add(id(value))
            if (undo := undo_of_generator(value)) is not None:
                puts.append(partial(_put_generator, value, pickle.dumps(value), undo[0]))
            elif isinstance(value, np.ndarray):
                puts += [partial(_put_array, value, value.copy())] if is_small_array(value) else []
            else:
                puts += [partial(put_kept, holder, kept_in(holder), _is_kept) for holder in holders_of(value)]
                todo += [item for item, _ in inside(value, "")]
            if len(seen) > MOST_OBJECTS:
                break
        return puts


def _is_kept(value: Any, least_dims: int) -> bool:
    """Whether it is an object of nnx, or any pytree with an array of so many dimensions at least."""
    if isinstance(value, getattr(sys.modules.get("flax.nnx"), "Pytree", ())):
        return True
    arrays = [leaf for leaf in jax.tree.leaves(value) if isinstance(leaf, (jax.Array, np.ndarray))]
    return any(array.ndim >= least_dims for array in arrays)


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
