"""The levels of a curve, and the verdict on them, against the obvious arithmetic, on curves of many kinds."""

import math
from functools import cache

import numpy as np
import pytest

from findlr import Curve, Verdict
from findlr.analysis.levels import levels_of
from findlr.analysis.verdict import judge
from tests.analysis.test_smoothing import slow_gaussian

SEEDS = range(600)


def drawn(seed):
    """A curve that falls or rises once, and may turn; batches that differ, some of them by far, or all alike."""
    rng = np.random.default_rng(seed)
    n = int(rng.choice([20, 20, 30, 60, 100, 200]))
    x = np.linspace(0, 1, n)
    size = 10 ** rng.uniform(-3, 0)
    depth = size * 10 ** rng.uniform(-1, 1.5) * rng.choice([1, 1, 1, -1])
    at, width = rng.uniform(0, 1.1), 10 ** rng.uniform(-3, -0.8)
    there, back = ((1 + np.tanh((x - place) / width)) / 2 for place in (at, at + rng.uniform(0, 0.5)))
    batches = size * (np.clip(rng.standard_t(1.5, n), -50, 50) if rng.random() < 0.3 else rng.normal(0, 1, n))
    loss = (
        2 - depth * there + rng.uniform(0, 1.2) * depth * back + size * 10 ** rng.uniform(-3, 0.5) * rng.normal(0, 1, n)
    )
    kind = rng.choice(["not measured", "measured", "all alike"], p=[0.4, 0.4, 0.2])
    share = 1e-6 if kind == "all alike" else 1.0
    return Curve(
        np.geomspace(1e-8, 10, n), loss + share * batches, None if kind == "not measured" else 2 + share * batches
    )


def swings(losses):
    return math.sqrt(np.mean(np.diff(losses) ** 2) / 2)


@cache
def obvious(seed):
    """The levels of a drawn curve, straight from what stands beside the constants."""
    curve = drawn(seed)
    n, loss, baseline = len(curve), curve.loss, curve.baseline
    losses = loss if baseline is None else loss - baseline + baseline.mean()
    width, begin = max(5, n // 10), losses[: max(20, n // 3)]
    start = losses[:width].mean()
    noise = np.median(abs(np.diff(begin))) / (0.6745 * math.sqrt(2))
    capped = np.minimum(losses, start + max(start - losses.min(), noise))
    calm = [np.median(capped[i - r : i + r + 1]) for i in range(n) for r in [min(i, n - 1 - i, 2)]]
    falls = start - slow_gaussian(np.array(calm), max(1.0, n / 50))
    at = width + int(np.argmax(falls[width:]))
    fall = falls[at]
    first = max([i for i in range(at) if falls[i] <= 0.05 * fall], default=-1) + 1
    near, floor = swings(capped[max(0, at - width) : at + 3]), curve.rounding() * abs(start)
    if baseline is None:
        spread, scatter = noise, swings(begin) if swings(begin) > 2 * noise else noise
        errors = fall / max(math.hypot(scatter, near) / math.sqrt(width), floor)
        significant, evidence = errors > 4, f"by {errors:.0f} standard errors"
    else:
        spread = scatter = baseline.std()
        lower = [loss[i] < baseline[i] for i in range(first, at + 1)]
        k, count = sum(lower), len(lower)
        beside = swings(capped[max(0, at - width) : at + width])
        deep = fall > 2 * spread and fall > beside and spread > near / 1000 and at < n - width
        significant = (k - count / 2) / math.sqrt(count / 4) > 2.1 or (deep and k / count >= 0.75)
        evidence = f"with {k} of {count} batches on the way down below their loss at the start"
    if spread <= near / 1000:
        path = sum(abs(np.diff(losses[first : at + 1])))
        significant = significant and (fall > 3 * near or fall > path / 2)
    middle = losses[n // 4 : n // 2]
    error = 1.25 * noise * math.sqrt(1 / 3 + 1 / len(middle))
    around = list(range(max(0, at - 2), min(n, at + 3)))
    chosen = [i for i in around if losses[i] < start] or around
    nearly = next((i for i in range(n) if falls[i] >= 0.9 * fall), 0)
    early = sum(curve.lr[i] < curve.lr[nearly] / 1e3 for i in range(n))
    by_itself = False
    if early >= 2 * width:
        begun, (midway, there) = start, (capped[i : i + width].mean() for i in (early // 2, early - width))
        least = max(0.3 * fall, 3 * swings(capped[:early]) * math.sqrt(2 / width), floor)
        by_itself = begun - there > least and begun - midway >= 0.4 * (begun - there)
    return {
        "start": loss[:width].mean(),
        "before": start if baseline is None else baseline[chosen].mean(),
        "bottom": loss[chosen].mean(),
        "fall": fall,
        "way": at + 1 - first,
        "bottom_index": at,
        "scatter": max(scatter, near),
        "bottom_is_below_start": significant and fall > floor,
        "evidence": evidence,
        "done_before_end": next(falls[i] for i in range(n) if curve.lr[i] >= curve.lr[-1] / 10) >= 0.8 * fall,
        "turned": fall - min(falls[at:]) >= fall / 2,
        "rises_early": np.median(middle) - np.median(losses[:3]) > max(4 * error, floor),
        "itself_by": early - 1 if by_itself else None,
    }


@pytest.mark.parametrize("tens", range(0, len(SEEDS), 10))
def test_the_levels_are_what_the_arithmetic_says(tens):
    for seed in SEEDS[tens : tens + 10]:
        levels, expected = vars(levels_of(drawn(seed))), obvious(seed)
        assert levels.keys() == expected.keys()
        for name, value in expected.items():
            assert levels[name] == (pytest.approx(value, rel=1e-9) if isinstance(value, float) else value), (seed, name)


def test_the_verdict_is_what_the_levels_say():
    seen = set()
    for seed in SEEDS:
        curve = drawn(seed)
        n, levels = len(curve), obvious(seed)
        at_end = levels["bottom_index"] >= n - max(5, n // 20)
        spread = np.std(curve.loss[: max(5, n // 10)] if curve.baseline is None else curve.baseline)
        if not levels["bottom_is_below_start"]:
            verdict = Verdict.RISING if levels["rises_early"] else Verdict.FLAT
        elif levels["itself_by"] is not None:
            verdict = Verdict.FLAT
        elif at_end:
            verdict = Verdict.NO_EDGE if levels["done_before_end"] else Verdict.STILL_FALLING
        else:
            verdict = Verdict.NOISY if levels["fall"] < 3 * spread else Verdict.CLEAR
        assert judge(curve).verdict is verdict, seed
        seen.add(verdict)
    assert len(seen) == 6
