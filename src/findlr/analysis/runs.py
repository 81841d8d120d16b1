"""The arithmetic of a race: which rates to run, how long, and what the runs say. Nothing here trains."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from findlr.analysis.plan import Plan
from findlr.analysis.race import Race, Run
from findlr.analysis.rules import Suggestion
from findlr.analysis.text import rate_text
from findlr.analysis.usual import overfits

# Fitted by ``python -m study.fit_race``, all of them; rates are spaced by factors.
SPACING = 3.0  # between the first two candidates
FARTHEST = 16.0  # between a candidate and the next, while the best is at an end
CLOSEST_OCTAVES = 0.35  # nearer than this, two runs tell no more than one
FEWEST_STEPS = 8  # of a run
LEAST_BUDGET = 350.0  # steps, where no budget is given: with less, three runs are too short to tell
FIRST_SHARE = 0.7  # of the sweep's answer: the second candidate is above it
RUNS = 3  # long runs tell more than many
RUNS_IF_RICH = 5  # at most, where the budget is twice the plan or more
NARROW = 4.0  # between the best run and its neighbours; no more are made then
PASS = (1.0, SPACING)  # times the first rate, where several are run in one pass: those of a race one by one
PASS_IF_RICH = (1 / SPACING, 1.0, SPACING, SPACING**3)  # all that may come third, too
AT_ONCE = (1.0, SPACING, 1 / SPACING, SPACING**2)  # all runs, where workers make them at the same time
DRIFT = 0.1  # the best rate falls as this power of the length, from the short runs to the plan;
DRIFT_OF_FEW_DATA = 0.6  # more for each decade by which few data are seen too often: overfitting shows late,
MOST_DRIFT = 1.0  # up to this: where a training is best stopped early, rate times steps is what counts
BELIEVED = 0.65  # the race's answer counts as this power of a run's share of the plan, the sweep's for the rest
SURE_DECADES = 0.9  # of the sweep's interval: a sweep whose interval is wider counts less,
MOST_UNSURE = 2.0  # down to half as much
FROM_DIVERGED = 0.4  # decades: the answer keeps from a run that diverged, because the plan is longer
LOW_DECADES, HIGH_DECADES = -0.35, 0.4  # the interval around the answer
HELD_OUT_BATCHES = 8  # that every run is scored on
_LEARNED_SHARE = 0.01  # of the loss at the start: a run that gains less has learned nothing
_ALIKE_SHARE = 0.01  # of what the best run gains: runs that end nearer to each other are alike


def own_budget(total_steps: int) -> float:
    """What a search with a race may spend where nobody says: half of the planned steps, and at least 350.

    Example:
        >>> own_budget(150), own_budget(2000)
        (350.0, 1000.0)
    """
    return max(LEAST_BUDGET, total_steps / 2)


def is_rich(budget: float, total_steps: int) -> bool:
    """Whether a budget pays for more runs, at twice the plan or more."""
    return budget >= 2 * total_steps


def steps_of_a_run(budget: float, runs: int, evaluation: float, total_steps: int) -> int:
    """How long each run may be, so that all of them and their evaluations fit into the budget.

    min((budget - evaluation) / runs - evaluation, total_steps), rounded down

    Args:
        budget: steps that are left.
        runs: how many are planned.
        evaluation: what an evaluation costs, in steps; there is one before the runs and one after each.
        total_steps: of the plan.

    Returns:
        Steps; below ``FEWEST_STEPS``, no race is worth it.

    Example:
        >>> steps_of_a_run(100, 3, 1.0, 1000)
        32
    """
    return int(min((budget - evaluation) / runs - evaluation, total_steps))


def first_lr(sweep_lr: float, plan: Plan, steps: int) -> float:
    """What a run of that many steps begins with where the sweep answers ``sweep_lr``: short runs bear higher rates."""
    assert plan.total_steps is not None
    return float(FIRST_SHARE * sweep_lr * (plan.total_steps / steps) ** DRIFT)


def at_once(first: float, limits: tuple[float, float]) -> list[float]:
    """The rates of runs that don't wait for each other, the likeliest first."""
    lrs: list[float] = []
    for times in AT_ONCE:
        lr = within(first * times, limits)
        if _far(lr, lrs):
            lrs.append(lr)
    return lrs


def within(lr: float, limits: tuple[float, float]) -> float:
    """``lr``, or the limit that it lies beyond."""
    return min(max(lr, limits[0]), limits[1])


def next_candidate(done: Sequence[Run], start: float, limits: tuple[float, float]) -> float | None:
    """The rate to run next: beyond the best while it is at an end, then between it and its neighbours; None to stop.

    Each step beyond is twice as far, in octaves, as the last one: the sweep may be far off.
    """
    ordered, at = _by_rate(done)
    best = ordered[at]
    beyond = []
    if at == 0 and not best.loss < start:  # it was better not to train
        beyond = [best.lr / SPACING**2]
    elif len(ordered) == 1:  # up first, because short runs bear higher rates
        beyond = [best.lr * SPACING]
    elif at in (0, len(ordered) - 1):
        neighbour = ordered[1] if at == 0 else ordered[-2]
        step = (best.lr / neighbour.lr) ** (2 if best is done[-1] else 1)
        beyond = [best.lr * min(max(step, 1 / FARTHEST), FARTHEST)]
    lowest, _ = parabola(done)
    sides = [math.sqrt(best.lr * ordered[i].lr) for i in (at - 1, at + 1) if 0 <= i < len(ordered)]
    between = sorted(sides, key=lambda lr: abs(math.log(lr / lowest)))
    candidates = (within(lr, limits) for lr in (*beyond, lowest, *between))
    return next((lr for lr in candidates if _far(lr, [run.lr for run in done])), None)


