"""Times a race whose runs a pool of processes makes beside the same training's race one run after another.

    python -m bench.workers                 # runs of a minute, two workers: about 7 minutes
    python -m bench.workers --seconds 10    # shorter runs, where the start of the workers weighs more

Everything counts: the sweep, the start of the workers, sending the training. Each process computes in one thread. On a
busy machine two processes get more of it than one does, and the ratio flatters. Both have the same budget: three runs
one after another, or four of three quarters the length at the same time.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from findlr import Finding, find_lr
from findlr.analysis.runs import AT_ONCE

SWEEP = 140  # steps


def training() -> tuple[nn.Module, torch.optim.Optimizer, nn.Module, DataLoader[tuple[torch.Tensor, ...]]]:
    """A small network on images, the same every time."""
    torch.manual_seed(0)
    images, labels = torch.randn(4096, 1, 28, 28), torch.randint(10, (4096,))
    images[torch.arange(4096), 0, labels, labels] += 3
    net = nn.Sequential(
        *(nn.Conv2d(1, 16, 3), nn.ReLU(), nn.Conv2d(16, 32, 3, stride=2), nn.BatchNorm2d(32), nn.ReLU()),
        *(nn.Flatten(), nn.Dropout(0.2), nn.Linear(32 * 12 * 12, 10)),
    )
    loader = DataLoader(TensorDataset(images, labels), batch_size=64, shuffle=True)
    return net, torch.optim.AdamW(net.parameters()), nn.CrossEntropyLoss(), loader


def seconds_per_step() -> float:
    """What a bare step takes in processor time, once the first epoch has warmed everything up."""
    net, optimizer, criterion, loader = training()
    for _ in range(2):
        begin = time.process_time()
        for inputs, targets in loader:
            optimizer.zero_grad()
            criterion(net(inputs), targets).backward()
            optimizer.step()
    return (time.process_time() - begin) / len(loader)


def timed(search: Callable[[], Finding]) -> tuple[Finding, float, float]:
    """What a search finds, its seconds, and the processor time of this process and its workers."""
    wall, spent = time.perf_counter(), sum(os.times()[:4])
    finding = search()
    return finding, time.perf_counter() - wall, sum(os.times()[:4]) - spent


def by_workers(count: int, total_steps: int) -> Finding:
    """A race by a pool that is made for it."""
    with ProcessPoolExecutor(count, mp_context=get_context("spawn")) as pool:
        return find_lr(*training(), total_steps=total_steps, verify=True, budget=1.0, progress=False, executor=pool)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Time a race over workers.")
    parser.add_argument("--seconds", type=float, default=60.0, help="of processor time that a worker's run takes")
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    total = round(len(AT_ONCE) * arguments.seconds / seconds_per_step()) + SWEEP
    alone, wall, spent = timed(lambda: find_lr(*training(), total_steps=total, verify=True, budget=1.0, progress=False))
    there, wall_there, spent_there = timed(lambda: by_workers(arguments.workers, total))
    for title, found, seconds, cpu in (
        ("one after another", alone, wall, spent),
        (f"{arguments.workers} workers", there, wall_there, spent_there),
    ):
        race = found.race
        assert race is not None
        runs = f"{len(race.runs)} runs of {race.steps} steps"
        print(f"{title}: {runs}, {seconds:.1f} s, processor {cpu:.1f} s, {found.lr:.3g}")
    print(f"ratio {wall_there / wall:.2f}")


if __name__ == "__main__":
    main()
