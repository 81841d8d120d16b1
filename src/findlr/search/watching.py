"""Who watches a search: each step of its race as a ``Step``, and a word on what is done between them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

from findlr.analysis.curve import Step
from findlr.analysis.runs import Run
from findlr.analysis.smoothing import BiasCorrectedAverage


@runtime_checkable
class Tells(Protocol):
    """A watcher that also shows what is done while there are no steps."""

    def tell(self, text: str) -> None:
        """Show a short text until the next step."""


class Seen(NamedTuple):
    """A step of a run whose loss is read: its place in the run, its rate, its loss."""

    place: int
    lr: float
    loss: float


class RaceWatch:
    """Shows a race to those who watch its search.

    Args:
        watchers: called with each Step; what they raise is raised.
        smoothing: beta of the average of a run's losses.
    """

    def __init__(self, watchers: Sequence[Callable[[Step], object]] = (), smoothing: float = 0.98) -> None:
        self._watchers, self._smoothing = watchers, smoothing
        self._ended: tuple[Run, ...] = ()
        self._lr, self._steps, self._runs = math.nan, 0, 0

    def tell(self, text: str) -> None:
        """Say what is done while there are no steps."""
        watchers: Sequence[object] = self._watchers
        for watcher in watchers:
            if isinstance(watcher, Tells):
                watcher.tell(text)

    def begin(self, lr: float, steps: int, runs: int, ended: Sequence[Run]) -> None:
        """A run begins.

        Args:
            lr: its highest rate.
            steps: that it takes.
            runs: that the race has at most.
            ended: the runs before it.
        """
        self._lr, self._steps, self._runs, self._ended = lr, steps, runs, tuple(ended)
        self._average, self._best = BiasCorrectedAverage(self._smoothing), math.inf

    def see(self, steps: Sequence[Seen], ended_at: float | None = None) -> None:
        """Steps of the run that are read, in their order.

        Args:
            steps: at least one.
            ended_at: the loss that the run ended at, if it has ended with the last of them.
        """
        if not self._watchers:
            return
        for seen in steps:
            smoothed = self._average.update(seen.loss)
            self._best = min(self._best, smoothed)
            done = self._ended
            if ended_at is not None and seen is steps[-1]:
                done = (*done, Run(self._lr, self._steps, ended_at))
            told = (len(self._ended) + 1, self._runs, self._lr, done)
            step = Step(seen.place, self._steps, seen.lr, seen.loss, smoothed, self._best, *told)
            for watcher in self._watchers:
                watcher(step)
