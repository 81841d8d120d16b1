"""Rules: each reads the raw losses of a sweep and a plan, which only ``quick`` uses, and answers with one rate.

A bare rule answers whatever the curve is; ``findlr.analysis.verdict`` tells beforehand whether it gives an answer.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from findlr.analysis.belief import Belief, believe
from findlr.analysis.curve import Curve
from findlr.analysis.families import QUASI_NEWTON, RATE_FREE, rate_free
from findlr.analysis.given import check_takes, of_kind, reading
from findlr.analysis.numbers import real
from findlr.analysis.plan import Plan
from findlr.analysis.smoothing import Array, bias_corrected, centred_median
from findlr.analysis.text import rate_text
from findlr.errors import ConfigurationError, NoSuggestionError

_BETA = 0.98  # the article's, and fastai's
_AS_LOW = 0.01  # of the fall above the lowest loss: as low as that


@dataclass(frozen=True)
class Suggestion:
    """A rate, and how it was found.

    Args:
        lr: the rate.
        rule: the rule's name.
        why: a sentence.
        interval: where the best rate likely lies, by the rule; None if it does not tell.

    Raises:
        ConfigurationError: a rate that is no number, a name or a sentence that is no text, an interval that is no pair.
    """

    lr: float
    rule: str
    why: str
    interval: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        given = (self.lr, *self.interval) if isinstance(self.interval, (tuple, list)) else (self.lr,)
        lr, *ends = map(real, given)  # a number of NumPy's or torch's could not be saved
        if lr is None or not (isinstance(self.rule, str) and isinstance(self.why, str)):
            raise ConfigurationError(
                "a Suggestion is a rate, the rule's name and why, such as Suggestion(0.1, 'mine', 'Because.'), got "
                f"{self.lr!r}, {self.rule!r} and {self.why!r}"
            )
        if self.interval is not None and (len(ends) != 2 or None in ends):
            raise ConfigurationError(
                f"a Suggestion's interval must be two rates, the lower one first, or None, got {self.interval!r}"
            )
        object.__setattr__(self, "lr", lr)
        object.__setattr__(self, "interval", tuple(ends) or None)

    def __float__(self) -> float:
        return self.lr

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Suggestion:
        """The Suggestion that ``vars`` described, its interval a list.

        Raises:
            FileFormatError: it described none.
        """
        with reading("Suggestion"):
            low_high = data["interval"]
            return cls(data["lr"], data["rule"], data["why"], None if low_high is None else (low_high[0], low_high[1]))


Rule = Callable[[Curve, Plan], Suggestion]


def quick(curve: Curve, plan: Plan | None = None) -> Suggestion:
    """The default: the middle of the loss's dip, for the plan, and what is usual, weighed by how noisy the dip is.

    For an optimizer that finds its rate by itself it is 1; for L-BFGS, 1 or a third of the rate of the lowest loss.

    Args:
        curve: the raw losses of a sweep, with their baseline if measured.
        plan: the training that is planned; None is a constant rate.

    Returns:
        The Suggestion, with an interval.

    Raises:
        NoSuggestionError: the curve has fewer than 3 usable points or does not fall, and nothing is usual for the plan.

    Example:
        >>> rates = 10.0 ** np.linspace(-8, 1, 100)
        >>> curve = Curve(rates, 1 - np.exp(-((np.log10(rates) + 2) ** 2)))
        >>> f"{quick(curve, Plan('one_cycle', 1000, 'AdamW', 0.9)).lr:.2g}"
        '0.0061'

    Source: original; the formulas are in ``findlr.analysis.belief``, ``dip`` and ``usual``, the evidence in
    docs/science.md.
    """
    _check(curve)
    plan = Plan() if plan is None else of_kind(plan, Plan, "plan", "give finding.plan, or leave it out")
    if plan.optimizer in QUASI_NEWTON:
        return _full_step(curve, plan.optimizer)
    return suggestion_of(believe(curve, plan), plan)


def suggestion_of(belief: Belief, plan: Plan) -> Suggestion:
    """What ``quick`` suggests by a belief, and why."""
    if plan.optimizer in RATE_FREE:
        dips = "" if belief.dip is None else f" The loss dips around {rate_text(belief.dip)}."
        return Suggestion(belief.lr, "quick", f"{rate_free(plan.optimizer)}.{dips}", belief.interval)
    lr, dip, usual = (rate and rate_text(rate) for rate in (belief.lr, belief.dip, belief.usual))
    if dip is None:
        why = f"The loss has no dip; {usual} is usual for such a training, and a little less is safer: {lr}."
    elif usual is None:
        why = f"The loss's dip says {dip} for your plan, and a little less is safer: {lr}."
    else:
        why = (
            f"The loss's dip says {dip} for your plan, and {usual} is usual for such a training; weighed by how noisy "
            f"the dip is, and a little less to be safe, that makes {lr}."
        )
    return Suggestion(belief.lr, "quick", why, belief.interval)


def _full_step(curve: Curve, name: str) -> Suggestion:
    """A full step of a quasi-Newton method, 1; or less, where the loss is higher from a rate below 3 on.

    lr = min(1, lr_k / 3),   k = the last i with m_i <= min m + 0.01 (m_0 - min m),   m = running median of 3 losses

    There is no noise, so where all rates end alike, as on a convex loss, the lowest of them tells nothing.
    """
    part = curve.usable()
    _need(len(part), 1, "quick")
    losses = centred_median(part.loss, 3)
    low = float(losses.min())
    limit = float(part.lr[np.flatnonzero(losses <= low + _AS_LOW * max(float(losses[0]) - low, 0.0))[-1]])
    lr = min(1.0, limit / 3)
    why = (
        f"{name} takes full steps at 1; the loss stays low up to {rate_text(limit)}, and a third of that is the limit."
    )
    return Suggestion(lr, "quick", why, (lr / 3, min(3 * lr, max(limit, lr))))


def article(curve: Curve, plan: Plan | None = None) -> Suggestion:
    """A tenth of the rate at the smoothed minimum, without the first 10 and the last 5 points.

    lr = lr_k / 10,   k = argmin over i in [10, n - 5) of smoothed_i

    Raises:
        NoSuggestionError: the curve has 15 usable points or fewer.

    Source: Gugger 2018, "one order of magnitude before the minimum".
    """
    _check(curve)
    part = curve.smoothed(_BETA).clipped(10, 5)
    _need(len(part), 1, "article")
    at = float(part.lr[int(np.argmin(part.loss))])
    return Suggestion(at / 10, "article", f"A tenth of {rate_text(at)}, where the smoothed loss is lowest.")


def valley(curve: Curve, plan: Plan | None = None) -> Suggestion:
    """Two thirds down the longest valley, in O(n log n).

    Of the longest strictly decreasing subsequence, of length m and with last index e: s = e - m, third = m / 3, and the
    rate at index s + int(third) + int(third / 2).

    Raises:
        NoSuggestionError: no point is left between the skipped ends.

    Source: fastai's default rule. Like fastai's it takes the subsequence for a contiguous run.
    """
    lrs, losses = _fastai_points(curve, 1, "valley")
    lengths = _decreasing_lengths(losses)
    end = int(np.argmax(lengths))
    length = int(lengths[end])
    start = end - length if length > 1 else 0  # fastai never moves its start for a curve that only rises
    third = (end - start) / 3
    return Suggestion(
        float(lrs[start + int(third) + int(third / 2)]),
        "valley",
        "Halfway along the longest fall of the smoothed loss.",
    )


def slide(curve: Curve, plan: Plan | None = None) -> Suggestion:
    """The last rate of the slide, before the loss explodes.

    With g the losses' gradient by index, r the last point and l = r - 15: while |g_r - g_l| > 0.005 and l is inside,
    remember lr_l and move both one to the left; the rate remembered last.

    Raises:
        NoSuggestionError: fewer than 16 points are left between the skipped ends.

    Source: fastai, after Novetta's ESP.
    """
    lrs, losses = _fastai_points(curve, 16, "slide")
    gradient = np.gradient(losses)
    differs = np.abs(gradient[15:] - gradient[:-15]) > 0.005  # at each left index
    moved = int(np.argmin(differs[::-1])) if not differs.all() else len(differs)
    left = len(differs) - max(moved, 1)
    return Suggestion(
        float(lrs[left]), "slide", "The last rate at which the loss still falls evenly, before it explodes."
    )


def steep(curve: Curve, plan: Plan | None = None) -> Suggestion:
    """The rate at which the loss falls fastest.

    lr_k,   k = argmin_i (loss_{i+1} - loss_i) / (log lr_{i+1} - log lr_i)

    Raises:
        NoSuggestionError: fewer than 2 points are left between the skipped ends.

    Source: fastai.
    """
    lrs, losses = _fastai_points(curve, 2, "steep")
    widths = np.diff(np.log(lrs))
    slopes = np.divide(np.diff(losses), widths, out=np.full(len(widths), np.inf), where=widths > 0)
    return Suggestion(float(lrs[int(np.argmin(slopes))]), "steep", "Where the smoothed loss falls fastest.")


def minimum(curve: Curve, plan: Plan | None = None) -> Suggestion:
    """A tenth of the rate at the smoothed minimum, on fastai's part of the curve.

    Raises:
        NoSuggestionError: no point is left between the skipped ends.

    Source: fastai.
    """
    lrs, losses = _fastai_points(curve, 1, "minimum")
    at = float(lrs[int(np.argmin(losses))])
    return Suggestion(at / 10, "minimum", f"A tenth of {rate_text(at)}, where the smoothed loss is lowest.")


def _fastai_points(curve: Curve, needed: int, rule: str) -> tuple[Array, Array]:
    """The rates and smoothed losses that fastai's rules see: [num_steps // 10 : -5], cut at the first NaN."""
    _check(curve)
    losses = bias_corrected(curve.loss, _BETA)
    part = slice(int(curve.num_steps or 0) // 10, max(len(curve) - curve.diverged - 5, 0))
    lrs, losses = curve.lr[part], losses[part]
    bad = np.flatnonzero(~np.isfinite(losses))
    end = int(bad[0]) if bad.size else len(losses)
    _need(end, needed, rule)
    return lrs[:end], losses[:end]


def _check(curve: Any) -> None:
    of_kind(curve, Curve, "curve", "give finding.curve, or findlr.Curve(lr, loss)")


def _decreasing_lengths(losses: Array) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Length of the longest strictly decreasing subsequence that ends at each point, by patience sorting."""
    tails: list[float] = []  # tails[k]: the largest end, negated, of a subsequence of length k + 1
    lengths = np.empty(len(losses), dtype=np.int64)
    for i, value in enumerate((-losses).tolist()):
        k = bisect_left(tails, value)
        tails[k : k + 1] = [value]
        lengths[i] = k + 1
    return lengths


def _need(points: int, needed: int, rule: str) -> None:
    if points < needed:
        raise NoSuggestionError(
            f"{rule} needs {needed} point{'s' * (needed > 1)} between the skipped ends of the curve, got {points}: "
            "raise num_steps, or lower min_lr if the sweep diverged early"
        )


RULES: Mapping[str, Rule] = {rule.__name__: rule for rule in (quick, article, valley, slide, steep, minimum)}


def rule_named(rule: Rule | str) -> Rule:
    """The rule with that name, or the rule itself.

    Raises:
        ConfigurationError: no rule has that name, or it is a function that can't be called with a curve and a plan.

    Example:
        >>> rule_named("valley") is valley
        True
    """
    if callable(rule) and not isinstance(rule, type):
        check_takes(rule, "rule", "curve", "plan")
        return rule
    if not isinstance(rule, str) or rule not in RULES:
        raise ConfigurationError(f"rule must be one of {', '.join(RULES)}, or a function, got {rule!r}")
    return RULES[rule]
