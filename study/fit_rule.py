"""Fits the default rule to the recorded sweeps of the fit half, one family of tasks left out at a time.

    python -m study.record --name variate   # the sweeps, once
    python -m study.fit_rule                                           # tables and constants
    python -m study.fit_rule --report                                  # the report half too, nothing fitted

Fitted: what is usual for each optimizer (the median), what a doubt adds to the regret (least squares), the interval
(conformal). Chosen from the table of other ways, by the regret: how fast a noisy dip loses its weight, and the level. A
regret above 0.15 counts as 0.15 there, lest a few tasks that no rate read off a sweep would fit decide it all, and is
averaged over rates within about 0.15 decades, lest a rule be fitted to the very edge. The exponents of schedule, length
and parameters are science's.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any
from unittest.mock import patch

import numpy as np
import numpy.typing as npt
from scipy.optimize import nnls

from findlr import Curve, TorchTrainable
from findlr.analysis import belief, usual
from findlr.analysis.answer import answer
from findlr.analysis.belief import Belief, believe
from findlr.analysis.plan import Plan
from findlr.analysis.verdict import Verdict
from findlr.errors import NoSuggestionError
from study import tasks
from study.record import curves
from study.regret import DEFAULT_LR, Truth, load
from study.scores import HALF_STEP

Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

MOST, BLUR = 0.15, 0.15  # of a regret; in decades
COVERED = 0.8
PLACES = np.arange(-9.0, 3.0, 0.02)  # of log10 lr
RATES = "_USUAL_RATES"
LIKE = {"Adam": ("Adam", "AdamW"), "RMSprop": ("RMSprop",), "Adagrad": ("Adagrad",), "SGD": ("SGD",)}  # one base each
OTHER_WAYS: dict[str, dict[str, Any]] = {
    "as it is": {},
    "what is usual alone": {"_TRUST": 1e3},
    "dip alone": {"_TRUST": 0.0, "_REACH": 1e-9},
    "a dip's weight ignores its noise": {"_TRUST": 0.0, "_TRUST_IN_GAP": 0.0},
    "trust falls half as fast": {"_TRUST": belief._TRUST / 2},
    "trust falls twice as fast": {"_TRUST": belief._TRUST * 2},
    "the gap counts for nothing": {"_REACH": 1e9},
    "all optimizers' usual rates count alike": {"counts": lambda _plan: 1.0},
    "level 0": {"_LEVEL": 0.0},
    "level -0.06": {"_LEVEL": -0.06},
    "level -0.18": {"_LEVEL": -0.18},
}


@dataclass(frozen=True)
class Case:
    """One recorded sweep."""

    truth: Truth
    seed: int
    curve: Curve
    plan: Plan


def cases(name: str, split: str, baseline: bool) -> list[Case]:
    """The sweeps of one half, as the rule sees them."""
    found = []
    for known, seed, curve in curves(name):
        truth = load().get(known)
        if truth is not None and truth.split == split:
            seen = curve if baseline else Curve(curve.lr, curve.loss, None, None, curve.diverged, curve.num_steps)
            found.append(Case(truth, seed, seen, plan_of(truth.name)))
    return found


@cache
def plan_of(name: str) -> Plan:
    """What ``find_lr`` knows of a task's training."""
    known = tasks.task(name)
    setup = known.make(0)
    optimizer = tasks.OPTIMIZERS[known.optimizer](setup.model.parameters(), DEFAULT_LR[known.optimizer])
    trainable = TorchTrainable(setup.model, optimizer, setup.criterion, setup.loader)
    return trainable.planned(Plan(known.schedule, known.total_steps))


@cache
def blurred(task: str) -> Array:
    """The regret at PLACES, averaged over near rates and clipped."""
    regrets = np.array([load()[task].regret(10**place) for place in PLACES])
    reach = 40
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) * 0.02 / BLUR) ** 2)
    smooth = np.convolve(np.pad(regrets, reach, mode="edge"), weights / weights.sum(), "valid")
    return np.asarray(np.minimum(smooth, MOST))


