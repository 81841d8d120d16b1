"""What a sweep measured, and why it ended."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from enum import Enum
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from findlr.analysis.given import of_kind
from findlr.analysis.numbers import plain, whole
from findlr.analysis.race import Run
from findlr.analysis.smoothing import Array, BiasCorrectedAverage, bias_corrected
from findlr.analysis.text import interval_text
from findlr.errors import ConfigurationError

_ROUNDING_32 = 1e-6  # share of the loss: several units in a float32's last place
_ROUNDING_64 = 1e-12  # the same of a float64, of which a sum or a mean over a batch leaves some
_LARGEST = 1e150  # a loss beyond it is as good as infinite, because its square is
_ARRAYS = ("lr", "loss", "baseline", "validation")
_SHALLOW = 3.0  # spreads; on the benchmark's tasks smaller falls tell the best rate far less exactly


class Stop(Enum):
    """Why a sweep ended; each member's value is the sentence."""

    FINISHED = "The sweep reached its highest rate."
    DIVERGED = "The smoothed loss rose past the divergence threshold."
    NOT_FINITE = "The last loss is NaN or infinite."
    CAPPED = "The optimizer caps its own rate, so higher rates would not have acted."
    OVERFLOW = "The optimizer skipped 20 steps in a row."
    DATA_ENDED = "The data ended, and they can be read only once."
    FAILED = "The training raised an exception at a rate that is too high."
    LEFT = "The loop was left before the sweep had ended."
    INTERRUPTED = "An exception or an interrupt ended the sweep."

    @property
    def sentence(self) -> str:
        """Why the sweep ended, in words."""
        return self.value


class Ending(NamedTuple):
    """How a sweep ended, beside its points.

    Args:
        stop: why.
        error: the training's exception, in a line, where that ended it.
        skipped: steps that the optimizer skipped before, which are no points.
        batches_per_step: of the training.
    """

    stop: Stop = Stop.FINISHED
    error: str | None = None
    skipped: int = 0
    batches_per_step: int = 1


@dataclass(frozen=True)
class Step:
    """One step of a running sweep, or of a run of a race, as a progress display sees it.

    Args:
        index: of the step in its sweep or run, from 0.
        num_steps: steps that the sweep or run has, if it does not end early.
        lr: the rate of the step.
        loss: before the step; infinite where a run ended because its training raised an exception.
        smoothed: the smoothed loss of the sweep or run so far.
        best: the lowest smoothed loss so far.
        run: which run of a race, from 1; None in the sweep.
        runs: how many runs the race has at most; None in the sweep.
        peak: the highest rate of the run, which names it; None in the sweep.
        ended: the runs that have ended, each with the loss that it ended at; this one, too, at its last step.
        together: how many runs are taken in one pass, this one among them: the first ones of the race, whose steps come
            in turn.
    """

    index: int
    num_steps: int
    lr: float
    loss: float
    smoothed: float
    best: float
    run: int | None = None
    runs: int | None = None
    peak: float | None = None
    ended: tuple[Run, ...] = ()
    together: int = 1


