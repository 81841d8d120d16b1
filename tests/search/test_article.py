"""The article's maths, against an independent float64 transcription of its formulas."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from findlr import ConfigurationError, Curve, Stop, rules
from findlr.analysis.smoothing import bias_corrected, centred_gaussian, centred_median
from findlr.search.recording import Recording
from findlr.search.stopping import StopRule
from findlr.search.sweep import run_sweep, sweep_lrs
from findlr.testing import Quadratic

losses = st.lists(st.floats(0.01, 100.0), min_size=1, max_size=60)
betas = st.sampled_from([0.0, 0.05, 0.5, 0.9, 0.98, 0.999])


def article_find_lr(step, init_value, final_value, num, beta):
    """The article's loop, line by line; ``step(lr)`` gives the raw loss."""
    mult = (final_value / init_value) ** (1 / (num - 1))
    lr, avg_loss, best_loss, batch_num = init_value, 0.0, 0.0, 0
    lrs, smoothed = [], []
    for _ in range(num):
        batch_num += 1
        loss = step(lr)
        avg_loss = beta * avg_loss + (1 - beta) * loss
        smoothed_loss = avg_loss / (1 - beta**batch_num)
        if batch_num > 1 and smoothed_loss > 4 * best_loss:
            return lrs, smoothed
        if smoothed_loss < best_loss or batch_num == 1:
            best_loss = smoothed_loss
        smoothed.append(smoothed_loss)
        lrs.append(lr)
        lr *= mult
    return lrs, smoothed


def weighted_sum(values, beta):
    """The average as the article's expanded sum, without its misprint."""
    n = len(values)
    weights = [(1 - beta) * beta ** (n - 1 - i) for i in range(n)]
    return math.fsum(w * v for w, v in zip(weights, values, strict=True)) / math.fsum(weights)


def swept(training, num_steps=100, min_lr=1e-8, max_lr=10.0, **rule):
    recording = Recording(training.read, num_steps, StopRule(**rule))
    run_sweep(training, sweep_lrs(min_lr, max_lr, num_steps), recording)
    return recording.curve(0.98), recording.stop


class Replay:
    """A training whose losses are known beforehand."""

    def __init__(self, losses):
        self.losses = iter(losses)

    def step(self, lr):
        return next(self.losses)

    def read(self, losses):
        return losses


@pytest.mark.parametrize("noise", [0.0, 0.05])
@pytest.mark.parametrize("curvature", [10.0, 1000.0])
def test_a_sweep_is_the_articles_loop(noise, curvature):
    curve, stop = swept(Quadratic(curvature=curvature, noise=noise))
    raw = iter(curve.loss)  # not a second training: near the end a last bit of the rate decides the loss
    lrs, smoothed = article_find_lr(lambda lr: next(raw), 1e-8, 10.0, 100, 0.98)
    assert stop is (Stop.FINISHED if len(lrs) == 100 else Stop.DIVERGED)
    usable = curve.smoothed().usable()
    np.testing.assert_allclose(usable.lr, lrs, rtol=1e-12)
    np.testing.assert_allclose(usable.loss, smoothed, rtol=1e-9)


@given(st.floats(1e-10, 1e-2), st.floats(1.5, 1e9), st.integers(2, 400))
def test_exponential_rates_are_geometric_and_end_exactly(min_lr, span, num_steps):
    lrs = sweep_lrs(min_lr, min_lr * span, num_steps)
    assert (lrs[0], lrs[-1]) == (min_lr, min_lr * span)
    quotient = span ** (1 / (num_steps - 1))
    np.testing.assert_allclose(lrs[1:] / lrs[:-1], quotient, rtol=1e-12)


def test_linear_rates_are_even_and_end_exactly():
    lrs = sweep_lrs(0.1, 0.7, 7, "linear")
    np.testing.assert_allclose(lrs, [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7], rtol=1e-12)
    assert (lrs[0], lrs[-1]) == (0.1, 0.7)


@given(losses, betas)
def test_smoothing_is_the_expanded_sum(values, beta):
    expected = [weighted_sum(values[: i + 1], beta) for i in range(len(values))]
    np.testing.assert_allclose(bias_corrected(values, beta), expected, rtol=1e-9)


