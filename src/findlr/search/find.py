"""The search: sweep, verdict, rule. No framework."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

from findlr.analysis.acting import has_acted
from findlr.analysis.answer import answer, starting_point
from findlr.analysis.curve import Step
from findlr.analysis.plan import Plan
from findlr.analysis.rules import Rule
from findlr.analysis.runs import Race
from findlr.errors import ConfigurationError, DataEndedError
from findlr.finding import Cost, Finding
from findlr.search.race import run_race
from findlr.search.sweep import Recording, Spacing, StopRule, recording_of, run_sweep, sweep_lrs
from findlr.search.trainable import CountsPasses, HasBaseline, HasEpoch, HasFacts, HasValidation, Trainable, restored

logger = logging.getLogger("findlr")

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
    verify: bool = False,
    budget: float | None = None,
    rule: Rule | None = None,
    control_variate: bool | None = None,
    one_pass: bool = False,
    progress: Progress | bool | None = None,
    on_step: Callable[[Step], object] | None = None,
) -> Finding:
    """Find a learning rate for anything that can take a step at a rate and go back.

    The training is put back as it was on every exit. An exception carries what was measured as ``exc.finding``.

    Args:
        trainable: the training; see ``findlr.search.trainable``.
        plan: the training that is planned; None is a constant rate.
        min_lr: the first rate, above 0.
        max_lr: the last rate, above ``min_lr``.
        num_steps: optimizer steps, at least 2; "epoch" is one pass over the data.
        spacing: "exponential" or "linear".
        divergence_threshold: the sweep stops once the smoothed loss is this many times its best, above 1.
        smoothing: beta of the stop rule's average and of ``curve.smoothed()``, in [0, 1).
        verify: race the sweep's suggestion against rates near it on the planned schedule; needs the plan's total_steps.
        budget: what ``verify`` may spend, the sweep included and never exceeded: an int is steps, a float (0.5, 2.0) a
            share of the plan's total_steps; None is half of them, and at least 250 steps.
        rule: how the rate is chosen; None is ``rules.quick``.
        control_variate: measure each batch's loss under the starting weights, too; None where possible.
        one_pass: take a race's first runs in one pass where the training can; they end alike to rounding.
        progress: None shows the sweep where somebody looks, in a terminal or a notebook; True also writes plain lines
            into a log; False shows nothing; or a context manager that gives a function, called with each ``Step``.
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
    check_rule(rule)
    count = _steps_per_epoch(trainable) if num_steps == "epoch" else num_steps
    lrs = sweep_lrs(min_lr, max_lr, count, spacing)
    total = _budget(plan, budget, count, control_variate) if verify else None
    recording = recording_of(trainable, count, StopRule(divergence_threshold, smoothing))
    race: Race | None = None
    counting = trainable if isinstance(trainable, CountsPasses) else None
    start, passes = time.perf_counter(), _passes(counting)

    def spent() -> Cost:
        forwards, backwards = (now - then for now, then in zip(_passes(counting), passes, strict=True))
        if counting is None:
            forwards = backwards = recording.steps + (sum(run.steps for run in race.runs) if race else 0)
        return Cost(backwards + (forwards - backwards) / 3, forwards, backwards, time.perf_counter() - start)

    def finish() -> Finding:
        facts = trainable.facts() if isinstance(trainable, HasFacts) else {}
        return conclude(recording, smoothing, plan, rule, spent(), facts, race)

    with display(progress) as show:
        recording.watch(show, on_step)
        try:
            with restored(trainable) as snapshot:
                baseline = _baseline(trainable, snapshot, control_variate)
                # Under verify the held-out data score the race only: its budget is for that.
                held_out = trainable if isinstance(trainable, HasValidation) and not verify else None
                run_sweep(trainable, lrs, recording, baseline, held_out)
                if total is not None:
                    trainable.restore(snapshot)
                    curve = recording.curve(smoothing)
                    sweep = starting_point(curve, plan, rule)
                    if sweep is not None:
                        limits = float(curve.lr[0]), float(curve.usable().lr[-1])
                        try:
                            left = total - spent().steps
                            how = {"one_pass": one_pass, "rates_act": has_acted(curve)}
                            race = run_race(trainable, plan, sweep.lr, limits, left, **how)
                        except DataEndedError:
                            logger.warning("there is no race: the data ended, and can be read only once")
        except BaseException as error:
            recording.interrupt()
            try:
                found = finish()
            except Exception as late:  # noqa: BLE001 - the rule's; the first error is the one to raise
                found = late.finding  # type: ignore[attr-defined]
            carry(error, found)
            raise
    return finish()


