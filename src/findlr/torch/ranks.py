"""What the processes of one training must agree on, so that each takes the same steps and finds the same."""

from __future__ import annotations

from typing import Protocol


class Ranks(Protocol):
    """The processes that train together; each calls these in the same order."""

    def mean(self, losses: list[float]) -> list[float]:
        """Each loss's mean over the ranks."""

    def any(self, flag: bool) -> bool:
        """Whether it holds on any rank: skipped, data ended, no baseline."""

    def least(self, value: int | None) -> int | None:
        """The smallest of the ranks' values, such as free bytes or batches; None where one has none."""


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