def bases(among: Sequence[Case]) -> dict[str, tuple[float, float]]:
    """What is usual for each optimizer that enough of these tasks have, in place of the constants."""
    found = dict(usual._USUAL_RATES)
    for names in LIKE.values():
        off = []
        for case in among:
            told = usual.usual(case.plan, belief._start(case.curve)) if case.plan.optimizer in names else None
            if told is not None:
                off.append(math.log10(case.truth.best_lr) - told)
        if len(off) > 2:
            shift = round(float(np.median(off)), 2)
            found |= {name: (rate + shift, falls) for name, (rate, falls) in found.items() if name in names}
    return found


class Sample:
    """What the rule says of each case."""

    def __init__(self, all_cases: Sequence[Case]) -> None:
        self.cases = all_cases
        self.family = np.array([case.truth.family for case in all_cases])
        self.task = np.array([case.truth.name for case in all_cases])
        self.best = np.log10([case.truth.best_lr for case in all_cases])

    def left_out(self, **constants: Any) -> list[Belief | None]:
        """For each case, what is believed where its family is not among those fitted on."""
        found: list[Belief | None] = [None] * len(self.cases)
        for family in dict.fromkeys(self.family):
            others = [case for case in self.cases if case.truth.family != family]
            asked = self.asked(family, bases(others), constants)
            for i, one in zip(np.flatnonzero(self.family == family), asked, strict=True):
                found[i] = one
        return found

    def asked(
        self, family: str | None, rates: Mapping[str, tuple[float, float]], constants: Mapping[str, Any]
    ) -> list[Belief | None]:
        """What is believed of the cases of one family, or of all, with these constants."""
        chosen = [case for case in self.cases if family in (None, case.truth.family)]
        with patch.multiple(belief, **({"_LEVEL": belief._LEVEL} | dict(constants))), patch.object(usual, RATES, rates):
            return [_asked(case) for case in chosen]

    def places(self, found: Sequence[Belief | None]) -> Array:
        """The answers, as log10 rates; the default rate where there is none."""
        default = [DEFAULT_LR[case.truth.optimizer] for case in self.cases]
        return np.log10([lr if one is None else one.lr for one, lr in zip(found, default, strict=True)])

    def regrets(self, places: Array) -> Array:
        """The regret of each answer."""
        return np.array([case.truth.regret(10**place) for case, place in zip(self.cases, places, strict=True)])

    def row(self, title: str, places: Array) -> str:
        """A row of the table."""
        regrets = self.regrets(places)
        at = np.rint((places - PLACES[0]) / 0.02).astype(int).clip(0, len(PLACES) - 1)
        soft = np.mean([blurred(task)[i] for task, i in zip(self.task, at, strict=True)])
        apart = np.array([10 ** np.ptp(places[self.task == task]) for task in dict.fromkeys(self.task)])
        bad = [case.truth.diverged(10**place) for case, place in zip(self.cases, places, strict=True)]
        return (
            f"{title:34s} {regrets.mean():.4f} {soft:.4f} {np.median(regrets):.4f} {np.quantile(regrets, 0.9):.3f} "
            f"{regrets.max():.3f} {np.mean(regrets <= 0.01):5.0%} {np.median(apart):5.2f} {apart.max():6.2f} "
            f"{sum(bad):3d}"
        )


HEADER = f"{'':34s} mean   softer median p90   worst <=.01 ratio    max bad"


def _asked(case: Case) -> Belief | None:
    try:
        return believe(case.curve, case.plan)
    except NoSuggestionError:
        return None


def ends(residuals: Array, families: npt.NDArray[np.str_]) -> tuple[float, float]:
    """The residuals between which the share COVERED of them lies, each family counted once; half a grid step off."""
    weights = np.array([1 / np.count_nonzero(families == family) for family in families])
    order = np.argsort(residuals)
    share = np.cumsum(weights[order]) / weights.sum()
    tail = (1 - COVERED) / 2
    low, high = (residuals[order][int(np.searchsorted(share, at))] for at in (tail, 1 - tail))
    return round(float(low + HALF_STEP), 2), round(float(high - HALF_STEP), 2)


def coverage(sample: Sample, found: Sequence[Belief | None]) -> str:
    """A line about the interval."""
    known = [(one, best) for one, best in zip(found, sample.best, strict=True) if one is not None]
    ends = np.log10([one.interval for one, _ in known])
    best = np.array([each for _, each in known])
    inside = (best >= ends[:, 0] - HALF_STEP) & (best <= ends[:, 1] + HALF_STEP)
    return f"the interval covers {inside.mean():.0%}, median width {np.median(np.ptp(ends, axis=1)):.2f} decades"


