"""What a curve can bear: on drawn curves whose truth is known, many seeds each."""

import math

import numpy as np
import pytest

from findlr import Curve, NoSuggestionError, Stop, Suggestion, Verdict, find, rules
from findlr.analysis.answer import answer
from findlr.analysis.plan import Plan
from findlr.analysis.verdict import judge
from findlr.testing import Quadratic

LR = np.geomspace(1e-8, 10, 100)
X = np.arange(100)


def noise(seed, size=0.05, n=100):
    return np.random.default_rng(seed).normal(0, size, n)


def valley(at=75, depth=1.0, level=2.3):
    """Falls around ``at``, bottoms out, explodes."""
    return level - depth / (1 + np.exp(-(X - at) / 3)) + np.exp(np.clip((X - at - 14) / 2, -50, 3))


def share(curves, verdict):
    return np.mean([judge(curve).verdict is verdict for curve in curves])


@pytest.mark.parametrize("level", [2.3, 0.0, -50.0])
@pytest.mark.parametrize("depth", [0.3, 2.0])
def test_a_valley_is_clear_whatever_its_level(level, depth):
    assert share([Curve(LR, valley(depth=depth, level=level) + noise(s)) for s in range(100)], Verdict.CLEAR) >= 0.95


@pytest.mark.parametrize("end", ["stays", "explodes", "grows noisier"])
def test_a_curve_without_signal_is_hardly_ever_clear(end):
    def curve(seed):
        loss = 2.3 + noise(seed)
        if end == "explodes":
            loss = loss + np.exp(np.clip((X - 80) / 3, -50, 5))
        if end == "grows noisier":
            loss = 2.3 + noise(seed) * (1 + X / 10)
        return Curve(LR, loss)

    assert share([curve(seed) for seed in range(200)], Verdict.CLEAR) <= 0.05


@pytest.mark.parametrize("loss", [np.full(100, 2.3), np.zeros(100), np.full(100, -1e6)])
def test_a_constant_is_flat(loss):
    assert judge(Curve(LR, loss)).verdict is Verdict.FLAT


def test_float32_rounding_is_no_fall():
    loss = np.float32(2.3) + np.where(X > 50, -2e-7, 0.0)
    assert judge(Curve(LR, loss)).verdict is Verdict.FLAT


@pytest.mark.parametrize("size", [0.0, 0.02])
def test_a_curve_that_rises_from_the_start_says_so(size):
    curves = [Curve(LR, 2.0 + 0.02 * X + noise(seed, size)) for seed in range(50)]
    assert share(curves, Verdict.RISING) >= 0.95


def test_a_curve_that_still_falls_says_so():
    curves = [Curve(LR, 2.3 - np.clip(X - 60, 0, None) / 40 + noise(seed, 0.02)) for seed in range(50)]
    assert share(curves, Verdict.STILL_FALLING) >= 0.95


@pytest.mark.parametrize("n", [1, 5, 19])
def test_too_few_points_say_so(n):
    judgement = judge(Curve(LR[:n], valley()[:n]))
    assert judgement.verdict is Verdict.TOO_SHORT
    assert "num_steps" in judgement.why


def test_twenty_points_are_enough():
    assert judge(Curve(LR[::5], valley()[::5])).verdict is not Verdict.TOO_SHORT


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_nan_at_once_says_so(bad):
    judgement = judge(Curve(LR[:1], [bad], diverged=True))
    assert judgement.verdict is Verdict.NOT_FINITE
    assert "data" in judgement.why


def test_nan_later_ends_the_usable_part_and_no_more():
    loss = valley() + noise(0)
    loss[90:] = math.nan
    assert judge(Curve(LR, loss, diverged=True)).verdict is Verdict.CLEAR


def test_the_verdict_does_not_depend_on_scale_or_offset():
    loss = valley() + noise(3)
    for scale in (1e-6, 1.0, 1e6):
        assert judge(Curve(LR, loss * scale)).verdict is Verdict.CLEAR
        assert judge(Curve(LR, (loss - 5) * scale)).verdict is Verdict.CLEAR


