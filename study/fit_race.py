"""Fits the race's constants on the fit half, and takes its design apart, by races replayed on recorded real runs.

    python -m study.probes                                 # the runs, once
    python -m study.fit_race                               # what each constant does
    python -m study.probes --how constant other_batches    # runs of another kind
    python -m study.fit_race --ablation                    # what each part of the design does

A replayed race is ``findlr.search.race``'s own; only its runs are read off the recorded ones, log-linear between
their rates and lengths. In each row: the mean regret over the tasks, and over those that do not overfit; above 0.4
counts as 0.4.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from findlr import Plan, Suggestion, rules
from findlr.analysis import runs as arithmetic
from findlr.analysis.race import Race, Run
from findlr.analysis.runs import decide, learned, parabola
from findlr.errors import NoSuggestionError
from findlr.search.race import Terms, run_race
from findlr.torch.passes.together import TRIAL_STEPS
from study.fit_rule import plan_of
from study.probes import recorded
from study.record import curves
from study.regret import DEFAULT_LR, Truth, load

BUDGETS = (0.5, 1.0, 3.0)
SWEEP = 133.0  # steps
MOST = 0.4  # of a regret
CONSTANTS: Mapping[str, tuple[Any, ...]] = {
    "RUNS": (2, 3, 4, 5, 6),
    "FIRST_SHARE": (0.5, 0.7, 0.85, 1.0, 1.4),
    "SPACING": (2.0, 2.5, 3.0, 4.0, 6.0),
    "FARTHEST": (9.0, 16.0, 64.0),
    "NARROW": (1.0, 2.0, 4.0, 9.0, 16.0),
    "DRIFT": (0.0, 0.05, 0.1, 0.15, 0.2),
    "BELIEVED": (0.35, 0.5, 0.65, 0.8, 1.0),
}


@dataclass
class Recorded:
    """A Trainable whose runs were made before: it knows the rate and the length of a run, and tells how that ended."""

    rows: list[dict[str, Any]]
    taken: list[float] = field(default_factory=list)
    peak: float = 1.0  # share of the schedule's largest, as sampled
    length: float = 1.0  # share of the planned steps

    def hold_out(self, batches: int, steps: int, total_steps: int) -> int:
        """Nothing to set aside: the recorded runs did."""
        self.length = steps / total_steps
        return batches

    def step(self, lr: float) -> float:
        """Remember the rate."""
        self.taken.append(lr)
        return 1.0

    def read(self, losses: list[float]) -> list[float]:
        """As they are."""
        return losses

    def snapshot(self) -> None:
        """Nothing changes."""

    def restore(self, _: None) -> None:
        """A new run begins."""
        self.taken.clear()

    def evaluate(self) -> float:
        """The held-out loss that a run of that peak and length ends at, or all start from."""
        return self.at(max(self.taken) / self.peak if self.taken else None)

    def at(self, lr: float | None) -> float:
        """The held-out loss after a run at ``lr``, or at the start."""
        lengths = sorted({row["share"] for row in self.rows})
        ends = []
        for length in lengths:
            rows = [row for row in self.rows if row["share"] == length]
            start = rows[0]["start"]
            losses = [row["loss"] if math.isfinite(row["loss"]) else 10 * abs(start) + 10 for row in rows]
            ends.append(start if lr is None else np.interp(math.log(lr), np.log([row["lr"] for row in rows]), losses))
        return float(np.interp(math.log(self.length), np.log(lengths), ends))


@dataclass
class AtOnce(Recorded):
    """The same, with the first runs in one pass, and what it costs to find out that this pays."""

    trial_steps: int = TRIAL_STEPS
    forwards: int = 0
    backwards: int = 0

    def keep_batches(self, steps: int) -> None:
        """There are none."""

    def prepare_together(self, runs: int) -> None:
        """Nothing speaks against it."""

    def run_together(self, _: None, rates: list[list[float]]) -> list[float]:
        """Where each run ends."""
        return [self.at(max(lrs) / self.peak) for lrs in rates]


@dataclass(frozen=True)
class Case:
    """A task of the fit half, with its sweep's answer."""

    truth: Truth
    plan: Plan
    sweep: Suggestion
    rows: list[dict[str, Any]]

    @property
    def overfits(self) -> bool:
        """Whether the best rate of the grid is a fifth of the sweep's answer, or less, on small data."""
        return self.truth.family in ("small_data", "shifted", "new_head", "tabular") and (
            self.truth.best_lr < self.sweep.lr / 5
        )

    def regret(self, budget: float, told: float = 1.0, kind: type[Recorded] = Recorded) -> float:
        """What a race loses; ``told`` is how many times the real length it is told to be."""
        training = kind(self.rows)
        assert self.plan.total_steps is not None
        plan = replace(self.plan, total_steps=round(told * self.plan.total_steps))
        training.peak = float(plan.shares(50).max())
        left = budget * self.truth.total_steps - SWEEP
        terms = Terms(plan, self.sweep.lr, (1e-8, 1e3), left)
        done = run_race(training, terms, one_pass=kind is not Recorded)
        if done is None or not learned(done):
            return min(self.truth.regret(self.sweep.lr), MOST)
        return min(self.truth.regret(decide(done, self.sweep, plan).lr), MOST)


