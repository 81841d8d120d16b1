"""Where the microseconds of a small net's step go: the best of many, one part at a time.

Each part runs again and again, so its code is in the cache; within a loop, where the passes throw it out, it takes
about three times as long.

python bench/step.py
"""

from __future__ import annotations

import itertools
import timeit
from collections.abc import Callable
from functools import partial

import torch
from torch import nn, optim
from torch.utils.data import DataLoader, TensorDataset

from findlr import TorchTrainable
from findlr.search.memory import Memory
from findlr.search.recording import Recording
from findlr.search.stopping import StopRule
from findlr.torch.compiled import NoNewGraphs
from findlr.torch.data.nesting import moved
from findlr.torch.losses import checked
from findlr.torch.snapshot.notes import remember_rng, remember_torch_rng

_LR = 1e-8


def best(part: Callable[[], object], number: int = 300) -> float:
    """Microseconds."""
    part()
    return min(timeit.repeat(part, number=number, repeat=15)) / number * 1e6


def parts() -> dict[str, dict[str, float]]:
    """Microseconds of each part, of the bare loop's and of findlr's."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(784, 100), nn.ReLU(), nn.Linear(100, 10))
    optimizer, criterion = optim.SGD(net.parameters(), lr=_LR, momentum=0.9), nn.CrossEntropyLoss()
    loader = DataLoader(TensorDataset(torch.randn(6400, 784), torch.randint(10, (6400,))), 64, shuffle=True)
    training = TorchTrainable(net, optimizer, criterion, loader)
    stream = itertools.chain.from_iterable(itertools.repeat(loader))
    batch = next(stream)
    loss = criterion(net(batch[0]), batch[1])

    def forward() -> torch.Tensor:
        return criterion(net(batch[0]), batch[1])

    def both_passes() -> None:
        forward().backward()

    def update() -> None:
        optimizer.zero_grad()
        optimizer.step()

    held = NoNewGraphs()

    def stance() -> None:
        with held:
            pass

    def random_states(remember: Callable[[list[torch.device], Memory], None]) -> None:
        memory = Memory()
        remember([batch[0].device], memory)
        memory.put_back()

    both_passes()
    optimizer.step()
    bare = {
        "a batch from the DataLoader": best(lambda: next(stream)),
        "forward pass": best(forward),
        "backward pass": best(both_passes) - best(forward),
        "`zero_grad` and `optimizer.step`": best(lambda: (both_passes(), update())) - best(both_passes),
        "`loss.item()`": best(loss.item),
    }
    recording = Recording(training.read, 10**9, StopRule())
    with torch.enable_grad():
        ours = {
            "no new graphs, where code may be compiled": best(stance),
            "the batch to its device": best(lambda: moved(batch, batch[0].device)),
            "recording the point, the stop rule": best(lambda: recording.add(_LR, 1.0)),
            "the rate: what acts, writing it": best(
                lambda: (training.acting_lr(_LR), training.training.rates.write(_LR))
            ),
            "the loss's checks": best(lambda: checked("criterion", loss)),
        }
    training = TorchTrainable(net, optimizer, criterion, loader)
    assert not training._may_compile  # so the stance is not held
    training.prepare_baseline(training.snapshot())
    training.step(_LR)
    training.baseline()
    variate = {
        "the loss under the starting weights, whole": best(training.baseline),
        "of it: torch's random states kept and put back once": best(partial(random_states, remember_torch_rng)),
        "NumPy's and Python's, too, where a step draws from them": best(partial(random_states, remember_rng)),
    }
    return {"the bare loop": bare, "findlr": ours, "the control variate": variate}


def main() -> None:
    """Print the table."""
    print("| | part | microseconds a step |\n|---|---|--:|")
    for whose, measured in parts().items():
        for name, microseconds in measured.items():
            print(f"| {whose} | {name} | {microseconds:.1f} |")


if __name__ == "__main__":
    main()
