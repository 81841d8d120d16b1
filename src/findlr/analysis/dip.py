"""Where one sweep's loss lies lowest, and what that says about the best rate of what is planned."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from findlr.analysis.curve import Curve
from findlr.analysis.families import RATE_FREE
from findlr.analysis.plan import Plan
from findlr.analysis.smoothing import Array, centred_gaussian, centred_median, median
from findlr.errors import NoSuggestionError

FloatOrArray = TypeVar("FloatOrArray", float, Array)

_BANDWIDTH = 0.5  # decades: the width of the smoothing
_CEILING = 0.3  # of the fall: how far above the start a loss may count
_HORIZON = 0.2  # science: the best rate falls as steps^-b, b from .08 to .32
_SCHEDULE = 1.3  # science: a mean share of 1/2 bears 2.7 to 2.9 times a constant rate, one of .87 bears 1.5
_DECAY = 0.5  # Adagrad divides its rate by the root of its steps
_USUAL_STEPS = 1000.0
_SWEPT = 100.0  # about the steps that a sweep has made by the dip
# What an adaptive optimizer's rate usually is, for 10,000 parameters, 1,000 steps and a constant rate: its steps have
# the rate's size whatever the loss's scale. And how it falls with the parameters (GPT-3's table 2.1: 6e-4 at 1.25e8).
_ADAM = (10**-2.27, 0.25)
_USUAL_RATES = {
    **dict.fromkeys(("Adam", "AdamW", "NAdam", "RAdam", "Adamax"), _ADAM),
    "RMSprop": (10**-2.6, 0.25),
    "Adagrad": (10**-1.66, 0.0),
    # A third to a tenth of AdamW's: lion-pytorch's README; Marin's sweeps at 300-520M measured a quarter to an eighth.
    "Lion": (10**-2.97, 0.25),
    # About AdamW's: Sophia's README, and Marin's sweeps.
    "Sophia": _ADAM,
    # 0.02 for the matrices of every size: Keller Jordan's README, nanochat; Marin's sweeps at 130-300M found 8e-3. A
    # Muon that matches AdamW's updates goes by AdamW's name, because it takes AdamW's rate (Moonlight's report).
    "Muon": (10**-2.04, 0.0),
    # Relative to a matrix's size 1e-2 (Shazeer and Stern 2018, PyTorch's default); in transformers, absolute, 1e-3 for
    # T5's 2e8 parameters: the fall lies between the two.
    "Adafactor": (10**-2.0, 0.12),
    # Twice the peak that a falling schedule takes, because it has none: schedulefree's README (1 to 10 times AdamW's).
    **dict.fromkeys(("AdamWScheduleFree", "RAdamScheduleFree"), (10**-1.58, 0.25)),
    **dict.fromkeys(RATE_FREE, (1.0, 0.0)),  # the READMEs of prodigyopt, dadaptation and dog
}
_RATE_FREE_INTERVAL = (-0.3, 0.3)  # decades around 1
_BELIEF, _REACH = 0.6, 1.5  # how far an answer is drawn to the usual one; decades from which on that is not believed
_NO_MOMENTUM = ("SGD", "ASGD", "Adagrad", "Adadelta", "RMSprop", "Rprop")  # as torch builds them by default
_ROUNDING = 1e-6  # a change below this share of the loss could be float32's rounding


@dataclass(frozen=True)
class Constants:
    """Fitted by ``python -m study.fit_rule``; level and the intervals' ends are in decades."""

    share: float  # of the fall: the dip is what lies deeper
    deep: float  # of the deepest point: the first dip that reaches it is taken
    level: float
    momentum: float
    interval: tuple[float, float]
    if_shallow: tuple[float, float]  # the interval where the fall is small against the batches' spread


WITH_BASELINE = Constants(0.1, 0.7, level=-0.08, momentum=0.6, interval=(-0.28, 0.43), if_shallow=(-0.26, 0.89))
WITHOUT = Constants(0.5, 1.0, level=-0.14, momentum=0.65, interval=(-0.31, 0.47), if_shallow=(-0.78, 1.11))


@dataclass(frozen=True)
class Dip:
    """What the dip of a curve says about the best rate.

    Args:
        centre: the rate at the dip's middle.
        lr: the rate for the planned training.
        low: the lower end of the interval for the best rate; docs/science.md says how often it holds.
        high: its upper end.
    """

    centre: float
    lr: float
    low: float
    high: float