def cases(how: str = "matched") -> list[Case]:
    """The tasks of the fit half whose runs are recorded, seed 0."""
    by_task: dict[str, list[dict[str, Any]]] = {}
    for row in recorded(how):
        if row["seed"] == 0:
            by_task.setdefault(row["task"], []).append(row)
    found = []
    for task, seed, curve in curves("variate"):
        truth = load().get(task)
        if seed == 0 and truth is not None and truth.split == "fit" and task in by_task:
            plan = plan_of(task)
            try:
                sweep = rules.quick(curve, plan)
            except NoSuggestionError:
                sweep = Suggestion(DEFAULT_LR[truth.optimizer], "default", "")
            found.append(Case(truth, plan, sweep, by_task[task]))
    return found


@contextmanager
def constants(module: Any = arithmetic, **values: Any) -> Iterator[None]:
    """The race's constants, for a while."""
    before = {name: getattr(module, name) for name in values}
    vars(module).update(values)
    try:
        yield
    finally:
        vars(module).update(before)


def cell(values: Any, among: list[Case]) -> str:
    """The two means of a row."""
    array = np.array(list(values))
    plain = np.array([not case.overfits for case in among])
    return f"{array.mean():.4f} ({array[plain].mean():.4f})"


def rungs(case: Case, budget: float) -> float:
    """Two rungs instead: half of the budget for four runs, three times apart; half for three near the best."""
    training, total = Recorded(case.rows), case.truth.total_steps
    left = budget * total - SWEEP
    short, long = int(left / 8), int(left / 6)
    centre = case.sweep.lr * (total / short) ** arithmetic.DRIFT
    training.length = short / total
    best, _ = parabola([Run(lr, short, training.at(lr)) for lr in (centre / 4.5, centre / 1.5, centre * 2, centre * 6)])
    best *= (long / short) ** -arithmetic.DRIFT
    training.length = long / total
    runs = tuple(Run(lr, long, training.at(lr)) for lr in (best / 2, best, best * 2))
    done = Race(runs, training.at(None), best, bracketed=True)
    return min(case.truth.regret(decide(done, case.sweep, case.plan).lr), MOST)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Replay races on recorded runs.")
    parser.add_argument("--ablation", action="store_true", help="the parts of the design, not the constants")
    arguments = parser.parse_args()
    known = cases()
    print(f"{len(known)} tasks; overfit: {', '.join(case.truth.name for case in known if case.overfits)}")
    print(f"{'budget':34s}" + "".join(f"{budget:>20g}" for budget in BUDGETS))

    def row(title: str, among: list[Case], values: Any) -> None:
        print(f"{title:34s}" + "".join(f"{cell(values(budget), among):>20s}" for budget in BUDGETS), flush=True)

    row("the sweep alone", known, lambda _: [min(case.truth.regret(case.sweep.lr), MOST) for case in known])
    row("as it is", known, lambda budget: [case.regret(budget) for case in known])
    if not arguments.ablation:
        for name, values in CONSTANTS.items():
            for value in values:
                changed = {"RUNS": value, "RUNS_IF_RICH": value} if name == "RUNS" else {name: value}
                with constants(**changed):
                    row(f"{name} = {value}", known, lambda budget: [case.regret(budget) for case in known])
        return
    with constants(BELIEVED=0.0):
        row("the sweep is not believed", known, lambda budget: [case.regret(budget) for case in known])
    with constants(DRIFT=0.0):
        row("no drift with the length", known, lambda budget: [case.regret(budget) for case in known])
    with constants(RUNS=6, RUNS_IF_RICH=10):
        row("twice as many runs", known, lambda budget: [case.regret(budget) for case in known])
    at_once: dict[str, dict[str, Any]] = {
        "the first runs in one pass": {},
        "three at once, around the first": {"PASS": (1 / 3, 1, 3), "PASS_IF_RICH": (1 / 3, 1, 3)},
        "four at once at every budget": {"PASS": arithmetic.PASS_IF_RICH, "RUNS": 4},
        "five at once, around the first": {"PASS_IF_RICH": (1 / 9, 1 / 3, 1, 3, 9)},
        "all of four at once, by workers": {
            **dict.fromkeys(("PASS", "PASS_IF_RICH"), arithmetic.AT_ONCE),
            **dict.fromkeys(("RUNS", "RUNS_IF_RICH"), len(arithmetic.AT_ONCE)),
        },
    }
    for title, values in at_once.items():
        with constants(**values):
            row(title, known, lambda budget: [case.regret(budget, kind=AtOnce) for case in known])
    row("two rungs", known, lambda budget: [rungs(case, budget) for case in known])
    for told in (0.5, 2.0):
        row(
            f"told {told:g} x the length",
            known,
            lambda budget, told=told: [case.regret(budget, told) for case in known],
        )
    for how, title in (("constant", "runs at a constant rate"), ("other_batches", "other batches in each run")):
        among = cases(how)
        if among:
            row(title, among, lambda budget, among=among: [case.regret(budget) for case in among])


if __name__ == "__main__":
    main()
