"""Fits the constants of ``findlr.analysis.dip`` to the recorded sweeps of the fit half, one family left out at a time.

    python -m study.record --name variate --set control_variate=true   # the sweeps, once
    python -m study.fit_rule                                           # tables and constants
    python -m study.fit_rule --report                                  # the report half too, nothing fitted

Fitted: the level and the momentum's exponent, by the mean regret over a grid of both, and the interval. A regret above
0.15 counts as 0.15, lest two tasks that no rate read off a sweep would fit decide it all, and is averaged over rates
within about 0.15 decades, lest a rule be fitted to the very edge. Not fitted: the exponents of schedule and horizon are
science's; how the dip is read is a choice from the last table, by the regret and the spread over seeds.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import numpy.typing as npt

from findlr import Curve
from findlr.analysis.dip import WITH_BASELINE, WITHOUT, Constants, centre_of_dip, delay, drawn, planned, usual
from findlr.analysis.plan import Plan
from findlr.errors import NoSuggestionError
from findlr.torch.training import Training
from study import tasks
from study.record import curves
from study.regret import DEFAULT_LR, Truth, load

Array = npt.NDArray[np.float64]

LEVELS = np.arange(-1.0, 0.61, 0.02)
EXPONENTS = np.arange(0.0, 0.81, 0.05)
MOST, BLUR = 0.15, 0.15  # of a regret; in decades
COVERED = 0.8
HALF_STEP = np.log10(2) / 4  # half a step of the truth's grid near the best rate
PLACES = np.arange(-9.0, 3.0, 0.02)  # of log10 lr


@dataclass(frozen=True)
class Case:
    """One recorded sweep."""

    truth: Truth
    curve: Curve
    plan: Plan


def cases(name: str, split: str, baseline: bool) -> list[Case]:
    """The sweeps of one half, as the rule sees them."""
    found = []
    for known, _, curve in curves(name):
        truth = load().get(known)
        if truth is not None and truth.split == split:
            found.append(Case(truth, curve if baseline else replace_baseline(curve), plan_of(truth.name)))
    return found


@cache
def plan_of(name: str) -> Plan:
    """What ``find_lr`` knows of a task's training."""
    known = tasks.task(name)
    model = known.model()
    optimizer = tasks.OPTIMIZERS[known.optimizer](model.parameters(), DEFAULT_LR[known.optimizer])
    return Training(model, optimizer).planned(Plan(known.schedule, known.total_steps))


def replace_baseline(curve: Curve) -> Curve:
    """The same losses, as a sweep without the control variate gives them."""
    return Curve(curve.lr, curve.loss, diverged=curve.diverged, num_steps=curve.num_steps)


@cache
def blurred(task: str) -> Array:
    """The regret at PLACES, averaged over near rates and clipped."""
    regrets = np.array([load()[task].regret(10**place) for place in PLACES])
    reach = 40
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) * 0.02 / BLUR) ** 2)
    smooth = np.convolve(np.pad(regrets, reach, mode="edge"), weights / weights.sum(), "valid")
    return np.asarray(np.minimum(smooth, MOST))


