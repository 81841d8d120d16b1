"""The search: sweep, answer and, if it is to be verified, a race. No framework."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from os import PathLike
from typing import Any, Unpack

from findlr.analysis.answer import starting_point
from findlr.analysis.plan import Plan
from findlr.analysis.race import Race
from findlr.analysis.runs import AT_ONCE
from findlr.analysis.text import without_verify
from findlr.errors import ConfigurationError, DataEndedError, FindlrError, LoaderError
from findlr.finding import Cost, Finding
from findlr.search.alike import check_alike, settled
from findlr.search.checkpoint import Checkpoint
from findlr.search.conclusion import conclude, may_verify
from findlr.search.failure import carry, short
from findlr.search.interrupts import HeldSignals, signals_wait
from findlr.search.race import Terms, run_race
from findlr.search.recording import could_change, recording_of
from findlr.search.restoring import Unwritten, restored
from findlr.search.settings import Search, Settings, chosen_rule
from findlr.search.sweep import run_sweep, sweep_lrs
from findlr.search.trainable import (
    ChecksVerify,
    CountsPasses,
    HasBaseline,
    HasEpoch,
    HasFacts,
    HasPlan,
    HasValidation,
    OneOfSeveral,
    RaisesLater,
    Trainable,
)
from findlr.search.turns import Turn
from findlr.search.watching import RaceWatch, display, entered, on_one_of_several
from findlr.search.workers import Workers

logger = logging.getLogger("findlr")


@signals_wait
def find(trainable: Trainable[Any, Any], plan: Plan | None = None, **search: Unpack[Search]) -> Finding:
    """Find a learning rate for anything that can take a step at a rate and go back.

    The training is put back as it was on every exit. An exception carries what was measured as ``exc.finding``.
    Searches of several threads wait for each other.

    Args:
        trainable: the training; see ``findlr.search.trainable``.
        plan: the training that is planned; None is a constant rate. What it leaves open, the training may fill in.
        **search: see ``findlr.search.settings.Settings``.

    Returns:
        The Finding, with or without a suggestion: a poor curve is a result, not an exception.

    Raises:
        ConfigurationError: an argument outside its range; a ``RangeTest`` is open in another thread; or another
            thread's search waits for this one.
        RestoreError: something could not be put back; it names what.

    Example:
        >>> from findlr.testing import Quadratic
        >>> 0.01 < find(Quadratic()).lr < 1
        True
    """
    if isinstance(trainable, type) or not isinstance(trainable, Trainable):
        kind = f"the class {trainable.__name__}" if isinstance(trainable, type) else type(trainable).__name__
        raise ConfigurationError(f"find takes a Trainable, which has step, read, snapshot and restore; got {kind}")
    if not (plan is None or isinstance(plan, Plan)):
        raise ConfigurationError(f"plan must be a findlr.Plan or None, got {plan!r}: give Plan('one_cycle', 1000), say")
    return found(trainable, Plan() if plan is None else plan, Settings.of(search, ("trainable", "plan")))


@signals_wait
def found(trainable: Trainable[Any, Any], plan: Plan, settings: Settings) -> Finding:
    """``find`` with settings that are checked already."""
    task = _Search(trainable, plan, settings)
    signals, turn = HeldSignals(together=task.several is not None), Turn()
    try:
        signals.hold()
        turn.take()
        with display(task.progress) as show, entered(task.settings.on_step):
            on_step = task.settings.on_step
            if on_step is not None and task.several is not None and isinstance(trainable, RaisesLater):
                on_step = on_one_of_several(on_step, trainable)
            task.recording.watch(show, on_step)
            return task.run()
        # A display has swallowed what broke the search off, and there is no Finding to return.
        raise task.ended or ConfigurationError(  # noqa: TRY301 - handled as what it raised itself
            "progress= has swallowed what entering on_step= has raised: let its __exit__ return None"
        )
    except KeyboardInterrupt as error:  # a notebook shows five lines of each frame
        raise short(error, sys.exc_info()[2])  # noqa: B904 - it is the same one
    except Exception as error:
        if error is task.recording.raised and not isinstance(error, FindlrError):
            raise short(error, sys.exc_info()[2])  # noqa: B904 - it is the same one
        if not isinstance(error, LoaderError if task.recording.steps else FindlrError):
            raise
        raise error.with_traceback(None) from error.__cause__  # its message says all, and no frame more
    finally:
        task.ended = task.recording.raised = None  # their tracebacks hold the task, which holds them
        turn.give()
        task.release(signals)  # last: from there on a Ctrl-C is the user's own


class _Search:
    """One search: what is asked, what has been measured, what it has cost."""

    def __init__(self, trainable: Trainable[Any, Any], plan: Plan, settings: Settings) -> None:
        self.settings = settings
        self._trainable = trainable
        self.several = trainable if isinstance(trainable, OneOfSeveral) and trainable.world_size > 1 else None
        if self.several is not None:
            check_alike(self.several, {**settings.asked(), "plan": plan.to_dict()}, self._facts())
        self._plan = trainable.planned(plan) if isinstance(trainable, HasPlan) else plan
        count = steps_per_epoch(trainable) if settings.num_steps == "epoch" else int(settings.num_steps)
        self._lrs = sweep_lrs(settings.min_lr, settings.max_lr, count, settings.spacing)
        self._budget = settings.budget_in_steps(self._plan, count)
        if settings.verify and isinstance(trainable, ChecksVerify):
            trainable.check_verify()
        self.recording = recording_of(trainable, count, settings.stop_rule())
        self.finding: Finding | None = None
        self.ended: BaseException | None = None
        self.progress = settings.progress if self.several is None or self.several.rank == 0 else False
        self._snapshot: Any = None
        self._rule = chosen_rule(settings.rule)
        self._race: Race | None = None
        self._cost: Cost | None = None  # that the processes have agreed on
        self._counting = trainable if isinstance(trainable, CountsPasses) else None
        self._start, self._before = time.perf_counter(), _passes(self._counting)
        self._checkpoint = self._checkpoint_at(settings.checkpoint) if settings.verify else None
        self._workers = None if settings.executor is None else Workers(settings.executor, trainable)

    def _checkpoint_at(self, path: str | PathLike[str] | None) -> Checkpoint:
        training = self._trainable
        known = {"plan": self._plan.to_dict(), "training": type(training).__name__, "epoch": _epoch_of(training)}
        return Checkpoint(path, {**self.settings.asked(), **known}, self._made, self.several)

    def run(self) -> Finding:
        """Sweep, race, and put everything back."""
        try:
            if self._workers is not None:
                self._workers.wake(len(AT_ONCE))
            with Unwritten(restored(self._trainable)) as snapshot:
                self._snapshot = snapshot
                self._measure(snapshot)
            if self.several is not None:
                self._cost = self.several.first(self._spent())
        except BaseException as ended:
            self.ended = settled(self.several, ended)  # in no local variable, because its traceback has this frame
            self.recording.interrupt()
            try:
                self.finding = self._finding()
            except Exception as late:  # noqa: BLE001 - the rule's; the first error is the one to raise
                self.finding = getattr(late, "finding", None)
            carry(self.ended, self.finding, snapshot=self._snapshot)
            if self.ended is not ended:
                raise self.ended from self.ended.__cause__
            raise
        finally:
            if self._workers is not None:
                self._workers.close()
            if self._checkpoint is not None:
                self._checkpoint.close()
        self.finding = self._finding()
        return self.finding

    def release(self, signals: HeldSignals) -> None:
        """Let signals act again, those that waited first: what they raise carries what was measured."""
        signals.release(lambda late: carry(late, self.finding, snapshot=self._snapshot))

    def _measure(self, snapshot: Any) -> None:
        trainable, settings = self._trainable, self.settings
        if self._checkpoint is not None and self._checkpoint.resumed:
            self._go_on(snapshot)
        else:
            baseline = _baseline(trainable, snapshot, settings.control_variate)
            self.recording.could_change = partial(could_change, trainable, snapshot)
            # Under verify the held-out data score the race only: its budget is for that.
            validated = trainable if isinstance(trainable, HasValidation) and not settings.verify else None
            run_sweep(trainable, self._lrs, self.recording, baseline, validated)
            if validated is not None and validated.validation_every:
                self.recording.check_validation(validated.validation_every)
        if self._budget is None or self._checkpoint is None:
            return
        trainable.restore(snapshot)
        curve = self.recording.curve(settings.smoothing)
        start = starting_point(curve, self._plan, self._rule)
        if start is None:
            return
        self._checkpoint.start(self._facts, self.recording)
        terms = Terms.after(curve, self._plan, start.lr, self._budget - self._spent().steps)
        try:
            self._race = run_race(
                trainable,
                terms,
                one_pass=settings.one_pass,
                watch=RaceWatch(self.recording.watchers, settings.smoothing),
                checkpoint=self._checkpoint,
                workers=self._workers,
            )
        except DataEndedError:
            logger.warning("there is no race: the data ended, and can be read only once")

    def _go_on(self, snapshot: Any) -> None:
        """Go on with a checkpoint's sweep, once the first steps have shown that it is this training's."""
        assert self._checkpoint is not None
        RaceWatch(self.recording.watchers).tell(f"going on with {self.settings.checkpoint}")
        self._checkpoint.check(self._trainable, self._lrs, lambda: self._facts(snapshot))
        self.recording.take_over(self._checkpoint.sweep)
        self._before = _passes(self._counting)

    def _facts(self, snapshot: Any = None) -> Mapping[str, Any]:
        if snapshot is not None:
            self._trainable.restore(snapshot)
        return self._trainable.facts() if isinstance(self._trainable, HasFacts) else {}

    def _made(self) -> tuple[int, int]:
        """Forward and backward passes that this call has made for its result."""
        now = _passes(self._counting)
        return now[0] - self._before[0], now[1] - self._before[1]

    def _spent(self) -> Cost:
        made, given = self._made(), (0, 0) if self._checkpoint is None else self._checkpoint.given
        forwards, backwards = made[0] + given[0], made[1] + given[1]
        if self._counting is None:
            raced = sum(run.steps for run in self._race.runs) if self._race else 0
            forwards = backwards = self.recording.steps + raced
        return Cost(backwards + (forwards - backwards) / 3, forwards, backwards, time.perf_counter() - self._start)

    def _finding(self) -> Finding:
        facts, cost = self._facts(), self._cost or self._spent()
        finding = conclude(self.recording, self.settings.smoothing, self._plan, self._rule, cost, facts, self._race)
        if "verify=True" in finding.why and (self.settings.verify or not may_verify(self._trainable)):
            return replace(finding, why=without_verify(finding.why))
        return finding


def _baseline(trainable: Trainable[Any, Any], snapshot: Any, wanted: bool | None) -> Callable[[], Any] | None:
    if wanted is False:
        return None
    reason: str | None = f"{type(trainable).__name__} has no baseline()"
    if isinstance(trainable, HasBaseline):
        reason = trainable.prepare_baseline(snapshot)
        if reason is None:
            return partial(_demanded, trainable) if wanted else trainable.baseline
    if wanted:
        raise ConfigurationError(f"control_variate=True cannot be had: {reason}; leave it out")
    logger.info("no control variate: %s", reason)
    return None


def _demanded(trainable: HasBaseline) -> Any:
    """The baseline that was asked for; where its check has failed, a warning says so."""
    loss = trainable.baseline()
    if loss is None:
        logger.warning(
            "control_variate=True cannot be had: its check after the first step failed (the log at INFO says why), "
            "so the sweep goes on without it"
        )
    return loss


def steps_per_epoch(trainable: Trainable[Any, Any]) -> int:
    """Steps in one pass over a training's data.

    Raises:
        ConfigurationError: the training does not know.
    """
    if not isinstance(trainable, HasEpoch):
        raise ConfigurationError(
            f"num_steps='epoch' needs a training that knows its epoch's length, and {type(trainable).__name__} has no "
            "steps_per_epoch(): give a number of steps"
        )
    return trainable.steps_per_epoch()


def _epoch_of(trainable: Trainable[Any, Any]) -> int | None:
    """Steps in one pass over the data; None if they are not known."""
    with suppress(ConfigurationError):
        return steps_per_epoch(trainable)
    return None


def _passes(counting: CountsPasses | None) -> tuple[int, int]:
    return (0, 0) if counting is None else (counting.forwards, counting.backwards)
