"""Whether a rate has acted, and whether a batch is at fault: on drawn curves whose truth is known."""

import math

import numpy as np
import pytest

from findlr import Curve
from findlr.analysis.acting import batch_is_at_fault, has_acted

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