COSTS = {
    "noise": belief._NOISE_COSTS,
    "epochs": belief._EPOCHS_COST,
    "pretrained": belief._PRETRAINED_COSTS,
    "gap": belief._GAP_COSTS,
}


def doubts(sample: Sample, found: Sequence[Belief | None], regrets: Array) -> None:
    """Print what each doubt adds to the regret, and how the sweeps that are called CLEAR do."""
    known = np.array([one is not None for one in found])
    parts = np.array([[one.doubts[name] / COSTS[name] for name in COSTS] for one in found if one is not None])
    costs, _ = nnls(parts, np.minimum(regrets[known], 0.5))
    print("what a doubt costs, by least squares:", dict(zip(COSTS, costs.round(3).tolist(), strict=True)))
    clear = np.array([answer(case.curve, case.plan).verdict is Verdict.CLEAR for case in sample.cases])
    for title, chosen in (("CLEAR", clear), ("the others", ~clear)):
        some = regrets[chosen]
        p95 = np.quantile(some, 0.95)
        print(f"{title:10s} {chosen.mean():.0%}: mean {some.mean():.4f}, 95 % {p95:.3f}, worst {some.max():.2f}")


def fit(name: str, baseline: bool) -> None:
    """Fit on the fit half, and print what the rule does there."""
    sample = Sample(cases(name, "fit", baseline))
    print(f"\n{'with' if baseline else 'without'} the control variate, fit half, families left out\n{HEADER}")
    ways = {title: sample.places(sample.left_out(**constants)) for title, constants in OTHER_WAYS.items()}
    for title, places in ways.items():
        print(sample.row(title, places))
    dip, usually = ways["dip alone"], ways["what is usual alone"]
    better = np.where(sample.regrets(dip) < sample.regrets(usually), dip, usually)
    print(sample.row("the better of these two, by an oracle", better))
    found = sample.left_out()
    places = sample.places(found)
    print(coverage(sample, found))
    residuals = sample.best - places
    noisy = np.array([one is None or one.doubts["noise"] > 0 for one in found])
    for title, chosen in (("calm", ~noisy), ("noisy", noisy)):
        print(f"interval, {title}:", *ends(residuals[chosen], sample.family[chosen]))
    doubts(sample, found, sample.regrets(places))
    fitted = bases(sample.cases)
    print("usual rates:", {key: round(fitted[key][0], 2) for key in LIKE})
    for key, names in LIKE.items():
        asked = zip(sample.cases, sample.best, found, strict=True)
        told = [(best, one) for case, best, one in asked if one is not None and case.plan.optimizer in names]
        off = [best - math.log10(one.usual) for best, one in told if one.usual is not None]
        far = np.sqrt(np.mean(np.square(off)))
        print(f"from what is usual to the best rate, {key}: {far:.2f} decades (root mean square)")
    for task in dict.fromkeys(sample.task):
        mine = sample.task == task
        seen = " ".join(f"{value:+.2f}" for value in residuals[mine])
        print(f"    {task:22s} regret {sample.regrets(places)[mine].mean():.3f}   log10(best / answer) by seed {seen}")


def judged(name: str, baseline: bool, split: str) -> None:
    """Print what the constants of the source do on another half."""
    sample = Sample(cases(name, split, baseline))
    found = sample.asked(None, usual._USUAL_RATES, {})
    places = sample.places(found)
    print(f"\n{'with' if baseline else 'without'} the control variate, {split} half\n{HEADER}")
    print(sample.row("constants of the fit half", places))
    print(coverage(sample, found))
    doubts(sample, found, sample.regrets(places))
    for task in dict.fromkeys(sample.task):
        print(f"    {task:22s} regret {sample.regrets(places)[sample.task == task].mean():.3f}")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Fit the default rule.")
    parser.add_argument("--name", default="variate", help="the recorded sweeps, with the control variate")
    parser.add_argument("--report", action="store_true", help="score the report half too")
    arguments = parser.parse_args()
    for baseline in (True, False):
        fit(arguments.name, baseline)
    for baseline in (True, False) if arguments.report else ():
        judged(arguments.name, baseline, "report")


if __name__ == "__main__":
    main()
