"""What is believed: each term of the answer, its interval, and its doubts."""

import math
import re
from dataclasses import replace

import numpy as np
import pytest

from findlr import Curve, NoSuggestionError, Plan, Verdict, rules
from findlr.analysis.answer import answer, starting_point, usual_rate
from findlr.analysis.belief import believe, believe_at_least, believe_the_usual
from findlr.analysis.dip import read_dip
from findlr.analysis.usual import usual
from findlr.analysis.verdict import judge

X = np.linspace(-8, 1, 100)  # the rates' decimal logarithms: 11 in a decade
UNKNOWN = Plan("constant", total_steps=1000, optimizer="Own", momentum=0.0)  # nothing is usual for it
SGD = replace(UNKNOWN, optimizer="SGD", parameters=10_000, epochs=1)  # 1: nothing to doubt
ADAM = replace(SGD, optimizer="Adam")

either = pytest.mark.parametrize("baseline", [True, False], ids=["baseline", "none"])


def curve(middle=-2.0, differ_by=0.0, baseline=True, depth=1.0, start=2.3, **more):
    """A symmetric valley, half a decade wide, where batches differ so much."""
    swing = differ_by * np.where(np.arange(len(X)) % 2, 1.0, -1.0)
    change = -depth * np.exp(-(((X - middle) / 0.5) ** 2) / 2)
    return Curve(10**X, start + swing + change, start + swing if baseline else None, **more)


def lr(*given):
    return math.log10(believe(*given).lr)


@either
def test_where_nothing_is_usual_the_dip_stands_alone_less_a_level(baseline):
    belief = believe(curve(baseline=baseline), UNKNOWN)
    assert math.log10(belief.lr) == pytest.approx(-2 - 0.12, abs=0.02)
    assert (belief.usual, belief.weight) == (None, 1.0)


@either
@pytest.mark.parametrize("momentum", [0.5, 0.9])
def test_a_momentum_lowers_the_rate(momentum, baseline):
    given = curve(baseline=baseline)
    assert lr(given, replace(UNKNOWN, momentum=momentum)) - lr(given, UNKNOWN) == pytest.approx(
        0.6 * math.log10(1 - momentum)
    )


@pytest.mark.parametrize(
    ("change", "decades"), [({"schedule": "linear"}, 1.3 * math.log10(2)), ({"total_steps": 10_000}, -0.2)]
)
@pytest.mark.parametrize("plan", [UNKNOWN, SGD, ADAM], ids=lambda plan: plan.optimizer)
def test_what_is_planned_moves_all_of_it(plan, change, decades):
    assert lr(curve(), replace(plan, **change)) - lr(curve(), plan) == pytest.approx(decades)


@either
def test_a_dip_of_few_data_that_are_seen_often_is_read_lower(baseline):
    given = curve(baseline=baseline)
    few, many = (replace(UNKNOWN, total_steps=1000, epochs=epochs) for epochs in (100, 1))
    assert lr(given, few) - lr(given, many) == pytest.approx(-0.4)


@pytest.mark.parametrize(("optimizer", "share"), [("Own", 0.33), ("SGD", 0.33), ("Adagrad", -0.5)])
def test_a_dip_of_more_steps_is_read_higher_but_an_adagrads_lower(optimizer, share):
    x = np.linspace(-8, 1, 397)  # 44 in a decade
    dense = Curve(10**x, 2.3 - np.exp(-(((x + 2) / 0.5) ** 2) / 2), np.full(397, 2.3))
    plan = replace(UNKNOWN, optimizer=optimizer)
    there, here = believe(dense, plan).dip, believe(curve(), plan).dip
    assert math.log10(there / here) == pytest.approx(share * math.log10(4), abs=0.01)


