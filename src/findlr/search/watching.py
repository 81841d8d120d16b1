"""Who watches a search: its display, each step of its race as a ``Step``, and a word on what is done between them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple, Protocol, runtime_checkable

from findlr.analysis.curve import Step
from findlr.analysis.race import Run
from findlr.analysis.smoothing import BiasCorrectedAverage
from findlr.search.trainable import RaisesLater

Progress = AbstractContextManager[Callable[[Step], object]]


@runtime_checkable
class Tells(Protocol):
    """A watcher that also shows what is done while there are no steps."""

    def tell(self, text: str) -> None:
        """Show a short text until the next step."""


def on_one_of_several(on_step: Callable[[Step], object], several: RaisesLater) -> Callable[[Step], object]:
    """``on_step``, whose exception is raised when no other process waits for this one."""

    def watcher(step: Step) -> None:
        try:
            on_step(step)
        except Exception as error:
            if not several.raise_later(error):
                raise

    return watcher


def entered(on_step: Callable[[Step], object] | None) -> AbstractContextManager[object]:
    """``on_step`` for the length of a search, if it is a context manager, too: a stream that sends what waits."""
    return on_step if isinstance(on_step, AbstractContextManager) else nullcontext()


def display(progress: Progress | bool | None) -> AbstractContextManager[Callable[[Step], object] | None]:
    """The display that was asked for.

    Raises:
        MissingExtraError: True, and rich is not installed.
    """
    if progress is False:
        return nullcontext()
    if progress is None or progress is True:
        from findlr.views.live import live

        return live(progress)
    return progress


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
        self._runs = 0
        self._now: list[_Run] = []
        self._rates: Sequence[Sequence[float]] = ()  # of each run of a pass, and each step
        self._last: list[Seen | None] = []  # of each run of a pass: it is shown once the next one is there
        self.raised: Exception | None = None
        """What a watcher raised while several runs were made at once, whose training may have swallowed it."""

    @property
    def watched(self) -> bool:
        """Whether anybody watches."""
        return bool(self._watchers)

    def tell(self, text: str) -> None:
        """Say what is done while there are no steps."""
        watchers: Sequence[object] = self._watchers
        for watcher in watchers:
            if isinstance(watcher, Tells):
                watcher.tell(text)

    def set_up(self, runs: int, text: str) -> None:
        """A race of at most so many runs is set up; ``text`` says so."""
        self._runs = runs
        self.tell(text)

    def begin(self, lr: float, steps: int, ended: Sequence[Run]) -> None:
        """A run of so many steps begins, at this highest rate, after those that have ended."""
        self._ended = tuple(ended)
        self._now = [_Run(len(ended) + 1, lr, steps, self._smoothing)]

    def see(self, steps: Sequence[Seen], ended_at: float | None = None) -> None:
        """Steps of the run that are read, in order, and the loss that it ended at, if it ended with the last one."""
        for seen in steps:
            self._show(self._now[0], seen, ended_at if seen is steps[-1] else None)

    def begin_together(self, rates: Sequence[Sequence[float]]) -> None:
        """The first runs of the race begin, which are made at once: these are the rates of each run and step."""
        self._ended = ()
        self._rates = rates
        self._now = [_Run(i, max(lrs), len(lrs), self._smoothing) for i, lrs in enumerate(rates, start=1)]
        self._last = [None] * len(rates)

    def see_together(self, first: int, losses: Sequence[Sequence[float]]) -> None:
        """Steps of those runs that are read; see ``ShowsTogether``."""
        try:
            for row in losses:
                for number, loss in enumerate(row, start=first):
                    run, last = self._now[number], self._last[number]
                    if last is not None:
                        self._show(run, last)
                    place = 0 if last is None else last.place + 1
                    self._last[number] = Seen(place, self._rates[number][place], loss)
        except Exception as error:
            self.raised = error
            raise

    def end_together(self, ended: Sequence[Run]) -> None:
        """Those runs have ended."""
        for run, last, end in zip(self._now, self._last, ended, strict=True):
            if last is not None:
                self._show(run, last, end.loss)
            self._ended = (*self._ended, end)

    def _show(self, run: _Run, seen: Seen, ended_at: float | None = None) -> None:
        if not self._watchers:
            return
        smoothed, best = run.smoothed(seen.loss)
        done = self._ended if ended_at is None else (*self._ended, Run(run.lr, run.steps, ended_at))
        step = Step(
            index=seen.place,
            num_steps=run.steps,
            lr=seen.lr,
            loss=seen.loss,
            smoothed=smoothed,
            best=best,
            run=run.number,
            runs=self._runs,
            peak=run.lr,
            ended=done,
            together=len(self._now),
        )
        for watcher in self._watchers:
            watcher(step)


class _Run:
    """A run that is made: its number from 1, its highest rate, its steps, its losses so far."""

    def __init__(self, number: int, lr: float, steps: int, smoothing: float) -> None:
        self.number, self.lr, self.steps = number, lr, steps
        self._average, self._best = BiasCorrectedAverage(smoothing), math.inf

    def smoothed(self, loss: float) -> tuple[float, float]:
        """The smoothed loss with the next one, and the lowest so far."""
        smoothed = self._average.update(loss)
        self._best = min(self._best, smoothed)
        return smoothed, self._best
