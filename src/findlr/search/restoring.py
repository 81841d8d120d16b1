"""Blocks on whose leaving a training is put back, by whatever exit."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Generic, TypeVar

from findlr.search.interrupts import signals_wait
from findlr.search.trainable import HasClose, Restorable

Snapshot = TypeVar("Snapshot")
Given = TypeVar("Given")


class Remembered(Generic[Snapshot]):
    """A snapshot for the length of a block; if it has a ``close``, that is called on leaving, by whatever exit."""

    def __init__(self, trainable: Restorable[Snapshot]) -> None:
        self._trainable = trainable

    @signals_wait
    def __enter__(self) -> Snapshot:
        self._snapshot = self._trainable.snapshot()
        return self._snapshot

    @signals_wait
    def __exit__(self, *_: object) -> None:
        if isinstance(self._snapshot, HasClose):
            self._snapshot.close()


@contextmanager
def restored(trainable: Restorable[Snapshot]) -> Iterator[Snapshot]:
    """Put ``trainable`` back on leaving a block, by whatever exit.

    Example:
        >>> from findlr.testing import Quadratic
        >>> training = Quadratic()
        >>> with restored(training):
        ...     _ = training.step(0.1)
        >>> training.weight
        1.0
    """
    with Remembered(trainable) as snapshot:
        try:
            yield snapshot
        finally:
            trainable.restore(snapshot)


class Unwritten(Generic[Given]):
    """A generator's block that no exception is thrown into: contextlib would write into it, and a frozen one breaks.

    Args:
        block: what to enter and to leave; it leaves in the same way on every exit.
    """

    def __init__(self, block: AbstractContextManager[Given]) -> None:
        self._block = block

    @signals_wait
    def __enter__(self) -> Given:
        return self._block.__enter__()

    @signals_wait
    def __exit__(self, *_: object) -> None:
        self._block.__exit__(None, None, None)