@pytest.mark.parametrize("differ_by", [0.0, 0.3, 1.0, 3.0, 30.0])
@pytest.mark.parametrize("middle", [-5.0, -2.0, -0.5])
@pytest.mark.parametrize("plan", [SGD, ADAM], ids=lambda plan: plan.optimizer)
def test_the_two_are_weighed_by_the_noise_and_by_how_far_apart_they_are(plan, middle, differ_by):
    given = curve(middle, differ_by)
    dip, to = read_dip(given), usual(plan, 2.3)
    gap = abs(to - dip.place)
    weight = math.exp(-3.0 * dip.noise) * (1 + (gap * math.exp(-1.2 * dip.noise) / 1.5) ** 2)
    counts = 0.4 if plan is SGD else 1.0
    expected = (weight * dip.place + counts * to) / (weight + counts) - 0.12
    belief = believe(given, plan)
    assert math.log10(belief.lr) == pytest.approx(expected, abs=1e-6)
    assert belief.weight == pytest.approx(weight / (weight + counts))
    assert (math.log10(belief.dip), math.log10(belief.usual)) == pytest.approx((dip.place, to), abs=1e-6)


@pytest.mark.parametrize(
    ("optimizer", "weight"),
    [
        *((name, 1 / 2) for name in ("Adam", "AdamW", "RAdam", "Lion", "Muon", "Adafactor", "Sophia")),
        *((name, 1 / 1.4) for name in ("SGD", "ASGD", "RMSprop", "Adagrad")),
    ],
)
def test_a_calm_dip_near_what_is_usual_weighs_as_much_and_more_with_some_optimizers(optimizer, weight):
    plan = replace(ADAM, optimizer=optimizer)
    assert believe(curve(usual(plan, 2.3)), plan).weight == pytest.approx(weight, abs=0.03)


@either
@pytest.mark.parametrize("scale", [1e-3, 10, 1e4])
def test_an_sgds_answer_scales_with_the_loss(scale, baseline):
    here = curve(-1.5, 0.5, baseline)
    start = None if here.baseline is None else here.baseline * scale
    there = Curve(here.lr / scale, here.loss * scale, start)  # what the same training gives
    assert lr(there, SGD) == pytest.approx(lr(here, SGD) - math.log10(scale), abs=1e-6)


@pytest.mark.parametrize("plan", [SGD, ADAM], ids=lambda plan: plan.optimizer)
def test_without_a_dip_it_is_what_is_usual(plan):
    flat = Curve(10**X, np.full(100, 2.3), np.full(100, 2.3))
    belief = believe(flat, plan)
    assert math.log10(belief.lr) == pytest.approx(usual(plan, 2.3) - 0.12)
    assert (belief.dip, belief.weight) == (None, 0.0)
    assert math.log10(belief.interval[1] / belief.interval[0]) == pytest.approx(1.4)


def test_without_either_it_says_so():
    with pytest.raises(NoSuggestionError, match="a loss that falls"):
        believe(Curve(10**X, np.full(100, 2.3)), UNKNOWN)


def test_no_answer_is_near_where_the_sweep_diverged():
    whole = curve(-3.5)
    cut = Curve(whole.lr[:55], whole.loss[:55], whole.baseline[:55], num_steps=100)
    edge = math.log10(cut.lr[-1])
    assert lr(cut, ADAM) > edge - 0.3
    assert lr(replace(cut, diverged=True), ADAM) == pytest.approx(edge - 0.3)


def test_a_batch_that_is_not_finite_by_itself_bounds_no_rate():
    flat = Curve(10**X, np.full(100, 2.3), np.full(100, 2.3))
    spoiled = Curve(flat.lr[:25], [*flat.loss[:24], math.nan], [*flat.loss[:24], math.nan], diverged=True)
    assert believe_the_usual(spoiled, ADAM).lr == believe_the_usual(flat, ADAM).lr > flat.lr[25]


def test_what_is_usual_leads_to_no_rate_that_was_not_swept():
    whole = curve(-4.5, 1.0)
    part = Curve(whole.lr[:50], whole.loss[:50], whole.baseline[:50])
    assert lr(whole, SGD) > math.log10(part.lr[-1])
    assert believe(part, SGD).lr == part.lr[-1]
    later = curve(-3.8)  # a dip that the plan moves beyond them
    late = Curve(later.lr[:50], later.loss[:50], later.baseline[:50])
    assert believe(late, replace(SGD, schedule="linear", total_steps=100)).lr > late.lr[-1]


