"""What a range test does inside its block: it gives items and takes losses; what lies between two items is a point."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import torch

from findlr.analysis.curve import Stop
from findlr.analysis.smoothing import Array
from findlr.errors import ConfigurationError, DataEndedError
from findlr.search import interrupts
from findlr.search.batches import PASS_ENDED
from findlr.search.recording import Recording
from findlr.torch.data.batches import TorchBatches
from findlr.torch.data.nesting import batch_size
from findlr.torch.planned import LoopPlan
from findlr.torch.point import Idle, Items, Point
from findlr.torch.ranks import drawn_on_all, is_skipped
from findlr.torch.snapshot.memory import TorchMemory
from findlr.torch.training import Training


class Points:
    """The inside of a ``RangeTest``."""

    _training: Training
    _recording: Recording
    _lrs: Array
    _plan: LoopPlan

    def _start_points(self) -> None:
        self._open = self._given = self._inside = False
        self._memory: TorchMemory | None = None
        self._loaders: dict[int, TorchBatches] = {}
        self._point = Point()
        self._points = self._drawn = 0
        self._idle = Idle(self._training.swept, "the loop", "RangeTest")
        self._acting = math.nan

    @property
    def done(self) -> bool:
        """True once the sweep has ended: iteration over the test stops.

        Raises:
            ConfigurationError: steps were taken before the first item was drawn.
        """
        if self._open and self._point.tried:
            self._need_item("a step was taken")
        if self._point.is_whole and self._open and not self._inside:  # a pass was left by ``break``: none follows empty
            self._settle_point()
        return self._recording.stop is not None

    def __call__(self, loader: Iterable[Any]) -> Items:
        """The batches of ``loader``, over and over, until the sweep ends; its place is put back, too.

        Returns:
            An iterator; its ``len()`` is that of one pass over ``loader``.

        Raises:
            LoaderError: the loader is empty, or can be read only once.
        """
        batches = self._batches_of(loader)
        draw = partial(drawn_on_all, self._training.ranks, batches.next) if batches.ends else batches.next
        return Items(self._items(draw), batches)

    def epoch(self, loader: Iterable[Any]) -> Items:
        """One pass over ``loader``, or what is left of the sweep, for a loop that is written in epochs.

        ::

            while not test.done:
                train_one_epoch(test.epoch(loader))

        Returns:
            An iterator; its ``len()`` is that of one pass.

        Raises:
            LoaderError: the loader is empty, or can be read only once.
        """
        batches = self._batches_of(loader)
        batches.close()
        return Items(self._items(partial(batches.next, of_pass=True)), batches)

    def _batches_of(self, loader: Iterable[Any]) -> TorchBatches:
        """The stream of a loader; a second loop over it goes on with the same one, whose place is remembered once."""
        self._need_open("iterate over it")
        assert self._memory is not None
        if id(loader) not in self._loaders:
            named = [each for each in self._training.loaders if each.loader is loader]  # remembered before the block
            batches = named[0] if named else TorchBatches(loader)
            if not named:
                batches.remember(self._memory)
            self._loaders[id(loader)] = batches
            self._plan.seen(self._training.ranks.least(batches.length()))
        return self._loaders[id(loader)]

    def _items(self, draw: Callable[[], Any]) -> Iterator[Any]:
        for _ in self.steps():
            try:
                batch = draw()
            except DataEndedError:
                if not self._points:
                    raise
                self._recording.end(Stop.DATA_ENDED)
                return
            if batch is PASS_ENDED:
                return
            self._drawn += 1
            if self._training.batch_size is None:
                self._training.batch_size = batch_size(batch)
            yield batch

    def steps(self) -> Iterator[int]:
        """The indices of the points until the sweep ends, for a loop without a loader.

        Raises:
            OptimizerError: the weights move, and the swept optimizer never steps.
        """
        self._need_open("iterate over it")
        self._plan.need()
        while True:
            if interrupts.waiting:
                interrupts.deliver()
            self._settle_point()
            if self._recording.stop is not None:
                return
            self._given = self._inside = True
            try:
                yield self._points
            finally:  # also where the loop is left
                self._inside = False

    def record(self, loss: torch.Tensor | float) -> None:
        """Record the loss of a forward pass; of several before the next item (accumulation), the mean counts.

        Raises:
            LossError: it is not one number.
            ConfigurationError: called outside the block, or before the first item was drawn.
        """
        self._need_open("record a loss")
        self._point.record(loss)
        self._need_item("a loss was recorded")

    def _before_step(self, *_: Any) -> None:
        lr = self._lr()
        self._acting = self._training.rates.acting(lr)
        self._training.write(lr)

    def _settle_point(self) -> None:
        """Close the point; the last one ends the sweep."""
        self._close_point()
        if self._recording.stop is None and self._points == len(self._lrs):
            self._recording.end(Stop.FINISHED)

    def _lr(self) -> float:
        return float(self._lrs[min(self._points, len(self._lrs) - 1)])

    def _close_point(self) -> None:
        """End a point, if the optimizer has stepped since the last one, or a scaler was asked to step it."""
        if not self._point.tried:
            self._idle.look()
            return
        self._idle.stepped()
        if self._training.ranks.is_untried:
            self._training.ranks.tried()
        loss, taken, skipped = self._point.closed()
        # The loop may have made a scaler by itself.
        by_scaler = self._training.scalers or (not taken and self._training.ranks.is_alone)
        if by_scaler and is_skipped(self._training.ranks, loss, taken=taken):
            self._recording.skip()
            return
        if not taken:
            self._acting = self._training.rates.acting(self._lr())
        lr = self._lr()
        self._points += 1
        if self._acting < 0.99 * lr or self._acting < self._recording.last_lr:
            self._recording.end(Stop.CAPPED)
        else:
            self._recording.add(self._acting, loss, skipped=skipped)

    def _need_item(self, what: str) -> None:
        if not self._given:
            raise ConfigurationError(
                f"{what} before the first item, so the rate would never rise: draw one for each step from "
                "test(loader), test.epoch(loader) or test.steps()"
            )

    def _need_open(self, what: str) -> None:
        if not self._open:
            raise ConfigurationError(f"the range test is not running: {what} inside its with block")
