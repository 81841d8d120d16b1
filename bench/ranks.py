"""What a sweep on ranks costs, beside the bare loop of as many steps: by DistributedDataParallel, and by fully_shard.

Both take turns in one run, so that what else the machine does falls on both. The times are of the whole call, the
snapshot and the answer included, without a control variate, which would add a forward pass to each step.

torchrun --nproc-per-node 2 bench/ranks.py
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import nn, optim
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from findlr import find_lr

_STEPS, _ROUNDS = 100, 9


def net() -> nn.Sequential:
    """1.3 million parameters."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(256, 768), nn.ReLU(), nn.Linear(768, 768), nn.ReLU(), nn.Linear(768, 10))


def sharded(model: nn.Sequential) -> nn.Module:
    """Each layer a group of its own."""
    for layer in model:
        if isinstance(layer, nn.Linear):
            fully_shard(layer)
    return fully_shard(model)


def times(wrap: Callable[[nn.Sequential], nn.Module]) -> dict[str, list[float]]:
    """Ratios of a sweep's time to the bare loop's, by wall and by this process's own time, one for each round."""
    model, criterion = wrap(net()), nn.CrossEntropyLoss()
    optimizer = optim.AdamW(model.parameters(), lr=1e-8)
    data = TensorDataset(torch.randn(6400, 256), torch.randint(10, (6400,)))
    loader = DataLoader(data, 32, sampler=DistributedSampler(data))

    def bare() -> None:
        batches = iter(loader)
        for _ in range(_STEPS):
            inputs, targets = next(batches)
            optimizer.zero_grad()
            loss = criterion(model(inputs), targets)
            loss.backward()
            optimizer.step()
            loss.item()

    def sweep() -> None:
        given = model, optimizer, criterion, loader
        find_lr(*given, min_lr=1e-9, max_lr=1e-8, num_steps=_STEPS, control_variate=False, progress=False)

    found: dict[str, list[float]] = {"wall": [], "own": []}
    for number in range(_ROUNDS + 1):
        spent = []
        for part in (bare, sweep):
            dist.barrier()
            start = time.perf_counter(), time.process_time()
            part()
            dist.barrier()
            spent.append((time.perf_counter() - start[0], time.process_time() - start[1]))
        if number:  # the first round warms up
            found["wall"].append(spent[1][0] / spent[0][0])
            found["own"].append(spent[1][1] / spent[0][1])
    return found


def main() -> None:
    """Print the medians."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    for name, wrap in (("DistributedDataParallel", DistributedDataParallel), ("fully_shard", sharded)):
        found = times(wrap)
        if dist.get_rank() == 0:
            told = ", ".join(
                f"{kind} {statistics.median(ratios):.3f} ({min(ratios):.2f} to {max(ratios):.2f})"
                for kind, ratios in found.items()
            )
            sys.stdout.write(f"{name}, {dist.get_world_size()} ranks: {told}\n")
            sys.stdout.flush()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