@given(st.floats(-1e6, 1e6), st.integers(1, 300), betas)
def test_smoothing_a_constant_is_the_constant(value, n, beta):
    np.testing.assert_allclose(bias_corrected([value] * n, beta), value, rtol=1e-9, atol=1e-300)


@given(st.floats(-100, 100), st.integers(1, 50))
def test_centred_averages_of_a_constant_are_the_constant(value, n):
    np.testing.assert_array_equal(centred_median([value] * n, 5), value)
    np.testing.assert_allclose(centred_gaussian([value] * n, 2.0), value, rtol=1e-12, atol=1e-300)


@given(st.lists(st.floats(-10, 10), min_size=1, max_size=40), st.sampled_from([1, 3, 5, 9]))
def test_centred_median_is_the_obvious_one(values, width):
    n, half = len(values), width // 2
    for i, got in enumerate(centred_median(values, width)):
        reach = min(half, i, n - 1 - i)
        assert got == np.median(values[i - reach : i + reach + 1])


@given(st.lists(st.floats(-10, 10), min_size=1, max_size=40), st.floats(0.3, 5))
def test_centred_gaussian_is_the_obvious_one(values, sigma):
    reach = min(math.ceil(4 * sigma), len(values) - 1)
    for i, got in enumerate(centred_gaussian(values, sigma)):
        near = [j for j in range(len(values)) if abs(j - i) <= reach]
        weights = [math.exp(-((j - i) ** 2) / (2 * sigma**2)) for j in near]
        expected = math.fsum(w * values[j] for w, j in zip(weights, near, strict=True)) / math.fsum(weights)
        assert got == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_a_centred_average_does_not_lag():
    log_lr = np.linspace(-8, 1, 100)
    curve = 2.0 - 1.5 / (1 + np.exp(-8 * (log_lr + 3)))  # steepest at 1e-3
    centred = log_lr[np.argmin(np.diff(centred_gaussian(curve, 2.0)))]
    assert centred == pytest.approx(-3, abs=0.1)
    assert log_lr[np.argmin(np.diff(bias_corrected(curve, 0.98)))] > -2.8


@given(st.floats(0.1, 10), st.integers(0, 5))
def test_article_ignores_the_losses_scale(scale, seed):
    curve, _ = swept(Quadratic(noise=0.02, seed=seed))
    assert rules.article(Curve(curve.lr, curve.loss * scale)).lr == rules.article(curve).lr


@given(st.floats(1e-3, 1e3), st.integers(0, 5))
def test_article_follows_the_rates_scale(scale, seed):
    curve, _ = swept(Quadratic(noise=0.02, seed=seed))
    scaled = rules.article(Curve(curve.lr * scale, curve.loss)).lr
    assert scaled == pytest.approx(rules.article(curve).lr * scale, rel=1e-12)


def test_article_takes_a_tenth_of_the_minimum_between_the_skipped_ends():
    lr = np.geomspace(1e-5, 1, 60)
    loss = np.full(60, 2.0)
    loss[30] = -1e9  # so deep that the average is lowest just here
    loss[3] = loss[57] = -1e12  # in the skipped ends; the first one's shadow only fades
    assert rules.article(Curve(lr, loss)).lr in lr / 10
    loss[3] = 2.0
    assert rules.article(Curve(lr, loss)).lr == lr[30] / 10


def test_article_leaves_out_the_point_that_tripped():
    lr = np.geomspace(1e-5, 1, 61)
    loss = np.linspace(2, 1, 61)
    assert rules.article(Curve(lr, loss)).lr == lr[55] / 10
    assert rules.article(Curve(lr, loss, diverged=True)).lr == lr[54] / 10


# The stop rule


def stop_index(values, **settings):
    rule = StopRule(**settings)
    for i, value in enumerate(values):
        if rule.update(value) is not None:
            return i
    return None


def test_positive_losses_stop_when_smoothed_passes_four_times_the_best():
    values = [2.0, 1.0, 1.0, 3.9, 4.1]
    assert stop_index(values, beta=0.0) == 4
    assert stop_index([2.0, 1.0, 4.0], beta=0.0) is None  # past, not at


@pytest.mark.parametrize("offset", [-3.0, -10.0, -1000.0])
def test_a_negative_loss_does_not_end_the_sweep_at_once(offset):
    noise = np.random.default_rng(0).normal(0, 0.05, 100)
    fall = -2 / (1 + np.exp(-(np.arange(100) - 50) / 5))
    assert stop_index(offset + fall + noise) is None