class Sample:
    """What the rule reads off each case, as log10 rates; what has no dip gets the optimizer's default."""

    def __init__(self, all_cases: Sequence[Case], constants: Constants) -> None:
        self.cases = all_cases
        self.family = np.array([case.truth.family for case in all_cases])
        self.task = np.array([case.truth.name for case in all_cases])
        self.best = np.log10([case.truth.best_lr for case in all_cases])
        self.refused = np.zeros(len(all_cases), dtype=bool)
        self.shallow = np.zeros(len(all_cases), dtype=bool)
        self.base = np.array([self._read(i, case, constants) for i, case in enumerate(all_cases)])
        self.delay = np.array([delay(case.plan) for case in all_cases])
        self.usual = np.array([usual(case.plan) for case in all_cases], dtype=np.float64)  # NaN for none

    def _read(self, i: int, case: Case, constants: Constants) -> float:
        try:
            place, fall = centre_of_dip(case.curve, constants)
            self.shallow[i] = case.curve.is_shallow(fall)
            return place + planned(case.plan)
        except NoSuggestionError:
            self.refused[i] = True
            return 0.0

    def places(self, level: float, momentum: float) -> Array:
        """The suggestions, as log10 rates."""
        default = np.log10([DEFAULT_LR[case.truth.optimizer] for case in self.cases])
        read = self.base + level + momentum * self.delay
        answers = np.where(np.isnan(self.usual), read, drawn(read, self.usual))
        return np.where(self.refused, default, answers)

    def fit(self, among: npt.NDArray[np.bool_]) -> tuple[float, float]:
        """The level and the exponent with the least mean clipped regret."""
        tables = np.array([blurred(task) for task in self.task])
        rows = np.arange(len(self.cases))

        def cost(level: float, momentum: float) -> float:
            at = np.rint((self.places(level, momentum) - PLACES[0]) / 0.02).astype(int).clip(0, len(PLACES) - 1)
            return float(tables[rows, at][among].mean())

        pairs = [(float(level), float(momentum)) for level in LEVELS for momentum in EXPONENTS]
        level, momentum = min(pairs, key=lambda pair: cost(*pair))
        return round(level, 2), round(momentum, 2)

    def left_out(self, predict: Callable[[npt.NDArray[np.bool_]], Array]) -> Array:
        """For each case, what ``predict`` says when its family is not among those fitted on."""
        result = np.full(len(self.cases), np.nan)
        for family in dict.fromkeys(self.family):
            mine = self.family == family
            result[mine] = predict(~mine)[mine]
        return result

    def intervals(self, residuals: Array, among: npt.NDArray[np.bool_]) -> tuple[tuple[float, float], ...]:
        """The shortest intervals of the residuals: where the fall is deep, and where it is shallow."""
        return shortest(residuals[among & ~self.shallow]), shortest(residuals[among & self.shallow])

    def ends(self, intervals: Sequence[tuple[float, float]], which: int) -> Array:
        """The lower (0) or upper (1) end for each case."""
        return np.where(self.shallow, intervals[1][which], intervals[0][which])

    def regrets(self, places: Array) -> Array:
        """The regret of each suggestion."""
        return np.array([case.truth.regret(10**place) for case, place in zip(self.cases, places, strict=True)])

    def row(self, title: str, places: Array) -> str:
        """A row of the table."""
        regrets = self.regrets(places)
        apart = np.array([10 ** np.ptp(places[self.task == task]) for task in dict.fromkeys(self.task)])
        bad = [case.truth.diverged(10**place) for case, place in zip(self.cases, places, strict=True)]
        return (
            f"{title:34s} {regrets.mean():.4f} {np.quantile(regrets, 0.9):.3f} {regrets.max():.3f} "
            f"{np.median(regrets):.4f} {np.mean(regrets <= 0.01):5.0%} {np.median(apart):5.2f} {apart.max():6.2f} "
            f"{sum(bad):3d} {self.refused.sum():3d}"
        )


HEADER = f"{'':34s} {'mean':6s} {'p90':5s} {'worst':5s} {'median':6s} {'<=.01':5s} {'ratio':5s} {'max':>6s} bad refused"


def shortest(residuals: Array) -> tuple[float, float]:
    """The shortest interval that covers the share COVERED of the residuals, half a grid step off included."""
    ordered = np.sort(residuals)
    need = int(np.ceil(COVERED * len(ordered)))
    widths = ordered[need - 1 :] - ordered[: len(ordered) - need + 1]
    at = int(np.argmin(widths))
    return round(float(ordered[at] + HALF_STEP), 2), round(float(ordered[at + need - 1] - HALF_STEP), 2)


