"""The range test: the rate goes up step by step, the loss is recorded, until it diverges."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from findlr.analysis.curve import Curve, Step, Stop
from findlr.analysis.smoothing import Array, BiasCorrectedAverage
from findlr.errors import ConfigurationError, DataEndedError
from findlr.search import interrupts
from findlr.search.interrupts import signals_act
from findlr.search.trainable import HasActingRate, HasValidation, ReadsLater, SkipsLater, Trainable

Spacing = Literal["exponential", "linear"]

_FEWEST = 10  # losses from which a spread can be told, where the loss may be negative
_SKIPS = 20  # steps in a row that the optimizer may skip
_READ = (float, type(None))


def sweep_lrs(min_lr: float, max_lr: float, num_steps: int, spacing: Spacing = "exponential") -> Array:
    """The rates of a sweep.

    exponential: lr_i = min_lr (max_lr / min_lr)^(i / (num_steps - 1));   linear: lr_i evenly spaced.

    Args:
        min_lr: the first rate, above 0.
        max_lr: the last rate, above ``min_lr``.
        num_steps: how many, at least 2.
        spacing: "exponential" or "linear".

    Returns:
        Rates, shape (num_steps,); the first is exactly ``min_lr``, the last exactly ``max_lr``.

    Raises:
        ConfigurationError: an argument outside its range.

    Example:
        >>> sweep_lrs(0.01, 1.0, 3)
        array([0.01, 0.1 , 1.  ])

    Source: Gugger 2018, with q = (max_lr / min_lr)^(1 / (num_steps - 1)).
    """
    for name, value in (("min_lr", min_lr), ("max_lr", max_lr)):
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or value <= 0:
            raise ConfigurationError(
                f"{name} must be a finite rate above 0, got {value!r}; the article uses 1e-8 to 10"
            )
    if min_lr >= max_lr:
        raise ConfigurationError(
            f"min_lr must be below max_lr, got {min_lr!r} and {max_lr!r}; swap them or widen the range"
        )
    if isinstance(num_steps, bool) or not isinstance(num_steps, (int, np.integer)) or num_steps < 2:
        raise ConfigurationError(
            f"num_steps must be a whole number of at least 2, got {num_steps!r}; 100 is the default"
        )
    if spacing == "linear":
        result = np.linspace(min_lr, max_lr, num_steps)
    elif spacing == "exponential":
        exponents = np.arange(num_steps) / (num_steps - 1)
        result = min_lr * (max_lr / min_lr) ** exponents
    else:
        raise ConfigurationError(f"spacing must be 'exponential' or 'linear', got {spacing!r}")
    result[0], result[-1] = min_lr, max_lr
    return result


class StopRule:
    """Tells, loss by loss, whether a sweep has diverged, whatever the loss's sign.

    While every raw loss is above 0: smoothed > threshold * best. From the first that is not:
    smoothed - best > (threshold - 1) * max(first smoothed - best, standard deviation of the raw losses up to the best).

    Args:
        threshold: how many times the best smoothed loss is too much, above 1.
        beta: the smoothing, in [0, 1).

    Raises:
        ConfigurationError: ``threshold`` is not above 1, or ``beta`` not in [0, 1).

    Source: Gugger 2018 for losses above 0; the rest is original. Where the best comes within the first 10 losses, the
    deviation is that of the first 10: that of one loss alone is 0, and any rise at all would pass it.
    """

    def __init__(self, threshold: float = 4.0, beta: float = 0.98) -> None:
        if isinstance(threshold, bool) or not (math.isfinite(threshold) and threshold > 1.0):
            raise ConfigurationError(f"divergence_threshold must be above 1, got {threshold!r}; the article uses 4")
        self.threshold = threshold
        self.best = math.inf
        self.smoothed = math.nan
        self._average = BiasCorrectedAverage(beta)
        self._first = math.nan
        self._all_positive = True
        self._count = 0
        self._mean = self._squares = 0.0  # Welford's running moments of the raw losses
        self._spread = 0.0

    def update(self, loss: float) -> Stop | None:
        """Take the next raw loss; return why to stop here, or None."""
        if not math.isfinite(loss):
            return Stop.NOT_FINITE
        self._all_positive = self._all_positive and loss > 0
        self._count += 1
        delta = loss - self._mean
        self._mean += delta / self._count
        self._squares += delta * (loss - self._mean)
        self.smoothed = self._average.update(loss)
        if self._count == 1:
            self._first = self.smoothed
        if self.smoothed < self.best or self._count <= _FEWEST:
            self._spread = math.sqrt(self._squares / self._count)
        self.best = min(self.best, self.smoothed)
        if self._all_positive:
            diverged = self.smoothed > self.threshold * self.best
        else:
            scale = max(self._first - self.best, self._spread)
            diverged = self._count >= _FEWEST and self.smoothed - self.best > (self.threshold - 1.0) * scale
        return Stop.DIVERGED if diverged else None


class _Point(NamedTuple):
    """What was measured at a rate, not read yet; None is what was not measured."""

    lr: float
    loss: Any
    baseline: Any
    validation: Any
    skipped: Any


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
        self._read, self._num_steps, self._rule = read, num_steps, rule
        self._read_every = read_every
        self._watchers: list[Callable[[Step], object]] = []
        self._lrs: list[float] = []
        self._losses: list[float] = []
        self._baselines: list[float] = []
        self._validations: list[float] = []
        self._skips = 0  # in a row
        self._waiting: list[_Point] = []

    def watch(self, *watchers: Callable[[Step], object] | None) -> None:
        """Call each of ``watchers`` with every point once it is read."""
        self._watchers.extend(watcher for watcher in watchers if watcher is not None)

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
        if skipped is None:
            self._skips = 0
            if self._read_every == 1 and type(loss) is float and validation is None and type(baseline) in _READ:
                self._keep(lr, loss, baseline, None)  # the most frequent case, at little cost
                return
        self._waiting.append(_Point(lr, loss, baseline, validation, skipped))
        if len(self._waiting) >= self._read_every:
            self.flush()

    def skip(self) -> None:
        """The optimizer skipped a step, which is no point; too many in a row end the sweep."""
        self.steps += 1
        self._skips += 1
        if self._skips == _SKIPS:
            self.end(Stop.OVERFLOW)

    def flush(self) -> None:
        """Read what is waiting; points after the one that trips are cut."""
        waiting, self._waiting = self._waiting, []
        if not waiting:
            return
        # One wait for all.
        read = iter(self._read([value for point in waiting for value in point[1:] if value is not None]))
        for lr, *measured in waiting:
            loss, baseline, validation, skipped = (None if v is None else float(next(read)) for v in measured)
            assert loss is not None
            if self.stop is not None:
                return
            if skipped and math.isfinite(loss):  # a loss that is not finite is no matter of the scaler's
                self._skips += 1
                if self._skips == _SKIPS:
                    self.stop = Stop.OVERFLOW
                continue
            if skipped is not None:
                self._skips = 0
            self._keep(lr, loss, baseline, validation)

    def _keep(self, lr: float, loss: float, baseline: float | None, validation: float | None) -> None:
        self._lrs.append(lr)
        self._losses.append(loss)
        if baseline is not None:
            self._baselines.append(baseline)
        self._validations.append(math.nan if validation is None else validation)
        self.stop = self._rule.update(loss)
        if self._watchers:
            step = Step(len(self._lrs) - 1, self._num_steps, lr, loss, self._rule.smoothed, self._rule.best)
            for watcher in self._watchers:
                watcher(step)

    def end(self, why: Stop) -> None:
        """Read what is left; the sweep ended because of ``why``, unless what was left had tripped the rule before."""
        self.flush()
        if self.stop is None:
            self.stop = why

    def interrupt(self) -> None:
        """The sweep broke off: keep what was read, drop what was waiting (the device may be the reason)."""
        self._waiting.clear()
        if self.stop is None:
            self.stop = Stop.INTERRUPTED

    def curve(self, smoothing: float) -> Curve:
        """What was read so far."""
        diverged = self.stop in (Stop.DIVERGED, Stop.NOT_FINITE)
        validation = self._validations if np.isfinite(self._validations).any() else None
        return Curve(self._lrs, self._losses, self._baselines or None, validation, diverged, self._num_steps, smoothing)


@signals_act
def run_sweep(
    trainable: Trainable[Any, Any],
    lrs: Sequence[float] | Array,
    recording: Recording,
    baseline: Callable[[], Any] | None = None,
    validated: HasValidation | None = None,
) -> None:
    """Take one step at each rate until the rates end or the stop rule trips.

    A step that the optimizer skipped does not use up its rate, unless only its device knows: see ``SkipsLater``. What
    was measured is in ``recording``, whatever ends the sweep; nothing is put back here: see ``Restored``.

    Args:
        trainable: the training.
        lrs: the rates, rising; see ``sweep_lrs``.
        recording: takes the points.
        baseline: gives the last batch's loss under the starting weights; None measures none.
        validated: measures the held-out loss after every ``validation_every``-th step; None measures none.

    Raises:
        DataEndedError: the data ended before the first step.
    """
    try:
        _sweep(trainable, lrs, recording, baseline, validated)
    except DataEndedError:
        if not recording.steps:
            raise
        recording.end(Stop.DATA_ENDED)


def _sweep(
    trainable: Trainable[Any, Any],
    lrs: Sequence[float] | Array,
    recording: Recording,
    baseline: Callable[[], Any] | None,
    validated: HasValidation | None,
) -> None:
    acts = trainable if isinstance(trainable, HasActingRate) else None
    skips = trainable if isinstance(trainable, SkipsLater) else None
    for taken, lr in enumerate(map(float, lrs), start=1):
        if interrupts.waiting:
            interrupts.deliver()
        acting = lr if acts is None else acts.acting_lr(lr)
        if acting < 0.99 * lr:  # more than rounding
            recording.end(Stop.CAPPED)
            return
        while (loss := trainable.step(lr)) is None:
            recording.skip()
            if recording.stop is not None:
                return
        skipped = None if skips is None else skips.skipped()
        under_start = None if baseline is None else baseline()
        if under_start is None:
            baseline = None
        measured = None
        if validated is not None and validated.validation_every and taken % validated.validation_every == 0:
            measured = validated.validate()
        recording.add(acting, loss, under_start, measured, skipped)
        if recording.stop is not None:
            return
    recording.end(Stop.FINISHED)


def recording_of(trainable: Trainable[Any, Any], num_steps: int, rule: StopRule) -> Recording:
    """A recording that looks at the losses as often as ``trainable`` can bear."""
    read_every = trainable.read_every if isinstance(trainable, ReadsLater) else 1
    return Recording(trainable.read, num_steps, rule, read_every)
