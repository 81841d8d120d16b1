"""What a step keeps outside of its state: a key that it splits, an average, a generator, objects of nnx."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax
import numpy as np

from findlr.search.kept import Kept, Put
from findlr.search.memory import Memory, Phase


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

    def _puts(self) -> list[Put]:
        kept = Kept(_is_kept)
        kept.reach(*self._functions)
        return kept.puts()


def _is_kept(value: Any, least_dims: int) -> bool:
    """Whether it is an object of nnx, or any pytree with an array of so many dimensions at least."""
    if isinstance(value, getattr(sys.modules.get("flax.nnx"), "Pytree", ())):
        return True
    arrays = [leaf for leaf in jax.tree.leaves(value) if isinstance(leaf, (jax.Array, np.ndarray))]
    return any(array.ndim >= least_dims for array in arrays)
