"""What an optimizer's rate usually is: by what it is, how much it trains, how long, and on how much data."""

from __future__ import annotations

import math

import numpy as np

from findlr.analysis.families import RATE_FREE
from findlr.analysis.plan import Plan

HORIZON = 0.2  # science: the best rate falls as steps^-b, b from .08 to .32
SCHEDULE = 1.3  # science: a mean share of 1/2 bears 2.7 to 2.9 times a constant rate, one of .87 bears 1.5
MOMENTUM = 0.6  # a momentum's rate falls as (1 - momentum)^this
DECAY = 0.5  # Adagrad divides its rate by the root of its steps
_USUAL_STEPS = 1000.0
_SWEPT = 100.0  # about the steps that a sweep has made by the dip
_USUAL_EPOCHS = 10.0
_LEAST_EPOCHS, _MOST_EPOCHS = 0.8, 1000.0  # fewer were not fitted, and below one pass no example comes again
EPOCHS = 0.4  # the more often examples come again, the sooner a high rate overfits
_FEW_STEPS = 100.0  # in an epoch: with more, the data are many
_PRETRAINED = 0.5  # decades: weights that are good already bear less,
_FINE_TUNED = 0.3  # and large ones far less: BERT's 1e8 are fine-tuned at 2e-5 to 5e-5 (its README), trained at 1e-4
_WHOLE = 0.5  # of the model: less is an adapter or a head, which is new
# For 10,000 parameters, 1,000 steps at a constant rate, 10 epochs and a fresh start, in decades; and how it falls with
# the parameters (GPT-3's table 2.1: 6e-4 at 1.25e8). Those of Adam, RMSprop, Adagrad and SGD are fitted.
_ADAM = (-2.36, 0.25)
_USUAL_RATES = {
    **dict.fromkeys(("Adam", "AdamW", "NAdam", "RAdam", "Adamax"), _ADAM),
    "RMSprop": (-2.75, 0.25),
    "Adagrad": (-2.04, 0.25),
    # A third to a tenth of AdamW's: lion-pytorch's README; Marin's sweeps at 300-520M measured a quarter to an eighth.
    "Lion": (-3.08, 0.25),
    # About AdamW's: Sophia's README, and Marin's sweeps.
    "Sophia": _ADAM,
    # 0.02 for the matrices of every size: Keller Jordan's README, nanochat; Marin's sweeps at 130-300M found 8e-3. A
    # Muon that matches AdamW's updates goes by AdamW's name, because it takes AdamW's rate (Moonlight's report).
    "Muon": (-2.04, 0.0),
    # Relative to a matrix's size 1e-2 (Shazeer and Stern 2018, PyTorch's default); in transformers, absolute, 1e-3 for
    # T5's 2e8 parameters: the fall lies between the two.
    "Adafactor": (-2.0, 0.12),
    # Twice the peak that a falling schedule takes, because it has none: schedulefree's README (1 to 10 times AdamW's).
    **dict.fromkeys(("AdamWScheduleFree", "RAdamScheduleFree"), (-1.69, 0.25)),
    # Times the loss at the start, without a momentum. It does not fall with the size: residual networks of 3e5 to 6e7
    # parameters are all trained at 0.1 (He et al. 2015).
    **dict.fromkeys(("SGD", "ASGD"), (-0.68, 0.0)),
    **dict.fromkeys(RATE_FREE, (0.0, 0.0)),  # the READMEs of prodigyopt, dadaptation and dog
}
_OF_THE_LOSS = ("SGD", "ASGD")  # whose steps grow with the loss: one scaled by 10 takes a tenth of the rate
_SMALLEST = 1e-100  # loss; no view shows a rate that one beyond it, or beyond its inverse, would lead to
# What is usual counts less for them. SGD's best rates lie farther from it than Adam's; the others lose less so.
_LESS_USUAL = (*_OF_THE_LOSS, "RMSprop", "Adagrad")
_LESS = 0.4
_NO_MOMENTUM = ("SGD", "ASGD", "Adagrad", "Adadelta", "RMSprop", "Rprop")  # as torch builds them by default


def usual(plan: Plan, start: float) -> float | None:
    """What the rate of such a training usually is, in decades; None if the optimizer's is not known.

    log10 lr = base - b log10(parameters / 10^4) + planned - 0.4 log10(epochs / 10) - pretrained

    What is pretrained takes 0.5 decades less, and if the whole of it is trained 0.3 for each decade of parameters more.

    An SGD's is relative to the loss: less log10(start), and plus 0.6 log10(1 - momentum).

    Args:
        plan: the training; what it leaves open counts as 10,000 parameters, 1000 steps, 10 epochs and a fresh start.
        start: the mean loss under the starting weights. One that is not above 0, or beyond any training's, has no
            scale: then nothing is usual for an SGD.

    Returns:
        The decimal logarithm of the rate.

    Example:
        >>> round(usual(Plan(optimizer="AdamW", parameters=1_000_000), start=2.3), 2)
        -2.86

    Source: the sources stand beside the constants; the fit is ``study.fit_rule``'s.
    """
    if plan.optimizer not in _USUAL_RATES:
        return None
    base, falls = _USUAL_RATES[plan.optimizer]
    if plan.optimizer in RATE_FREE:
        return base
    if plan.optimizer in _OF_THE_LOSS:
        if not _SMALLEST < start < 1 / _SMALLEST:
            return None
        base += MOMENTUM * delay(plan) - math.log10(start)
    larger = math.log10(max(plan.parameters or 10_000, 1000) / 10_000)
    before = _PRETRAINED if plan.pretrained else 0.0
    if (plan.pretrained or 0.0) >= _WHOLE:
        before += _FINE_TUNED * max(larger, 0.0)
    return base - falls * larger + planned(plan) - EPOCHS * _again(plan) - before


def counts(plan: Plan) -> float:
    """How much what is usual for such a training counts, where a clear dip counts 1."""
    return _LESS if plan.optimizer in _LESS_USUAL else 1.0


def overfits(plan: Plan) -> float:
    """How much sooner a high rate overfits than a sweep or a short run can tell, in decades: few data, seen often.

    max(0, min(log10(epochs / 10), log10(100 / steps per epoch))),   0 where one of them is not known
    """
    if not (plan.epochs and plan.total_steps):
        return 0.0
    few = math.log10(_FEW_STEPS * plan.epochs / plan.total_steps)
    return max(0.0, min(_again(plan), few))


def _again(plan: Plan) -> float:
    """How often examples come again, in decades beyond 10 epochs: from -1.1 to 2."""
    epochs = plan.epochs or _USUAL_EPOCHS
    return math.log10(min(max(epochs, _LEAST_EPOCHS), _MOST_EPOCHS) / _USUAL_EPOCHS)


def delay(plan: Plan) -> float:
    """How late a sweep shows that a rate is too high: log10(1 - momentum)."""
    momentum = plan.momentum
    if momentum is None:
        momentum = 0.0 if plan.optimizer in _NO_MOMENTUM else 0.9
    return math.log10(1.0 - min(momentum, 0.99))


def planned(plan: Plan) -> float:
    """What the schedule and the length ask for, in decades."""
    shares = plan.shares(101)
    peak = float(shares.max())
    schedule = -math.log10(peak) - SCHEDULE * math.log10(max(float(shares.mean()) / peak, 0.25))
    steps = float(np.clip(plan.total_steps or _USUAL_STEPS, 100.0, 100_000.0))
    decay = DECAY * math.log10(steps / _SWEPT) if plan.optimizer == "Adagrad" else 0.0
    return schedule + decay - HORIZON * math.log10(steps / _USUAL_STEPS)
