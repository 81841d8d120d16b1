"""The averages, against slow and obvious ones."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from findlr.analysis.smoothing import BiasCorrectedAverage, bias_corrected, centred_gaussian, centred_median, median

numbers = st.lists(st.floats(-1e6, 1e6) | st.sampled_from([float("nan"), float("inf"), -float("inf")]), max_size=60)


def slow_gaussian(losses, sigma):
    """Straight from the formula, in O(n^2)."""
    places = np.arange(len(losses))
    result = np.empty(len(losses))
    for i in places:
        near = np.abs(places - i) <= np.ceil(4 * sigma)
        result[i] = np.average(losses[near], weights=np.exp(-((places[near] - i) ** 2) / (2 * sigma**2)))
    return result


@given(numbers, st.floats(0.01, 0.9999))
def test_bias_corrected_is_the_running_average(losses, beta):
    obvious = list(map(BiasCorrectedAverage(beta).update, losses))
    scale = max((abs(loss) for loss in losses if np.isfinite(loss)), default=0.0)
    np.testing.assert_allclose(bias_corrected(losses, beta), obvious, rtol=1e-12, atol=1e-12 * scale)


@given(st.lists(st.floats(-1e300, 1e300) | st.sampled_from([float("nan"), float("inf")]), min_size=1, max_size=9))
def test_the_median_is_numpys(values):
    rows = np.array([values, values[::-1]])
    np.testing.assert_array_equal(median(rows), np.median(rows, axis=1))


@pytest.mark.parametrize("beta", [0.0, 0.98, 0.999999])
def test_bias_corrected_of_a_long_curve_is_the_running_average(beta):
    losses = np.random.default_rng(0).normal(2, 1, 50_000)
    losses[3] = 1e12  # it decays through all the rest
    obvious = list(map(BiasCorrectedAverage(beta).update, losses.tolist()))
    np.testing.assert_allclose(bias_corrected(losses, beta), obvious, rtol=1e-10)


@pytest.mark.parametrize("n", [1, 100, 6000])
@pytest.mark.parametrize("share", [0.02, 1 / 18, 0.5, 3.0])
def test_the_gaussian_is_the_obvious_one(n, share):
    losses = np.random.default_rng(0).normal(2, 1, n)
    sigma = max(share * n, 1.0)
    np.testing.assert_allclose(centred_gaussian(losses, sigma), slow_gaussian(losses, sigma), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("level", [0.0, 1e9])
def test_a_long_constant_stays_what_it_is(level):
    assert np.array_equal(centred_gaussian(np.full(20_000, level), 1000.0), np.full(20_000, level))


@pytest.mark.parametrize("n", [1, 4, 5, 70_000])
def test_the_median_is_the_obvious_one(n):
    losses = np.random.default_rng(0).normal(2, 1, n)
    got = centred_median(losses, 5)
    for i in {*range(min(n, 50)), *range(max(n - 50, 0), n), *range(min(n, 32_700), min(n, 32_800))}:
        reach = min(i, n - 1 - i, 2)
        assert got[i] == np.median(losses[i - reach : i + reach + 1])