def _by_rate(done: Sequence[Run]) -> tuple[list[Run], int]:
    """The runs, the lowest rate first, and which of them is the best."""
    ordered = sorted(done, key=lambda run: run.lr)
    return ordered, min(range(len(ordered)), key=lambda i: ordered[i].loss, default=0)


def _far(lr: float, others: Sequence[float]) -> bool:
    """Whether a run at ``lr`` would tell more than those at other rates do."""
    return all(abs(math.log2(lr / other)) >= CLOSEST_OCTAVES for other in others)


def narrow(done: Sequence[Run]) -> bool:
    """Whether the best run has a neighbour on each side, both near, and neither diverged."""
    ordered, at = _by_rate(done)
    around = ordered[at - 1 : at + 2] if at else []
    return len(around) == 3 and all(
        above.lr <= below.lr * NARROW and math.isfinite(below.loss + above.loss) for below, above in pairwise(around)
    )


def parabola(done: Sequence[Run]) -> tuple[float, bool]:
    """Where a parabola in log lr through the best run and its neighbours is lowest, and whether it has two."""
    ordered, at = _by_rate(done)
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


def level_at_start(done: Sequence[Run], surely: Sequence[float]) -> float:
    """The loss before training, from the runs' own losses: the highest of what those up to the best rate surely show.

    A run at a higher rate may explode before it learns, and its first losses are no level that the training began at.

    Args:
        done: the runs.
        surely: what the first losses of the last of them show.

    Example:
        >>> level_at_start([Run(0.1, 100, 0.2), Run(0.3, 100, 0.1), Run(8.1, 100, 1.5)], [1.3, 1.2, 150.0])
        1.3
    """
    best = min(done, key=lambda run: run.loss)
    shown = zip(done[len(done) - len(surely) :], surely, strict=True)
    return max((level for run, level in shown if run.lr <= best.lr), default=-math.inf)


def learned(race: Race) -> bool:
    """Whether a run of the race made the held-out loss better by more than a hundredth."""
    return min(run.loss for run in race.runs) < race.start - _LEARNED_SHARE * abs(race.start)


def end_alike(race: Race) -> bool:
    """Whether all runs end within a hundredth of what the best one gains."""
    losses = [run.loss for run in race.runs]
    return max(losses) - min(losses) < _ALIKE_SHARE * (race.start - min(losses))


def decide(race: Race, sweep: Suggestion, plan: Plan) -> Suggestion:
    """The race's answer at the planned length, weighed with the sweep's.

    log lr = s (log lr_race - b log(total_steps / steps)) + (1 - s) log lr_sweep

    lr_race is where a parabola through the best run and its neighbours is lowest. b is how best rates fall with the
    length: 0.1, and 0.6 more for each decade of ``overfits``, at most 1. s is what the race counts for; see
    ``share_of``. No answer lies nearer than a factor of 2.5 to a higher rate at which a run diverged.

    Source: original.
    """
    assert plan.total_steps is not None
    share = share_of(race, sweep, plan)
    drift = min(DRIFT + DRIFT_OF_FEW_DATA * overfits(plan), MOST_DRIFT)
    lr = (race.best_lr * (race.steps / plan.total_steps) ** drift) ** share * sweep.lr ** (1 - share)
    why = f"{len(race.runs)} short runs of {race.steps} steps end alike, so the sweep's {rate_text(lr)} stands."
    if share:
        best = min(race.runs, key=lambda run: run.loss)
        diverged = [run.lr for run in race.runs if run.lr > best.lr and not math.isfinite(run.loss)]
        lr = min([lr, *(each * 10**-FROM_DIVERGED for each in diverged)])
        why = (
            f"{len(race.runs)} short runs of {race.steps} steps end best around {rate_text(race.best_lr)}; for the "
            f"{plan.total_steps:,} steps of your plan, and with the sweep's {rate_text(sweep.lr)} weighed in, that "
            f"makes {rate_text(lr)}."
        )
        if not race.held_out:
            why += " They were scored on what they trained on: held-out data tell more."
    reach = 1 if race.bracketed else 2  # the best run may not be the best rate
    return Suggestion(lr, "race", why, (lr * 10 ** (LOW_DECADES * reach), lr * 10 ** (HIGH_DECADES * reach)))


def share_of(race: Race, sweep: Suggestion, plan: Plan) -> float:
    """What the race counts for beside the sweep, from 0 to 1.

    s = p u / (p u + 1 - p) / (1 + max(0, log10 epochs)),   p = (steps / total_steps)^0.65,   u = width / 0.9

    p is what a run has learned of the whole training, u how unsure the sweep is: the width of its interval in decades,
    over that of a clear one, from 1/2 to 2. Runs that end alike say nothing. The division is there only where no
    example was held out: the more often the plan sees the same ones, the less a loss on them tells.
    """
    assert plan.total_steps is not None
    if end_alike(race):
        return 0.0
    learned_part = float((race.steps / plan.total_steps) ** BELIEVED)
    unsure = 1.0
    if sweep.interval is not None:
        decades = math.log10(sweep.interval[1] / sweep.interval[0])
        unsure = min(max(decades / SURE_DECADES, 1 / MOST_UNSURE), MOST_UNSURE)
    share = learned_part * unsure / (learned_part * unsure + 1 - learned_part)
    return share if race.held_out else share / (1 + max(0.0, math.log10(plan.epochs or 1.0)))
