"""What a search of a JAX step costs beside the bare jitted loop, and a race in one pass beside one run after another.

    JAX_PLATFORMS=cpu taskset -c 0 python -m bench.jax [--rounds 20] [--steps 200 1000]

Both are paired, in one process, in rounds of a new order. A figure is the median over the rounds of the ratio in the
same round, with an interval that holds 95 % of resampled medians. The step is compiled before; what a search compiles
of it by itself, for its control variate, is timed apart. The bare loop is there twice: its second row is the noise.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import random
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np
import optax
from jax import numpy as jnp

from bench.ratios import ratio, ratio_text
from findlr import find
from findlr.jax import JaxTrainable

STEPS, LOW, HIGH = 100, 1e-8, 1e-4  # nothing diverges
OPTIMIZER = optax.inject_hyperparams(optax.adam)(learning_rate=1e-3)
LOOPS = {"784-128-10, batches of 128": (784, 128, 10, 128), "784-512-512-10, batches of 256": (784, 512, 512, 10, 256)}
RACED = {"8-16-1, batches of 16": (8, 16, 1, 16), "64-64-10, batches of 64": (64, 64, 10, 64)}


def loss_of(params: list[jax.Array], batch: Any) -> jax.Array:
    """The squared error of a perceptron."""
    hidden = batch[0]
    for weights in params[:-1]:
        hidden = jnp.tanh(hidden @ weights)
    return jnp.mean((hidden @ params[-1] - batch[1]) ** 2)


@partial(jax.jit, donate_argnums=0)
def step(state: Any, batch: Any) -> Any:
    """The usual step."""
    params, memory = state
    loss, gradients = jax.value_and_grad(loss_of)(params, batch)
    updates, memory = OPTIMIZER.update(gradients, memory)
    return (optax.apply_updates(params, updates), memory), loss


def training_of(*widths: int) -> tuple[Any, list[Any]]:
    """A state, and 50 batches."""
    rng, (*layers, size) = np.random.default_rng(0), widths
    shapes = itertools.pairwise(layers)
    params = [jnp.asarray(rng.normal(size=(m, n)) / m**0.5, jnp.float32) for m, n in shapes]
    made = [[rng.normal(size=(size, width)).astype("float32") for width in (layers[0], layers[-1])] for _ in range(50)]
    return (params, OPTIMIZER.init(params)), made


def bare(state: Any, batches: list[Any]) -> None:
    """The loop alone."""
    losses = []
    for i in range(STEPS):
        state, loss = step(state, batches[i % 50])
        losses.append(loss)
    jax.device_get(losses)


def searched(training: JaxTrainable, *, control_variate: bool) -> None:
    """A whole search of as many steps."""
    how = {"min_lr": LOW, "max_lr": HIGH, "num_steps": STEPS, "progress": False, "control_variate": control_variate}
    assert len(find(training, **how).curve) == STEPS


def timed(function: Callable[[], object]) -> tuple[float, float]:
    """CPU and wall seconds."""
    gc.collect()
    cpu, wall = time.process_time(), time.perf_counter()
    function()
    return time.process_time() - cpu, time.perf_counter() - wall


def rounds_of(contestants: dict[str, Callable[[], object]], rounds: int) -> dict[str, np.ndarray[Any, Any]]:
    """The seconds of each in each round, shape (rounds, 2)."""
    order, times = random.Random(0), {name: [] for name in contestants}
    for _ in range(rounds):
        for name in order.sample(list(contestants), len(contestants)):
            times[name].append(timed(contestants[name]))
    return {name: np.array(each) for name, each in times.items()}


def both_clocks(above: np.ndarray[Any, Any], below: np.ndarray[Any, Any]) -> str:
    """The ratios in CPU time, and in wall time."""
    return " | ".join(ratio_text(ratio(above[:, clock], below[:, clock])) for clock in range(2))


def loops(rounds: int) -> None:
    """A search beside the bare loop."""
    print("| a search over the bare loop | step | CPU | wall |\n|---|--:|---|---|")
    for name, widths in LOOPS.items():
        state, batches = training_of(*widths)
        training = JaxTrainable(step, state, batches)
        contestants: dict[str, Callable[[], object]] = {
            "the loop again": lambda given=(state, batches): bare(jax.tree.map(jnp.copy, given[0]), given[1]),
            "a search": partial(searched, training, control_variate=False),
            "with the control variate": partial(searched, training, control_variate=True),
        }
        contestants["loop"] = contestants["the loop again"]
        for contestant in contestants.values():  # warm
            contestant()
        times = rounds_of(contestants, rounds)
        alone = 1e3 * np.median(times["loop"][:, 0]) / STEPS
        for contestant, each in times.items():
            if contestant != "loop":
                print(f"| {name}: {contestant} | {alone:.2f} ms | {both_clocks(each, times['loop'])} |", flush=True)
        first = timed(lambda given=(state, batches): searched(JaxTrainable(step, *given), control_variate=True))
        print(f"a first search, which compiles the control variate: {first[0]:.2f} s of CPU")


def races(rounds: int, lengths: list[int]) -> None:
    """Four runs in one pass beside one after another."""
    print("| four runs in one pass over one after another | steps | CPU | wall |\n|---|--:|---|---|")
    for name, widths in RACED.items():
        for length in lengths:
            training = JaxTrainable(step, *training_of(*widths))
            training.hold_out(8, length, length)
            training.keep_batches(length)
            begin = training.snapshot()
            rates = [[lr] * length for lr in (1e-4, 3e-4, 1e-3, 3e-3)]

            def singly(training: Any = training, begin: Any = begin, rates: Any = rates) -> list[float]:
                ends = []
                for row in rates:
                    training.restore(begin)
                    training.read([training.step(lr) for lr in row][-1:])
                    ends.append(training.evaluate())
                return ends

            together = partial(training.run_together, begin, rates)
            first = timed(together)
            np.testing.assert_allclose(together(), singly(), rtol=1e-3)  # the same work
            times = rounds_of({"together": together, "singly": singly}, rounds)
            compiling = first[0] - np.median(times["together"][:, 0])
            ratios = both_clocks(times["together"], times["singly"])
            print(
                f"| {name} | {length} | {ratios} | compiled in {compiling:.2f} s, "
                f"one after another {np.median(times['singly'][:, 0]):.2f} s",
                flush=True,
            )


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--steps", nargs="+", type=int, default=[200, 1000], help="of a run of a race")
    arguments = parser.parse_args()
    loops(arguments.rounds)
    races(max(arguments.rounds // 4, 3), arguments.steps)


if __name__ == "__main__":
    main()
