"""What a snapshot and a restore cost beside copying the same tensors once.

    python -m bench.snapshot [--cases NAME ...] [--threads 1]

A snapshot is timed beside ``[t.clone() for t in tensors]``, a restore beside ``t.copy_(c)`` for each, without autograd,
in rounds: each round times the four once, in a new order, after a look that the garbage is gone. A figure is the median
over the rounds of the ratio; its interval holds 95 % of the medians of resampled rounds. Cloning is there twice: how
far its second row is from 1 is the noise. The snapshot is ``TorchTrainable``'s with its default settings: the free
memory, the place in the data and the random states are in.

The peak is what a process of its own adds while it takes a snapshot, restores and closes it: VmHWM, so Linux only.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn, optim

from bench.cost import machine
from bench.memory import peak
from bench.ratios import ratio, ratio_text
from findlr import TorchTrainable

OUTPUT = Path(__file__).parents[1] / "docs" / "snapshot.json"


class Large(nn.Sequential):
    """350 MB of weights: with AdamW's moments a state of 1 GB."""

    def __init__(self) -> None:
        super().__init__(*(nn.Linear(2500, 2500, bias=False) for _ in range(14)))


class Norms(nn.Sequential):
    """Modules with a weight and a bias of 64 numbers each."""

    def __init__(self, count: int) -> None:
        super().__init__(*(nn.LayerNorm(64) for _ in range(count)))


class Flat(nn.ParameterList):
    """10,000 tensors of 64 numbers in one module."""

    def __init__(self) -> None:
        super().__init__(torch.randn(64) for _ in range(10_000))


def small() -> nn.Module:
    """The article's net."""
    return nn.Sequential(nn.Linear(784, 100), nn.ReLU(), nn.Linear(100, 10))


@dataclass(frozen=True)
class Case:
    """One training."""

    said: str
    rounds: int
    model: Callable[[], nn.Module]
    optimizer: Callable[[list[Any]], optim.Optimizer]
    groups: bool = False  # one for each module

    def training(self) -> tuple[TorchTrainable, list[torch.Tensor]]:
        """It after a first step, and each tensor that a snapshot copies."""
        torch.manual_seed(0)
        net = self.model()
        groups: list[Any] = [{"params": list(m.parameters())} for m in net] if self.groups else list(net.parameters())  # type: ignore[attr-defined]
        optimizer = self.optimizer(groups)
        for parameter in net.parameters():
            parameter.grad = torch.randn_like(parameter)
        optimizer.step()
        optimizer.zero_grad()
        state = [value for kept in optimizer.state.values() for value in kept.values() if torch.is_tensor(value)]
        loss_fn: Callable[[nn.Module, Any], torch.Tensor] = lambda model, _: next(model.parameters()).sum()  # noqa: E731
        return TorchTrainable(net, optimizer, loader=[torch.zeros(1)], loss_fn=loss_fn), [*net.parameters(), *state]


MOMENTUM, ADAM = partial(optim.SGD, lr=1e-3, momentum=0.9), partial(optim.Adam, lr=1e-3)
CASES = {
    "large": Case("1 GB: 87.5 M parameters, AdamW", 15, Large, partial(optim.AdamW, lr=1e-3)),
    "norms": Case("10,000 parameters in 5,000 modules, momentum", 80, partial(Norms, 5000), MOMENTUM),
    "norms-adam": Case("10,000 parameters in 5,000 modules, Adam", 40, partial(Norms, 5000), ADAM),
    "flat": Case("10,000 parameters in one module, momentum", 80, Flat, MOMENTUM),
    "flat-adam": Case("10,000 parameters in one module, Adam", 40, Flat, ADAM),
    "groups": Case("1,000 param groups of two tensors, momentum", 200, partial(Norms, 1000), MOMENTUM, groups=True),
    "small": Case("784-100-10, momentum", 1000, small, MOMENTUM),
}


def clones(tensors: list[torch.Tensor]) -> list[torch.Tensor]:
    """What a snapshot can't do without."""
    with torch.no_grad():
        return [tensor.clone() for tensor in tensors]


