"""Candidates against each other: short runs of the planned schedule, from one snapshot, on the same batches."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from findlr.plan import Plan
from findlr.rules import Suggestion
from findlr.smoothing import Array
from findlr.trainable import CanEvaluate, KeepsBatches, RunsTogether, Trainable, held

logger = logging.getLogger("findlr")

_SPACING = 3.0  # between the first two candidates
_FARTHEST = 16.0  # between a candidate and the next, while the best is at an end
_CLOSEST = 0.35  # octaves; nearer than this, two runs tell no more than one
_FEWEST_STEPS = 8
_FEWEST_RUNS = 3
_FIRST = 0.7  # of the sweep's answer: the second candidate is above it
_RUNS = 3  # long runs tell more than many; fitted by ``python -m bench.accuracy.fit_race``, as all of these
_RUNS_IF_RICH = 5  # at most, where the budget is twice the plan or more
_NARROW = 4.0  # between the best run and its neighbours; no more are made then
_PASS = (1, _SPACING)  # times the first rate, where several are run in one pass: those of a race one by one
_PASS_IF_RICH = (1 / _SPACING, 1, _SPACING, _SPACING**3)  # all that may come third, too
_MOST_ON_TRIAL = 0.05  # of the budget, to find out whether a pass pays
_DRIFT = 0.1  # the best rate falls as this power of the length, from the short runs to the plan
_PRIOR = 0.01  # what an octave away from the sweep's answer costs, as a share of the start's distance to the best
_LOW, _HIGH = -0.35, 0.4  # the interval, in decades
_HELD_OUT = 8  # batches that every run is scored on


@dataclass(frozen=True)
class Run:
    """One candidate's run: its peak rate, its steps, and the held-out loss it ended at (infinite if it diverged)."""

    lr: float
    steps: int
    loss: float


@dataclass(frozen=True)
class Race:
    """What a race did: its runs in the order run, the rate at which they are best, and how it was run.

    Args:
        runs: every run.
        start: the held-out loss before training; without an evaluator, what the first losses show for sure.
        best_lr: where a parabola through the best run and its neighbours is lowest; of the short runs, not of the plan.
        bracketed: whether a worse run lies on each side of the best.
        path: how the runs were made: "sequential", one after another; or "one pass", the first ones together.
    """

    runs: tuple[Run, ...]
    start: float
    best_lr: float
    bracketed: bool
    path: str = "sequential"

    @property
    def steps(self) -> int:
        """Steps of the longest runs, those that decide."""
        return max(run.steps for run in self.runs)

    def to_dict(self) -> dict[str, Any]:
        """The race as plain values."""
        return {**vars(self), "runs": [vars(run).copy() for run in self.runs]}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Race:
        """The race that ``to_dict`` described."""
        return cls(**{**data, "runs": tuple(Run(**run) for run in data["runs"])})


def run_race(
    trainable: Trainable[Any, Any], plan: Plan, first: float, limits: tuple[float, float], budget: float
) -> Race | None:
    """Train at a few rates for a few steps each, and tell which is best.

    Each run starts from the same weights and sees the same batches; its schedule is the plan's, compressed. The rates
    go from ``first`` towards the better side until the best has a worse one on each side, then closer to it, until
    both are near.

    Args:
        trainable: the training; it is left as the last run left it.
        plan: the training that is planned, with its ``total_steps``.
        first: the first rate.
        limits: no rate is tried outside.
        budget: steps that may be spent, evaluations included; a lone forward is a third.

    Returns:
        The Race; None if the budget is too small for three runs.

    Source: original; common batches as in common random numbers (Glasserman and Yao 1992).
    """
    assert plan.total_steps is not None
    total_steps = plan.total_steps
    rich = budget >= 2 * total_steps
    runs, at_once = (_RUNS_IF_RICH, _PASS_IF_RICH) if rich else (_RUNS, _PASS)
    evaluator = trainable if isinstance(trainable, CanEvaluate) else None
    evaluation = 0.0 if evaluator is None else _HELD_OUT / 3  # at most

    def affordable(spent: float) -> int:
        return min(int((budget - spent - evaluation) / runs - evaluation), total_steps)

    steps = affordable(0.0)
    if steps < _FEWEST_STEPS:
        return None
    if evaluator is not None:
        evaluator.hold_out(_HELD_OUT, steps, total_steps)
    if isinstance(trainable, KeepsBatches):
        trainable.keep_batches(steps)  # all of them first, for drawing moves random states
    done: list[Run] = []
    surely = -math.inf
    with held(trainable) as begin:
        start = math.nan if evaluator is None else evaluator.evaluate()
        together = _together(trainable, len(at_once), budget)
        if together is not None:
            steps = affordable(together.trial_steps * (len(at_once) + 1))
            done, spent = _in_one_pass(together, begin, plan, [times * first for times in at_once], limits, steps)
            steps = steps if done else affordable(spent)
        shares = plan.shares(steps)
        path = "one pass" if done else "sequential"
        candidate = next_candidate(done, start, limits) if done else _first_rate(first, plan, steps, limits)
        while candidate is not None and len(done) < runs and steps >= _FEWEST_STEPS and not narrow(done):
            trainable.restore(begin)
            first_loss, sure, final = _train(trainable, evaluator, candidate * shares)
            if evaluator is None:
                start, surely = first_loss, max(surely, sure)
            done.append(Run(candidate, steps, final))
            candidate = next_candidate(done, start, limits)
    if not done:
        return None
    best_lr, bracketed = parabola(done)
    return Race(tuple(done), start if evaluator is not None else surely, best_lr, bracketed, path)


