"""The curve: what it takes, what it keeps, and its parts."""

import math

import numpy as np
import pytest

from findlr import ConfigurationError, Curve, find
from findlr.testing import Quadratic


def test_the_curve_cannot_be_written_to():
    curve = find(Quadratic()).curve
    with pytest.raises(ValueError, match="read-only"):
        curve.loss[0] = 1.0
    source = np.ones(3)
    assert Curve([1.0, 2.0, 3.0], source).loss is not source


def test_raw_losses_are_kept_and_smoothing_is_chosen_afterwards():
    curve = find(Quadratic(noise=0.05), smoothing=0.9).curve
    raw = [Quadratic(noise=0.05).step(1e-8)]
    assert curve.loss[0] == raw[0]
    assert curve.smoothed() == curve.smoothed(0.9)
    assert curve.smoothed(0.0).loss == pytest.approx(curve.loss)
    np.testing.assert_array_equal(curve.log10_lr, np.log10(curve.lr))


@pytest.mark.parametrize(("skip_start", "skip_end"), [(10, 5), (0, 0), (3, 0), (0, 4), (60, 60)])
def test_clipped_leaves_out_the_ends_and_the_point_that_tripped(skip_start, skip_end):
    lr, loss = np.geomspace(1e-3, 1, 50), np.arange(50.0)
    expected = loss[: 50 - skip_end][skip_start:]
    np.testing.assert_array_equal(Curve(lr, loss).clipped(skip_start, skip_end).loss, expected)
    tripped = Curve([*lr, 2.0], [*loss, 1e9], diverged=True)
    np.testing.assert_array_equal(tripped.clipped(skip_start, skip_end).loss, expected)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (([1.0, 2.0], [1.0]), "one loss per rate"),
        (([2.0, 1.0], [1.0, 1.0]), "rising"),
        (([0.0, 1.0], [1.0, 1.0]), "above 0"),
        (([math.nan], [1.0]), "finite"),
        ((["x"], [1.0]), "numbers"),
        (([[1.0]], [[1.0]]), "one dimension"),
    ],
)
def test_a_curve_that_cannot_be_is_refused(arguments, words):
    with pytest.raises(ConfigurationError, match=words):
        Curve(*arguments)


def test_a_curve_prints_in_a_line():
    curve = find(Quadratic()).curve
    assert repr(curve) == f"Curve(100 points, lr 1e-08 to 10, loss 5.1 to {curve.loss[-1]:.4g})"
    assert repr(Curve([], [])) == "Curve(no points)"


@pytest.mark.parametrize(("points", "first"), [(3, 3), (40, 5), (99, 9)])
def test_the_losses_at_the_start_are_the_first_tenth_unless_they_were_measured(points, first):
    lr, loss = np.geomspace(1e-3, 1, points), np.arange(float(points))
    np.testing.assert_array_equal(Curve(lr, loss).at_start(), loss[:first])
    np.testing.assert_array_equal(Curve(lr, loss, baseline=loss + 1).at_start(), loss + 1)
    one_is_no_number = np.where(loss == 1, math.nan, loss)
    np.testing.assert_array_equal(Curve(lr, loss, one_is_no_number).at_start(), np.delete(loss, 1))
    assert Curve(lr, loss).spread() == np.std(loss[:first])
    assert len(Curve([], []).at_start()) == Curve([], []).spread() == 0
