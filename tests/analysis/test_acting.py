"""Whether a rate has acted, and whether a batch is at fault: on drawn curves whose truth is known."""

import math

import numpy as np
import pytest

from findlr import Curve
from findlr.analysis.acting import batch_is_at_fault, has_acted
from findlr.analysis.smoothing import BiasCorrectedAverage
from tests.analysis.test_levels import drawn

LR = np.geomspace(1e-8, 10, 100)
X = np.arange(100)
SEEDS = range(200)


def batches(seed, size=0.3):
    return 2.3 + np.random.default_rng(seed).normal(0, size, 100)


def falling(seed, depth, size=0.3):
    return batches(seed, size) - depth / (1 + np.exp(-(X - 70) / 3))


def test_batches_that_differ_are_no_rate_that_acts():
    assert np.mean([has_acted(Curve(LR, batches(seed))) for seed in SEEDS]) <= 0.05
    assert not any(has_acted(Curve(LR, batches(seed), batches(seed))) for seed in SEEDS)


def test_a_fall_or_a_rise_beyond_what_batches_differ_by_is():
    for depth in (1.5, -3.0):
        curves = [Curve(LR, falling(seed, depth)) for seed in SEEDS]
        assert np.mean([has_acted(curve) for curve in curves]) >= 0.95
        assert not any(has_acted(Curve(curve.lr[:30], curve.loss[:30])) for curve in curves[:20])


@pytest.mark.parametrize("depth", [0.1, -0.1])
def test_with_a_baseline_a_third_of_what_they_differ_by_is(depth):
    assert all(has_acted(Curve(LR, falling(seed, depth), batches(seed))) for seed in SEEDS)


def test_a_single_outlier_is_not():
    loss = batches(0)
    loss[50] = 1e6
    assert not has_acted(Curve(LR, loss))
    assert not has_acted(Curve(LR, loss, batches(0)))


def test_nor_are_a_few_of_them_without_a_baseline():
    acted = 0
    for seed in SEEDS:
        loss = batches(seed)
        loss[[30, 32, 50, 52, 70, 72]] = 1e6
        acted += has_acted(Curve(LR, loss))
    assert acted <= len(SEEDS) / 10


def test_a_rise_in_the_last_losses_is():
    for seed in range(20):
        loss = batches(seed)
        loss[-2:] = 10.0, 100.0
        assert has_acted(Curve(LR, loss))


@pytest.mark.parametrize("baseline", [None, np.full(100, 5.0)])
def test_where_all_batches_are_alike_a_twentieth_of_the_loss_is_much(baseline):
    for share, acted in ((0.02, False), (0.2, True)):
        assert has_acted(Curve(LR, 5.0 - 5.0 * share * (X > 50), baseline)) is acted


@pytest.mark.parametrize("n", [0, 1, 10])
def test_so_few_points_tell_nothing(n):
    assert not has_acted(Curve(LR[:n], np.linspace(2.0, 100.0, n)))


def obvious(curve):
    """Straight from what stands beside the constants, in loops."""
    n, loss, baseline = len(curve), curve.loss, curve.baseline
    if n <= 10:
        return False
    if baseline is not None:
        level, change = np.median(baseline), loss - baseline
        scatter, little = 0.1 * 1.4826 * np.median(abs(baseline - level)), 1e-4 * abs(level)
        moved = [np.median(change[i - r : i + r + 1]) for i in range(n) for r in [min(i, n - 1 - i, 2)]]
        return max(map(abs, moved)) > (scatter if scatter > little else 0.05 * abs(level))
    level, scatter = loss[:10].mean(), loss[:10].std()
    much, counted = 0.05 * abs(level), list(loss)
    if 1.5 * scatter > 1e-4 * abs(level):
        much = 1.5 * scatter
        counted[:-3] = [min(max(one, level - 4 * scatter), level + 4 * scatter) for one in loss[:-3]]
    average = BiasCorrectedAverage(0.9)
    calm = [np.median(counted[i - r : i + r + 1]) for i in range(n) for r in [min(i, n - 1 - i, 1)]]
    return any(abs(smooth - level) > much for smooth in list(map(average.update, calm))[10:])


def test_it_is_what_the_arithmetic_says():
    told = []
    for seed in range(200):
        whole = drawn(seed)
        for n in range(9, len(whole) + 1, 7):
            baseline = None if whole.baseline is None else whole.baseline[:n]
            for rise in (0, 6):  # standard deviations, of the last three losses
                loss = whole.loss[:n] + rise * whole.loss[:10].std() * (np.arange(n) >= n - 3)
                curve = Curve(whole.lr[:n], loss, baseline)
                told.append(has_acted(curve))
                assert told[-1] == obvious(curve), (seed, n)
    assert 0.2 < np.mean(told) < 0.8


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_the_last_batch_is_at_fault_if_the_starting_weights_cannot_bear_it_either(bad):
    loss, baseline = falling(0, 2.0), batches(0)
    loss[-1] = bad
    assert not batch_is_at_fault(Curve(LR, loss, baseline, diverged=True))
    baseline[-1] = math.nan
    assert batch_is_at_fault(Curve(LR, loss, baseline, diverged=True))


@pytest.mark.parametrize(("n", "fault"), [(1, False), (3, False), (4, True), (30, True)])
def test_with_a_baseline_a_batch_is_if_no_loss_had_moved_because_its_gradient_may_be_nan(n, fault):
    baseline = batches(0)[:n]
    assert batch_is_at_fault(Curve(LR[:n], [*baseline[:-1], math.nan], baseline, diverged=True)) is fault


def test_without_a_baseline_it_is_if_no_rate_has_acted():
    for loss, fault in ((batches(0), True), (falling(0, 2.0), False)):
        curve = Curve(LR, [*loss[:-1], math.nan], diverged=True)
        assert batch_is_at_fault(curve) is fault


def test_a_finite_end_and_no_point_at_all_are_nobodys_fault():
    assert not batch_is_at_fault(Curve(LR, batches(0)))
    assert not batch_is_at_fault(Curve([], []))
