"""The default rule: on dips whose middle is known, against its formula point by point, and each of its terms."""

import math
from dataclasses import replace

import numpy as np
import pytest

from findlr import Curve, NoSuggestionError, Plan
from findlr.analysis.dip import delay, drawn, planned, read_dip, usual

X = np.linspace(-8, 0, 161)  # the rates' decimal logarithms
PLAN = Plan("constant", total_steps=1000, optimizer="SGD", momentum=0.0)  # no term but the level

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
    return math.log10(read_dip(measured, PLAN).centre)


def ratio(plan, other, measured):
    """How many times the rate for one plan is the rate for another."""
    return read_dip(measured, plan).lr / read_dip(measured, other).lr


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
@pytest.mark.parametrize("optimizer", ["SGD", "Adam"])
@pytest.mark.parametrize(("scale", "more"), [(1e-3, 0.0), (1e6, 0.0), (1, 100.0), (1, -100.0)])
def test_the_losses_unit_and_level_change_nothing(scale, more, optimizer, baseline):
    plan, change = Plan(optimizer=optimizer), LOPSIDED + noise(0.1)
    answer, other = (
        read_dip(one, plan)
        for one in (curve(change, baseline), curve(scale * change, baseline, start=scale * 2.3 + more))
    )
    assert vars(other) == pytest.approx(vars(answer), rel=1e-6)


@either
@pytest.mark.parametrize("times", [0.01, 30])
def test_rates_in_another_unit_shift_sgds_answer_by_just_that(times, baseline):
    measured = curve(LOPSIDED, baseline)
    answer, other = read_dip(measured, PLAN), read_dip(replace(measured, lr=measured.lr * times), PLAN)
    assert vars(other) == pytest.approx({name: value * times for name, value in vars(answer).items()})


@pytest.mark.parametrize(("times", "least", "most"), [(10, 0.3, 0.5), (1e-3, 1.0, 1.1)], ids=["near", "far"])
def test_rates_in_another_unit_shift_adams_answer_by_less_near_its_usual_rate(times, least, most):
    measured, plan = curve(dip(-3)), replace(PLAN, optimizer="Adam")
    lower, upper = (read_dip(replace(measured, lr=measured.lr * more), plan).lr for more in (times, times * 1.1))
    assert least < math.log(upper / lower) / math.log(1.1) < most


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
        read_dip(curve(np.array(change), x=np.array(x, float), start=start), PLAN)


@pytest.mark.parametrize("start", [2.3, -2.3])
def test_a_change_above_rounding_has_a_centre(start):
    assert centre(curve(6e-6 * dip(), start=start)) == pytest.approx(-4, abs=1e-3)


@pytest.mark.parametrize(("baseline", "level"), [(True, -0.08), (False, -0.14)])
def test_the_plainest_plans_rate_is_the_centre_and_the_level(baseline, level):
    assert read_dip(curve(dip(), baseline), PLAN).lr == pytest.approx(10 ** (-4 + level), rel=1e-3)


@pytest.mark.parametrize("momentum", [0.5, 0.9])
@pytest.mark.parametrize(("baseline", "power"), [(True, 0.6), (False, 0.65)])
def test_a_momentum_lowers_the_rate(baseline, power, momentum):
    with_it = replace(PLAN, momentum=momentum)
    assert ratio(with_it, PLAN, curve(dip(), baseline)) == pytest.approx((1 - momentum) ** power)


@either
def test_a_schedule_that_falls_raises_the_rate(baseline):
    assert ratio(replace(PLAN, schedule="linear"), PLAN, curve(dip(), baseline)) == pytest.approx(2**1.3)


@either
@pytest.mark.parametrize("optimizer", ["SGD", "Adadelta", "Rprop", "Lion", ""])
def test_a_longer_training_lowers_the_rate(optimizer, baseline):
    plan = replace(PLAN, optimizer=optimizer)
    assert ratio(replace(plan, total_steps=10_000), plan, curve(dip(), baseline)) == pytest.approx(10**-0.2)


def half_of_linear(progress):
    return 0.5 * (1 - progress)


def short_peak(progress):
    return float(progress < 0.1)