def conclude(
    recording: Recording,
    smoothing: float,
    plan: Plan,
    rule: Rule | None,
    cost: Cost,
    facts: Mapping[str, Any],
    race: Race | None = None,
) -> Finding:
    """The Finding of a sweep that is over, and of the race that may have followed it.

    Args:
        recording: the points; why they ended is in it.
        smoothing: beta of ``curve.smoothed()``.
        plan: the training that is planned.
        rule: how the rate is chosen; None is ``rules.quick``.
        cost: what was spent.
        facts: what the training told of itself.
        race: the runs that verify the suggestion, if there were any.

    Returns:
        The Finding.

    Raises:
        Exception: what a rule of the user's own raises; it carries what was measured, read by ``rules.quick``.
    """
    assert recording.stop is not None
    curve = recording.curve(smoothing)
    try:
        found = answer(curve, plan, rule, race, recording.ending(facts.get("accumulation_steps") or 1))
    except Exception as error:  # a rule of the user's own
        carry(error, conclude(recording, smoothing, plan, None, cost, facts, race))
        raise
    return Finding(found.suggestion, found.verdict, found.why, recording.stop, curve, plan, cost, facts, race)


def carry(error: BaseException, finding: Finding, where: str = "this exception's .finding") -> None:
    """Let an exception carry what was measured, and say where else it is."""
    error.finding = finding  # type: ignore[attr-defined]
    error.add_note(f"findlr: everything was put back; what was measured is in {where}")


def _budget(plan: Plan, budget: float | None, num_steps: int, control_variate: bool | None) -> float:
    """What a verified search may spend, in steps."""
    if plan.total_steps is None:
        raise ConfigurationError("verify=True needs total_steps, the length of the training that is planned: give it")
    if budget is None:
        total = max(250.0, plan.total_steps / 2)
    elif isinstance(budget, bool) or not (isinstance(budget, (int, float)) and math.isfinite(budget) and budget > 0):
        raise ConfigurationError(f"budget must be a number of steps or a share of total_steps above 0, got {budget!r}")
    else:
        total = float(budget) if isinstance(budget, int) else budget * plan.total_steps
    sweep = num_steps if control_variate is False else (num_steps * 4 + 2) / 3  # with the control variate's self-check
    if total < sweep:
        raise ConfigurationError(
            f"budget={budget!r} is {total:.0f} steps, and the sweep alone may take {sweep:.0f}: "
            "raise it, or lower num_steps"
        )
    return total


def _baseline(trainable: Trainable[Any, Any], snapshot: Any, wanted: bool | None) -> Callable[[], Any] | None:
    if wanted is False:
        return None
    reason: str | None = f"{type(trainable).__name__} has no baseline()"
    if isinstance(trainable, HasBaseline):
        reason = trainable.prepare_baseline(snapshot)
        if reason is None:
            return trainable.baseline
    if wanted:
        raise ConfigurationError(f"control_variate=True cannot be had: {reason}; leave it out")
    return None


def _steps_per_epoch(trainable: Trainable[Any, Any]) -> int:
    if not isinstance(trainable, HasEpoch):
        raise ConfigurationError(
            f"num_steps='epoch' needs a training that knows its epoch's length, and {type(trainable).__name__} has no "
            "steps_per_epoch(): give a number of steps"
        )
    return trainable.steps_per_epoch()


def _passes(counting: CountsPasses | None) -> tuple[int, int]:
    return (0, 0) if counting is None else (counting.forwards, counting.backwards)


def check_rule(rule: Rule | None) -> None:
    """Refuse what is no rule, before anything is swept.

    Raises:
        ConfigurationError: ``rule`` is no function.
    """
    if not (rule is None or callable(rule)):
        raise ConfigurationError(f"rule must be a function such as findlr.rules.valley, got {rule!r}")


def display(progress: Progress | bool | None) -> AbstractContextManager[Callable[[Step], object] | None]:
    """The display that was asked for.

    Raises:
        ConfigurationError: ``progress`` is neither None, True, False nor a context manager.
        MissingExtraError: True, and rich is not installed.
    """
    if progress is False:
        return nullcontext()
    if progress is None or progress is True:
        from findlr.views.live import live

        return live(progress)
    if not isinstance(progress, AbstractContextManager):
        raise ConfigurationError(
            "progress must be True, False, None (shown where somebody looks), or a context manager such as "
            f"findlr.views.console.LiveSweep(), got {progress!r}"
        )
    return progress
