"""Short runs of each task's compressed schedule, from which any race can be played again without training. Resumable.

python -m bench.accuracy.short_runs [--split fit|report] [--seeds 0 1]
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from bench.accuracy.regret import load
from bench.accuracy.tasks import TASKS, Task
from bench.accuracy.tasks.pretrained import RUNS
from bench.accuracy.train import batches
from findlr.plan import SCHEDULES

FILE = RUNS / "short_runs.jsonl"
LENGTHS = (20, 40, 80, 160, 320)
HELD_OUT = 8  # batches, the first ones that the loader gives


def rates(task: Task) -> list[float]:
    """Factors of two around the best rate of the grid: from 1/32 to 16 times."""
    best = load()[task.name].best_lr
    return [best * 2.0**k for k in range(-5, 5)]


def short_run(task: Task, seed: int, lr: float, length: int) -> dict[str, Any]:
    """Train for ``length`` steps of the whole schedule; held-out losses of training batches, and of validation."""
    setup = task.make(seed)
    optimizer = setup.make_optimizer(setup.model.parameters(), lr)
    torch.manual_seed(seed)
    stream = batches(setup.loader)
    held_out = list(itertools.islice(stream, HELD_OUT))
    losses = []
    shape = SCHEDULES[task.schedule]
    for step in range(length):
        inputs, targets = next(stream)
        for group in optimizer.param_groups:
            group["lr"] = lr * shape(step / (length - 1))
        optimizer.zero_grad()
        loss = setup.criterion(setup.model(inputs), targets)
        losses.append(loss.item())
        if not math.isfinite(losses[-1]):
            break
        loss.backward()
        optimizer.step()
    setup.model.eval()
    with torch.no_grad():
        scores = [setup.criterion(setup.model(inputs), targets).item() for inputs, targets in held_out]
    last = losses[-max(3, length // 10) :]
    return {
        "task": task.name,
        "seed": seed,
        "lr": lr,
        "length": length,
        "held_out": scores,
        "train_end": float(np.mean(last)) if len(losses) == length else math.inf,
        "validation": setup.validation_loss(setup.model),
    }


def runs() -> Iterator[dict[str, Any]]:
    """The recorded runs."""
    if FILE.exists():
        for line in FILE.read_text().splitlines():
            yield json.loads(line)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--split", default="fit")
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    known = {(run["task"], run["seed"], run["lr"], run["length"]) for run in runs()}
    with FILE.open("a") as out:
        for seed in arguments.seeds:
            for task in TASKS:
                if task.name not in load() or load()[task.name].split != arguments.split:
                    continue
                start = time.perf_counter()
                for length in LENGTHS:
                    for lr in rates(task):
                        if (task.name, seed, lr, length) not in known:
                            out.write(json.dumps(short_run(task, seed, lr, length)) + "\n")
                out.flush()
                print(f"{task.name} {seed}: {time.perf_counter() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main()
