"""What the processes of one training must agree on, so that all take the same steps and find the same rate."""

from __future__ import annotations

from typing import Any, Protocol

from findlr.errors import DataEndedError
from findlr.search.batches import Batches


class Ranks(Protocol):
    """The processes that train together; all of them make the same calls, in the same order."""

    def mean(self, losses: list[float]) -> list[float]:
        """Each loss's mean over the ranks."""

    def any(self, flag: bool) -> bool:
        """Whether it is True on any rank: a step was skipped, the data ended, there is no baseline."""

    def least(self, value: int | None) -> int | None:
        """The smallest of the ranks' values, such as free bytes or batches; None if any of them is None."""


class Alone:
    """One process, which agrees with itself."""

    def mean(self, losses: list[float]) -> list[float]:
        """The losses."""
        return losses

    def any(self, flag: bool) -> bool:
        """The flag."""
        return flag

    def least(self, value: int | None) -> int | None:
        """The value."""
        return value


def next_on_all(ranks: Ranks, batches: Batches) -> Any:
    """The next batch of a stream that may end.

    Raises:
        DataEndedError: it has ended, on this rank or on another one.
    """
    ended: DataEndedError | None = None
    batch: Any = None
    try:
        batch = batches.next()
    except DataEndedError as error:
        ended = error
    if ranks.any(ended is not None):
        raise ended or DataEndedError("the data ended on another rank")
    return batch
