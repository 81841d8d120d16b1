"""The levels of a curve: where it starts, how low it falls, and how sure that is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from findlr.analysis.curve import Curve
from findlr.analysis.smoothing import Array, centred_gaussian, centred_median, median

FEWEST = 20  # usable points that a judgement needs
# Standard errors; set by how often curves without a signal pass and tasks with one are refused: docs/science.md.
_SIGNIFICANT = 4.0  # above a usual 2 to 3, because the bottom is the lowest of many places
_SIGNIFICANT_SHARE = 2.1  # of the batches whose loss is lower than at the start
_FEW = 0.75  # of the batches on the way down, where they are too few for the sign test
DEEP = 2.0  # times what batches differ by: a fall that counts on few batches, too
_HEAVY = 2.0  # times the scatter by the median: losses that swing so much more have outliers, which the mean feels
_DONE = 0.8  # of the fall, a decade before the end: the loss has bottomed out
_TURNED = 0.5  # of the fall, that the loss has risen again by
_ALIKE = 0.001  # of the scatter at the bottom: batches that differ by less at the start say nothing of it
_CLEARS = 3.0  # times the scatter at the bottom, which a fall must exceed where all batches begin alike,
_STEADY = 0.5  # or this share of all ups and downs on the way
# A fall comes by itself, and is no rate's, if much of it is there so early, surely, and has begun at the first rates.
_NEARLY, _EARLY = 0.9, 3.0  # of the fall; decades below the place where that is there
_MUCH, _SURELY = 0.3, 3.0  # of the fall, and standard errors, because the place is given, and not the lowest of many
_AT_ONCE = 0.4  # of what is there so early, half-way: a rate's falls have less than that
_TINY = float(np.finfo(np.float64).tiny)


@dataclass(frozen=True)
class Levels:
    """The levels of a curve, and how sure they are.

    Args:
        start: the mean of the first losses.
        before: the mean loss, under the starting weights, of the batches around the bottom; ``start`` without one.
        bottom: their mean loss at the bottom.
        fall: from the start to the bottom, smoothed, without what batches differ by where that is known.
        way: points on the way down.
        bottom_index: where the bottom is, among the points.
        scatter: what a fall must be told from: how much batches differ, and the losses around the bottom.
        bottom_is_below_start: whether the fall is significant.
        evidence: for that, in words.
        done_before_end: whether most of the fall lies more than a decade before the end.
        turned: whether the loss has risen again by half of the fall.
        rises_early: whether the loss rises from the first rate on.
        itself_by: the index of the point by which the loss has fallen by itself, because no rate had acted; None if it
            has not.
    """

    start: float
    before: float
    bottom: float
    fall: float
    way: int
    bottom_index: int
    scatter: float
    bottom_is_below_start: bool
    evidence: str
    done_before_end: bool
    turned: bool
    rises_early: bool
    itself_by: int | None


def levels_of(points: Curve) -> Levels:
    """Measure a curve of at least ``FEWEST`` points, all of them usable; see ``Curve.paired``.

    Source: original.
    """
    losses = points.loss
    n = len(losses)
    if points.baseline is not None:  # what makes a batch hard is in both, and cancels
        losses = losses - points.baseline + points.baseline.mean()
    width = max(5, n // 10)
    start = float(np.mean(losses[:width]))
    noise = _scatter(losses[: max(FEWEST, n // 3)])
    # An explosion must not reach into its neighbours' averages.
    ceiling = start + max(start - float(losses.min()), noise)
    capped = np.minimum(losses, ceiling)
    smooth = centred_gaussian(centred_median(capped, 5), sigma=max(1.0, n / 50))
    at = width + int(np.argmin(smooth[width:]))  # not among the points that make up the start
    falls = start - smooth
    fall = float(falls[at])
    around = capped[max(0, at - width) : at + 3]
    near = _swings(around)  # no median: half may lie before the noise
    first = int(np.flatnonzero(falls[:at] <= 0.05 * falls[at]).max(initial=-1)) + 1
    way = slice(first, at + 1)
    spread = noise if points.baseline is None else points.spread()
    scatter = spread
    floor = points.rounding() * abs(start)
    if points.baseline is None:
        swings = _swings(losses[: max(FEWEST, n // 3)])
        scatter = swings if swings > _HEAVY * noise else noise
        errors = fall / max(float(np.hypot(scatter, near)) / width**0.5, floor, _TINY)
        significant, evidence = errors > _SIGNIFICANT, f"by {errors:.0f} standard errors"
    else:
        lower = points.loss[way] < points.baseline[way]
        k, count = int(lower.sum()), len(lower)
        significant = (k - count / 2) / (count / 4) ** 0.5 > _SIGNIFICANT_SHARE
        beside = capped[max(0, at - width) : at + width]  # where a rate that is far too high lets single losses vanish
        deep = fall > max(DEEP * spread, _swings(beside)) and spread > _ALIKE * near and at < n - width
        significant = significant or (deep and k >= _FEW * count)
        evidence = f"with {k} of {count} batches on the way down below their loss at the start"
    if spread <= _ALIKE * near:  # a start that all batches share, as under an output layer at zero
        path = float(np.abs(np.diff(losses[way])).sum())
        significant = significant and (fall > _CLEARS * near or fall > _STEADY * path)
    before_end = int(np.searchsorted(points.lr, points.lr[-1] / 10))
    before, bottom = _measured(points, losses, start, at)
    return Levels(
        start=float(np.mean(points.loss[:width])),
        before=before,
        bottom=bottom,
        fall=fall,
        way=at + 1 - first,
        bottom_index=at,
        scatter=max(scatter, near),
        bottom_is_below_start=bool(significant) and fall > floor,
        evidence=evidence,
        done_before_end=bool(falls[before_end] >= _DONE * falls[at]),
        turned=bool(fall - float(falls[at:].min()) >= _TURNED * fall),
        rises_early=_rises_early(losses, noise, floor),
        itself_by=_by_itself(points, capped, falls, at, floor),
    )


def _by_itself(points: Curve, capped: Array, falls: Array, at: int, floor: float) -> int | None:
    """The index of the point by which much of the fall to ``at`` is there, if no rate has acted so early."""
    width = max(5, len(falls) // 10)
    decades = points.log10_lr
    nearly = int(np.argmax(falls >= _NEARLY * falls[at]))
    early = int(np.searchsorted(decades, decades[nearly] - _EARLY))
    if early < 2 * width:
        return None
    half = early // 2
    start = float(np.mean(capped[:width]))
    midway = start - float(np.mean(capped[half : half + width]))
    there = start - float(np.mean(capped[early - width : early]))
    if there <= max(_MUCH * float(falls[at]), floor) or midway < _AT_ONCE * there:
        return None
    return early - 1 if there > _SURELY * _swings(capped[:early]) * (2 / width) ** 0.5 else None


def _rises_early(losses: Array, noise: float, floor: float) -> bool:
    """Whether the loss has left its first level for a higher one by the middle of the sweep."""
    n = len(losses)
    middle = losses[n // 4 : n // 2]
    first_ones = losses[:3]  # so few: a curve that rises from the start has left its level soon
    rise = float(median(middle)) - float(median(first_ones))
    rise_error = 1.25 * noise * (1 / len(first_ones) + 1 / len(middle)) ** 0.5  # a median's is 1.25 x a mean's
    return bool(rise > max(_SIGNIFICANT * rise_error, floor))


def _measured(points: Curve, losses: Array, start: float, at: int) -> tuple[float, float]:
    """The mean loss of the batches around the bottom that lie below the start: with the starting weights, and there."""
    near = np.arange(max(0, at - 2), min(len(losses), at + 3))
    lower = near[losses[near] < start]
    chosen = lower if len(lower) else near
    before = start if points.baseline is None else float(points.baseline[chosen].mean())
    return before, float(points.loss[chosen].mean())


def _scatter(losses: Array) -> float:
    """The standard deviation around the curve, from the steps between neighbours: a slope adds little to it."""
    steps = np.abs(np.diff(losses))
    return float(median(steps) / (0.6745 * np.sqrt(2.0)))


def _swings(losses: Array) -> float:
    """The same by the root mean square of those steps, which feels every outlier."""
    return float(np.sqrt(np.mean(np.diff(losses) ** 2) / 2))
