"""What a search costs on a GPU: a sweep beside a bare loop, and copies to the host beside the link's bandwidth.

    python -m bench.gpu [--rounds 20] [--steps 200] [--device cuda]

Both loops train on batches that are on the device already, and end with a wait for it. They run in rounds: each round
times every contestant once, in a new order. A figure is the median over the rounds of a contestant's time over that of
the bare loop in the same round; its interval holds 95 % of the medians of resampled rounds. The bare loop reads its
losses once, at its end. The snapshot is ``snapshot="cpu"``'s; the link's bandwidth is that of one copy into pinned
memory, the best of ten.

``--device cpu`` runs all but the link, to look whether this script works.
"""

from __future__ import annotations

import argparse
import itertools
import random
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn, optim

from bench.cost import AGAIN, BARE
from bench.ratios import ratio, ratio_text
from bench.snapshot import Large
from findlr import TorchTrainable, find_lr

LOW, HIGH = 1e-8, 1e-5  # nothing diverges


class Block(nn.Module):
    """A transformer's block between an embedding and its tokens."""

    def __init__(self, tokens: int = 1000, width: int = 1024) -> None:
        super().__init__()
        self.embedding = nn.Embedding(tokens, width)
        self.block = nn.TransformerEncoderLayer(width, 16, 4 * width, dropout=0.0, batch_first=True, norm_first=True)
        self.head = nn.Linear(width, tokens)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """The logits, shape (batch, tokens, classes) but for the last two turned, as a criterion wants them."""
        logits: torch.Tensor = self.head(self.block(self.embedding(tokens)))
        return logits.transpose(1, 2)


@dataclass(frozen=True)
class Case:
    """One training."""

    said: str
    model: Callable[[], nn.Module]
    batch: Callable[[], tuple[torch.Tensor, torch.Tensor]]
    autocast: torch.dtype | None = None


def narrow() -> nn.Module:
    """Twenty layers so small that launching them takes longer than running them."""
    return nn.Sequential(*(layer for _ in range(20) for layer in (nn.Linear(64, 64), nn.ReLU())))


CASES = (
    Case("20 layers of 64, AdamW", narrow, lambda: (torch.randn(32, 64), torch.randint(64, (32,)))),
    Case(
        "a transformer's block, 1024 wide, 8 x 512 tokens, AdamW, bf16",
        Block,
        lambda: (torch.randint(1000, (8, 512)), torch.randint(1000, (8, 512))),
        torch.bfloat16,
    ),
)
Loop = Callable[[nn.Module, optim.Optimizer, list[Any], Case, int], None]


def bare(net: nn.Module, optimizer: optim.Optimizer, batches: list[Any], case: Case, steps: int) -> None:
    """The loop that a range test can't do without."""
    losses, device = [], batches[0][0].device.type
    for lr, (inputs, targets) in zip(np.geomspace(LOW, HIGH, steps).tolist(), itertools.cycle(batches), strict=False):
        optimizer.param_groups[0]["lr"] = lr
        optimizer.zero_grad()
        with nullcontext() if case.autocast is None else torch.autocast(device, case.autocast):
            loss = nn.functional.cross_entropy(net(inputs), targets)
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    torch.stack(losses).tolist()


def ours(net: nn.Module, optimizer: optim.Optimizer, batches: list[Any], case: Case, steps: int) -> None:
    """``find_lr``."""
    finding = find_lr(
        *(net, optimizer, nn.functional.cross_entropy, batches),
        min_lr=LOW,
        max_lr=HIGH,
        num_steps=steps,
        autocast=case.autocast,
        control_variate=False,
        progress=False,
    )
    assert len(finding.curve) == steps, "another race"


CONTESTANTS: dict[str, Loop] = {BARE: bare, AGAIN: bare, "findlr, `control_variate=False`": ours}


def timed(device: torch.device, part: Callable[[], object]) -> float:
    """Seconds, with what is still under way on the device."""
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    wait()
    start = time.perf_counter()
    part()
    wait()
    return time.perf_counter() - start


def measure(case: Case, device: torch.device, rounds: int, steps: int) -> dict[str, np.ndarray[Any, Any]]:
    """Seconds of each contestant in each round."""
    torch.manual_seed(0)
    net = case.model().to(device)
    batches = [tuple(each.to(device) for each in case.batch()) for _ in range(8)]
    order, times = random.Random(0), {name: [0.0] * rounds for name in CONTESTANTS}
    for number in range(-1, rounds):  # the first one warms up
        for name in order.sample(list(CONTESTANTS), len(CONTESTANTS)):
            optimizer = optim.AdamW(net.parameters(), lr=LOW)
            times[name][number] = timed(device, partial(CONTESTANTS[name], net, optimizer, batches, case, steps))
    return {name: np.array(seconds) for name, seconds in times.items()}


def link(device: torch.device, nbytes: int = 1 << 28) -> float:
    """GB/s of one copy from the device into pinned memory."""
    there, here = torch.empty(nbytes, dtype=torch.uint8, device=device), torch.empty(nbytes, dtype=torch.uint8)
    here = here.pin_memory()
    return nbytes / min(timed(device, lambda: here.copy_(there, non_blocking=True)) for _ in range(10)) / 1e9


def through_host(device: torch.device) -> tuple[float, float]:
    """GB/s of a snapshot in the host's memory, and of putting it back: the best of five."""
    net = Large().to(device)
    training = TorchTrainable(
        *(net, optim.SGD(net.parameters(), lr=0.1), nn.functional.cross_entropy, [torch.zeros(1)]), snapshot="cpu"
    )
    nbytes = sum(parameter.nbytes for parameter in net.parameters())
    there = min(timed(device, lambda: training.snapshot().close()) for _ in range(5))
    snapshot = training.snapshot()
    back = min(timed(device, lambda: training.restore(snapshot)) for _ in range(5))
    snapshot.close()
    return nbytes / there / 1e9, nbytes / back / 1e9


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--device", type=torch.device, default=torch.device("cuda"))
    arguments = parser.parse_args()
    device: torch.device = arguments.device
    if device.index is not None:
        torch.cuda.set_device(device)
    print(torch.cuda.get_device_name(device) if device.type == "cuda" else device)
    for case in CASES:
        times = measure(case, device, arguments.rounds, arguments.steps)
        step = 1e3 * float(np.median(times[BARE])) / arguments.steps
        print(f"{case.said}: {step:.3f} ms a step")
        for name in list(CONTESTANTS)[1:]:
            print(f"  {name}: {ratio_text(ratio(times[name], times[BARE]), digits=3)}")
    print("a snapshot on the host: {:.1f} GB/s, and back {:.1f}".format(*through_host(device)))
    if device.type == "cuda":
        print(f"the link into pinned memory: {link(device):.1f} GB/s")


if __name__ == "__main__":
    main()
