"""Large arrays of NumPy that a search writes into: they may be the user's data, and are not put back."""

from __future__ import annotations

import logging
import zlib
from collections.abc import Iterable
from functools import partial
from typing import Any

import numpy as np

from findlr.search.memory import Memory
from findlr.search.objects import is_small_array

logger = logging.getLogger("findlr")

_MOST_ARRAYS = 20
_MOST_NUMBERS = 1 << 17  # that are looked at, of each


def warn_of_writes(arrays: Iterable[Any], memory: Memory) -> None:
    """Warn, once ``memory`` is put back, of those of ``arrays`` that are too large to be in it and have changed.

    An array has no count of what was written into it, so some of its numbers are compared, all along it: a row that is
    replaced here and there, as in a replay buffer, may be missed, and many rows are not.

    Args:
        arrays: all that a training's functions use.
        memory: of the training; its ``left`` takes what could not be put back.
    """
    large = [each for each in arrays if _is_large(each)][:_MOST_ARRAYS]
    if large:
        memory.add(partial(_look, [(array, _sum_of(array)) for array in large], memory.left))


def _is_large(value: Any) -> bool:
    may_change = type(value) is np.ndarray and value.flags.writeable and value.flags.c_contiguous
    return may_change and not (value.dtype.hasobject or is_small_array(value))


def _sum_of(array: Any) -> int:
    """A check sum of numbers that lie as far apart as each other."""
    numbers = array.reshape(-1)
    return zlib.crc32(numbers[:: -(-numbers.size // _MOST_NUMBERS)].tobytes())


def _look(before: list[tuple[Any, int]], left: list[str]) -> None:
    for i, (array, was) in enumerate(before):
        if (now := _sum_of(array)) != was:
            logger.warning(
                "an array of shape %s that the training's function uses has changed, and is not put back: give what "
                "holds it, with a state_dict, in restore=",
                array.shape,
            )
            before[i] = (array, now)
            left.append(f"an array of shape {array.shape}, which the log names")
