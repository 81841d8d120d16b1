"""The range test: the rate goes up step by step, the loss is recorded, until it diverges."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import numpy as np

from findlr.analysis.curve import Stop
from findlr.analysis.numbers import plain, real
from findlr.analysis.smoothing import Array
from findlr.errors import ConfigurationError, DataEndedError, RankError
from findlr.finding.saved import is_rate
from findlr.search import interrupts
from findlr.search.failure import is_the_rates, is_the_trainings
from findlr.search.interrupts import signals_act
from findlr.search.recording import Recording
from findlr.search.trainable import HasActingRate, HasValidation, SkipsLater, Trainable

MOST_STEPS = 10_000_000  # more points would not fit into memory

Spacing = Literal["exponential", "linear"]


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
        number = value if type(value) is float else real(value)
        if number is None or not is_rate(number):
            what = "between 1e-100 and 1e100" if number is not None and 0 < number < math.inf else "above 0"
            raise ConfigurationError(f"{name} must be a finite rate {what}, got {value!r}; the article uses 1e-8 to 10")
    if type(min_lr) is not float or type(max_lr) is not float:
        min_lr, max_lr = plain(min_lr), plain(max_lr)
    if min_lr >= max_lr:
        raise ConfigurationError(
            f"min_lr must be below max_lr, got {min_lr!r} and {max_lr!r}; swap them or widen the range"
        )
    count = num_steps if type(num_steps) is int else plain(num_steps)
    if isinstance(count, bool) or not isinstance(count, int) or not 2 <= count <= MOST_STEPS:
        raise ConfigurationError(
            f"num_steps must be a whole number of at least 2 and at most {MOST_STEPS:,}, got {num_steps!r}; 100 is "
            "the default"
        )
    num_steps = count
    if not isinstance(spacing, str) or spacing not in ("exponential", "linear"):
        raise ConfigurationError(f"spacing must be 'exponential' or 'linear', got {spacing!r}")
    if spacing == "linear":
        result = np.linspace(min_lr, max_lr, num_steps)
    else:
        exponents = np.arange(num_steps) / (num_steps - 1)
        result = min_lr * (max_lr / min_lr) ** exponents
    result[0], result[-1] = min_lr, max_lr
    return result


@signals_act
def run_sweep(
    trainable: Trainable[Any, Any],
    lrs: Sequence[float] | Array,
    recording: Recording,
    baseline: Callable[[], Any] | None = None,
    validated: HasValidation | None = None,
) -> None:
    """Take one step at each rate until the rates end or the stop rule trips.

    A step that the optimizer skipped does not use up its rate, unless only its device knows: see ``SkipsLater``. An
    exception of the training's own ends the sweep once a rate has acted, unless the batch fails under the starting
    weights, too. What was measured is in ``recording``, whatever ends the sweep; nothing is put back here: see
    ``restored``.

    Args:
        trainable: the training.
        lrs: the rates, rising; see ``sweep_lrs``.
        recording: takes the points.
        baseline: gives the last batch's loss under the starting weights; None measures none.
        validated: measures the held-out loss after every ``validation_every``-th step; None measures none.

    Raises:
        DataEndedError: the data ended before the first step.
        Exception: what the training raised before any rate had acted.
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

    def is_too_high(error: Exception) -> bool:
        """Whether an exception says that the rate is too high; the sweep has ended then."""
        # Before the first point no rate has acted, and the control variate has no step that it could be checked by.
        may_be = recording.steps > 0 and is_the_trainings(error)
        return may_be and is_the_rates(baseline, trainable.read) and recording.fail(error)

    for taken, lr in enumerate(map(float, lrs), start=1):
        if interrupts.waiting:
            interrupts.deliver()
        acting = lr if acts is None else acts.acting_lr(lr)
        if acting < 0.99 * lr or acting < recording.last_lr:  # more than rounding
            recording.end(Stop.CAPPED)
            return
        loss = _stepped(trainable, lr, recording, is_too_high)
        if loss is None:
            return
        skipped = None if skips is None else skips.skipped()
        try:
            under_start = None if baseline is None else baseline()
            baseline = None if under_start is None else baseline
            add = partial(recording.add, acting, loss, under_start, skipped=skipped)
            if validated is not None and validated.validation_every and taken % validated.validation_every == 0:
                _validate(validated, add, is_too_high)
            else:
                add()
        except RankError as error:  # another process may have failed in its step
            if not is_too_high(error):
                raise
        if recording.stop is not None:
            return
    recording.end(Stop.FINISHED)


def _validate(validated: HasValidation, add: Callable[..., None], is_too_high: Callable[[Exception], bool]) -> None:
    """Add a point with its held-out loss; without it, if the training raises there."""
    try:
        measured = validated.validate()
    except RankError:
        raise
    except Exception as error:
        add()
        if not is_too_high(error):
            raise
    else:
        add(validation=measured)


def _stepped(
    trainable: Trainable[Any, Any], lr: float, recording: Recording, is_too_high: Callable[[Exception], bool]
) -> Any:
    """The loss of a step that the optimizer took; None if the sweep has ended."""
    while True:
        try:
            loss = trainable.step(lr)
        except Exception as error:
            if is_too_high(error):
                return None
            recording.raised = error
            raise
        if loss is not None:
            return loss
        recording.skip()
        if recording.stop is not None:
            return None
