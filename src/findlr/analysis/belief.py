"""What is believed of the best rate: what the sweep's dip says, and what is usual, weighed by how noisy the dip is."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from findlr.analysis.acting import batch_is_at_fault
from findlr.analysis.curve import Curve
from findlr.analysis.dip import MOST_NOISE, read_dip
from findlr.analysis.families import RATE_FREE
from findlr.analysis.plan import Plan
from findlr.analysis.usual import DECAY, EPOCHS, MOMENTUM, counts, delay, overfits, planned, usual
from findlr.errors import NoSuggestionError

# Fitted by ``python -m study.fit_rule`` on tasks of other families than the README reports; in decades.
_LEVEL = -0.12  # a rate that is too high costs more than one that is too low
_TRUST, _TRUST_IN_GAP = 3.0, 1.2  # how fast a dip that is noisy loses its weight
_DENSITY = 0.33  # four times the steps move the dip by -0.2 decades
_REACH = 1.5  # so far apart, a dip that is clear weighs twice as much as what is usual
_INTERVAL, _NOISY_INTERVAL, _USUAL_INTERVAL = (-0.42, 0.48), (-0.54, 0.76), (-0.6, 0.8)
_RATE_FREE_INTERVAL = (-0.3, 0.3)
_FROM_EDGE = 0.3  # decades: no rate is borne nearer to where a sweep diverged, or ended before its loss had turned
# What each doubt adds to the regret. A fit gives 0.03 for the epochs; with that more of the worst answers are CLEAR.
_NOISE_COSTS, _EPOCHS_COST, _PRETRAINED_COSTS, _GAP_COSTS = 0.06, 0.05, 0.025, 0.015
_FEW_EPOCHS = 0.5  # decades


@dataclass(frozen=True)
class Belief:
    """What each source says of the best rate, and the answer between them.

    Args:
        lr: the answer.
        interval: where the best rate lies in 80 of 100 such trainings.
        dip: the rate that the sweep's dip alone says; None if the curve has no dip.
        usual: the rate that is usual for such a training; None if nothing is known of its optimizer.
        weight: of the dip, from 0 to 1.
        doubts: what each reason to doubt adds to the expected regret: "noise" (the batches hide the dip), "epochs" (the
            training sees its data more often than a sweep can tell about), "pretrained" (the start is trained
            already), "gap" (the two sources disagree).
    """

    lr: float
    interval: tuple[float, float]
    dip: float | None
    usual: float | None
    weight: float
    doubts: dict[str, float]

    @property
    def expected_regret(self) -> float:
        """The mean regret of answers that are as sure as this one: 0 is the best rate, 1 is no training at all."""
        return sum(self.doubts.values())


def believe(curve: Curve, plan: Plan) -> Belief:
    """Weigh what the dip says against what is usual.

    log10 lr = (w d + v u) / (w + v) - 0.12,   w = e^(-3 s) (1 + (|u - d| e^(-1.2 s) / 1.5)^2)

    d = place of the dip + 0.6 log10(1 - momentum) + planned + 0.33 density - 0.4 overfits

    u = what is usual,   v = 1, or 0.4 for SGD, RMSprop and Adagrad,   s = the dip's noise

    The more steps a sweep takes in a decade, the more it learns there, and the sooner its loss turns. A momentum shows
    late that a rate is too high; a schedule that falls bears a higher peak; a longer training wants less; and few data
    that are seen more than ten times are overfitted, which no sweep tells. Where nothing is usual the dip stands alone,
    and where there is no dip, what is usual does. No answer lies nearer than a factor of 2 to a rate at which the sweep
    diverged, nor does what is usual lead beyond the rates that were swept.

    Raises:
        NoSuggestionError: there is no dip, and nothing is usual.

    Example:
        >>> rates = 10.0 ** np.linspace(-8, 1, 100)
        >>> curve = Curve(rates, 1 - np.exp(-((np.log10(rates) + 2) ** 2)))
        >>> belief = believe(curve, Plan("one_cycle", 1000, "AdamW", 0.9))
        >>> f"{belief.dip:.2g} and {belief.usual:.2g} make {belief.lr:.2g}"
        '0.0062 and 0.011 make 0.0061'

    Source: original. The schedule's factor follows Defazio et al. 2023 (arXiv:2310.07831) and Schaipp et al. 2025
    (arXiv:2501.18965); the interval is conformal (Vovk, Gammerman and Shafer 2005).
    """
    try:
        dip = read_dip(curve)
    except NoSuggestionError:
        alone = believe_the_usual(curve, plan)
        if alone is None:
            raise
        return alone
    by_usual = usual(plan, _start(curve))
    density = -DECAY if plan.optimizer == "Adagrad" else _DENSITY
    by_dip = dip.place + MOMENTUM * delay(plan) + planned(plan) + density * dip.density - EPOCHS * overfits(plan)
    if by_usual is None:
        weight, answer = 1.0, by_dip
    elif plan.optimizer in RATE_FREE:
        weight, answer = 0.0, by_usual
    else:
        trust = math.exp(-_TRUST * dip.noise)
        trust *= 1 + (abs(by_usual - by_dip) * math.exp(-_TRUST_IN_GAP * dip.noise) / _REACH) ** 2
        weight = trust / (trust + counts(plan))
        answer = weight * by_dip + (1 - weight) * by_usual
    interval = _NOISY_INTERVAL if dip.noise else _INTERVAL
    return _settled(curve, plan, answer, by_dip, by_usual, weight, interval, dip.noise)


def believe_the_usual(curve: Curve, plan: Plan) -> Belief | None:
    """What is usual, whatever the curve's dip says; None if nothing is."""
    by_usual = usual(plan, _start(curve))
    return None if by_usual is None else _settled(curve, plan, by_usual, None, by_usual, 0.0, _USUAL_INTERVAL)


