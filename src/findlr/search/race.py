"""Candidates against each other: short runs of the planned schedule, from one snapshot, on the same batches."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from findlr.analysis import runs
from findlr.analysis.acting import has_acted
from findlr.analysis.curve import Curve
from findlr.analysis.plan import Plan
from findlr.analysis.race import Race, Run
from findlr.analysis.smoothing import Array
from findlr.analysis.text import told
from findlr.errors import LossError
from findlr.search.checkpoint import Checkpoint
from findlr.search.failure import is_the_trainings
from findlr.search.interrupts import signals_act
from findlr.search.restoring import Remembered
from findlr.search.run import End, train
from findlr.search.trainable import (
    CanEvaluate,
    KeepsBatches,
    RunsTogether,
    ShowsTogether,
    TellsUnseen,
    Trainable,
)
from findlr.search.watching import RaceWatch
from findlr.search.workers import Workers

logger = logging.getLogger("findlr")


@dataclass(frozen=True)
class Terms:
    """What a race is about: the training that is planned, and what the sweep has said of it.

    Args:
        plan: the training that is planned, with its ``total_steps``.
        first: the sweep's answer, near which the race starts.
        limits: no rate is tried outside.
        budget: steps that may be spent, evaluations included; a lone forward is a third.
        rates_act: whether the sweep has shown that rates near ``first`` act, so that an exception of the training's own
            in a run says that its rate is too high: such a run has diverged. Else it is raised.
    """

    plan: Plan
    first: float
    limits: tuple[float, float]
    budget: float
    rates_act: bool = True

    @classmethod
    def after(cls, curve: Curve, plan: Plan, first: float, budget: float) -> Terms:
        """The terms after a sweep, beyond whose usable points no rate is tried."""
        return cls(plan, first, (float(curve.lr[0]), float(curve.usable().lr[-1])), budget, has_acted(curve))

    @property
    def total_steps(self) -> int:
        """Of the plan."""
        assert self.plan.total_steps is not None
        return self.plan.total_steps

    @property
    def is_rich(self) -> bool:
        """Whether the budget pays for more runs."""
        return runs.is_rich(self.budget, self.total_steps)

    def within(self, lr: float) -> float:
        """``lr``, or the limit that it lies beyond."""
        return runs.within(lr, self.limits)


@signals_act
def run_race(
    trainable: Trainable[Any, Any],
    terms: Terms,
    *,
    one_pass: bool = False,
    watch: RaceWatch | None = None,
    checkpoint: Checkpoint | None = None,
    workers: Workers | None = None,
) -> Race | None:
    """Train at a few rates for a few steps each, and tell which is best.

    Each run starts from the same weights and sees the same batches; its schedule is the plan's, compressed. The rates
    go from the first towards the better side until the best has a worse one on each side, then closer to it, until
    both are near.

    Args:
        trainable: the training; it is left as the last run left it.
        terms: the plan, where to start, what may be spent.
        one_pass: take the first runs in one pass, where the training can.
        watch: sees the runs as they are made.
        checkpoint: keeps the runs, and gives those that it has in place of making them.
        workers: make the runs at the same time.

    Returns:
        The Race; None if the budget is too small for three runs.

    Raises:
        Exception: what the training raised before a run had taken a step, or where no rate acts.
        ConfigurationError: the checkpoint's runs are those of another race.
        LossError: the held-out loss is NaN or infinite before any run.

    Source: original; common batches as in common random numbers (Glasserman and Yao 1992).
    """
    most = len(runs.AT_ONCE) if workers is not None else runs.RUNS_IF_RICH if terms.is_rich else runs.RUNS
    evaluator = trainable if isinstance(trainable, CanEvaluate) else None

    def affordable(spent: float = 0.0) -> int:
        evaluation = 0.0 if evaluator is None else runs.HELD_OUT_BATCHES / 3  # at most
        return runs.steps_of_a_run(terms.budget - spent, most, evaluation, terms.total_steps)

    steps = affordable()
    if steps < runs.FEWEST_STEPS:
        logger.warning("there is no race: the budget leaves too few steps for %d runs, so raise it", most)
        return None
    watch, checkpoint = watch or RaceWatch(), Checkpoint() if checkpoint is None else checkpoint
    kept = f", {len(checkpoint)} of them kept" if len(checkpoint) else ""
    watch.set_up(most, f"setting up a race of {most} runs of {steps} steps{kept}")
    if evaluator is not None and not evaluator.hold_out(runs.HELD_OUT_BATCHES, steps, terms.total_steps):
        evaluator = None
        steps = affordable()
    if isinstance(trainable, KeepsBatches):
        trainable.keep_batches(steps)  # all of them first, because drawing moves random states
    done: list[Run] = []
    surely: list[float] = []
    with Remembered(trainable) as begin:
        start = checkpoint.begin(math.nan if evaluator is None else _finite(evaluator.evaluate()))
        maker = _Maker(trainable, evaluator, begin, terms, watch, checkpoint)
        times = runs.PASS_IF_RICH if terms.is_rich else runs.PASS
        together = _together(trainable, len(times)) if one_pass else None
        if together is not None:
            steps = affordable(together.trial_steps * (len(times) + 1))
            done, spent = checkpoint.pass_of(steps) or maker.in_one_pass(together, times, steps)
            steps = steps if done else affordable(spent)
        begins_at = terms.within(runs.first_lr(terms.first, terms.plan, steps))
        maker.shares = terms.plan.shares(steps)
        if workers is not None and steps >= runs.FEWEST_STEPS:
            maker.send(workers, runs.at_once(begins_at, terms.limits))
        path = "one pass" if done else "parallel" if maker.workers else "sequential"
        candidate = maker.next_of_first(done) or (runs.next_candidate(done, start, terms.limits) if done else begins_at)
        while candidate is not None and len(done) < most and steps >= runs.FEWEST_STEPS:
            ended = maker.end_of(candidate, done)
            if evaluator is None:
                start = ended.first
                surely.append(ended.surely)
            done.append(Run(candidate, steps, ended.loss))
            candidate = maker.next_of_first(done) or (
                None if runs.narrow(done) else runs.next_candidate(done, start, terms.limits)
            )
    if not done:
        return None
    best_lr, bracketed = runs.parabola(done)
    return Race(
        runs=tuple(done),
        start=runs.level_at_start(done, surely) if evaluator is None else start,
        best_lr=best_lr,
        bracketed=bracketed,
        path=path,
        held_out=evaluator is not None and (not isinstance(trainable, TellsUnseen) or trainable.unseen()),
    )


def _finite(start: float) -> float:
    """The held-out loss under the starting weights, by which runs can be scored."""
    if not math.isfinite(start):
        raise LossError(
            f"the held-out loss under the starting weights is {float(start)}, so no run can be scored by it: look for "
            "it in the data of validation_loader or, without one, in the training's"
        )
    return start


@dataclass
class _Maker:
    """Makes the runs of a race: in one pass, by an executor's workers, or by itself."""

    trainable: Trainable[Any, Any]
    evaluator: CanEvaluate | None
    begin: Any
    terms: Terms
    watch: RaceWatch
    checkpoint: Checkpoint
    shares: Array = field(init=False)
    """Of the highest rate, at each step of a run that is not made in a pass."""

    workers: Workers | None = None
    first: Sequence[float] = ()
    """The rates that the race begins with, whatever their runs say."""

    def send(self, workers: Workers, lrs: Sequence[float]) -> None:
        """Begin with runs at these rates: send out all but those that are kept, if this training's can be sent."""
        self.first, out = lrs, lrs[len(self.checkpoint) :]
        self.watch.tell(f"a race: {len(out)} runs of {len(self.shares)} steps at the same time")
        self.trainable.restore(self.begin)
        scored, watched = self.evaluator is not None, self.watch.watched
        reason = workers.begin(out, self.shares, scored=scored, rates_act=self.terms.rates_act, watched=watched)
        if reason is None:
            self.workers = workers
        else:
            logger.warning("executor= can't be had, so the race's runs are made one after another: %s", reason)

    def next_of_first(self, done: Sequence[Run]) -> float | None:
        """The rate of the next of the first runs; None if they are done, or there are none."""
        return self.first[len(done)] if len(done) < len(self.first) else None

    def end_of(self, lr: float, done: Sequence[Run]) -> End:
        """How the next run ends: as it is kept, as a worker has made it, or as it is made here."""
        steps = len(self.shares)
        kept = self.checkpoint.run_of(lr, steps)
        if kept is not None:
            return kept
        made = self.workers.result(lr) if self.workers is not None and self.next_of_first(done) else None
        self.watch.begin(lr, steps, done)
        if made is not None:
            ended = made.shown(self.watch)
            self.checkpoint.add_run(lr, steps, ended, (made.forwards, made.backwards))
            return ended
        self.trainable.restore(self.begin)
        ended = train(self.trainable, self.evaluator, lr * self.shares, self.terms.rates_act, self.watch)
        self.checkpoint.add_run(lr, steps, ended)
        return ended

    def in_one_pass(self, training: RunsTogether, times: Sequence[float], steps: int) -> tuple[list[Run], float]:
        """The runs of a pass; or none, and the steps that were spent to find out that it can't be had."""
        terms, watch = self.terms, self.watch
        lrs = [runs.first_lr(each * terms.first, terms.plan, steps) for each in times]
        lrs = [lr for lr in lrs if terms.within(lr) == lr]
        watch.tell(f"a race: {len(lrs)} runs of {steps} steps in one pass")
        forwards, backwards = training.forwards, training.backwards
        ends: list[float] | str = "the limits leave one rate"
        if len(lrs) > 1:
            rates = [(lr * terms.plan.shares(steps)).tolist() for lr in lrs]
            try:
                ends = self._shown(training, rates)
            except Exception as error:
                if error is watch.raised or not (terms.rates_act and is_the_trainings(error)):
                    raise
                ends = told(error)  # of one run, which is told by making them one after another
        done, spent = [], 0.0
        if isinstance(ends, str):
            _log_no_pass(ends)
            forwards, backwards = training.forwards - forwards, training.backwards - backwards
            spent = backwards + (forwards - backwards) / 3
        else:
            done = [Run(lr, steps, end) for lr, end in zip(lrs, ends, strict=True)]
            watch.end_together(done)
        self.checkpoint.add_pass(steps, done, spent)
        return done, spent

    def _shown(self, training: RunsTogether, rates: Sequence[Sequence[float]]) -> list[float] | str:
        """Take runs together, and show their steps where the training does."""
        watch = self.watch
        watch.begin_together(rates)
        shows = training if isinstance(training, ShowsTogether) and watch.watched else None
        if shows is not None:
            shows.see_together = watch.see_together
        try:
            ends = training.run_together(self.begin, rates)
        finally:
            if shows is not None:
                shows.see_together = None
        if watch.raised is not None:
            raise watch.raised
        return ends


def _together(trainable: Trainable[Any, Any], count: int) -> RunsTogether | None:
    """What can take that many runs in one pass, or None."""
    reason: str | None = f"{type(trainable).__name__} has no run_together()"
    if isinstance(trainable, RunsTogether):
        reason = trainable.prepare_together(count)
        if reason is None:
            return trainable
    _log_no_pass(reason)
    return None


def _log_no_pass(reason: str | None) -> None:
    logger.warning("one_pass=True can't be had, so the race's runs are made one after another: %s", reason)