def read_dip(curve: Curve, plan: Plan) -> Dip:
    """The middle of the loss's dip, times what the momentum, the schedule and the length ask for.

    lr = 10^(c + a) (1 - momentum)^b / mean share^1.3 (total_steps / 1000)^-0.2

    c = sum_i w_i log10 lr_i / sum_i w_i over the dip,   w_i = max(fall_i / max_j fall_j - s, 0)

    fall_i is how far the loss lies under the same batch's loss at the starting weights or, where that was not measured,
    under the mean of the first points; smoothed without lag, by a median of 3 and a Gaussian 0.5 decades wide. The dip
    is the first stretch above the share s of the deepest fall that itself goes deep. A momentum shows late that a rate
    is too high; a schedule that falls bears a higher peak (a mean share below 1/4 counts as 1/4); a longer training
    wants less. Adagrad divides its rate by the root of its steps, and gets it back. An adaptive optimizer's answer is
    then drawn towards its usual rate, see ``usual``. a and b are fitted, on tasks of other families than the README
    reports. An optimizer that finds its rate by itself (Prodigy, D-Adaptation, DoG) gets 1, wherever the dip is.

    Args:
        curve: the raw losses of a sweep, with their baseline if measured.
        plan: the training that is planned; 1000 steps, and a momentum of 0.9 unless the optimizer's name tells
            otherwise, stand in for what it leaves open.

    Returns:
        The Dip.

    Raises:
        NoSuggestionError: the curve has fewer than 3 usable points or does not fall.

    Source: original. The schedule's factor follows Defazio et al. 2023 (arXiv:2310.07831) and Schaipp et al. 2025
    (arXiv:2501.18965); the interval is conformal (Vovk, Gammerman and Shafer 2005).
    """
    constants = WITHOUT if curve.baseline is None else WITH_BASELINE
    place, fall = centre_of_dip(curve, constants)
    if plan.optimizer in RATE_FREE:
        rate, _ = _USUAL_RATES[plan.optimizer]
        low, high = _RATE_FREE_INTERVAL
        return Dip(10**place, rate, rate * 10**low, rate * 10**high)
    answer = place + constants.level + constants.momentum * delay(plan) + planned(plan)
    to = usual(plan)
    lr = 10 ** (answer if to is None else drawn(answer, to))
    low, high = constants.if_shallow if curve.is_shallow(fall) else constants.interval
    return Dip(10**place, lr, lr * 10**low, lr * 10**high)


def centre_of_dip(curve: Curve, constants: Constants) -> tuple[float, float]:
    """The middle of the dip, as a decimal logarithm, and how deep it falls."""
    usable = curve.usable()
    n = len(usable)
    x = usable.log10_lr
    if n < 3 or x[-1] <= x[0]:
        raise NoSuggestionError(f"the dip needs 3 usable points, got {n}: raise num_steps, or lower min_lr")
    first = 0 if usable.baseline is not None else max(5, n // 10)
    start = usable.baseline if usable.baseline is not None else np.full(n, usable.loss[:first].mean())
    places = np.linspace(x[0], x[-1], n)  # evenly spaced, also where the rates rise by addition
    change = centred_median(np.interp(places, x, usable.loss - start), 3)
    change[:first] = 0.0  # they are the start, not a dip
    change = np.minimum(change, _CEILING * max(-float(change.min()), 0.0))  # an explosion must not reach its neighbours
    fall = -centred_gaussian(change, max(_BANDWIDTH * (n - 1) / (x[-1] - x[0]), 0.5))
    deepest = float(fall.max())
    if not deepest > _ROUNDING * abs(float(median(start))):
        raise NoSuggestionError(
            f"the dip needs a loss that falls, and this one stays at {float(median(start)):.4g} or rises: "
            "widen the swept range, or check that the loss depends on the parameters"
        )
    weight = np.maximum(fall / deepest - constants.share, 0.0)
    deep = int(np.argmax(fall >= constants.deep * deepest))
    ends = np.flatnonzero(weight == 0)
    low = int(ends[ends < deep].max(initial=-1)) + 1
    high = int(ends[ends > deep].min(initial=n))
    return float(np.average(places[low:high], weights=weight[low:high])), deepest


def delay(plan: Plan) -> float:
    """How late a sweep shows that a rate is too high: log10(1 - momentum)."""
    momentum = plan.momentum
    if momentum is None:
        momentum = 0.0 if plan.optimizer in _NO_MOMENTUM else 0.9
    return float(np.log10(1.0 - min(momentum, 0.99)))


def usual(plan: Plan) -> float | None:
    """What an adaptive optimizer's rate usually is for such a plan, in decades; None for any other optimizer.

    SGD's rates have no usual size, because they scale with the loss.
    """
    if plan.optimizer not in _USUAL_RATES:
        return None
    rate, falls = _USUAL_RATES[plan.optimizer]
    if plan.optimizer in RATE_FREE:
        return float(np.log10(rate))
    larger = np.log10(max(plan.parameters or 10_000, 1000) / 10_000)
    return float(np.log10(rate) - falls * larger) + planned(plan)


def drawn(place: FloatOrArray, to: FloatOrArray) -> FloatOrArray:
    """An answer drawn towards the usual one, less so the farther that is; in decades.

    x + 0.6 g / (1 + (g / 1.5)^2)   with   g = usual - x
    """
    gap = to - place
    return place + _BELIEF * gap / (1 + (gap / _REACH) ** 2)


def planned(plan: Plan) -> float:
    """What the schedule and the length ask for, in decades."""
    shares = plan.shares(101)
    peak = float(shares.max())
    schedule = -np.log10(peak) - _SCHEDULE * np.log10(max(float(shares.mean()) / peak, 0.25))
    steps = float(np.clip(plan.total_steps or _USUAL_STEPS, 100.0, 100_000.0))
    decay = _DECAY * np.log10(steps / _SWEPT) if plan.optimizer == "Adagrad" else 0.0
    return float(schedule + decay - _HORIZON * np.log10(steps / _USUAL_STEPS))
