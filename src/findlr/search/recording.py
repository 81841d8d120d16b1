"""What a sweep measures, point by point, and why it ended."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from findlr.analysis.acting import has_acted
from findlr.analysis.curve import Curve, Ending, Step, Stop
from findlr.analysis.given import kind_of
from findlr.analysis.text import told
from findlr.errors import ConfigurationError, RankError
from findlr.search.stopping import StopRule
from findlr.search.trainable import ReadsLater, TellsChange, Trainable

_BEYOND = 10.0  # times what the way of the weights can have done
MOST_SKIPS = 20  # steps in a row that the optimizer may skip
_NEED_NO_READING = (float, type(None))

logger = logging.getLogger("findlr")


class _Point(NamedTuple):
    """What was measured at a rate, not read yet; None is what was not measured."""

    lr: float
    loss: Any
    baseline: Any
    validation: Any
    skipped: Any


class _ReadPoint(NamedTuple):
    """The same, read."""

    lr: float
    loss: float
    baseline: float | None
    validation: float
    """NaN where it was not measured."""


class Recording:
    """The points of a sweep as they come in, looked at a few at a time.

    Args:
        read: turns losses into numbers; see ``Trainable.read``.
        num_steps: steps that are planned.
        rule: the stop rule.
        read_every: points between two looks.
    """

    def __init__(
        self,
        read: Callable[[list[Any]], list[float]],
        num_steps: int,
        rule: StopRule,
        read_every: int = 1,
    ) -> None:
        self.stop: Stop | None = None
        self.steps = 0
        self.last_lr = 0.0
        """The rate that acted at the last point: a cap that falls may be below it, and above 0.99 of what is asked."""
        self.could_change: Callable[[], float | None] | None = None
        """Tells the most that the way of the weights can have changed the loss by, or None where it is not known."""
        self.raised: Exception | None = None
        """What a step raised that says nothing of the rate."""
        self._error: str | None = None
        self._skipped = 0
        self._read, self._num_steps, self._rule = read, num_steps, rule
        self._read_every = read_every
        self.watchers: list[Callable[[Step], object]] = []
        self._read_points: list[_ReadPoint] = []  # one list, because a signal may fall between two
        self._skips = 0  # in a row
        self._waiting: list[_Point] = []

    def watch(self, *watchers: Callable[[Step], object] | None) -> None:
        """Call each of ``watchers`` with every point once it is read.

        Raises:
            ConfigurationError: one is no function, as what a context manager gave may be.
        """
        for watcher in watchers:
            if not (watcher is None or callable(watcher)):
                raise ConfigurationError(
                    "progress must be a context manager that gives a function, which is called with each Step, such as "
                    f"findlr.views.console.LiveSweep(); this one gave {kind_of(watcher)}"
                )
        self.watchers.extend(watcher for watcher in watchers if watcher is not None)

    def add(self, lr: float, loss: Any, baseline: Any = None, validation: Any = None, skipped: Any = None) -> None:
        """Take one point; every ``read_every`` points, look whether to stop.

        Args:
            lr: the rate that acted.
            loss: before the step.
            baseline: the same batch's under the starting weights; None where it isn't measured.
            validation: the held-out loss after the step; None where it isn't measured.
            skipped: above 0, once read, if the optimizer skipped the step: then it is no point.
        """
        self.steps += 1
        self.last_lr = lr
        if skipped is None:
            self._skips = 0
            is_read = type(loss) is float and type(baseline) in _NEED_NO_READING
            if is_read and self._read_every == 1 and validation is None:
                self._keep(lr, loss, baseline, None)  # the most frequent case, at little cost
                return
        self._waiting.append(_Point(lr, loss, baseline, validation, skipped))
        if len(self._waiting) >= self._read_every:
            self.flush()

    def skip(self) -> None:
        """The optimizer skipped a step, which is no point; too many in a row end the sweep."""
        self.steps += 1
        self._skip()

    def _skip(self) -> None:
        self._skips += 1
        self._skipped += 1
        if self._skips == MOST_SKIPS:
            self.end(Stop.OVERFLOW)

    def flush(self, *, always: bool = False) -> None:
        """Read what is waiting; points after the one that trips are cut.

        Args:
            always: read even if nothing is waiting, because something may be on another process.
        """
        waiting = self._waiting
        if not (waiting or always):
            return
        # One wait for all.
        values = self._read([value for point in waiting for value in point[1:] if value is not None])
        self._waiting = []
        read, left = iter(values), len(values)
        for lr, *measured in waiting:
            left -= sum([value is not None for value in measured])
            if left < 0:  # another process has failed, and had come less far
                return
            loss, baseline, validation, skipped = (None if v is None else float(next(read)) for v in measured)
            assert loss is not None
            if self.stop is not None:
                return
            if skipped and math.isfinite(loss):  # a loss that is not finite is no matter of the scaler's
                self._skip()
                continue
            if skipped is not None:
                self._skips = 0
            self._keep(lr, loss, baseline, validation)

    def _keep(self, lr: float, loss: float, baseline: float | None, validation: float | None) -> None:
        self._read_points.append(_ReadPoint(lr, loss, baseline, math.nan if validation is None else validation))
        self.stop = self._rule.update(loss, baseline)
        if self.stop is Stop.DIVERGED and baseline is None and self._rises_by_itself():
            self._rule = StopRule(self._rule.threshold, self._rule.beta)
            self.stop = self._rule.update(loss)
        if self.watchers:
            step = Step(len(self._read_points) - 1, self._num_steps, lr, loss, self._rule.smoothed, self._rule.best)
            for watcher in self.watchers:
                watcher(step)

    def _rises_by_itself(self) -> bool:
        """Whether the rise is far more than the rates can have made, as where a queue fills: then it is forgotten."""
        most = None if self.could_change is None else self.could_change()
        return most is not None and self._rule.smoothed - self._rule.best > _BEYOND * most

    def end(self, why: Stop) -> None:
        """Read what is left; the sweep ended because of ``why``, unless what was left had tripped the rule before."""
        self.flush()
        if self.stop is None:
            self.stop = why

    def fail(self, error: Exception) -> bool:
        """End the sweep because the training raised ``error`` at a rate that is too high, if a rate had acted before.

        Returns:
            True if the sweep has ended; False if nothing says that the rate is the reason, so that it must be raised.
        """
        self.flush(always=isinstance(error, RankError))
        if self.stop is None and has_acted(self.curve(0.0)):
            self.stop, self._error = Stop.FAILED, told(error)
        return self.stop is not None

    def ending(self, batches_per_step: int = 1) -> Ending:
        """How the sweep ended, beside its points."""
        assert self.stop is not None
        return Ending(self.stop, self._error, self._skipped, batches_per_step)

    def interrupt(self) -> None:
        """The sweep broke off: keep what was read, drop what was waiting (the device may be the reason)."""
        self._waiting.clear()
        if self.stop is None:
            self.stop = Stop.INTERRUPTED

    def to_dict(self) -> dict[str, Any]:
        """What a sweep that has ended measured, as plain values."""
        assert self.stop is not None
        return {
            "lr": [point.lr for point in self._read_points],
            "loss": [point.loss for point in self._read_points],
            "baseline": [point.baseline for point in self._read_points],
            "stop": self.stop.name,
            "error": self._error,
            "skipped": self._skipped,
            "steps": self.steps,
        }

    def take_over(self, data: Mapping[str, Any]) -> None:
        """Go on from the end of a sweep that ``to_dict`` described, of which there was no validation loss.

        Raises:
            LookupError, TypeError, ValueError: it is none.
        """
        self._read_points = [
            _ReadPoint(float(lr), float(loss), None if baseline is None else float(baseline), math.nan)
            for lr, loss, baseline in zip(data["lr"], data["loss"], data["baseline"], strict=True)
        ]
        self._error, self._skipped, self.steps = data["error"], int(data["skipped"]), int(data["steps"])
        self.stop = Stop[data["stop"]]

    def check_validation(self, every: int) -> None:
        """Warn if held-out losses were measured, one in so many steps, and none of them is a number."""
        if len(self._read_points) >= every and not np.isfinite([point.validation for point in self._read_points]).any():
            logger.warning("no held-out loss is a number: look for a NaN in the data of validation_loader")

    def curve(self, smoothing: float) -> Curve:
        """What was read so far."""
        diverged = self.stop in (Stop.DIVERGED, Stop.NOT_FINITE)
        points = self._read_points
        validation = [point.validation for point in points]
        return Curve(
            lr=[point.lr for point in points],
            loss=[point.loss for point in points],
            baseline=[point.baseline for point in points if point.baseline is not None] or None,
            validation=validation if np.isfinite(validation).any() else None,
            diverged=diverged,
            num_steps=self._num_steps,
            smoothing=smoothing,
        )


def recording_of(trainable: Trainable[Any, Any], num_steps: int, rule: StopRule) -> Recording:
    """A recording that looks at the losses as often as ``trainable`` can bear."""
    read_every = trainable.read_every if isinstance(trainable, ReadsLater) else 1
    return Recording(trainable.read, num_steps, rule, read_every)


def could_change(trainable: Trainable[Any, Any], snapshot: Any) -> float | None:
    """What a training tells of the way of its weights since ``snapshot``; None if it can't."""
    return trainable.could_change(snapshot) if isinstance(trainable, TellsChange) else None
