"""What a curve can bear, asked before any rule is."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import numpy as np

from findlr.analysis.curve import Curve
from findlr.analysis.smoothing import Array, centred_gaussian, centred_median, median

_FEWEST = 20  # usable points
# Standard errors; set by how often curves without a signal pass and tasks with one are refused: docs/science.md.
_SIGNIFICANT = 4.0  # above a usual 2 to 3, for the bottom is the lowest of many places
_SIGNIFICANT_SHARE = 2.1  # of the batches whose loss is lower than at the start
_DONE = 0.8  # of the fall, a decade before the end: the loss has bottomed out
_ROUNDING = 1e-6  # a change below this share of the loss could be float32's rounding
_TINY = float(np.finfo(np.float64).tiny)


class Verdict(Enum):
    """What a curve can bear; each member's value says it in a sentence."""

    CLEAR = "The loss falls, reaches a bottom inside the swept range, and rises again."
    NOISY = "The loss falls and rises again, but by little against the differences between batches."
    NO_EDGE = "The loss falls and stays low up to the highest rate."
    RACED = "The curve alone tells too little, but short runs of the plan tell the rates apart."
    BROAD = "The short runs end about equally well at all rates tried."
    HORIZON_LIMITED = "The best of the short runs is at an end of the rates tried."
    FLAT = "The loss does not fall at any rate."
    RISING = "The loss rises from the first rate on."
    TOO_SHORT = "The sweep has too few usable points."
    NOT_FINITE = "The loss is NaN or infinite from the first step on."
    STILL_FALLING = "The loss still falls at the highest rate."
    NO_ANSWER = "The rule finds no rate inside the swept range."

    @property
    def sentence(self) -> str:
        """The verdict in words."""
        return self.value

    @property
    def refuses(self) -> bool:
        """True if no rate may be suggested."""
        return self in (
            *(Verdict.FLAT, Verdict.RISING, Verdict.TOO_SHORT),
            *(Verdict.NOT_FINITE, Verdict.STILL_FALLING, Verdict.NO_ANSWER),
        )


@dataclass(frozen=True)
class Judgement:
    """A verdict on one curve, with what was seen and what to change."""

    verdict: Verdict
    why: str


def judge(curve: Curve) -> Judgement:
    """Tell whether a curve bears a suggestion.

    With a baseline a fall counts if, on the way down, so many batches are below their loss at the start as chance gives
    in 2 of 100 cases: a sign test, (k - n / 2) / sqrt(n / 4) > 2.1. Without one, if the bottom lies 4 standard errors
    under the start, by the losses' own scatter.

    Args:
        curve: the raw losses of a sweep.

    Returns:
        A Judgement; its ``why`` says what was seen and, where the verdict refuses, what to change.

    Example:
        >>> judge(Curve(lr=[1e-3, 1e-2], loss=[1.0, 1.0])).verdict
        <Verdict.TOO_SHORT: 'The sweep has too few usable points.'>

    Source: original.
    """
    usable = curve.usable()
    n = len(usable)
    if n == 0:
        return Judgement(
            Verdict.NOT_FINITE,
            "The first loss is NaN or infinite: look for it in the data, the model's output or the criterion.",
        )
    if n < _FEWEST:
        return Judgement(Verdict.TOO_SHORT, _why_too_short(curve, n))
    levels = _Levels.of(usable)
    if levels.bottom_is_below_start:
        return _judge_fall(curve, usable, levels)
    if levels.rises_early:
        return Judgement(
            Verdict.RISING,
            f"The loss rises from {levels.start:.4g} at the first rate, {usable.lr[0]:.3g}, and never falls below it: "
            "lower min_lr by a few powers of ten; if that changes nothing, the model is trained already.",
        )
    end = ", and then diverges" if curve.diverged else ""
    return Judgement(
        Verdict.FLAT,
        f"The loss stays within its noise, {levels.start:.4g} +/- {levels.noise:.2g} per batch, at every rate up to "
        f"{usable.lr[-1]:.3g}{end}: check that the loss depends on the parameters and the targets fit the inputs; "
        "if the model is trained already, or batches differ a lot, take larger batches or more steps to show a fall.",
    )