def copy_back(tensors: list[torch.Tensor], copies: list[torch.Tensor]) -> None:
    """What a restore can't do without."""
    with torch.no_grad():
        for tensor, copy in zip(tensors, copies, strict=True):
            tensor.copy_(copy)


def timed(part: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds, and what came of it."""
    start = time.perf_counter()
    made = part()
    return time.perf_counter() - start, made


def measure(case: Case) -> dict[str, Any]:
    """The ratios of one case, and the microseconds of its snapshot and restore."""
    training, tensors = case.training()
    order, times = random.Random(0), []

    def whole() -> tuple[float, float]:
        taken, snapshot = timed(training.snapshot)
        back, _ = timed(lambda: training.restore(snapshot))
        snapshot.close()
        return taken, back

    def bare() -> tuple[float, float]:
        taken, copies = timed(lambda: clones(tensors))
        back, _ = timed(lambda: copy_back(tensors, copies))
        return taken, back

    parts = [whole, bare, bare]
    for _ in range(case.rounds + 2):
        gc.collect()
        row: list[tuple[float, float]] = [(0.0, 0.0)] * 3
        for which in order.sample(range(3), 3):
            row[which] = parts[which]()
        times.append(row)
    seconds = np.array(times[2:])  # round, (ours, bare, bare again), (snapshot, restore)
    ours, loop, again = seconds.transpose(1, 2, 0)
    names = ("snapshot", "restore")
    return {
        "case": case.said,
        "rounds": case.rounds,
        "tensors": len(tensors),
        "megabytes": round(sum(tensor.nbytes for tensor in tensors) / 1e6, 2),
        "load": os.getloadavg()[0],
        "microseconds": {name: round(1e6 * float(np.median(ours[i])), 1) for i, name in enumerate(names)},
        "bare microseconds": {name: round(1e6 * float(np.median(loop[i])), 1) for i, name in enumerate(names)},
        "ratios": {name: ratio(ours[i], loop[i]) for i, name in enumerate(names)},
        "noise": {name: ratio(again[i], loop[i]) for i, name in enumerate(names)},
    }


def added(case: Case) -> dict[str, float]:
    """What a snapshot adds to the memory of this process, in megabytes, and two restores after it to its peak."""
    training, tensors = case.training()
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew, from what is there
    size, before = sum(tensor.nbytes for tensor in tensors), peak()
    snapshot = training.snapshot()
    taken = peak()
    for _ in range(2):
        training.restore(snapshot)
    return {"state": size / 1e6, "snapshot": (taken - before) / 1e6, "restore": (peak() - taken) / 1e6}


def peak_of(name: str) -> dict[str, float]:
    """``added`` in a process of its own."""
    command = [sys.executable, "-m", "bench.snapshot", "--peak", name]
    told: dict[str, float] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return told


def table(document: dict[str, Any]) -> str:
    """The figures as Markdown."""
    lines = [
        "| | tensors | MB | snapshot / clones | restore / copies | clones again | snapshot, ms | restore, ms |",
        "|---|--:|--:|---|---|---|--:|--:|",
    ]
    for one in document["cases"].values():
        said = [ratio_text(of) for of in (*one["ratios"].values(), one["noise"]["snapshot"])]
        said += [f"{microseconds / 1e3:.2f}" for microseconds in one["microseconds"].values()]
        lines.append(f"| {one['case']} | {one['tensors']:,} | {one['megabytes']:,.1f} | {' | '.join(said)} |")
    return "\n".join(lines)


def main() -> None:
    """Measure, write the JSON, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    parser.add_argument("--peak", choices=CASES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.peak:
        print(json.dumps(added(CASES[arguments.peak])))
        return
    document = json.loads(arguments.output.read_text()) if arguments.output.exists() else {"cases": {}}
    document["machine"], document["threads"] = machine(), arguments.threads
    for name in arguments.cases:
        document["cases"][name] = measure(CASES[name])
        if name == "large":
            document["peak"] = peak_of(name)
        arguments.output.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
        print(name, flush=True)
    print(json.dumps(document["machine"]))
    print(table(document))
    print("peak, MB:", json.dumps(document.get("peak")))


if __name__ == "__main__":
    main()
