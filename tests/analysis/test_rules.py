"""The ports of fastai's rules, against what the real fastai answered on the same curves."""

import json
import math
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from findlr import Curve, NoSuggestionError, Plan, Verdict, rules
from findlr.analysis.smoothing import bias_corrected
from findlr.analysis.verdict import judge

RECORDED = json.loads((Path(__file__).parents[1] / "parity" / "fastai_curves.json").read_text())["curves"]
PORTS = {"valley": rules.valley, "slide": rules.slide, "steep": rules.steep, "minimum": rules.minimum}


def numbers(values):
    return [math.nan if value is None else value for value in values]


def recorded(name):
    data = RECORDED[name]
    return Curve(data["lrs"], numbers(data["raw_losses"]), num_steps=data["num_it"])


CONSTANT = "scripted, flat"  # fastai's answer to it is the rounding of its float32 average


@pytest.mark.parametrize("rule", PORTS)
@pytest.mark.parametrize("name", sorted(RECORDED.keys() - {CONSTANT}))
def test_a_port_answers_as_the_real_fastai(name, rule):
    answer = RECORDED[name]["answers"][rule]
    if isinstance(answer, str):  # fastai raised: the port refuses in words
        with pytest.raises(NoSuggestionError, match=rule):
            PORTS[rule](recorded(name), Plan())
    else:
        assert PORTS[rule](recorded(name), Plan()).lr == pytest.approx(answer, rel=1e-6)


def test_the_verdict_refuses_the_curve_on_which_rounding_decides():
    assert judge(recorded(CONSTANT)).verdict is Verdict.FLAT


@pytest.mark.parametrize("name", RECORDED)
def test_fastais_smoothing_is_the_articles(name):
    smoothed = numbers(RECORDED[name]["smoothed_losses"])
    np.testing.assert_allclose(recorded(name).smoothed(0.98).loss, smoothed, rtol=1e-4, atol=1e-6)


def slow_valley(losses):
    """The longest strictly decreasing subsequence in O(n^2), straight from the definition."""
    n = len(losses)
    lengths = [1] * n
    for i in range(n):
        lengths[i] = 1 + max((lengths[j] for j in range(i) if losses[j] > losses[i]), default=0)
    end = lengths.index(max(lengths))
    start = end - lengths[end] if lengths[end] > 1 else 0
    third = (end - start) / 3
    return start + int(third) + int(third / 2)


def slow_slide(losses):
    gradient = np.gradient(losses)
    right, left = -1, -16
    found = left
    while left >= -len(losses) and abs(gradient[right] - gradient[left]) > 0.005:
        found = left
        right, left = right - 1, left - 1
    return found


wiggles = st.lists(st.floats(-1, 1).map(lambda x: round(x, 2)), min_size=32, max_size=90)


@given(wiggles)
def test_valley_is_the_obvious_one(values):
    curve = Curve(np.geomspace(1e-6, 1, len(values)), values)
    smoothed = bias_corrected(values, 0.98)[len(values) // 10 : -5]
    assert rules.valley(curve).lr == curve.lr[len(values) // 10 : -5][slow_valley(smoothed.tolist())]


@given(wiggles)
def test_slide_is_the_obvious_one(values):
    curve = Curve(np.geomspace(1e-6, 1, len(values)), values)
    smoothed = bias_corrected(values, 0.98)[len(values) // 10 : -5]
    assert rules.slide(curve).lr == curve.lr[len(values) // 10 : -5][slow_slide(smoothed)]


@pytest.mark.parametrize("rule", [rules.article, *PORTS.values()])
def test_a_rule_is_pure(rule):
    curve = recorded(next(iter(RECORDED)))
    before = curve.to_dict()
    assert rule(curve, Plan()) == rule(curve, Plan("one_cycle", total_steps=10))
    assert curve.to_dict() == before


@pytest.mark.parametrize("rule", [rules.article, *PORTS.values()])
@pytest.mark.parametrize("n", [0, 1, 5, 15])
def test_a_bare_rule_without_points_says_so(rule, n):
    with pytest.raises(NoSuggestionError, match="raise num_steps"):
        rule(Curve(np.geomspace(1e-6, 1, n) if n else [], [1.0] * n, num_steps=100), Plan())


@pytest.mark.parametrize("rule", [rules.article, *PORTS.values()])
def test_the_point_that_tripped_decides_nothing(rule):
    lr = np.geomspace(1e-6, 1, 101)
    loss = 2 - np.arange(101) / 60
    answers = {rule(Curve(lr, [*loss[:-1], last], diverged=True, num_steps=101)).lr for last in (-1e9, 1e9)}
    assert len(answers) == 1


def test_valley_ends_on_a_curve_on_which_a_quadratic_one_would_not():
    n = 300_000
    losses = np.random.default_rng(0).normal(size=n) - np.linspace(0, 3, n)
    assert rules.valley(Curve(np.geomspace(1e-6, 1, n), losses)).lr > 1e-6


@pytest.mark.parametrize("rule", rules.RULES.values(), ids=rules.RULES)
@pytest.mark.parametrize("plan", [Plan(optimizer=name) for name in ("SGD", "AdamW", "LBFGS", "Prodigy", "")])
@pytest.mark.parametrize("loss", [1.0, 0.0, 5e-324, 1e308, math.nan, math.inf])
@pytest.mark.parametrize("points", [0, 1, 2, 5, 30])
def test_whatever_the_curve_a_rule_answers_or_says_why_not(rule, plan, loss, points):
    curve = Curve(10.0 ** np.linspace(-8, 1, points), [loss] * points)
    with suppress(NoSuggestionError):
        assert 1e-100 < rule(curve, plan).lr < 1e100


@pytest.mark.parametrize(("limit", "suggested"), [(10.0, 1.0), (4.0, 1.0), (0.3, 0.1)])
def test_a_quasi_newton_method_takes_full_steps_if_the_loss_stays_low_beyond_them(limit, suggested):
    rates = 10.0 ** np.linspace(-8, 1, 100)
    losses = np.select([rates < 0.05, rates < 0.08, rates < limit], [1.0, 1e-9, 1e-4], 5.0)  # the first are the lowest
    suggestion = rules.quick(Curve(rates, losses), Plan(optimizer="LBFGS"))
    assert suggestion.lr == pytest.approx(suggested, rel=0.15)