def test_a_fall_that_is_small_against_the_batches_differences_is_noisy_and_its_interval_wider():
    batches = noise(0, 0.5)
    for depth, verdict in ((0.3, Verdict.NOISY), (6.0, Verdict.CLEAR)):
        curve = Curve(LR, depth * (valley() - 2.3) + batches, baseline=batches)
        suggestion, seen, why = answer(curve, Plan())
        assert seen is verdict
        assert ("batches differ by 0.48" in why) == (verdict is Verdict.NOISY)
        low, high = suggestion.interval
        assert low < suggestion.lr < high
        assert (np.log10(high / low) > 1) == (verdict is Verdict.NOISY)


@pytest.mark.parametrize("baseline", [False, True])
@pytest.mark.parametrize(("from_", "verdict"), [(45, Verdict.NO_EDGE), (97, Verdict.STILL_FALLING)])
def test_a_loss_that_never_rises_is_told_from_one_that_still_falls(from_, verdict, baseline):
    batches = noise(0, 0.02)
    loss = 2.3 - 1.5 / (1 + np.exp(-(X - from_) / 3)) + batches
    judged = judge(Curve(LR, loss, baseline=2.3 + batches if baseline else None))
    assert judged.verdict is verdict
    assert "raise max_lr" in judged.why


@pytest.mark.parametrize(("depth", "least", "most"), [(0.1, 0.9, 1.0), (0.0, 0.0, 0.1)])
def test_with_a_baseline_the_share_of_easier_batches_decides(depth, least, most):
    def curve(seed):
        batches, own = noise(seed, 0.5), noise(1000 + seed, 0.05) * np.linspace(0, 1, 100) ** 4
        return Curve(LR, depth * (valley() - 2.3) + 2.3 + batches + own, baseline=2.3 + batches)

    assert least <= share([curve(seed) for seed in range(100)], Verdict.NOISY) <= most


def test_an_explosion_does_not_hide_the_valley_beside_it():
    loss = valley() + noise(0)
    loss[85:] = 1e12
    assert judge(Curve(LR, loss)).verdict is Verdict.CLEAR


# The fault of the rule that fastai asks by default is the verdict's to catch; the port stays faithful.


def test_valley_on_a_rising_curve_answers_the_first_rate_and_the_verdict_refuses():
    curve = Curve(LR, 2.0 + 0.02 * X)
    assert rules.valley(curve).lr == LR[10]
    suggestion, verdict, why = answer(curve, Plan(), rules.valley)
    assert (suggestion, verdict) == (None, Verdict.RISING)
    assert "min_lr" in why


# Through find


def test_a_poor_curve_is_a_result_not_an_exception():
    finding = find(Quadratic(curvature=1e-6))
    assert finding.verdict is Verdict.FLAT
    assert finding.suggestion is None
    for ask in (
        lambda: finding.lr,
        lambda: finding.lrs,
        lambda: finding.interval,
        finding.search_space,
        lambda: finding.suggest(rules.valley),
        finding.code,
    ):
        with pytest.raises(NoSuggestionError) as error:
            ask()
        assert str(error.value) == finding.why


def test_an_answer_outside_the_swept_range_is_no_suggestion():
    def too_low(curve, plan):
        return Suggestion(float(curve.lr[0]) / 10, "too_low", "")

    finding = find(Quadratic(), rule=too_low)
    assert finding.verdict is Verdict.NO_ANSWER
    assert "lower min_lr" in finding.why
    with pytest.raises(NoSuggestionError, match="lower min_lr"):
        _ = finding.lr
    assert 1e-8 <= finding.suggest(rules.steep).lr <= 10.0


@pytest.mark.parametrize("verdict", list(Verdict))
def test_every_verdict_has_its_sentence(verdict):
    assert verdict.sentence.endswith(".")
    bearing = (
        *(Verdict.CLEAR, Verdict.NOISY, Verdict.NO_EDGE),
        *(Verdict.RACED, Verdict.BROAD, Verdict.HORIZON_LIMITED),
    )
    assert verdict.refuses == (verdict not in bearing)


@pytest.mark.parametrize("stop", list(Stop))
def test_every_stop_has_its_sentence(stop):
    assert stop.sentence.endswith(".")