@dataclass(frozen=True, eq=False, repr=False)
class Curve:
    """The loss at each rate of a sweep: read-only float64 arrays, in the order measured.

    Args:
        lr: the rate of each step, shape (n,), above 0 and rising.
        loss: the raw loss that each step's forward pass saw before its update, shape (n,).
        baseline: the loss of the same batch under the starting weights, shape (n,), where it was measured.
        validation: the held-out loss after the step, shape (n,), NaN where it was not measured.
        diverged: True if the last point is the one that tripped the stop rule; rules and plots leave it out.
        num_steps: steps that were planned, at least n; None means n.
        smoothing: the beta that ``smoothed()`` uses unless told otherwise.

    Raises:
        ConfigurationError: the arrays differ in length, or a rate is not finite and above 0, or they do not rise; or
            one of the other arguments is no number of its kind.

    Example:
        >>> curve = Curve(lr=[1e-3, 1e-2, 1e-1], loss=[2.3, 2.0, 2.1])
        >>> len(curve)
        3
    """

    lr: Array
    loss: Array
    baseline: Array | None = None
    validation: Array | None = None
    diverged: bool = False
    num_steps: int | None = None
    smoothing: float = 0.98

    def __init__(
        self,
        lr: Sequence[float] | Array,
        loss: Sequence[float] | Array,
        baseline: Sequence[float] | Array | None = None,
        validation: Sequence[float] | Array | None = None,
        diverged: bool = False,
        num_steps: int | None = None,
        smoothing: float = 0.98,
    ) -> None:
        keep = partial(object.__setattr__, self)
        keep("lr", _read_only("lr", lr))
        for name, values in (("loss", loss), ("baseline", baseline), ("validation", validation)):
            array = None if values is None and name != "loss" else _read_only(name, values)
            if array is not None and len(array) != len(self.lr):
                raise ConfigurationError(
                    f"a curve needs one {name} per rate, got {len(self.lr)} rates and {len(array)}"
                )
            keep(name, array)
        if not (np.isfinite(self.lr).all() and (self.lr > 0).all() and (np.diff(self.lr) >= 0).all()):
            raise ConfigurationError("the rates of a curve must be finite, above 0 and rising; sort the points by rate")
        # The usual types are looked at first, because each other check is a call.
        tripped: Any = diverged
        if type(tripped) is not bool:
            tripped = of_kind(plain(tripped), bool, "diverged", "say whether the last point tripped the stop rule")
        if type(num_steps) is not int or num_steps < 0:
            num_steps = len(self.lr) if num_steps is None else _count("num_steps", num_steps)
        if type(smoothing) is not float or not 0.0 <= smoothing < 1.0:
            smoothing = BiasCorrectedAverage(smoothing).beta
        keep("diverged", tripped)
        keep("num_steps", num_steps)
        keep("smoothing", smoothing)

    def __repr__(self) -> str:
        if not len(self):
            return "Curve(no points)"
        losses = f"loss {self.loss[0]:.4g} to {self.loss[-1]:.4g}"
        points = f"{len(self)} point{'s' * (len(self) != 1)}"
        return f"Curve({points}, lr {interval_text((self.lr[0], self.lr[-1]))}, {losses})"

    def __len__(self) -> int:
        return len(self.lr)

    def __eq__(self, other: object) -> bool:
        """Equal to the last bit; NaN equals NaN."""
        if not isinstance(other, Curve):
            return NotImplemented
        return all(_same(getattr(self, name), getattr(other, name)) for name in _ARRAYS) and (
            (self.diverged, self.num_steps, self.smoothing) == (other.diverged, other.num_steps, other.smoothing)
        )

    __hash__ = None  # type: ignore[assignment]

    def __reduce__(self) -> tuple[type[Curve], tuple[Any, ...]]:
        """Made anew where it is copied or unpickled: NumPy's own copies could be written to."""
        return Curve, tuple(getattr(self, field.name) for field in fields(self))

    @property
    def log10_lr(self) -> Array:
        """The rates' decimal logarithms, shape (n,)."""
        return np.asarray(np.log10(self.lr), dtype=np.float64)

    def usable(self) -> Curve:
        """The points before the one that tripped the stop rule, and before the first loss that is NaN or infinite.

        A loss beyond 1e150 counts as infinite.
        """
        end = len(self) - self.diverged
        bad = np.flatnonzero(~(np.abs(self.loss[:end]) < _LARGEST))
        if bad.size:
            end = int(bad[0])
        return self if end == len(self) else self._part(slice(0, end))

    def paired(self) -> Curve:
        """The usable points whose loss under the starting weights is a number, too, where that was measured."""
        usable = self.usable()
        if usable.baseline is None:
            return usable
        numbers = np.abs(usable.baseline) < _LARGEST
        return usable if numbers.all() else usable._part(np.flatnonzero(numbers))  # noqa: SLF001 - a Curve's

    def rounding(self) -> float:
        """A change of the loss below this share of it could be its own type's rounding.

        1e-6, for float32; 1e-12 where the losses carry more digits than that: most of the usable ones are no float32,
        and most of the first tenth differ from each other.
        """
        losses = self.usable().loss
        with np.errstate(over="ignore"):
            longer = np.count_nonzero(losses.astype(np.float32) != losses)
        first = losses[: max(5, len(losses) // 10)]  # a float32's rounding gives few values while no rate acts
        double = 2 * longer > len(losses) and 2 * len(set(first.tolist())) > len(first)
        return _ROUNDING_64 if double else _ROUNDING_32

    def at_start(self) -> Array:
        """The losses under the starting weights; where they were not measured, the first tenth of the usable ones.

        Returns:
            Losses, shape (k,): one for each point of ``paired()``, or at least 5 of them if there are as many.
        """
        points = self.paired()
        return points.loss[: max(5, len(points) // 10)] if points.baseline is None else points.baseline

    def spread(self) -> float:
        """How much batches differ: the standard deviation of ``at_start()``; 0 if there is no point."""
        losses = self.at_start()
        return float(np.std(losses)) if len(losses) else 0.0

    def is_shallow(self, fall: float) -> bool:
        """Whether a fall of the loss is small against the differences between batches."""
        return fall < _SHALLOW * self.spread()

    def smoothed(self, beta: float | None = None) -> Curve:
        """The same curve with the article's bias-corrected average in place of the raw losses.

        Args:
            beta: in [0, 1); None takes the curve's own ``smoothing``.

        Returns:
            A Curve; the validation losses stay as they are.
        """
        return replace(self, loss=bias_corrected(self.loss, self.smoothing if beta is None else beta))

    def clipped(self, skip_start: int = 10, skip_end: int = 5) -> Curve:
        """The usable points without the first ``skip_start`` and the last ``skip_end``.

        Args:
            skip_start: points to leave out at the start, at least 0.
            skip_end: points to leave out at the end, at least 0.

        Returns:
            A Curve, empty if nothing is left.

        Raises:
            ConfigurationError: a count is no whole number, or below 0.
        """
        skip_start, skip_end = _count("skip_start", skip_start), _count("skip_end", skip_end)
        usable = self.usable()
        return usable._part(slice(skip_start, max(len(usable) - skip_end, 0)))  # noqa: SLF001 - a Curve's

    def _part(self, where: slice | np.ndarray[Any, np.dtype[np.intp]]) -> Curve:
        """Those of the usable points, so that none of them is the one that tripped the stop rule."""
        now = {name: getattr(self, name) for name in _ARRAYS}
        arrays: dict[str, Any] = {name: None if each is None else each[where] for name, each in now.items()}
        return replace(self, **arrays, diverged=False)

    def to_dict(self) -> dict[str, Any]:
        """The curve as plain lists and numbers."""
        return {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in vars(self).items()}


def _read_only(name: str, values: Any) -> Array:
    try:
        array = np.array(values, dtype=np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise ConfigurationError(f"a curve's {name} must be numbers: {error}") from None
    if array.ndim != 1:
        raise ConfigurationError(f"a curve's {name} must have one dimension, got shape {array.shape}")
    array.setflags(write=False)
    return array


def _count(name: str, given: Any) -> int:
    count = whole(given)
    if count is None or count < 0:
        raise ConfigurationError(f"{name} must be a whole number of points, at least 0, got {given!r}")
    return count


def _same(a: Array | None, b: Array | None) -> bool:
    return a is b if a is None or b is None else np.array_equal(a, b, equal_nan=True)