FALLING = curve(middle=1.2)  # beyond the last rate
PRODIGY = replace(UNKNOWN, optimizer="Prodigy")


@pytest.mark.parametrize("plan", [SGD, ADAM], ids=lambda plan: plan.optimizer)
def test_a_loss_that_still_falls_speaks_for_its_dip_at_least(plan):
    dip, belief = believe(FALLING, plan).dip, believe_at_least(FALLING, plan)
    assert math.log10(belief.lr) == pytest.approx(math.log10(dip) - 0.12)
    low, high = (math.log10(end / belief.lr) for end in belief.interval)
    assert (low, high) == (pytest.approx(-0.6), pytest.approx(0.8))
    assert (belief.dip, belief.usual, belief.weight) == (dip, believe(FALLING, plan).usual, 1.0)


def test_a_loss_that_may_fall_by_itself_speaks_with_its_weight_alone():
    given = curve(middle=1.2, differ_by=0.15, baseline=False)
    told, least = believe(given, SGD), believe_at_least(given, SGD)
    assert 0.1 < told.weight < 0.9
    assert least.lr == pytest.approx(told.lr)
    assert least.weight == told.weight


@pytest.mark.parametrize(("schedule", "decades"), [("constant", None), ("linear", -0.3)])
def test_a_loss_that_still_falls_gives_no_rate_next_to_the_last(schedule, decades):
    plan = replace(SGD, schedule=schedule)
    belief = believe_at_least(FALLING, plan)
    expected = math.log10(belief.dip) if decades is None else X[-1] + decades
    assert math.log10(belief.lr) == pytest.approx(expected - 0.12)
    high = replace(plan, parameters=1000, total_steps=100)  # what is usual lies beyond
    low = Curve(FALLING.lr[:86], FALLING.loss[:86], FALLING.baseline[:86])
    usual = believe_the_usual(low, high).lr
    assert low.lr[-1] / 2 < usual < believe_at_least(low, high).dip
    assert believe_at_least(low, high).lr == pytest.approx(usual)


@pytest.mark.parametrize(
    ("given", "plan"),
    [(curve(middle=-7.0), ADAM), (FALLING, PRODIGY), (curve(depth=0.0), ADAM), (curve(depth=0.0), UNKNOWN)],
    ids=["a lower dip", "a rate-free optimizer", "no dip", "no dip and nothing usual"],
)
def test_what_is_usual_is_raised_by_nothing_else(given, plan):
    assert believe_at_least(given, plan) == believe_the_usual(given, plan)


BELOW_ZERO = Curve(FALLING.lr, FALLING.loss - 10.0, FALLING.baseline - 10.0)  # no scale for what is usual


@pytest.mark.parametrize(("given", "plan"), [(FALLING, UNKNOWN), (BELOW_ZERO, SGD)])
def test_where_nothing_is_usual_a_loss_that_still_falls_speaks_for_its_dip(given, plan):
    assert believe_the_usual(given, plan) is None
    told = usual_rate(given, plan, still_falling=True)
    assert told.lr == pytest.approx(min(believe(given, plan).lr, given.lr[-1] / 2 * 10**-0.12), rel=0.01)
    assert told.rule == "quick"
    assert "the loss still falls there; nothing is usual for such a training" in told.why
    assert math.log10(told.interval[1] / told.interval[0]) == pytest.approx(1.4)
    alone = Curve(given.lr, given.loss)  # which may fall by itself
    assert usual_rate(alone, plan, still_falling=True) is None


def test_a_race_on_a_loss_that_still_falls_starts_where_it_falls():
    start = starting_point(FALLING, SGD)
    assert start.lr == believe_at_least(FALLING, SGD).lr > 10 * believe_the_usual(FALLING, SGD).lr
    assert starting_point(FALLING, SGD, rules.valley) == rules.valley(FALLING)
    assert starting_point(FALLING, UNKNOWN).lr == believe(FALLING, UNKNOWN).lr


