"""What the batches do by themselves is no divergence; what the rate does is, as in the article."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from findlr import Stop, find
from findlr.analysis.smoothing import bias_corrected
from findlr.search.stopping import StopRule
from findlr.testing import Quadratic

SEEDS = range(40)


def stopped(losses, baselines=None, **settings):
    """The index at which the rule trips, and why; None and None if it never does."""
    rule = StopRule(**settings)
    for i, loss in enumerate(losses):
        why = rule.update(loss, None if baselines is None else baselines[i])
        if why is not None:
            return i, why
    return None, None


def articles(losses, threshold=4.0, beta=0.98):
    """Where the article stops."""
    smoothed = bias_corrected(losses, beta)
    past = np.flatnonzero(smoothed > threshold * np.minimum.accumulate(smoothed))
    return int(past[0]) if len(past) else None


def long_tails(seed, n=100):
    return np.exp(np.random.default_rng(seed).normal(0, 2.0, n))


def rare_classes(seed, n=100):
    rng = np.random.default_rng(seed)
    return np.where(rng.random(n) < 0.05, 8.0, 0.01) * rng.uniform(0.9, 1.1, n)


def filling_queue(seed, n=100):
    rng = np.random.default_rng(seed)
    return np.log1p(np.minimum(np.arange(n), 30) * rng.uniform(0.8, 1.2, n)) + 0.03


def near_zero(seed, n=100):
    return np.abs(np.random.default_rng(seed).normal(0, 0.1, n)) + 1e-4


def rare_rewards(seed, n=100):
    rng = np.random.default_rng(seed)
    return np.where(rng.random(n) < 0.05, 30.0, 0.0) + rng.normal(0, 0.1, n)


def margins(seed, n=100):  # many of the losses are 0
    return np.maximum(np.random.default_rng(seed).normal(-1, 1, n), 0)


KINDS = (long_tails, rare_classes, filling_queue, near_zero)
WITHOUT_A_SIGN = (rare_rewards, margins)
kinds = pytest.mark.parametrize("kind", KINDS)


@kinds
def test_a_rise_that_the_same_batches_show_under_the_starting_weights_never_stops(kind):
    tripped = 0
    for seed in SEEDS:
        losses = kind(seed)
        tripped += articles(losses) is not None
        assert stopped(losses, losses) == (None, None)
    assert tripped >= 5  # the article's rule alone would have stopped them


@kinds
def test_nor_while_the_rates_act_a_little(kind):
    for seed in SEEDS:
        losses = kind(seed)
        acted = losses * np.linspace(1.0, 0.7, 100)
        assert stopped(acted, losses)[0] is None


@pytest.mark.parametrize("kind", [*KINDS, *WITHOUT_A_SIGN])
def test_without_a_baseline_what_usual_losses_scatter_by_hardly_ever_stops(kind):
    early = sum(stopped(kind(seed))[0] is not None for seed in range(200))
    assert early <= 200 / 40


@kinds
@pytest.mark.parametrize(("known", "latest"), [(False, 94), (True, 90)])
def test_an_explosion_stops_whatever_the_batches_do(kind, known, latest):
    for seed in SEEDS:
        batches = kind(seed)
        losses = batches * np.exp(np.clip(np.arange(100) - 80, 0, None) * 1.5)
        at, why = stopped(losses, batches if known else None)
        assert why is Stop.DIVERGED
        assert at <= latest


@given(st.integers(0, 10_000), st.booleans(), st.sampled_from([0.9, 0.98]), st.floats(0.05, 1.5))
def test_on_losses_that_behave_it_is_the_articles_rule(seed, known, beta, depth):
    rng = np.random.default_rng(seed)
    steps = np.arange(100)
    batches = rng.normal(2.3, 0.15, 100)
    fall = depth / (1 + np.exp(-(steps - 60) / 4))
    losses = batches - fall + np.exp(np.clip((steps - 85) * 0.9, -50, 50))
    at, _ = stopped(losses, batches if known else None, beta=beta)
    assert at == articles(losses, beta=beta)


def test_a_loss_that_falls_far_below_its_start_stops_at_four_times_its_best():
    rng = np.random.default_rng(0)
    batches = rng.normal(2.3, 0.2, 100)
    losses = np.where(np.arange(100) < 60, batches, 0.02 * batches)
    losses[90:] = 0.5
    for known in (False, True):
        assert stopped(losses, batches if known else None, beta=0.5)[0] == articles(losses, beta=0.5) == 90


@pytest.mark.parametrize(("least", "high", "most"), [(1.0, 9.0, 1), (1.0, 1000.0, 2), (-1.0, 1000.0, 2)])
def test_one_batch_alone_is_no_divergence_nor_are_two_that_are_far_off(least, high, most):
    calm = [least, least + 0.02, least - 0.02] * 10
    for batches in range(1, most + 1):
        assert stopped([*calm, *[high] * batches, *calm], beta=0.5)[0] is None
    assert stopped([*calm, *[high] * 3], beta=0.5)[0] == len(calm) + most


def test_what_was_high_and_came_back_was_a_batch():
    calm = [1.0, 1.02, 0.98] * 5
    seen = [*calm, 1000.0, *calm]
    assert stopped([*seen, 1000.0, 1000.0, *calm])[0] is None  # two of those that are rare
    assert stopped([*seen, 1000.0, 1000.0, 1000.0, *calm])[0] is None
    assert stopped([*seen, *[1e5] * 5])[0] == len(seen) + 2


def test_a_loss_beside_which_the_others_vanish_stops_at_once():
    assert stopped([5.1, 1e9]) == (1, Stop.DIVERGED)


def test_losses_of_any_sign_are_held_against_the_baseline_too():
    for seed in SEEDS:
        rng = np.random.default_rng(seed)
        losses = rng.normal(0, 0.01, 100)
        losses[40:] += rng.choice([0.0, 30.0], 60, p=[0.7, 0.3])
        assert stopped(losses, losses)[0] is None
        assert stopped(losses + 1000.0 * (np.arange(100) > 90), losses)[0] is not None


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_batch_that_only_the_starting_weights_cannot_bear_is_passed_over(bad):
    baselines = np.full(100, 2.0)
    baselines[40] = bad
    assert stopped(np.full(100, 2.0), baselines) == (None, None)


class Batches(Quadratic):
    """A parabola whose batches add what they are given, and which knows its loss under the starting weights."""

    def __init__(self, extra, known=True, **settings):
        super().__init__(**settings)
        self.extra, self.known, self.at = list(extra), known, -1

    def step(self, lr):
        self.at += 1
        return super().step(lr) + self.extra[self.at]

    def prepare_baseline(self, snapshot):
        self.start = snapshot[0]
        return None if self.known else "not here"

    def baseline(self):
        return self.curvature * self.start**2 / 2 + self.floor + self.extra[self.at]


def test_a_search_under_long_tails_suggests_what_it_would_without_them():
    plain = find(Batches(np.zeros(100), curvature=100.0)).lr
    for seed in range(10):
        found = find(Batches(100 * long_tails(seed), curvature=100.0))
        assert found.curve.lr[-1] > 1e-3
        assert plain / 10 < found.lr < plain * 10


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("at", [1, 5, 15, 30, 55])
def test_a_batch_that_is_not_finite_where_no_rate_acts_is_named_and_no_rate_suggested(at, bad, known):
    extra = np.random.default_rng(at).normal(3, 0.3, 100)
    extra[at] = bad
    found = find(Batches(extra, known))
    assert found.stop is Stop.NOT_FINITE
    assert (len(found.curve), found.suggestion) == (at + 1, None)
    assert f"batch {at} of the sweep" in found.why
    assert "lower min_lr" not in found.why


def test_the_rate_is_at_fault_where_the_batch_is_sound_under_the_starting_weights():
    class Overflows(Batches):
        def step(self, lr):
            loss = super().step(lr)
            return loss if abs(self.weight) < 1.5 else math.nan

    found = find(Overflows(np.zeros(100)))
    assert found.stop is Stop.NOT_FINITE
    assert "batch" not in found.why.replace("batches", "")
    assert 0.01 < found.lr < 1


def test_a_batch_that_is_not_finite_after_the_loss_has_turned_leaves_the_suggestion_and_is_named():
    class Slow(Batches):  # it rises for long before the stop rule trips
        def step(self, lr):
            self.at += 1
            place = math.log10(lr)
            return (
                3.0
                - 2.0 / (1 + math.exp(-5 * (place + 4)))
                + 1.5 / (1 + math.exp(-5 * (place + 2)))
                + self.extra[self.at]
            )

        def baseline(self):
            return 3.0 + self.extra[self.at]

    extra = np.random.default_rng(0).normal(0, 0.05, 100)
    whole = find(Slow(extra))
    extra[85] = math.nan
    found = find(Slow(extra))
    assert found.lr == pytest.approx(whole.lr, rel=0.5)
    assert "batch 85 of the sweep" in found.why


def test_skipped_steps_count_when_a_batch_is_named():
    class Skips(Batches):
        def step(self, lr):
            if self.at == 3:
                self.at += 1
                return None
            return super().step(lr)

    extra = np.full(100, 3.0)
    extra[9] = math.nan
    assert "batch 9 of the sweep" in find(Skips(extra)).why