def _judge_fall(curve: Curve, usable: Curve, levels: _Levels) -> Judgement:
    at_end = levels.bottom_index >= len(usable) - max(5, len(usable) // 20) and not curve.diverged
    if at_end and not levels.done_before_end:
        return Judgement(
            Verdict.STILL_FALLING,
            f"The loss is lowest, {levels.bottom:.4g}, at the end of the sweep, lr {usable.lr[-1]:.3g}: "
            "raise max_lr until the loss turns up.",
        )
    seen = (
        f"The loss falls from {levels.start:.4g} to {levels.bottom:.4g} near lr "
        f"{usable.lr[levels.bottom_index]:.3g}, {levels.evidence}, and then {'stays' if at_end else 'rises'}"
    )
    if at_end:
        return Judgement(
            Verdict.NO_EDGE,
            f"{seen} low up to {usable.lr[-1]:.3g}: no rate is seen to be too high; raise max_lr, or verify=True.",
        )
    if usable.is_shallow(levels.start - levels.bottom):
        return Judgement(
            Verdict.NOISY,
            f"{seen}; but batches differ by {usable.spread():.2g}, so the best rate may be several times higher: "
            "verify=True, or more steps, tell it better.",
        )
    return Judgement(Verdict.CLEAR, f"{seen}.")


def _why_too_short(curve: Curve, n: int) -> str:
    seen = f"The sweep has {n} usable point{'s' * (n != 1)}, and a judgement needs {_FEWEST}"
    if not curve.diverged:
        return f"{seen}: raise num_steps."
    what = "diverged" if np.isfinite(curve.loss[-1]) else "was NaN or infinite"
    return f"{seen}; the loss {what} at lr {curve.lr[-1]:.3g}: lower min_lr, or raise num_steps."


@dataclass(frozen=True)
class _Levels:
    """The levels of a curve, and how sure they are."""

    start: float
    noise: float
    bottom: float
    bottom_index: int
    bottom_is_below_start: bool
    evidence: str
    done_before_end: bool
    rises_early: bool

    @classmethod
    def of(cls, usable: Curve) -> _Levels:
        n = len(usable)
        losses = usable.loss
        if usable.baseline is not None:  # what makes a batch hard is in both, and cancels
            losses = losses - usable.baseline + usable.baseline.mean()
        width = max(5, n // 10)
        start = float(np.mean(losses[:width]))
        noise = _scatter(losses[: max(_FEWEST, n // 3)])
        # An explosion must not reach into its neighbours' averages.
        ceiling = start + max(start - float(losses.min()), noise)
        smooth = centred_gaussian(centred_median(np.minimum(losses, ceiling), 5), sigma=max(1.0, n / 50))
        at = width + int(np.argmin(smooth[width:]))  # not among the points that make up the start
        bottom = float(smooth[at])
        floor = _ROUNDING * abs(start)
        falls = start - smooth
        if usable.baseline is None:
            around = np.minimum(losses, ceiling)[max(0, at - width) : at + 3]
            near = float(np.sqrt(np.mean(np.diff(around) ** 2) / 2))  # no median: half may lie before the noise
            errors = (start - bottom) / max(float(np.hypot(noise, near)) / width**0.5, floor, _TINY)
            significant, evidence = errors > _SIGNIFICANT, f"{errors:.0f} standard errors"
        else:
            first = int(np.flatnonzero(falls[:at] <= 0.05 * falls[at]).max(initial=-1)) + 1
            lower = usable.loss[first : at + 1] < usable.baseline[first : at + 1]
            k, count = int(lower.sum()), len(lower)
            significant = (k - count / 2) / (count / 4) ** 0.5 > _SIGNIFICANT_SHARE
            evidence = f"{k} of {count} batches on the way below their loss at the start"
        before_end = int(np.searchsorted(usable.lr, usable.lr[-1] / 10))
        middle = losses[n // 4 : n // 2]
        first_ones = losses[:3]  # so few: a curve that rises from the start has left its level soon
        rise = float(median(middle)) - float(median(first_ones))
        rise_error = 1.25 * noise * (1 / len(first_ones) + 1 / len(middle)) ** 0.5  # a median's is 1.25 x a mean's
        return cls(
            start=start,
            noise=noise,
            bottom=bottom,
            bottom_index=at,
            bottom_is_below_start=bool(significant) and start - bottom > floor,
            evidence=evidence,
            done_before_end=bool(falls[before_end] >= _DONE * falls[at]),
            rises_early=rise > max(_SIGNIFICANT * rise_error, floor),
        )


def _scatter(losses: Array) -> float:
    """The standard deviation around the curve, from the steps between neighbours: a slope adds little to it."""
    steps = np.abs(np.diff(losses))
    return float(median(steps)) / (0.6745 * np.sqrt(2.0)) if len(steps) else 0.0
