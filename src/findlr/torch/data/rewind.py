"""Data that can be read only once, made to come again."""

from __future__ import annotations

import logging
import random
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any, Self

import numpy as np
import torch

from findlr.analysis.given import kind_of
from findlr.analysis.numbers import whole
from findlr.errors import ConfigurationError, LoaderError
from findlr.search.memory import Memory, Phase
from findlr.torch.data.nesting import bytes_in, copied

logger = logging.getLogger("findlr")

_Draws = tuple[tuple[Any, Any, torch.Tensor], tuple[Any, Any, torch.Tensor]]  # random states before and after a batch


class Rewindable(Iterator[Any]):
    """An iterator whose batches come again once a snapshot of its place is put back; see ``rewindable``."""

    def __init__(self, iterator: Iterator[Any], max_bytes: int) -> None:
        self.iterator = iterator
        self._max_bytes = max_bytes
        self._at = 0  # batches given so far
        self._first = 0  # where the first batch that is kept stands
        self._kept: deque[tuple[Any, int, _Draws | None]] = deque()
        self._has_warned = False
        self._marks: list[int] = []  # the places of open snapshots

    @property
    def bytes_kept(self) -> int:
        """Bytes of the batches that may come again."""
        return sum(size for _, size, _ in self._kept)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        if self._at < self._first + len(self._kept):
            batch, _, draws = self._kept[self._at - self._first]
            if draws is not None:
                self._repeat(draws)
            if self._marks:
                batch = copied(batch)  # it may come a third time
        else:
            batch = self._drawn()
        self._at += 1
        self._let_go()
        return batch

    def _drawn(self) -> Any:
        """A new batch; while a snapshot is open, a copy of it is kept."""
        if not self._marks:
            return next(self.iterator)
        before = _random_states()
        batch = next(self.iterator)
        after = _random_states()
        # Kept before anything is refused, so that what was drawn is not lost.
        self._kept.append((batch, bytes_in(batch), None if _same(before, after) else (before, after)))
        if self.bytes_kept > self._max_bytes:
            raise LoaderError(
                f"the batches to keep take {self.bytes_kept} bytes, and max_bytes is {self._max_bytes}; they will "
                "come again, none is lost. Give rewindable() a larger max_bytes, or the search fewer steps"
            )
        self._kept[-1] = (copied(batch), *self._kept[-1][1:])
        return batch

    def _repeat(self, draws: _Draws) -> None:
        """Draw from the random generators what the iterator drew for this batch."""
        before, after = draws
        if _same(before, _random_states()):
            random.setstate(after[0])
            np.random.set_state(after[1])  # noqa: NPY002 - iterators draw from it
            torch.set_rng_state(after[2])
        elif not (self._marks or self._has_warned):
            self._has_warned = True
            logger.warning(
                "this stream draws random numbers, and the random states are not those that it left when its batches "
                "were first drawn: its next batches are not what they would have been without the search"
            )

    def _let_go(self) -> None:
        """Forget the batches before the earliest place that a snapshot may go back to."""
        first = min([self._at, *self._marks])
        while self._kept and self._first < first:
            self._kept.popleft()
            self._first += 1
        if not self._kept:
            self._first = first

    def remember(self, memory: Memory) -> None:
        """Remember the place; from here on batches are kept, until ``memory`` is closed."""
        mark = self._at

        def put() -> None:
            self._at = mark

        def release() -> None:
            self._marks.remove(mark)
            self._let_go()

        self._marks.append(mark)
        memory.add(put, Phase.PLACES, "the place in the stream")
        memory.on_close(release)


def _random_states() -> tuple[Any, Any, torch.Tensor]:
    return random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002 - iterators draw from it


def _same(one: tuple[Any, Any, torch.Tensor], other: tuple[Any, Any, torch.Tensor]) -> bool:
    same_numpy = all(np.array_equal(a, b) for a, b in zip(one[1], other[1], strict=True))
    return one[0] == other[0] and same_numpy and torch.equal(one[2], other[2])


def rewindable(iterator: Iterable[Any], *, max_bytes: int = 1 << 30) -> Rewindable:
    """Make a one-shot iterator (a stream, a generator) fit for a search: the batches that the search draws come again.

    Give the result to ``find_lr`` or a ``RangeTest``, and train on the same object afterwards. Batches are copied only
    during a search, and freed as they come again.

    Args:
        iterator: gives batches, once.
        max_bytes: the most bytes that may be kept, above 0; past it the search ends with an error, and no batch is
            lost.

    Raises:
        ConfigurationError: an argument that cannot work.

    Example:
        >>> import torch
        >>> from findlr import find_lr
        >>> net = torch.nn.Linear(1, 1)
        >>> stream = rewindable((torch.full((1, 1), float(i)), torch.zeros(1, 1)) for i in range(200))
        >>> finding = find_lr(net, torch.optim.SGD(net.parameters(), lr=0.1), torch.nn.MSELoss(), stream)
        >>> next(stream)[0].item()
        0.0
    """
    try:
        batches = iter(iterator)
    except TypeError as error:
        raise ConfigurationError(f"rewindable() needs an iterator over batches, got {kind_of(iterator)}") from error
    if (whole(max_bytes) or 0) < 1:
        raise ConfigurationError(f"max_bytes must be a whole number above 0, got {max_bytes!r}")
    return Rewindable(batches, int(max_bytes))
