"""How findlr's reading of a curve grows with its points, up to a million.

    python bench/growth.py

Seconds are the best of three; the memory is the peak that the call adds, by tracemalloc, which sees NumPy's, too. The
slope is log(seconds) against log(points) over the last decade: 1 is linear.
"""

from __future__ import annotations

import dataclasses
import math
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from findlr import Curve, Finding, Plan, find, rules
from findlr.analysis.smoothing import bias_corrected, centred_gaussian, centred_median
from findlr.analysis.verdict import judge
from findlr.testing import Quadratic

_SIZES = (1_000, 10_000, 100_000, 1_000_000)


def curve_of(n: int) -> Curve:
    """A loss that falls, bottoms out and explodes, with noise, at n rates."""
    x = np.linspace(0, 100, n)
    loss = 2.3 - 1 / (1 + np.exp(-(x - 75) / 3)) + np.exp(np.clip((x - 89) / 2, -50, 3))
    return Curve(np.geomspace(1e-8, 10, n), loss + np.random.default_rng(0).normal(0, 0.05, n))


def seconds(call: Callable[[], Any]) -> float:
    """The best of three."""
    times = []
    for _ in range(3):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


def peak(call: Callable[[], Any]) -> float:
    """The most memory that the call adds, in MB."""
    tracemalloc.start()
    call()
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return most / 1e6


def round_trip(finding: Finding, path: Path) -> None:
    """Save and load."""
    finding.save(path)
    Finding.load(path)


def calls(n: int, folder: Path) -> dict[str, Callable[[], Any]]:
    """What is measured, by name."""
    curve, plan = curve_of(n), Plan()
    finding, path = dataclasses.replace(find(Quadratic()), curve=curve), folder / f"{n}.json"

    noise = np.random.default_rng(1).normal(2.3, 0.05, (2, n))
    wide = dataclasses.replace(curve, baseline=noise[0], validation=noise[1])

    def all_together() -> None:
        judge(curve)
        curve.smoothed()
        for rule in rules.RULES.values():
            rule(curve, plan)

    return {
        "`bias_corrected`": partial(bias_corrected, curve.loss),
        "`centred_median`, 5 wide": partial(centred_median, curve.loss, 5),
        "`centred_gaussian`, half a decade": partial(centred_gaussian, curve.loss, n / 18),
        "the verdict": partial(judge, curve),
        **{f"`rules.{name}`": partial(rule, curve, plan) for name, rule in rules.RULES.items()},
        "verdict, smoothing, six rules": all_together,
        "save": partial(finding.save, path),
        "load": partial(Finding.load, path),
        "save and load, four columns": partial(round_trip, dataclasses.replace(finding, curve=wide), path),
    }


def main() -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory() as folder:
        table: dict[str, list[float]] = {}
        for n in _SIZES:
            for name, call in calls(n, Path(folder)).items():
                table.setdefault(name, []).append(seconds(call))
        memory = {name: peak(call) for name, call in calls(_SIZES[-1], Path(folder)).items()}
    print(f"| | {' | '.join(f'{n:,}' for n in _SIZES)} | slope | peak, MB |")
    print("|---|" + "--:|" * (len(_SIZES) + 2))
    for name, times in table.items():
        slope = math.log(times[-1] / times[-2]) / math.log(_SIZES[-1] / _SIZES[-2])
        print(f"| {name} | {' | '.join(f'{1e3 * t:.2f} ms' for t in times)} | {slope:.2f} | {memory[name]:.0f} |")


if __name__ == "__main__":
    main()