def test_the_start_is_the_mean_over_all_batches_where_it_was_measured():
    batches = np.where(np.arange(100) < 50, 1.0, 3.0)
    measured = Curve(10**X, curve(start=batches).loss, batches)
    assert math.log10(believe(measured, SGD).usual) == pytest.approx(usual(SGD, 2.0))
    unmeasured = replace(measured, baseline=None)
    assert math.log10(believe(unmeasured, SGD).usual) == pytest.approx(usual(SGD, 1.0), abs=1e-3)


@either
@pytest.mark.parametrize(("differ_by", "ends"), [(0.01, (-0.42, 0.48)), (1.0, (-0.54, 0.76))])
def test_the_interval_around_the_rate(differ_by, ends, baseline):
    belief = believe(curve(-2, differ_by, baseline), ADAM)
    assert belief.interval == pytest.approx(tuple(belief.lr * 10**end for end in ends))


@pytest.mark.parametrize(
    ("doubt", "change", "differ_by", "middle", "cost"),
    [
        ("noise", {}, 30.0, -2, 0.06 * 1.8),
        ("epochs", {"epochs": 100}, 0.0, -2, 0.05 * 1.5),
        ("epochs", {"epochs": 3}, 0.0, -2, 0.0),
        ("pretrained", {"pretrained": True}, 0.0, -2, 0.025),
        ("gap", {}, 0.0, -2.36 - 1, 0.015),
        ("gap", {}, 0.0, -6, 0.015 * 2),
    ],
)
def test_what_each_doubt_costs(doubt, change, differ_by, middle, cost):
    plan = replace(ADAM, epochs=10, **change) if "epochs" not in change else replace(ADAM, **change)
    belief = believe(curve(middle, differ_by), plan)
    assert belief.doubts[doubt] == pytest.approx(cost, abs=1e-3)
    assert belief.expected_regret == pytest.approx(sum(belief.doubts.values()))


@pytest.mark.parametrize(
    ("change", "differ_by", "middle", "verdict", "why"),
    [
        ({}, 0.0, -2, Verdict.CLEAR, "rises"),
        ({"epochs": 60}, 0.0, -2, Verdict.MANY_EPOCHS, "sees each example 60 times, .* costs at most 500 steps"),
        ({"epochs": 20}, 0.0, -2, Verdict.CLEAR, "rises"),
        ({"pretrained": True}, 0.0, -2, Verdict.PRETRAINED, "trained already.* costs at most 500 steps"),
        ({"pretrained": True, "total_steps": 150}, 0.0, -2, Verdict.PRETRAINED, "costs at most 350 steps"),
        ({}, 0.0, -6, Verdict.DISAGREE, "the dip says 9.8e-07, and 0.011 is usual"),
    ],
)
def test_a_clear_curve_is_doubted_where_what_it_cant_show_may_cost_more(change, differ_by, middle, verdict, why):
    answered = answer(curve(middle, differ_by), replace(ADAM, **change))
    assert answered.verdict is verdict
    assert answered.suggestion is not None
    assert re.search(why, answered.why)


def test_a_curve_whose_dip_is_narrow_is_noisy_sooner():
    swing = 0.6 * np.where(np.arange(len(X)) % 2, 1.0, -1.0)
    narrow = -3.0 * np.exp(-(((X + 2) / 0.15) ** 2) / 2)
    measured = Curve(10**X, 2.3 + swing + narrow, 2.3 + swing)
    assert judge(measured).verdict is Verdict.CLEAR
    answered = answer(measured, replace(ADAM, epochs=12))
    assert answered.verdict is Verdict.NOISY
    assert "But batches differ by 0.6, which hides where the dip is" in answered.why


def test_a_rule_that_reads_the_curve_alone_is_not_doubted():
    assert answer(curve(), replace(ADAM, pretrained=True), rules.valley).verdict is Verdict.CLEAR
