"""The search: sweep, verdict, rule. No framework."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

from findlr import rules
from findlr.curve import Curve
from findlr.errors import ConfigurationError, NoSuggestionError
from findlr.finding import Cost, Finding, inside
from findlr.plan import Plan
from findlr.rules import Rule, Suggestion
from findlr.sweep import Spacing, Step, StopRule, rates, recording_of, run_sweep
from findlr.trainable import CountsPasses, HasEpoch, HasFacts, Trainable, restored
from findlr.verdict import Verdict, judge

Progress = AbstractContextManager[Callable[[Step], object]]


def find(
    trainable: Trainable[Any, Any],
    plan: Plan | None = None,
    *,
    min_lr: float = 1e-8,
    max_lr: float = 10.0,
    num_steps: int | Literal["epoch"] = 100,
    spacing: Spacing = "exponential",
    divergence_threshold: float = 4.0,
    smoothing: float = 0.98,
    rule: Rule | None = None,
    progress: Progress | None = None,
    on_step: Callable[[Step], object] | None = None,
) -> Finding:
    """Find a learning rate for anything that can take a step at a rate and go back.

    The training is put back as it was on every exit. An exception carries what was measured as ``exc.finding``.

    Args:
        trainable: the training; see ``findlr.trainable``.
        plan: the training that is planned; None is a constant rate.
        min_lr: the first rate, above 0.
        max_lr: the last rate, above ``min_lr``.
        num_steps: optimizer steps, at least 2; "epoch" is one pass over the data.
        spacing: "exponential" or "linear".
        divergence_threshold: the sweep stops once the smoothed loss is this many times its best, above 1.
        smoothing: beta of the stop rule's average and of ``curve.smoothed()``, in [0, 1).
        rule: how the rate is chosen; None is ``rules.article``.
        progress: a context manager that gives a function, called with each ``Step``; such as ``console.LiveSweep()``.
        on_step: called with each ``Step`` once its loss is read.

    Returns:
        The Finding, with or without a suggestion: a poor curve is a result, not an exception.

    Raises:
        ConfigurationError: an argument outside its range.

    Example:
        >>> from findlr.testing import Quadratic
        >>> 0.01 < find(Quadratic()).lr < 1
        True
    """
    plan = Plan() if plan is None else plan
    count = _steps_per_epoch(trainable) if num_steps == "epoch" else num_steps
    lrs = rates(min_lr, max_lr, count, spacing)
    recording = recording_of(trainable, count, StopRule(divergence_threshold, smoothing))
    start, passes = time.perf_counter(), _passes(trainable)

    def finish() -> Finding:
        curve = recording.curve(smoothing)
        forwards, backwards = (now - then for now, then in zip(_passes(trainable), passes, strict=True))
        if not isinstance(trainable, CountsPasses):
            forwards = backwards = recording.steps
        cost = Cost(backwards + (forwards - backwards) / 3, forwards, backwards, time.perf_counter() - start)
        facts = trainable.facts() if isinstance(trainable, HasFacts) else {}
        suggestion, verdict, why = choose(curve, plan, rule)
        assert recording.stop is not None
        return Finding(suggestion, verdict, why, recording.stop, curve, plan, cost, facts)

    with progress if progress is not None else nullcontext(_nothing) as show:
        recording.watch(show, on_step)
        try:
            with restored(trainable):
                run_sweep(trainable, lrs, recording)
        except BaseException as error:
            recording.interrupt()
            error.finding = finish()  # type: ignore[attr-defined]
            error.add_note("findlr: everything was put back; what was measured is in this exception's .finding")
            raise
    return finish()


def choose(curve: Curve, plan: Plan, rule: Rule | None = None) -> tuple[Suggestion | None, Verdict, str]:
    """Judge a curve, and ask a rule if the verdict allows it.

    Args:
        curve: the raw losses of a sweep.
        plan: the training that is planned.
        rule: None is ``rules.article``.

    Returns:
        The suggestion or None, the verdict, and its reason.
    """
    judgement = judge(curve)
    if judgement.verdict.refuses:
        return None, judgement.verdict, judgement.why
    try:
        return inside((rule or rules.article)(curve, plan), curve), judgement.verdict, judgement.why
    except NoSuggestionError as error:
        return None, Verdict.NO_ANSWER, f"{judgement.why} But {error}."


def _steps_per_epoch(trainable: Trainable[Any, Any]) -> int:
    if not isinstance(trainable, HasEpoch):
        raise ConfigurationError(
            f"num_steps='epoch' needs a training that knows its epoch's length, and {type(trainable).__name__} has no "
            "steps_per_epoch(): give a number of steps"
        )
    return trainable.steps_per_epoch()


def _passes(trainable: Trainable[Any, Any]) -> tuple[int, int]:
    return (trainable.forwards, trainable.backwards) if isinstance(trainable, CountsPasses) else (0, 0)


def _nothing(step: Step) -> None:
    return None
