"""What a search of a Keras model costs beside a ``fit`` of as many steps.

    KERAS_BACKEND=jax taskset -c 0 python -m bench.keras [--rounds 20]

Paired, in one process, in rounds of a new order, after a warm-up that compiles. A figure is the median over the rounds
of the ratio in the same round, with an interval that holds 95 % of resampled medians. The fit is there twice: its
second row is the noise.
"""

from __future__ import annotations

import argparse
import gc
import random
import time
from collections.abc import Callable

import keras
import numpy as np

from bench.ratios import ratio, ratio_text
from findlr.keras import find_lr

STEPS, BATCH, LOW, HIGH = 100, 64, 1e-8, 1e-4  # nothing diverges
WIDTHS = (256, 512, 1024)


def model_of(width: int) -> keras.Model:
    """A compiled perceptron with two hidden layers."""
    layers = keras.layers
    hidden = [layers.Dense(width, "relu"), layers.Dense(width, "relu")]
    model = keras.Sequential([keras.Input((64,)), *hidden, layers.Dense(10)])
    model.compile(keras.optimizers.Adam(), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


def contestants(width: int) -> dict[str, Callable[[], object]]:
    """A fit, the same again, a search in both ways, and the loop that Keras offers."""
    rng, model = np.random.default_rng(0), model_of(width)
    rows = rng.normal(size=(STEPS * BATCH, 64)).astype("float32")
    labels = rng.integers(0, 10, STEPS * BATCH)

    def fit() -> None:
        model.fit(rows, labels, batch_size=BATCH, verbose=0)

    def searched(*, control_variate: bool) -> None:
        how = {"min_lr": LOW, "max_lr": HIGH, "num_steps": STEPS, "progress": False}
        finding = find_lr(model, rows, labels, batch_size=BATCH, control_variate=control_variate, **how)
        assert len(finding.curve) == STEPS

    def loop() -> None:
        for first in range(0, len(rows), BATCH):
            model.train_on_batch(rows[first : first + BATCH], labels[first : first + BATCH])

    return {
        "a fit": fit,
        "the fit again": fit,
        "`find_lr`, `control_variate=False`": lambda: searched(control_variate=False),
        "`find_lr`": lambda: searched(control_variate=True),
        "a loop of `train_on_batch`": loop,
    }


def seconds(function: Callable[[], object]) -> float:
    """CPU time."""
    gc.collect()
    start = time.process_time()
    function()
    return time.process_time() - start


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    rounds, order = parser.parse_args().rounds, random.Random(0)
    print(f"| {keras.backend.backend()}, CPU | a step in `fit` | over a `fit` of {STEPS} steps |\n|---|--:|---|")
    for width in WIDTHS:
        entered = contestants(width)
        for each in entered.values():  # warm
            each()
        times: dict[str, list[float]] = {name: [] for name in entered}
        for _ in range(rounds):
            for name in order.sample(list(entered), len(entered)):
                times[name].append(seconds(entered[name]))
        fit = times.pop("a fit")
        for name, each in times.items():
            step = 1e3 * np.median(fit) / STEPS
            print(f"| {width} wide: {name} | {step:.1f} ms | {ratio_text(ratio(each, fit))} |", flush=True)


if __name__ == "__main__":
    main()
