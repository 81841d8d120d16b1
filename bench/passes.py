"""Runs of a race in one pass beside the same runs one after another: paired, in one process.

    python -m bench.passes [--runs 2 4 7] [--steps 200] [--rounds 30] [--threads 1] [--device cpu]

Both start from a snapshot, draw no batch (a race draws its batches once), and score each run on held-out batches. A
figure is the median over the rounds of the time one after another over the time in one pass, and an interval that holds
95 % of resampled medians. Both have the recording in. "With the trial" has what a race adds besides: the first steps of
one run by itself, which tell whether the pass pays.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import nn, optim

from bench.ratios import ratio, ratio_text
from findlr import Plan, TorchTrainable
from findlr.torch.passes import together
from findlr.torch.snapshot.memory import TorchMemory

NETS = {"64-64-10": (64, 64, 10), "784-100-10": (784, 100, 10)}
OPTIMIZERS = {"SGD": partial(optim.SGD, momentum=0.9), "AdamW": optim.AdamW}
BATCH = 64

Rates = list[list[float]]


def training_of(
    widths: tuple[int, ...], optimizer: Callable[..., optim.Optimizer], steps: int, device: str
) -> TorchTrainable:
    """Of a perceptron with one hidden layer."""
    torch.manual_seed(0)
    inputs, hidden, classes = widths
    net = nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, classes)).to(device)
    data = [(torch.randn(BATCH, inputs), torch.randint(classes, (BATCH,))) for _ in range(50)]
    training = TorchTrainable(net, optimizer(net.parameters(), lr=1e-3), nn.CrossEntropyLoss(), data)
    training.hold_out(8, steps, steps)
    training.keep_batches(steps)
    return training


def one_after_another(training: TorchTrainable, begin: TorchMemory, rates: Rates) -> list[float]:
    """As a race does."""
    ends = []
    for lrs in rates:
        training.restore(begin)
        for lr in lrs:
            training.step(lr)
        ends.append(training.evaluate())
    return ends


def in_one_pass(training: TorchTrainable, begin: TorchMemory, rates: Rates) -> list[float]:
    """As a race does where it pays, the trial included."""
    ends = training.run_together(begin, rates)
    assert not isinstance(ends, str), ends
    return ends


def bare_pass(training: TorchTrainable, begin: TorchMemory, single: together._Single, rates: Rates) -> list[float]:
    """The same without the trial."""
    training.restore(begin)
    with torch.no_grad():
        return together._Pass(training, single, rates).ends(0, judged=False)


def timed(function: Callable[[], object]) -> float:
    """Seconds."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def row(net: str, name: str, runs: int, steps: int, rounds: int, device: str) -> str:
    """A line of the table."""
    training = training_of(NETS[net], OPTIMIZERS[name], steps, device)
    begin = training.snapshot()
    shares = Plan("one_cycle").shares(steps)
    rates = [(lr * shares).tolist() for lr in np.geomspace(1e-4, 1e-2, runs)]
    single = together._Single(training, rates[0][: together.TRIAL_STEPS])
    contestants = {
        "one": partial(one_after_another, training, begin, rates),
        "pass": partial(bare_pass, training, begin, single, rates),
        "trial": partial(in_one_pass, training, begin, rates),
    }
    ends = [contestant() for contestant in contestants.values()]
    np.testing.assert_allclose(ends[1:], ends[:1] * 2, rtol=1e-3)  # the same work
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for contestant, function in contestants.items():
            times[contestant].append(timed(function))
    step = 1e6 * np.median(times["one"]) / runs / steps
    bare, with_trial = (ratio_text(ratio(times["one"], times[which])) for which in ("pass", "trial"))
    return f"| {net}, {name} | {runs} | {step:.0f} | {bare} | {with_trial} |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", nargs="+", type=int, default=[2, 4, 7])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print("| net, optimizer | runs | microseconds of a step alone | one pass | with the trial |\n|---|--:|--:|---|---|")
    for net in NETS:
        for name in OPTIMIZERS:
            for runs in arguments.runs:
                print(row(net, name, runs, arguments.steps, arguments.rounds, arguments.device), flush=True)


if __name__ == "__main__":
    main()