def coverage(sample: Sample, residuals: Array, low: float | Array, high: float | Array) -> str:
    """A line about an interval."""
    inside = (residuals >= low - HALF_STEP) & (residuals <= high + HALF_STEP)
    by_task = [inside[sample.task == task].mean() for task in dict.fromkeys(sample.task)]
    width = float(np.median(np.asarray(high) - np.asarray(low)))
    return f"covers {inside.mean():.0%} (mean over tasks {np.mean(by_task):.0%}), median width {width:.2f} decades"


def fit(name: str, baseline: bool, start: Constants) -> Constants:
    """Fit one set of constants and print what it does."""
    sample = Sample(cases(name, "fit", baseline), start)
    everyone = np.ones(len(sample.cases), dtype=bool)
    level, momentum = sample.fit(everyone)
    held_out = sample.left_out(lambda among: sample.places(*sample.fit(among)))
    residuals = sample.best - held_out
    intervals = sample.intervals(residuals, everyone)
    constants = replace(start, level=level, momentum=momentum, interval=intervals[0], if_shallow=intervals[1])

    print(f"\n{'with' if baseline else 'without'} the control variate, fit half\n{HEADER}")
    print(sample.row("fitted on all families", sample.places(level, momentum)))
    print(sample.row("leaving one family out", held_out))
    ends = [sample.left_out(lambda among, i=i: sample.ends(sample.intervals(residuals, among), i)) for i in (0, 1)]
    print("interval, its ends fitted leaving one family out:", coverage(sample, residuals, ends[0], ends[1]))
    for task in dict.fromkeys(sample.task):
        mine = sample.task == task
        regrets = sample.regrets(held_out)[mine]
        seen = " ".join(f"{value:+.2f}" for value in residuals[mine])
        print(f"    {task:22s} regret {regrets.mean():.3f}   log10(best / suggested) by seed {seen}")
    return constants


def shapes(name: str, baseline: bool, start: Constants) -> None:
    """Print the other ways to read the dip."""
    print(f"\nhow the dip is read, {'with' if baseline else 'without'} the control variate\n{HEADER}")
    for share in (0.1, 0.3, 0.5, 0.7):
        for deep in (0.7, 1.0) if share < 0.7 else (1.0,):
            sample = Sample(cases(name, "fit", baseline), replace(start, share=share, deep=deep))
            held_out = sample.left_out(lambda among, sample=sample: sample.places(*sample.fit(among)))
            print(sample.row(f"share {share}, deep {deep}, families out", held_out))


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Fit the constants of findlr.analysis.dip.")
    parser.add_argument("--name", default="variate", help="the recorded sweeps, with the control variate")
    parser.add_argument("--report", action="store_true", help="score the report half too")
    arguments = parser.parse_args()
    variants = (("WITH_BASELINE", True, WITH_BASELINE), ("WITHOUT", False, WITHOUT))
    fitted = {title: fit(arguments.name, baseline, start) for title, baseline, start in variants}
    for _, baseline, start in variants:
        shapes(arguments.name, baseline, start)
    print("\nthe constants of src/findlr/analysis/dip.py")
    for title, constants in fitted.items():
        print(f"{title} = {constants}")
    for title, baseline, _ in variants if arguments.report else ():
        constants = fitted[title]
        sample = Sample(cases(arguments.name, "report", baseline), constants)
        places = sample.places(constants.level, constants.momentum)
        print(f"\n{'with' if baseline else 'without'} the control variate, report half\n{HEADER}")
        print(sample.row("constants of the fit half", places))
        low, high = (sample.ends((constants.interval, constants.if_shallow), i) for i in (0, 1))
        print("interval:", coverage(sample, sample.best - places, low, high))
        for task in dict.fromkeys(sample.task):
            print(f"    {task:22s} regret {sample.regrets(places)[sample.task == task].mean():.3f}")


if __name__ == "__main__":
    main()
