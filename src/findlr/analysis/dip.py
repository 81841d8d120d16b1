"""Where one sweep's loss lies lowest, and how far that stands out from how much batches differ."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from findlr.analysis.curve import Curve
from findlr.analysis.smoothing import Array, centred_gaussian, centred_median, median
from findlr.errors import NoSuggestionError

_BANDWIDTH = 0.5  # decades: the width of the smoothing
_CEILING = 0.3  # of the fall: how far above the start a loss may count
_CALM = 0.8  # decades: a fall so many times the batches' differences, 6, is not noisy
_USUAL_DENSITY = 11.0  # points in a decade: find_lr's defaults
_NOISIEST = -1.0  # decades: a smaller fall counts as a tenth of them
MOST_NOISE = _CALM - _NOISIEST  # decades: that of a curve without a dip, too


@dataclass(frozen=True)
class Constants:
    """How a dip is read; chosen by ``python -m study.fit_rule``."""

    share: float  # of the fall: the dip is what lies deeper
    deep: float  # of the deepest point: the first dip that reaches it is taken


WITH_BASELINE = Constants(0.1, 0.7)
WITHOUT = Constants(0.5, 1.0)


@dataclass(frozen=True)
class Dip:
    """The dip of a curve.

    Args:
        place: the decimal logarithm of the rate at its middle.
        noise: decades by which its fall is less than about 6 times what batches differ by, 0 to 1.8.
        density: decades by which it has more points in a decade than 11, as a sweep of 100 steps from 1e-8 to 10 has.
    """

    place: float
    noise: float
    density: float


@dataclass(frozen=True, eq=False)
class Reading:
    """A curve as its dip is read from it.

    Args:
        places: decimal logarithms of evenly spaced rates, shape (n,).
        fall: how far the loss lies under its start at each, smoothed without lag, shape (n,).
        weight: how much each place counts in the middle of the dip, from 0 up, shape (n,).
        start: the mean loss under the starting weights.
        low: the first place of the dip.
        high: the place after its last.
    """

    places: Array
    fall: Array
    weight: Array
    start: float
    low: int
    high: int


def read_dip(curve: Curve) -> Dip:
    """The middle of the loss's dip, and how noisy it is.

    place = sum_i w_i log10 lr_i / sum_i w_i over the dip,   w_i = max(fall_i / max_j fall_j - s, 0)

    fall_i is how far the loss lies under the same batch's loss at the starting weights or, where that was not measured,
    under the mean of the first points; smoothed without lag, by a median of 3 and a Gaussian 0.5 decades wide. The dip
    is the first stretch above the share s of the deepest fall that itself goes deep.

    noise = max(0, 0.8 - log10(max_j fall_j / spread)),   spread: the standard deviation between batches at the start

    Raises:
        NoSuggestionError: the curve has fewer than 3 usable points or does not fall.

    Source: original.
    """
    reading = reading_of(curve)
    x, dip = curve.paired().log10_lr, slice(reading.low, reading.high)
    place = float(np.average(reading.places[dip], weights=reading.weight[dip]))
    spread, deepest = curve.spread(), float(reading.fall.max())
    calm = math.log10(deepest / spread) if spread else math.inf
    around = np.clip([place - 0.5, place + 0.5], x[0], x[-1])
    points = np.diff(np.interp(around, x, np.arange(len(x))))[0] / np.diff(around)[0]
    return Dip(place, max(0.0, _CALM - max(calm, _NOISIEST)), math.log10(points / _USUAL_DENSITY))


def reading_of(curve: Curve) -> Reading:
    """The fall of the loss, and the stretch of it that is the dip; see ``read_dip``.

    Raises:
        NoSuggestionError: the curve has fewer than 3 usable points or does not fall.
    """
    constants = WITHOUT if curve.baseline is None else WITH_BASELINE
    usable = curve.paired()
    n = len(usable)
    x = usable.log10_lr
    if n < 3 or x[-1] <= x[0]:
        raise NoSuggestionError(f"the dip needs 3 usable points, got {n}: raise num_steps, or lower min_lr")
    at_start = usable.at_start()
    first = 0 if usable.baseline is not None else len(at_start)
    start = at_start if usable.baseline is not None else np.full(n, at_start.mean())
    places = np.linspace(x[0], x[-1], n)  # evenly spaced, also where the rates rise by addition
    change = centred_median(np.interp(places, x, usable.loss - start), 3)
    change[:first] = 0.0  # they are the start, not a dip
    change = np.minimum(change, _CEILING * max(-float(change.min()), 0.0))  # an explosion must not reach its neighbours
    fall = -centred_gaussian(change, max(_BANDWIDTH * (n - 1) / (x[-1] - x[0]), 0.5))
    deepest = float(fall.max())
    if not deepest > usable.rounding() * abs(float(median(start))):
        raise NoSuggestionError(
            f"the dip needs a loss that falls, and this one stays at {float(median(start)):.4g} or rises: "
            "widen the swept range, or check that the loss depends on the parameters"
        )
    weight = np.maximum(fall / deepest - constants.share, 0.0)
    deep = int(np.argmax(fall >= constants.deep * deepest))
    ends = np.flatnonzero(weight == 0)
    low = int(ends[ends < deep].max(initial=-1)) + 1
    high = int(ends[ends > deep].min(initial=n))
    return Reading(places, fall, weight, float(start.mean()), low, high)