def test_a_negative_loss_that_explodes_ends_the_sweep_where_the_rule_says():
    noise = np.random.default_rng(0).normal(0, 0.05, 100)
    values = -3 - np.arange(100) / 50 + noise + np.where(np.arange(100) > 70, 1.5 ** (np.arange(100) - 70), 0)
    smoothed = bias_corrected(values, 0.9)
    expected = None
    for i in range(100):  # the rule as design says it, from the start each time
        best_at = int(np.argmin(smoothed[: i + 1]))
        best = smoothed[best_at]
        if i >= 10 and smoothed[i] - best > 3 * max(smoothed[0] - best, np.std(values[: max(best_at + 1, 10)])):
            expected = i
            break
    assert expected is not None
    assert stop_index(values, beta=0.9) == expected


def test_the_rule_changes_at_the_first_loss_that_is_not_positive():
    falling_through_zero = np.linspace(1.0, -1.0, 40)
    assert stop_index(falling_through_zero) is None
    assert stop_index([*falling_through_zero, *np.linspace(-1, 200, 40)], beta=0.5) is not None


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_stops_at_once(bad):
    curve, stop = swept(Replay([2.0] * 30 + [bad] + [2.0] * 70))
    assert stop is Stop.NOT_FINITE
    assert len(curve) == 31
    assert curve.diverged
    assert len(curve.usable()) == 30


@given(st.integers(1, 25), st.integers(0, 60), st.booleans())
def test_the_curve_does_not_depend_on_how_often_losses_are_read(read_every, trip, negative):
    values = [(-2.0 if negative else 2.0) + 0.01 * math.sin(i) for i in range(100)]
    values[20 + trip :] = [1e9] * len(values[20 + trip :])
    results = []
    for every in (1, read_every):
        recording = Recording(lambda losses: losses, 100, StopRule(), read_every=every)
        run_sweep(Replay(values), sweep_lrs(1e-8, 10, 100), recording)
        results.append((recording.curve(0.98), recording.stop))
    assert results[0] == results[1]
    assert results[0][1] is Stop.DIVERGED


def test_a_step_that_the_optimizer_skipped_does_not_use_up_its_rate():
    asked = []

    class Skips(Quadratic):
        def step(self, lr):
            asked.append(lr)
            return None if len(asked) in (3, 4, 9) else super().step(lr)

    curve, stop = swept(Skips(), num_steps=10)
    assert stop is Stop.FINISHED
    np.testing.assert_array_equal(curve.lr, sweep_lrs(1e-8, 10, 10))
    assert len(asked) == 13


def test_twenty_skips_in_a_row_end_the_sweep():
    class Skips(Quadratic):
        steps = 0

        def step(self, lr):
            self.steps += 1
            return super().step(lr) if self.steps <= 5 else None

    training = Skips()
    curve, stop = swept(training)
    assert (len(curve), stop, training.steps) == (5, Stop.OVERFLOW, 25)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((0.0, 1.0, 100), "min_lr"),
        ((-1.0, 1.0, 100), "min_lr"),
        ((math.nan, 1.0, 100), "min_lr"),
        ((1e-8, math.inf, 100), "max_lr"),
        ((1.0, 0.1, 100), "below"),
        ((1.0, 1.0, 100), "below"),
        (("1e-8", 1.0, 100), "min_lr"),
        ((1e-8, 1.0, 1), "num_steps"),
        ((1e-8, 1.0, 10.5), "num_steps"),
        ((1e-8, 1.0, True), "num_steps"),
        ((1e-8, 1.0, 10, "log"), "spacing"),
    ],
)
def test_rates_that_cannot_be_are_refused(arguments, words):
    with pytest.raises(ConfigurationError, match=words):
        sweep_lrs(*arguments)


@pytest.mark.parametrize("beta", [-0.1, 1.0, 2, math.nan])
def test_a_smoothing_that_cannot_be_is_refused(beta):
    with pytest.raises(ConfigurationError, match="smoothing"):
        StopRule(beta=beta)


@pytest.mark.parametrize("threshold", [1.0, 0.5, -4, math.inf, math.nan])
def test_a_threshold_that_cannot_be_is_refused(threshold):
    with pytest.raises(ConfigurationError, match="divergence_threshold"):
        StopRule(threshold=threshold)
