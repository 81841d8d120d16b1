"""What would make a race cheaper, and what it would lose: real races of the fit half, replayed. Resumable.

python -m study.cheaper             # what is missing of the races (15 min), then the table
python -m study.cheaper --sweep     # shorter sweeps; needs record's variate.jsonl
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np

from findlr import Curve, find_lr, rules
from findlr.analysis import runs as arithmetic
from findlr.analysis.answer import answer, if_swept
from findlr.analysis.race import Race, Run
from findlr.analysis.runs import decide, narrow, parabola
from findlr.errors import NoSuggestionError
from findlr.rules import Suggestion
from findlr.search import race
from findlr.search.run import End
from study.fit_race import constants
from study.fit_rule import plan_of
from study.record import curves
from study.regret import DEFAULT_LR, load
from study.report import short, table
from study.rounds import Lines, go
from study.tasks import TASKS, Task
from study.tasks.pretrained import RUNS
from study.train import started

LINES = Lines(RUNS / "cheaper.jsonl")
BUDGETS = {"0.5": 0.5, "1": 1.0, "3": 3.0}
MOST = 1000  # steps of a task's training
TENTHS = 10  # of a run, after each of which it is scored
HELD_OUT = 8 / 3  # steps, at most


@dataclass(frozen=True)
class Raced:
    """A real race, and how its runs went.

    Args:
        task: the task's name.
        budget: a key of BUDGETS.
        sweep: what the sweep cost, in steps.
        quick: the rate that the race began at.
        alone: the sweep's answer as its verdict lets it be, or the optimizer's default.
        steps: of a run.
        start: the held-out loss before.
        lrs: the runs' rates; none if there was no race.
        losses: of each run, held out, after each tenth.
        interval: of the rate that the race began at.
    """

    task: str
    budget: str
    sweep: float
    quick: float
    alone: float
    steps: int
    start: float
    lrs: tuple[float, ...]
    losses: tuple[tuple[float, ...], ...]
    interval: tuple[float, float] | None = None

    def runs(self, losses: list[float] | None = None) -> list[Run]:
        """The runs with the losses that they end at, or with these."""
        ends = [run[-1] for run in self.losses] if losses is None else losses
        return [Run(lr, self.steps, loss) for lr, loss in zip(self.lrs, ends, strict=False)]

    def answer(self, runs: list[Run], least: float = 0.01) -> float:
        """What findlr would say after these runs, if one of them has gained that share of the start."""
        if not runs or not min(run.loss for run in runs) < self.start - least * abs(self.start):
            return self.alone
        best, bracketed = parabola(runs)
        quick = Suggestion(self.quick, "quick", "", self.interval)
        return decide(Race(tuple(runs), self.start, best, bracketed), quick, plan_of(self.task)).lr


Replay = Callable[[Raced], tuple[float, float]]  # to the rate and the runs that were paid for


def as_it_is(raced: Raced) -> tuple[float, float]:
    """Until the best has near neighbours."""
    runs = raced.runs()
    count = next((n for n in range(len(runs)) if narrow(runs[:n])), len(runs))
    return raced.answer(runs[:count]), count


def all_runs(raced: Raced) -> tuple[float, float]:
    """However near the neighbours are."""
    return raced.answer(raced.runs()), len(raced.lrs)


def given_up(after: int, margin: float) -> Replay:
    """A run ends at the tenth, or later, at which it is behind the best one so far by a share of what that gains."""

    def replay(raced: Raced) -> tuple[float, float]:
        ends: list[float] = []
        paid, best = 0.0, 0
        for losses in raced.losses:
            tenths, end = TENTHS, losses[-1]
            if ends and (gain := raced.start - ends[best]) > 0:
                behind = [loss - at for loss, at in zip(losses, raced.losses[best], strict=True)]
                late = (i for i in range(after - 1, TENTHS - 1) if not behind[i] <= margin * gain)
                if (at := next(late, None)) is not None:
                    tenths, end = at + 1, ends[best] + behind[at]
            ends.append(end if math.isfinite(end) else math.inf)
            paid += tenths / TENTHS
            best = int(np.argmin(ends))
            if narrow(raced.runs(ends)):
                break
        return raced.answer(raced.runs(ends)), paid

    return replay


def two_if_alike(margin: float) -> Replay:
    """Two runs do where they end alike; the answer lies in the middle between them."""

    def replay(raced: Raced) -> tuple[float, float]:
        runs = raced.runs()
        if len(runs) == 3 and abs(runs[0].loss - runs[1].loss) < margin * (raced.start - min(r.loss for r in runs[:2])):
            drift = (plan_of(raced.task).total_steps or raced.steps) / raced.steps
            return math.sqrt(runs[0].lr * runs[1].lr) * drift**-arithmetic.DRIFT, 2
        return as_it_is(raced)

    return replay


def learned_by(least: float) -> Replay:
    """The race is believed only if it gained that share of the start."""
    return lambda raced: (raced.answer(raced.runs()[: int(as_it_is(raced)[1])], least), as_it_is(raced)[1])


REPLAYS: Mapping[str, Replay] = {
    "as it is": as_it_is,
    "all five runs": all_runs,
    **{
        f"given up from {after}0 % on, {margin:g} behind": given_up(after, margin)
        for after, margin in ((2, 0.2), (5, 0.1), (5, 0.3), (7, 0.1), (7, 0.2))
    },
    **{f"two runs do if alike within {margin:g}": two_if_alike(margin) for margin in (0.02, 0.05, 0.1)},
    **{f"believed from a gain of {least:g} on": learned_by(least) for least in (0.05, 0.1, 0.2)},
}


def raced(task: Task, budget: str, seed: int = 0) -> Raced:
    """Make a real race, of all its runs, each scored after each tenth."""
    whole_run, losses = race.train, []

    def by_tenths(trainable: Any, evaluator: Any, lrs: Any, *_: Any) -> End:
        held = [math.inf] * TENTHS
        ends = np.linspace(0, len(lrs), TENTHS + 1).round().astype(int).tolist()
        for tenth, (begin, end) in enumerate(pairwise(ends)):
            held[tenth] = whole_run(trainable, evaluator, lrs[begin:end]).loss
            if not math.isfinite(held[tenth]):
                break
        losses.append(tuple(held))
        return End(math.nan, math.nan, held[-1])  # what stands for an evaluation, where there is none

    setup, optimizer = started(task, seed)
    with constants(race, train=by_tenths), constants(NARROW=1.0):
        finding = find_lr(
            setup.model,
            optimizer,
            setup.criterion,
            setup.loader,
            schedule=task.schedule,
            total_steps=task.total_steps,
            verify=True,
            budget=BUDGETS[budget],
        )
    alone = answer(finding.curve, finding.plan).suggestion
    fallback = DEFAULT_LR[task.optimizer] if alone is None else alone.lr
    made = finding.race
    points = len(finding.curve) * (1 if finding.curve.baseline is None else 4 / 3)
    if made is None:
        return Raced(task.name, budget, points, fallback, fallback, 0, 0.0, (), ())
    quick = if_swept(rules.quick(finding.curve, finding.plan), finding.curve)
    lrs = tuple(run.lr for run in made.runs)
    ends = made.steps, made.start, lrs, tuple(losses)
    return Raced(task.name, budget, points, quick.lr, fallback, *ends, quick.interval)


def recorded() -> Iterator[Raced]:
    """The races that are there."""
    for row in LINES:
        pair = row.get("interval")
        arrays = {"lrs": tuple(row["lrs"]), "losses": tuple(map(tuple, row["losses"]))}
        yield Raced(**{**row, **arrays, "interval": pair and tuple(pair)})


def record() -> None:
    """Make the races that are missing."""
    known = {(row.task, row.budget) for row in recorded()}
    tasks = [task for task in TASKS if task.split == "fit" and task.total_steps <= MOST]
    for budget in BUDGETS:
        go(
            f"budget {budget}",
            tasks,
            lambda task, budget=budget: [] if (task.name, budget) in known else [(budget,)],
            lambda task, budget: LINES.add(vars(raced(task, budget))),
        )


def races() -> None:
    """Print what each replay loses and spends."""
    rows = [("mean regret, share of the training that is spent", *BUDGETS)]
    known = list(recorded())
    for title, replay in REPLAYS.items():
        cells = []
        for budget in BUDGETS:
            regrets, shares = [], []
            for row in known:
                if row.budget == budget:
                    truth = load()[row.task]
                    lr, paid = replay(row)
                    regrets.append(truth.regret(lr))
                    shares.append((row.sweep + paid * (row.steps + HELD_OUT)) / truth.total_steps)
            cells.append(f"{np.mean(regrets):.4f} {np.mean(shares):.2f}")
        rows.append((title, *cells))
    print(table(rows))


def sweeps() -> None:
    """Print what shorter sweeps would answer: the points below a rate left out, or all after the loss has risen."""
    rows = [("sweep", "points", "mean regret", "refused", "the rule alone")]
    usual = {task.name for task in TASKS}
    known = [(task, curve) for task, _, curve in curves("variate") if task in usual and load()[task].split == "fit"]
    cuts: dict[str, Callable[[Curve], Curve]] = {"whole": lambda curve: curve}
    cuts |= {f"from {lr:g} on": lambda curve, lr=lr: part(curve, lr) for lr in (1e-7, 1e-6, 1e-5, 1e-4)}
    cuts["without the control variate"] = lambda curve: replace(curve, baseline=None)
    for title, cut in cuts.items():
        made = [(load()[task], plan_of(task), cut(curve)) for task, curve in known]
        told = [answer(curve, plan).suggestion for _, plan, curve in made]
        regrets = [
            truth.regret(DEFAULT_LR[truth.optimizer] if lr is None else lr.lr)
            for (truth, _, _), lr in zip(made, told, strict=True)
        ]
        alone = []
        for truth, plan, curve in made:
            try:
                lr = rules.quick(curve, plan).lr
            except NoSuggestionError:
                lr = DEFAULT_LR[truth.optimizer]
            alone.append(truth.regret(lr))
        points = np.mean([len(curve) for _, _, curve in made])
        refused = np.mean([lr is None for lr in told])
        rows.append((title, f"{points:.0f}", short(np.mean(regrets)), f"{refused:.1%}", short(np.mean(alone))))
    print(table(rows))


def part(curve: Curve, lr: float) -> Curve:
    """The points at a rate and above."""
    some = slice(int(np.searchsorted(curve.lr, lr)), None)
    baseline = None if curve.baseline is None else curve.baseline[some]
    left = None if curve.num_steps is None else curve.num_steps - some.start
    return Curve(curve.lr[some], curve.loss[some], baseline, None, curve.diverged, left)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Replay cheaper races on real ones.")
    parser.add_argument("--sweep", action="store_true", help="shorter sweeps, not cheaper races")
    arguments = parser.parse_args()
    if arguments.sweep:
        sweeps()
    else:
        record()
        races()


if __name__ == "__main__":
    main()