def _first_rate(first: float, plan: Plan, steps: int, limits: tuple[float, float]) -> float:
    """What a run of that many steps begins with where the sweep's answer is ``first``."""
    assert plan.total_steps is not None
    return _within(_FIRST * first * (plan.total_steps / steps) ** _DRIFT, limits)


def _together(trainable: Trainable[Any, Any], runs: int, budget: float) -> RunsTogether | None:
    """What can take the first runs in one pass, if it may be tried."""
    if not isinstance(trainable, RunsTogether):
        return None
    reason = trainable.prepare_together(runs)
    if reason is None and trainable.trial_steps * (runs + 1) > _MOST_ON_TRIAL * budget:
        reason = "the budget is too small to try"
    if reason is not None:
        logger.info("the race's runs are made one after another: %s", reason)
    return trainable if reason is None else None


def _in_one_pass(
    training: RunsTogether,
    begin: Any,
    plan: Plan,
    firsts: Sequence[float],
    limits: tuple[float, float],
    steps: int,
) -> tuple[list[Run], float]:
    """The runs of a pass; or none, and the steps that were spent to find out that it is better not done."""
    lrs = [_first_rate(first, plan, steps, (0.0, math.inf)) for first in firsts]
    lrs = [lr for lr in lrs if _within(lr, limits) == lr]
    forwards, backwards = training.forwards, training.backwards
    ends: list[float] | str = "the limits leave one rate"
    if len(lrs) > 1:
        ends = training.run_together(begin, [(lr * plan.shares(steps)).tolist() for lr in lrs])
    if not isinstance(ends, str):
        return [Run(lr, steps, end) for lr, end in zip(lrs, ends, strict=True)], 0.0
    logger.info("the race's runs are made one after another: %s", ends)
    forwards, backwards = training.forwards - forwards, training.backwards - backwards
    return [], backwards + (forwards - backwards) / 3