def believe_at_least(curve: Curve, plan: Plan) -> Belief | None:
    """What is usual, or more where a loss that still falls says so; None if nothing is usual and there is no dip.

    A dip that has not ended lies lower than the whole one would. Where the batches' losses under the starting weights
    were not measured, a loss may fall by itself, so the dip has only its weight; where they were and nothing is usual,
    the dip stands alone. No answer lies nearer than a factor of 2 to the last rate, behind which nothing was seen.
    """
    alone = believe_the_usual(curve, plan)
    if plan.optimizer in RATE_FREE:
        return alone
    try:
        both = believe(curve, plan)
    except NoSuggestionError:
        return alone
    if both.dip is None:
        return alone
    by_dip, last = math.log10(both.dip), float(np.log10(curve.lr[-1])) - _FROM_EDGE
    if alone is None or alone.usual is None:
        is_sure = curve.baseline is not None
        return _settled(curve, plan, min(by_dip, last), by_dip, None, 1.0, _USUAL_INTERVAL) if is_sure else None
    by_usual = math.log10(alone.usual)
    if by_dip <= by_usual:
        return alone
    weight = 1.0 if curve.baseline is not None else both.weight
    answer = min(by_usual + weight * (by_dip - by_usual), last)
    return _settled(curve, plan, max(answer, by_usual), by_dip, by_usual, weight, _USUAL_INTERVAL)


def _start(curve: Curve) -> float:
    """The mean loss under the starting weights; NaN if there is no point."""
    losses = curve.at_start()
    return float(losses.mean()) if len(losses) else math.nan


def _settled(
    curve: Curve,
    plan: Plan,
    answer: float,
    by_dip: float | None,
    by_usual: float | None,
    weight: float,
    interval: tuple[float, float],
    noise: float = MOST_NOISE,
) -> Belief:
    answer += 0.0 if plan.optimizer in RATE_FREE else _LEVEL
    if curve.diverged and len(curve) and not batch_is_at_fault(curve):
        answer = min(answer, float(np.log10(curve.lr[-1])) - _FROM_EDGE)
    lr = 10**answer
    if by_dip is not None and curve.lr[0] <= 10**by_dip <= curve.lr[-1] and plan.optimizer not in RATE_FREE:
        lr = float(np.clip(lr, curve.lr[0], curve.lr[-1]))  # what is usual leads to no rate that was not swept
    low, high = _RATE_FREE_INTERVAL if plan.optimizer in RATE_FREE else interval
    apart = 0.0 if by_dip is None or by_usual is None else min(abs(by_usual - by_dip), 2.0)
    doubts = {
        "noise": _NOISE_COSTS * noise,
        "epochs": _EPOCHS_COST * max(0.0, math.log10(plan.epochs or 1.0) - _FEW_EPOCHS),
        "pretrained": _PRETRAINED_COSTS * bool(plan.pretrained),
        "gap": _GAP_COSTS * apart,
    }
    return Belief(
        lr=lr,
        interval=(lr * 10**low, lr * 10**high),
        dip=None if by_dip is None else 10**by_dip,
        usual=None if by_usual is None else 10**by_usual,
        weight=weight,
        doubts=doubts,
    )
