"""The dip: where its middle is known, against its formula point by point, and how noisy and how dense it is."""

import math
from dataclasses import replace

import numpy as np
import pytest

from findlr import Curve, NoSuggestionError
from findlr.analysis.dip import read_dip

X = np.linspace(-8, 0, 161)  # the rates' decimal logarithms

either = pytest.mark.parametrize("baseline", [True, False], ids=["baseline", "none"])


def dip(centre=-4.0, depth=1.0, x=X):
    """A symmetric valley, half a decade wide."""
    return -depth * np.exp(-(((x - centre) / 0.5) ** 2) / 2)


def explosion(at=-2.5, x=X):
    return np.where(x > at, 10 ** np.clip(x - at, 0, 9), 0.0)


def noise(size, n=161):
    return np.random.default_rng(0).normal(0, size, n)


def curve(change, baseline=True, x=X, start=2.3):
    """A sweep whose loss differs by ``change`` from the loss at the starting weights."""
    start = np.broadcast_to(start, len(x))
    return Curve(10**x, start + change, start if baseline else None)


def centre(measured):
    return read_dip(measured).place


def slow_centre(measured):
    """The formula of ``read_dip``, one point at a time."""
    x, loss, n = [math.log10(lr) for lr in measured.lr], list(measured.loss), len(measured)
    if measured.baseline is not None:
        share, deep, first, start = 0.1, 0.7, 0, list(measured.baseline)
    else:
        share, deep, first = 0.5, 1.0, max(5, n // 10)
        start = [sum(loss[:first]) / first] * n

    def change_at(place):
        i = max(i for i in range(n - 1) if x[i] <= place or i == 0)
        left, right = loss[i] - start[i], loss[i + 1] - start[i + 1]
        return left + (right - left) * (place - x[i]) / (x[i + 1] - x[i])

    width = (x[-1] - x[0]) / (n - 1)
    places = [x[0] + i * width for i in range(n)]
    change = [change_at(place) for place in places]
    change = [change[0], *(sorted(change[i - 1 : i + 2])[1] for i in range(1, n - 1)), change[-1]]
    change = [0.0 if i < first else change[i] for i in range(n)]
    change = [min(one, 0.3 * -min(change)) for one in change]
    sigma = max(0.5, 0.5 / width)  # in points
    fall = []
    for i in range(n):
        near = [j for j in range(n) if abs(i - j) <= math.ceil(4 * sigma)]
        weights = [math.exp(-((i - j) ** 2) / (2 * sigma**2)) for j in near]
        fall.append(-sum(w * change[j] for w, j in zip(weights, near, strict=True)) / sum(weights))
    low = high = next(i for i in range(n) if fall[i] >= deep * max(fall))
    while low > 0 and fall[low - 1] > share * max(fall):
        low -= 1
    while high < n - 1 and fall[high + 1] > share * max(fall):
        high += 1
    weights = {i: fall[i] / max(fall) - share for i in range(low, high + 1)}
    return sum(w * places[i] for i, w in weights.items()) / sum(weights.values())


LINEAR = np.log10(np.linspace(1e-3, 1, 200))
FEW, SHORT = np.linspace(-8, 0, 7), np.linspace(-8, 0, 30)
LOPSIDED = dip() + dip(-2.8, 0.6)
SHAPES = {
    "lopsided": (X, LOPSIDED),
    "lopsided and noisy": (X, LOPSIDED + noise(0.1)),
    "explodes": (X, LOPSIDED + 0.2 * explosion()),
    "two dips": (X, dip(-5) + dip(-1.5, 1.2)),
    "at the edge": (X, dip(-0.2)),
    "linear spacing": (LINEAR, dip(-0.7, x=LINEAR)),
    "30 points": (SHORT, dip(-5, x=SHORT) + noise(0.1, 30)),
    "7 points": (FEW, np.array([0, 0.1, -0.2, -0.1, 0.2, -1.0, -0.9])),
}


@either
@pytest.mark.parametrize("shape", SHAPES)
def test_the_centre_is_what_the_formula_says_point_by_point(shape, baseline):
    x, change = SHAPES[shape]
    measured = curve(change, baseline, x)
    assert centre(measured) == pytest.approx(slow_centre(measured), abs=1e-9)


@either
@pytest.mark.parametrize("middle", [-4.5, -4.0, -3.0])
def test_the_centre_of_a_symmetric_dip_is_its_middle(middle, baseline):
    assert centre(curve(dip(middle), baseline)) == pytest.approx(middle, abs=1e-3)


def test_a_dip_that_is_swept_with_linear_spacing_has_the_same_centre():
    x = np.log10(np.linspace(1e-4, 100, 10_000))
    assert centre(curve(dip(-0.5, x=x), x=x)) == pytest.approx(-0.5, abs=0.03)


@either
def test_an_explosion_hardly_moves_the_centre_and_its_height_not_at_all(baseline):
    low, high = (centre(curve(dip() + height * explosion(), baseline)) for height in (1, 1e9))
    assert low == high == pytest.approx(-4, abs=0.1)


@pytest.mark.parametrize(("first", "baseline", "taken"), [(0.8, True, -6), (0.6, True, -2), (0.8, False, -2)])
def test_of_two_dips_the_first_that_goes_deep_is_taken_and_alone(first, baseline, taken):
    assert centre(curve(dip(-6, first) + dip(-2), baseline)) == pytest.approx(taken, abs=0.05)


def test_the_baseline_takes_out_how_batches_differ():
    assert centre(curve(LOPSIDED, start=2.3 + noise(5))) == pytest.approx(centre(curve(LOPSIDED)), abs=1e-9)


@either
@pytest.mark.parametrize("wild", [-9.0, 9.0])
def test_one_wild_batch_moves_nothing(wild, baseline):
    change = dip()
    change[120] = wild
    assert centre(curve(change, baseline)) == pytest.approx(-4, abs=1e-3)


def test_without_a_baseline_low_losses_among_the_first_tenth_are_the_start_and_no_dip():
    change = dip(-3, depth=1.5)
    change[:8] -= 2
    assert centre(curve(change, baseline=False)) == pytest.approx(-3, abs=0.05)


@either
@pytest.mark.parametrize(("bad", "diverged"), [(-99.0, True), (math.nan, False)], ids=["diverged", "nan"])
def test_the_point_that_diverged_or_is_not_finite_is_left_out(bad, diverged, baseline):
    whole = curve(LOPSIDED, baseline)
    lr, loss, start = (None if values is None else values[:130] for values in (whole.lr, whole.loss, whole.baseline))
    more = Curve([*lr, lr[-1]], [*loss, bad], [*start, 0.0] if baseline else None, diverged=diverged)
    assert centre(more) == centre(Curve(lr, loss, start))


@either
@pytest.mark.parametrize(("scale", "more"), [(1e-3, 0.0), (1e6, 0.0), (1, 100.0), (1, -100.0)])
def test_the_losses_unit_and_level_change_nothing(scale, more, baseline):
    change = LOPSIDED + noise(0.1)
    here = read_dip(curve(change, baseline, start=2.3 + noise(0.5)))
    there = read_dip(curve(scale * change, baseline, start=scale * (2.3 + noise(0.5)) + more))
    assert vars(there) == pytest.approx(vars(here), rel=1e-6)


@either
@pytest.mark.parametrize("times", [0.01, 30])
def test_rates_in_another_unit_shift_the_place_by_just_that(times, baseline):
    measured = curve(LOPSIDED, baseline)
    here, there = read_dip(measured), read_dip(replace(measured, lr=measured.lr * times))
    assert vars(there) == pytest.approx({**vars(here), "place": here.place + math.log10(times)})


NO_DIP = {
    "two points": ([-3, -2], [0.0, -1.0], "3 usable points, got 2"),
    "one rate": ([-3] * 4, [0.0, -1.0, -1.0, 0.0], "3 usable points, got 4"),
    "flat": (X, 0 * X, "a loss that falls"),
    "rising": (X, 1 + X + 8, "a loss that falls"),
    "a change that may be rounding": (X, 2e-6 * dip(), "a loss that falls"),
}


@pytest.mark.parametrize("start", [2.3, -2.3])
@pytest.mark.parametrize("name", NO_DIP)
def test_what_has_no_dip_is_an_error_that_says_so(name, start):
    x, change, why = NO_DIP[name]
    with pytest.raises(NoSuggestionError, match=why):
        read_dip(curve(np.array(change), x=np.array(x, float), start=start))


@pytest.mark.parametrize("start", [2.3, -2.3])
def test_a_change_above_rounding_has_a_centre(start):
    assert centre(curve(6e-6 * dip(), start=start)) == pytest.approx(-4, abs=1e-3)


@either
@pytest.mark.parametrize(
    ("differ_by", "decades"), [(0.0, 0.0), (0.1, 0.0), (1.0, 0.8), (4.0, 0.8 + math.log10(4)), (1e3, 1.8)]
)
def test_the_noise_is_what_the_fall_lacks_beside_how_batches_differ(differ_by, decades, baseline):
    n, swing = len(X), differ_by * np.where(np.arange(len(X)) % 2, 1.0, -1.0)  # of this standard deviation
    measured = curve(dip(), baseline, start=2.3 + swing)
    if not baseline:  # a fall that is seen all the same
        measured = replace(measured, loss=np.where(np.arange(n) < n // 10, 2.3 + swing, 2.3 + dip()))
    deepest = -float(np.convolve(dip(), _gaussian(0.5 / 0.05), "same").min())
    wanted = max(decades - math.log10(deepest), 0.0) if 0.1 < differ_by < 1e3 else decades
    assert read_dip(measured).noise == pytest.approx(wanted, abs=0.02)


def _gaussian(sigma):
    at = np.arange(-math.ceil(4 * sigma), math.ceil(4 * sigma) + 1)
    weights = np.exp(-(at**2) / (2 * sigma**2))
    return weights / weights.sum()


@pytest.mark.parametrize(("points", "decades"), [(89, 0.0), (177, math.log10(2)), (45, -math.log10(2))])
def test_the_density_is_how_many_points_a_decade_has_beside_eleven(points, decades):
    x = np.linspace(-8, 0, points)
    assert read_dip(curve(dip(x=x), x=x)).density == pytest.approx(decades, abs=1e-9)


def test_the_density_is_that_around_the_dip():
    x = np.log10(np.linspace(1e-4, 1, 1001))  # few points in the lower decades, and 685 in the last one around the dip
    measured = curve(dip(-0.5, x=x), x=x)
    place = read_dip(measured).place
    around = np.count_nonzero(np.abs(x - place) <= 0.5)
    assert read_dip(measured).density == pytest.approx(math.log10(around / 11), abs=0.01)


def test_the_density_of_a_dip_at_the_edge_is_that_of_the_part_that_was_swept():
    x = np.linspace(-8, 0, 89)
    assert read_dip(curve(dip(-0.1, x=x), x=x)).density == pytest.approx(0, abs=1e-9)