def _train(trainable: Trainable[Any, Any], evaluator: CanEvaluate | None, lrs: Array) -> tuple[float, float, float]:
    """Take a step at each rate; the first loss, what the first ones show for sure, and the held-out loss after it all.

    That is infinite if the run diverged. Without an evaluator the mean of the last tenth of the losses stands for it.
    What is sure is the mean of the first tenth, less three standard errors of the difference between the two.
    """
    losses: list[Any] = []
    first = math.nan
    for lr in lrs:
        loss = trainable.step(float(lr))
        if loss is not None:
            losses.append(loss)
        if losses and (len(losses) == 1 or len(losses) % 10 == 0):  # each look waits for the device
            latest = trainable.read(losses[-1:])[0]
            first = latest if len(losses) == 1 else first
            if not math.isfinite(latest):
                return first, -math.inf, math.inf
    if evaluator is not None:
        final, sure = evaluator.evaluate(), math.nan
    else:
        tenth = max(1, len(losses) // 10)
        early, late = np.array(trainable.read(losses[:tenth])), np.array(trainable.read(losses[-tenth:]))
        error = float(late.std(ddof=1)) * (2 / tenth) ** 0.5 if tenth > 1 else 0.0
        final, sure = float(late.mean()), float(early.mean()) - 3.0 * error
    return (first, sure, final) if math.isfinite(final) else (first, -math.inf, math.inf)


def next_candidate(done: Sequence[Run], start: float, limits: tuple[float, float]) -> float | None:
    """The rate to run next: beyond the best while it is at an end, then between it and its neighbours; None to stop.

    Each step beyond is twice as far, in octaves, as the last one: the sweep may be far off.
    """
    ordered = sorted(done, key=lambda run: run.lr)
    at = min(range(len(ordered)), key=lambda i: ordered[i].loss)
    best = ordered[at]
    beyond = []
    if at == 0 and not best.loss < start:  # it was better not to train
        beyond = [best.lr / _SPACING**2]
    elif len(ordered) == 1:  # up first, for short runs bear higher rates
        beyond = [best.lr * _SPACING]
    elif at in (0, len(ordered) - 1):
        neighbour = ordered[1] if at == 0 else ordered[-2]
        step = (best.lr / neighbour.lr) ** (2 if best is done[-1] else 1)
        beyond = [best.lr * min(max(step, 1 / _FARTHEST), _FARTHEST)]
    lowest, _ = parabola(done)
    sides = [math.sqrt(best.lr * ordered[i].lr) for i in (at - 1, at + 1) if 0 <= i < len(ordered)]
    between = sorted(sides, key=lambda lr: abs(math.log(lr / lowest)))
    candidates = (_inside(lr, limits, ordered) for lr in (*beyond, lowest, *between))
    return next((lr for lr in candidates if lr is not None), None)


def narrow(done: Sequence[Run]) -> bool:
    """Whether the best run has a neighbour on each side, both near, and neither diverged."""
    ordered = sorted(done, key=lambda run: run.lr)
    at = min(range(len(ordered)), key=lambda i: ordered[i].loss, default=0)
    around = ordered[at - 1 : at + 2] if at else []
    return len(around) == 3 and all(
        above.lr <= below.lr * _NARROW and math.isfinite(below.loss + above.loss) for below, above in pairwise(around)
    )


def _inside(lr: float, limits: tuple[float, float], done: Sequence[Run]) -> float | None:
    """``lr`` within the limits, unless it is next to a run that is done."""
    lr = _within(lr, limits)
    return None if any(abs(math.log2(lr / run.lr)) < _CLOSEST for run in done) else lr


def _within(lr: float, limits: tuple[float, float]) -> float:
    return min(max(lr, limits[0]), limits[1])


def parabola(done: Sequence[Run]) -> tuple[float, bool]:
    """Where a parabola in log lr through the best run and its neighbours is lowest, and whether it has two."""
    ordered = sorted(done, key=lambda run: run.lr)
    at = min(range(len(ordered)), key=lambda i: ordered[i].loss)
    if at in (0, len(ordered) - 1) or not math.isfinite(ordered[at].loss):
        return ordered[at].lr, False
    left, best, right = ordered[at - 1], ordered[at], ordered[at + 1]
    if not math.isfinite(left.loss + right.loss):
        return best.lr, True
    a, c = math.log(left.lr / best.lr), math.log(right.lr / best.lr)
    down, up = left.loss - best.loss, right.loss - best.loss
    curvature = (down / a - up / c) / (a - c)
    slope = down / a - curvature * a
    shift = 0.0 if curvature <= 0 else min(max(-slope / (2 * curvature), a / 2), c / 2)
    return best.lr * math.exp(shift), True


def learned(race: Race) -> bool:
    """Whether a run of the race made the held-out loss better by more than a hundredth."""
    return min(run.loss for run in race.runs) < race.start - 0.01 * abs(race.start)


def level(race: Race) -> bool:
    """Whether all runs end within a hundredth of what the best one gains."""
    losses = [run.loss for run in race.runs]
    return max(losses) - min(losses) < 0.01 * (race.start - min(losses))


def decide(race: Race, quick: Suggestion, plan: Plan) -> Suggestion:
    """The race's answer at the planned length, held to the sweep's where the runs hardly differ.

    y = (loss - lowest) / (start - lowest) + k (x - log2 lr_sweep)^2   at   x = log2 lr - b log2(total_steps / steps)

    The answer is where a parabola through these, one of each run, is lowest.

    Args:
        race: the runs.
        quick: the sweep's suggestion.
        plan: the training that is planned, with its ``total_steps``.

    Returns:
        The Suggestion.

    Source: original. b is how best rates fall with the length; k says how much the sweep is to be believed.
    """
    assert plan.total_steps is not None
    drift = (plan.total_steps / race.steps) ** -_DRIFT
    lowest = min(run.loss for run in race.runs)
    scale = max(race.start - lowest, 1e-12 * abs(lowest), np.finfo(np.float64).tiny)

    def weighed(run: Run) -> Run:
        lr = run.lr * drift
        prior = _PRIOR * math.log2(lr / quick.lr) ** 2
        return Run(lr, run.steps, (run.loss - lowest) / scale + prior if math.isfinite(run.loss) else math.inf)

    lr, _ = parabola([weighed(run) for run in race.runs])
    why = (
        f"{len(race.runs)} runs of {race.steps} steps are best at {race.best_lr:.3g}; for {plan.total_steps} steps, "
        f"and with the sweep's {quick.lr:.3g} in mind, {lr:.3g}."
    )
    reach = 1 if race.bracketed else 2  # the best run may not be the best rate
    return Suggestion(lr, "race", why, (lr * 10 ** (_LOW * reach), lr * 10 ** (_HIGH * reach)))