@pytest.mark.parametrize(
    ("change", "decades"),
    [
        ({}, 0),
        ({"total_steps": None}, 0),
        ({"total_steps": 10_000}, -0.2),
        ({"total_steps": 100}, 0.2),
        ({"total_steps": 10}, 0.2),
        ({"total_steps": 100_000}, -0.4),
        ({"total_steps": 10_000_000}, -0.4),
        ({"schedule": "linear"}, 1.3 * math.log10(2)),
        ({"schedule": half_of_linear}, 1.3 * math.log10(2) + math.log10(2)),
        ({"schedule": short_peak}, 1.3 * math.log10(4)),
        ({"schedule": "linear", "total_steps": 10_000}, 1.3 * math.log10(2) - 0.2),
        ({"optimizer": "Adagrad"}, 0.5),
        ({"optimizer": "Adagrad", "total_steps": 10_000}, 1.0 - 0.2),
        ({"optimizer": "Adagrad", "total_steps": 10}, 0.2),
    ],
)
def test_what_the_schedule_and_the_length_ask_for(change, decades):
    assert planned(replace(PLAN, **change)) == pytest.approx(decades)


@pytest.mark.parametrize(
    ("optimizer", "momentum", "decades"),
    [
        *((name, None, 0) for name in ("SGD", "ASGD", "Adagrad", "Adadelta", "RMSprop", "Rprop")),
        *((name, None, -1) for name in ("Adam", "AdamW", "NAdam", "RAdam", "Adamax", "Lion", "")),
        ("SGD", 0.9, -1),
        ("Adam", 0.0, 0),
        ("SGD", 0.99, -2),
        ("SGD", 0.9999, -2),
    ],
)
def test_how_late_a_momentum_shows_that_a_rate_is_too_high(optimizer, momentum, decades):
    assert delay(Plan(optimizer=optimizer, momentum=momentum)) == pytest.approx(decades)


@pytest.mark.parametrize(
    ("optimizer", "parameters", "steps", "decades"),
    [
        *((name, None, None, -2.27) for name in ("Adam", "AdamW", "NAdam", "RAdam", "Adamax")),
        ("Adam", 10_000, 1000, -2.27),
        ("Adam", 1_000_000, 1000, -2.27 - 0.5),
        ("Adam", 1000, 1000, -2.27 + 0.25),
        ("Adam", 10, 1000, -2.27 + 0.25),
        ("Adam", None, 10_000, -2.27 - 0.2),
        ("RMSprop", None, None, -2.6),
        ("RMSprop", 1_000_000, None, -2.6 - 0.5),
        ("Adagrad", 10_000, 1000, -1.66 + 0.5),
        ("Adagrad", 1_000_000, 1000, -1.66 + 0.5),
    ],
)
def test_the_usual_rate_of_an_adaptive_optimizer(optimizer, parameters, steps, decades):
    plan = Plan(optimizer=optimizer, parameters=parameters, total_steps=steps)
    assert usual(plan) == pytest.approx(decades)
    assert usual(replace(plan, schedule="linear")) == pytest.approx(decades + 1.3 * math.log10(2))


@pytest.mark.parametrize("optimizer", ["SGD", "ASGD", "Adadelta", "Rprop", "Own", ""])
def test_no_other_optimizer_has_a_usual_rate(optimizer):
    assert usual(Plan(optimizer=optimizer)) is None


@pytest.mark.parametrize(("gap", "pull"), [(0, 0), (0.15, 0.09 / 1.01), (1.5, 0.45), (-1.5, -0.45), (15, 9 / 101)])
def test_an_answer_is_drawn_to_the_usual_one_and_less_so_from_far(gap, pull):
    assert drawn(-3.0, -3.0 + gap) == pytest.approx(-3.0 + pull)


@pytest.mark.parametrize(("optimizer", "usually"), [("Adam", -2.27), ("RMSprop", -2.6), ("Adagrad", -1.66 + 0.5)])
@pytest.mark.parametrize("middle", [-4, -3])
def test_the_answer_of_an_adaptive_optimizer_is_drawn_to_its_usual_rate(middle, optimizer, usually):
    alone = middle - 0.08 + (0.5 if optimizer == "Adagrad" else 0)  # what Adagrad gets back
    gap = usually - alone
    expected = alone + 0.6 * gap / (1 + (gap / 1.5) ** 2)
    plan = replace(PLAN, optimizer=optimizer)
    assert math.log10(read_dip(curve(dip(middle)), plan).lr) == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("optimizer", ["SGD", "Adam"])
@pytest.mark.parametrize(
    ("baseline", "batches_differ_by", "low", "high"),
    [
        (True, 0.01, -0.28, 0.43),
        (True, 1.0, -0.26, 0.89),
        (False, 0.01, -0.31, 0.47),
        (False, 1.0, -0.78, 1.11),
    ],
    ids=["baseline", "baseline, shallow", "none", "none, shallow"],
)
def test_the_interval_around_the_rate(baseline, batches_differ_by, low, high, optimizer):
    read = read_dip(curve(dip(), baseline, start=2.3 + noise(batches_differ_by)), replace(PLAN, optimizer=optimizer))
    assert (read.low, read.high) == pytest.approx((read.lr * 10**low, read.lr * 10**high))
